"""How long local steps, rounds and whole runs take on a GPU: as they are called, as CUDA graphs, and compiled."""

import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from ..data import Dataset
from ..engine import Graphs, Vectorized, chunks, computing_with
from ..experiment import Experiment
from ..federation import Federation
from ..models import as_functions, build_model, loss_of
from ..runner import run
from ..trainer import batches_of, picked_in, train

IMAGES = 30
"""That an agent of `federation_of` holds; batches are of 20."""

STEPS = 50
"""That a turn takes at most; it takes a tenth of a second."""


@cache
def federation_of(n_agents: int, device: str, new: int = 0) -> Federation:
    """Return agents with images of Fashion-MNIST's size, made: one picture for each of ten classes, and noise."""
    draws = np.random.default_rng(0)
    labels = draws.integers(10, size=IMAGES * n_agents)
    pictures = draws.random((10, 1, 28, 28), dtype=np.float32)
    images = pictures[labels] + 0.3 * draws.standard_normal((len(labels), 1, 28, 28), dtype=np.float32)
    data = Dataset("made images", torch.from_numpy(images), torch.from_numpy(labels), tuple("0123456789"))
    parts = np.split(np.arange(len(labels)), n_agents)
    return Federation.from_partition(data, parts, n_new_agents=new, test_fraction=0.2, device=device)


def step_times(model: str, n_agents: int, nu: int, device: str, ways: tuple[str, ...]) -> dict[str, float]:
    """Return the milliseconds of a local step of some agents, in several ways; `inf` where memory runs out.

    ways : of "called", "graph" and "compiled", which is a graph of what torch.compile makes.
    """
    federation = federation_of(n_agents, device)
    experiment = Experiment(
        model=model, n_agents=n_agents, n_new_agents=0, agents_per_round=n_agents, nu=nu, device=device,
        fine_tune_lr=0.01, meta_lr=0.01, partition="iid",
    )  # fmt: skip
    predict, w = as_functions(build_model(model, federation), federation.x.device, federation.dtype)
    found = {}
    for way in ways:
        engine = Vectorized(experiment, federation, loss_of(predict), w, compiled=way == "compiled")
        if way == "called":
            engine.graphs = Graphs()
        agents = picked_in(0, experiment, federation)
        drawn = [
            (some, next(iter(batches_of(some, experiment, federation, 0))))
            for some in chunks(agents, engine.agents_at_once)
        ]

        def seconds(steps: int, engine: Vectorized = engine, drawn: Any = drawn) -> float:
            def work() -> None:
                for some, batch in drawn:
                    engine.update(w, [batch] * steps, some, None)

            return timed(work, device) / steps

        try:
            with computing_with(engine.threads):
                seconds(3)
                one = seconds(2)
                turns = [seconds(min(STEPS, round(0.1 / one))) for _ in range(5)] if one < 0.05 else [one]
                found[way] = 1e3 * statistics.median(turns)
        except torch.OutOfMemoryError:
            found[way] = float("inf")
        del engine, drawn
    return found


def timed(work: Callable[[], object], device: str) -> float:
    """Return the seconds that some work takes until the device has done it."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def round_time(model: str, device: str) -> float:
    """Return the median milliseconds of a round: ten agents with images of 28×28, five local steps, ν = 1."""
    federation = federation_of(10, device)
    experiment = Experiment(
        model=model, n_agents=10, n_new_agents=0, agents_per_round=10, nu=1, rounds=10**6, partition="iid",
        fine_tune_lr=0.01, meta_lr=0.01, device=device,
    )  # fmt: skip
    predict, w = as_functions(build_model(model, federation), federation.x.device, federation.dtype)
    training = train(experiment, federation, loss_of(predict), w)
    times = [timed(partial(next, training), device) for _ in range(3 if device == "cpu" else 20)]
    return 1e3 * statistics.median(times[2:])


def run_times(device: str, few: bool = False) -> dict[str, dict[str, float]]:
    """Return the seconds of whole runs: the first time in this process, once more, and on the computer's CPU.

    few : the first of them, two rounds of it.
    """
    mlp = Experiment(
        n_agents=52, n_new_agents=12, nu=2, fine_tune_lr=0.05, meta_lr=0.05, rounds=60, eval_every=15,
        eval_steps=(0, 1, 2),
    )  # fmt: skip
    cnn = mlp.replace(model="cnn", gradient="first_order", rounds=8, eval_every=4)
    runs = {"the default experiment": Experiment(), "notebook 06: MLP, ν = 2": mlp, "notebook 06: CNN, ν = 2": cnn}
    found: dict[str, dict[str, float]] = {}
    if few:
        runs = {name: experiment.replace(rounds=2) for name, experiment in list(runs.items())[:1]}
    for name, experiment in runs.items():
        for column, where in (("first time", device), ("again", device), ("on this CPU", "cpu")):
            federation = None if "default" in name else federation_of(64, where, new=12)
            work = partial(run, experiment.replace(device=where), federation=federation, progress=False)
            found.setdefault(name, {})[column] = timed(work, where)
    return found
