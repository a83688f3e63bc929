"""The runs that an explorer starts: one background worker, results that are kept, and what is to be seen of them."""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from ..experiment import ExperimentError
from ..federation import Federation
from ..result import Result
from .display import Clock, Curve, View
from .latest_wins import LatestWins
from .what_if import WhatIf, in_words

RESULTS_KEPT = 64

_NOTHING = {"curves": (), "fedavg": None, "federation": None}
"""What is to be seen where none of the what-ifs could be run."""


class Runs:
    """Run the latest what-if asked for, and FedAvg to compare with it, in the background.

    Parameters
    ----------
    base : the what-if that the others are changes of.
    changed : called, in whichever thread, when there is something new to see in `view`.
    """

    def __init__(self, base: WhatIf, changed: Callable[[], None]) -> None:
        self._base, self._changed = base, changed
        self.view = View()
        self._results: OrderedDict[WhatIf, Result] = OrderedDict()
        self._lock = threading.Lock()
        self._worker = LatestWins("gmfl_lite training", self._tell)
        self.stop, self.wait, self.close = self._worker.stop, self._worker.wait, self._worker.close

    def look(self) -> None:
        """Score the base's initial weights; return at once."""
        self._worker.submit(self._first_look)

    def start(self, values: Mapping[str, Any], swept: tuple[str, Sequence] | None = None) -> None:
        """Run the knobs' values in place of what runs now, or once for each value of a swept knob; return at once."""
        self._worker.submit(partial(self._explore, values, swept))

    @property
    def last(self) -> Result | None:
        """The result of the last curve to be seen, once it is finished."""
        curves = self.view.curves
        return self._results.get(curves[-1].what_if) if curves else None

    def _first_look(self, stop: threading.Event) -> None:
        """Score the initial weights: there is something to see, and what is slow only once is over."""

        def scored(round: int, rows: pd.DataFrame) -> None:
            self._show(curves=(Curve(what_if, rows, "untrained"),))
            stop.set()

        what_if = WhatIf.from_values(self._base, {})  # what Run runs if no knob is moved
        self._show(message="Press Run, or move a knob.")
        self._show(federation=what_if.federation)
        result = what_if.run(stop=stop, on_round=scored)
        if result.status == "diverged":
            self._show(problem=result.message)

    def _explore(self, values: Mapping[str, Any], swept: tuple[str, Sequence] | None, stop: threading.Event) -> None:
        what_ifs, problems = [], []
        if swept is not None and not swept[1]:
            problems.append(f"{swept[0]}: choose at least one value to sweep over")
        for value in [None] if swept is None else swept[1]:
            try:
                chosen = values if swept is None else {**values, swept[0]: value}
                what_ifs.append(WhatIf.from_values(self._base, chosen))
            except ExperimentError as error:
                problems.append(_about(swept, value, error))
        if not what_ifs:
            self._show(**_NOTHING)
        self._show(
            swept=swept and swept[0],
            message="",
            problem="\n".join(problems),
            progress="preparing the agents" if what_ifs else "",
            part_done=0.0,
        )
        clock = Clock([what_if for what_if in what_ifs if what_if not in self._results])
        done = _NOTHING

        def among(curve: Curve, federation: Federation) -> dict[str, Any]:
            return {"curves": (*done["curves"], curve), "fedavg": None, "federation": federation}

        for what_if in what_ifs:
            try:
                result = self._follow(what_if, stop, clock, among)
                problem = result.message if result.status == "diverged" else ""
                done = {name: getattr(self.view, name) for name in _NOTHING}
            except Exception as error:  # one point of a sweep must not end the others
                problem = in_words_of(error)
                self._show(**done)  # what was there before belongs to another what-if
            if problem:
                problems.append(_about(swept, swept and what_if.value(swept[0]), problem))
                self._show(problem="\n".join(problems))
            if stop.is_set():
                break
        if swept is None and what_ifs and not problems and not stop.is_set() and what_ifs[0] != what_ifs[0].fedavg:
            fedavg = what_ifs[0].fedavg
            self._follow(fedavg, stop, Clock([fedavg], "FedAvg, to compare: "), lambda curve, _: {"fedavg": curve})
        if not self._worker.superseded:
            stopped = any(curve.status == "stopped" for curve in self.view.curves)
            message = "Stopped: press Run to start again." if stopped else ""
            self._show(message=message, progress="", part_done=0.0)

    def _follow(
        self,
        what_if: WhatIf,
        stop: threading.Event,
        clock: Clock,
        among: Callable[[Curve, Federation], dict[str, Any]],
    ) -> Result:
        """Run a what-if, or take the result that is kept, and show its curve `among` the others as it grows."""
        federation, frames = what_if.federation, []

        def scored(round: int, rows: pd.DataFrame) -> None:
            frames.append(rows)
            curve = Curve(what_if, pd.concat(frames, ignore_index=True), "running")
            progress, part_done = clock.at(round, what_if.experiment.rounds)
            self._show(progress=progress, part_done=part_done, **among(curve, federation))

        known = what_if in self._results
        result = self.result(what_if, stop=stop, on_round=scored)
        if not known:
            clock.finished(what_if.experiment.rounds)
        self._show(**among(Curve(what_if, result.history, result.status), federation))
        return result

    def result(self, what_if: WhatIf, **how: Any) -> Result:
        """Run a what-if, or take the result that is kept."""
        with self._lock:
            if what_if in self._results:
                self._results.move_to_end(what_if)
                return self._results[what_if]
        result = what_if.run(**how)
        if result.status != "stopped":
            with self._lock:
                self._results[what_if] = result
                if len(self._results) > RESULTS_KEPT:
                    self._results.popitem(last=False)
        return result

    def _tell(self, error: BaseException) -> None:
        self._show(problem=in_words_of(error), message="", progress="", part_done=0.0)

    def _show(self, **changes: Any) -> None:
        self.view = dataclasses.replace(self.view, **changes)
        self._changed()


def in_words_of(error: BaseException) -> str:
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"


def _about(swept: tuple[str, Sequence] | None, value: Any, problem: object) -> str:
    return str(problem) if swept is None else f"{in_words(swept[0], value)}: {problem}"
