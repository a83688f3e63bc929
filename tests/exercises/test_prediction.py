"""A prediction holds back a live figure until it is made; what is stored shows everything, and nothing waits."""

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

import gmfl_lite as gl
from gmfl_lite.exercises import prediction

VIEW = "application/vnd.jupyter.widget-view+json"
TABLE = pd.DataFrame({"secret": [42]})


@pytest.fixture(autouse=True)
def nothing_asked():
    prediction.ASKED.clear()


def question():
    return gl.predict("Which?", ["this", "that"])


def buttons(guess):
    return {button.description: button for button in guess._buttons}


def test_a_figure_is_held_back_until_a_button_is_pressed():
    guess = question()
    held = guess.then(TABLE)
    assert "42" not in held._widget.value
    assert "Which?" in held._widget.value
    buttons(guess)["that"].click()
    assert "42" in held._widget.value
    assert guess.answered == "that"
    assert "<b>that</b>" in guess._said.value
    assert "42" in guess.then(TABLE)._widget.value  # what comes after the answer is not held back


def test_the_first_choice_stays_and_is_to_be_seen():
    guess = question()
    guess.answer("this")
    buttons(guess)["that"].click()
    assert guess.answered == "this"
    assert {name: (one.disabled, one.icon) for name, one in buttons(guess).items()} == {
        "this": (False, "check"),
        "that": (True, ""),
    }


def test_what_is_stored_is_the_figure_itself():
    bundle, metadata = question().then(gl.plots.mismatch({"": TABLE + 1}, label="x"))._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"].startswith("Heat maps of x")
    assert bundle[VIEW]["model_id"]
    assert question().then(TABLE)._repr_mimebundle_()[0]["text/html"] == TABLE._repr_html_()
    assert "- this\n- that" in question()._repr_mimebundle_()["text/markdown"]


def test_predictions_are_counted_and_not_graded():
    first, second = question(), gl.predict("How many?", ["one", "two"])
    assert gl.predict("How many?", ["one", "two"]) is not second  # asked again: it takes the other's place
    first.answer("this")
    assert "1 of 2 predictions made." in first._said.value
    assert prediction.predictions().to_numpy().tolist() == [["Which?", "this"], ["How many?", ""]]


@pytest.mark.parametrize(
    ("asked", "options", "says"),
    [
        ("", ["a", "b"], "question"),
        (3, ["a", "b"], "question"),
        ("Which?", ["a"], "options"),
        ("Which?", ["a", "a"], "options"),
        ("Which?", ["a", " "], "options"),
        ("Which?", "ab", "options"),
        ("Which?", [1, 2], "options"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, options, says):
    with pytest.raises(ValueError, match=f"^{says} ="):
        gl.predict(asked, options)
    assert not prediction.ASKED


def test_an_option_that_was_not_offered_is_refused():
    guess = question()
    with pytest.raises(ValueError, match="option = 'neither'"):
        guess.answer("neither")
    assert guess.answered is None


def test_texts_are_shown_as_they_are():
    guess = gl.predict("Is F < f & <b>?", ["<i>yes</i>", "no"])
    assert "&lt;b&gt;" in guess._widget.children[0].value
    guess.answer("<i>yes</i>")
    assert "<i>" not in guess._said.value


def test_a_run_without_a_reader_does_not_wait_and_its_page_shows_everything(forked_kernels):
    """In a real kernel, as under papermill; the page is made of what a student saved, without widget state."""
    sources = ["import gmfl_lite as gl, pandas as pd\nguess = gl.predict('Which?', ['this', 'that'])\nguess"]
    sources += ["guess.then(pd.DataFrame({'secret': [42]}))"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    ran = NotebookClient(notebook, kernel_name="python3", timeout=600, store_widget_state=False).execute()
    page = HTMLExporter().from_notebook_node(ran)[0]
    assert "<td>42</td>" in page
    assert "<li>that</li>" in page
