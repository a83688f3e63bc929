"""Functions of two parameters as pictures: contours, with paths, arrows and points on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .looks import PALETTE
from .picture import Picture, entry, legend_columns, literal, words

GRID, LEVELS = 120, 10
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vXP"


@dataclass(frozen=True, eq=False)
class Landscape:
    """A function to draw and what to draw on it; equal labels look alike in all panels, be it paths, arrows or points.

    Attributes
    ----------
    function : points [N, 2] -> values [N], both float64 tensors.
    paths : label -> points [steps, 2], joined by a line with a marker at every step.
    arrows : label -> (start [2], displacement [2]).
    points : label -> point [2], or several [n, 2].
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    paths: Mapping[str, ArrayLike] = field(default_factory=dict)
    arrows: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    points: Mapping[str, ArrayLike] = field(default_factory=dict)


def landscapes(
    panels: Mapping[str, Landscape],
    *,
    x: tuple[float, float],
    y: tuple[float, float],
    names: Sequence[str] = ("w₁", "w₂"),
    colours: Mapping[str, str] | None = None,
    alt: str,
) -> Picture:
    """Draw landscapes side by side, in one window and with one legend.

    Contours are spaced evenly in the logarithm of the height above the lowest value in the window, so that the bottom
    of a valley shows as well as its walls.

    Parameters
    ----------
    panels : title -> Landscape.
    x, y : the window.
    names : of the two parameters.
    colours : label -> a colour of matplotlib's, of those that have one of their own.
    alt : what a reader who cannot see the picture should know.

    Examples
    --------
    >>> bowl = Landscape(lambda w: (w**2).sum(1), paths={"descent": [[1, 1], [0.5, 0.5]]}, points={"minimum": [0, 0]})
    >>> figure = landscapes({"a bowl": bowl}, x=(-2, 2), y=(-2, 2), alt="A bowl, and two steps towards its bottom.")
    """
    kinds = ("paths", "arrows", "points")
    labels = list(dict.fromkeys(label for panel in panels.values() for kind in kinds for label in getattr(panel, kind)))
    drawn = {label: entry(name) for label, name in words(labels).items()}
    titles = words(panels)
    looks = {label: _look(number, (colours or {}).get(label)) for number, label in enumerate(labels)}
    figure = Picture(figsize=(min(3.6 * len(panels) + 1.2, 11), 4.3), layout="constrained")
    figure.alt = alt
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    horizontal, vertical = np.meshgrid(np.linspace(*x, GRID), np.linspace(*y, GRID))
    grid = torch.from_numpy(np.stack([horizontal.ravel(), vertical.ravel()], axis=1))
    handles: dict[Any, Any] = {}
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        values = panel.function(grid).numpy(force=True).reshape(GRID, GRID)
        ax.contourf(horizontal, vertical, _height(values), levels=LEVELS, cmap="Greys", alpha=0.45)
        ax.contour(horizontal, vertical, _height(values), levels=LEVELS, colors="0.65", linewidths=0.6)
        for label, path in panel.paths.items():
            colour, line, marker = looks[label]
            steps = np.asarray(path, float)
            style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
            handles[label] = ax.plot(*steps.T, label=drawn[label], **style)[0]
        for number, (label, (start, displacement)) in enumerate(panel.arrows.items()):
            handles[label] = ax.quiver(
                *np.asarray(start, float), *np.asarray(displacement, float), color=looks[label][0], label=drawn[label],
                angles="xy", scale_units="xy", scale=1, zorder=4,
                width=max(0.015 - 0.003 * number, 0.006),  # so that an arrow below another one shows
                headwidth=3, headlength=3.5, headaxislength=3.5,
            )  # fmt: skip
        for label, point in panel.points.items():
            colour, _, marker = looks[label]
            style = {"color": colour, "marker": marker, "edgecolor": "black", "linewidth": 0.8, "s": 60, "zorder": 5}
            mark = ax.scatter(*np.asarray(point, float).T, label=drawn[label], **style)
            handles.setdefault(label, mark)  # a path of the same label stands for both
        ax.set(title=literal(titles[title]), xlabel=names[0], xlim=x, ylim=y)
    axes[0].set_ylabel(names[1])
    entries = [drawn[label] for label in handles]
    columns = legend_columns(entries, 4, figure.get_figwidth())
    figure.legend(handles.values(), entries, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _look(number: int, colour: str | None) -> tuple[Any, str, str]:
    return colour or PALETTE[number % len(PALETTE)], LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]


def _height(values: np.ndarray) -> np.ndarray:
    above = values - values.min()
    return np.log(above + 1e-3 * above.max() + np.finfo(float).tiny)
