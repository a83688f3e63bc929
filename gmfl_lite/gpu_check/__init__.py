"""Does a GPU train as the CPU does, and how fast: `python -m gmfl_lite gpu-check`, for five minutes.

Nothing but this library and PyTorch is needed; what else is not there is left out in words.
"""

import time
from collections.abc import Callable

import torch

from ..basics import checks
from ..basics.devices import checked_device
from .equality import comparisons
from .report import in_words, page
from .times import round_time, run_times, step_times

__all__ = ["check"]

MODELS, AGENTS, NUS = ("mlp", "cnn"), (10, 50, 200, 1000), (0, 1, 5)

COMPILED = {("mlp", 50, 5), ("cnn", 10, 1)}
"""What is timed compiled, too, for half a minute each."""


def check(
    device: str = "cuda", *, minutes: float = 5.0, few: bool = False, say: Callable[[str], object] = print
) -> tuple[bool, str]:
    """Compare a device with the CPU and time it; return whether all came out equal, and a page of Markdown.

    Parameters
    ----------
    device : "cuda"; another one, such as "cpu", tries this program out.
    minutes : after which no further kind of step is timed.
    few : compare and time little, to try this program out.
    say : is told each line as it is found.

    Raises
    ------
    ValueError : a device that is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise checks.refusal("device", device, "one that this machine has: PyTorch finds no CUDA GPU here")
    checked_device(device)
    end = time.monotonic() + 60 * minutes
    found = []
    for compared in comparisons(device, few):
        found.append(compared)
        say(in_words(compared))
    runs = run_times(device, few)
    models = MODELS[:1] if few else MODELS
    rounds = {model: round_time(model, device) for model in models}
    say(f"runs, s: {runs}; rounds, ms: {rounds}")
    steps = {}
    for n_agents in AGENTS[:1] if few else AGENTS:
        for kind in ((model, n_agents, nu) for model in models for nu in NUS):
            if time.monotonic() < end:
                ways = ("called", "graph", "compiled") if kind in COMPILED and device == "cuda" else ("called", "graph")
                steps[kind] = step_times(*kind, device, ways)
                say(f"{kind}, ms: {steps[kind]}")
    return not any(each.problem for each in found), page(device, found, runs, rounds, steps)
