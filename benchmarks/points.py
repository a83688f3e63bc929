"""Points of a sweep that differ in step sizes or seeds: one after the other, and as one.

python benchmarks/points.py [--quick]     prints the table and writes it to benchmarks/RESULTS.md
"""

import argparse
import math
import sys
import time
from unittest.mock import patch

from harness import table, write_section

import gmfl_lite as gl
from gmfl_lite.sweep import together

POINTS = 8
GRID = {"fine_tune_lr": [0.02, 0.05, 0.1, 0.2], "meta_lr": [0.02, 0.05]}
SHORT = gl.Experiment(rounds=60, eval_every=60, device="cpu")
SWEEPS = {
    "softmax, ν = 0": (SHORT.replace(model="softmax", nu=0), {"meta_lr": [0.01 * k for k in range(1, 9)]}),
    "softmax, ν = 1": (SHORT.replace(model="softmax", nu=1), GRID),
    "softmax, ν = 1, eight seeds": (SHORT.replace(model="softmax", nu=1), {"seed": range(POINTS)}),
    "softmax, ν = 3": (SHORT.replace(model="softmax"), GRID),
    "few shots, ν = 3": (SHORT.replace(partition="iid", shots=1, batch_size=None, agents_per_round=5), GRID),
    "MLP, ν = 1": (SHORT.replace(nu=1), GRID),
    "MLP, ν = 3": (SHORT, GRID),
    "MLP, ν = 3, 30 agents, 20 rounds": (SHORT.replace(agents_per_round=30, rounds=20, eval_every=20), GRID),
}


def seconds(sweep: str, points_as_one: int) -> float:
    """Return how long a sweep of eight points takes a point: as one whatever its size, or one by one."""
    base, grid = SWEEPS[sweep]
    module = sys.modules["gmfl_lite.sweep.grid"]
    with patch.object(module, "AT_ONCE", points_as_one), patch.object(together, "LARGEST", math.inf):
        start = time.perf_counter()
        done = gl.sweep(grid, base, progress=False)
        took = time.perf_counter() - start
    assert done["status"].eq("completed").all()
    return took / math.prod(map(len, grid.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the first sweep, once, and write nothing")
    quick = parser.parse_args().quick
    rows = []
    for sweep, (base, _) in list(SWEEPS.items())[: 1 if quick else None]:
        for _ in range(2):  # the first time records the steps
            alone, as_one = seconds(sweep, 1), seconds(sweep, POINTS)
        model = gl.build_model(base.model, gl.build_federation(base))
        a_point = base.agents_per_round * max(each.numel() for each in model.parameters())
        most = min(together.AT_ONCE, together.LARGEST // a_point)
        rows.append([sweep, f"{POINTS * a_point / together.LARGEST:.2f}", f"{alone:.2f}", f"{as_one:.2f}"])
        rows[-1] += [f"{as_one / alone:.2f}", str(most)]
    largest = f"largest tensor of eight, 2^{together.LARGEST.bit_length() - 1} numbers"
    header = ["60 rounds", largest, "seconds a point, alone", "as one of eight", "ratio", "go together at most"]
    body = table(header, rows)
    print(body)
    if not quick:
        write_section("points", body)


if __name__ == "__main__":
    main()
