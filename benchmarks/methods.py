"""What a round of each of the field's methods costs, next to FedAvg's and to the plain step that looks as far ahead.

python benchmarks/methods.py [--quick]     prints the table and writes it to benchmarks/RESULTS.md
"""

import argparse

from harness import race, table, write_section

import gmfl_lite as gl

LOCAL_STEPS = 5
MOST = 1.15
"""How many times as long as the plain step with the same ν a method's may take."""


def contenders() -> dict[str, dict]:
    """Return the settings of what is timed, by name: all methods that train, their plain steps, disjoint queries."""
    trained = {name: how for name, how in gl.methods.items() if "meta_lr" not in how}
    every = {name: {**how, "local_steps": LOCAL_STEPS} for name, how in trained.items() if "eval_steps" not in how}
    for name in ("FedAvg", "Per-FedAvg", "Generalized (ν = 3)"):
        every[f"{name}, disjoint query"] = {**every[name], "query": "disjoint"}
    return every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two methods, one repeat, and write nothing")
    quick = parser.parse_args().quick
    chosen = dict(list(contenders().items())[: 2 if quick else None])
    seconds = race(
        {name: ("our_round", {**how, "device": "cpu"}) for name, how in chosen.items()},
        repeats=1 if quick else 15, calls=3 if quick else 10,
    )  # fmt: skip
    plain = {how["nu"]: seconds[name] for name, how in chosen.items() if gl.methods.get(name) == _plain(how["nu"])}
    rows = []
    for name, how in chosen.items():
        own = seconds[name] / plain[how["nu"]]
        bar = (
            f"at most {MOST:g}, {'met' if own <= MOST else '**not met**'}" if seconds[name] != plain[how["nu"]] else ""
        )
        to_fedavg, to_per_fedavg = (f"{seconds[name] / plain[nu]:.2f}" if nu in plain else "" for nu in (0, 1))
        rows.append([name, f"{1000 * seconds[name] / LOCAL_STEPS:.2f}", to_fedavg, to_per_fedavg, f"{own:.2f}", bar])
    header = ["method", "ms a local step", "to FedAvg", "to Per-FedAvg", "to exact with its ν", "bar"]
    body = table(header, rows)
    print(body)
    if not quick:
        write_section("methods", body)


def _plain(nu: int) -> dict:
    """Return the settings of the exact gradient for ν with the plain server."""
    return {**gl.methods["FedAvg"], "nu": nu}


if __name__ == "__main__":
    main()
