"""Make what README and CONTRIBUTING show of the library: an adaptation curve, and which module imports which.

python tools/pictures.py      (or: make pictures)
"""

import os
import re
from collections import Counter
from graphlib import TopologicalSorter

import matplotlib
from house import PLAN, ROOT, imports, places, rooms
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

import gmfl_lite as gl

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "adaptation.png"
MODULES = ROOT / "docs" / "modules.svg"


def example(readme: str) -> str:
    """Return the Python that README shows first."""
    return re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL)[1]


def make_picture() -> str:
    """Run README's example, keep the picture that it saves, and return what is to be seen there."""
    names = {}
    os.chdir(PICTURE.parent)
    exec(compile(example(README.read_text(encoding="utf-8")), "README.md", "exec"), names)
    alt = gl.plots.accuracy_against_steps(names["results"]).alt
    text = PngImagePlugin.PngInfo()
    text.add_itxt("Description", alt)
    Image.open(PICTURE).quantize(64).save(PICTURE, pnginfo=text, optimize=True)
    return alt


def essential(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out every import that follows from others, so that the picture stays readable."""
    reached: dict[str, set[str]] = {}
    for name in TopologicalSorter(graph).static_order():  # raises CycleError where two modules import each other
        reached[name] = set().union(*(reached[other] | {other} for other in graph[name]))
    return {name: others - set().union(*(reached[other] for other in others)) for name, others in graph.items()}


def draw_modules(graph: dict[str, set[str]]) -> None:
    """Draw which room imports which, what follows from others left out; the picture also says it in words."""
    place, sizes = places(), packages(graph)
    right, ground = (max(ends) for ends in zip(*place.values(), strict=True))
    figure = Figure(figsize=(9, 0.55 * (ground + 1)), layout="constrained")
    axes = figure.add_subplot(xlim=(-7, right + 6), ylim=(ground + 0.6, -0.6))
    axes.set_axis_off()
    top = -0.5
    for number, (caption, floor) in enumerate(PLAN.items()):
        bottom = top + len(floor.split("\n")) - 2
        axes.axhspan(top, bottom, color=("0.97", "0.93")[number % 2], lw=0, zorder=0)
        axes.text(-6.5, (top + bottom) / 2, caption, va="center", fontsize=9, color="0.4")
        top = bottom
    for room, others in essential(rooms(graph)).items():
        for other in sorted(others):
            axes.plot(*zip(place[room], place[other], strict=True), color="0.6", lw=0.9, zorder=1)
    for room, (x, y) in place.items():
        label = f"{room}\n{sizes[room]} modules" if room in sizes else room
        box = {
            "boxstyle": "round,pad=0.35",
            "facecolor": "#cfe8e4" if room in sizes else "white",
            "edgecolor": "#009485",
        }
        axes.text(x, y, label, ha="center", va="center", fontsize=9, linespacing=1.1, zorder=2, bbox=box)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gmfl_lite"}):
        figure.savefig(MODULES, metadata={"Date": None, "Description": in_words(graph)})


def packages(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return how many modules each package holds behind its face."""
    return Counter(name.split(".")[0] for name in graph if "." in name)


def in_words(graph: dict[str, set[str]]) -> str:
    """Return the same as a text."""
    arrows, sizes = essential(rooms(graph)), packages(graph)
    named = {room: f"{room} ({sizes[room]} modules)" if room in sizes else room for room in sorted(arrows)}
    return "; ".join(
        f"{name} imports {', '.join(sorted(arrows[room]))}" for room, name in named.items() if arrows[room]
    )


def replaced(text: str, name: str, content: str) -> str:
    """Put content between <!-- name --> and <!-- end -->."""
    return re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    draw_modules(imports())
    picture = f"![{make_picture()}](docs/adaptation.png)"
    README.write_text(replaced(README.read_text(encoding="utf-8"), "picture", picture), encoding="utf-8")
