"""The one description of a what-if: plain values, checked when constructed, and what they stand for.

Every fact about a setting stands here once, in its record; checks, texts, knobs and tables derive from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import torch

from .aggregation import AGGREGATIONS
from .basics import checks
from .basics.devices import PRECISIONS, choose_device
from .basics.setting_records import (
    OWN,
    OfTheClass,
    Setting,
    documented,
    even,
    increasing_steps,
    integer,
    number,
    one_of,
    or_none,
    or_own,
    setting,
    settings,
    settings_that_change,
    signature,
)
from .data import DATASETS, Dataset, DatasetSource, load_dataset, make_agents
from .federation import QUERIES, Federation
from .meta_gradients import METHODS, check_moves_parts, factors_kept
from .models import MODELS, PERSONAL, moving, parameters_of
from .partition import PARTITIONS, Scheme, partition
from .server import SERVER_STEPS


class ExperimentError(ValueError):
    """Lists every problem of an experiment at once."""


def _renamed(name: str, value: Any) -> int:
    if checks.integer(name, value, 0) == 1:
        raise checks.refusal(name, value, "0 or at least 2: one class alone keeps its name")
    return int(value)


def _dealt_with(name: str) -> tuple[str, Callable[[], list[str]]]:
    return "partition", lambda: [choice for choice, dealing in PARTITIONS.items() if name in dealing.settings.values()]


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

    dataset: str = setting(
        "digits",
        or_own(one_of(DATASETS)),
        "What the agents hold; sinusoids: each agent predicts its own sine; own: the federation that you pass.",
        "agents",
    )
    partition: str = setting(
        "dirichlet",
        one_of(PARTITIONS),
        "How the samples are dealt out to the agents, if the dataset has no agents of its own.",
        "holdings",
    )
    dirichlet_alpha: float = setting(
        0.3,
        number(0, above=True),
        "Concentration of the agents' mixes of classes; small = heterogeneous.",
        "holdings",
        needs=_dealt_with("dirichlet_alpha"),
    )
    size_spread: float = setting(
        0.0,
        number(0, 10),
        "How unequal the agents' numbers of samples are; 0 = equal.",
        "holdings",
        needs=_dealt_with("size_spread"),
        refused_otherwise=True,
    )
    classes_per_agent: int = setting(
        2, integer(1), "How many classes an agent holds.", "holdings", needs=_dealt_with("classes_per_agent")
    )
    per_fedavg_a: int | None = setting(
        None,
        or_none(even),
        "Images per class at half of the agents; even.",
        "holdings",
        needs=_dealt_with("per_fedavg_a"),
        refused_otherwise=True,
    )
    permuted_classes: int = setting(
        0, _renamed, "How many classes each agent renames by its own permutation.", "holdings"
    )
    max_rotation: float = setting(
        0.0, number(0, 180), "Largest angle, in degrees, by which an agent's images are turned.", "holdings"
    )
    shots: int | None = setting(
        None,
        or_none(integer(1)),
        "Most samples per class that an agent trains and fine-tunes on; None is all of them.",
        "holdings",
    )
    query: str = setting(
        "independent",
        one_of(QUERIES),
        "How a query is drawn: from all training samples, or apart from the support (with twice the shots).",
        "holdings",
    )
    label_noise: float = setting(
        0.0, checks.share, "Probability of a wrong training label; scored labels are clean.", "holdings"
    )
    n_agents: int = setting(50, integer(1, 10**6), "Agents that train.", "agents")
    n_new_agents: int = setting(10, integer(0, 10**6), "Agents that are never trained on, only scored.", "agents")
    test_fraction: float = setting(
        0.25, number(0, 1, above=True), "Part of each agent's samples that is scored and never fine-tuned on.", "agents"
    )
    model: str = setting("mlp", or_own(one_of(MODELS)), "What is trained; own: the module that you pass.", "training")
    nu: int = setting(
        3,
        integer(0, 1000),
        "Fine-tuning steps that training looks ahead; 0 = FedAvg, 1 = Per-FedAvg.",
        "training",
        symbol="ν",
    )
    fine_tune_lr: float = setting(
        0.05, number(0, above=True), "The step size of a fine-tuning step.", "training", symbol="α"
    )
    meta_lr: float = setting(0.05, number(0, above=True), "The step size of a local meta step.", "training", symbol="β")
    gradient: str = setting("exact", one_of(METHODS), "How the meta-gradient is estimated.", "training")
    backprop_steps: int | None = setting(
        None,
        or_none(integer(0)),
        "How many of the last Hessian factors are kept; by default 'exact' and 'hessian_free' keep all.",
        "training",
        needs=("gradient", lambda: [name for name, method in METHODS.items() if method.backprop_steps == "needed"]),
    )
    rounds: int = setting(100, integer(1, 10**6), "K, communication rounds.", "training")
    agents_per_round: int = setting(10, integer(1), "Agents picked in a round.", "training")
    local_steps: int = setting(
        5, integer(1, 10**4), "Local meta steps of a picked agent in a round.", "training", symbol="τ"
    )
    batch_size: int | None = setting(20, or_none(integer(1)), "Samples of a batch; None is the full batch.", "training")
    eval_every: int = setting(10, integer(1), "Rounds between two evaluations.", "looks")
    eval_steps: tuple[int, ...] = setting(
        (0, 1, 3, 5, 10), increasing_steps, "Numbers of fine-tuning steps after which agents are scored.", "looks"
    )
    eval_agents: int | None = setting(None, or_none(integer(1)), "Most agents of a group to score; None: all.", "looks")
    weighting: str = setting("uniform", one_of(("uniform", "samples")), "How agents count in the average.", "training")
    server: str = setting("average", one_of(SERVER_STEPS), "How the server steps, given the average.", "training")
    server_lr: float = setting(
        1.0,
        number(0, above=True),
        "The server's step size: the fraction of the way that it goes to the agents' average.",
        "training",
    )
    proximal: float = setting(
        0.0, number(0), "μ of FedProx: how strongly local steps are drawn back to the server's w.", "training"
    )
    personal: str = setting(
        "all",
        one_of(PERSONAL),
        "What fine-tuning moves: all of w, the model's last layer (head), or the rest (body).",
        "training",
    )
    execution: str = setting(
        "auto", one_of(("auto", "vectorized", "loop")), "All picked agents at once, or one after the other.", "machine"
    )
    device: str = setting(
        "auto", one_of(("auto", "cpu", "cuda", "mps")), "Where to compute; 'auto' prefers a GPU.", "machine"
    )
    precision: str = setting(
        "float32", one_of(PRECISIONS), "'float64' gives the same printed digits on every processor.", "machine"
    )
    seed: int = setting(
        0,
        integer(0, 2**63 - 1),
        "Seeds the partition, the agents picked, their batches and, unless set separately, the initial weights.",
        "draws",
    )
    aggregation: str = setting("average", one_of(AGGREGATIONS), "How the server combines the agents' w.", "training")

    __signature__ = OfTheClass(signature)

    def __init_subclass__(cls) -> None:
        cls.__doc__ = documented(cls.__doc__)

    def __new__(cls, **settings: Any) -> Self:
        """Check everything before the dataclass stops at the first unknown name."""
        _, problems = checked(cls, settings)
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise ExperimentError(f"{count} with this experiment:\n- " + "\n- ".join(checks.first(problems)))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        settings, _ = checked(type(self), vars(self))
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> Self:
        """Return this experiment with some settings changed, and check it again."""
        return type(self)(**{**vars(self), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values that JSON, YAML and papermill take."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Build an experiment from what `to_dict` gave, or from part of it.

        >>> Experiment.from_dict(Experiment(nu=1).to_dict()) == Experiment(nu=1)
        True
        """
        if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
            raise ExperimentError(f"an experiment is described by a dict of settings, got {checks.shown(settings)}")
        return cls(**settings)


Experiment.__doc__ = documented(Experiment.__doc__)


def checked(cls: type, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings as they are kept, and all that is wrong with those given."""
    records, values = settings(cls), {}
    problems = [f"{name:.60} is not a setting{checks.nearest(name, records)}" for name in given if name not in records]
    for name, record in records.items():
        try:
            values[name] = record.check(name, given.get(name, record.default))
        except ValueError as error:
            problems.append(str(error))
    if len(values) == len(records):
        problems += _contradictions(records, values)
    return values, problems


def _contradictions(records: Mapping[str, Setting], s: Mapping[str, Any]) -> list[str]:
    problems = [problem for record in records.values() for problem in record.problems(s)]
    if s["agents_per_round"] > s["n_agents"]:
        problems.append(f"agents_per_round = {s['agents_per_round']}: must be at most n_agents = {s['n_agents']}")
    try:
        factors_kept(s["gradient"], s["backprop_steps"], s["nu"])
    except ValueError as error:
        problems.append(str(error))
    if s["weighting"] == "samples" and AGGREGATIONS[s["aggregation"]].weighted == "none":
        problems.append(f"weighting = 'samples': must be 'uniform' with aggregation={s['aggregation']!r}")
    if s["personal"] != "all":
        try:
            check_moves_parts("personal", s["personal"], "'all'", s["gradient"])
            if s["model"] != OWN:
                moving(parameters_of(s["model"]), s["personal"])
        except ValueError as error:
            problems.append(str(error))
    if dataset := DATASETS.get(s["dataset"]):
        problems += dataset.misfits(s)
        try:
            if dataset.shape is not None and s["model"] != OWN:
                parameters_of(s["model"], dataset.shape)
        except ValueError as error:
            problems.append(f"{error} with dataset={dataset.name!r}")
    if (s["device"], s["precision"]) == ("mps", "float64"):
        problems.append("precision = 'float64': must be 'float32' with device='mps', which computes with no other")
    everybody = s["n_agents"] + s["n_new_agents"]
    if s["partition"] == "per_fedavg" and everybody % 2:
        problems.append(f"n_agents + n_new_agents = {everybody}: must be even with per_fedavg")
    return problems


def build_scheme(experiment: Experiment) -> Scheme:
    """Return the partition scheme that an experiment asks for."""
    dealing = PARTITIONS[experiment.partition]
    return dealing.scheme(**{parameter: getattr(experiment, name) for parameter, name in dealing.settings.items()})


def holdings(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that say who holds what."""
    names = settings_that_change("holdings", "agents", "draws", of=type(experiment))
    return {name: getattr(experiment, name) for name in names if name not in ("eval_every", "eval_steps")}


def as_run(experiment: Experiment, federation: Federation, model: str) -> Experiment:
    """Return what a run with this federation and this kind of model is: agents handed over are said to be so."""
    changes: dict[str, Any] = {"model": model}
    if federation.made_for != holdings(experiment):
        records = settings(type(experiment))
        dealt = settings_that_change("holdings", of=type(experiment))
        changes |= {name: records[name].default for name in dealt if name != "query"} | {
            "dataset": OWN, "n_agents": federation.n_agents, "n_new_agents": federation.n_new_agents
        }  # fmt: skip
    return experiment.replace(**changes)


@lru_cache(maxsize=1)  # sweeps ask for the same one again and again
def _loaded(source: DatasetSource) -> Dataset:
    return load_dataset(source.name)


def build_federation(experiment: Experiment) -> Federation:
    """Load an experiment's dataset and deal it out to its agents, the new ones last; or make each agent's own."""
    if experiment.dataset == OWN:
        raise ExperimentError("dataset = 'own': these agents were the caller's; pass them again (federation=…)")
    source = DATASETS[experiment.dataset]
    n_agents = experiment.n_agents + experiment.n_new_agents
    if source.of_agent is not None:
        dataset, parts = make_agents(source, n_agents, seed=experiment.seed)
    else:
        dataset = _loaded(source)
        least = PARTITIONS[experiment.partition].min_samples
        labels = torch.zeros(len(dataset), dtype=torch.int64) if dataset.classes is None else dataset.y
        try:
            parts = partition(labels, build_scheme(experiment), n_agents, seed=experiment.seed, min_samples=least)
        except ValueError as error:
            total = f"n_agents + n_new_agents = {n_agents}"
            raise ExperimentError(f"{experiment.dataset} cannot be dealt out to {total}: {error}") from error
    federation = Federation.from_partition(
        dataset,
        parts,
        n_new_agents=experiment.n_new_agents,
        test_fraction=experiment.test_fraction,
        permuted_classes=experiment.permuted_classes,
        max_rotation=experiment.max_rotation,
        shots=experiment.shots,
        query=experiment.query,
        label_noise=experiment.label_noise,
        seed=experiment.seed,
        device=choose_device(experiment.device, experiment.precision),
    )
    federation.made_for = holdings(experiment)
    return federation.in_precision(experiment.precision)
