"""A class on one server: seconds and memory where 1, 4 and 8 students run the notebooks of a lesson at once.

python benchmarks/classroom.py [--quick]     prints the table and writes it to docs/server.md; half an hour, Linux
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from harness import table, write_section
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "server.md"
LESSON = ("00", "02", "03", "05", "07")
"""The notebooks of the lesson for teachers."""
STUDENTS = (1, 4, 8)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "GMFL_LITE_THREADS": "1"}
"""What the page tells a server to set for every student."""


@dataclass(frozen=True)
class Ran:
    """What it took that some students ran a notebook at once: each one's seconds, and the bytes of all kernels."""

    seconds: Sequence[float]
    memory: int

    def __str__(self) -> str:
        return f"{max(self.seconds):.0f} s, {self.memory / 2**30:.1f} GB"


def memory(process: psutil.Process) -> int:
    """Return how many bytes a process and its children hold; what they share with others counts by its share (PSS)."""
    held = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            held += one.memory_full_info().pss
        except psutil.Error:  # it has ended meanwhile
            continue
    return held


async def peak(until: asyncio.Event) -> int:
    """Return what the kernels, which are this process' children, hold together at most, looking twice a second."""
    me, most = psutil.Process(), 0
    while not until.is_set():
        most = max(most, sum(map(memory, me.children())))
        await asyncio.sleep(0.5)
    return most


async def run_at_once(path: Path, students: int, settings: Mapping[str, str] = ONE_THREAD) -> Ran:
    """Let students run a notebook in kernels of their own, all from the same moment."""
    begun, done = time.perf_counter(), asyncio.Event()
    free = {name: value for name, value in os.environ.items() if name not in ONE_THREAD}

    async def student() -> float:
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}})
        await client.async_execute(env={**free, **settings})
        return time.perf_counter() - begun

    watching = asyncio.create_task(peak(done))
    seconds = await asyncio.gather(*(student() for _ in range(students)))
    done.set()
    return Ran(seconds, await watching)


def idle_server() -> int:
    """Return the bytes of a JupyterLab server that nobody uses yet."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--notebook-dir={folder}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            next(line for line in server.stderr or () if "is running at" in line)
            held = memory(psutil.Process(server.pid))
            server.kill()  # nothing of it is to be kept, and while it starts it may miss a gentler word
        return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one student with one notebook, and write nothing")
    quick = parser.parse_args().quick
    lesson, classes = (("07",), (1,)) if quick else (LESSON, STUDENTS)
    ran: dict[int, list[Ran]] = {}
    rows = []
    for number in lesson:
        (path,) = (ROOT / "notebooks").glob(f"{number}*.ipynb")
        for students in classes:
            ran.setdefault(students, []).append(asyncio.run(run_at_once(path, students)))
            print(number, students, ran[students][-1], flush=True)
        rows.append([f"[{number}](../notebooks/{path.name})", *(taken[-1] for taken in ran.values())])
    rows.append(
        ["all, one after the other", *(f"{sum(max(one.seconds) for one in taken):.0f} s" for taken in ran.values())]
    )
    few, many = min(classes), max(classes)
    if many > few:
        (first,) = (ROOT / "notebooks").glob(f"{lesson[0]}*.ipynb")
        free = (asyncio.run(run_at_once(first, students, {})) for students in classes)
        rows.append([f"{lesson[0]} with all cores for everybody", *free])
    body = table(["notebook", *(f"{students} at once" for students in classes)], rows)
    if many > few:
        more = statistics.mean((b.memory - a.memory) / (many - few) for a, b in zip(ran[few], ran[many], strict=True))
        body += f"\n\nEach further kernel takes {more / 2**30:.2f} GB, "
        body += f"and a student's JupyterLab server without a kernel {idle_server() / 2**30:.2f} GB."
    print(body)
    if not quick:
        write_section("measured", body, PAGE)


if __name__ == "__main__":
    main()
