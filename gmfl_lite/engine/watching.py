"""Look whether to go on before every tensor operation, so that even a long computation ends when it should."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from .local_step import Stopped, look_at


class BeforeEveryOperation(TorchDispatchMode):
    """Call `act` before every tensor operation inside, also of those that torch.func's transforms lead to.

    This takes a few microseconds for each operation, nearly as long as a small one does: not for what is done often.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # for which torch would import its compiler, and call it at every operation

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._act = act

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self._act()
        return operation(*args, **(kwargs or {}))


class Watch(BeforeEveryOperation):
    """End what is computed inside as soon as `stop` is set, or after some seconds, by raising Stopped.

    >>> import torch
    >>> with Watch(None, seconds=0.0):
    ...     torch.ones(1) + 1
    Traceback (most recent call last):
    gmfl_lite.engine.local_step.Stopped
    """

    def __init__(self, stop: threading.Event | None, seconds: float = math.inf) -> None:
        super().__init__(self.look)
        self._stop, self._end = stop, time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        return self._end - time.monotonic()

    def look(self) -> None:
        look_at(self._stop)
        if self.seconds_left <= 0:
            raise Stopped
