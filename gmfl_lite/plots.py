"""Figures of who holds what, how training goes, and what fine-tuning gains.

Every function returns a matplotlib Figure that no global state knows of, so that it can be made in any thread.
"""

from collections.abc import Mapping

import matplotlib.ticker
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import checks
from .experiment import Result
from .federation import Federation

_TITLES = {"trained": "agents trained on", "new": "new agents"}
_STYLE = {
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "legend.frameon": False,
}


def label_counts(federation: Federation) -> Figure:
    """Draw who holds what: a heat map, agents across and classes down, coloured by the number of samples.

    A line parts the agents that train from the new ones.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> figure = label_counts(gl.build_federation(gl.Experiment(n_agents=20)))
    """
    counts = federation.label_counts
    n_agents, n_classes = counts.shape
    with sns.axes_style("white"):
        figure = Figure(figsize=(min(4 + 0.12 * n_agents, 11), 1.4 + 0.24 * n_classes), layout="constrained")
        axes = figure.subplots()
        sns.heatmap(
            counts.T,
            ax=axes,
            cmap="rocket_r",
            vmin=0,
            xticklabels=max(1, n_agents // 20),
            cbar_kws={"label": "samples"},
        )
    axes.set(xlabel="agent", ylabel="class")
    axes.tick_params(axis="both", rotation=0, length=0)
    if federation.n_new_agents:
        axes.axvline(federation.n_agents, color="tab:blue", linewidth=2)
        axes.annotate(
            *("new agents →", (federation.n_agents, 1.0)),
            xycoords=("data", "axes fraction"),
            xytext=(2, 3),
            textcoords="offset points",
            color="tab:blue",
        )
    return figure


def accuracy_against_rounds(results: Mapping[str, Result], *, fine_tune_steps: int | None = None) -> Figure:
    """Draw accuracy against communication rounds, trained-on and new agents side by side, one line per result.

    Parameters
    ----------
    results : label -> Result.
    fine_tune_steps : after how many steps of fine-tuning; by default each result's own ν, if that was evaluated, else
        the most that all have.

    Raises
    ------
    ValueError : no results, or a number of steps that some result did not evaluate.
    """
    frames = {}
    for label, result in _checked(results).items():
        evaluated = set(result.history["fine_tune_steps"])
        own = result.experiment.nu if result.experiment.nu in evaluated else max(evaluated)
        steps = own if fine_tune_steps is None else fine_tune_steps
        if steps not in evaluated:
            raise checks.refusal("fine_tune_steps", steps, f"one that {label!r} evaluated: {sorted(evaluated)}")
        frames[label] = result.history[result.history["fine_tune_steps"] == steps]
    after = "ν fine-tuning steps" if fine_tune_steps is None else f"{fine_tune_steps} fine-tuning steps"
    return _accuracy_lines(frames, "round", "communication rounds", f"accuracy after {after} (%)")


def accuracy_against_steps(results: Mapping[str, Result]) -> Figure:
    """Draw the adaptation curve: accuracy against fine-tuning steps, trained-on and new agents side by side.

    Parameters
    ----------
    results : label -> Result; the last evaluation of each is drawn.

    Raises
    ------
    ValueError : no results, or one without any evaluation.
    """
    frames = {
        label: result.history[result.history["round"] == result.history["round"].max()]
        for label, result in _checked(results).items()
    }
    figure = _accuracy_lines(frames, "fine_tune_steps", "fine-tuning steps on own data", "accuracy (%)")
    for axes in figure.axes:
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    return figure


def _checked(results: Mapping[str, Result]) -> Mapping[str, Result]:
    if not isinstance(results, Mapping) or not results:
        raise checks.refusal("results", results, "a non-empty dict of label -> Result")
    for label, result in results.items():
        if not isinstance(result, Result) or result.history.empty:
            raise checks.refusal(f"results[{label!r}]", result, "a Result with at least one evaluation")
    return results


def _accuracy_lines(frames: Mapping[str, pd.DataFrame], x: str, xlabel: str, ylabel: str) -> Figure:
    data = pd.concat([frame.assign(method=label) for label, frame in frames.items()], ignore_index=True)
    data["accuracy"] *= 100
    groups = [group for group in _TITLES if (data["group"] == group).any()]
    with sns.axes_style("white", _STYLE):
        figure = Figure(figsize=(1.6 + 4.2 * len(groups), 3.6), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
            _draw_lines(axes, data[data["group"] == group], x)
            axes.set(
                title=f"{ {'trained': 'agents trained on', 'new': 'new agents'}[group] }", xlabel=xlabel, ylabel=ylabel
            )
    for axes in figure.axes[:-1]:
        axes.get_legend().remove()
    sns.move_legend(figure.axes[-1], "center left", bbox_to_anchor=(1.02, 0.5), title=None)
    return figure


def _draw_lines(axes: Axes, data: pd.DataFrame, x: str) -> None:
    sns.lineplot(
        *(data,),
        ax=axes,
        x=x,
        y="accuracy",
        hue="method",
        style="method",
        markers=True,
        dashes=True,
        palette=sns.color_palette("colorblind", data["method"].nunique()),
        errorbar=None,
    )
