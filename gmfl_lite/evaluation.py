"""Loss, accuracy and metric against the number of fine-tuning steps, for every agent, trained-on or new."""

import threading
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from .basics import randomness
from .basics.progress import progress_hidden
from .engine import Graphs, Start, agents_at_once, in_order, joined, look_at, naming, side_by_side
from .federation import Batch, Federation
from .models import Predict, loss_of, moving
from .modules import Objective
from .objective import Params, StepSize, fine_tune

AGENT_COLUMNS = {
    "agent": "int64", "name": "str", "group": "str", "samples": "int64", "fine_tune_steps": "int64",
    "loss": "float64", "accuracy": "float64", "metric": "float64",
}  # fmt: skip

ACCURACIES = ("accuracy", "worst_decile_accuracy", "best_decile_accuracy")
"""A group's mean, what one agent in ten stays below, and what one in ten exceeds; only of agents with classes."""

PATIENCE = 3
"""Seconds after which scoring shows how far it is."""


def those_of(columns: dict[str, str], present: Collection[str]) -> dict[str, str]:
    """Return the columns that there are: no accuracies where numbers are predicted, names and a metric if given."""
    optional = {"name": "name", "metric": "metric", **dict.fromkeys(ACCURACIES, "accuracy")}
    return {name: kind for name, kind in columns.items() if optional.get(name) in (None, *present)}


def measured(federation: Federation, objective: Objective, params: Params) -> tuple[str, ...]:
    """Return which of the optional columns a run has."""
    optional = {
        "name": federation.names is not None,
        "accuracy": objective.accurate(params, federation),
        "metric": objective.metric is not None,
    }
    return tuple(name for name, there in optional.items() if there)


def adaptation_curve(
    objective: Objective,
    params: Params,
    data: tuple[Batch, Batch],
    *,
    steps: Sequence[int],
    lr: StepSize,
    accurate: bool = True,
    moving: Collection[str] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, torch.Tensor]:
    """Score one agent after 0, 1, … fine-tuning steps on its full training set: loss [S], accuracy [S], metric [S].

    objective, params : f_i, and w.
    data : the agent's training set and the samples it is scored on.
    steps : increasing numbers of fine-tuning steps, S of them.
    lr : α, the step size of a fine-tuning step, a number or a tensor [].
    accurate : whether there is an accuracy.
    moving : the names of the parameters that move; None is all.
    stop : looked at before every step.

    Raises
    ------
    Stopped : `stop` was set.
    """
    train, test = data
    scores: list[dict[str, torch.Tensor]] = []
    taken = 0
    for target in steps:
        for _ in range(target - taken):
            look_at(stop)
            params = fine_tune(objective, params, [train], lr, moving=moving)
        taken = target
        scores.append(objective.scores(params, test, accurate))
    return {name: torch.stack([each[name] for each in scores]) for name in scores[0]}


def some_of(group: str, members: torch.Tensor, most: int | None, seed: int) -> torch.Tensor:
    """Return at most so many of a group's agents, in their order: the same ones for the same seed.

    >>> some_of("trained", torch.arange(1000), 4, seed=0)
    tensor([338, 446, 598, 712])
    """
    if most is None or most >= len(members):
        return members
    chosen = randomness.generator(seed, f"scored {group} agents").choice(len(members), most, replace=False)
    return members[torch.from_numpy(np.sort(chosen)).to(members.device)]


def evaluate(
    federation: Federation,
    predict: Predict | Objective,
    params: Params,
    *,
    steps: Sequence[int],
    fine_tune_lr: float,
    execution: str,
    personal: str = "all",
    most: int | None = None,
    seed: int = 0,
    stop: threading.Event | None = None,
    graphs: Graphs | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Score agents, trained-on and new: one row per agent and number of fine-tuning steps.

    Every agent fine-tunes on all of its training samples, or its shots, and is scored on its own test samples, which it
    has never fine-tuned on. Columns: agent, name where agents have one, group, samples, fine_tune_steps, loss, accuracy
    (0 to 1) of classes, and metric where there is one. predict is the model, whose loss is what y asks for, or f_i.
    All agents are scored, or of each group `most`, drawn by `seed`: see `some_of`. An engine's `graphs` replay the same
    scoring of other params faster on a GPU. What takes more than some seconds shows a bar, with `progress`.

    Raises
    ------
    FloatingPointError : some agent's loss is not finite, so that its accuracy would mean nothing.
    Stopped : `stop` was set.
    """
    start = start_of(federation, params, fine_tune_lr, most, seed)
    (found,) = evaluate_all(
        [start], predict, steps=steps, execution=execution, personal=personal, stop=stop, graphs=graphs,
        progress=progress,
    )  # fmt: skip
    if isinstance(found, FloatingPointError):
        raise found
    return found


def start_of(
    federation: Federation, params: Params, fine_tune_lr: float, most: int | None = None, seed: int = 0
) -> Start:
    """Return where those who are scored begin: see `evaluate`."""
    groups = {group: some_of(group, members, most, seed) for group, members in federation.groups.items()}
    return Start(federation, params, fine_tune_lr, groups)


def evaluate_all(
    starts: Sequence[Start],
    predict: Predict | Objective,
    *,
    steps: Sequence[int],
    execution: str,
    personal: str = "all",
    stop: threading.Event | None = None,
    graphs: Graphs | None = None,
    progress: bool = False,
) -> list[pd.DataFrame | FloatingPointError]:
    """Return what `evaluate` returns, or raises, for each of several starts of one model: the same bits, at once.

    Agents who hold as many samples are computed together, whatever start and federation they are of.
    """
    objective = predict if isinstance(predict, Objective) else loss_of(predict)
    first = starts[0]
    part, columns = moving(first.params, personal), measured(first.federation, objective, first.params)
    accurate = "accuracy" in columns
    fit = partial(agents_at_once, objective, first.params, copies=4)
    at_once = cache(lambda width: max(1, fit(first.federation.example(width))) if execution == "vectorized" else 1)

    def curve(params: Params, data: tuple[Batch, Batch], lr: StepSize) -> dict[str, torch.Tensor]:
        return adaptation_curve(objective, params, data, steps=steps, lr=lr, accurate=accurate, moving=part, stop=stop)

    scores: dict[tuple[Start, str], list[tuple[torch.Tensor, dict[str, torch.Tensor]]]] = defaultdict(list)
    agents, hidden = sum(map(len, starts)), progress_hidden(progress)
    with tqdm(total=agents, unit="agent", leave=False, delay=PATIENCE, disable=hidden) as bar:
        for several in joined(starts, at_once):
            sizes = [len(each.agents) for each in several]
            with naming(torch.cat([each.agents for each in several])):
                found = side_by_side(curve, several, at_once(several[0].data[0][0].shape[1]) == 1, graphs)
            pieces = zip(*(tensor.cpu().split(sizes) for tensor in found.values()), strict=True)
            for each, piece in zip(several, pieces, strict=True):
                scores[each.start, each.group].append((each.places, dict(zip(found, piece, strict=True))))
            bar.update(sum(sizes))
    return [
        _table(each, {group: in_order(scores[each, group]) for group in each.groups}, steps, columns) for each in starts
    ]


def _table(
    start: Start, scores: dict[str, dict[str, torch.Tensor]], steps: Sequence[int], columns: Collection[str]
) -> pd.DataFrame | FloatingPointError:
    """Return a row per agent and number of steps."""
    federation, frames = start.federation, []
    for group, members in start.groups.items():
        values = scores[group]
        finite = values["loss"].isfinite().all(0)
        if not finite.all():
            first = steps[int(finite.int().argmin())]
            return FloatingPointError(f"the loss of {group} agents is not finite after {first} fine-tuning steps")
        numbers = members.numpy(force=True).repeat(len(steps))
        columns_of = {
            "agent": numbers,
            "name": [federation.name_of(agent) for agent in numbers] if "name" in columns else "",
            "group": group,
            "samples": federation.sizes[numbers],
            "fine_tune_steps": np.tile(steps, len(members)),
            **{name: tensor.flatten().numpy() for name, tensor in values.items()},
        }
        frames.append(pd.DataFrame(columns_of))
    kinds = those_of(AGENT_COLUMNS, columns)
    return pd.concat(frames, ignore_index=True)[list(kinds)].astype(kinds)


def summarise(agents: pd.DataFrame) -> pd.DataFrame:
    """Average over the agents of each group, uniformly, one row per number of fine-tuning steps.

    Columns: group, fine_tune_steps, loss, of classes accuracy, worst_decile_accuracy and best_decile_accuracy,
    and metric where there is one.
    """
    grouped = agents.groupby(["group", "fine_tune_steps"], sort=False)
    table = grouped.agg({name: "mean" for name in ("loss", "accuracy", "metric") if name in agents})
    if "accuracy" in agents:
        for name, share in zip(ACCURACIES[1:], (0.1, 0.9), strict=True):
            table[name] = grouped["accuracy"].quantile(share)
    return table.reset_index()
