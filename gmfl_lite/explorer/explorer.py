"""The explorer: knobs that start runs in the background, and a state that says what the panel shows.

Callbacks only read the controls and hand a job over, so that they return at once in whichever thread the kernel runs
them. One worker trains, another draws; only that one writes to what is shown.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import ipywidgets as widgets
from torch import nn

from ..basics import checks
from ..data import DATASETS
from ..experiment import Experiment, ExperimentError
from ..federation import Federation
from ..modules import PerSample
from ..result import Result
from ..sweep import Given
from . import sentences
from .background_runs import Runs
from .cells import Cell, Left
from .curves import Curve, brought_up_to_date, together
from .exploration import Exploration
from .knobs import KNOBS, PRESETS, Knob
from .latest_wins import LatestWins
from .panel import Panel
from .state import State, Sweep, as_left, steps_to_show
from .what_if import what_if_of
from .widget_parts import drawn

GETTING_READY = "Dealing the samples out to the agents."
FRAME = 0.1
"""Seconds between two drawings at least: a browser gets at most ten per second."""


class Explorer:
    """A panel of knobs next to a live picture: what do ν, heterogeneity and step sizes do?

    Moving a knob starts a run and ends the current one. Display the explorer to see it. Each button has a method, and
    `run` is the panel for scripts. If the cell that made an explorer runs again with the same base, the new explorer
    continues where the old one was, with its knobs, pins and results.

    Parameters
    ----------
    base : the knobs' first values, and all the settings that have no knob.
    federation, model, loss : as in `gmfl_lite.run`: your own agents, of any samples with classes, your own module and
        loss. Settings that they decide have no knob then, and at most all agents are picked.
    weights_seed : of the initial weights; by default base.seed.

    Attributes
    ----------
    state : what the panel shows now: a `gmfl_lite.explorer.state.State`.
    panel : the widgets that are displayed.

    Raises
    ------
    ValueError : base is not an Experiment, its dataset has no classes, or weights_seed is not an integer of at least 0.

    Examples
    --------
    >>> explorer = Explorer(Experiment(rounds=10, model="softmax"))
    >>> explorer.set(nu=1)  # as if the knob had been moved
    >>> explorer.wait().status
    'completed'
    >>> list(explorer.state.runs)
    ['ν = 1', 'FedAvg (ν = 0)']
    >>> explorer.close()
    """

    def __init__(
        self,
        base: Experiment = Experiment(),  # noqa: B008  (frozen)
        *,
        federation: Federation | None = None,
        model: nn.Module | None = None,
        loss: str | PerSample | None = None,
        weights_seed: int | None = None,
    ) -> None:
        given = Given(federation, model, loss)
        first = what_if_of("base", base, weights_seed, given)
        base = first.experiment
        shown = DATASETS.get(base.dataset) if federation is None else federation
        if shown is None or shown.classes is None:
            allowed = "one with classes: the panel draws accuracy. Use gmfl_lite.run; your own go into federation=…"
            raise checks.refusal("dataset", base.dataset, allowed)
        decided = {*given.decides(type(base)), *(("weights_seed",) if model is not None else ())}
        offered = {name: k for name, k in KNOBS.items() if isinstance(base, k.of) and name not in decided}
        if federation is not None:
            offered["agents_per_round"] = offered["agents_per_round"].at_most(federation.n_agents)
        stand = {name: first.value(name) for name in offered}
        self._knobs = {name: knob.with_value(stand[name]) for name, knob in offered.items()}
        self._initial = {name: offered[name].start if value is None else value for name, value in stand.items()}
        presets = {name: values for name, values in PRESETS.items() if values.keys() <= offered.keys()}
        self._first, self._cell = first, Cell(self._leave, self._wait_for_another)
        self._state = State(steps_to_show(base), MappingProxyType(self._initial), message=GETTING_READY)
        left = self._cell.taken_over(first)
        if left is not None and left.state.knobs.keys() == offered.keys():
            self._state = as_left(left.state)
        self._lock = threading.RLock()  # several threads may call back, and scripts call besides
        self._panel = Panel(
            self._state,
            self._knobs,
            presets,
            base.eval_steps,
            {
                "Run": self.start,
                "Fair": self._fair_pressed,
                "Stop": self.stop,
                "Pin this curve": self.pin,
                "Clear pins": self.clear_pins,
                "Reset": self.reset,
                "Redraw data": partial(self.redraw, "seed"),
                "Redraw weights": partial(self.redraw, "weights_seed"),
                **{name: partial(self.set, **change) for name, change in presets.items()},
            },
            moved=self._moved,
            swept=self._swept,
            looked=self._show,
        )
        self._painter = LatestWins("gmfl_lite drawing", lambda error: self._panel.tell(sentences.of_an_error(error)))
        self._draws_again = 0.0  # the time from which on the next picture may be drawn
        self._given, self._runs = given, Runs(first, self._show, left.runs if left else None)
        self._cost_said: object = None
        if self._state.curves:
            self._show()
        else:
            self._runs.look()
        self._cell.watch()

    @property
    def state(self) -> State:
        return self._state

    @property
    def panel(self) -> widgets.Box:
        return self._panel.box

    def run(self, experiment: Experiment, *, weights_seed: int | None = None, progress: bool = True) -> Exploration:
        """Run one experiment, and FedAvg to compare with, in the calling thread; the result displays itself.

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
        what_if, fedavg, beside = what_if_of("experiment", experiment, weights_seed, self._given), None, None
        result = self._runs.result(what_if, progress=progress)
        if result.status == "completed" and what_if != what_if.fedavg:
            fedavg = self._runs.result(what_if.fedavg, progress=progress)
            beside = Curve(what_if.fedavg, fedavg.history, fedavg.status, what_if.fedavg.megabytes_per_round)
        state = State(
            steps_to_show(experiment),
            knobs={},
            curves=(Curve(what_if, result.history, result.status, what_if.megabytes_per_round),),
            fedavg=beside,
            federation=what_if.federation,
        )
        words = result.message if result.status == "diverged" else state.words
        return Exploration(**vars(result), fedavg=fedavg, words=words, picture=state.picture())

    def set(self, **values: Any) -> None:
        """Set knobs by name, as a hand would, and start to run; a sweep of one of them ends.

        Raises
        ------
        ValueError : a name that is not a knob, or a value that its knob does not have; nothing is set then.

        Examples
        --------
        >>> explorer = Explorer()
        >>> explorer.set(nu=4)
        Traceback (most recent call last):
        ValueError: nu = 4: must be one of 0, 1, 2, 3, 5, 10
        >>> explorer.close()
        """
        for name, value in values.items():
            self._knob(name).check(value)
        with self._lock:
            swept = self._state.swept
            self._start({**self._state.knobs, **values}, None if swept and swept[0] in values else swept)

    def sweep(self, name: str | None) -> None:
        """Sweep a knob over its values while the others stay, as its button does; None sweeps nothing.

        Raises
        ------
        ValueError : a name that is not a knob, or a knob that changes nothing, given the others.
        """
        knob = None if name is None else self._knob(name)
        with self._lock:
            if knob is not None and not knob.counts(self._state.knobs):
                raise ValueError(f"{name} changes nothing unless {knob.condition}")
            self._start(self._state.knobs, None if knob is None else (knob.name, self._panel.range(knob.name)))

    def redraw(self, name: str) -> None:
        """Set a knob to its next value, and start to run; after the last comes the first.

        Raises
        ------
        ValueError : a name that is not a knob.
        """
        values = self._knob(name).values
        with self._lock:
            self.set(**{name: values[(values.index(self._state.knobs[name]) + 1) % len(values)]})

    def reset(self) -> None:
        """Start afresh: every knob where it was at first, no pins, no sweep; and run."""
        with self._lock:
            self._state = replace(self._state, pins=())
            self._start(self._initial, None)

    def start(self) -> None:
        """Run what the knobs say, in place of what runs now; return at once."""
        with self._lock:
            self._start(self._state.knobs, self._state.swept)

    def fair(self) -> None:
        """Compare what the knobs say with FedAvg, each at the step sizes that serve it best; return at once.

        The step sizes are searched for first, with `gmfl_lite.tune`, for as many fine-tuning steps as are shown; what
        was found, or tried until `stop`, is kept.
        """
        with self._lock:
            self._runs.start_fair(self._state.knobs, self._state.steps)

    def stop(self) -> None:
        """Stop what runs; return at once."""
        self._runs.stop()

    def pin(self) -> None:
        """Keep the curves that are drawn, to compare with what comes."""
        with self._lock:
            drawn = [curve for curve in self._state.curves if len(curve.history)]
            self._show(pins=together(self._state.pins, drawn))

    def clear_pins(self) -> None:
        """Take the pinned curves away."""
        self._show(pins=())

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait until the panel has nothing left to do, and return its last finished run, if there is one.

        Raises
        ------
        TimeoutError : that took longer than `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not (self._runs.wait(timeout) and self._painter.wait(deadline and max(0, deadline - time.monotonic()))):
            raise TimeoutError(f"the panel was still busy after {timeout:g} seconds")
        curves = self._state.curves
        return self._runs.known(curves[-1].what_if) if curves else None

    def close(self) -> None:
        """Stop what runs and take the panel away; return at once."""
        self._cell.forget()
        self._runs.close()
        self._painter.close()
        self._panel.close()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        return {**drawn(self.panel), "text/plain": "The explorer's knobs: run this cell to see and to move them."}

    # What the notebook's cells tell.

    def _leave(self) -> Left:
        """Close, and leave what it shows to the panel that the same cell makes next."""
        self.close()
        return Left(self._first, self._state, self._runs)

    def _wait_for_another(self, elsewhere: bool) -> None:
        if elsewhere != self._state.elsewhere:
            self._show(elsewhere=elsewhere)

    # What the controls tell, in whichever thread the kernel calls back; also what `Panel.show` has just put there.

    def _moved(self, name: str, value: Any) -> None:
        with self._lock:
            if value != self._state.knobs[name]:
                self.set(**{name: value})

    def _swept(self, name: str, values: tuple[Any, ...] | None) -> None:
        with self._lock:
            swept = self._state.swept
            if values != (swept[1] if swept and swept[0] == name else None):
                self._start(self._state.knobs, None if values is None else (name, values))

    def _fair_pressed(self) -> None:
        """Do it at the second time: at the first one say what it takes."""
        with self._lock:
            about = self._state.knobs, self._state.steps
            try:
                cost = "" if about == self._cost_said else self._runs.cost_of_fair(*about)
            except ExperimentError as error:
                self._show(problem=str(error))
                return
            self._cost_said = about
            if cost:
                self._show(message=f"{cost} Press Fair again to begin.")
            else:
                self.fair()

    def _start(self, knobs: Mapping[str, Any], swept: Sweep | None) -> None:
        with self._lock:
            if swept is not None and not self._knobs[swept[0]].counts(knobs):
                swept = None
            self._state = replace(self._state, knobs=MappingProxyType(dict(knobs)), swept=swept)
            self._panel.show(self._state)
            self._runs.start(knobs, swept)

    def _show(self, **changes: Any) -> None:
        """Have the state changed and painted; a pin grows with its run."""
        with self._lock:
            now = replace(self._state, **changes)
            going = [curve for curve in (*now.curves, now.fedavg) if curve is not None]
            self._state = replace(now, pins=brought_up_to_date(now.pins, going))
        self._painter.submit(self._paint)

    def _paint(self, newer: threading.Event) -> None:
        """Say at once that something is at work; draw at most a third of the time, and nothing that is old."""
        self._panel.paint_progress(self._state)
        early = self._draws_again - time.monotonic()
        if early > 0 and newer.wait(early):
            return
        started = time.monotonic()
        if self._panel.paint(self._state):
            self._draws_again = max(started + FRAME, 3 * time.monotonic() - 2 * started)

    def _knob(self, name: str) -> Knob:
        if name not in self._knobs:
            raise ValueError(f"{name} is not a knob{checks.nearest(name, self._knobs)}")
        return self._knobs[name]
