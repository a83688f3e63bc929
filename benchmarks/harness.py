"""Race functions against each other fairly, and write what was found to RESULTS.md.

Contenders take turns, each in a process of its own: one library's idle threads, which spin for a while, would slow down
the next one's, and memory that one leaves behind would help another.
"""

import importlib
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "RESULTS.md"


def race(contenders: Mapping[Any, tuple[str, dict]], *, repeats: int, calls: int = 3) -> dict[Any, float]:
    """Return each contender's median seconds a call; those whose library is not installed are left out.

    contenders : {key: ("name of a function in contenders.py", its arguments)}; the function returns what is timed.
    repeats, calls : turns that each takes, and calls in a turn.
    """
    context = multiprocessing.get_context("spawn")
    seconds: dict[Any, list[float]] = {}
    running = {}
    for key, (name, arguments) in contenders.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, name, arguments), daemon=True)
        process.start()
        theirs.close()
        if _receive(ours, key):  # ready, or not installed
            running[key], seconds[key] = ours, []
    for _ in range(repeats):
        for key, pipe in running.items():
            pipe.send(calls)
            seconds[key] += _receive(pipe, key)
    for pipe in running.values():
        pipe.send(0)
    return {key: statistics.median(values) for key, values in seconds.items()}


def _receive(pipe: Connection, key: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError(f"{key} failed: its message is above") from error


def _serve(pipe: Connection, name: str, arguments: dict) -> None:
    try:
        call = getattr(importlib.import_module("contenders"), name)(**arguments)
    except ImportError:
        pipe.send(False)
        return
    for _ in range(2):  # the first calls of anything are slower
        call()
    pipe.send(True)
    while calls := pipe.recv():
        taken = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        pipe.send(taken)


def processor() -> str:
    """Return the processor's name."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """Say what was measured on: the processor, its cores, and the versions of what was raced."""
    import torch

    versions = {"torch": torch.__version__}
    for name in ("torchopt", "higher", "jax", "fedlab"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Measured on: {processor()}, {cores} cores, {torch.get_num_threads()} threads, no GPU; {listed}."


def write_section(name: str, body: str, page: Path | None = None) -> None:
    """Replace what stands in a page, RESULTS.md if none is named, between <!-- name --> and the next <!-- end -->."""
    page = page or RESULTS
    head, mark, tail = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->")
    if not mark:
        raise ValueError(f"{page.name} has no section {name}")
    tail = tail.partition("<!-- end -->")[2]
    page.write_text(f"{head}{mark}\n{machine()}\n\n{body}\n<!-- end -->{tail}", encoding="utf-8")


def table(header: list[str], rows: list[list[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
