"""The runs that an explorer starts: one background worker, and results that are kept."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from ..experiment import ExperimentError
from ..federation import Federation
from ..result import Result
from .best_step_sizes import BestStepSizes, StoppedSearching, method_in_words
from .curves import Curve
from .latest_wins import LatestWins
from .sentences import of_an_error
from .state import Sweep
from .what_if import WhatIf, in_words

RESULTS_KEPT = 64

_NOTHING: dict[str, Any] = {"curves": (), "family": None, "fedavg": None, "federation": None, "fair": False}
"""What is to be seen where none of the what-ifs could be run."""
READY = "Press Run, or move a knob."
_STOPPED_SEARCHING = "Stopped: what was tried is kept, and Fair continues from there."
_STOPPED = "Stopped: press Run to start again."
_STOPPED_EARLY = "Stopped before the first point, so this is the picture from before: press Run to start again."


class Runs:
    """Run the latest what-if asked for, and FedAvg to compare with it, in the background.

    Parameters
    ----------
    base : the what-if that the others are changes of.
    show : called, in the worker's thread, with fields of a State and what they are now.
    before : whose results to keep.
    """

    def __init__(self, base: WhatIf, show: Callable[..., None], before: "Runs | None" = None) -> None:
        self._base, self._show = base, show
        self._results: OrderedDict[WhatIf, Result] = OrderedDict() if before is None else before._results
        self._best: BestStepSizes = BestStepSizes() if before is None else before._best
        self._pace: float | None = None
        self._lock = threading.Lock()
        self._worker = LatestWins("gmfl_lite training", self._tell)
        self.stop, self.wait, self.close = self._worker.stop, self._worker.wait, self._worker.close

    def look(self) -> None:
        """Score the base's initial weights; return at once."""
        self._worker.submit(self._first_look)

    def start(self, values: Mapping[str, Any], swept: Sweep | None = None) -> None:
        """Run the knobs' values in place of what runs now, or once for each value of a swept knob; return at once."""
        self._worker.submit(partial(self._explore, values, swept))

    def start_fair(self, values: Mapping[str, Any], steps: int) -> None:
        """Compare the knobs' values with FedAvg, each at its best step sizes for so many steps; return at once."""
        self._worker.submit(partial(self._compare_fairly, values, steps))

    def cost_of_fair(self, values: Mapping[str, Any], steps: int) -> str:
        """Say what has to be searched for before that; "" if nothing has to be.

        Raises
        ------
        ExperimentError : values that contradict each other.
        """
        return self._best.cost(_with_fedavg(WhatIf.from_values(self._base, values)), steps, self._pace)

    def known(self, what_if: WhatIf) -> Result | None:
        """Return the result that is kept, if one is."""
        return self._results.get(what_if)

    def result(self, what_if: WhatIf, **how: Any) -> Result:
        """Run a what-if, or take the result that is kept."""
        with self._lock:
            if what_if in self._results:
                self._results.move_to_end(what_if)
                return self._results[what_if]
        started = time.monotonic()
        result = what_if.run(**how)
        if result.status != "stopped":
            self._pace = (time.monotonic() - started) / max(1, result.round)
            with self._lock:
                self._results[what_if] = result
                if len(self._results) > RESULTS_KEPT:
                    self._results.popitem(last=False)
        return result

    def _first_look(self, stop: threading.Event) -> None:
        """Score the initial weights: there is something to see, and what is slow only once is over."""

        def scored(round: int, rows: pd.DataFrame) -> None:
            self._show(curves=(Curve(what_if, rows, "untrained", what_if.megabytes_per_round),), message=READY)
            stop.set()

        what_if = WhatIf.from_values(self._base, {})  # what Run runs if no knob is moved
        self._show(federation=what_if.federation)
        result = what_if.run(stop=stop, on_round=scored)
        if not self._worker.superseded:
            self._show(message=READY, problem=result.message if result.status == "diverged" else "")

    def _explore(self, values: Mapping[str, Any], swept: Sweep | None, stop: threading.Event) -> None:
        what_ifs, problems = self._what_ifs(values, swept)
        if not what_ifs:
            self._show(**_NOTHING)
        self._show(
            message="",
            problem="\n".join(problems),
            progress="preparing the agents" if what_ifs else "",
            part_done=0.0,
        )
        clock = Clock([what_if for what_if in what_ifs if what_if not in self._results])
        done = _NOTHING

        def among(curve: Curve, federation: Federation) -> dict[str, Any]:
            shown = (*done["curves"], curve)
            return {**_NOTHING, "curves": shown, "family": swept and swept[0], "federation": federation}

        for what_if in what_ifs:
            try:
                result, done = self._follow(what_if, stop, clock, among, done)
                problem = result.message if result.status == "diverged" else ""
            except Exception as error:  # one point of a sweep must not end the others
                problem = of_an_error(error)
                self._show(**done)  # what was there before belongs to another what-if
            if problem:
                problems.append(_about(swept, swept and what_if.value(swept[0]), problem))
                self._show(problem="\n".join(problems))
            if stop.is_set():
                break
        if swept is None and what_ifs and not problems and not stop.is_set() and what_ifs[0] != what_ifs[0].fedavg:
            fedavg = what_ifs[0].fedavg
            clock = Clock([fedavg], "FedAvg, to compare: ")
            self._follow(fedavg, stop, clock, lambda curve, _: {"fedavg": curve}, {})
        if not self._worker.superseded:
            message = (_STOPPED if done["curves"] else _STOPPED_EARLY) if stop.is_set() and what_ifs else ""
            self._show(message=message, progress="", part_done=0.0)

    def _compare_fairly(self, values: Mapping[str, Any], steps: int, stop: threading.Event) -> None:
        self._show(message="", problem="", progress="preparing the agents", part_done=0.0)
        best, message = [], ""
        try:
            for what_if in _with_fedavg(WhatIf.from_values(self._base, values)):

                def tell(words: str, part: float, name: str = method_in_words(what_if)) -> None:
                    self._show(progress=f"best step sizes of {name}, {words}", part_done=part)

                best.append(self._best.of(what_if, steps, stop, tell))
        except StoppedSearching:
            message = _STOPPED_SEARCHING
        else:
            clock, done = Clock(best), _NOTHING
            for what_if in best:

                def among(curve: Curve, federation: Federation, done: dict[str, Any] = done) -> dict[str, Any]:
                    if done["curves"]:
                        return {**done, "fedavg": curve}
                    return {**_NOTHING, "curves": (curve,), "federation": federation, "fair": True}

                _, done = self._follow(what_if, stop, clock, among, done)
            message = _STOPPED if stop.is_set() else ""
        if not self._worker.superseded:
            self._show(message=message, progress="", part_done=0.0)

    def _what_ifs(self, values: Mapping[str, Any], swept: Sweep | None) -> tuple[list[WhatIf], list[str]]:
        """Return what to run, and what cannot be run in words."""
        what_ifs, problems = [], []
        if swept is not None and not swept[1]:
            problems.append(f"{swept[0]}: choose at least one value to sweep over")
        for value in [None] if swept is None else swept[1]:
            try:
                chosen = values if swept is None else {**values, swept[0]: value}
                what_ifs.append(WhatIf.from_values(self._base, chosen))
            except ExperimentError as error:
                problems.append(_about(swept, value, error))
        return what_ifs, problems

    def _follow(
        self,
        what_if: WhatIf,
        stop: threading.Event,
        clock: "Clock",
        among: Callable[[Curve, Federation], dict[str, Any]],
        before: dict[str, Any],
    ) -> tuple[Result, dict[str, Any]]:
        """Run a what-if, or take the result that is kept; show its curve `among` the others as it grows.

        Return the result, and what is shown at the end: what was `before`, if it was stopped before its first point.
        """
        federation, frames = what_if.federation, []

        def scored(round: int, rows: pd.DataFrame) -> None:
            frames.append(rows)
            curve = Curve(what_if, pd.concat(frames, ignore_index=True), "running", what_if.megabytes_per_round)
            progress, part_done = clock.at(round, what_if.experiment.rounds)
            self._show(progress=progress, part_done=part_done, **among(curve, federation))

        known = what_if in self._results
        result = self.result(what_if, stop=stop, on_round=scored)
        if not known:
            clock.finished(what_if.experiment.rounds)
        if result.history.empty and result.status == "stopped":  # what is drawn stays, with its words
            return result, before
        shown = among(Curve(what_if, result.history, result.status, what_if.megabytes_per_round), federation)
        self._show(**shown)
        return result, shown

    def _tell(self, error: BaseException) -> None:
        self._show(problem=of_an_error(error), message="", progress="", part_done=0.0)


class Clock:
    """How far several runs are, in words, and how long the rest will take."""

    def __init__(self, todo: Sequence[WhatIf], what: str = "") -> None:
        self._rounds = sum(what_if.experiment.rounds for what_if in todo)
        self._runs, self._finished = len(todo), 0
        self._what, self._done = what, 0
        self._started: float | None = None

    def at(self, round: int, rounds: int) -> tuple[str, float]:
        """Return what to say, and which part of all rounds is done."""
        if self._started is None:
            self._started = time.monotonic()
        done = self._done + round
        run = f"run {self._finished + 1} of {self._runs}, " if self._runs > 1 else ""
        words = f"{self._what}{run}round {round} of {rounds}"
        if done:
            left = (time.monotonic() - self._started) * (self._rounds - done) / done
            words += f", about {left:.0f} s left"
        return words, done / self._rounds

    def finished(self, rounds: int) -> None:
        self._done += rounds
        self._finished += 1


def _with_fedavg(what_if: WhatIf) -> list[WhatIf]:
    return list(dict.fromkeys((what_if, what_if.fedavg)))


def _about(swept: Sweep | None, value: Any, problem: object) -> str:
    return str(problem) if swept is None else f"{in_words(swept[0], value)}: {problem}"
