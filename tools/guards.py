"""What keeps a committed notebook from being read, compared and trusted: functions that list what is wrong."""

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill

MEMORY_GB = 1.0
"""What Binder guarantees, in units of 2³⁰ bytes as there and in all of this: no notebook's kernel may reach it."""

OVERRUN = 1.5
"""How many times what a notebook states it may take …"""

SLACK_SECONDS = 10
"""… after so many seconds for a cold start on a busy machine."""

STATED = re.compile(r"\*Time: (\d+) seconds on two cores([^.]*)\. Memory: (\d\.\d\d) GB\.")

_LINK = re.compile(r"\]\((?!https?:|attachment:)([^)#\s]*)(?:#([^)\s]*))?\)")
_LOCAL_PATH = re.compile(r"/(home|root|Users|tmp|work)/")
_HEADING = re.compile(r"^#+ (.*)$", flags=re.MULTILINE)


class Cost(NamedTuple):
    """What running a notebook takes."""

    seconds: float
    gigabytes: float


def stated_cost(notebook: nbformat.NotebookNode) -> Cost | None:
    """Return what the notebook's first cell says of its time and memory."""
    found = STATED.search(notebook.cells[0].source)
    return Cost(int(found[1]), float(found[3])) if found else None


def overruns(stated: Cost, measured: Cost) -> list[str]:
    """Say where a notebook took more than it may.

    >>> overruns(Cost(30, 0.5), Cost(80.0, 1.2))
    ['took 80 s, states 30 s', 'took 1.20 GB, states 0.50 GB', 'took 1.20 GB, must stay under 1 GB']
    """
    wrong = []
    if measured.seconds > OVERRUN * stated.seconds + SLACK_SECONDS:
        wrong.append(f"took {measured.seconds:.0f} s, states {stated.seconds:.0f} s")
    if measured.gigabytes > OVERRUN * stated.gigabytes:
        wrong.append(f"took {measured.gigabytes:.2f} GB, states {stated.gigabytes:.2f} GB")
    if measured.gigabytes >= MEMORY_GB:
        wrong.append(f"took {measured.gigabytes:.2f} GB, must stay under {MEMORY_GB:g} GB")
    return wrong


def faults(path: Path) -> list[str]:
    """Say what is wrong with a notebook as it is committed, without running it."""
    notebook, text = nbformat.read(path, as_version=4), path.read_text(encoding="utf-8")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tags = [tag for cell in code for tag in cell.metadata.get("tags", [])]
    outputs = [output for cell in code for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    parameters = papermill.inspect_notebook(str(path)).values()
    checks = {
        "the first cell does not say what it demonstrates": "demonstrates" in notebook.cells[0].source,
        "the first cell does not state time and memory": stated_cost(notebook) is not None,
        "not exactly one cell is tagged parameters": tags.count("parameters") == 1,
        "a parameter has no comment": all(p["help"] for p in parameters if p["name"] != "seed"),
        "parameters were injected": "injected-parameters" not in tags,
        "cells were not run once, in order": [cell.execution_count for cell in code] == list(range(1, len(code) + 1)),
        "no table is checked": any("text/html" in output.get("data", {}) for output in outputs),
        "no picture": bool(pictures),
        "a picture has no alternative text": all(o.metadata.get("image/png", {}).get("alt") for o in pictures),
        "an image in the text has no alternative text": "![](" not in text,
        "an error is among the outputs": not any(output.output_type == "error" for output in outputs),
        "warnings are among the outputs": not any(output.get("name") == "stderr" for output in outputs),
        "widget state was stored": "jupyter.widget-" not in text,
        "a path of one machine": not _LOCAL_PATH.search(text),
        "500 kB or more": path.stat().st_size < 500_000,
    }
    return [wrong for wrong, fine in checks.items() if not fine]


def broken_links(notebook: nbformat.NotebookNode, folder: Path) -> list[str]:
    """Return the relative links of a notebook in `folder` that lead to no file or to no heading of it."""
    broken = []
    for target, heading in _LINK.findall("\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")):
        file = folder / target
        found = file.is_file() if target else True
        if found and heading:
            text = file.read_text(encoding="utf-8") if target else "\n".join(cell.source for cell in notebook.cells)
            found = heading in {_anchor(title) for title in _HEADING.findall(text)}
        if not found:
            broken.append(f"{target}#{heading}" if heading else target)
    return broken


def _anchor(title: str) -> str:
    """Return GitHub's name for a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
