"""Which method leads where, as a map."""

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ..basics import checks
from .picture import Picture, literal, seaborn
from .tables import into_words

FIRST, SECOND = "#f4a259", "#7fb7e6"
"""The colours of cells in which the first or the second method leads; black is read on both."""
LONG = 16
"""Letters of a line; longer names are broken."""


def leads(table: pd.DataFrame, *, down: str, across: str, panel: str) -> Picture:
    """Draw a map of who leads: a cell for each comparison of two methods, or of the best of two families of methods.

    Where the interval leaves out zero, the cell has a colour and names the leader, its lead in points, and the method
    that it leads. Where it does not, the cell is white and names both. The interval is below.

    Parameters
    ----------
    table : a row for each comparison: `one` and `other`, two methods; `lead` of the first, and the interval of it, or
        of the difference of the two families, from `low` to `high`, in points; and the columns named next.
    down, across : the columns that tell apart the rows and the columns of cells.
    panel : the column that tells apart the panels: what is compared.

    Raises
    ------
    ValueError : a column that is not there, two comparisons for one cell, nothing to draw.

    Examples
    --------
    >>> found = {"against": "averaging", "shots": ["1", "5"], "deployed": 1, "one": "ν = 1", "other": "FedAvg"}
    >>> table = pd.DataFrame({**found, "lead": [14.2, -0.5], "low": [10.2, -3.1], "high": [18.2, 2.1]})
    >>> figure = leads(table, down="shots", across="deployed", panel="against")
    """
    if not isinstance(table, pd.DataFrame):
        raise checks.refusal("table", table, "a DataFrame with a row for each comparison")
    where = [panel, down, across]
    missing = [name for name in (*where, "one", "other", "lead", "low", "high") if name not in table]
    if missing:
        raise checks.refusal("table", list(table), f"one with the columns {checks.few(missing)}")
    if table.empty or table.duplicated(where).any():
        raise ValueError("table: must hold one comparison, and not two, for each cell that is drawn")
    shown = table.copy()
    panels, rows, columns = (into_words(shown, name) for name in where)
    with seaborn():
        size = (2.3 + 1.55 * len(columns) * len(panels), 1.0 + len(rows))
        figure = Picture(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, title in zip(grid, panels, strict=True):
        axes.set(title=literal(title), xlabel=literal(across), xlim=(0, len(columns)), ylim=(len(rows), 0))
        for axis, names in ((axes.xaxis, columns), (axes.yaxis, rows)):
            axis.set_ticks([place + 0.5 for place in range(len(names))], [literal(name) for name in names])
        axes.tick_params(length=0)
    grid[0].set_ylabel(literal(down))
    cells: dict[str, list[str]] = {title: [] for title in panels}
    for comparison in shown.to_dict("records"):
        title, row, column = (comparison[name] for name in where)
        _draw(grid[panels.index(title)], (columns.index(column), rows.index(row)), comparison)
        cells[title].append(f"{down} {row}, {across} {column}: {_in_words(comparison)}")
    each = "; ".join(f"{title}, {'; '.join(of)}" for title, of in cells.items())
    figure.alt = f"Map of leads in points. {each}."
    return figure


def _draw(axes: Axes, at: tuple[int, int], comparison: Mapping[Any, Any]) -> None:
    x, y = at
    leader, lead, led = _who_leads(comparison)
    colour = {comparison["one"]: FIRST, comparison["other"]: SECOND}.get(leader, "white")
    axes.add_patch(Rectangle(at, 1, 1, facecolor=colour, edgecolor="0.7"))
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    interval = f"{comparison['low']:.1f} to {comparison['high']:.1f}".replace("-", "−")
    if leader:
        axes.text(x + 0.5, y + 0.25, _broken(leader), weight="bold", size=8.5, **middle)
        axes.text(x + 0.5, y + 0.58, _broken(f"+{lead:.1f} over {led}"), size=8, **middle)
    else:
        said = f"{_broken(comparison['one'])} or\n{_broken(led)}"
        axes.text(x + 0.5, y + 0.42, said, size=8, color="0.35", **middle)
    axes.text(x + 0.5, y + 0.86, interval, size=7, color="0.25", **middle)


def _broken(name: str) -> str:
    """Break a long name into lines, not within τ = 5."""
    return "\n".join(textwrap.wrap(literal(name).replace(" = ", "\u00a0=\u00a0"), LONG)).replace("\u00a0", " ")


def _who_leads(comparison: Mapping[Any, Any]) -> tuple[str, float, str]:
    """Return the method whose lead is clear, by how much, and the other one; "" where neither does."""
    one, other, lead = (comparison[name] for name in ("one", "other", "lead"))
    if comparison["low"] > 0:
        return one, lead, other
    if comparison["high"] < 0:
        return other, -lead, one
    return "", lead, other


def _in_words(comparison: Mapping[Any, Any]) -> str:
    leader, lead, led = _who_leads(comparison)
    return f"{leader} leads {led} by {lead:.1f}" if leader else f"{comparison['one']} or {led}, not sure"
