"""Each method at its best step sizes: a search whose cost is said before, and which can be stopped."""

import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

from ..sweep import tune
from .curves import FEDAVG
from .what_if import WhatIf, labels

SETTINGS = ("fine_tune_lr", "meta_lr")
TRIALS = 30
"""The most that are tried of a method; the search of two settings ends by itself after about as many."""
SEEDS = (1000, 1001)
"""What trials run on: none that a knob can be set to."""


class StoppedSearching(Exception):
    """The search was stopped; what was tried is kept."""


class BestStepSizes:
    """What-ifs at the step sizes that are best for their methods.

    What was tried is kept as long as this object is: a search that was stopped continues from there.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[WhatIf, int], WhatIf] = {}
        self._tried: str | None = None

    def cost(self, what_ifs: Sequence[WhatIf], steps: int, pace: float | None) -> str:
        """Say what a search takes, if a round takes `pace` seconds; "" if nothing has to be searched for."""
        todo = [what_if for what_if in what_ifs if (_method(what_if), steps) not in self._found]
        if not todo:
            return ""
        runs = len(todo) * TRIALS * len(SEEDS)
        words = f"Fair searches for the best α and β of {' and '.join(map(method_in_words, todo))}: at most {runs} runs"
        if pace is not None:
            minutes = runs * pace * todo[0].experiment.rounds / 60
            words += f", about {minutes:.0f} min" if minutes >= 1 else ", less than a minute"
        return f"{words}."

    def of(self, what_if: WhatIf, steps: int, stop: threading.Event, tell: Callable[[str, float], None]) -> WhatIf:
        """Return a what-if at the step sizes that serve it best after so many fine-tuning steps.

        tell : called with how far the search is, in words and as a number from 0 to 1.

        Raises
        ------
        StoppedSearching : `stop` was set; the runs at work are ended first.
        """
        method = _method(what_if)
        if (method, steps) not in self._found:
            if self._tried is None:
                self._tried = tempfile.mkdtemp(prefix="gmfl_lite-")
                weakref.finalize(self, shutil.rmtree, self._tried, ignore_errors=True)
            found = tune(
                what_if.experiment,
                settings=SETTINGS,
                steps=steps,
                validation_seeds=SEEDS,
                trials=TRIALS,
                executor=_Here(stop, tell, TRIALS * len(SEEDS)),
                cache=self._tried,
                progress=False,
                **what_if.given.arguments,
            )
            self._found[method, steps] = replace(what_if, experiment=found.best)
        best = self._found[method, steps].experiment
        sizes = {name: getattr(best, name) for name in SETTINGS}
        return replace(what_if, experiment=what_if.experiment.replace(**sizes))


def method_in_words(what_if: WhatIf) -> str:
    return FEDAVG if what_if == what_if.fedavg else labels([what_if])[0]


def _method(what_if: WhatIf) -> WhatIf:
    """Return what-ifs that have the same best step sizes as one: where the search begins does not count."""
    start = type(what_if.experiment)()
    return replace(what_if, experiment=what_if.experiment.replace(**{name: getattr(start, name) for name in SETTINGS}))


class _Here(Executor):
    """Run each job, some runs, at once, in the calling thread, unless that is to stop."""

    def __init__(self, stop: threading.Event, tell: Callable[[str, float], None], most: int) -> None:
        self._stop, self._tell, self._most = stop, tell, most
        self._done, self._started = 0, time.monotonic()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        if self._stop.is_set():
            raise StoppedSearching
        left = ""
        if self._done:
            each = (time.monotonic() - self._started) / self._done
            left = f", at most {each * (self._most - self._done):.0f} s left"
        self._tell(f"run {self._done + 1} of at most {self._most}{left}", self._done / self._most)
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        self._done += len(args[0])
        return future
