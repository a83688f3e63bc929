"""One round of training as a picture that moves: pick, send, fine-tune, look back, step, average; drop an agent."""

from torch import nn

from ..experiment import Experiment
from ..federation import Federation
from ..objective import norm
from ..plots import Picture as Figure
from ..plots.looks import PALETTE
from .picture import Picture, png, shipped
from .round_numbers import Round, measure_round

SMALL = Experiment(
    model="softmax",
    n_agents=12,
    n_new_agents=0,
    agents_per_round=4,
    local_steps=2,
    fine_tune_lr=0.3,
    meta_lr=0.3,
    rounds=20,
    precision="float64",
)
"""A round that fits on a screen, with step sizes large enough to see."""

CLASSES_NAMED = 3


def one_round(
    experiment: Experiment = SMALL,
    federation: Federation | None = None,
    model: nn.Module | None = None,
    round: int = 0,
) -> Picture:
    """Show one round of training step by step, with every agent's own numbers.

        w⁽ʲ⁺¹⁾ = w⁽ʲ⁾ − α ∇f_i(w⁽ʲ⁾),   F_i(w) = f_i(w⁽ᵛ⁾),   v⁽ᵛ⁾ = ∇f_i(w⁽ᵛ⁾),   v⁽ʲ⁾ = (I − α∇²f_i(w⁽ʲ⁾)) v⁽ʲ⁺¹⁾
        τ times at each of the picked agents:  w_i ← w_i − β v⁽⁰⁾,   and then  w ← Σ_i p_i w_i

    Its reader steps through the round, and drops agents to see how the average moves without them. The numbers are
    those of training itself: w after the round is that of `gmfl_lite.by_hand`.

    Parameters
    ----------
    experiment : ν, α, β, τ and all else, with at most 12 agents a round, ν = 10 and τ = 10.
    federation, model : replace what the experiment would build; the model's parameters are the start.
    round : which one, counted from 0; the rounds before it are trained first.

    Raises
    ------
    ValueError : a round that the experiment does not have, or more than a picture can show.
    FloatingPointError : the run diverges by then; the message says how.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> picture = gl.explain.one_round(gl.Experiment(model="softmax", agents_per_round=3, local_steps=1), round=2)
    >>> print(repr(picture).split(". ")[0])
    Round 3 of 100, step by step: 3 of 50 agents take 1 local step with ν = 3
    """
    measured = measure_round(experiment, federation, model, round)
    data = _data(measured)
    return Picture(
        shipped("one_round.js"),
        data,
        title="One round, step by step",
        alt=_in_words(measured, data),
        still=png(_still(measured, data)),
        height=900,
        style=shipped("one_round.css"),
    )


def _data(measured: Round) -> dict[str, object]:
    experiment, federation, w = measured.experiment, measured.federation, measured.w
    walks, share = measured.plane()
    names = [federation.name_of(agent) for agent in measured.picked]
    moved = {
        "average": norm({name: measured.average[name] - w[name] for name in w}).item(),
        "step": norm({name: measured.after[name] - w[name] for name in w}).item(),
    }
    shown = ("nu", "fine_tune_lr", "meta_lr", "local_steps", "gradient", "weighting", "server", "server_lr", "proximal")
    return {
        "setting": {**{name: getattr(experiment, name) for name in shown}, "round": measured.number},
        "agents": federation.n_agents,
        "parameters": sum(tensor.numel() for tensor in w.values()),
        "bytes": next(iter(w.values())).element_size(),
        "plain": experiment.server == "average" and experiment.server_lr == 1,
        "picked": [
            {
                "number": agent,
                "name": name,
                "holds": _holds(federation, agent),
                "weight": int(weight),
                "steps": [vars(step) for step in steps],
            }
            for agent, name, weight, steps in zip(
                measured.picked, names, measured.weights.tolist(), measured.steps, strict=True
            )
        ],
        "short": [name.removeprefix("agent ")[:12] for name in names],
        "products": measured.inner_products().tolist(),
        "walks": walks.tolist(),
        "share": int(100 * share),
        **moved,
    }


def _holds(federation: Federation, agent: int) -> str:
    """Say how many samples an agent trains on, and of which classes it holds most."""
    text = f"{int(federation.train_sizes[agent])} training samples"
    if federation.classes is None:
        return text
    counts = federation.label_counts.iloc[agent].sort_values(ascending=False, kind="stable")
    held = [str(name) for name in counts.index[counts > 0]]
    return f"{text}, most of {', '.join(held[:CLASSES_NAMED])}"


def _in_words(measured: Round, data: dict[str, object]) -> str:
    experiment = measured.experiment
    taken = f"{experiment.local_steps} local step" + "s" * (experiment.local_steps != 1)
    last = [steps[-1].query for steps in measured.steps]
    losses = ""
    if experiment.nu:
        before, after = (sum(query[place] for query in last) / len(last) for place in (0, -1))
        losses = (
            f" In the last local step, fine-tuning takes the mean loss on the query from {before:.3g} to {after:.3g}."
        )
    return (
        f"Round {measured.number + 1} of {experiment.rounds}, step by step: {len(measured.picked)} of "
        f"{measured.federation.n_agents} agents take {taken} with ν = {experiment.nu}.{losses} "
        f"Each gets {data['parameters']} numbers and sends as many back. ‖average − w‖ = {data['average']:.3g}."
    )


def _still(measured: Round, data: dict[str, object]) -> Figure:
    """Draw where the round ends: the loss on the query along fine-tuning, and how far each agent has moved.

    Without fine-tuning, ν = 0, the loss is drawn along the local steps.
    """
    ahead = measured.experiment.nu > 0
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    losses, moved = figure.subplots(1, 2)
    names = [measured.federation.name_of(agent) for agent in measured.picked]
    for place, (name, steps) in enumerate(zip(names, measured.steps, strict=True)):
        look = {"color": PALETTE[place % len(PALETTE)], "marker": "osD^vXP"[place % 7], "label": name}
        along = steps[-1].query if ahead else [step.query[0] for step in steps]
        losses.plot(range(len(along)), along, **look)
    xlabel = "fine-tuning steps in the last local step" if ahead else "local steps taken"
    losses.set(xlabel=xlabel, ylabel="loss on the query", ylim=(0, 1.05 * losses.dataLim.ymax))
    losses.set_xticks(range(len(along)))
    losses.legend(frameon=False, fontsize="small")
    lengths = [steps[-1].displacement for steps in measured.steps]
    moved.barh([*names, "average"], [*lengths, data["average"]], color=PALETTE[0])
    moved.set(xlabel="how far w has moved in the round")
    moved.invert_yaxis()
    for axes in (losses, moved):
        axes.spines[["top", "right"]].set_visible(False)
    figure.alt = _in_words(measured, data)
    return figure
