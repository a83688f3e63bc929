"""What keeps a committed notebook from being read, compared and trusted: functions that list what is wrong."""

import ast
import re
import tokenize
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import doors
import nbformat
import tracks

MEMORY_GB = 1.0
"""What Binder guarantees, in units of 2³⁰ bytes as there and in all of this: no notebook's kernel may reach it."""

OVERRUN = 1.5
"""A notebook may take this many times the seconds that it states …"""

SLACK_SECONDS = 2
"""… and this many more for a cold start on a busy machine."""

REFERENCE = 0.2
"""Seconds that five million additions take where the stated times hold; on a slower machine everything takes longer."""

STATED = re.compile(r"\*Time: (\d+) seconds on two cores([^.]*)\. Memory: (\d\.\d\d) GB\.")

CORE, OTHERS = (900, 20), (1200, 25)
"""What a notebook of the core track, and any other one, may have: words of text, lines per cell of code."""

UNCHECKED = ("nbval-ignore-output", "nbval-skip", "NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP")
"""Tags, or comments, of cells whose outputs nbval does not compare."""

_LINK = re.compile(r"\]\((?!attachment:)([^)#\s]*)(?:#([^)\s]*))?\)")
_LOCAL_PATH = re.compile(r"/(home|root|Users|tmp|work)/")
_PATH_IN_THE_REPOSITORY = re.compile(r"""["'](\.\.?/|(\.\.|benchmarks|docs|notebooks|studies|tests|tools)["'/])""")
_HEADING = re.compile(r"^#+ (.*)$", flags=re.MULTILINE)


class Cost(NamedTuple):
    """What running a notebook takes, and how many times as long as elsewhere a machine takes, at that moment."""

    seconds: float
    gigabytes: float
    slowness: float = 1.0

    def as_elsewhere(self) -> "Cost":
        """Return what it would take on a machine on which the same work takes REFERENCE seconds.

        >>> Cost(90.0, 0.5, slowness=2.0).as_elsewhere()
        Cost(seconds=45.0, gigabytes=0.5, slowness=1.0)
        """
        return Cost(self.seconds / self.slowness, self.gigabytes)


def stated_cost(notebook: nbformat.NotebookNode) -> Cost | None:
    """Return what the notebook's first cell says of its time and memory."""
    found = STATED.search(notebook.cells[0].source)
    return Cost(int(found[1]), float(found[3])) if found else None


def overruns(stated: Cost, measured: Cost) -> list[str]:
    """Say where a notebook took more than it may.

    >>> overruns(Cost(30, 0.5), Cost(80.0, 1.2))
    ['took 80 s, states 30 s', 'took 1.20 GB, states 0.50 GB', 'took 1.20 GB, must stay under 1 GB']
    """
    wrong, measured = [], measured.as_elsewhere()
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
    compared = [cell for cell in code if not any(mark in f"{cell.source} {cell.metadata}" for mark in UNCHECKED)]
    checks = {
        "the first cell does not say what it demonstrates": "demonstrates" in notebook.cells[0].source,
        "the first cell does not state time and memory": stated_cost(notebook) is not None,
        "the badges below the title are not what `link` writes": doors.badges(path.name)
        in notebook.cells[0].source.split("\n")[1:3],
        "the track is not what `link` writes": tracks.line(path.stem) in notebook.cells[0].source.split("\n"),
        "the first code cell is not what `link` writes": notebook.cells[1:2] == code[:1]
        and [cell.source for cell in code if cell.id == doors.CELL] == [doors.install(path.name)] == [code[0].source],
        "a link works in the repository only": not doors.relative_links(notebook),
        "a path is in the repository": not any(_PATH_IN_THE_REPOSITORY.search(cell.source) for cell in code),
        "not exactly one cell is tagged parameters": tags.count("parameters") == 1,
        "a parameter is not a constant with a type and a comment": all(
            _are_constants(cell.source) for cell in code if "parameters" in cell.metadata.get("tags", [])
        ),
        "parameters were injected": "injected-parameters" not in tags,
        "cells were not run once, in order": [cell.execution_count for cell in code] == list(range(1, len(code) + 1)),
        "no table is checked": any("text/html" in o.get("data", {}) for cell in compared for o in cell.outputs),
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


def _are_constants(source: str) -> bool:
    """Say whether every line is like `rounds: int = 10  # a comment`.

    >>> _are_constants("a: float = -1.0  # one")
    True
    >>> [_are_constants(line) for line in ("a = 1  # one", "a: int = 1", "a: int = 2 // 1  # one")]
    [False, False, False]
    """
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}

    def constant(value: ast.expr | None) -> bool:
        if isinstance(value, ast.UnaryOp):
            value = value.operand
        return isinstance(value, ast.Constant)

    return all(
        isinstance(line, ast.AnnAssign) and constant(line.value) and line.end_lineno in commented
        for line in ast.parse(source).body
    )


def words(notebook: nbformat.NotebookNode) -> int:
    """Count the words of a notebook's text, without formulas, links of the series and what `link` and `refresh` write.

    >>> words(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Two words and $w$.\\n\\nNext: [b](b)")]))
    3
    """
    written = ("[![", "*Time: ", tracks.MARK, "Before: [", "Next: [", "[All notebooks](")
    lines = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").split("\n")
    text = "\n".join(line for line in lines if not line.startswith(written))
    return sum(
        any(map(str.isalpha, word)) for word in re.sub(r"\$.*?\$", "", text.replace("$$", "$"), flags=re.DOTALL).split()
    )


def too_long(notebook: nbformat.NotebookNode, most: tuple[int, int]) -> list[str]:
    """Say what makes a notebook too long; its parameters have a line each, however many there are."""
    wrong = [f"{words(notebook)} words of text"] * (words(notebook) > most[0])
    for cell in notebook.cells:
        lines = len(cell.source.split("\n"))
        if cell.cell_type == "code" and lines > most[1] and "parameters" not in cell.metadata.get("tags", []):
            wrong.append(f"{lines} lines in the cell {cell.id}")
    return wrong


def broken_links(notebook: nbformat.NotebookNode, folder: Path) -> list[str]:
    """Return a notebook's links, within `folder` or the repository, that lead to no file or to no heading of it."""
    broken = []
    for target, heading in _LINK.findall("\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")):
        if target.startswith(("http:", "https:")) and not target.startswith(doors.HERE):
            continue
        file = doors.ROOT / target.removeprefix(doors.HERE) if target.startswith(doors.HERE) else folder / target
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
