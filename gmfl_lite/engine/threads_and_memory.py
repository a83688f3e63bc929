"""Fit the process to its machine: as many threads as cores, and memory that is kept instead of asked for again.

`prepare_process` does this once, when the first engine is built, and can be told not to by the environment:

GMFL_LITE_THREADS=n      that many torch threads; 0 leaves them as they are
GMFL_LITE_KEEP_MEMORY=0  leaves the allocator as it is

A process that is forked afterwards computes with one thread, whatever is asked for: OpenMP's do not survive a fork.
"""

import ctypes
import functools
import math
import os
import platform

import torch

PORTABLE = {"MKL_CBWR": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
"""Environment of a new process that is to give the same bits on all Intel processors since 2013.

Wider instructions and more threads add in another order, and after a hundred rounds of training a difference in the
last digit is one in the first. The notebooks' stored outputs and the evidence are made so, up to twice as slowly.
"""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


@functools.cache
def prepare_process() -> None:
    """Do once in this process what makes local updates fast: threads, memory, derivatives loaded."""
    set_threads()
    keep_freed_memory()
    load_derivatives()
    if hasattr(
        os, "register_at_fork"
    ):  # a forked process has none of OpenMP's threads, and would wait for them for ever
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


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


def set_threads() -> None:
    """Lower torch's threads to the usable cores; more of them make small batched products ten times slower or worse.

    A number that the user has set (OMP_NUM_THREADS, torch.set_num_threads) is only ever lowered.
    """
    wanted = os.environ.get("GMFL_LITE_THREADS", "")
    threads = int(wanted) if wanted.isdigit() else min(torch.get_num_threads(), usable_cores())
    if threads and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next tensor, and say whether it does.

    By default it gives large blocks back to the system at once, which then hands out fresh pages, zeroed, one fault for
    every 4 kB: a meta step of many agents spends more time there than in its products (benchmarks/RESULTS.md). The
    price is that the process stays as large as it ever was; threads share two pools, so that not each keeps its own.
    """
    if os.environ.get("GMFL_LITE_KEEP_MEMORY") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: 2**26, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 2}
    return all(mallopt(setting, value) for setting, value in settings.items())


def load_derivatives() -> None:
    """Make torch.func load what it loads at the first derivative, for a second: better now than in the first run."""
    torch.func.grad(torch.sum)(torch.zeros(1))
