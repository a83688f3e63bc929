"""Every door into a notebook: badges to run it elsewhere, and a first cell that installs the library where it is not.

The repository and the version are in pyproject.toml. Colab and Kaggle open the notebooks of the version's tag, which
install the library of that tag, so that the two fit each other. Binder builds the newest state of both.
"""

import posixpath
import re
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
TAG = f"v{PROJECT['version']}"
HERE = f"{REPOSITORY}/blob/HEAD/"
"""Where a link from a notebook into the repository begins; relative ones lead nowhere on Colab and Kaggle."""

EXTRAS = {
    "10-real-federation": ("flower", "flwr"),
    "11-many-machines": ("dask", "distributed"),
    "13-your-own-data": ("people", "seglearn"),
}
"""Of a notebook that needs more than the library: the extra that has it, and the package that this is about.

Not the extra `notebooks`: Colab and Kaggle have a Jupyter of their own, which another one's packages would break.
"""

CELL = "install"
"""The first code cell's id."""

_BADGES = {
    "Binder": "https://mybinder.org/badge_logo.svg",
    "Colab": "https://colab.research.google.com/assets/colab-badge.svg",
    "Kaggle": "https://kaggle.com/static/images/open-in-kaggle.svg",
}
_RELATIVE = re.compile(r"\]\((?!https?:|attachment:|#)(?![\w-]+\.ipynb\))([^)\s]+)\)")


def addresses(name: str) -> dict[str, str]:
    """Return where a notebook can be run without installing anything."""
    path = REPOSITORY.removeprefix("https://github.com/")
    return {
        "Binder": f"https://mybinder.org/v2/gh/{path}/HEAD?urlpath=lab/tree/notebooks/{name}",
        "Colab": f"https://colab.research.google.com/github/{path}/blob/{TAG}/notebooks/{name}",
        "Kaggle": f"https://kaggle.com/kernels/welcome?src={REPOSITORY}/blob/{TAG}/notebooks/{name}",
    }


def badges(name: str) -> str:
    """Return the line of badges below a notebook's title."""
    return " ".join(f"[![Open in {door}]({_BADGES[door]})]({to})" for door, to in addresses(name).items())


def links(name: str) -> str:
    """Return the same without pictures."""
    return " · ".join(f"[{door}]({to})" for door, to in addresses(name).items())


def install(name: str) -> str:
    """Return the source of a notebook's first code cell.

    No call of Colab's `enable_custom_widget_manager`, which is for other packages' widgets: the panel is made of
    ipywidgets' own, and Colab's version of ipywidgets stays in place.
    """
    extra, _ = EXTRAS.get(Path(name).stem, ("", ""))
    package = PROJECT["name"] + (f"[{extra}]" if extra else "")
    return (
        "from importlib.util import find_spec\n\n"
        f'if find_spec("{PROJECT["name"]}") is None:  # on Colab, on Kaggle: it takes a minute\n'
        f'    %pip install -q "{package} @ git+{REPOSITORY}@{TAG}"'
    )


def open_doors(name: str, notebook: nbformat.NotebookNode) -> None:
    """Write badges, first cell and links into the repository, in place of those that are there."""
    title, *rest = notebook.cells[0].source.split("\n")
    kept = "\n".join(line for line in rest if not line.startswith("[![")).strip()
    notebook.cells[0].source = f"{title}\n\n{badges(name)}\n\n{kept}"
    found = [cell for cell in notebook.cells if cell.id == CELL] or [_added(notebook)]
    found[0].source = install(name)
    notebook.cells[1:] = found + [cell for cell in notebook.cells[1:] if cell.id != CELL]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _RELATIVE.sub(lambda found: f"]({_absolute(found[1])})", cell.source)


def relative_links(notebook: nbformat.NotebookNode) -> list[str]:
    """Return links that work in the repository only; those to the notebooks next to this one may stay relative."""
    return _RELATIVE.findall("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"))


def _absolute(target: str) -> str:
    """Return a link from the folder of the notebooks as one from anywhere.

    >>> _absolute("../docs/own-data.md#images").removeprefix(REPOSITORY)
    '/blob/HEAD/docs/own-data.md#images'
    """
    return HERE + posixpath.normpath(posixpath.join("notebooks", target))


def _added(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an empty first code cell; the others count on as if it had been run before them, in silence."""
    run = [part for cell in notebook.cells for part in (cell, *cell.get("outputs", [])) if part.get("execution_count")]
    for part in run:
        part.execution_count += 1
    return nbformat.v4.new_code_cell(id=CELL, execution_count=1 if run else None)
