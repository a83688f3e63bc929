"""A what-if from its description to its result: Experiment, run, Result."""

import dataclasses
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from . import checks, storage
from .data import DATASETS, load_dataset
from .evaluation import AGENT_COLUMNS, evaluate, summarise
from .federation import Federation
from .models import MODELS, Predict, as_functions, build_model, cross_entropy
from .objective import METHODS, LossFn, Params, factors_kept, fine_tune
from .partition import IID, Dirichlet, PerFedAvgSplit, Scheme, Shards, partition
from .trainer import Stopped, pick_agents, train

HISTORY_COLUMNS = {
    "round": "int64", "group": "str", "fine_tune_steps": "int64", "loss": "float64", "accuracy": "float64",
    "worst_decile_accuracy": "float64",
}  # fmt: skip

EXPLOSION = 20.0
"""A mean meta-loss this many times that of guessing (or of the start, if that is larger) counts as diverged."""


class ExperimentError(ValueError):
    """What is wrong with an experiment, every problem at once."""


def _setting(default: Any, check: Callable[[str, Any], Any], help: str) -> Any:
    return field(default=default, metadata={"check": check, "help": help})


def _integer(low: int, high: int | None = None) -> Callable[[str, Any], int]:
    return lambda name, value: checks.integer(name, value, low, high)


def _number(low: float, high: float = math.inf, above: bool = False) -> Callable[[str, Any], float]:
    return lambda name, value: checks.number(name, value, low, high, above=above)


def _choice(*allowed: str) -> Callable[[str, Any], str]:
    return lambda name, value: checks.choice(name, value, allowed)


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _steps(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise checks.refusal(name, value, "a non-empty tuple of increasing integers of at least 0")
    steps = tuple(checks.integer(f"{name}[{position}]", step, 0) for position, step in enumerate(value))
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
    - rounds = 0: must be an integer of at least 1
    """

    dataset: str = _setting("digits", _choice(*DATASETS), "The images that the agents hold.")
    partition: str = _setting(
        "dirichlet", _choice("iid", "dirichlet", "shards", "per_fedavg"), "How the images are dealt out to the agents."
    )
    dirichlet_alpha: float = _setting(
        0.3, _number(0, above=True), "Concentration of the agents' mixes of classes; small = heterogeneous."
    )
    classes_per_agent: int = _setting(2, _integer(1), "How many classes an agent holds with partition='shards'.")
    per_fedavg_a: int | None = _setting(
        None, _or_none(_integer(2)), "Images of a class at half of the agents with partition='per_fedavg'; even."
    )
    permuted_classes: int = _setting(0, _integer(0), "How many classes each agent renames by its own permutation.")
    max_rotation: float = _setting(
        0.0, _number(0, 180), "Largest angle, in degrees, by which an agent's images are turned."
    )
    n_agents: int = _setting(50, _integer(1), "Agents that train.")
    n_new_agents: int = _setting(10, _integer(0), "Agents that are never trained on, only scored.")
    test_fraction: float = _setting(
        0.25, _number(0, 1, above=True), "Part of each agent's samples that is scored and never fine-tuned on."
    )
    model: str = _setting("mlp", _choice(*MODELS), "What is trained.")
    nu: int = _setting(3, _integer(0), "Fine-tuning steps that training looks ahead; 0 is FedAvg, 1 is Per-FedAvg.")
    fine_tune_lr: float = _setting(0.05, _number(0, above=True), "α, the step size of a fine-tuning step.")
    meta_lr: float = _setting(0.05, _number(0, above=True), "β, the step size of a local meta step.")
    gradient: str = _setting("exact", _choice(*METHODS), "How the meta-gradient is estimated.")
    backprop_steps: int | None = _setting(
        None, _or_none(_integer(0)), "How many of the last Hessian factors 'truncated' and 'hessian_free' keep."
    )
    rounds: int = _setting(100, _integer(1), "K, communication rounds.")
    agents_per_round: int = _setting(10, _integer(1), "Agents picked in a round.")
    local_steps: int = _setting(5, _integer(1), "τ, local meta steps of a picked agent in a round.")
    batch_size: int | None = _setting(20, _or_none(_integer(1)), "Samples of a batch; None is the full batch.")
    eval_every: int = _setting(10, _integer(1), "Rounds between two evaluations.")
    eval_steps: tuple[int, ...] = _setting(
        (0, 1, 3, 5, 10), _steps, "Numbers of fine-tuning steps after which agents are scored."
    )
    weighting: str = _setting("uniform", _choice("uniform", "samples"), "How the server averages the agents.")
    execution: str = _setting(
        "auto", _choice("auto", "vectorized", "loop"), "All picked agents at once, or one after the other."
    )
    device: str = _setting("auto", _choice("auto", "cpu", "cuda", "mps"), "Where to compute; 'auto' prefers a GPU.")
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


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gave.

    Attributes
    ----------
    experiment : what was run.
    status : "completed", "stopped" or "diverged".
    message : what happened and, if it diverged, in which round and which step size to lower.
    round : rounds that `params` have seen.
    params : dict of CPU tensors, the shared initial model w.
    history : DataFrame, one row per evaluated round, group ("trained" or "new") and number of fine-tuning steps, with
        loss, accuracy (0 to 1, mean over the group's agents) and worst_decile_accuracy.
    agents : DataFrame, one row per agent and number of fine-tuning steps at the last evaluation.
    """

    experiment: Experiment
    status: str
    message: str
    round: int
    params: Params
    history: pd.DataFrame
    agents: pd.DataFrame

    def save(self, path: str | Path) -> None:
        """Write everything to one file, without pickle; `load_result` reads it back, bit by bit the same."""
        record = {
            "experiment": self.experiment.to_dict(),
            **{name: getattr(self, name) for name in ("status", "message", "round")},
            **{name: getattr(self, name).to_dict("list") for name in ("history", "agents")},
        }
        storage.write(path, record, {name: tensor.numpy() for name, tensor in self.params.items()})

    def table(self) -> pd.DataFrame:
        """Return the last evaluation's accuracy: groups down, fine-tuning steps across."""
        last = self.history[self.history["round"] == self.history["round"].max()]
        return last.pivot(index="group", columns="fine_tune_steps", values="accuracy").sort_index(ascending=False)

    def __repr__(self) -> str:
        return f"Result({self.status} after {self.round} rounds: {self.message})"


def load_result(path: str | Path) -> Result:
    """Read a result that `Result.save` wrote; a file from a stranger cannot run code.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : not a result, of another version, or damaged.
    """
    record, arrays = storage.read(path)
    return Result(
        experiment=Experiment.from_dict(record["experiment"]),
        **{name: record[name] for name in ("status", "message", "round")},
        params={name: torch.from_numpy(array) for name, array in arrays.items()},
        history=_frame(record["history"], HISTORY_COLUMNS),
        agents=_frame(record["agents"], AGENT_COLUMNS),
    )


def _frame(columns: Any, dtypes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(columns, columns=list(dtypes)).astype(dtypes)


def build_scheme(experiment: Experiment) -> Scheme:
    """Return the partition scheme that an experiment asks for."""
    return {
        "iid": IID,
        "dirichlet": lambda: Dirichlet(experiment.dirichlet_alpha),
        "shards": lambda: Shards(experiment.classes_per_agent),
        "per_fedavg": lambda: PerFedAvgSplit(experiment.per_fedavg_a),
    }[experiment.partition]()


def build_federation(experiment: Experiment) -> Federation:
    """Load an experiment's dataset and deal it out to its agents, the new ones last."""
    dataset = load_dataset(experiment.dataset)
    n_agents = experiment.n_agents + experiment.n_new_agents
    return Federation.from_partition(
        dataset,
        partition(dataset.y, build_scheme(experiment), n_agents, seed=experiment.seed),
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
        return torch.device(next(device for device, here in present.items() if here))
    if not present[name]:
        raise checks.refusal("device", name, "one that this machine has: 'auto' or 'cpu'")
    return torch.device(name)


def choose_execution(name: str, model: nn.Module, device: torch.device) -> str:
    """Return "vectorized" or "loop"; "auto" loops for convolutions on a CPU, which vmap makes slower, not faster."""
    if name != "auto":
        return name
    convolutions = any(isinstance(layer, nn.modules.conv._ConvNd) for layer in model.modules())
    return "loop" if convolutions and device.type == "cpu" else "vectorized"


def run(
    experiment: Experiment,
    *,
    federation: Federation | None = None,
    model: nn.Module | None = None,
    on_round: Callable[[int, pd.DataFrame], None] | None = None,
    stop: threading.Event | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Train one shared initial model and score it on every agent, before and after fine-tuning.

    Parameters
    ----------
    experiment : the what-if.
    federation, model : replace what the experiment would build: your own data, your own module, whose current
        parameters are the start and which is not changed.
    on_round : called as on_round(round, rows) after every evaluation, with that round's rows of the history.
    stop : an event looked at before every local step; Ctrl-C does the same. What there is then is returned.
    checkpoint : a path, written after every evaluation; a run that finds one goes on from it, and ends as if it had
        never been interrupted.
    progress : whether to show a progress bar.

    Raises
    ------
    ValueError : a federation too small for agents_per_round, an unsuitable module, a foreign or damaged checkpoint.

    Examples
    --------
    >>> result = run(Experiment(nu=1, rounds=20), progress=False)
    >>> result.status, len(result.history)  # 3 evaluated rounds × 2 groups × 5 numbers of steps
    ('completed', 30)
    """
    if not isinstance(experiment, Experiment):
        raise checks.refusal("experiment", experiment, "a gmfl_lite.Experiment")
    if federation is None:
        federation = build_federation(experiment)
    elif federation.n_agents < experiment.agents_per_round:
        allowed = f"at most the federation's n_agents = {federation.n_agents}"
        raise checks.refusal("agents_per_round", experiment.agents_per_round, allowed)
    if model is None:
        model = build_model(experiment.model, federation, seed=experiment.seed)
    device = federation.x.device
    predict, params = as_functions(model, device)
    execution = choose_execution(experiment.execution, model, device)

    result = _resume(checkpoint, experiment, device) or Result(
        *(experiment, "stopped", "not begun", 0, params, _frame(None, HISTORY_COLUMNS), _frame(None, AGENT_COLUMNS))
    )
    hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))  # tqdm's notebook bar ignores the variable
    with tqdm(total=experiment.rounds, initial=result.round, unit="round", disable=hidden) as bar:
        try:
            for later in _results(result, federation, predict, execution, stop) if result.status == "stopped" else ():
                evaluated = len(later.history) > len(result.history)
                result = later
                bar.update(result.round - bar.n)
                if checkpoint is not None and (evaluated or result.status != "stopped"):
                    result.save(checkpoint)
                if evaluated:
                    rows = result.history[result.history["round"] == result.round].reset_index(drop=True)
                    bar.set_postfix_str(_postfix(rows))
                    if on_round is not None:
                        on_round(result.round, rows)
        except (Stopped, KeyboardInterrupt):
            pass
    return dataclasses.replace(result, params={name: tensor.cpu() for name, tensor in result.params.items()})


def _resume(checkpoint: str | Path | None, experiment: Experiment, device: torch.device) -> Result | None:
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    result = load_result(checkpoint)
    ours, theirs = experiment.to_dict(), result.experiment.to_dict()
    changed = [
        f"{name} = {theirs[name]!r} there and {ours[name]!r} here" for name in ours if ours[name] != theirs[name]
    ]
    if changed:
        raise ValueError(f"checkpoint {checkpoint} is of another experiment: " + "; ".join(changed))
    return dataclasses.replace(result, params={name: tensor.to(device) for name, tensor in result.params.items()})


def _results(
    result: Result, federation: Federation, predict: Predict, execution: str, stop: threading.Event | None
) -> Iterator[Result]:
    """Yield the result so far, after the first evaluation and then after every round."""
    experiment = result.experiment
    loss_fn = cross_entropy(predict)
    limit = EXPLOSION * math.log(len(federation.classes))
    score = partial(
        evaluate,
        federation,
        predict,
        steps=experiment.eval_steps,
        fine_tune_lr=experiment.fine_tune_lr,
        execution=execution,
    )

    def so_far(round: int, params: Params) -> Result:
        done = f"stopped after {round} of {experiment.rounds} rounds"
        later = dataclasses.replace(result, round=round, params=params, message=done)
        if round % experiment.eval_every and round < experiment.rounds:
            return later
        agents = score(params)
        history = pd.concat([result.history, summarise(agents).assign(round=round)], ignore_index=True)
        later = dataclasses.replace(later, agents=agents, history=_frame(history, HISTORY_COLUMNS))
        if round < experiment.rounds:
            return later
        return dataclasses.replace(later, status="completed", message=f"all {round} rounds")

    try:
        if result.history.empty:
            result = so_far(0, result.params)
            yield result
        limit = max(limit, EXPLOSION * result.history["loss"][0])
        trained = train(
            experiment, federation, loss_fn, result.params, execution=execution, start=result.round, stop=stop
        )
        for round, params, losses in trained:
            if not losses.mean() <= limit:
                raise FloatingPointError(f"the meta-loss grew to {losses.mean():.3g}")
            result = so_far(round, params)
            yield result
    except FloatingPointError as error:
        cause = _blame(experiment, federation, loss_fn, result.params, limit)
        value = getattr(experiment, cause)
        advice = f"lower {cause} (now {value:g}), for example to {value / 10:g}"
        message = f"diverged in round {result.round + 1}: {error}; {advice}"
        yield dataclasses.replace(result, status="diverged", message=message)


def _blame(experiment: Experiment, federation: Federation, loss_fn: LossFn, params: Params, limit: float) -> str:
    """Name the step size to lower: fine_tune_lr if fine-tuning makes a sane w worse, else meta_lr."""
    agents = pick_agents(federation, experiment.agents_per_round, experiment.seed, 0)
    losses = []
    for agent in agents:
        train_set = tuple(tensor[0] for tensor in federation.train_sets(agent[None]))
        steps = max(experiment.nu, *experiment.eval_steps)
        tuned = fine_tune(loss_fn, params, [train_set] * steps, experiment.fine_tune_lr)
        losses.append(torch.stack([loss_fn(params, train_set), loss_fn(tuned, train_set)]))
    before, after = torch.stack(losses).mean(0).tolist()
    return "fine_tune_lr" if before <= limit / EXPLOSION * 2 and not after <= before else "meta_lr"


def _postfix(rows: pd.DataFrame) -> str:
    group = rows["group"].iloc[-1]
    after = rows[rows["group"] == group]
    first, best = after["accuracy"].iloc[0], after["accuracy"].max()
    return f"{group} agents {first:.0%} → {best:.0%}"
