"""Run notebooks with papermill: refresh the committed outputs, or print the last table of one.

python tools/notebooks.py link notebooks/*.ipynb      (all of them: each to the one before and the one after)
python tools/notebooks.py refresh notebooks/*.ipynb
python tools/notebooks.py demo notebooks/00-start-here.ipynb
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill


def execute(source: Path, target: Path, parameters: dict | None = None) -> nbformat.NotebookNode:
    """Run a notebook in its own folder, refusing parameters that it does not have."""
    known = papermill.inspect_notebook(str(source))
    unknown = set(parameters or {}) - set(known)
    if unknown:
        raise ValueError(f"{source.name} has no parameter {sorted(unknown)}; it has {sorted(known)}")
    papermill.execute_notebook(
        str(source),
        str(target),
        parameters or {},
        cwd=str(source.parent),
        kernel_name="python3",
        progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # a kernel of our own need not warn of its connection
    )
    return nbformat.read(target, as_version=4)


def refresh(path: Path) -> None:
    """Run a notebook with its defaults and store its outputs, without what differs from run to run."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(path, Path(folder) / path.name)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        for output in cell.get("outputs", []):  # a widget is gone with its kernel: what stays is its text
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    nbformat.write(notebook, path)


def linked(notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, nbformat.NotebookNode]:
    """Return notebooks, by file name in reading order, whose first and last cells point to their neighbours."""
    names = list(notebooks)
    titles = {name: notebook.cells[0].source.split("\n")[0].lstrip("# ") for name, notebook in notebooks.items()}

    def link(word: str, name: str | None) -> str:
        return "" if name is None else f"\n\n{word}: [{titles[name].split(':')[0]}]({name})"

    for position, notebook in enumerate(notebooks.values()):
        before = names[position - 1] if position else None
        after = names[position + 1] if position + 1 < len(names) else None
        for cell, word, neighbour in ((notebook.cells[0], "Before", before), (notebook.cells[-1], "Next", after)):
            kept = [line for line in cell.source.split("\n") if not line.startswith(f"{word}: [")]
            cell.source = "\n".join(kept).rstrip() + link(word, neighbour)
    return notebooks


def demo(path: Path) -> None:
    """Run a notebook and print the text of the last table that it shows."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"running {path} (a minute or two) …", flush=True)
        notebook = execute(path, Path(folder) / path.name)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    print([output.data["text/plain"] for output in outputs if "text/html" in output.get("data", {})][-1])


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # bars are for people who wait; a stored one shows nothing
    command, *paths = sys.argv[1:]
    if command == "link":
        read = {Path(path).name: nbformat.read(path, as_version=4) for path in sorted(paths)}
        for path, notebook in zip(sorted(paths), linked(read).values(), strict=True):
            nbformat.write(notebook, path)
    else:
        for path in paths:
            {"refresh": refresh, "demo": demo}[command](Path(path))
