"""What guards the tests against strangers' inputs sees what it is to see."""

import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from bounded import bounded


def swallowed(folder):
    with suppress(OSError):
        open(folder / "none" / "here", "w").close()


WRONG = {
    "Python's memory": (lambda folder: bytearray(210_000_000), "210 MB by Python"),
    "untouched memory": (lambda folder: np.empty(210_000_000, np.uint8), "210 MB by Python"),
    "PyTorch's memory": (lambda folder: torch.ones(60_000_000), "MB by the process"),
    "a file": (lambda folder: (folder / "file").write_text("x"), "open .*file"),
    "an attempt": (swallowed, "open .*here"),
    "a descriptor": (lambda folder: os.close(os.open(folder / "file", os.O_CREAT | os.O_WRONLY)), "open .*file"),
    "a folder": (lambda folder: (folder / "new").mkdir(), "os.mkdir .*new"),
    "a move out": (lambda folder: (folder / "inside" / "a").rename(folder / "a"), "os.rename .*a"),
    "a removal": (lambda folder: (folder / "there").unlink(), "os.remove .*there"),
    "a way up": (lambda folder: (folder / "inside" / ".." / "file").write_text("x"), "open .*file"),
    "a link out": (lambda folder: (folder / "inside" / "link").write_text("x"), "open .*link"),
    "a program": (lambda folder: subprocess.run([sys.executable, "-V"], stdout=-1, check=True), "subprocess.Popen"),
}


def heaped():
    """Leave 280 MB to the process that nobody uses, as earlier work does, and return what lies above them."""
    torch.ones(7_000_000)  # from now on, so much is taken from the heap
    *_, last = [torch.ones(7_000_000) for _ in range(11)]
    return last


@pytest.fixture
def inside(tmp_path):
    for name in ("there", "inside/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "there")
    return tmp_path / "inside"


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("where", ["a folder", "no folder"])
def test_each_bound_is_seen(kind, where, inside):
    does, said = WRONG[kind]
    with pytest.raises(AssertionError, match=said), bounded(inside if where == "a folder" else None):
        does(inside.parent)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere what is held free cannot be given back")
def test_memory_that_the_process_still_holds_counts_as_well():
    above = heaped()
    with pytest.raises(AssertionError, match="MB by the process"), bounded():
        torch.ones(60_000_000)
    assert above.sum() == 7_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak cannot be begun again")
def test_what_the_parent_had_held_does_not_matter():
    child = """if True:
        import mmap
        from bounded import bounded

        with bounded():
            pages = mmap.mmap(-1, 250_000_000)
            for place in range(0, len(pages), mmap.PAGESIZE):
                pages[place] = 1
    """
    parent = """if True:
        import subprocess, sys
        fat = b"x" * 600_000_000
        sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
    """
    ran = subprocess.run(
        [sys.executable, "-c", parent, child], cwd=os.path.dirname(__file__), capture_output=True, text=True
    )
    assert "MB by the process" in ran.stderr


def test_less_is_allowed(inside):
    with bounded(inside):
        (inside / "file").write_text("x")
        (inside / "file").rename(inside / "other")
        assert (inside.parent / "there").read_text() == "x"
        assert bytearray(100_000_000)
        assert torch.ones(20_000_000).sum() > 0
    (inside.parent / "afterwards").write_text("x")
    with pytest.raises(AssertionError, match="20 MB by Python"), bounded(inside, most=10e6):
        assert bytearray(20_000_000)
