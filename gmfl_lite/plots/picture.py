"""What all figures share: a Picture with words for those who cannot see it, labels, the look of axes."""

import io
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

GROUPS = {"trained": "agents trained on", "new": "new agents"}
AXES = {
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "legend.frameon": False,
}


@contextmanager
def seaborn(changes: dict[str, Any] | None = None) -> Iterator[ModuleType]:
    """Give seaborn in its white style, with changes; its import takes a second, which the panel does not wait for."""
    import seaborn as sns

    with sns.axes_style("white", changes):
        yield sns


class Picture(Figure):
    """A matplotlib Figure that shows itself in a notebook as a PNG of 256 colours with an alternative text."""

    alt = ""

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, bytes | str], dict[str, dict[str, str]]]:
        full, png = io.BytesIO(), io.BytesIO()
        self.savefig(full, format="png", dpi=100)
        # A third of the size, for the eye the same: a stored notebook holds many.
        Image.open(full).convert("RGB").quantize(256).save(png, format="png", optimize=True)
        return {"image/png": png.getvalue(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def words(labels: Iterable[Hashable]) -> dict[Any, str]:
    """Put labels of any kind into words: a word for each, and another one for every other label.

    >>> words([0, 0.1, None, (1, "a")]), words([1, "1"])
    ({0: '0', 0.1: '0.1', None: 'None', (1, 'a'): '(1, a)'}, {1: '1', '1': "'1'"})
    """
    short = {label: word(label) for label in labels}
    times, taken = Counter(short.values()), set()
    for label, text in short.items():
        if times[text] > 1:
            text = repr(label.item() if isinstance(label, np.generic) else label)
        while text in taken:
            text += "′"
        taken.add(text)
        short[label] = text
    return short


def word(label: Any) -> str:
    """Return a single label in words."""
    if isinstance(label, (tuple, list)):
        return f"({', '.join(map(word, label))})"
    if isinstance(label, (bool, np.bool_, Integral)) or not isinstance(label, Real):
        return str(label)
    return f"{label:g}"


def literal(text: str) -> str:
    """Return what matplotlib draws as this text, which would else begin a formula at every second $."""
    return text.replace("$", r"\$")


def entry(text: str) -> str:
    """Return what a legend shows as this text; without a hair space, it leaves out what is empty or begins with _."""
    return literal(text if text and not text.startswith("_") else f"\u200a{text}")


def legend_columns(entries: Sequence[str], most: int, width: float, **how: Any) -> int:
    """Return in how many columns, at most so many, a figure of that width in inches holds a legend of these entries."""
    for columns in range(min(most, len(entries)), 1, -1):
        figure = Figure(figsize=(width, 1))
        legend = figure.legend([Line2D([], []) for _ in entries], entries, ncols=columns, **how)
        if legend.get_window_extent().width <= figure.bbox.width:
            return columns
    return 1


def steps_in_words(number: int) -> str:
    """Return "1 fine-tuning step", "2 fine-tuning steps", …"""
    return f"{number} fine-tuning step" + "s" * (number != 1)
