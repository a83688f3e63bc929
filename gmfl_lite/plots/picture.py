"""What all figures share: a Picture with words for those who cannot see it, the look of axes, colours."""

import io
from collections.abc import Iterable

import seaborn as sns
from matplotlib.figure import Figure
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


def colours_of(labels: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """Give every label a colour; a label that begins with FedAvg has the first one in every figure."""
    ordered = sorted(labels, key=lambda label: not label.startswith("FedAvg"))
    return dict(zip(ordered, sns.color_palette("colorblind", len(ordered)), strict=True))


def steps_in_words(number: int) -> str:
    """Return "1 fine-tuning step", "2 fine-tuning steps", …"""
    return f"{number} fine-tuning step" + "s" * (number != 1)
