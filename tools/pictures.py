"""Make what README and CONTRIBUTING show of the library: an adaptation curve, and which module imports which.

python tools/pictures.py      (or: make pictures)
"""

import ast
import os
import re
from graphlib import TopologicalSorter
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

import gmfl_lite as gl

ROOT = Path(__file__).parent.parent
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


def imports(package: Path = ROOT / "gmfl_lite") -> dict[str, set[str]]:
    """Return, for each module, the modules of the package that it imports when it runs (not only for its types)."""
    modules = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.glob("[!_]*.py"))}
    found = {}
    for name, tree in modules.items():
        blocks = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ]
        for_types = {inner for block in blocks for inner in ast.walk(block)}
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
        found[name] = set()
        for node in set(nodes) - for_types:
            found[name] |= {node.module} if node.module else {alias.name for alias in node.names}
    return {name: others & modules.keys() for name, others in found.items()}


def essential(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out every import that follows from others, so that the picture stays readable."""
    reached: dict[str, set[str]] = {}
    for name in TopologicalSorter(graph).static_order():  # raises CycleError where two modules import each other
        reached[name] = set().union(*(reached[other] | {other} for other in graph[name]))
    return {name: others - set().union(*(reached[other] for other in others)) for name, others in graph.items()}


def storeys(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the modules by how many others stand below them, above what they import, near their neighbours."""
    height: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        height[name] = 1 + max((height[other] for other in graph[name]), default=-1)
    rows = [[name for name in sorted(graph) if height[name] == level] for level in range(max(height.values()) + 1)]
    linked = {name: others | {other for other in graph if name in graph[other]} for name, others in graph.items()}
    for _ in range(20):  # move each module over the mean of those that it is linked with
        place = {name: (position + 0.5) / len(row) for row in rows for position, name in enumerate(row)}
        for row in rows:
            row.sort(key=lambda name: sum(place[other] for other in linked[name]) / max(1, len(linked[name])))
    return rows


def draw_modules(graph: dict[str, set[str]]) -> None:
    """Draw which module imports which, what follows from others left out; the picture also says it in words."""
    rows, arrows = storeys(graph), essential(graph)
    place = {name: ((i + 0.5) / len(row), level) for level, row in enumerate(rows) for i, name in enumerate(row)}
    figure = Figure(figsize=(9, 0.62 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1), ylim=(-0.5, len(rows) - 0.5))
    axes.set_axis_off()
    for name, others in arrows.items():
        for other in sorted(others):
            axes.plot(*zip(place[name], place[other], strict=True), color="0.6", lw=0.8, zorder=0)
    for name, (x, level) in place.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#e6f2f0", "edgecolor": "#009485"}
        axes.text(x, level, name, ha="center", va="center", fontsize=9, bbox=box)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gmfl_lite"}):
        figure.savefig(MODULES, metadata={"Date": None, "Description": in_words(graph)})


def in_words(graph: dict[str, set[str]]) -> str:
    """Return the same as a text."""
    arrows = {name: sorted(others) for name, others in sorted(essential(graph).items())}
    return "; ".join(f"{name} imports {', '.join(others)}" for name, others in arrows.items() if others)


def replaced(text: str, name: str, content: str) -> str:
    """Put content between <!-- name --> and <!-- end -->."""
    return re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    draw_modules(imports())
    picture = f"![{make_picture()}](docs/adaptation.png)"
    README.write_text(replaced(README.read_text(encoding="utf-8"), "picture", picture), encoding="utf-8")
