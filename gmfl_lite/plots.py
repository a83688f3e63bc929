"""Figures of who holds what, how training goes, and what fine-tuning gains.

Every function returns a Picture: a matplotlib Figure that no global state knows of, so that it can be made in any
thread, with a text that says what is to be seen, for those who cannot see it.
"""

import io
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import checks
from .data import Dataset
from .federation import Federation, rotate
from .heterogeneity import label_heterogeneity
from .runner import Result

_TITLES = {"trained": "agents trained on", "new": "new agents"}
MOST_BANDS = 4
"""More bands than this over each other cannot be told apart."""

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
        self.savefig(png, format="png", dpi=100, pil_kwargs={"optimize": True})
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
        f"Heat map of {n_agents} agents by {n_classes} classes: an agent holds {_range(counts.sum(axis=1))} samples "
        f"of {_range(shown)} classes."
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


def images(pictures: Mapping[str, torch.Tensor], *, alt: str) -> Picture:
    """Draw images [C, H, W] side by side, each below its name; what is not finite or beyond [0, 1] is cut off.

    Examples
    --------
    >>> figure = images({"dark": torch.zeros(1, 8, 8), "light": torch.ones(1, 8, 8)}, alt="Two squares.")
    """
    figure = Picture(figsize=(1.55 * len(pictures), 1.75), layout="constrained")
    for axes, (name, image) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True):
        _draw_image(axes, image.nan_to_num(0.0).clamp(0, 1))
        axes.set_title(name, fontsize="small")
    figure.alt = alt
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
            f"{label}: mean {values.mean():.2f}",
            (0.99, 0.85),
            xycoords="axes fraction",
            ha="right",
            va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # the line at the mean may pass below it
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
    after = "ν fine-tuning steps" if fine_tune_steps is None else _steps(fine_tune_steps)
    return _accuracy_lines(frames, "round", "communication rounds", f"accuracy after {after} (%)")


def accuracy_against_steps(results: Mapping[str, Result]) -> Picture:
    """Draw the adaptation curve: accuracy against fine-tuning steps, trained-on and new agents side by side.

    Lines are means over agents; a band around each holds the middle 80 % of them, where at most four results are drawn.

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
    if len(results) <= MOST_BANDS:
        _draw_bands(figure, results)
    return figure


def exploration(
    histories: Mapping[str, pd.DataFrame],
    federation: Federation | None,
    *,
    fine_tune_steps: int,
    rounds: int | None = None,
    reference: str | None = None,
    holder: str | None = None,
) -> Picture:
    """Draw new agents' accuracy against rounds and against fine-tuning steps, and below it who holds what.

    Made to be drawn again and again while training runs: a tenth of a second, where the other figures take more.

    Parameters
    ----------
    histories : label -> Result.history or its beginning, without any row if there is nothing to draw yet.
    federation : the agents, to draw below who holds what; None draws that strip empty.
    fine_tune_steps : after how many steps to draw accuracy against rounds.
    rounds : how many there will be, so that the axis stands still while a curve grows.
    reference : the label of a curve to draw in grey.
    holder : the name of the run that `federation` belongs to, where other runs have another.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(rounds=10)
    >>> history = gl.run(experiment, progress=False).history
    >>> figure = exploration({"ν = 3": history}, gl.build_federation(experiment), fine_tune_steps=3)
    """
    # Those that were trained on are drawn only where none are new.
    group = next((h["group"].iloc[-1] for h in histories.values() if len(h)), "new")
    drawn = {label: h[h["group"] == group] for label, h in histories.items() if len(h)}
    legend_rows = -(-len(drawn) // 3)
    inches = {"top": 0.35, "plot": 2.6, "legend": 0.9 + 0.22 * legend_rows, "strip": 0.75, "bottom": 0.45}
    height = sum(inches.values())
    figure = Picture(figsize=(6.8, height), dpi=100)

    def place(left: float, bottom: float, width: float, tall: float) -> Axes:
        axes = figure.add_axes((left, bottom / height, width, tall / height))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        return axes

    floor = inches["bottom"] + inches["strip"] + inches["legend"]
    against_rounds, against_steps = (place(left, floor, 0.4, inches["plot"]) for left in (0.09, 0.585))
    ends = []
    for (label, history), style in zip(drawn.items(), _styles(drawn, reference), strict=True):
        after = history[history["fine_tune_steps"] == fine_tune_steps]
        last = history[history["round"] == history["round"].iloc[-1]]
        against_rounds.plot(after["round"].to_numpy(), 100 * after["accuracy"].to_numpy(), label=label, **style)
        against_steps.plot(last["fine_tune_steps"].to_numpy(), 100 * last["accuracy"].to_numpy(), **style)
        reached = 100 * after["accuracy"].iloc[-1]
        ends.append(f"{label} {reached:.0f} % after round {after['round'].iloc[-1]}")
    against_steps.axvline(fine_tune_steps, color="0.6", linewidth=1, zorder=0)
    against_rounds.set(xlabel="communication rounds", ylabel="accuracy (%)", xlim=(0, rounds))
    against_steps.set(xlabel="fine-tuning steps on own data")
    against_rounds.set_title(f"{_TITLES[group]}, after {_steps(fine_tune_steps)}", fontsize="medium", loc="left")
    against_steps.set_title(f"{_TITLES[group]}, last round drawn", fontsize="medium", loc="left")
    for axes in (against_rounds, against_steps):
        axes.set_ylim(0, 100)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    if drawn:
        figure.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, (floor - 0.5) / height),
            ncols=min(3, len(drawn)),
            frameon=False,
            fontsize="medium",
            handlelength=3.5,
        )
    strip = place(0.09, inches["bottom"], 0.895, inches["strip"])
    figure.alt = (
        f"Accuracy of {_TITLES[group]} after {_steps(fine_tune_steps)} against communication rounds, and against "
        f"fine-tuning steps: {'; '.join(ends) if ends else 'nothing yet'}."
    )
    if federation is None:
        strip.set_axis_off()
        return figure
    _draw_strip(strip, federation, holder)
    of_run = "" if holder is None else f" with {holder}"
    figure.alt += (
        f" Below, who holds what{of_run}: {len(federation.sizes)} agents by {len(federation.classes)} classes."
    )
    return figure


def curves(
    panels: Mapping[str, pd.DataFrame],
    *,
    xlabel: str,
    ylabel: str,
    alt: str,
    log: str = "",
    ylim: tuple[float | None, float | None] | None = None,
    mark_lowest: bool = False,
    columns: int = 4,
) -> Picture:
    """Draw tables as lines: a panel for each table, a line for each of its columns, against its index.

    Lines of one name look alike in all panels; few points are marked.

    Parameters
    ----------
    panels : title -> DataFrame.
    xlabel, ylabel : of all panels.
    alt : what a reader who cannot see the picture should know.
    log : axes with a logarithmic scale: "", "x", "y" or "xy".
    ylim : lower and upper end of the vertical axes; None is free.
    mark_lowest : put a marker at the lowest point of every line.
    columns : how many panels side by side.

    Raises
    ------
    ValueError : no panels.

    Examples
    --------
    >>> table = pd.DataFrame({"w": [0.0, 0.5, 1.0], "w²": [0.0, 0.25, 1.0]}, index=[0.0, 0.5, 1.0])
    >>> figure = curves({"": table}, xlabel="w", ylabel="value", alt="w² is below w between 0 and 1.")
    """
    if not isinstance(panels, Mapping) or not panels:
        raise checks.refusal("panels", panels, "a non-empty dict of title -> DataFrame")
    names = list(dict.fromkeys(str(name) for frame in panels.values() for name in frame))
    colours = _colours(names)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with sns.axes_style("white", _STYLE):
        size = (min(5.2 if columns == 1 else 2.8 * columns, 9.2) + 1.6, 0.6 + (2.9 if rows == 1 else 2.1 * rows))
        figure = Picture(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.alt = alt
    handles = {}
    for axes, (title, frame) in zip(grid.flat, panels.items(), strict=False):
        for name, values in frame.items():
            number = names.index(str(name))
            marks = {"marker": "osD^vXP"[number % 7], "markersize": 5}
            if mark_lowest:
                marks["markevery"] = [int(np.argmin(values))]
            elif len(frame) > 15:
                marks = {}
            style = ("-", "--", "-.", ":")[number % 4]
            handles[str(name)] = axes.plot(
                frame.index, values, label=str(name), color=colours[str(name)], linestyle=style, **marks
            )[0]
        axes.set(title=title, xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear")
        if "x" not in log and pd.api.types.is_integer_dtype(frame.index):
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    if ylim is not None:
        grid[0, 0].set_ylim(ylim)
    low, high = grid[0, 0].get_ylim()
    if "y" in log and high < 100 * low:  # too few powers of ten for a scale
        axis = grid[0, 0].yaxis
        axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(xlabel, fontsize="medium")
    figure.supylabel(ylabel, fontsize="medium")
    if len(handles) > 1:
        figure.legend(handles.values(), handles, loc="outside right center", frameon=False)
    return figure


def sweep(
    frame: pd.DataFrame,
    *,
    x: str,
    hue: str | None = None,
    y: str = "accuracy",
    fine_tune_steps: int | None = None,
    log: bool = False,
) -> Picture:
    """Draw means over seeds with 95 % bootstrap intervals, trained-on and new agents side by side.

    Runs that failed or diverged are left out, and the picture says how many.

    Parameters
    ----------
    frame : what `gmfl_lite.sweep` gave, or rows of it.
    x, hue : the columns across, and told apart by colour, marker and line; a column of words is drawn without lines.
    y : "accuracy" or "worst_decile_accuracy", both drawn in percent, or "loss".
    fine_tune_steps : after how many steps to draw; by default all where x or hue is "fine_tune_steps", else the most.
    log : a logarithmic horizontal axis.

    Raises
    ------
    ValueError : a column that is not there; something other than the seed that varies and is neither x nor hue, so that
        the intervals would not be over seeds alone; nothing to draw.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> base = gl.Experiment(model="softmax", rounds=2, n_agents=10, n_new_agents=5)
    >>> frame = gl.sweep({"nu": [0, 1], "local_steps": [1, 5], "seed": range(2)}, base, progress=False)
    >>> figure = sweep(frame, x="nu", hue="local_steps")
    """
    data, left_out = _comparable(frame, x, hue, y, fine_tune_steps)
    percent = "" if y == "loss" else " (%)"
    data[y] *= 100 if percent else 1
    steps = data["fine_tune_steps"].unique()
    after = f" after {_steps(int(steps[0]))}" if len(steps) == 1 else ""
    words = [] if pd.api.types.is_numeric_dtype(data[x]) else list(data[x].unique())
    named = data[x]
    data[x] = named.map({word: place for place, word in enumerate(words)}) if words else named
    style = {"marker": "o"}
    if words and hue is not None:  # beside each other, so that no interval hides another
        hues = list(data[hue].unique())
        data[x] += data[hue].map({value: 0.5 * (i + 0.5) / len(hues) - 0.25 for i, value in enumerate(hues)})
    if hue is not None:
        data[hue] = [value if isinstance(value, str) else f"{value:g}" for value in data[hue]]
        style = {"hue": hue, "style": hue, "palette": _colours(data[hue].unique()), "markers": True, "dashes": True}
    groups = [group for group in _TITLES if (data["group"] == group).any()]
    with sns.axes_style("white", _STYLE):
        figure = Picture(figsize=(1.6 + 4.2 * len(groups), 3.6), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
            shown = data[data["group"] == group]
            interval = {"errorbar": ("ci", 95), "seed": 0, "err_style": "bars", "err_kws": {"capsize": 3}}
            sns.lineplot(shown, ax=axes, x=x, y=y, **style, **interval)
            if words:
                axes.set_xticks(range(len(words)), words, rotation=25, ha="right", rotation_mode="anchor")
                for line in axes.get_lines():
                    line.set_linestyle("")
            axes.set(title=_TITLES[group], ylabel=f"{y.replace('_', ' ')}{after}{percent}")
            if log:
                axes.set_xscale("log")
    for axes in figure.axes[:-1] if hue is not None else ():
        axes.get_legend().remove()
    if hue is not None:
        sns.move_legend(figure.axes[-1], "center left", bbox_to_anchor=(1.02, 0.5))
    if left_out:
        figure.suptitle(f"{left_out} failed or diverged and not drawn", fontsize="medium")
    data[x] = named
    said = data[data["group"] == groups[-1]]
    if hue is not None and not words:  # where the lines end
        said = said[said[x] == said[x].max()]
    cells = said.groupby([name for name in (hue, x) if name is not None], sort=False)[y]
    means = ", ".join(f"{' at '.join(map(str, key))} {values.mean():.3g}" for key, values in cells)
    figure.alt = (
        f"Means over seeds, with 95 % intervals, of {y.replace('_', ' ')}{after}{percent} against {x}; "
        f"{_TITLES[groups[-1]]}: {means}. Runs that failed or diverged, not drawn: {left_out or 'none'}."
    )
    return figure


def mismatch(tables: Mapping[str, pd.DataFrame], *, label: str) -> Picture:
    """Draw losses of models trained for ν steps (down) and deployed with ν′ steps (across) as heat maps.

    Colours are by the logarithm, dark for high; the lowest value of each column is framed.

    Parameters
    ----------
    tables : title -> DataFrame [trained × deployed] of positive numbers, as `theory.Quadratics.mismatch` gives.
    label : what the numbers are, for those who cannot see the picture.

    Raises
    ------
    ValueError : no tables.

    Examples
    --------
    >>> from gmfl_lite import theory
    >>> agents = theory.Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]])
    >>> figure = mismatch({"two agents": agents.mismatch([0, 1, 5], 0.5)}, label="mean loss")
    """
    if not isinstance(tables, Mapping) or not tables:
        raise checks.refusal("tables", tables, "a non-empty dict of title -> DataFrame")
    with sns.axes_style("white"):
        figure = Picture(figsize=(min(4.7 * len(tables), 11), 3.6), layout="constrained")
        grid = figure.subplots(1, len(tables), squeeze=False)[0]
    said = []
    for axes, (title, table) in zip(grid, tables.items(), strict=True):
        texts = table.map(lambda value: f"{value:.2g}")
        norm = LogNorm(table.to_numpy().min(), table.to_numpy().max())
        sns.heatmap(table, ax=axes, cmap="rocket_r", norm=norm, annot=texts, fmt="", cbar=False)
        axes.set(title=title, xlabel="deployed with ν′ steps", ylabel="trained for ν steps")
        axes.tick_params(axis="both", rotation=0, length=0)
        for column, row in enumerate(table.to_numpy().argmin(axis=0)):
            axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="tab:blue", linewidth=2, clip_on=False))
        own = (table.idxmin() == table.columns).sum()
        said.append(f"{title}: in {own} of {table.shape[1]} columns the lowest value is where trained equals deployed")
    figure.alt = f"Heat maps of {label}, trained (rows) by deployed (columns). " + "; ".join(said) + "."
    return figure


def bound_terms(table: pd.DataFrame) -> Picture:
    """Draw bounds as stacked bars of their terms, one bar for each row, and a diamond at what was measured.

    Parameters
    ----------
    table : rows of `theory.beside_bound`: measured, transient, drift, bias, noise, sampling, …; the index names them.

    Examples
    --------
    >>> row = {"measured": 0.1, "transient": 0.1, "drift": 0.05, "bias": 0.0, "noise": 0.0, "sampling": 0.1}
    >>> figure = bound_terms(pd.DataFrame([row], index=["τ = 5"]))
    """
    terms = [name for name in ("transient", "drift", "sampling", "noise", "bias") if (table[name] > 0).any()]
    with sns.axes_style("white", _STYLE):
        figure = Picture(figsize=(8.2, 1.0 + 0.42 * len(table)), layout="constrained")
        axes = figure.subplots()
    start = np.zeros(len(table))
    hatches = {"transient": "", "drift": "//", "sampling": "..", "noise": "xx", "bias": "\\\\"}
    for name, colour in zip(terms, sns.color_palette("colorblind", len(terms)), strict=True):
        style = {"color": colour, "hatch": hatches[name], "edgecolor": "white", "linewidth": 0.5}
        axes.barh(table.index, table[name], left=start, label=name, **style)
        start = start + table[name].to_numpy()
    axes.plot(table["measured"], table.index, "D", color="black", markersize=6, label="measured")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("mean of ‖∇F‖² over the rounds")
    figure.legend(loc="outside right center", frameon=False)
    said = "; ".join(
        f"{row}: measured {values['measured']:.2g}, bound {sum(values[name] for name in terms):.2g}"
        for row, values in table.iterrows()
    )
    figure.alt = f"Stacked bars of the terms {', '.join(terms)}, and what was measured. {said}."
    return figure


def _comparable(
    frame: pd.DataFrame, x: str, hue: str | None, y: str, fine_tune_steps: int | None
) -> tuple[pd.DataFrame, str]:
    """Return the rows to draw, in which nothing but the seed varies beside x and hue, and a count of those left out."""
    across = [name for name in (x, hue) if name is not None]
    for name in (*across, y, "status", "group", "fine_tune_steps"):
        if name not in frame:
            raise checks.refusal("x, hue or y", name, f"one of the frame's columns {list(frame)}")
    data = frame[frame["status"] == "completed"].copy()
    if "fine_tune_steps" not in across:
        there = sorted(int(steps) for steps in data["fine_tune_steps"].unique())
        wanted = max(there, default=0) if fine_tune_steps is None else fine_tune_steps
        if there and wanted not in there:
            raise checks.refusal("fine_tune_steps", wanted, f"one that was evaluated: {there}")
        data = data[data["fine_tune_steps"] == wanted]
    if data.empty:
        raise ValueError("frame: holds no completed run to draw")
    cell = list(dict.fromkeys([*across, "group", "fine_tune_steps"]))
    free = {*cell, "seed", "status", "message", "loss", "accuracy", "worst_decile_accuracy"}
    varying = [name for name in data if name not in free and (data.groupby(cell)[name].nunique(dropna=False) > 1).any()]
    if varying:
        raise checks.refusal("x and hue", across, f"such that beside them only the seed varies, not {varying}")
    bad = frame[frame["status"] != "completed"]
    settings = [name for name in frame if name not in free - set(across) - {"seed"} and name != "round"]
    count = len(bad.drop_duplicates(settings))
    return data, f"{count} run{'s' * (count != 1)}" if count else ""


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
            axes.set(title=_TITLES[group], xlabel=xlabel, ylabel=ylabel)
    for axes in figure.axes[:-1]:
        axes.get_legend().remove()
    sns.move_legend(figure.axes[-1], "center left", bbox_to_anchor=(1.02, 0.5), title=None)
    last = data[data["group"] == groups[-1]].groupby("method", sort=False).last()
    ends = ", ".join(f"{label} {row.accuracy:.0f} % at {row[x]:g}" for label, row in last.iterrows())
    figure.alt = f"Lines of {ylabel} against {xlabel}; {_TITLES[groups[-1]]}: {ends}."
    return figure


def _draw_bands(figure: Picture, results: Mapping[str, Result]) -> None:
    colours = _colours(results)
    for axes in figure.axes:
        for label, result in results.items():
            group = result.agents[result.agents["group"].map(_TITLES) == axes.get_title()]
            band = 100 * group.groupby("fine_tune_steps")["accuracy"].quantile([0.1, 0.9]).unstack()
            style = {"color": colours[label], "alpha": 0.15, "linewidth": 0, "zorder": 0.5}
            axes.fill_between(band.index, band[0.1], band[0.9], **style)
    figure.axes[-1].get_legend().set_title("line: mean over agents\nband: middle 80 % of them")
    figure.alt += " Bands hold the middle 80 % of the agents."


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
        palette=_colours(data["method"].unique()),
        errorbar=None,
    )


def _colours(labels: Iterable[str]) -> dict[str, tuple]:
    """Give every label a colour; a label that begins with FedAvg has the first one in every figure."""
    ordered = sorted(labels, key=lambda label: not label.startswith("FedAvg"))
    return dict(zip(ordered, sns.color_palette("colorblind", len(ordered)), strict=True))


def _styles(labels: Mapping[str, object], reference: str | None) -> list[dict]:
    colours = sns.color_palette("colorblind", max(1, len(labels)))
    lines, markers = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1))), "osD^vXPp"
    styles = []
    for number, label in enumerate(labels):
        style = {"color": colours[number], "linestyle": lines[number % len(lines)], "linewidth": 1.8}
        style |= {"marker": markers[number % len(markers)], "markersize": 5, "clip_on": False}
        styles.append(style if label != reference else {**style, "color": "0.5", "linestyle": ":", "marker": "."})
    return styles


def _draw_strip(axes: Axes, federation: Federation, holder: str | None) -> None:
    """Draw label_counts as a strip: agents across, classes down, darker = more samples."""
    counts = federation.label_counts.to_numpy()
    axes.imshow(counts.T, aspect="auto", cmap="rocket_r", vmin=0, interpolation="nearest")
    axes.grid(False)
    axes.set(yticks=[], xlabel="agent", ylabel="class")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    title = "who holds what (darker = more samples)" if holder is None else f"who holds what with {holder}"
    if federation.n_new_agents:
        axes.axvline(federation.n_agents - 0.5, color="tab:blue", linewidth=2)
        title += "; right of the line: new agents"
    axes.set_title(title, fontsize="medium", loc="left")


def _range(numbers: pd.Series) -> str:
    lowest, highest = numbers.min(), numbers.max()
    return f"{lowest}" if lowest == highest else f"{lowest} to {highest}"


def _steps(number: int) -> str:
    return f"{number} fine-tuning step" + "s" * (number != 1)
