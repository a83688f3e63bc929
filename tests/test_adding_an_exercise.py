"""An exercise from outside the library arrives everywhere, and what is wrong with it is said when it is registered."""

import re

import pytest

import gmfl_lite as gl
from gmfl_lite.exercises.exercise import REGISTRY, exercise
from gmfl_lite.exercises.marking import compare, number


def mark_half_way(answer):
    compare(number(answer), 2.0, {"This is where the walk starts.": 1.0})


def half_way():
    # from the start
    w = 1.0
    return w - 0.5 * (w - 3)


TEXTS = {"hint": "The gradient of ½(w − 3)² is w − 3.", "why": "One step halves the distance."}


@pytest.fixture(autouse=True)
def registered_before():
    before = dict(REGISTRY)
    yield before
    REGISTRY.clear()
    REGISTRY.update(before)


def test_it_arrives_everywhere(registered_before):
    made = exercise(mark=mark_half_way, **TEXTS)(half_way)
    assert gl.exercises.half_way is made
    assert "half_way" in dir(gl.exercises)
    assert [one for one in gl.exercises.every() if one.name not in registered_before] == [made]
    assert made.notebook == "test-adding-an-exercise"

    assert made.check(...).status == "not attempted"
    assert made.check(1.0).text == "**Incorrect.** This is where the walk starts."
    assert made.check(made.answer()).text == f"**Correct.** {TEXTS['why']}"
    assert made.hint().text == TEXTS["hint"]
    assert gl.exercises.progress().loc["half_way"].tolist() == [made.notebook, "correct", 2, "seen", ""]
    assert gl.exercises.progress().index.to_list() == [one.name for one in gl.exercises.every()]


def test_the_solution_is_shown_without_its_decorators():
    @exercise(
        mark=mark_half_way,
        **TEXTS,
    )
    def stride(start, step=0.5):
        """@ home."""

        # @ the start
        return start + step

    shown = (
        '```python\ndef stride(start, step=0.5):\n    """@ home."""\n\n    # @ the start\n    return start + step\n```'
    )
    assert stride.solution().text == shown
    assert stride.answer()(1) == 1.5


@pytest.mark.parametrize("what", ["hint", "why"])
def test_no_hint_or_no_why(what, registered_before):
    with pytest.raises(ValueError, match=rf"^Exercise half_way: it has no {what}\.$"):
        exercise(mark=mark_half_way, **TEXTS | {what: ""})(half_way)
    with pytest.raises(TypeError, match=f"'{what}'"):
        exercise(mark=mark_half_way, **{name: text for name, text in TEXTS.items() if name != what})
    assert registered_before == REGISTRY


def test_all_that_is_wrong_is_one_error(registered_before):
    def look_ahead(): ...

    said = (
        "Exercise look_ahead: it has no marker; it has no hint; gl.exercises.look_ahead is there already, choose "
        "another name."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        exercise(mark=None, hint="", why="why")(look_ahead)
    assert registered_before == REGISTRY


@pytest.mark.parametrize("name", ["half_way", "look_ahead", "progress", "CONTEST"])
def test_a_name_that_is_taken(name):
    register = exercise(mark=mark_half_way, **TEXTS)
    made = register(half_way)

    def another(): ...

    another.__name__ = name
    with pytest.raises(ValueError, match=rf"^Exercise {name}: gl\.exercises\.{name} is there already"):
        register(another)
    assert gl.exercises.half_way is made


def test_a_name_that_is_misspelled():
    with pytest.raises(AttributeError, match=r"no attribute 'look_ahed' \(did you mean 'look_ahead'\?\)"):
        gl.exercises.look_ahed  # noqa: B018
