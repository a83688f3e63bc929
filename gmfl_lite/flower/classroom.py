"""What a federation's run config and a student's --node-config may say, and what of it is refused."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from ..basics import checks
from ..basics.setting_records import settings
from ..data import DATASETS
from ..experiment import Experiment

CLASSROOM = {
    "round_seconds": 60.0,  # how long a round waits for answers
    "agents_to_wait_for": 0,  # before the first round; 0: for all of the experiment's
    "save": "federation.result",  # on the teacher's computer
    "clip_norm": 0.0,  # C, the largest length of an update that leaves an agent; 0: any
    "noise": 0.0,  # z, added to a clipped update, in units of C
}
"""What a federation needs to know besides its experiment."""

CLIP_NORMS, MOST_NOISE = (1e-6, 1e6), 1e3
"""Beyond these an update or its noise is nothing, or more than float32 holds."""

OF_A_NODE = ("agent", "images", "invert", "clip_norm", "noise", "partition-id", "num-partitions")
"""What --node-config may hold; Flower's simulation gives the last two."""


def check_classroom(config: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Return the classroom's settings in a run config, those of CLASSROOM where it has none.

    Raises
    ------
    ValueError : an unknown name, a wrong value, noise without a clip_norm in whose units it is, or a dataset without
        classes.

    >>> check_classroom({"noise": 0.03}, Experiment())
    Traceback (most recent call last):
    ValueError: noise = 0.03: must be 0 where clip_norm is 0: noise is in units of clip_norm, which bounds an update
    """
    if experiment.dataset not in DATASETS or DATASETS[experiment.dataset].classes is None:
        raise checks.refusal(
            "dataset", experiment.dataset, "one of the library's, with classes, by which agents are scored"
        )
    _known("setting of the run config", config, (*CLASSROOM, *settings(type(experiment))))
    found = {name: config.get(name, value) for name, value in CLASSROOM.items()}
    everybody = experiment.n_agents + experiment.n_new_agents
    checks.number("round_seconds", found["round_seconds"], 0, above=True)
    checks.integer("agents_to_wait_for", found["agents_to_wait_for"], 0, everybody)
    if not isinstance(found["save"], str) or not found["save"]:
        raise checks.refusal("save", found["save"], "a file's path")
    _check_protection(found["clip_norm"], found["noise"])
    return found


def _known(what: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"{unknown[0]:.60} is no {what}{checks.nearest(unknown[0], known)}")


def _check_protection(clip_norm: Any, noise: Any) -> None:
    if checks.number("clip_norm", clip_norm, 0, CLIP_NORMS[1]) and clip_norm < CLIP_NORMS[0]:
        raise checks.refusal("clip_norm", clip_norm, f"0, which clips nothing, or at least {CLIP_NORMS[0]:g}")
    if checks.number("noise", noise, 0, MOST_NOISE) and not clip_norm:
        raise checks.refusal(
            "noise", noise, "0 where clip_norm is 0: noise is in units of clip_norm, which bounds an update"
        )


def check_node(node_config: Mapping[str, Any], classroom: Mapping[str, Any] = CLASSROOM) -> tuple[float, float]:
    """Return an agent's clip_norm and noise: its own where its --node-config is stricter than the classroom's.

    Raises
    ------
    ValueError : an unknown name, or a wrong value.

    >>> check_node({"agent": 0, "clip_nrom": 0.5})
    Traceback (most recent call last):
    ValueError: clip_nrom is no entry of --node-config (did you mean 'clip_norm'?)
    """
    _known("entry of --node-config", node_config, OF_A_NODE)
    if not isinstance(node_config.get("images", "x"), str):
        raise checks.refusal("images", node_config["images"], "a folder's path")
    if not isinstance(node_config.get("invert", True), bool):
        raise checks.refusal("invert", node_config["invert"], "true or false")
    own, theirs = ({"clip_norm": 0.0, "noise": 0.0, **config} for config in (node_config, classroom))
    _check_protection(own["clip_norm"], 0.0)
    _check_protection(own["clip_norm"] or theirs["clip_norm"], own["noise"])
    clip_norm = min(filter(None, (own["clip_norm"], theirs["clip_norm"])), default=0.0)
    return float(clip_norm), float(max(own["noise"], theirs["noise"]))


def to_config(experiment: Experiment, **classroom: Any) -> dict[str, Any]:
    """Return an experiment as Flower's run config, which knows no lists and no None: those are written as JSON.

    >>> to_config(Experiment(batch_size=None))["batch_size"], to_config(Experiment())["eval_steps"]
    ('null', '[0, 1, 3, 5, 10]')
    """
    words = {name for name, record in settings(type(experiment)).items() if isinstance(record.default, str)}
    plain = {
        name: value if isinstance(value, (int, float)) or name in words else json.dumps(value)
        for name, value in experiment.to_dict().items()
    }
    return {**plain, **check_classroom(classroom, experiment)}


def from_config(config: Mapping[str, Any], kind: type[Experiment] = Experiment) -> Experiment:
    """Return the experiment in a run config; `kind` is its class.

    >>> from_config(to_config(Experiment(nu=5, batch_size=None))) == Experiment(nu=5, batch_size=None)
    True
    """
    found = {}
    for name, record in settings(kind).items():
        if name in config:
            value = config[name]
            as_json = isinstance(value, str) and not isinstance(record.default, str)
            found[name] = _from_json(name, value) if as_json else value
    return kind.from_dict(found)


def _from_json(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise checks.refusal(name, value, "JSON in quotes, such as 'null', '20' or '[0, 1]'") from error
