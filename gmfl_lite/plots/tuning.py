"""What a search for step sizes has tried, as heat maps."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.patches import Rectangle

from ..basics import checks
from .picture import Picture, seaborn

if TYPE_CHECKING:  # its package is above the plots
    from ..sweep import Tuned


def tried(tuned: Tuned) -> Picture:
    """Draw what `gmfl_lite.tune` has tried: a heat map for each pair of settings, with the best framed.

    Accuracies are drawn in percent; without accuracies, losses. A cross is a trial that diverged, white was not tried.
    With more than two settings, a cell shows the best of all trials that share its two values.

    Raises
    ------
    ValueError : something else than what `gmfl_lite.tune` gave.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> base = gl.Experiment(model="softmax", n_agents=10, rounds=3, fine_tune_lr=0.5, meta_lr=0.5)
    >>> figure = tried(gl.tune(base, validation_seeds=[1000], trials=10, progress=False))
    """
    table, settings = getattr(tuned, "table", None), getattr(tuned, "settings", None)
    if table is None or not settings:
        raise checks.refusal("tuned", tuned, "what gmfl_lite.tune gave")
    what, unit, best_of = ("accuracy", " (%)", "max") if "accuracy" in table else ("loss", "", "min")
    shown = table.assign(**{what: table[what] * (100 if unit else 1), "": ""})  # "": what a single setting goes with
    best = pd.Series({**{name: getattr(tuned.best, name) for name in settings}, "": ""})
    pairs = list(combinations(settings, 2)) or [(settings[0], "")]
    with seaborn() as sns:
        figure = Picture(figsize=(5.8 * len(pairs), 4.4 if len(settings) > 1 else 1.7), layout="constrained")
        grid = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, (across, down) in zip(grid, pairs, strict=True):
        cells = shown.pivot_table(what, down, across, best_of, dropna=False)
        sns.heatmap(
            cells, ax=axes, cmap="rocket" if unit else "rocket_r", annot=True, fmt=".3g", annot_kws={"size": 7},
            xticklabels=_short(cells.columns), yticklabels=_short(cells.index), cbar_kws={"label": what + unit},
        )  # fmt: skip
        for x, y in shown[[across, down]].drop_duplicates().itertuples(index=False):
            row, column = cells.index.get_loc(y), cells.columns.get_loc(x)
            if pd.isna(cells.loc[y, x]):
                axes.text(column + 0.5, row + 0.5, "×", ha="center", va="center", color="0.4")
            if (x, y) == (best[across], best[down]):
                axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="tab:blue", linewidth=2))
        axes.set(xlabel=across, ylabel=down)
        axes.tick_params(axis="y", rotation=0, length=0)
        axes.invert_yaxis()
    found = ", ".join(f"{name} = {best[name]:.3g}" for name in settings)
    ranges = "; ".join(f"{name} from {table[name].min():.2g} to {table[name].max():.2g}" for name in settings)
    score = shown.loc[(table[list(settings)] == best[list(settings)]).all(axis=1), what].iloc[0]
    figure.alt = (
        f"Heat map of the {what}{unit} of {len(table)} trials, {(table['status'] == 'diverged').sum()} of which "
        f"diverged: {ranges}. Best, with {score:.3g}: {found}; "
        + ("it may lie further out." if tuned.at_edge else "none of its neighbours is better.")
    )
    return figure


def _short(values: pd.Index) -> list[str]:
    return [value if isinstance(value, str) else f"{value:.2g}" for value in values]
