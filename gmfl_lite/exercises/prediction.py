"""A question that its reader answers before the figure is shown.

Nothing here waits. A kernel cannot hide the cells below a question, and under papermill, under nbval or on an exported
page nobody is there to answer. So the cell whose figure is held back ends in `.then(figure)`. Its output is a widget,
which shows the figure once the question is answered, and next to it, in the same output, the figure itself, which
is shown and stored where no widget lives. A Markdown cell right below it, with what to notice, is hidden by one
rule of CSS until then (JupyterLab and Notebook 7); Colab shows it, and `make student` leaves it out.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.core.formatters import DisplayFormatter
from IPython.core.getipython import get_ipython

from ..basics import checks, images

ASKED: dict[str, "Prediction"] = {}
"""All questions of this kernel, by their text: one that is asked again takes the place of the first."""

_HIDES = ".jp-Cell:has(.gmfl-waits) + .jp-MarkdownCell { display: none; }"

# What ipywidgets does not tell a screen reader: that the buttons belong together, and what to read out when it changes.
_TELLS = (
    "const b=this.closest('.gmfl-predict'),w=this.closest('.widget-html-content');w.setAttribute('role','status');"
    "b.setAttribute('role','group');b.setAttribute('aria-label',b.querySelector('.gmfl-question').textContent)"
)
_DOT = f'<img alt="" onload="{_TELLS}" src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">'


class Prediction:
    """A question and its options: `predict` asks it, `then` holds back what comes after it.

    Attributes
    ----------
    question, options : what is asked.
    answered : the option that was chosen, None before.
    """

    def __init__(self, question: str, options: Sequence[str]) -> None:
        self.question, self.options = question, list(options)
        self.answered: str | None = None
        self._held: list[tuple[widgets.HTML, str]] = []
        self._said = widgets.HTML(_DOT)
        self._buttons = [self._button(option) for option in self.options]
        text = widgets.HTML(f'<p class="gmfl-question"><b>Predict:</b> {html.escape(question)}</p>')
        row = widgets.Box(self._buttons, layout=widgets.Layout(flex_flow="row wrap"))
        self._widget = widgets.VBox([text, row, self._said])
        self._widget.add_class("gmfl-predict")

    def _button(self, option: str) -> widgets.Button:
        button = widgets.Button(description=option, tooltip="", layout=widgets.Layout(width="auto", height="auto"))
        button.on_click(lambda _: self.answer(option))
        return button

    def answer(self, option: str) -> None:
        """Choose an option, as a click on it does; the first choice stays.

        Raises
        ------
        ValueError : no such option.
        """
        checks.choice("option", option, self.options)
        if self.answered is not None:
            return
        self.answered = option
        for button in self._buttons:
            chosen = button.description == option  # it stays enabled, so that it keeps the keyboard's focus
            button.disabled, button.icon = not chosen, "check" if chosen else ""
        made = sum(one.answered is not None for one in ASKED.values())
        count = f"{made} of {len(ASKED)} predictions made." if len(ASKED) > 1 else ""
        self._said.value = f"{_DOT}You said: <b>{html.escape(option)}</b>. Now compare. {count}"
        for place, shown in self._held:
            place.value = shown

    def then(self, shown: Any) -> "Held":
        """Return a figure, a table or anything else that is to be seen once the question is answered."""
        return Held(self, shown)

    def __repr__(self) -> str:
        return "\n".join([f"Predict: {self.question}", *(f"- {option}" for option in self.options)])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        listed = "\n".join(f"- {option}" for option in self.options)
        return {
            "text/markdown": f"**Predict:** {self.question}\n\n{listed}",
            "text/plain": repr(self),
            **_drawn(self._widget),
        }


class Held:
    """What `Prediction.then` returns: a widget where one lives, and elsewhere what is held back."""

    def __init__(self, prediction: Prediction, shown: Any) -> None:
        formatter = getattr(get_ipython(), "display_formatter", None) or DisplayFormatter()
        self._data, self._metadata = formatter.format(shown)
        revealed = _as_html(self._data, self._metadata)
        waiting = (
            f'<style>{_HIDES}</style><p class="gmfl-waits">What comes here is shown when you have answered: '
            f"<i>{html.escape(prediction.question)}</i></p>"
        )
        self._widget = widgets.HTML(waiting if prediction.answered is None else revealed)
        prediction._held.append((self._widget, revealed))

    def __repr__(self) -> str:
        return self._data.get("text/plain", "")

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._data | _drawn(self._widget), self._metadata


def predict(question: str, options: Sequence[str]) -> Prediction:
    """Ask for a prediction, and hide the figure until it is made; predictions are counted, not graded.

    A notebook shows the question with a button for each option, which Tab and Enter reach as well. Where nobody can
    answer (a stored or exported page, papermill, nbval), everything is shown, and nothing ever waits.

    Parameters
    ----------
    question : one sentence.
    options : two or more answers, all different.

    Raises
    ------
    ValueError : an empty question, fewer than two options, or two that are the same.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> guess = gl.predict("Is a local step cheaper with ν = 0 or with ν = 3?", ["ν = 0", "ν = 3"])
    >>> guess
    Predict: Is a local step cheaper with ν = 0 or with ν = 3?
    - ν = 0
    - ν = 3
    >>> guess.then(gl.theory.meta_gradient_cost(3))  # in a notebook: shown after a click
    11.5
    >>> guess.answer("ν = 0")  # what a click does
    >>> guess.answered
    'ν = 0'
    """
    if not isinstance(question, str) or not question.strip():
        raise checks.refusal("question", question, "a sentence")
    texts = isinstance(options, Sequence) and not isinstance(options, str) and all(isinstance(o, str) for o in options)
    if not texts or len(options) < 2 or len({o.strip() for o in options} - {""}) < len(options):
        raise checks.refusal("options", options, "two texts or more, all different and none of them empty")
    ASKED[question] = Prediction(question, options)
    return ASKED[question]


def predictions() -> pd.DataFrame:
    """Return what has been asked in this kernel, and what was answered: "" where nothing was.

    >>> predictions().columns.to_list()
    ['question', 'answered']
    """
    rows = [(one.question, one.answered or "") for one in ASKED.values()]
    return pd.DataFrame(rows, columns=["question", "answered"])


def _drawn(widget: widgets.Widget) -> dict[str, Any]:
    """Return what a notebook draws a widget from; that of ipywidgets 7, which Colab has, cannot be asked for it."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def _as_html(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return what a notebook would show of a bundle, as HTML for a widget."""
    if "text/html" in data:
        return f'<div class="jp-RenderedHTMLCommon">{data["text/html"]}</div>'
    if "image/png" in data:
        alt = metadata.get("image/png", {}).get("alt", "")
        return images.element(data["image/png"], alt, 'style="max-width:100%"')
    return f"<pre>{html.escape(str(data.get('text/plain', '')))}</pre>"
