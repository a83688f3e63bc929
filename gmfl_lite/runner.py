"""A what-if from its description to its result: train, score on the way, stop, resume, store."""

import dataclasses
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from . import checks, storage
from .evaluation import AGENT_COLUMNS, evaluate, summarise
from .experiment import Experiment, build_federation
from .federation import Federation
from .models import Predict, as_functions, build_model, cross_entropy
from .objective import LossFn, Params, fine_tune
from .trainer import Stopped, pick_agents, train

HISTORY_COLUMNS = {
    "round": "int64", "group": "str", "fine_tune_steps": "int64", "loss": "float64", "accuracy": "float64",
    "worst_decile_accuracy": "float64",
}  # fmt: skip

EXPLOSION = 20.0
"""A mean meta-loss this many times that of guessing (or of the start, if that is larger) counts as diverged."""


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
