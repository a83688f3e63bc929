"""How long `import gmfl_lite` takes next to `import torch`, each in fresh processes, in turns.

python benchmarks/import_time.py [--quick]     prints both and their difference; writes them to benchmarks/RESULTS.md
"""

import argparse
import statistics
import subprocess
import sys

from harness import table, write_section

CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(repeats: int) -> dict[str, float]:
    """Return the median seconds of an import of torch, and of gmfl_lite, which imports torch."""
    taken: dict[str, list[float]] = {"torch": [], "gmfl_lite": []}
    for _ in range(repeats + 1):
        for name, times in taken.items():
            ran = subprocess.run([sys.executable, "-c", CODE.format(name)], capture_output=True, text=True, check=True)
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
