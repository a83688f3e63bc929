"""Exercises where they stand: solutions run there, placeholders are no answers, teachers know them all."""

import re
from pathlib import Path

import guards
import nbformat
import numpy as np
import pytest
import torch
from all_exercises import EXERCISES, SLOW, each

import gmfl_lite as gl

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
ONES = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def cells(stem: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells


def cell_of(exercise: gl.exercises.Exercise) -> nbformat.NotebookNode:
    """The one cell that checks an exercise."""
    calls = [
        cell
        for cell in cells(exercise.notebook)
        if cell.cell_type == "code" and f"gl.exercises.{exercise.name}.check(" in cell.source
    ]
    assert len(calls) == 1
    return calls[0]


@pytest.mark.parametrize(
    "exercise",
    [pytest.param(one, id=one.name, marks=[pytest.mark.slow] * (one.name in SLOW)) for one in EXERCISES],
)
def test_the_solution_that_is_shown_runs_and_is_correct(exercise):
    shown = re.fullmatch(r"```python\n(.*)```", exercise.solution().text, re.DOTALL)[1]
    imported = "\n".join(cell.source for cell in cells(exercise.notebook) if cell.cell_type == "code")
    names = {
        name: module
        for name, module in {"np": np, "torch": torch, "gl": gl}.items()
        if re.search(rf"^import (\w+ as )?{name}$", imported, re.MULTILINE)
    }
    exec(shown, names)  # as a student would who pastes it into this notebook
    answer = names[exercise.name]
    verdict = exercise.check(answer if exercise.wants_function else answer())
    assert verdict.status == "correct", verdict


@each
def test_what_stands_in_the_notebook_is_not_an_attempt(exercise):
    cell = cell_of(exercise)
    before, call = re.fullmatch(r"(.*?)(gl\.exercises\.\w+\.check\(\w+\))(.*)", cell.source, re.DOTALL).groups()[:2]
    names = {"gl": gl}
    exec(before, names)
    assert eval(call, names).status == "not attempted"
    assert exercise.check(None).status == exercise.check(...).status == "not attempted"
    assert exercise.checks == 0
    assert "Not attempted yet" in cell.outputs[0]["data"]["text/markdown"]


def test_every_exercise_stands_in_a_notebook_in_rising_order():
    stems = [one.notebook for one in EXERCISES]
    assert stems == sorted(stems)
    assert len(EXERCISES) >= 12
    for path in NOTEBOOKS.glob("*.ipynb"):
        mentioned = re.findall(r"gl\.exercises\.(\w+)\.check\(", path.read_text(encoding="utf-8"))
        assert mentioned == [one.name for one in EXERCISES if one.notebook == path.stem]


def test_every_notebook_has_its_module():
    modules = (ROOT / "gmfl_lite" / "exercises").glob("notebook_*.py")
    stems = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    assert sorted(path.stem for path in modules) == ["notebook_" + stem.replace("-", "_") for stem in stems]
    assert sorted({one.notebook for one in EXERCISES}) == stems


def test_pages_say_how_many_there_are():
    tens, ones = divmod(len(EXERCISES), 10)
    number = ("Twenty", "Thirty", "Forty")[tens - 2] + f"-{ONES[ones]}" * (ones > 0)
    readme, changes = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "CHANGELOG.md"))
    stated = re.compile(r"^- (\S+) exercises ", re.MULTILINE)
    assert stated.findall(readme) == [number]
    newest = changes.split("\n## ")[1]  # what an older version had stays written
    assert stated.findall(newest) in ([], [number])


def test_the_teachers_table_is_that_of_the_exercises():
    page = (NOTEBOOKS / "for-teachers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (\d\d) \|", page, re.MULTILINE)
    listed = [(name, notebook) for names, notebook in rows for name in re.findall(r"\w+", names)]
    assert listed == [(one.name, one.notebook[:2]) for one in EXERCISES]


def test_the_teachers_page_knows_every_exercise_and_every_predict_question():
    page = (NOTEBOOKS / "for-teachers.md").read_text(encoding="utf-8")
    assert [one.name for one in EXERCISES if f"`{one.name}`" not in page] == []
    rows = page.split("## Answers to the *Predict* questions")[1].split("##")[0]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        questions = sum(len(re.findall(r"\*Predict:\*|\bgl\.predict\(", cell.source)) for cell in cells(path.stem))
        assert rows.count(f"\n| {path.stem[:2]} |") == questions, path.stem
    as_cell = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(page)])
    assert guards.broken_links(as_cell, NOTEBOOKS) == []


@pytest.mark.slow
def test_a_notebook_that_was_handed_in_is_graded(tmp_path):
    """The teacher's page holds a function that runs a notebook and reads what it solves."""
    page = (NOTEBOOKS / "for-teachers.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source)
            for source in (
                "import gmfl_lite as gl",
                "gl.exercises.first_order_length.check(8)",
                "gl.exercises.look_ahead.check([..., ..., ...])",
                "a mistake that stops only its own cell",
                "gl.exercises.enough_agents.hint()",
                "gl.exercises.enough_agents.check(10)",
            )
        ]
    )
    nbformat.write(notebook, tmp_path / "handed-in.ipynb")
    table = names["grade"](tmp_path / "handed-in.ipynb")
    assert table["status"].to_dict() == {"first_order_length": "correct", "enough_agents": "incorrect"}
    assert table.loc["enough_agents", "hint"] == "seen"
