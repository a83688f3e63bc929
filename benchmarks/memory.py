"""How much memory a call needs: what the benchmarks share and nothing else of them."""

import ctypes
from collections.abc import Callable
from pathlib import Path


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
