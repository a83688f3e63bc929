"""The default run next to other programs: with the threads that the library chooses, and with one per core.

python benchmarks/neighbours.py [--quick]     prints the table and writes it to benchmarks/RESULTS.md
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness import table, write_section

RUN = """
import time
import gmfl_lite as gl
gl.run(gl.Experiment(rounds=1), progress=False)  # what is loaded once in a process
start = time.perf_counter()
gl.run(gl.Experiment(), progress=False)
print(time.perf_counter() - start)
"""
LOOP = "while True: pass"
NOTEBOOK = "import torch; x = torch.rand(300, 300)\nwhile True: x @ x"
NEIGHBOURS = {
    "nobody": [],
    "one busy process": [LOOP],
    "two busy processes": [LOOP, LOOP],
    "a notebook that computes on all cores": [NOTEBOOK],
}
BARS = {"nobody": 1.1, "one busy process": 1.5, "two busy processes": 3}
"""How many times as long as alone, with one thread, the default run may take with the library's threads."""


PATIENCE = 40
"""Seconds after which a fresh process, with its imports, is given up."""


def seconds(threads: str = "") -> float:
    """Return how long the default run takes in a fresh process with this wish for threads, or infinity."""
    free = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GMFL_LITE_"))}
    environment = {**free, "GMFL_LITE_THREADS": threads}
    command = [sys.executable, "-c", RUN]
    try:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return float("inf")
    return float(ran.stdout)


@contextmanager
def beside(programs: Sequence[str]) -> Iterator[None]:
    """Let programs compute meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one repeat, with nobody, and write nothing")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs, alone and not, whose median counts")
    asked = parser.parse_args()
    quick, repeats = asked.quick, 1 if asked.quick else asked.repeats
    rows, every_alone = [], []
    for who, programs in list(NEIGHBOURS.items())[: 1 if quick else None]:
        ratios = []
        for _ in range(repeats):  # a pair each: over minutes a machine drifts by half of its speed
            every_alone.append(seconds("1"))
            with beside(programs):
                ratios.append(seconds() / every_alone[-1])
        with beside(programs):
            one_per_core = seconds(str(os.cpu_count())) / every_alone[-1]
        chosen = statistics.median(ratios)
        bar = f"at most {BARS[who]:g}, {'met' if chosen <= BARS[who] else '**not met**'}" if who in BARS else ""
        given_up = f"given up after {PATIENCE} s"
        rows.append([who, f"{chosen:.2f}", bar, f"{one_per_core:.1f}" if one_per_core < float("inf") else given_up])
    alone = statistics.median(every_alone)
    header = [f"next to … (1 is {alone:.1f} s: one thread, nobody)", "the library's threads", "bar", "one per core"]
    body = table(header, rows)
    print(body)
    if not quick:
        write_section("neighbours", body)


if __name__ == "__main__":
    main()
