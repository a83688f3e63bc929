"""Processes that share a sweep, and that do not outlive Ctrl-C."""

import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context


@contextmanager
def workers(count: int | None) -> Iterator[Executor | None]:
    """Lend this many processes, or None for this one alone; after an error they are ended, not waited for."""
    if count is None:
        yield None
        return
    others = set(active_children())
    executor = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_leave_ctrl_c_to_the_first)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in set(active_children()) - others:
            child.terminate()
        raise
    executor.shutdown()


def _leave_ctrl_c_to_the_first() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
