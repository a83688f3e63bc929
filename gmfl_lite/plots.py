"""Figures of who holds what, how training goes, and what fine-tuning gains.

Every function returns a Picture: a matplotlib Figure that no global state knows of, so that it can be made in any
thread, with a text that says what is to be seen, for those who cannot see it.
"""

import io
from collections.abc import Mapping, Sequence

import matplotlib.ticker
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import checks
from .data import Dataset
from .federation import Federation, rotate
from .heterogeneity import label_heterogeneity
from .runner import Result

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


class Picture(Figure):
    """A matplotlib Figure that shows itself in a notebook as a PNG with an alternative text."""

    alt = ""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=100)
        return {"image/png": png.getvalue(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def label_counts(federation: Federation) -> Picture:
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
        figure = Picture(figsize=(min(4 + 0.12 * n_agents, 11), 1.4 + 0.24 * n_classes), layout="constrained")
        axes = figure.subplots()
        sns.heatmap(
            counts.T,
            ax=axes,
            cmap="rocket_r",
            vmin=0,
            xticklabels=-(-n_agents // 20),
            cbar_kws={"label": "samples"},
        )
    axes.set(xlabel="agent", ylabel="class")
    axes.tick_params(axis="both", rotation=0, length=0)
    if federation.n_new_agents:
        axes.axvline(federation.n_agents, color="tab:blue", linewidth=2)
        axes.annotate(
            "new agents →",
            (federation.n_agents, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 3),
            textcoords="offset points",
            color="tab:blue",
        )
    shown = (counts > 0).sum(axis=1)
    figure.alt = (
        f"Heat map of {n_agents} agents by {n_classes} classes: an agent holds {counts.sum(axis=1).min()} to "
        f"{counts.sum(axis=1).max()} samples of {shown.min()} to {shown.max()} classes."
    )
    return figure


def examples(federation: Federation, agents: Sequence[int] | None = None) -> Picture:
    """Draw what each agent files under each class: one training image per agent (down) and class (across).

    Renamed classes show as different images in one column, turned images as turned, missing classes as gaps.

    Parameters
    ----------
    federation : the agents and their images.
    agents : which agents to show; by default the first four.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> figure = examples(gl.build_federation(gl.Experiment(permuted_classes=10)), agents=range(3))
    """
    agents = list(range(min(4, len(federation.sizes))) if agents is None else agents)
    shape = (len(agents), len(federation.classes))
    figure = Picture(figsize=(0.8 + 0.7 * shape[1], 0.5 + 0.72 * shape[0]), layout="constrained")
    grid = figure.subplots(*shape, squeeze=False)
    for row, agent in zip(grid, agents, strict=True):
        x, y = federation.train(agent)
        for label, axes in enumerate(row):
            _draw_image(axes, x[y == label][0] if (y == label).any() else None)
        row[0].set_ylabel(f"agent {agent}", rotation=0, ha="right", va="center")
    for axes, name in zip(grid[0], federation.classes, strict=True):
        axes.set_title(f"“{name}”", fontsize="medium")
    figure.alt = f"One training image of every class, by the names that agents {agents} use themselves."
    return figure


def rotations(
    federation: Federation, dataset: Dataset, agents: Sequence[int] | None = None, n_images: int = 3
) -> Picture:
    """Draw the same images (down) as each agent sees them (across), turned by the agent's own angle.

    Parameters
    ----------
    federation, dataset : the agents, and the images before they were dealt out.
    agents : which agents to show; by default the first eight.
    n_images : how many images, the first ones of different classes.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(max_rotation=60)
    >>> figure = rotations(gl.build_federation(experiment), gl.load_dataset(experiment.dataset))
    """
    agents = list(range(min(8, len(federation.sizes))) if agents is None else agents)
    rows = [int((dataset.y == label).nonzero()[0]) for label in dataset.y.unique()[:n_images]]
    figure = Picture(figsize=(0.3 + 0.9 * len(agents), 0.4 + 0.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(agents), squeeze=False)
    for column, agent in zip(grid.T, agents, strict=True):
        degrees = float(federation.rotations[agent])
        column[0].set_title(f"agent {agent}\n{degrees:+.0f}°", fontsize="medium")
        for axes, image in zip(column, rotate(dataset.x[rows], degrees), strict=True):
            _draw_image(axes, image)
    angles = federation.rotations[agents]
    figure.alt = (
        f"The same {len(rows)} images at {len(agents)} agents, turned by {min(angles):.0f}° to {max(angles):.0f}°."
    )
    return figure


def label_distances(federations: Mapping[str, Federation]) -> Picture:
    """Draw how far agents' mixes of classes are from the average: a histogram of total variation per federation.

    Parameters
    ----------
    federations : label -> Federation, drawn one below the other on one scale.

    Raises
    ------
    ValueError : no federations.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> base = gl.Experiment()
    >>> federations = {f"α = {a}": gl.build_federation(base.replace(dirichlet_alpha=a)) for a in (0.1, 1, 10)}
    >>> figure = label_distances(federations)
    """
    if not isinstance(federations, Mapping) or not federations:
        raise checks.refusal("federations", federations, "a non-empty dict of label -> Federation")
    distances = {label: label_heterogeneity(f)["total_variation"] for label, f in federations.items()}
    with sns.axes_style("white", _STYLE):
        figure = Picture(figsize=(6.5, 0.8 + 0.75 * len(distances)), layout="constrained")
        grid = figure.subplots(len(distances), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    colours = sns.color_palette("colorblind", len(distances))
    for axes, (label, values), colour in zip(grid, distances.items(), colours, strict=True):
        sns.histplot(values, ax=axes, binrange=(0, 1), bins=40, stat="percent", color=colour)
        axes.axvline(values.mean(), color="black", linestyle="--", linewidth=1)
        axes.set(ylabel="", xlim=(0, 1))
        axes.annotate(
            f"{label}: mean {values.mean():.2f}", (0.99, 0.85), xycoords="axes fraction", ha="right", va="top"
        )
    grid[-1].set_xlabel("total variation between an agent's mix of classes and the average")
    figure.supylabel("agents (%)", fontsize="medium")
    means = ", ".join(f"{label} {values.mean():.2f}" for label, values in distances.items())
    figure.alt = f"Histograms of the total variation between agents' mixes of classes and the average; means: {means}."
    return figure


def accuracy_against_rounds(results: Mapping[str, Result], *, fine_tune_steps: int | None = None) -> Picture:
    """Draw accuracy against communication rounds, trained-on and new agents side by side, one line per result.

    Parameters
    ----------
    results : label -> Result.
    fine_tune_steps : after how many steps of fine-tuning; by default each result's own ν if all have evaluated that,
        else the most steps that all have.

    Raises
    ------
    ValueError : no results, or a number of steps that some result did not evaluate.
    """
    evaluated = {label: set(result.history["fine_tune_steps"]) for label, result in _checked(results).items()}
    own = {label: result.experiment.nu for label, result in results.items()}
    if fine_tune_steps is None and any(own[label] not in steps for label, steps in evaluated.items()):
        fine_tune_steps = max(set.intersection(*evaluated.values()), default=None)
    frames = {}
    for label, result in results.items():
        steps = own[label] if fine_tune_steps is None else fine_tune_steps
        if steps not in evaluated[label]:
            raise checks.refusal("fine_tune_steps", steps, f"one that {label!r} evaluated: {sorted(evaluated[label])}")
        frames[label] = result.history[result.history["fine_tune_steps"] == steps]
    after = "ν fine-tuning steps" if fine_tune_steps is None else f"{fine_tune_steps} fine-tuning steps"
    return _accuracy_lines(frames, "round", "communication rounds", f"accuracy after {after} (%)")


def accuracy_against_steps(results: Mapping[str, Result]) -> Picture:
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


def _accuracy_lines(frames: Mapping[str, pd.DataFrame], x: str, xlabel: str, ylabel: str) -> Picture:
    data = pd.concat([frame.assign(method=label) for label, frame in frames.items()], ignore_index=True)
    data["accuracy"] *= 100
    groups = [group for group in _TITLES if (data["group"] == group).any()]
    with sns.axes_style("white", _STYLE):
        figure = Picture(figsize=(1.6 + 4.2 * len(groups), 3.6), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
            _draw_lines(axes, data[data["group"] == group], x)
            axes.set(
                title=f"{ {'trained': 'agents trained on', 'new': 'new agents'}[group] }", xlabel=xlabel, ylabel=ylabel
            )
    for axes in figure.axes[:-1]:
        axes.get_legend().remove()
    sns.move_legend(figure.axes[-1], "center left", bbox_to_anchor=(1.02, 0.5), title=None)
    last = data[data["group"] == groups[-1]].groupby("method", sort=False).last()
    ends = ", ".join(f"{label} {row.accuracy:.0f} % at {row[x]:g}" for label, row in last.iterrows())
    figure.alt = f"Lines of {ylabel} against {xlabel}; {_TITLES[groups[-1]]}: {ends}."
    return figure


def _draw_image(axes: Axes, image: torch.Tensor | None) -> None:
    axes.set(xticks=[], yticks=[], frame_on=False)
    if image is not None:
        axes.imshow(image.permute(1, 2, 0).squeeze().numpy(force=True), cmap="gray_r", vmin=0, vmax=1)


def _draw_lines(axes: Axes, data: pd.DataFrame, x: str) -> None:
    sns.lineplot(
        data,
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
