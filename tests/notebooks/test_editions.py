"""The students' edition gives nothing away; the teachers' has every answer where it belongs."""

import re

import editions
import guards
import nbformat
import pytest
import tracks
from test_notebooks import NOTEBOOKS, tools

import gmfl_lite as gl

CORE = [path for path in NOTEBOOKS if path.stem in tracks.TRACKS["core"].notebooks]
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s|\n", text) if len(part.strip()) > 25]


def all_answers(path) -> list[str]:
    sections = (editions.PREDICTIONS, editions.TRIES)
    return [answer for section in sections for _, answer in editions.key(section).get(path.stem[:2], [])]


@EACH
def test_nothing_of_the_answers_is_in_the_students_edition(path):
    whole = nbformat.read(path, as_version=4)
    made = editions.student(whole)
    text = nbformat.writes(made)
    said = "\n".join(cell.source for cell in made.cells)
    assert not [cell for cell in made.cells if cell.get("outputs") or cell.get("execution_count")]
    assert "image/png" not in text
    every = "\n".join(cell.source for cell in whole.cells)
    held = [sentence for cell in editions.held_back(whole) for sentence in sentences(editions.parts(cell.source)[1])]
    held = [sentence for sentence in held if every.count(sentence) == 1]  # a command may be told twice
    held += [
        line.removeprefix("- *Why:* ") for cell in whole.cells for line in cell.source.splitlines() if "*Why:*" in line
    ]
    solutions = [line.strip() for one in gl.exercises.every() for line in one.solution().text.splitlines()[2:-1]]
    answers = [sentence for answer in all_answers(path) for sentence in sentences(answer)]
    for secret in (
        held + answers + [line for line in solutions if len(line) > 30 and line not in path.read_text("utf-8")]
    ):
        assert secret not in said
    assert "**Notice**" not in said, "wherever in a cell it begins"
    kept = [line for line in every.splitlines() if line.startswith("## ") or re.search(r"Predict:|\*\*Exercise", line)]
    assert [line for line in kept if line not in said] == []
    for link in ("Open in Colab", "All notebooks"):
        assert link not in said, "it leads to the edition with the outputs"
    assert [cell.source for cell in whole.cells if cell.cell_type == "code"] == [
        cell.source for cell in made.cells if cell.cell_type == "code"
    ]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("look_ahead", "2, 0.5, 0.125"),  # ½ (3 − w)² at w = 1, 2, 2.5
        ("two_averages", "uniform: 3; samples: 4.3"),  # (1 + 2 + 6)/3 and (10 + 60 + 360)/100
        ("one_step_ahead", "0.5103"),  # 0.9³ (1 − 0.3)
        ("tipping_nu", "13"),  # above ln 10 / (2 ln 1.1) = 12.08
        ("jacobian_product", None),
        ("fair_comparison", None),
    ],
)
def test_a_solution_begins_with_what_is_written_at_the_board(name, answer):
    text = editions.solution(name)
    assert text.startswith(f"**Solution of `{name}`**\n\n**Answer:** {answer}\n\n" if answer else "**Solution")
    assert answer or "**Answer:**" not in text


def bars_before_answers(notebook):
    """Return the runs whose bar says how accurate they are, between a question and the first figure it holds back.

    Also those in functions, which may be called there.
    """
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    code, found, waits = "\n".join(sources), [], False
    hidden = [f"**{name})" for name in re.findall(r'^(\w+) = \{.*"progress": False', code, re.MULTILINE)]
    for source in sources:
        waits = ("gl.predict(" in source or waits) and ".then(" not in source
        called = waits or ("gl.predict(" in code and "def " in source)
        runs = re.findall(r"gl\.(?:run|sweep|tune)\(.*", source) if called else []
        found += [run for run in runs if not any(how in run for how in ("progress=False", *hidden))]
    return found


@EACH
def test_no_bar_tells_what_is_held_back(path):
    assert bars_before_answers(nbformat.read(path, as_version=4)) == []


def test_a_bar_that_tells_is_found():
    sources = ['how = {"progress": False}', "gl.run(a)", "def f():\n    gl.run(c)", "def g():\n    gl.run(d, **how)"]
    sources += ['guess = gl.predict("Who?", ["A", "B"])', "gl.run(b)", "gl.run(c, progress=False)", "gl.run(d, **how)"]
    sources += ["guess.then(figure)", "gl.run(d)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    assert bars_before_answers(notebook) == ["gl.run(c)", "gl.run(b)"]


def test_what_predict_holds_back_is_found():
    cells = [nbformat.v4.new_code_cell("guess.then(figure)"), nbformat.v4.new_markdown_cell("It is 42.")]
    cells += [nbformat.v4.new_markdown_cell("What comes next."), nbformat.v4.new_code_cell("1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    made = editions.student(notebook)
    assert [cell.source for cell in made.cells] == ["guess.then(figure)", editions.YOURS, "What comes next.", "1"]
    assert notebook.cells[1].source == "It is 42."


@pytest.mark.parametrize("path", CORE[:4], ids=lambda path: path.stem)
def test_the_core_holds_back_what_there_is_to_notice(path):
    notebook = nbformat.read(path, as_version=4)
    assert 1 <= sum(cell.source.count("gl.predict(") for cell in notebook.cells) <= 2
    held = editions.held_back(notebook)
    assert held
    assert all(cell.source.startswith("**Notice**") for cell in held)


TRAINS = {"08-exercises": pytest.mark.slow}
"""One of its checks trains six models."""


@pytest.mark.parametrize("path", [pytest.param(p, marks=TRAINS.get(p.stem, ()), id=p.stem) for p in NOTEBOOKS])
def test_the_teachers_edition_answers_every_question(path):
    whole = nbformat.read(path, as_version=4)
    made = editions.teacher(whole, path.stem)
    added = [cell.source for cell in made.cells if cell not in whole.cells]
    answers = all_answers(path)
    assert not ("**Try:**" in made.cells[-1].source and path in CORE), "its answer comes last"
    assert [text.removeprefix("> **Answer:** ") for text in added if text.startswith("> **Answer:** ")] == answers
    names = [one.name for one in gl.exercises.every() if one.notebook == path.stem]
    assert re.findall(r"\*\*Solution of `(\w+)`", "".join(added)) == names
    assert [cell for cell in made.cells if cell in whole.cells] == whole.cells
    nbformat.validate(made)


def test_every_notebook_is_on_one_track():
    listed = [stem for track in tracks.TRACKS.values() for stem in track.notebooks]
    assert sorted(listed) == [path.stem for path in NOTEBOOKS]


def test_the_teachers_page_has_the_tracks():
    assert tools.by_track(tools.read(NOTEBOOKS)) in editions.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short(path):
    assert guards.too_long(nbformat.read(path, as_version=4), guards.CORE if path in CORE else guards.OTHERS) == []


def test_a_long_notebook_is_found():
    words, cell = nbformat.v4.new_markdown_cell("word " * 901), nbformat.v4.new_code_cell("1\n" * 20, id="x")
    parameters = nbformat.v4.new_code_cell("1\n" * 20, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[words, cell, parameters])
    assert guards.too_long(notebook, guards.CORE) == ["901 words of text", "21 lines in the cell x"]
    assert guards.too_long(notebook, guards.OTHERS) == []


@pytest.mark.parametrize("path", CORE[:4], ids=lambda path: path.stem)
def test_a_core_notebook_fits_its_part_of_a_lesson(path):
    notebook = nbformat.read(path, as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert len(re.findall(r"^gl\.explain\.\w+\(", code, flags=re.MULTILINE)) == 1, "one picture that moves"
    assert len(re.findall(r"^gl\.exercises\.\w+\.check\(", code, flags=re.MULTILINE)) == 3


def test_the_core_computes_in_less_than_three_minutes():
    assert sum(guards.stated_cost(nbformat.read(path, as_version=4)).seconds for path in CORE) < 180
