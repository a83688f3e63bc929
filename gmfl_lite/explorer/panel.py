"""The panel: a row for each knob, buttons, and what is painted from the explorer's state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from . import as_html
from .knob_row import KnobRow
from .knobs import Knob, readable
from .state import State
from .what_if import in_words
from .widget_parts import STYLE, button, close, fold, line, toggle

BUTTONS: dict[str, dict[str, str]] = {
    "Run": {"tooltip": "Run what the knobs say.", "icon": "play", "button_style": "primary"},
    "Fair": {
        "tooltip": "Compare with FedAvg, each at its best step sizes. The search takes minutes; it first says how many."
    },
    "Stop": {"tooltip": "Stop what runs.", "icon": "stop"},
    "Pin this curve": {"tooltip": "Keep what is drawn, to compare with what comes.", "icon": "thumb-tack"},
    "Clear pins": {"tooltip": "Take the pinned curves away."},
    "Reset": {"tooltip": "Put every knob where it was at first."},
}
REDRAWS = {
    "Redraw data": {"tooltip": "The next seed: other data, picks, batches."},
    "Redraw weights": {"tooltip": "The next initial weights."},
}
TOGGLES = {
    "best_first": {"description": "best first", "tooltip": "Sort the table by final accuracy."},
    "spread": {
        "description": "worst and best agents",
        "tooltip": "One agent in ten is below the one, one in ten above the other: dotted, of up to four curves.",
    },
    "traffic": {
        "description": "MB sent",
        "tooltip": "Draw accuracy against what was sent: w to each picked agent, each agent's w_i back.",
    },
}
PAINTED = ("problem", "words", "progress", "picture", "legend", "runs", "take-away")


class Panel:
    """The widgets of an explorer: they show a State and tell what a hand does; they decide nothing.

    Parameters
    ----------
    state : what to show at first.
    knobs : what each knob can be set to.
    presets : what each of the buttons after "Try" sets.
    eval_steps : the numbers of fine-tuning steps to choose from.
    pressed : what each button does, by its name.
    moved, swept : as of a KnobRow.
    looked : called with `steps`, or one of TOGGLES, when a hand changes that; without, to paint what was unfolded.

    Attributes
    ----------
    box : the widget that holds all others.
    """

    def __init__(
        self,
        state: State,
        knobs: Mapping[str, Knob],
        presets: Mapping[str, Mapping[str, Any]],
        eval_steps: Sequence[int],
        pressed: Mapping[str, Callable[[], None]],
        *,
        moved: Callable[[str, Any], None],
        swept: Callable[[str, tuple[Any, ...] | None], None],
        looked: Callable[..., None],
    ) -> None:
        self._rows = {name: KnobRow(knob, state.knobs[name], moved, swept) for name, knob in knobs.items()}
        self._html = {part: widgets.HTML() for part in PAINTED}
        for part, widget in self._html.items():
            widget.add_class(f"gmfl-{part}")
        self._seen: tuple[Any, ...] | None = None
        self._taken: tuple[Any, ...] | None = None
        self._unfolded = False
        steps = widgets.Dropdown(
            options=[(readable(steps), steps) for steps in eval_steps],
            value=state.steps,
            description="fine-tuning steps before scoring",
            tooltip="After how many fine-tuning steps accuracy is drawn against rounds, and said in words.",
            style={"description_width": "initial"},
        )
        steps.observe(lambda change: looked(steps=change["new"]), "value")
        toggles = {name: toggle(getattr(state, name), name, looked, **look) for name, look in TOGGLES.items()}

        def take_away(unfolded: bool) -> None:
            self._unfolded = unfolded
            if unfolded:
                looked()

        def buttons(looks: Mapping[str, Mapping[str, str]], before: Sequence[widgets.Widget] = ()) -> widgets.Box:
            return line([*before, *(button(name, pressed[name], **look) for name, look in looks.items())])

        groups: dict[str, list[widgets.Widget]] = {}
        for name, knob in knobs.items():
            groups.setdefault(knob.group, []).append(self._rows[name].box)
        always = groups.pop("")
        groups["Seeds"].append(buttons(REDRAWS))
        tries = {
            name: {"tooltip": "Set " + ", ".join(in_words(*one) for one in values.items())}
            for name, values in presets.items()
        }
        folded = [
            fold("Table of runs", [toggles.pop("best_first"), self._html["runs"]]),
            fold("Take it away: Python, papermill, YAML, figure, table", [self._html["take-away"]], take_away),
        ]
        parts = {
            "knobs": always,
            "more": [
                *(fold(title, rows) for title, rows in groups.items()),
                buttons(tries, [widgets.HTML("<b>Try</b>&nbsp;")]),
            ],
            "shown": [
                buttons(BUTTONS),
                _marked("said", [self._html[part] for part in ("words", "problem", "progress")]),
                self._html["picture"],
                self._html["legend"],
                line([steps, line([*toggles.values()])]),
                *folded,
            ],
        }
        room = widgets.Box([_marked(name, children) for name, children in parts.items()])
        room.add_class("gmfl-room")
        self.box = widgets.Box([widgets.HTML(STYLE, layout=widgets.Layout(display="none")), room])
        self.box.add_class("gmfl-explorer")
        self.show(state)
        self._html["words"].value = as_html.sentence(state.words)

    def range(self, name: str) -> tuple[Any, ...]:
        """Return the values that a sweep of a knob goes through."""
        return self._rows[name].range

    def show(self, state: State) -> None:
        """Put the controls where the state says."""
        for row in self._rows.values():
            row.show(state)

    def paint_progress(self, state: State) -> None:
        """Write down how far the run at work is, which takes no time; that it has ended comes with its last picture."""
        if state.busy:
            self._html["progress"].value = as_html.progress_bar(state)

    def paint(self, state: State) -> bool:
        """Write down what is to be seen; return whether there was something to draw.

        What takes long is done first, so that the words change with the picture that they are about.
        """
        looks = (state.steps, *(getattr(state, name) for name in TOGGLES))
        seen = (state.federation, state.curves, state.fedavg, state.pins, *looks)
        new = seen != self._seen
        frame = state.table()
        parts = {"words": as_html.sentence(state.words), "problem": as_html.problem(state.problem)}
        if new:
            parts |= {"picture": as_html.picture(state.picture(legend=False)), "legend": as_html.legend(state.legend)}
            parts["runs"] = as_html.table(frame)
        for part, value in parts.items():
            self._html[part].value = value
        if (taken := (seen, state.busy)) != self._taken:
            # Its figure takes as long to draw as the panel's: for those only who look for it.
            wanted = self._unfolded
            self._html["take-away"].value = as_html.take_away(state, frame) if wanted else as_html.IN_A_MOMENT
            self._taken = taken if wanted else None
        # As the last: who sees no progress sees what is there to stay.
        self._html["progress"].value = as_html.progress_bar(state)
        self._seen = seen
        return new

    def tell(self, problem: str) -> None:
        """Say what went wrong."""
        self._html["problem"].value = as_html.problem(problem)

    def close(self) -> None:
        for row in self._rows.values():
            row.close()
        close(self.box)


def _marked(name: str, children: Sequence[widgets.Widget]) -> widgets.VBox:
    box = widgets.VBox(children)
    box.add_class(f"gmfl-{name}")
    return box
