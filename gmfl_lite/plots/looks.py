"""How curves look: a method has one colour and one marker in every figure, whatever else is drawn with it.

The colour says ν where the gradient is exact and the server averages; what departs from that has a colour of its own.
Curves of one method, on other data or with other local steps, are shades of its colour with dashes of their own.
"""

import re
import zlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.colors import to_rgb

from ..experiment import Experiment
from ..methods import methods

Colour = tuple[float, float, float]

PALETTE: list[Colour] = [
    to_rgb(colour)
    for colour in (
        "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9",
    )
]  # fmt: skip
"""seaborn's "colorblind"."""
MORE: list[Colour] = [to_rgb(colour) for colour in ("#56b4e9", "#332288", "#882255", "#999933")]
"""Colours that nobody confuses with the first six of the palette, whichever colours he sees (Paul Tol's)."""
OF_NU = {
    0: (PALETTE[0], "o"), 1: (PALETTE[1], "s"), 2: (PALETTE[2], "D"), 3: (PALETTE[3], "^"), 5: (PALETTE[4], "v"),
    10: (PALETTE[5], "X"),
}  # fmt: skip
OF_A_DEPARTURE = {
    "first_order": (MORE[0], "P"), "truncated": (MORE[1], "d"), "hessian_free": (MORE[2], "p"),
    "reptile": (MORE[3], "*"), "head": (MORE[0], "h"), "body": (MORE[1], "H"), "momentum": (MORE[2], "<"),
    "adam": (MORE[1], ">"), "proximal": (MORE[2], "8"),
}  # fmt: skip
MARKERS = "osD^vXPp"
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1, 1), (3, 1.25, 1.5, 1.25), (5, 1, 1, 1, 1, 1))
"""Lengths of ink and gap, in widths of the line; none: solid."""

Label = TypeVar("Label", bound=Hashable)


class Method(NamedTuple):
    """What makes a method: ν, and by what it departs from the exact gradient, averaged, of which all is fine-tuned."""

    nu: int
    departs: str = ""


@dataclass(frozen=True)
class Look:
    """A curve's colour, marker and dashes."""

    colour: Colour
    marker: str
    dashes: tuple[float, ...] = ()

    @property
    def line(self) -> dict[str, Any]:
        """What matplotlib's `plot` takes."""
        return {"color": self.colour, "marker": self.marker, "linestyle": (0, self.dashes) if self.dashes else "-"}


def method_of(settings: Mapping[str, Any]) -> Method:
    """Return the method that settings make, as `gmfl_lite.methods` holds them or `vars` of an Experiment.

    >>> method_of(methods["ANIL"]), method_of(vars(Experiment(nu=3)))
    (Method(nu=1, departs='head'), Method(nu=3, departs=''))
    """
    s = settings
    departures = (
        s["personal"] if s["personal"] != "all" else "",
        s["gradient"] if s["gradient"] != "exact" and s["nu"] else "",
        s["server"] if s["server"] != "average" else "",
        "proximal" if s["proximal"] else "",
    )
    return Method(s["nu"], next(filter(None, departures), ""))


def method_named(label: str) -> Method | None:
    """Return the method that a label names, if it names one.

    >>> method_named("MLP, Per-FedAvg (ν = 1)"), method_named("ν = 3, τ = 10"), method_named("τ = 10")
    (Method(nu=1, departs=''), Method(nu=3, departs=''), None)
    """
    for name in sorted(methods, key=len, reverse=True):
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", label):
            baseline = {"meta_lr", "eval_steps"} & methods[name].keys()
            return Method(0, name) if baseline else method_of(methods[name])
    found = re.search(r"ν = (\d+)", label)
    if found is None:
        return None
    words = label.replace("-", "_")
    return Method(int(found[1]), next((departure for departure in OF_A_DEPARTURE if departure in words), ""))


def looks_of(labels: Iterable[Label], experiments: Mapping[Label, Experiment] | None = None) -> dict[Label, Look]:
    """Give every label of a figure its look: that of the method that its experiment is, or else that it names.

    Labels that are of no method have what is left, in their order.

    >>> looks = looks_of(["ν = 3", "FedAvg (ν = 0)"])
    >>> looks == looks_of(["FedAvg (ν = 0)", "ν = 3"]), looks["ν = 3"] == looks_of(["ν = 3"])["ν = 3"]
    (True, True)
    """
    labels = list(labels)
    found = {label: method_named(str(label)) for label in labels}
    found |= {label: method_of(vars(experiment)) for label, experiment in (experiments or {}).items()}
    alike: dict[tuple[Colour, str], list[Label]] = {}
    for label, method in found.items():
        if method is not None:
            alike.setdefault(_of_a_method(method), []).append(label)
    looks = {label: look for same, group in alike.items() for label, look in _variants(*same, group)}
    used = {colour for colour, _ in alike}
    free = [place for place, colour in enumerate(PALETTE) if colour not in used]
    others = [label for label in labels if label not in looks]
    for number, label in enumerate(others):
        place = free[number % len(free)]
        looks[label] = Look(PALETTE[place], MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)])
    return {label: looks[label] for label in labels}


def seaborn_style(by: str, looks: Mapping[str, Look]) -> dict[str, Any]:
    """Return how seaborn's `lineplot` is told the looks of what a column names."""
    return {
        "hue": by,
        "style": by,
        "hue_order": list(looks),
        "style_order": list(looks),
        "palette": {label: look.colour for label, look in looks.items()},
        "markers": {label: look.marker for label, look in looks.items()},
        "dashes": {label: look.dashes or "" for label, look in looks.items()},
    }


def _of_a_method(method: Method) -> tuple[Colour, str]:
    if not method.departs:
        nu = method.nu
        return OF_NU[nu] if nu in OF_NU else (MORE[nu % len(MORE)], "Phd8p"[nu % 5])
    if method.departs in OF_A_DEPARTURE:
        return OF_A_DEPARTURE[method.departs]
    number = zlib.crc32(method.departs.encode())
    return MORE[number % len(MORE)], "Ppdh*8"[number % 6]


def _variants(colour: Colour, marker: str, labels: Sequence[Label]) -> Iterable[tuple[Label, Look]]:
    """Yield the looks of curves of one method: the same whatever their order, from light to dark as numbers rise."""
    shades = np.linspace(-0.5, 0.5, len(labels)) if len(labels) > 2 else (0.0, 0.45)
    for number, (label, shade) in enumerate(zip(sorted(labels, key=_by_number), shades, strict=False)):
        towards = 1.0 if shade < 0 else 0.0
        r, g, b = (part + abs(float(shade)) * (towards - part) for part in colour)
        yield label, Look((r, g, b), marker, DASHES[number % len(DASHES)])


def _by_number(label: Hashable) -> list[tuple[bool, float, str]]:
    """Return what sorts labels as a reader does, 2 before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(label))
    return [(number % 2 == 1, float(part) if number % 2 else 0.0, part) for number, part in enumerate(parts)]
