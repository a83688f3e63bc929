"""Finished points on disk: what each is called, which are there, and which another version left."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache as kept_in_memory
from pathlib import Path
from typing import Any

from ..basics.identity import identity
from ..basics.setting_records import settings_that_change
from ..basics.storage import expanded, tidy
from ..data import load_dataset
from ..engine import computing_with
from ..evaluation import evaluate, summarise
from ..experiment import Experiment, build_federation
from ..meta_gradients import BUILT_IN, METHODS
from ..models import as_functions, build_model
from ..result import Result, load_result
from .given import Given, library


def prune(cache: str | Path) -> int:
    """Delete the points in a cache that other versions of the library or of torch have computed; return how many.

    What else lies in the folder stays; what another process has just deleted, or is another user's, is passed over.

    Examples
    --------
    >>> import tempfile
    >>> import gmfl_lite as gl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = gl.sweep({"nu": [0, 1]}, gl.Experiment(model="softmax", rounds=1), cache=folder, progress=False)
    ...     prune(folder)
    0
    """
    pruned = 0
    for path in of_other_versions(expanded(cache)):
        try:
            path.unlink()
            pruned += 1
        except OSError:
            continue
    return pruned


ENTRY = re.compile(r"([0-9a-f]{16}-)?[0-9a-f]{64}\.result")
"""A point's name: which version computed it, and which point it is; early versions did not say the first."""


def of_other_versions(folder: Path | None) -> list[Path]:
    """Return the points in a folder that this version does not use."""
    try:
        found = [] if folder is None else sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in found if ENTRY.fullmatch(path.name) and not path.name.startswith(f"{library()}-")]


def folder_of(cache: str | Path | None) -> tuple[Path | None, str]:
    """Return the folder, made if need be, and why there is none where that cannot be done."""
    if cache is None:
        return None, ""
    folder = expanded(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
    except OSError as error:
        return None, str(error)
    return folder, ""


_HALF = 32
"""Characters of a point's name that say what its training depends on, and as many that say how it is scored."""


def entry(experiment: Experiment, given: Given) -> str:
    """Return the name of a point's file: all that its numbers depend on."""
    data = "" if given.federation is not None else _samples(experiment.dataset, os.environ.get("GMFL_LITE_DATA", ""))
    values, scoring = experiment.to_dict(), _scoring(experiment)
    values = {name: value for name, value in values.items() if name not in scoring}
    halves = ([library(), given.key, data, values], scoring)
    names = (hashlib.sha256(json.dumps(half, sort_keys=True).encode()).hexdigest()[:_HALF] for half in halves)
    return f"{library()}-{''.join(names)}.result"


def _scoring(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that no training depends on: when and how agents are scored, of ν = 0 with which α, too."""
    names = list(settings_that_change("looks", of=type(experiment)))
    if experiment.nu == 0 and METHODS[experiment.gradient].estimate in BUILT_IN:
        names.append("fine_tune_lr")
    return {name: getattr(experiment, name) for name in names}


@kept_in_memory
def _samples(dataset: str, folder: str) -> str:
    """Return what tells the samples in files from others of the same name."""
    found = load_dataset(dataset)
    return identity((found.x, found.y, found.classes))


def _read(path: Path, experiment: Experiment) -> Result | None:
    try:
        return load_result(path, type(experiment))
    except (OSError, ValueError):  # not there, not to be read, or damaged: compute it (again)
        return None


def may_be_there(path: Path) -> bool:
    """Say whether there is a file of a point, or of one that may be trained alike."""
    return path.exists() or any(True for _ in _trained_alike(path))


def _trained_alike(path: Path) -> Iterator[Path]:
    """Yield the files of points that training knows no difference between."""
    return path.parent.glob(f"{path.name[: -_HALF - len(path.suffix)]}*{path.suffix}")


def kept(path: Path | None, experiment: Experiment) -> Result | None:
    """Return the result of this very point, if it is there."""
    result = None if path is None else _read(path, experiment)
    return result if result is not None and result.experiment == experiment else None


def trained_alike(path: Path, experiment: Experiment, given: Given) -> Result | None:
    """Return what a run would, from the w of one in the cache that differs in how it is scored alone.

    None where there is none, or where a run would do more than score its beginning and its end with one thread.
    """
    if experiment.eval_agents is not None or experiment.eval_every < experiment.rounds:
        return None
    if given.loss is not None or given.metric is not None:  # which a result from a file does not have
        return None
    scoring, ours = _scoring(experiment), given.as_run(experiment)

    def fits(found: Result | None) -> bool:
        if found is None or found.status != "completed" or " 1 thread," not in found.engine:
            return False
        return found.experiment.replace(**scoring) == ours

    trained = next(filter(fits, (_read(other, experiment) for other in _trained_alike(path))), None)
    if trained is None:
        return None
    federation = build_federation(experiment) if given.federation is None else given.federation
    federation = federation.in_precision(experiment.precision)
    model = build_model(experiment.model, federation, seed=experiment.seed) if given.model is None else given.model
    trained = replace(trained, experiment=ours)
    objective, w = trained.functions(federation, model)
    begun = as_functions(model, federation.x.device, federation.dtype)[1]
    try:
        with computing_with(1):
            for params in (begun, w):  # a run that cannot score its beginning says so, and ends
                agents = evaluate(
                    federation,
                    objective,
                    params,
                    steps=experiment.eval_steps,
                    fine_tune_lr=experiment.fine_tune_lr,
                    execution="loop" if trained.engine.startswith("loop") else "vectorized",
                    personal=experiment.personal,
                    seed=experiment.seed,
                )
    except FloatingPointError:
        return None
    return replace(trained, agents=agents, history=summarise(agents).assign(round=experiment.rounds))
