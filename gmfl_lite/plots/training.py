"""Figures of how training goes and what fine-tuning gains: accuracy, or loss, against rounds and against steps."""

from collections.abc import Mapping
from typing import Any

import matplotlib.ticker
import pandas as pd
from matplotlib.axes import Axes

from ..basics import checks
from ..evaluation import ACCURACIES
from ..experiment import Experiment
from ..federation import Federation
from ..result import Result
from .holdings import SHARES, shares_held
from .looks import Look, looks_of, method_named, seaborn_style
from .picture import AXES, GROUPS, Picture, entry, legend_columns, literal, seaborn, steps_in_words, words

DOTTED = {"linewidth": 1.0, "linestyle": (0, (1, 1.5)), "marker": "", "alpha": 0.9}
"""The look of a curve's deciles."""
WIDTH = 6.8
"""Inches, of the panel's picture."""
MOST_BANDS = 4
"""More bands than this over each other cannot be told apart."""


def accuracy_against_rounds(results: Mapping[str, Result], *, fine_tune_steps: int | None = None) -> Picture:
    """Draw accuracy against communication rounds, trained-on and new agents side by side, one line per result.

    Where numbers are predicted, which have no accuracy, it is the loss.

    Parameters
    ----------
    results : label -> Result.
    fine_tune_steps : after how many steps of fine-tuning; by default each result's own ν if all have evaluated that,
        else the most steps that all have.

    Raises
    ------
    ValueError : no results, or a number of steps that some result did not evaluate.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> base = gl.Experiment(model="softmax", rounds=20, eval_every=5)
    >>> results = {f"ν = {nu}": gl.run(base.replace(nu=nu), progress=False) for nu in (1, 3)}
    >>> figure = accuracy_against_rounds(results)
    """
    evaluated = {label: set(result.history["fine_tune_steps"]) for label, result in _checked(results).items()}
    own = {label: result.experiment.nu for label, result in results.items()}
    if fine_tune_steps is None and any(own[label] not in steps for label, steps in evaluated.items()):
        fine_tune_steps = max(set.intersection(*evaluated.values()), default=None)
    frames = {}
    for label, result in results.items():
        steps = own[label] if fine_tune_steps is None else fine_tune_steps
        if steps not in evaluated[label]:
            there = checks.shown(sorted(evaluated[label]))
            raise checks.refusal("fine_tune_steps", steps, f"one that {checks.shown(label)} evaluated: {there}")
        frames[label] = result.history[result.history["fine_tune_steps"] == steps]
    after = "ν fine-tuning steps" if fine_tune_steps is None else steps_in_words(fine_tune_steps)
    looks = _looks(results)
    return _from_zero(_score_lines(frames, looks, "round", "communication rounds", f"{{}} after {after}"))


def accuracy_against_steps(results: Mapping[str, Result]) -> Picture:
    """Draw the adaptation curve: accuracy against fine-tuning steps, trained-on and new agents side by side.

    Lines are means over agents; a band around each holds the middle 80 % of them, where at most four results are drawn.
    Where numbers are predicted, which have no accuracy, it is the loss.

    Parameters
    ----------
    results : label -> Result; the last evaluation of each is drawn.

    Raises
    ------
    ValueError : no results, or one without any evaluation.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> base = gl.Experiment(model="softmax", rounds=20)
    >>> results = {f"ν = {nu}": gl.run(base.replace(nu=nu), progress=False) for nu in (1, 3)}
    >>> figure = accuracy_against_steps(results)
    """
    frames = {
        label: result.history[result.history["round"] == result.history["round"].max()]
        for label, result in _checked(results).items()
    }
    bands = len(results) <= MOST_BANDS
    title = "line: mean over agents\nband: middle 80 % of them" if bands else None
    looks = _looks(results)
    figure = _score_lines(frames, looks, "fine_tune_steps", "fine-tuning steps on own data", "{}", title)
    for axes in figure.axes:
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    if bands:
        _draw_bands(figure, results, looks)
    return _from_zero(figure)


def exploration(
    histories: Mapping[str, pd.DataFrame],
    federation: Federation | None,
    *,
    fine_tune_steps: int,
    rounds: int | None = None,
    reference: str | None = None,
    holder: str | None = None,
    experiments: Mapping[str, Experiment] | None = None,
    legend: bool = True,
    spread: bool = False,
    megabytes_per_round: Mapping[str, float] | None = None,
) -> Picture:
    """Draw new agents' accuracy against rounds and against fine-tuning steps, and below it who holds what.

    Made to be drawn again and again while training runs: a tenth of a second, where the other figures take more.

    Parameters
    ----------
    histories : label -> Result.history or its beginning, without any row if there is nothing to draw yet.
    federation : the agents, to draw below who holds what; None draws that strip empty.
    fine_tune_steps : after how many steps to draw accuracy against rounds.
    rounds : how many there will be, so that the axis stands still while a curve grows.
    reference : the label of a curve to draw thin, behind the others.
    holder : the name of the run that `federation` belongs to, where other runs have another.
    experiments : label -> Experiment, whose methods the curves are; by default those that labels name.
    legend : whether the figure has one; without it, all these figures are of one size.
    spread : whether to draw, dotted, what one agent in ten stays below and what one in ten exceeds; of more than four
        curves that is only said, in `alt`.
    megabytes_per_round : label -> what one round sends, both ways; accuracy is drawn against what was sent then, not
        against rounds.

    Raises
    ------
    ValueError : a curve of which megabytes_per_round says nothing.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(rounds=10, eval_every=2)
    >>> history = gl.run(experiment, progress=False).history
    >>> figure = exploration({"ν = 3": history}, gl.build_federation(experiment), fine_tune_steps=3)
    """
    # Those that were trained on are drawn only where none are new.
    group = next((h["group"].iloc[-1] for h in histories.values() if len(h)), "new")
    drawn = {label: h[h["group"] == group] for label, h in histories.items() if len(h)}
    names = words(drawn)
    of_legend = {"frameon": False, "fontsize": "medium", "handlelength": 3.5}
    columns = legend_columns([entry(name) for name in names.values()], 3, WIDTH, **of_legend) if legend else 1
    legend_rows = -(-len(drawn) // columns) if legend else 0
    inches = {"top": 0.3, "plot": 2.2, "legend": 0.85 + 0.22 * legend_rows, "strip": 0.55, "bottom": 0.45}
    height = sum(inches.values())
    figure = Picture(figsize=(WIDTH, height), dpi=100)

    def place(left: float, bottom: float, width: float, tall: float) -> Axes:
        axes = figure.add_axes((left, bottom / height, width, tall / height))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        return axes

    floor = inches["bottom"] + inches["strip"] + inches["legend"]
    against_rounds, against_steps = (place(left, floor, 0.4, inches["plot"]) for left in (0.09, 0.585))
    per_round = {} if megabytes_per_round is None else dict(megabytes_per_round)
    if per_round and (unsaid := drawn.keys() - per_round.keys()):
        raise checks.refusal("megabytes_per_round", sorted(per_round), f"of every curve: {sorted(unsaid)}, too")
    dotted = spread and len(drawn) <= MOST_BANDS
    ends, ahead, looks = [], [], looks_of(histories, experiments)
    for label, history in drawn.items():
        behind = label == reference
        style: dict[str, Any] = {
            "linewidth": 1.2 if behind else 1.8,
            "markersize": 4 if behind else 5,
            "zorder": 1.9 if behind else 2,
        }
        style |= {"clip_on": False, **looks[label].line}
        after = history[history["fine_tune_steps"] == fine_tune_steps]
        last = history[history["round"] == history["round"].iloc[-1]]
        of_a_round = per_round.get(label, 1.0)
        for axes, part, x, name in (
            (against_rounds, after, of_a_round * after["round"].to_numpy(), entry(names[label])),
            (against_steps, last, last["fine_tune_steps"].to_numpy(), None),
        ):
            axes.plot(x, 100 * part["accuracy"].to_numpy(), label=name, **style)
            for decile in ACCURACIES[1:] if dotted else ():
                axes.plot(x, 100 * part[decile].to_numpy(), **style | DOTTED)
        mean, *deciles = (100 * after[name].iloc[-1] for name in ACCURACIES[: 3 if spread else 1])
        middle = " (worst {:.0f} %, best {:.0f} %)".format(*deciles) if spread else ""
        last_round = after["round"].iloc[-1]
        sent = f", {sent_in_words(of_a_round * last_round)}" if per_round else ""
        ends.append(f"{names[label]} {mean:.0f} %{middle} after round {last_round}{sent}")
        ahead.append(of_a_round * (experiments[label].rounds if experiments and per_round else rounds or 0))
    against_steps.axvline(fine_tune_steps, color="0.6", linewidth=1, zorder=0)
    across = "sent in all (MB)" if per_round else "communication rounds"
    ylabel = "accuracy (%); dotted: deciles" if dotted else "accuracy (%)"
    against_rounds.set(xlabel=across, ylabel=ylabel, xlim=(0, max(ahead, default=rounds) or None))
    against_steps.set(xlabel="fine-tuning steps on own data")
    against_rounds.set_title(f"{GROUPS[group]}, after {steps_in_words(fine_tune_steps)}", fontsize="medium", loc="left")
    against_steps.set_title(f"{GROUPS[group]}, last round drawn", fontsize="medium", loc="left")
    for axes in (against_rounds, against_steps):
        axes.set_ylim(0, 100)
        if drawn:
            whole = axes is against_steps or not per_round
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=whole))
        else:  # there is no scale yet
            axes.set_xticks([])
    if drawn and legend:
        figure.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, (floor - 0.45) / height),
            ncols=columns,
            **of_legend,
        )
    strip = place(0.09, inches["bottom"], 0.77, inches["strip"])
    drawn_so_far = "; ".join(ends) if ends else "nothing yet"
    figure.alt = (
        f"Accuracy of {GROUPS[group]} after {steps_in_words(fine_tune_steps)} against "
        f"{'what was sent' if per_round else 'communication rounds'}, and against fine-tuning steps"
        f"{', with the bounds of the worst and the best tenth of the agents' if spread else ''}: {drawn_so_far}."
    )
    if federation is None:
        strip.set_axis_off()
        return figure
    _draw_strip(strip, place(0.88, inches["bottom"], 0.015, inches["strip"]), federation, holder)
    of_run = "" if holder is None else f" with {holder}"
    shares = shares_held(federation)
    agents, classes = shares.shape
    largest = f"on average, {100 * shares.max(axis=1).mean():.0f} % of an agent's samples are of its largest class"
    figure.alt += f" Below, who holds what{of_run}: {agents} agents by {classes} classes; {largest}."
    return figure


def sent_in_words(megabytes: float) -> str:
    """Put an amount into words.

    >>> sent_in_words(4268), sent_in_words(170.7), sent_in_words(1.6), sent_in_words(0.0104)
    ('4,268 MB sent', '171 MB sent', '1.6 MB sent', '10.4 kB sent')
    """
    if megabytes < 0.1:
        return f"{1000 * megabytes:.3g} kB sent"
    return f"{megabytes:,.0f} MB sent" if megabytes >= 100 else f"{megabytes:.3g} MB sent"


def _checked(results: Mapping[str, Result]) -> Mapping[str, Result]:
    if not isinstance(results, Mapping) or not results:
        raise checks.refusal("results", results, "a non-empty dict of label -> Result")
    for label, result in results.items():
        if not isinstance(result, Result) or result.history.empty:
            raise checks.refusal(f"results[{checks.shown(label)}]", result, "a Result with at least one evaluation")
    if len({"accuracy" in result.history for result in results.values()}) > 1:
        raise ValueError("results: must all be of classes or all of numbers to predict: one axis cannot show both")
    return results


def _looks(results: Mapping[str, Result]) -> dict[str, Look]:
    """Return the looks of results: of the methods that their labels name, as that is read, or that they are."""
    unsaid = {label: result.experiment for label, result in results.items() if method_named(str(label)) is None}
    return looks_of(results, unsaid)


def _score_lines(
    frames: Mapping[str, pd.DataFrame],
    looks: Mapping[str, Look],
    x: str,
    xlabel: str,
    ylabel: str,
    legend_title: str | None = None,
) -> Picture:
    """Draw accuracy in percent, or the loss where there is none; `ylabel` has a place for its name."""
    names = {entry(name): name for name in words(frames).values()}
    style = seaborn_style("method", dict(zip(names, looks.values(), strict=True)))
    parts = zip(names, frames.values(), strict=True)
    data = pd.concat([frame.assign(method=name) for name, frame in parts], ignore_index=True)
    score, unit = ("accuracy", " %") if "accuracy" in data else ("loss", "")
    ylabel = ylabel.format(score) + " (%)" * (score == "accuracy")
    data[score] *= _scale(score)
    groups = [group for group in GROUPS if (data["group"] == group).any()]
    with seaborn(AXES) as sns:
        figure = Picture(figsize=(1.6 + 4.2 * len(groups), 3.6), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
            sns.lineplot(
                data[data["group"] == group], ax=axes, x=x, y=score, errorbar=None,
                legend="auto" if group == groups[-1] else False, **style,
            )  # fmt: skip
            axes.set(title=GROUPS[group], xlabel=xlabel, ylabel=ylabel)
    sns.move_legend(figure.axes[-1], "center left", bbox_to_anchor=(1.02, 0.5), title=legend_title)
    last = data[data["group"] == groups[-1]].groupby("method", sort=False).last()
    shown = "{:.0f}" if unit else "{:.2g}"
    rows = last.rename(index=names).iterrows()
    ends = ", ".join(f"{name} {shown.format(row[score])}{unit} at {row[x]:g}" for name, row in rows)
    figure.alt = f"Lines of {ylabel} against {xlabel}; {GROUPS[groups[-1]]}: {ends}."
    return figure


def _draw_bands(figure: Picture, results: Mapping[str, Result], looks: Mapping[str, Look]) -> None:
    for axes in figure.axes:
        for label, result in results.items():
            group = result.agents[result.agents["group"].map(GROUPS) == axes.get_title()]
            score = "accuracy" if "accuracy" in group else "loss"
            scores = group.groupby("fine_tune_steps")[score]
            low, high = (_scale(score) * scores.quantile(share) for share in (0.1, 0.9))
            axes.fill_between(low.index, low, high, color=looks[label].colour, alpha=0.15, linewidth=0, zorder=0.5)
    figure.alt += " Bands hold the middle 80 % of the agents."


def _from_zero(figure: Picture) -> Picture:
    for axes in figure.axes:
        if axes.get_ylabel().startswith("loss"):
            axes.set_ylim(bottom=0)
    return figure


def _scale(score: str) -> float:
    return 100.0 if score == "accuracy" else 1.0


def _draw_strip(axes: Axes, bar: Axes, federation: Federation, holder: str | None) -> None:
    """Draw label_counts as a strip: agents across, classes down, and next to it what its colours mean."""
    shares = shares_held(federation)
    import seaborn as sns  # noqa: F401  it brings the colours; not its style, which is of the whole process

    drawn = axes.imshow(shares.to_numpy().T, aspect="auto", interpolation="nearest", **SHARES)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(drawn, cax=bar, ticks=(0, 0.5, 1))
    axes.grid(False)
    right = "; right of the line: new agents" if federation.n_new_agents else ""
    axes.set(yticks=[], xlabel=f"agent{right}", ylabel="class")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    if federation.names is not None and len("  ".join(federation.names)) < 100:  # so that they fit in one line
        axes.set_xticks(range(len(shares)), map(literal, federation.names), fontsize="small")
    if federation.n_new_agents:
        axes.axvline(federation.n_agents - 0.5, color="tab:blue", linewidth=2)
    title = "who holds what" if holder is None else f"who holds what with {literal(holder)}"
    axes.set_title(title, fontsize="medium", loc="left")
    bar.set_ylabel("share", fontsize="medium")
