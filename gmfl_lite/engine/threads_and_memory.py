"""Fit the process to its machine: threads that repay themselves, and memory that is kept instead of asked for again.

GMFL_LITE_THREADS=n      compute with n threads; 0 leaves torch's number as it is
GMFL_LITE_KEEP_MEMORY=0  leave the allocator as it is

Without a wish, a small step gets one thread: two of OpenMP's threads wait for each other actively, and wherever another
program takes one of their cores, both stand still for a time slice (benchmarks/RESULTS.md has the measurements). A
process that is forked computes with one thread, whatever is asked for: OpenMP's do not survive a fork.
"""

import ctypes
import functools
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import ParamSpec, TypeVar

import torch

from ..basics import checks
from ..basics.devices import cudnn_without

SMALL = 0.005
"""Seconds of one gradient on one thread up to which more threads are not even tried."""
REPAID = 0.7
"""The part of the time that twice as many threads may take: more of it, and the cores are better left to others."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_forked = False
_T = TypeVar("_T")
_P = ParamSpec("_P")


@functools.cache
def prepare_process() -> None:
    """Do once in this process what makes local updates fast: keep memory, load derivatives."""
    keep_freed_memory()
    load_derivatives()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_a_fork)


def _after_a_fork() -> None:
    global _forked
    _forked = True
    torch.set_num_threads(1)  # a forked process has none of OpenMP's threads, and would wait for them forever


def usable_cores() -> int:
    """Return how many cores this process may use: CPU_LIMIT (Binder) or the scheduler's affinity, not the host's count.

    >>> 1 <= usable_cores() <= os.cpu_count()
    True
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit = float(os.environ.get("CPU_LIMIT", "inf"))
    except ValueError:
        limit = math.inf
    return max(1, math.floor(min(affinity, limit))) if limit > 0 else affinity


def choose_threads(work: Callable[[], object] | None = None) -> tuple[int, str]:
    """Return how many threads to compute with (0: as many as torch has now), and why.

    Parameters
    ----------
    work : a gradient as large as those of a local step; it is timed. Twice as many threads are taken as long as that
        saves a third of its time, up to the usable cores; a number that the user has set (OMP_NUM_THREADS,
        torch.set_num_threads) is not exceeded. Where other programs compute, the timing shows it. None: one will do.

    Raises
    ------
    ValueError : GMFL_LITE_THREADS is not a whole number.
    """
    if _forked:
        return 1, "as the process was forked"
    if asked := os.environ.get("GMFL_LITE_THREADS"):
        if not asked.isascii() or not asked.isdigit():
            raise checks.refusal(
                "GMFL_LITE_THREADS", asked, "a whole number of threads, or 0 to leave torch's as it is"
            )
        return int(asked), "as GMFL_LITE_THREADS asks"
    if work is None:
        return 1, "as no more are asked for"
    threads, most = 1, min(torch.get_num_threads(), usable_cores())
    if most == 1:
        return 1, "as there is one core to use"
    try:
        seconds = min(_seconds(work, 1))
    except Exception:  # whatever is wrong with it, its first step says so better
        return 1, "as its work could not be timed"
    if seconds < SMALL:
        return 1, "as steps are small"
    while threads < most:
        more = min(2 * threads, most)
        slowest = max(_seconds(work, more))
        if slowest > REPAID * seconds:
            break
        threads, seconds = more, slowest
    return threads, "as they save time" if threads > 1 else "as more save little time here"


def _seconds(work: Callable[[], object], threads: int) -> list[float]:
    """Time some work three times, and once before, when it may have to load; where it takes long, less often."""
    times: list[float] = []
    with computing_with(threads):
        while len(times) < 4 and sum(times) < 0.5:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    return times[1:] or times


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads (0: as it is), and then with as many as before.

    A GPU's convolutions compute in float32 inside, as its products do: TF32, torch's default for them, has three
    digits, of which a difference of gradients leaves none.
    """
    before = torch.get_num_threads()
    with cudnn_without("allow_tf32") if torch.cuda.is_initialized() else nullcontext():
        if threads in (0, before):
            yield
            return
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def modestly(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a function compute with one thread, or as many as GMFL_LITE_THREADS asks for."""

    @functools.wraps(function)
    def computed(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with computing_with(choose_threads()[0]):
            return function(*args, **kwargs)

    return computed


def made_with(threads: int, items: Iterable[_T]) -> Iterator[_T]:
    """Yield items that are computed with so many threads; who takes them has torch's number as it was.

    >>> before = torch.get_num_threads()
    >>> all(torch.get_num_threads() == before for _ in made_with(1, range(3)))
    True
    """
    iterator = iter(items)
    while True:
        with computing_with(threads):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next tensor, and say whether it does.

    By default it gives large blocks back to the system at once, which then hands out fresh pages, zeroed, one fault for
    every 4 kB: a meta step of many agents spends more time there than in its products (benchmarks/RESULTS.md). The
    price is that the process stays as large as it ever was; threads share two pools, so that not each keeps its own.
    """
    wish = os.environ.get("GMFL_LITE_KEEP_MEMORY", "1")
    if wish not in ("0", "1"):
        raise checks.refusal("GMFL_LITE_KEEP_MEMORY", wish, "0 or 1")
    if wish == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: 2**26, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 2}
    return all(mallopt(setting, value) for setting, value in settings.items())


def load_derivatives() -> None:
    """Make torch.func load what it loads at the first derivative, for a second: better now than in the first run."""
    torch.func.grad(torch.sum)(torch.zeros(1))
