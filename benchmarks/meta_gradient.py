"""Time and peak memory of every meta-gradient against ν, for one agent and for fifty at once.

python benchmarks/meta_gradient.py [--quick]     prints the table and writes it to benchmarks/RESULTS.md
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from contenders import batches_of, federation_of
from harness import write_section
from memory import peak_allocated

import gmfl_lite as gl
from gmfl_lite.models import as_functions, cross_entropy

NUS = (1, 2, 5, 10, 20)
HVP_COST = 2.5  # of a Hessian-vector product, in gradients; theory says 2 to 3
WAYS = {
    "exact": ({}, lambda nu: nu + 1 + HVP_COST * nu),
    "exact, recompute": ({"recompute": True}, lambda nu: nu + 1 + (1 + HVP_COST) * nu),
    "truncated, m = 1": ({"method": "truncated", "backprop_steps": 1}, lambda nu: nu + 1 + HVP_COST),
    "hessian_free": ({"method": "hessian_free"}, lambda nu: 3 * nu + 1),
    "first_order": ({"method": "first_order"}, lambda nu: nu + 1),
}


def problem(agents: int) -> tuple[Callable, dict, Callable]:
    """The 784-80-60-10 MLP with batches of 20 random images an agent."""
    federation = federation_of(agents)
    predict, params = as_functions(gl.build_model("mlp", federation), torch.device("cpu"))
    params = {name: tensor.expand(agents, *tensor.shape).clone() for name, tensor in params.items()}

    def batches(nu: int) -> tuple:
        return batches_of(federation, nu)[0]

    return cross_entropy(predict), params, batches


def meta_gradient_of_all(
    loss_fn: Callable, params: dict, support: list, query: tuple, vectorized: bool, **way: object
) -> None:
    function = partial(gl.meta_gradient, loss_fn, fine_tune_lr=0.05, **way)
    if vectorized:
        torch.func.vmap(function)(params, support, query)
    else:
        first = torch.utils._pytree.tree_map(lambda tensor: tensor[0], (params, support, query))
        function(*first)


def measure(agents: int, repeats: int) -> pd.DataFrame:
    loss_fn, params, batches = problem(agents)
    calls = {("one gradient", 0): partial(meta_gradient_of_all, loss_fn, params, *batches(0), agents > 1)}
    for nu in NUS:
        for label, (way, _) in WAYS.items():
            calls[label, nu] = partial(meta_gradient_of_all, loss_fn, params, *batches(nu), agents > 1, **way)
    seconds: dict[tuple, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()  # the first call of anything is slower
    for _ in range(repeats):  # in turn, so that a slow moment of the machine meets all alike
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[key].append(time.perf_counter() - start)
    unit = statistics.median(seconds["one gradient", 0])
    rows = []
    for (label, nu), call in calls.items():
        if nu == 0:
            continue
        milliseconds = 1e3 * statistics.median(seconds[label, nu])
        rows.append(
            {
                "method": label,
                "ν": nu,
                "ms": round(milliseconds, 1),
                "gradients": round(milliseconds / 1e3 / unit, 1),
                "C2": WAYS[label][1](nu),
                "peak MB": round(peak_allocated(call) / 2**20, 1),
            }
        )
    frame = pd.DataFrame(rows).pivot(index="method", columns="ν", values=["ms", "gradients", "C2", "peak MB"])
    return frame.reindex(list(WAYS))


def markdown(frame: pd.DataFrame) -> str:
    """One block of columns per quantity."""
    blocks = []
    for quantity in ("ms", "gradients", "C2", "peak MB"):
        block = frame[quantity]
        lines = [f"| {quantity} | " + " | ".join(f"ν = {nu}" for nu in block.columns) + " |"]
        lines.append("|---" * (1 + len(block.columns)) + "|")
        lines += [f"| {label} | " + " | ".join(f"{value:g}" for value in row) + " |" for label, row in block.iterrows()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two repeats, and write nothing")
    quick = parser.parse_args().quick
    sections = []
    for agents, repeats in ((1, 2 if quick else 41), (50, 2 if quick else 9)):
        title = "one agent" if agents == 1 else f"{agents} agents at once (vmap)"
        sections.append(f"### {title}\n\n{markdown(measure(agents, repeats))}")
        print(sections[-1], flush=True)
    if quick:
        return
    write_section("meta-gradient", "\n\n".join(sections))


if __name__ == "__main__":
    main()
