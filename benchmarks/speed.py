"""Side by side with what people piece together today: meta steps, whole rounds, growth, memory, the default run.

python benchmarks/speed.py [--quick]     prints the tables and writes them to benchmarks/RESULTS.md
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from harness import race, table, write_section

PEERS = {
    "this library": ("ours", "exact first_order"),
    "JAX, jit of vmap": ("jax_vmap", "exact first_order"),
    "plain PyTorch loop": ("plain_loop", "exact first_order"),
    "TorchOpt loop": ("torchopt_loop", "exact"),
    "higher loop": ("higher_loop", "exact"),
    "the products alone": ("products", "exact first_order"),
    "the same, in their own shapes": ("products_as_they_are", "exact first_order"),
}

BARS: list[list[str]] = []
"""Rows of the table of what was aimed at."""


def aim(what: str, measured: float, least: float = -np.inf, most: float = np.inf) -> None:
    """Note a bar, what was measured, and whether it is met."""
    bar = f"at least {least:g}" if most == np.inf else f"at most {most:g}"
    BARS.append([what, bar, f"{measured:.3g}", "yes" if least <= measured <= most else "**no**"])


STEP_BARS = {
    ("exact", 5, "TorchOpt loop"): {"least": 3},
    ("exact", 5, "higher loop"): {"least": 3.5},
    ("exact", 5, "JAX, jit of vmap"): {"most": 1.15},
    ("exact", 5, "the products alone"): {"most": 1.35},
    ("exact", 1, "TorchOpt loop"): {"least": 2.5},
    ("exact", 1, "JAX, jit of vmap"): {"most": 1.4},
    ("first_order", 5, "plain PyTorch loop"): {"least": 3},
    ("first_order", 5, "JAX, jit of vmap"): {"most": 1.4},
}


def meta_steps(repeats: int, nus: tuple[int, ...] = (0, 1, 5, 10), agents: int = 50) -> str:
    """(a) One local meta step of fifty agents, MLP 784-80-60-10, batches of 20."""
    blocks = []
    for method in ("exact", "first_order"):
        rows = {label: [label] for label, (_, methods) in PEERS.items() if method in methods}
        for nu in nus:
            arguments = {"agents": agents, "nu": nu}
            if method == "first_order" and nu == 0:
                continue
            times = race(
                {
                    label: (
                        name,
                        arguments if "loop" in name and name != "plain_loop" else {**arguments, "method": method},
                    )
                    for label, (name, methods) in PEERS.items()
                    if method in methods
                },
                repeats=repeats,
            )
            for (of, at, label), bar in STEP_BARS.items():
                if (of, at) == (method, nu) and label in times:
                    ours, theirs = times["this library"], times[label]
                    if "least" in bar:
                        aim(f"{method}, ν = {nu}: {label} / this library", theirs / ours, **bar)
                    else:
                        aim(f"{method}, ν = {nu}: this library / {label}", ours / theirs, **bar)
            for label in rows:
                if label not in times:
                    rows[label].append("not installed")
                else:
                    ratio = times[label] / times["this library"]
                    rows[label].append(f"{1e3 * times[label]:.1f} ({ratio:.2f})")
        used = [nu for nu in nus if not (method == "first_order" and nu == 0)]
        header = [f"{method}, ms (ratio to this library)", *(f"ν = {nu}" for nu in used)]
        blocks.append(table(header, list(rows.values())))
        print(blocks[-1], flush=True)
    return "\n\n".join(blocks)


def rounds(repeats: int) -> str:
    """(b) FedAvg rounds against FedLab, and what a round costs besides its local steps."""
    rows = []
    for agents, size in ((10, 8), (50, 8), (10, 28), (50, 28)):
        settings = {"agents": agents, "size": size}
        times = race({name: (name, settings) for name in ("our_fedavg", "fedlab_fedavg")}, repeats=repeats)
        fedlab = times.get("fedlab_fedavg", float("nan"))
        mine = times["our_fedavg"]
        rows.append(
            [
                f"{agents} agents, {size}×{size} images",
                *(f"{1e3 * t:.1f}" for t in (mine, fedlab)),
                f"{fedlab / mine:.1f}",
            ]
        )
    fedavg = table(["FedAvg round, τ = 5, ms", "this library", "FedLab", "ratio"], rows)
    times = race({name: (name, {}) for name in ("our_round", "our_local_steps")}, repeats=repeats)
    whole, steps = times["our_round"], times["our_local_steps"]
    aim("a whole default round / its local meta steps", whole / steps, most=1.2)
    overhead = (
        f"A whole default round takes {1e3 * whole:.1f} ms, its local steps alone {1e3 * steps:.1f} ms: "
        f"{whole / steps:.2f} times."
    )
    print(fedavg, overhead, sep="\n\n", flush=True)
    return f"{fedavg}\n\n{overhead}"


def cnns(repeats: int) -> str:
    """(d) The CNN on a CPU: the engine that "auto" takes against loops over agents."""
    rows = []
    for agents, size, nu in ((1, 8, 3), (10, 8, 3), (1, 28, 3), (10, 28, 1), (10, 28, 5)):
        settings = {"agents": agents, "nu": nu, "method": "exact", "model": "cnn", "size": size}
        times = race(
            {
                "auto": ("ours", settings),
                "loop": ("ours", {**settings, "execution": "loop"}),
                "plain PyTorch loop": ("plain_loop", settings),
            },
            repeats=repeats,
            calls=6,
        )
        label = f"{agents} agents, {size}×{size} images, ν = {nu}"
        aim(f"CNN, {label}: auto / the best loop", times["auto"] / min(list(times.values())[1:]), most=1.1)
        rows.append([label, *(f"{1e3 * times[key]:.0f} ({times[key] / times['auto']:.2f})" for key in times)])
    found = table(["CNN, ms (ratio to auto)", "auto", 'execution="loop"', "plain PyTorch loop"], rows)
    print(found, flush=True)
    return found


def growth(repeats: int) -> str:
    """(c) How the time of a round grows with ν, with the agents picked and with the parameters."""
    base = {"local_steps": 1, "n_agents": 50, "n_new_agents": 0}
    nus = (1, 2, 5, 10, 15, 20)
    times = race({nu: ("our_round", {**base, "nu": nu}) for nu in nus}, repeats=repeats)
    blocks = [_line("ν", times, "10 agents of digits, exact")]
    agents = (10, 100, 1000, 10_000)
    times = race({n: ("our_many_agents", {"agents": n}) for n in agents}, repeats=repeats, calls=1)
    blocks.append(_line("agents picked", times, "ν = 1, MLP 784-80-60-10, batches of 1"))
    blocks.append(recording(repeats))
    widths = (20, 80, 320, 1280)
    times = race({w: ("our_width", {"width": w}) for w in widths}, repeats=repeats)
    numbers = {w * 785 + 10 * (w + 1): seconds for w, seconds in times.items()}
    blocks.append(_line("parameters", numbers, "10 agents, ν = 3, one hidden layer"))
    print("\n\n".join(blocks), flush=True)
    return "\n\n".join(blocks)


def recording(repeats: int) -> str:
    """Return what it costs to record a local step, and after how many steps that is repaid."""
    nus = (0, 1, 3, 10, 20)
    settings = {"agents": 10, "method": "exact", "size": 8}
    races = {(nu, n): ("ours", {**settings, "nu": nu, "rounds": n}) for nu in nus for n in (1, 10**6)}
    times = race(races, repeats=repeats)
    makes = {nu: recording_seconds(nu) for nu in nus}
    rows = [
        ["recorded, ms a local step", *(f"{1e3 * times[nu, 10**6]:.1f}" for nu in nus)],
        ["not recorded, ms", *(f"{1e3 * times[nu, 1]:.1f}" for nu in nus)],
        ["to record it, ms", *(f"{1e3 * makes[nu]:.0f}" for nu in nus)],
        ["repaid after local steps", *(f"{makes[nu] / (times[nu, 1] - times[nu, 10**6]):.0f}" for nu in nus)],
    ]
    return table(["default model and agents", *(f"ν = {nu}" for nu in nus)], rows)


def recording_seconds(nu: int) -> float:
    """Measure in a fresh process, as a run would meet it, how much longer a first local step takes than a second."""
    code = """
import time, contenders
contenders.ours(agents=10, nu=1, method="exact", size=8)()  # what is slow only once is over
step = contenders.ours(agents=10, nu={nu}, method="exact", size=8)
moments = [time.perf_counter()]
for _ in range(2):
    step()
    moments.append(time.perf_counter())
print(2 * moments[1] - moments[0] - moments[2])
"""
    command = [sys.executable, "-c", code.format(nu=nu)]
    seconds = [
        float(subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    return float(np.median(seconds))


def _line(what: str, times: dict[int, float], where: str) -> str:
    x, y = np.array(list(times)), 1e3 * np.array(list(times.values()))
    r2 = np.corrcoef(x, y)[0, 1] ** 2
    if what != "parameters":
        aim(f"a round is linear in {what}: R²", r2, least=0.98)
    found = table([f"{what} ({where})", *map(str, x)], [["ms a round", *(f"{value:.1f}" for value in y)]])
    return f"{found}\n\nR² of a straight line: {r2:.4f}."


def memory() -> str:
    """(e) How far a process grows in a round, by ν and by agents picked."""
    code = "from contenders import our_growth; print(our_growth({agents}, {nu}))"

    def grown(agents: int, nu: int) -> str:
        command = [sys.executable, "-c", code.format(agents=agents, nu=nu)]
        ran = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return f"{float(ran.stdout):.0f}"

    rows = [[f"{agents} agents", *(grown(agents, nu) for nu in (0, 1, 5, 20))] for agents in (10, 100, 1000, 10_000)]
    found = table(["MB in a round, MLP 784-80-60-10", *(f"ν = {nu}" for nu in (0, 1, 5, 20))], rows)
    print(found, flush=True)
    return found


def default_run() -> str:
    """How much of gl.run(gl.Experiment()) is evaluation, in a fresh process."""
    code = """
import time
import gmfl_lite as gl
scoring, evaluate = [], gl.runner.evaluate
def timed(*arguments, **options):
    began = time.perf_counter()
    try:
        return evaluate(*arguments, **options)
    finally:
        scoring.append(time.perf_counter() - began)
gl.runner.evaluate = timed
start = time.perf_counter()
gl.run(gl.Experiment(), progress=False)
print(sum(scoring) / (time.perf_counter() - start))
"""
    command = [sys.executable, "-c", code]
    shares = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    share = float(np.median(shares))
    aim("default run: share of evaluation", share, most=0.5)
    found = f"Evaluation takes {100 * share:.0f} % of `gl.run(gl.Experiment())`."
    print(found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat, and write nothing")
    parser.add_argument("only", nargs="*", help="sections: steps rounds cnn growth memory default; all: also the bars")
    options = parser.parse_args()
    repeats = 1 if options.quick else 9
    sections = {
        "default": default_run, "steps": lambda: meta_steps(repeats), "rounds": lambda: rounds(repeats),
        "cnn": lambda: cnns(max(1, repeats // 3)), "growth": lambda: growth(max(1, repeats // 2)), "memory": memory,
    }  # fmt: skip
    for name in options.only or sections:
        found = sections[name]()
        if not options.quick:
            write_section(name, found)
    bars = table(["aimed at", "bar", "measured", "met"], BARS)
    print(bars)
    if not options.quick and not options.only:
        write_section("bars", bars)


if __name__ == "__main__":
    main()
