"""Two editions of the notebooks: for students without outputs and what they are to find out, for teachers with all.

python tools/editions.py student notebooks/*.ipynb    into build/student
python tools/editions.py teacher notebooks/*.ipynb    into build/teacher

The students' edition leaves out what the notebooks say of a result: each *Notice*, where students write down what they
notice themselves, and each *Why* below a question. Teachers get the notebooks as they are, with an answer
below each question, from for-teachers.md and from the exercises' own solutions.
"""

import copy
import re
import sys
from numbers import Real
from pathlib import Path

import nbformat

import gmfl_lite as gl

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "notebooks" / "for-teachers.md"
PREDICTIONS, TRIES = "Answers to the *Predict* questions", "Answers to the core's *Try*"
YOURS = "**Notice:** what do you see? Write two or three sentences here."

_ASKS = re.compile(r"\*Predict:\*|\bgl\.predict\(")
_WHY = re.compile(r"\n- \*Why:\*.*")
# What else is in a cell that begins with a Notice.
_GOES_ON = re.compile(r"\n\n(?=## |\**Predict|\*\*Exercise).*", re.DOTALL)
_CHECKS = re.compile(r"gl\.exercises\.(\w+)\.check\(")
_ROW = re.compile(r"^\| (\d\d) \| (.*?) \| (.*) \|$", re.MULTILINE)


def held_back(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the Markdown cells that tell what to notice, or end so, and those below what `gl.predict` holds back."""
    pairs = zip([None, *notebook.cells], notebook.cells, strict=False)
    texts = [(before, cell) for before, cell in pairs if cell.cell_type == "markdown"]
    return [cell for before, cell in texts if "**Notice" in cell.source or (before and _holds(before))]


def parts(source: str) -> tuple[str, str, str]:
    """Return how to read what is above, what to notice, and what else follows: a section, a question or an exercise."""
    begins = max(0, source.find("**Notice"))
    found = _GOES_ON.search(source, begins)
    ends = found.start() if found else len(source)
    return source[:begins], source[begins:ends], source[ends:]


def _holds(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and ".then(" in cell.source


def student(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook without outputs and without what is held back."""
    made = copy.deepcopy(notebook)
    for cell in held_back(made):
        above, _, below = parts(cell.source)
        cell.source = above + YOURS + below
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        elif "*Predict:*" in cell.source:
            cell.source = _WHY.sub("", cell.source)
    badges = re.compile(r"^\[!\[Open in .*\n\n?", flags=re.MULTILINE)  # they open the edition with outputs
    # As does the table that all are linked to.
    made.cells[0].source = re.sub(r"( · )?\[All notebooks\]\(.*?\)", "", badges.sub("", made.cells[0].source)).rstrip()
    return made


def teacher(notebook: nbformat.NotebookNode, stem: str) -> nbformat.NotebookNode:
    """Return a notebook with an answer below every prediction and every exercise."""
    made, answers = copy.deepcopy(notebook), iter(key()[stem[:2]])
    cells = []
    for cell in made.cells:
        asked = [f"**Answer:** {next(answers)[1]}" for _ in _ASKS.findall(cell.source)]
        if "**Try:**" in cell.source:
            asked += [f"**Answer:** {answer}" for _, answer in key(TRIES).get(stem[:2], [])]
        solved = [solution(name) for name in _CHECKS.findall(cell.source)] if cell.cell_type == "code" else []
        cells.append(cell)
        for number, text in enumerate(asked + solved):
            cells.append(nbformat.v4.new_markdown_cell(f"> {text}".replace("\n", "\n> "), id=f"{cell.id}-{number}"))
    made.cells = cells
    return made


def key(section: str = PREDICTIONS) -> dict[str, list[tuple[str, str]]]:
    """Return the (question, answer) pairs of a section of the teachers' page, by the notebook's number."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    found: dict[str, list[tuple[str, str]]] = {}
    for number, question, answer in _ROW.findall(section):
        found.setdefault(number, []).append((question, answer))
    return found


def solution(name: str) -> str:
    """Return an exercise's answer, its solution, and what it says to a correct answer, as Markdown."""
    one = getattr(gl.exercises, name)
    verdict = one.check(one.answer())
    value = "" if one.wants_function else at_the_board(one.answer())
    answer = f"**Answer:** {value}\n\n" if value else ""
    return f"**Solution of `{name}`**\n\n{answer}{one.solution().text}\n\n{verdict.text.removeprefix('**Correct.** ')}"


def at_the_board(value: object) -> str:
    """Return numbers and words as they are written at a board; "" for anything else.

    >>> at_the_board({"one step": 0.1 + 0.2, "who": ["A", "B"]})
    'one step: 0.3; who: A, B'
    """
    if isinstance(value, dict):
        return "; ".join(f"{name}: {at_the_board(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(at_the_board, value)))
    if isinstance(value, Real):
        return f"{value:.10g}"
    return value if isinstance(value, str) else ""


def main(edition: str, paths: list[Path]) -> None:
    folder = ROOT / "build" / edition
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        made = student(notebook) if edition == "student" else teacher(notebook, path.stem)
        nbformat.write(made, folder / path.name)
    print(f"{len(paths)} notebooks in {folder.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1], [Path(path) for path in sys.argv[2:]])
