"""The one description of a what-if: plain values, checked when constructed, and what they stand for."""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from .basics import checks, randomness
from .data import DATASETS, Dataset, DatasetSource, load_dataset
from .federation import Federation
from .meta_gradients import METHODS, factors_kept
from .models import MODELS
from .partition import IID, Dirichlet, PerFedAvgSplit, Scheme, Shards, partition
from .server import SERVER_STEPS


class ExperimentError(ValueError):
    """What is wrong with an experiment, every problem at once."""


def _setting(default: Any, check: Callable[[str, Any], Any], help: str) -> Any:
    return field(default=default, metadata={"check": check, "help": help})


def _integer(low: int, high: int | None = None) -> Callable[[str, Any], int]:
    return lambda name, value: checks.integer(name, value, low, high)


def _number(low: float, high: float = math.inf, above: bool = False) -> Callable[[str, Any], float]:
    return lambda name, value: checks.number(name, value, low, high, above=above)


def _one_of(allowed: Collection[str]) -> Callable[[str, Any], str]:
    """Look when a value is checked, not now: `allowed` may grow."""
    return lambda name, value: checks.choice(name, value, allowed)


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _steps(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise checks.refusal(name, value, "a non-empty tuple of increasing integers of at least 0")
    steps = tuple(checks.integer(f"{name}[{position}]", step, 0, 10**4) for position, step in enumerate(value))
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise checks.refusal(name, value, "increasing")
    return steps


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One description of a what-if: plain values only, checked when constructed, hashable.

    Raises
    ------
    ExperimentError (a ValueError) : lists every unknown field, wrong value and contradiction.

    Examples
    --------
    >>> Experiment(nu=5).replace(dirichlet_alpha=0.1).nu
    5
    >>> Experiment(nuu=3, rounds=0)
    Traceback (most recent call last):
    gmfl_lite.experiment.ExperimentError: 2 problems with this experiment:
    - nuu is not a setting (did you mean 'nu'?)
    - rounds = 0: must be an integer of at least 1 and at most 1000000
    """

    dataset: str = _setting("digits", _one_of(DATASETS), "The images that the agents hold.")
    partition: str = _setting(
        "dirichlet",
        _one_of(("iid", "dirichlet", "shards", "per_fedavg")),
        "How the images are dealt out to the agents.",
    )
    dirichlet_alpha: float = _setting(
        0.3, _number(0, above=True), "Concentration of the agents' mixes of classes; small = heterogeneous."
    )
    size_spread: float = _setting(
        0.0, _number(0, 10), "How unequal the agents' numbers of samples are, with 'iid' and 'dirichlet'; 0 = equal."
    )
    classes_per_agent: int = _setting(2, _integer(1), "How many classes an agent holds with partition='shards'.")
    per_fedavg_a: int | None = _setting(
        None, _or_none(_integer(2)), "Images of a class at half of the agents with partition='per_fedavg'; even."
    )
    permuted_classes: int = _setting(0, _integer(0), "How many classes each agent renames by its own permutation.")
    max_rotation: float = _setting(
        0.0, _number(0, 180), "Largest angle, in degrees, by which an agent's images are turned."
    )
    n_agents: int = _setting(50, _integer(1, 10**6), "Agents that train.")
    n_new_agents: int = _setting(10, _integer(0, 10**6), "Agents that are never trained on, only scored.")
    test_fraction: float = _setting(
        0.25, _number(0, 1, above=True), "Part of each agent's samples that is scored and never fine-tuned on."
    )
    model: str = _setting("mlp", _one_of(MODELS), "What is trained.")
    nu: int = _setting(3, _integer(0, 1000), "Fine-tuning steps that training looks ahead; 0 = FedAvg, 1 = Per-FedAvg.")
    fine_tune_lr: float = _setting(0.05, _number(0, above=True), "α, the step size of a fine-tuning step.")
    meta_lr: float = _setting(0.05, _number(0, above=True), "β, the step size of a local meta step.")
    gradient: str = _setting("exact", _one_of(METHODS), "How the meta-gradient is estimated.")
    backprop_steps: int | None = _setting(
        None, _or_none(_integer(0)), "How many of the last Hessian factors 'truncated' and 'hessian_free' keep."
    )
    rounds: int = _setting(100, _integer(1, 10**6), "K, communication rounds.")
    agents_per_round: int = _setting(10, _integer(1), "Agents picked in a round.")
    local_steps: int = _setting(5, _integer(1, 10**4), "τ, local meta steps of a picked agent in a round.")
    batch_size: int | None = _setting(20, _or_none(_integer(1)), "Samples of a batch; None is the full batch.")
    eval_every: int = _setting(10, _integer(1), "Rounds between two evaluations.")
    eval_steps: tuple[int, ...] = _setting(
        (0, 1, 3, 5, 10), _steps, "Numbers of fine-tuning steps after which agents are scored."
    )
    weighting: str = _setting("uniform", _one_of(("uniform", "samples")), "How the server averages the agents.")
    server: str = _setting("average", _one_of(SERVER_STEPS), "How the server steps, given the agents' average.")
    server_lr: float = _setting(
        1.0, _number(0, above=True), "The server's step size: the part of the way that it goes to the agents' average."
    )
    execution: str = _setting(
        "auto", _one_of(("auto", "vectorized", "loop")), "All picked agents at once, or one after the other."
    )
    device: str = _setting("auto", _one_of(("auto", "cpu", "cuda", "mps")), "Where to compute; 'auto' prefers a GPU.")
    seed: int = _setting(0, _integer(0, 2**63 - 1), "Of the partition, the initial weights, the picks and the batches.")

    def __new__(cls, **settings: Any) -> "Experiment":
        """Check everything before the dataclass stops at the first unknown name."""
        _, problems = _checked(cls, settings)
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise ExperimentError(f"{count} with this experiment:\n- " + "\n- ".join(problems))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        settings, _ = _checked(type(self), vars(self))
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> "Experiment":
        """Return this experiment with some settings changed, checked anew."""
        return Experiment(**{**vars(self), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values that JSON, YAML and papermill take."""
        return {**vars(self), "eval_steps": list(self.eval_steps)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Experiment":
        """Build an experiment from what `to_dict` gave, or from part of it.

        >>> Experiment.from_dict(Experiment(nu=1).to_dict()) == Experiment(nu=1)
        True
        """
        if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
            raise ExperimentError(f"an experiment is described by a dict of settings, got {settings!r}")
        return cls(**settings)


# What dataclasses and editors show: the settings with their defaults, and what each is for.
Experiment.__signature__ = inspect.Signature(list(inspect.signature(Experiment.__init__).parameters.values())[1:])
Experiment.__doc__ += "\n\n    Settings\n    --------\n" + "\n".join(
    f"    {spec.name} = {spec.default!r}: {spec.metadata['help']}" for spec in dataclasses.fields(Experiment)
)


def _checked(cls: type, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    problems = [f"{name} is not a setting{checks.nearest(name, fields)}" for name in given if name not in fields]
    settings = {}
    for name, spec in fields.items():
        try:
            settings[name] = spec.metadata["check"](name, given.get(name, spec.default))
        except ValueError as error:
            problems.append(str(error))
    if len(settings) == len(fields):
        problems += _contradictions(settings)
    return settings, problems


def _contradictions(s: Mapping[str, Any]) -> list[str]:
    problems = []
    if s["agents_per_round"] > s["n_agents"]:
        problems.append(f"agents_per_round = {s['agents_per_round']}: must be at most n_agents = {s['n_agents']}")
    try:
        factors_kept(s["gradient"], s["backprop_steps"], s["nu"])
    except ValueError as error:
        problems.append(str(error))
    if s["size_spread"] and s["partition"] not in ("iid", "dirichlet"):
        problems.append(f"size_spread = {s['size_spread']}: must be 0 with partition={s['partition']!r}")
    n_classes = len(DATASETS[s["dataset"]].classes)
    for name in ("permuted_classes", "classes_per_agent"):
        if s[name] > n_classes:
            problems.append(f"{name} = {s[name]}: must be at most {n_classes}, the classes of {s['dataset']}")
    if s["permuted_classes"] == 1:
        problems.append("permuted_classes = 1: must be 0 or at least 2: one class alone keeps its name")
    a, per_fedavg = s["per_fedavg_a"], s["partition"] == "per_fedavg"
    if per_fedavg and a is None:
        problems.append("per_fedavg_a = None: must be given with partition='per_fedavg', an even number of images")
    if a is not None and not per_fedavg:
        problems.append(f"per_fedavg_a = {a}: must be left out with partition={s['partition']!r}")
    if per_fedavg and a is not None and a % 2:
        problems.append(f"per_fedavg_a = {a}: must be even")
    if per_fedavg and (s["n_agents"] + s["n_new_agents"]) % 2:
        problems.append(f"n_agents + n_new_agents = {s['n_agents'] + s['n_new_agents']}: must be even with per_fedavg")
    return problems


def build_scheme(experiment: Experiment) -> Scheme:
    """Return the partition scheme that an experiment asks for."""
    return {
        "iid": lambda: IID(experiment.size_spread),
        "dirichlet": lambda: Dirichlet(experiment.dirichlet_alpha, experiment.size_spread),
        "shards": lambda: Shards(experiment.classes_per_agent),
        "per_fedavg": lambda: PerFedAvgSplit(experiment.per_fedavg_a),
    }[experiment.partition]()


@lru_cache(maxsize=1)  # sweeps ask for the same one again and again
def _loaded(source: DatasetSource) -> Dataset:
    return load_dataset(source.name)


def build_federation(experiment: Experiment) -> Federation:
    """Load an experiment's dataset and deal it out to its agents, the new ones last."""
    dataset = _loaded(DATASETS[experiment.dataset])
    n_agents = experiment.n_agents + experiment.n_new_agents
    # The Per-FedAvg split fixes how many samples an agent holds; two are enough for one to train on and one to score.
    least = {"min_samples": 2} if experiment.partition == "per_fedavg" else {}
    try:
        parts = partition(dataset.y, build_scheme(experiment), n_agents, seed=experiment.seed, **least)
    except ValueError as error:
        total = f"n_agents + n_new_agents = {n_agents}"
        raise ExperimentError(f"{experiment.dataset} cannot be dealt out to {total}: {error}") from error
    return Federation.from_partition(
        dataset,
        parts,
        n_new_agents=experiment.n_new_agents,
        test_fraction=experiment.test_fraction,
        permuted_classes=experiment.permuted_classes,
        max_rotation=experiment.max_rotation,
        seed=experiment.seed,
        device=choose_device(experiment.device),
    )


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA where there is one, else MPS, else the CPU."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, here in present.items() if here and randomness.works_on(device)))
    if not present[name]:
        raise checks.refusal("device", name, "one that this machine has: 'auto' or 'cpu'")
    return torch.device(name)
