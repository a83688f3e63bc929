"""The panel of widgets behind which the what-ifs live.

Callbacks only read the controls and hand a job over, so that they return at once in whichever thread the kernel runs
them. One worker trains, another draws; only that one writes to what is shown.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ipywidgets as widgets

from ..basics import checks
from ..experiment import Experiment
from ..plots.picture import Picture
from ..result import Result
from . import display as reading
from . import widget_rows as controls
from .background_runs import Runs, in_words_of
from .display import Curve, View
from .knobs import FIRST_LOOK, KNOBS, MORE, PRESETS, readable
from .latest_wins import LatestWins
from .what_if import WhatIf, in_words
from .widget_rows import button, line

FRAME = 0.1
"""Seconds between two drawings at least: a browser gets no more than ten a second."""


@dataclass(frozen=True, eq=False)
class Exploration(Result):
    """A Result that shows itself as the explorer's picture, with FedAvg's curve beside its own.

    Attributes
    ----------
    fedavg : the Result of ν = 0 on the same data from the same weights; None if that, or nothing, was completed.
    words : what is to be seen, in one sentence.
    picture : a Picture.
    """

    fedavg: Result | None
    words: str
    picture: Picture

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        return self.picture._repr_mimebundle_()


class Explorer:
    """A panel of knobs next to a live picture: what do ν, heterogeneity and step sizes do?

    Letting a knob go starts a run and ends the one at work. Display the explorer to see it; `run` does for a script
    what the panel does, and running the cell that made an explorer again closes it.

    Parameters
    ----------
    base : where the knobs stand at first, and all the settings that have no knob.
    weights_seed : of the initial weights; by default base.seed.

    Raises
    ------
    ValueError : base is not an Experiment, or weights_seed not an integer of at least 0.

    Examples
    --------
    >>> explorer = Explorer(Experiment(rounds=10, model="softmax"))
    >>> explorer.set(nu=1)  # as if the knob had been moved
    >>> explorer.wait().status
    'completed'
    >>> explorer.close()
    """

    def __init__(self, base: Experiment = Experiment(), *, weights_seed: int | None = None) -> None:  # noqa: B008
        self._base = _what_if("base", base, weights_seed)
        self._pins: tuple[Curve, ...] = ()
        self._swept: str | None = None
        self._quiet = False
        self._lock = threading.RLock()  # several threads may call back, and scripts call besides
        self._drawn: tuple | None = None
        self._build()
        self._painter = LatestWins("gmfl_lite drawing", self._drawing_failed)
        self._runs = Runs(self._base, self._news)
        self._runs.look()
        self._forget_cell = controls.when_this_cell_runs_again(self.close)

    def run(self, experiment: Experiment, *, weights_seed: int | None = None, progress: bool = True) -> Exploration:
        """Run one experiment, and FedAvg beside it, in the calling thread; what comes back shows itself.

        Parameters
        ----------
        experiment : the what-if.
        weights_seed : of the initial weights; by default experiment.seed, which gives what `gmfl_lite.run` gives.
        progress : whether to show a progress bar.

        Raises
        ------
        ValueError : as `gmfl_lite.run`.

        Examples
        --------
        >>> explorer = Explorer()
        >>> explored = explorer.run(Experiment(nu=1, rounds=10, model="softmax"), progress=False)
        >>> explored.status, explored.fedavg.experiment.nu
        ('completed', 0)
        >>> explorer.close()
        """
        what_if, fedavg = _what_if("experiment", experiment, weights_seed), None
        result = self._runs.result(what_if, progress=progress)
        if result.status == "completed" and what_if != what_if.fedavg:
            fedavg = self._runs.result(what_if.fedavg, progress=progress)
        steps = reading.steps_to_show(experiment)
        curve = Curve(what_if, result.history, result.status)
        beside = fedavg and Curve(what_if.fedavg, fedavg.history, fedavg.status)
        return Exploration(
            **vars(result),
            fedavg=fedavg,
            words=result.message if result.status == "diverged" else reading.reading(curve, beside, steps),
            picture=reading.picture([], [curve], beside, what_if.federation, steps),
        )

    def set(self, **values: Any) -> None:
        """Set knobs by name, as a hand would, and start to run; a sweep of one of them ends.

        Raises
        ------
        ValueError : a name that is no knob, or a value that its knob has not got; nothing is set then.

        Examples
        --------
        >>> explorer = Explorer()
        >>> explorer.set(nu=4)
        Traceback (most recent call last):
        ValueError: nu = 4: must be one of 0, 1, 2, 3, 5, 10
        >>> explorer.close()
        """
        for name, value in values.items():
            self._row(name).knob.check(value)
        with self._lock:
            with self._silence():
                for name, value in values.items():
                    self._rows[name].set(value)
            if self._swept in values:
                self._show_swept(None)
            self._changed()

    def sweep(self, name: str | None) -> None:
        """Sweep a knob over its values while the others stay, as its button does; None sweeps nothing.

        Raises
        ------
        ValueError : a name that is no knob, or a knob that changes nothing beside the others.
        """
        knob = None if name is None else self._row(name).knob
        with self._lock:
            if knob is not None and not knob.counts(self._values):
                raise ValueError(f"{name} changes nothing unless {in_words(*knob.needs)}")
            self._show_swept(name)
            self._changed()

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait until the panel has nothing left to do, and return its last finished run, if there is one.

        Raises
        ------
        TimeoutError : that took longer than `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not (self._runs.wait(timeout) and self._painter.wait(deadline and max(0, deadline - time.monotonic()))):
            raise TimeoutError(f"the panel was still busy after {timeout:g} seconds")
        return self._runs.last

    def close(self) -> None:
        """Stop what runs and take the panel away; return at once."""
        self._forget_cell()
        self._runs.close()
        self._painter.close()
        for row in self._rows.values():
            row.close()
        controls.close(self.panel)

    def _repr_mimebundle_(self, **options: Any) -> dict:
        shown = self.panel._repr_mimebundle_(**options)
        return {**shown, "text/plain": "The explorer's knobs: run this cell to see and to move them."}

    # What the controls do, in whichever thread the kernel calls them.

    def _changed(self, _: object = None) -> None:
        with self._lock:
            if self._quiet:
                return
            values = self._values
            if self._swept is not None and not self._rows[self._swept].knob.counts(values):
                self._show_swept(None)
            swept = None if self._swept is None else (self._swept, self._rows[self._swept].swept)
            for row in self._rows.values():
                row.enable(values, swept)
            self._runs.start(values, swept)

    @property
    def _values(self) -> dict[str, Any]:
        return {name: row.value for name, row in self._rows.items()}

    def _pressed_sweep(self, name: str | None) -> None:
        with self._lock:
            if not self._quiet:
                self.sweep(name)

    def _show_swept(self, name: str | None) -> None:
        with self._silence():
            self._swept = name
            for row in self._rows.values():
                row.show_swept(row.knob.name == name)

    def _pin(self, _: object = None) -> None:
        with self._lock:
            new = tuple(curve for curve in self._runs.view.curves if len(curve.history))
            self._pins = tuple(reading.together(self._pins, new))
        self._news()

    def _clear_pins(self, _: object = None) -> None:
        with self._lock:
            self._pins = ()
        self._draw()

    def _reset(self, _: object = None) -> None:
        with self._lock:
            self._show_swept(None)
            self.set(**self._initial)

    def _redraw(self, name: str, _: object = None) -> None:
        row = self._rows[name]
        position = row.knob.values.index(row.value) + 1
        self.set(**{name: row.knob.values[position % len(row.knob.values)]})

    def _stop(self, _: object = None) -> None:
        self._runs.stop()

    def _news(self) -> None:
        with self._lock:
            self._pins = reading.brought_up_to_date(self._pins, self._runs.view)
        self._draw()

    def _draw(self, _: object = None) -> None:
        self._painter.submit(self._paint)

    @contextmanager
    def _silence(self) -> Iterator[None]:
        """Change several knobs as one; with the lock held."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _row(self, name: str) -> controls.Row:
        if name not in self._rows:
            raise ValueError(f"{name} is not a knob{checks.nearest(name, self._rows)}")
        return self._rows[name]

    # What the drawing worker does.

    def _paint(self, _: threading.Event) -> None:
        started = time.monotonic()
        view, pins, steps = self._runs.view, self._pins, self._steps.value
        self._problem.value = reading.problem(view)
        self._words.value = reading.sentence(view, steps)
        self._progress.value = reading.progress_bar(view)
        named, busy = reading.shown(pins, view.curves, view.fedavg), bool(view.progress)
        frame = reading.runs(named, pins, steps, self._best_first.value)
        # Not at every frame: whoever is at its buttons would lose them.
        self._take_away.value = "Here when the run is over." if busy else reading.take_away(named, frame)
        seen = (view.federation, view.curves, view.fedavg, pins, steps, self._best_first.value)
        if seen == self._drawn:
            return
        self._picture.value = reading.image(reading.picture(pins, view.curves, view.fedavg, view.federation, steps))
        self._table.value = reading.table(frame)
        self._drawn = seen
        took = time.monotonic() - started
        time.sleep(max(FRAME - took, took))  # while Python draws it does not train: half of the time at most

    def _drawing_failed(self, error: BaseException) -> None:
        self._problem.value = reading.problem(View(problem=in_words_of(error)))

    # What it is made of.

    def _build(self) -> None:
        self._rows = {
            name: controls.Row(knob.with_value(self._base.value(name)), self._changed, self._pressed_sweep)
            for name, knob in KNOBS.items()
        }
        with self._silence():
            for name, row in self._rows.items():
                if self._base.value(name) is not None:
                    row.set(self._base.value(name))
        self._initial = self._values
        for row in self._rows.values():
            row.enable(self._initial, None)
        more = {title: [self._rows[knob.name].box for knob in group] for title, group in MORE.items()}
        more["Seeds"].append(
            line(
                [
                    button("Redraw data", partial(self._redraw, "seed"), "The next seed: other data, picks, batches."),
                    button("Redraw weights", partial(self._redraw, "weights_seed"), "The next initial weights."),
                ]
            )
        )
        presets = [
            button(name, partial(self._preset, change), "Set " + ", ".join(in_words(*knob) for knob in change.items()))
            for name, change in PRESETS.items()
        ]
        knobs = widgets.VBox(
            [
                *(self._rows[knob.name].box for knob in FIRST_LOOK),
                *(controls.fold(title, rows) for title, rows in more.items()),
                line([widgets.HTML("<b>Try</b>&nbsp;"), *presets]),
            ],
            layout=widgets.Layout(flex="1 1 330px", max_width="440px"),
        )
        buttons = [
            button("Run", self._changed, "Run what the knobs say.", icon="play", button_style="primary"),
            button("Stop", self._stop, "Stop what runs.", icon="stop"),
            button("Pin this curve", self._pin, "Keep what is drawn, to compare with what comes.", icon="thumb-tack"),
            button("Clear pins", self._clear_pins, "Take the pinned curves away."),
            button("Reset", self._reset, "Put every knob where it was at first."),
        ]
        self._problem, self._words, self._progress, self._picture = (widgets.HTML() for _ in range(4))
        self._table, self._take_away = widgets.HTML(), widgets.HTML()
        self._problem.add_class("gmfl-problem")
        self._words.add_class("gmfl-words")
        self._steps = widgets.Dropdown(
            options=[(readable(steps), steps) for steps in self._base.experiment.eval_steps],
            value=reading.steps_to_show(self._base.experiment),
            description="fine-tuning steps before scoring",
            tooltip="After how many fine-tuning steps accuracy is drawn against rounds, and said in words.",
            style={"description_width": "initial"},
        )
        self._best_first = widgets.ToggleButton(description="best first", tooltip="Sort the table by final accuracy.")
        for control in (self._steps, self._best_first):
            control.observe(self._draw, "value")
        below = [
            controls.fold("Table of runs", [self._best_first, self._table]),
            controls.fold("Take it away: Python, papermill, figure, table", [self._take_away]),
        ]
        seen = widgets.VBox(
            [line(buttons), self._problem, self._words, self._progress, self._picture, self._steps, *below],
            layout=widgets.Layout(flex="2 1 480px", min_width="0"),
        )
        self.panel = widgets.Box(
            [widgets.HTML(controls.STYLE, layout=widgets.Layout(display="none")), knobs, seen],
            layout=widgets.Layout(flex_flow="row wrap"),
        )
        self.panel.add_class("gmfl-explorer")

    def _preset(self, change: Mapping[str, Any], _: object = None) -> None:
        self.set(**change)


def _what_if(name: str, experiment: Experiment, weights_seed: int | None) -> WhatIf:
    if not isinstance(experiment, Experiment):
        raise checks.refusal(name, experiment, "an Experiment")
    seed = experiment.seed if weights_seed is None else checks.integer("weights_seed", weights_seed, 0)
    return WhatIf(experiment, seed)
