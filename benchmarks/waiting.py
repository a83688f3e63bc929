"""What people wait for, each in fresh processes: the table, and its history by version.

python benchmarks/waiting.py [--quick]     prints both; writes benchmarks/RESULTS.md and adds to benchmarks/history.csv
"""

import argparse
import csv
import datetime
import statistics
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from harness import processor, table, write_section

HISTORY = Path(__file__).parent / "history.csv"
SLOWER = 1.1
"""What takes more than so many times the yardsticks of the last time on the same kind of processor is marked."""

YARDSTICK = """
import time
import numpy as np
x = np.random.default_rng(0).normal(size=(200, 200))
start = time.perf_counter()
for _ in range(1500):
    sum(range(5000))
    x = np.tanh(x @ x)
print(time.perf_counter() - start)
"""
"""Some work that no version of ours changes: machines are as busy and as warm as they are."""

IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
PANEL = """
import time
import gmfl_lite as gl
panel = gl.Explorer(gl.Experiment(rounds=30))
panel.start()
panel.wait()
start = time.perf_counter()
panel.set({})
panel.wait()
print(time.perf_counter() - start)
panel.close()
"""
WAITS = {
    "import torch": IMPORT.format("torch"),
    "import gmfl_lite": IMPORT.format("gmfl_lite"),
    "the first point of the default run, import included": """
import time
start = time.perf_counter()
import gmfl_lite as gl
told = []
gl.run(gl.Experiment(rounds=1), progress=False, on_round=lambda *_: told.append(time.perf_counter() - start))
print(told[0])
""",
    "the default run, without the import": """
import time
import gmfl_lite as gl
start = time.perf_counter()
gl.run(gl.Experiment(), progress=False)
print(time.perf_counter() - start)
""",
    "notebook 00, from the start of its kernel": """
import time
import nbformat
from nbclient import NotebookClient
(path,) = Path("notebooks").glob("00-*.ipynb")
notebook = nbformat.read(path, as_version=4)
start = time.perf_counter()
NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": "notebooks"}}).execute()
print(time.perf_counter() - start)
""",
    "a knob of the panel moved, until both curves are whole": PANEL.format("dirichlet_alpha=1.0"),
    "another step size in the panel": PANEL.format("fine_tune_lr=1.0"),
    "a search of both step sizes, 9 runs of 30 rounds": """
import time
import gmfl_lite as gl
start = time.perf_counter()
gl.tune(gl.Experiment(rounds=30), validation_seeds=[5], trials=9, progress=False)
print(time.perf_counter() - start)
""",
}
BARS = {
    "import gmfl_lite": (1.0, "import torch"),
    "the first point of the default run, import included": (3.0, ""),
    "the default run, without the import": (10.0, ""),
}
"""At most so many seconds, or so many more than another wait of the table."""

ROOT = Path(__file__).parents[1]


def seconds(program: str) -> float:
    """Return what a fresh process that runs a program in the repository's root prints."""
    command = [sys.executable, "-W", "ignore", "-c", f"from pathlib import Path\n{program}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    return float(ran.stdout)


def measured(waits: Mapping[str, str], repeats: int) -> dict[str, tuple[float, float]]:
    """Return (median seconds, median yardsticks) of each: in turns, with a yardstick before and after each."""
    taken: dict[str, list[tuple[float, float]]] = {what: [] for what in waits}
    for _ in range(repeats):
        before = seconds(YARDSTICK)
        for what, program in waits.items():
            took, after = seconds(program), seconds(YARDSTICK)
            taken[what].append((took, 2 * took / (before + after)))
            before = after
    return {what: tuple(map(statistics.median, zip(*found, strict=True))) for what, found in taken.items()}


def revision() -> str:
    """Return the commit, with "-dirty" behind it where files differ from it."""
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def since_then(history: Path, what: str, yardsticks: float) -> str:
    """Return the ratio to what was measured last on this kind of processor, or "" if nothing was."""
    with history.open(encoding="utf-8", newline="") as file:
        before = [row for row in csv.DictReader(file) if (row["what"], row["processor"]) == (what, processor())]
    if not before:
        return ""
    ratio = yardsticks / float(before[-1]["yardsticks"])
    return f"{ratio:.2f}{' **slower**' if ratio > SLOWER else ''} than {before[-1]['commit']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat, and write nothing")
    quick = parser.parse_args().quick
    now = datetime.date.today().isoformat(), version("gmfl_lite"), revision(), processor()
    lines, rows = [], []
    found = measured(WAITS, 1 if quick else 3)
    for what, (took, yardsticks) in found.items():
        met = ""
        if what in BARS:
            most, than = BARS[what]
            kept = took - (found[than][0] if than else 0) <= most
            met = f"at most {most:g}{than and f' more than {than}'}, {'met' if kept else '**not met**'}"
        lines.append([what, f"{took:.1f}", met, f"{yardsticks:.2f}", since_then(HISTORY, what, yardsticks)])
        rows.append([*now, what, f"{took:.3f}", f"{yardsticks:.3f}"])
    body = table(["waiting for", "seconds", "aimed at", "yardsticks", "times the last"], lines)
    print(body)
    if not quick:
        write_section("waiting", body)
        with HISTORY.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
