"""The notebook cell that makes an explorer: when it is run again, when another is at work, what it leaves behind."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython import get_ipython

from .background_runs import Runs
from .state import State
from .what_if import WhatIf

PATIENCE = 0.5
"""Seconds that another cell may take before the panel says that it is waited for."""


@dataclass(frozen=True)
class Left:
    """What a panel leaves to the one that its cell makes next: where it began, what it showed, its results."""

    first: WhatIf
    state: State
    runs: Runs


_left: dict[str, Left] = {}


class Cell:
    """The notebook cell that runs now, if one does.

    Parameters
    ----------
    again : called before it is run again; returns what is left behind.
    elsewhere : called with True while another cell takes long, with False at its end.
    """

    def __init__(self, again: Callable[[], Left], elsewhere: Callable[[bool], None]) -> None:
        self._shell, self._again, self._elsewhere = get_ipython(), again, elsewhere
        parent = self._shell.get_parent() if hasattr(self._shell, "get_parent") else {}
        self._name = parent.get("metadata", {}).get("cellId")
        self._waiting: threading.Timer | None = None

    def taken_over(self, first: WhatIf) -> Left | None:
        """Return what the panel that this cell made before has left, unless it began elsewhere."""
        left = _left.pop(self._name, None) if self._name is not None else None
        return left if left is not None and left.first == first else None

    def watch(self) -> None:
        if self._name is not None:
            self._shell.events.register("pre_run_cell", self._begins)
            self._shell.events.register("post_run_cell", self._ends)

    def forget(self) -> None:
        for event, callback in (("pre_run_cell", self._begins), ("post_run_cell", self._ends)):
            if self._name is not None and callback in self._shell.events.callbacks[event]:
                self._shell.events.unregister(event, callback)
        self._no_longer_waiting()

    def _begins(self, info: Any) -> None:
        if info.cell_id == self._name:
            _left[self._name] = self._again()
            return
        self._no_longer_waiting()
        self._waiting = threading.Timer(PATIENCE, self._elsewhere, (True,))
        self._waiting.daemon = True
        self._waiting.start()

    def _ends(self, _: Any) -> None:
        self._no_longer_waiting()
        self._elsewhere(False)

    def _no_longer_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
