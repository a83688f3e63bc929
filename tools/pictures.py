"""Make what README and CONTRIBUTING show of the library: the adaptation curve, and who imports whom.

python tools/pictures.py      (or: make pictures)
"""

import ast
import os
import re
from graphlib import TopologicalSorter
from pathlib import Path

from PIL import Image, PngImagePlugin

import gmfl_lite as gl

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "adaptation.png"


def example(readme: str) -> str:
    """Return the Python that README shows first."""
    return re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL)[1]


def make_picture() -> str:
    """Run README's example, keep the picture that it saves, and return what is to be seen there."""
    names = {}
    os.chdir(PICTURE.parent)
    exec(compile(example((ROOT / "README.md").read_text(encoding="utf-8")), "README.md", "exec"), names)
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


def as_mermaid(graph: dict[str, set[str]]) -> str:
    """Return the graph as Mermaid draws it: an arrow means "imports"."""
    arrows = [f"    {name} --> {other}" for name in sorted(graph) for other in sorted(graph[name])]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"])


def replaced(text: str, name: str, content: str) -> str:
    """Put content between <!-- name --> and <!-- end -->."""
    return re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    for document, name, content in (
        ("README.md", "picture", f"![{make_picture()}](docs/adaptation.png)"),
        ("CONTRIBUTING.md", "modules", as_mermaid(essential(imports()))),
    ):
        path = ROOT / document
        path.write_text(replaced(path.read_text(encoding="utf-8"), name, content), encoding="utf-8")
