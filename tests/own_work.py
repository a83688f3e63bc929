"""How long something took, whatever else the machine has to do."""

import time


class Clock:
    """Count the seconds in which this process computed, or those on the clock where these are fewer."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), time.process_time()

    def seconds(self) -> float:
        return min(now - began for now, began in zip(self._now(), self._began, strict=True))
