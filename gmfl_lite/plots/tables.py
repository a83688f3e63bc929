"""Tables as figures: lines, means over seeds with intervals, heat maps, stacked bars."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from ..basics import checks
from ..evaluation import ACCURACIES
from .looks import looks_of, seaborn_style
from .picture import AXES, GROUPS, Picture, entry, literal, seaborn, steps_in_words, word, words


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

    Lines of one name look alike in all panels; of many points up to eight are marked.

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
    names = words(name for frame in panels.values() for name in frame)
    titles, looks = words(panels), looks_of(names.values())
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with seaborn(AXES):
        size = (min(5.2 if columns == 1 else 2.8 * columns, 9.2) + 1.6, 0.6 + (2.9 if rows == 1 else 2.1 * rows))
        figure = Picture(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.alt = alt
    handles = {}
    for axes, (title, frame) in zip(grid.flat, panels.items(), strict=False):
        measured = pd.api.types.is_numeric_dtype(frame.index) or isinstance(frame.index, pd.DatetimeIndex)
        across = frame.index if measured else _ticks(frame.index)
        for number, (name, values) in enumerate(frame.items()):
            style = {**looks[names[name]].line, "markersize": 5}
            if mark_lowest:
                style["markevery"] = [int(np.argmin(values))]
            elif len(frame) > 15:
                style["markevery"] = _marked(frame, "x" in log)[number :: frame.shape[1]]
            handles[entry(names[name])] = axes.plot(across, values, label=entry(names[name]), **style)[0]
        scales = {f"{axis}scale": "log" if axis in log else "linear" for axis in "xy"}
        axes.set(title=literal(titles[title]), **scales)
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
    y : "accuracy", "worst_decile_accuracy" or "best_decile_accuracy", drawn in percent, or "loss".
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
    after = f" after {steps_in_words(int(steps[0]))}" if len(steps) == 1 else ""
    said = data.copy()
    style: dict[str, Any] = {"marker": "o"}
    marks = [] if _is_scale(data[x]) else into_words(said, x)
    if marks:
        data[x] = said[x].map(marks.index)
    if hue is not None:
        hues = into_words(said, hue)
        if marks:  # side by side, so that no interval hides another
            data[x] += (said[hue].map(hues.index) + 0.5) / (2 * len(hues)) - 0.25
        names = {entry(name): f"ν = {name}" if hue == "nu" else name for name in hues}
        data[hue] = said[hue].map(entry)
        style = seaborn_style(hue, {label: looks_of(names.values())[name] for label, name in names.items()})
    groups = [group for group in GROUPS if (data["group"] == group).any()]
    with seaborn(AXES) as sns:
        figure = Picture(figsize=(1.6 + 4.2 * len(groups), 3.6), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
            shown = data[data["group"] == group]
            sns.lineplot(
                shown, ax=axes, x=x, y=y, legend="auto" if group == groups[-1] else False,
                errorbar=("ci", 95), seed=0, err_style="bars", err_kws={"capsize": 3}, **style,
            )  # fmt: skip
            if marks:
                axes.set_xticks(range(len(marks)), map(literal, marks), rotation=25, ha="right", rotation_mode="anchor")
                for line in axes.get_lines():
                    line.set_linestyle("")
            axes.set(title=GROUPS[group], ylabel=f"{y.replace('_', ' ')}{after}{percent}")
            if log:
                axes.set_xscale("log")
    if hue is not None:
        sns.move_legend(figure.axes[-1], "center left", bbox_to_anchor=(1.02, 0.5))
    if left_out:
        figure.suptitle(f"{left_out} failed or diverged and not drawn", fontsize="medium")
    said = said[said["group"] == groups[-1]]
    if hue is not None and not marks:  # where the lines end
        said = said[said[x] == said[x].max()]
    cells = said.groupby([name for name in (hue, x) if name is not None], sort=False)[y]
    means = ", ".join(f"{' at '.join(map(str, key))} {values.mean():.3g}" for key, values in cells)
    figure.alt = (
        f"Means over seeds, with 95 % intervals, of {y.replace('_', ' ')}{after}{percent} against {x}; "
        f"{GROUPS[groups[-1]]}: {means}. Runs that failed or diverged, not drawn: {left_out or 'none'}."
    )
    return figure


def mismatch(tables: Mapping[str, pd.DataFrame], *, label: str) -> Picture:
    """Draw losses of models trained for ν steps (down) and deployed with ν′ steps (across) as heat maps.

    Colours are by the logarithm, dark for high; the lowest value of each column is framed, and printed with as many
    digits as tell it from the others.

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
    with seaborn() as sns:
        figure = Picture(figsize=(min(4.7 * len(tables), 11), 3.6), layout="constrained")
        grid = figure.subplots(1, len(tables), squeeze=False)[0]
    said = []
    for axes, (title, table) in zip(grid, zip(words(tables).values(), tables.values(), strict=True), strict=True):
        shown = table.set_axis(_ticks(table.index)).set_axis(_ticks(table.columns), axis=1)
        norm = LogNorm(table.to_numpy().min(), table.to_numpy().max())
        texts = _told_apart(shown)
        wide = 99 * figure.get_figwidth() / grid.size / shown.shape[1]  # of a cell, in letters of one point
        kws = {"size": min(11, wide / texts.map(len).to_numpy().max())}
        sns.heatmap(shown, ax=axes, cmap="rocket_r", norm=norm, annot=texts, annot_kws=kws, fmt="", cbar=False)
        axes.set(title=literal(title), xlabel="deployed with ν′ steps", ylabel="trained for ν steps")
        axes.tick_params(axis="both", rotation=0, length=0)
        for column, row in enumerate(table.to_numpy().argmin(axis=0)):
            axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="tab:blue", linewidth=2, clip_on=False))
        own = (table.idxmin() == table.columns).sum()
        said.append(f"{title}: in {own} of {table.shape[1]} columns the lowest value is where trained equals deployed")
    figure.alt = f"Heat maps of {label}, trained (rows) by deployed (columns). " + "; ".join(said) + "."
    return figure


def _told_apart(table: pd.DataFrame) -> pd.DataFrame:
    """Return numbers as texts of two digits, with more where a column's lowest would look like another one.

    >>> _told_apart(pd.DataFrame({"a": [1.0, 1.004, 2.0]}))["a"].to_list()
    ['1', '1.004', '2']
    """
    return table.apply(_column_told_apart)


def _column_told_apart(column: pd.Series) -> list[str]:
    lowest, digits = column.min(), np.full(len(column), 2)
    for _ in range(6):
        texts = [f"{value:.{many}g}" for value, many in zip(column, digits, strict=True)]
        alike = np.array(texts) == texts[int(column.to_numpy().argmin())]
        if not (alike & (column.to_numpy() > lowest)).any():
            break
        digits[alike] += 1
    return texts


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
    if not isinstance(table, pd.DataFrame):
        raise checks.refusal("table", table, "a DataFrame with rows of gmfl_lite.theory.beside_bound")
    terms = [name for name in ("transient", "drift", "sampling", "noise", "bias") if (table[name] > 0).any()]
    with seaborn(AXES) as sns:
        figure = Picture(figsize=(8.2, 1.0 + 0.42 * len(table)), layout="constrained")
        axes = figure.subplots()
    start, places = np.zeros(len(table)), range(len(table))
    hatches = {"transient": "", "drift": "//", "sampling": "..", "noise": "xx", "bias": "\\\\"}
    for name, colour in zip(terms, sns.color_palette("colorblind", len(terms)), strict=True):
        axes.barh(
            places, table[name], left=start, label=name, color=colour, hatch=hatches[name], edgecolor="white",
            linewidth=0.5,
        )  # fmt: skip
        start = start + table[name].to_numpy()
    axes.set_yticks(places, _ticks(table.index))
    axes.plot(table["measured"], places, "D", color="black", markersize=6, label="measured")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("mean of ‖∇F‖² over the rounds")
    figure.legend(loc="outside right center", frameon=False)
    said = "; ".join(
        f"{word(row)}: measured {values['measured']:.2g}, bound {sum(values[name] for name in terms):.2g}"
        for row, values in table.iterrows()
    )
    figure.alt = f"Stacked bars of the terms {', '.join(terms)}, and what was measured. {said}."
    return figure


def _is_scale(column: pd.Series) -> bool:
    """Say whether all values are numbers, which have their places on an axis."""
    kinds = pd.api.types
    return kinds.is_numeric_dtype(column) and not kinds.is_bool_dtype(column) and not column.isna().any()


def into_words(frame: pd.DataFrame, name: str) -> list[str]:
    """Put a column's values into words, and return the different ones in their order."""
    values = [_hashable(value) for value in frame[name]]
    named = words(values)
    frame[name] = [named[value] for value in values]
    return list(named.values())


def _ticks(values: pd.Index) -> list[str]:
    return [literal(word(value)) for value in values]


def _hashable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    if isinstance(value, float) and math.isnan(value):  # each is another one
        return math.nan
    return value if isinstance(value, Hashable) else repr(value)


def _comparable(
    frame: pd.DataFrame, x: str, hue: str | None, y: str, fine_tune_steps: int | None
) -> tuple[pd.DataFrame, str]:
    """Return the rows to draw, in which only x, hue and the seed vary, and a count of those left out."""
    if not isinstance(frame, pd.DataFrame):
        raise checks.refusal("frame", frame, "a DataFrame, such as gmfl_lite.sweep gives")
    across = [name for name in (x, hue) if name is not None]
    for name in (*across, y, "status", "group", "fine_tune_steps"):
        if name not in frame:
            raise checks.refusal("x, hue or y", name, f"one of the frame's columns: {checks.few(frame, 12)}")
    frame = frame.copy()
    for column in frame.columns:
        if pd.api.types.is_object_dtype(frame[column]):  # it may hold lists, which no table can group by
            values = pd.Series(map(_hashable, frame[column]), frame.index, dtype=object)
            frame[column] = values if values.isna().any() else values.infer_objects()
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
    free = {*cell, "seed", "status", "message", "loss", *ACCURACIES}
    cells = data.groupby(cell, sort=False, dropna=False)
    varying = [name for name in data.columns if name not in free and (cells[name].nunique(dropna=False) > 1).any()]
    if varying:
        raise checks.refusal("x and hue", across, f"such that apart from them only the seed varies, not {varying}")
    bad = frame[frame["status"] != "completed"]
    settings = [name for name in frame if name not in free - set(across) - {"seed"} and name != "round"]
    count = len(bad.drop_duplicates(settings))
    return data, f"{count} run{'s' * (count != 1)}" if count else ""


def _marked(frame: pd.DataFrame, log: bool) -> list[int]:
    """Return which rows have a marker of one of the lines, eight for each, evenly along the axis: lines take turns."""
    ascending = log and frame.index.is_monotonic_increasing and frame.index[0] > 0
    along = np.log(frame.index.to_numpy(float)) if ascending else np.arange(len(frame))
    return np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], 8 * frame.shape[1]))).tolist()
