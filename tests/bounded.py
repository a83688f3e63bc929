"""What reading something from a stranger may cost: some memory, and no file outside of one folder."""

import ctypes
import os
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import resource
except ImportError:  # on Windows
    resource = None

MOST = 200e6
"""Bytes that no reader of a stranger's input may allocate."""

_CHANGES = {"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_STARTS = {"os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

_watched: tuple[Path | None, list[str]] | None = None  # the folder, and what was done outside of it


def _watch(event: str, arguments: tuple) -> None:
    """Note what Python does outside of the folder; an error here could be caught by what is tested."""
    if _watched is None:
        return
    folder, found = _watched
    if event in _STARTS:
        found.append(f"{event}{arguments}")
    elif event in _CHANGES or (event == "open" and arguments[2] & _WRITES):
        places = arguments[1:2] if event == "os.symlink" else arguments[: 2 if event in ("os.link", "os.rename") else 1]
        for place in (Path(os.fsdecode(place)) for place in places if isinstance(place, (str, bytes, os.PathLike))):
            if folder is None or not Path(os.path.realpath(place)).is_relative_to(folder):
                found.append(f"{event} {place}")


sys.addaudithook(_watch)


@contextmanager
def bounded(folder: Path | None = None, most: float = MOST) -> Iterator[None]:
    """Fail if this allocates more than `most` bytes, makes or changes a file outside of `folder`, or starts anything.

    What Python and NumPy allocate is counted to the byte, touched or not, up to `most`; what the process holds in all,
    with PyTorch's and Pillow's share, up to MOST.
    """
    global _watched
    if _trim is not None:  # what the process holds free could be taken without holding more
        _trim(0)
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:  # Linux: peaks from here on
        file.write("5")
    before = _peak()
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # of what is imported only now
    _watched = folder and Path(os.path.realpath(folder)), []
    tracemalloc.start()
    try:
        yield
    finally:
        (_, found), _watched = _watched, None
        sys.dont_write_bytecode = writes_bytecode
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        held = _peak() - before
        assert traced <= most, f"{traced / 1e6:.0f} MB by Python"
        assert held <= MOST, f"{held / 1e6:.0f} MB by the process"
        assert not found, f"outside of {folder}: {found[:3]}"


def _peak() -> float:
    """Return the most bytes that this process has held.

    What getrusage says is never below what the parent had held when this process began.
    """
    with suppress(OSError), open("/proc/self/status") as file:  # Linux
        return 1024 * int(next(line for line in file if line.startswith("VmHWM")).split()[1])
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
