"""A background thread that does the latest thing asked; it knows neither widgets nor training."""

import atexit
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path

Job = Callable[[threading.Event], None]
"""Work to do; the event is set when somebody wants it to end early."""

_workers: "weakref.WeakSet[LatestWins]" = weakref.WeakSet()


class LatestWins:
    """Do one job at a time in one daemon thread: a new job stops the one at work and replaces the one that waits.

    The thread starts with a job and ends when there is none, so that an idle worker costs nothing.

    Parameters
    ----------
    name : of the thread.
    on_error : called, in the thread, with an exception that a job raised.

    Examples
    --------
    >>> done = []
    >>> worker = LatestWins("example", on_error=print)
    >>> worker.submit(lambda stop: done.append(stop.is_set()))
    >>> worker.wait()
    True
    >>> done
    [False]
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], None]) -> None:
        self._name, self._on_error = name, on_error
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._waiting: Job | None = None
        self._ended_early = False
        self._thread: threading.Thread | None = None
        self._leaving: list[threading.Thread] = []
        self._closed = False
        _workers.add(self)

    def submit(self, job: Job) -> None:
        """Have `job` done as soon as the one at work has stopped; return at once."""
        with self._changed:
            if self._closed:
                return
            self._stop.set()
            self._waiting, self._ended_early = job, False
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._leaving = [*(thread for thread in self._leaving if thread.is_alive()), self._thread]
                self._thread.start()

    def stop(self) -> None:
        """Ask the job at work to end; return at once.

        One that waits is begun with its event set: what it would say of being stopped is said, however soon that was.
        """
        with self._changed:
            self._stop.set()
            self._ended_early = True

    @property
    def superseded(self) -> bool:
        """Whether another job waits for the one at work to end."""
        return self._waiting is not None

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is nothing left to do; False if that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout)

    def close(self) -> None:
        """Stop, forget the job that waits, and take no more; return at once."""
        with self._changed:
            self._closed = True
            self._stop.set()
            self._waiting = None

    def join(self, timeout: float) -> None:
        """Wait until every thread is gone, with all that torch keeps in it; that is later than its last job's end."""
        for thread in self._leaving:
            thread.join(timeout)
            _gone(thread, timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                job, self._waiting = self._waiting, None
                if job is None:
                    self._thread = None
                    self._changed.notify_all()
                    return
                self._stop = stop = threading.Event()
                if self._ended_early:
                    stop.set()
            try:
                job(stop)
            except BaseException as error:  # whatever it is, it is told and the next job is done
                try:
                    self._on_error(error)
                except BaseException:
                    traceback.print_exc()


def _gone(thread: threading.Thread, timeout: float) -> None:
    """Wait for the system's thread: Python 3.11 and 3.12 call a thread ended that has torch's things to take down."""
    tasks, end = Path("/proc/self/task"), time.monotonic() + timeout
    if not tasks.is_dir():  # not Linux
        time.sleep(0.1)
    while (tasks / str(thread.native_id)).exists() and time.monotonic() < end:
        time.sleep(0.005)


@atexit.register
def _close_all() -> None:
    """A daemon thread that is inside torch while the interpreter is taken down would crash it."""
    for worker in list(_workers):
        worker.close()
        worker.join(timeout=30)  # it returns sooner, unless the machine is very busy
