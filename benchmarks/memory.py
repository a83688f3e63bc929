"""How much memory a call needs: what the benchmarks share and nothing else of them."""

import ctypes
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_allocated(function: Callable[[], None]) -> int:
    """Return how many bytes of tensors `function` holds at most at once on the CPU, as PyTorch's allocator counts them.

    The same number each time and on every machine, which the growth of a process is not: what it frees may stay with
    it, and what is at hand is used before it grows.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())), default=0)


def peak_memory(function: Callable[[], None]) -> float:
    """Return by how many MB the process grows at most while `function` runs (Linux), or nothing elsewhere."""
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
