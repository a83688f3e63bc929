"""What an update of fifty agents costs with models of one's own, next to the plain loop that a PyTorch user writes.

python benchmarks/own_models.py [--quick]     prints the table and writes it to benchmarks/RESULTS.md
"""

import argparse

from contenders import OWN
from harness import race, table, write_section

AGENTS, NUS = 50, (0, 1, 3)
FALLS_BACK = {"transformer": False, "GRU": True}
"""Whether torch cannot batch the model over agents, so that they are computed one after the other."""
MOST = 1.1
"""How many times as long as the plain loop the library may take there; elsewhere it must be faster."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three agents, one repeat, and write nothing")
    quick = parser.parse_args().quick
    agents, size = (3, 8) if quick else (AGENTS, 8)
    how = {"agents": agents, "method": "exact", "size": size}
    rows = []
    for model in OWN:
        for nu in NUS:
            seconds = race(
                {
                    "the library": ("ours", {**how, "nu": nu, "model": model, "rounds": 100}),
                    "plain loop": ("plain_loop", {**how, "nu": nu, "model": model}),
                },
                repeats=1 if quick else 7,
            )
            ratio = seconds["the library"] / seconds["plain loop"]
            most = MOST if FALLS_BACK[model] else 1.0
            met = "met" if ratio <= most else "**not met**"
            ms = [f"{1000 * seconds[name]:.1f}" for name in ("the library", "plain loop")]
            rows.append([model, nu, *ms, f"{ratio:.2f}", f"at most {most:g}, {met}"])
    body = table([f"update of {agents} agents", "ν", "the library, ms", "plain loop, ms", "ratio", "bar"], rows)
    print(body)
    if not quick:
        write_section("own models", body)


if __name__ == "__main__":
    main()
