"""How long loading gmfl_lite takes beside `import torch`, each in fresh processes, in turns.

python benchmarks/import_time.py [--quick]     prints both and their difference; writes them to benchmarks/RESULTS.md
"""

import argparse
import statistics
import subprocess
import sys

from harness import table, write_section

CODE = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
LOADS = {"torch": "import torch", "gmfl_lite": "from gmfl_lite import run"}
"""What loads each: gmfl_lite loads what it needs, torch among it, when its first name is asked for."""


def seconds(repeats: int) -> dict[str, float]:
    """Return the median seconds that loading torch takes, and loading gmfl_lite, which imports torch."""
    taken: dict[str, list[float]] = {name: [] for name in LOADS}
    for _ in range(repeats + 1):
        for name, times in taken.items():
            command = [sys.executable, "-c", CODE.format(LOADS[name])]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            times.append(float(ran.stdout))
    return {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first reads from the disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat, and write nothing")
    quick = parser.parse_args().quick
    found = seconds(1 if quick else 9)
    medians = [*found.values(), found["gmfl_lite"] - found["torch"]]
    body = table(["seconds to import", *found, "difference"], [["median", *(f"{value:.2f}" for value in medians)]])
    print(body)
    if not quick:
        write_section("import", body)


if __name__ == "__main__":
    main()
