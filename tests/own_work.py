"""How long something took, whatever else the machine has to do."""

import contextlib
import os
import time
from pathlib import Path

from gmfl_lite.engine.threads_and_memory import usable_cores


def crowded(seconds: float) -> float:
    """Return what seconds on a quiet machine may become where others take turns, and share caches.

    By what computes at this moment, or did in the last minute, whichever is more.
    """
    at_work = [1.0, os.getloadavg()[0] if hasattr(os, "getloadavg") else 1.0]
    with contextlib.suppress(OSError):  # there is none but on Linux
        at_work.append(float(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0]))
    return seconds * max(1.0, max(at_work) / usable_cores())


class Clock:
    """Count the seconds in which this process computed, or those on the clock where these are fewer."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), time.process_time()

    def seconds(self) -> float:
        return min(now - began for now, began in zip(self._now(), self._began, strict=True))
