"""A result read back from disk; nothing in a file is ever executed."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..basics import checks, storage
from ..evaluation import ACCURACIES, AGENT_COLUMNS, those_of
from ..experiment import Experiment
from ..objective import Params
from .result import Result
from .storing import HISTORY_COLUMNS, STATE, frame


def load_result(path: str | Path, kind: type[Experiment] = Experiment) -> Result:
    """Read a result that `Result.save` wrote; a file from a stranger cannot run code.

    Parameters
    ----------
    path : the file.
    kind : the class of its experiment.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : not a result, of another version, or damaged.
    """
    return load(path, kind).result


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A result on disk, with all that a run needs to continue from it.

    `fingerprint` is a digest of the agents' samples and of the initial w ("" of a mere result), `recipe` what the run
    owes to its engine, `state` what that keeps, and `limit` the loss beyond which it has diverged.
    """

    result: Result
    fingerprint: str = ""
    recipe: str = ""
    state: Params = field(default_factory=dict)
    limit: float | None = None


def load(path: str | Path, kind: type[Experiment] = Experiment) -> Checkpoint:
    """Read what `store` wrote.

    Raises
    ------
    FileNotFoundError, ValueError : as `load_result`.
    """
    record, arrays = storage.read(path)
    try:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        state = {name.removeprefix(STATE): tensor for name, tensor in tensors.items() if name.startswith(STATE)}
        params = {name: tensor for name, tensor in tensors.items() if not name.startswith(STATE)}
        _check_params(params)
        experiment = kind.from_dict(record["experiment"])
        ended = checks.choice("status", record["status"], STATUSES)
        round = checks.integer("round", record["round"], 0, experiment.rounds)
        result = Result(
            experiment=experiment,
            status=ended,
            message=_text(record, "message"),
            engine=_text(record, "engine"),
            round=round,
            params=params,
            history=_scores(record["history"], HISTORY_COLUMNS, experiment.rounds),
            loss=_text(record, "loss"),
            agents=_scores(record["agents"], AGENT_COLUMNS, experiment.rounds),
        )
        limit = None if record["limit"] is None else checks.number("limit", record["limit"], 0)
        return Checkpoint(result, _text(record, "fingerprint"), _text(record, "recipe"), state, limit)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path} is not a gmfl_lite result: {str(error)[:400]}") from error


STATUSES = ("completed", "stopped", "diverged")


def _text(record: dict[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise checks.refusal(name, record[name], "text")
    return record[name]


def _check_params(params: Params) -> None:
    if not params:
        raise ValueError("it holds no parameters")
    for name, tensor in params.items():
        if not tensor.is_floating_point():
            raise checks.refusal(f"parameter {name}", tensor.dtype, "of floating-point numbers")


def _scores(columns: Any, kinds: dict[str, str], rounds: int) -> pd.DataFrame:
    """Return a table of scores, each of them possible."""
    if not isinstance(columns, dict) or not all(isinstance(column, list) for column in columns.values()):
        raise checks.refusal("scores", columns, "lists by name")
    table = frame(columns, those_of(kinds, columns))
    for name, low, high in (
        ("round", 0, rounds), ("agent", 0, math.inf), ("samples", 0, math.inf), ("fine_tune_steps", 0, math.inf),
        ("loss", -math.inf, math.inf), *((name, 0, 1) for name in ACCURACIES),
        ("metric", -math.inf, math.inf),
    ):  # fmt: skip
        # Weights of samples add up to 1 to rounding, and with them accuracies.
        if name in table and not (np.isfinite(table[name]) & table[name].between(low, high + 1e-3)).all():
            raise ValueError(f"{name} must be finite, from {low} to {high}")
    if not table["group"].isin(["trained", "new"]).all():
        raise ValueError("group must be 'trained' or 'new'")
    return table
