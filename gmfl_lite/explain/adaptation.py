"""Fine-tuning as a film: what one agent's model calls its samples after 0, 1, … steps, and how all agents fare."""

import dataclasses
from typing import Any

import pandas as pd
import torch
from matplotlib.colors import to_hex
from torch import nn

from ..basics import checks
from ..engine import modestly
from ..federation import Federation
from ..models import moving
from ..modules import PerSample
from ..objective import fine_tune
from ..plots import accuracy_against_steps
from ..plots.looks import looks_of
from ..plots.picture import GROUPS
from ..result import Result
from .picture import Picture, png, shipped
from .samples import Shown, kind_of_samples

MOST_AGENTS, MOST_STEPS = 6, 10


@modestly
def adaptation(
    result: Result,
    federation: Federation,
    agent: int | str | None = None,
    *,
    model: nn.Module | None = None,
    loss: str | PerSample | None = None,
) -> Picture:
    """Show what fine-tuning does to one agent's model, step by step, next to the run's curves.

        w_i⁽⁰⁾ = w,   w_i⁽ʲ⁺¹⁾ = w_i⁽ʲ⁾ − α ∇f_i(w_i⁽ʲ⁾),   on all samples that the agent fine-tunes on

    The reader moves along the steps, from 0 to 10 at most, and chooses among six agents at most. Of images and other
    samples with classes there are twelve, evenly spaced among those that the agent is scored on, with what the model
    calls them; where one number is predicted from one other, the function that the model has learnt. The scores of
    the best, the mean and the worst agent are those of the last round: a run keeps no others.

    Parameters
    ----------
    result : of a run with at least one evaluation.
    federation : its agents, or others whose samples the model takes.
    agent : the number or the name of the one that is shown first; by default the first new one. Others follow.
    model, loss : where the run's were its own and this result comes from a file.

    Raises
    ------
    ValueError : wrong arguments, or samples that are neither classified nor functions of one number.
    FloatingPointError : some agent's loss is not finite.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(rounds=5, eval_every=5)
    >>> result = gl.run(experiment, progress=False)
    >>> film = gl.explain.adaptation(result, gl.build_federation(experiment), agent=3)
    >>> print(repr(film).split(":")[0])
    Fine-tuning from 0 to 10 steps after 5 rounds with ν = 3
    """
    if not isinstance(result, Result) or result.history.empty:
        raise checks.refusal("result", result, "a Result with at least one evaluation")
    if not isinstance(federation, Federation):
        raise checks.refusal("federation", type(federation).__name__, "a Federation")
    federation = federation.in_precision(result.experiment.precision)
    first = _number_of(federation, agent)
    objective, w = result.functions(federation, model, loss)
    kind = kind_of_samples(federation, objective.accurate(w, federation))
    experiment = result.experiment
    most = min(max(1, experiment.nu, *experiment.eval_steps), MOST_STEPS)
    finely = dataclasses.replace(result, experiment=experiment.replace(eval_steps=tuple(range(most + 1))))
    scores = finely.evaluate(federation, model=model, loss=loss)
    score = "accuracy" if "accuracy" in scores else "loss"
    part, agents, device = moving(w, experiment.personal), [], federation.x.device
    for number in _followed_by_others(federation, first):
        x, y, weight = (tensor[0] for tensor in federation.fine_tune_sets(torch.tensor([number], device=device)))
        own = x[weight > 0], y[weight > 0], weight[weight > 0]
        tuned = [w]
        for _ in range(most):
            tuned.append(fine_tune(objective, tuned[-1], [own], experiment.fine_tune_lr, moving=part))
        rows = scores[scores["agent"] == number]
        agents.append(
            {
                "number": number,
                "name": federation.name_of(number),
                "group": rows["group"].iloc[0],
                "score": rows[score].tolist(),
                "tuned_on": len(own[1]),
                "scored": len(federation.test(number)[1]),
                "shown": kind.shown(federation, number, objective.predict, tuned),
            }
        )
    label = "FedAvg" if experiment.nu == 0 else f"ν = {experiment.nu}"
    data: dict[str, Any] = {
        "kind": kind.name,
        "most": most,
        "score": score,
        "label": label,
        "colour": to_hex(looks_of([label])[label].colour),
        "round": result.round,
        "fine_tune_lr": experiment.fine_tune_lr,
        "moves": experiment.personal,
        "renamed": experiment.permuted_classes,
        "agents": agents,
        "groups": {
            group: _range(rows, score, GROUPS[str(group)]) for group, rows in scores.groupby("group", sort=False)
        },
        "history": _history(result, score),
    }
    return Picture(
        shipped("adaptation.js"),
        data,
        title="Fine-tuning, step by step",
        alt=_in_words(data, agents[0], kind),
        still=png(accuracy_against_steps({label: result})),
        height=760,
        style=shipped("adaptation.css"),
    )


def _number_of(federation: Federation, agent: int | str | None) -> int:
    everybody = federation.n_agents + federation.n_new_agents
    if agent is None:
        return federation.n_agents if federation.n_new_agents else 0
    if isinstance(agent, str):
        names = [federation.name_of(number) for number in range(everybody)]
        if agent not in names:
            allowed = f"the name of an agent, {checks.few(names)}{checks.nearest(agent, names)}"
            raise checks.refusal("agent", agent, allowed)
        return names.index(agent)
    return checks.integer("agent", agent, 0, everybody - 1)


def _followed_by_others(federation: Federation, first: int) -> list[int]:
    """Return the agent and a few others, trained-on and new ones in turn."""
    n = federation.n_agents
    trained, new = range(n), range(n, n + federation.n_new_agents)
    turns = [number for place in range(MOST_AGENTS) for half in (new, trained) for number in half[place : place + 1]]
    return [first, *(number for number in turns if number != first)][:MOST_AGENTS]


def _range(rows: pd.DataFrame, score: str, name: str) -> dict[str, Any]:
    """Return the best, the mean and the worst score of a group's agents at each number of steps."""
    by_steps = rows.groupby("fine_tune_steps")[score]
    ends = [by_steps.min().tolist(), by_steps.max().tolist()]
    worst, best = ends if score == "accuracy" else ends[::-1]
    return {
        "name": name,
        "agents": rows["agent"].nunique(),
        "best": best,
        "mean": by_steps.mean().tolist(),
        "worst": worst,
    }


def _history(result: Result, score: str) -> dict[str, list[dict[str, Any]]]:
    """Return the mean scores against rounds that the run has kept: for each group, a line for each number of steps."""
    found: dict[str, list[dict[str, Any]]] = {}
    if score in result.history:
        for (group, _), rows in result.history.groupby(["group", "fine_tune_steps"], sort=False):
            line = {"steps": int(rows["fine_tune_steps"].iloc[0]), "points": rows[["round", score]].to_numpy().tolist()}
            found.setdefault(str(group), []).append(line)
    return found


def _in_words(data: dict[str, Any], agent: dict[str, Any], kind: Shown) -> str:
    def goes(scores: list[float]) -> str:
        before, after = (
            f"{100 * s:.0f} %" if data["score"] == "accuracy" else f"{s:.3g}" for s in (scores[0], scores[-1])
        )
        return f"{before} to {after}"

    group, most = data["groups"][agent["group"]], data["most"]
    ends = ", ".join(f"{end} {goes(group[end])}" for end in ("worst", "mean", "best"))
    return (
        f"Fine-tuning from 0 to {most} step{'s' * (most != 1)} after {data['round']} rounds with {data['label']}: "
        f"{data['score']} of {group['name']}, {ends}; {agent['name']} {goes(agent['score'])}. {kind.in_words}"
    )
