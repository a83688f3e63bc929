"""Whether a GPU trains as the CPU does: every gradient, engine, τ and ν, servers, own modules, resumed runs."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..aggregation import AGGREGATIONS
from ..basics import checks
from ..experiment import Experiment, build_federation
from ..federation import Federation
from ..meta_gradients import METHODS
from ..models import PERSONAL
from ..objective import Params
from ..result import Result, load_result
from ..runner import run
from ..server import SERVER_STEPS
from ..sweep import sweep

TIMES = 10
"""How many times as far from the run in float64 as the CPU's float32 a GPU's may be, as it sums in another order."""

FLOOR = 1e-6
"""What is no difference: of the way that training went, the part that one float32 rounding in ten steps may be."""

BASE = Experiment(
    n_agents=6, n_new_agents=2, agents_per_round=4, rounds=3, eval_every=3, batch_size=8, dirichlet_alpha=1.0, nu=1,
    local_steps=2, fine_tune_lr=0.1, meta_lr=0.1,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Found:
    """What one comparison found; `problem` is "" where all is well."""

    name: str
    value: str
    problem: str = ""


def experiments() -> Iterator[tuple[str, Experiment]]:
    """Yield what is compared: every gradient, ν, τ and engine, and one of each other setting that computes."""
    for name, method in METHODS.items():
        for nu in (0, 1, 5):
            if nu < method.least_nu:
                continue
            kept = max(0, nu - 1) if method.backprop_steps == "needed" else None
            for tau in (1, 5):
                for execution in ("vectorized", "loop"):
                    settings = {"gradient": name, "nu": nu, "backprop_steps": kept, "local_steps": tau}
                    yield f"{name}, ν = {nu}, τ = {tau}, {execution}", BASE.replace(execution=execution, **settings)
    cnn = BASE.replace(model="cnn")
    yield from ((f"CNN, ν = {nu}", cnn.replace(nu=nu)) for nu in (0, 1, 5))
    yield "CNN, hessian_free", cnn.replace(gradient="hessian_free")
    others: dict[str, Sequence[Any]] = {
        "server": [name for name in SERVER_STEPS if name != BASE.server], "proximal": [0.1], "weighting": ["samples"],
        "personal": PERSONAL[1:], "query": ["disjoint"], "batch_size": [None], "model": ["softmax"],
        "aggregation": [name for name in AGGREGATIONS if name != BASE.aggregation],
    }  # fmt: skip
    for setting, values in others.items():
        lower = {"server_lr": 0.1} if setting == "server" else {}
        yield from ((f"{setting} = {value!r}", BASE.replace(**{setting: value}, **lower)) for value in values)
    yield "sinusoids, ν = 5", BASE.replace(dataset="sinusoids", shots=5, query="disjoint", nu=5, fine_tune_lr=0.01)


class Recurrent(nn.Module):
    """Reads an image line by line: an own module whose agents have to be computed one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.out = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.lines(x.flatten(1, 2))[0][:, -1])


class Attentive(nn.Module):
    """Looks at an image's lines with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.lines(x.flatten(1, 2)).mean(1))


def modules() -> Iterator[tuple[str, nn.Module]]:
    for kind in (Recurrent, Attentive):
        with torch.device("meta"):  # so that the layers' constructors draw nothing
            module = kind()
        module, values = module.to_empty(device="cpu"), np.random.default_rng(0)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.from_numpy(values.uniform(-0.3, 0.3, parameter.shape)))
        yield f"own module with {'an LSTM' if kind is Recurrent else 'attention'}", module


def compare(name: str, experiment: Experiment, device: str, model: nn.Module | None = None) -> Found:
    """Train on the CPU in both precisions and on a device; what counts is the way from the first w."""

    def trained(device: str, precision: str) -> Result:
        return run(experiment.replace(device=device, precision=precision), model=model, progress=False)

    exact, plain, there = trained("cpu", "float64"), trained("cpu", "float32"), trained(device, "float32")
    way = distance(exact.params, _start(experiment, model))
    usual, found = (distance(exact.params, result.params) / way for result in (plain, there))
    value = f"{found:.1e} of the way, {usual:.1e} on the CPU"
    problem = "" if found <= TIMES * usual + FLOOR else f"more than {TIMES} times the CPU's"
    scores = exact.history["loss"], there.history["loss"]
    if not np.allclose(scores[0], scores[1], rtol=1e-3, atol=1e-4):
        problem = f"scores differ by {(scores[0] - scores[1]).abs().max():.1e}"
    if "as that failed" in there.engine:
        problem = there.engine
    return Found(name, value, problem)


def _start(experiment: Experiment, model: nn.Module | None) -> Params:
    stop = threading.Event()
    stop.set()
    return run(experiment.replace(device="cpu", precision="float64"), model=model, stop=stop, progress=False).params


def distance(one: Params, other: Params) -> float:
    """Return the Euclidean distance of two models."""
    return float(sum((one[name].double() - other[name].double()).square().sum() for name in one) ** 0.5)


def precise(device: str) -> Found:
    """Compare float64 on both."""
    there, here = (
        run(BASE.replace(nu=5, device=where, precision="float64"), progress=False) for where in (device, "cpu")
    )
    found = distance(there.params, here.params)
    return Found("float64, ν = 5", f"{found:.1e} apart", "" if found < 1e-10 else "more than 1e-10")


def resumed(device: str) -> Found:
    """Stop a run half-way and continue from its checkpoint."""
    experiment = BASE.replace(rounds=8, eval_every=2, device=device, server="adam", server_lr=0.1)
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        how: dict[str, Any] = {"checkpoint": Path(folder) / "run", "progress": False}
        run(experiment, stop=stop, on_round=lambda round, _: stop.set() if round == 4 else None, **how)
        found = distance(run(experiment, **how).params, run(experiment, progress=False).params)
    return Found("stopped and resumed", f"{found:.1e} apart", "" if found < 1e-5 else "more than 1e-5")


def same_agents(device: str) -> Found:
    """Compare who holds what, and the batches that are drawn."""
    federations: list[Federation] = [build_federation(BASE.replace(device=where)) for where in (device, "cpu")]
    agents = (torch.arange(4, device=federation.x.device) for federation in federations)
    drawn = [
        [y.tolist() for support, query in federation.batches(
            some, nu=2, local_steps=3, batch_size=5, seed=0, round=1, query="disjoint"
        ) for _, y, _ in (*support, query)]
        for federation, some in zip(federations, agents, strict=True)
    ]  # fmt: skip
    return Found(
        "agents and their batches", "the same", "" if drawn[0] == drawn[1] else "other batches than on the CPU"
    )


def with_torchrun(device: str) -> Found:
    """Compare one process of torchrun, which talks by nccl, with a run."""
    name, settings = "torchrun, one process, nccl", BASE.to_dict() | {"device": device}
    if not torch.distributed.is_nccl_available() or device != "cuda":
        return Found(name, "left out: needs a GPU and nccl")
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "result"
        command = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "1",
            "-m",
            "gmfl_lite.distributed",
        ]
        arguments = ["--experiment", json.dumps(settings), "--save", str(saved)]
        done = subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, timeout=120)
        if done.returncode:
            return Found(name, "", f"ended with {done.returncode}: {done.stderr[-500:]}")
        found = distance(load_result(saved).params, run(BASE.replace(device=device), progress=False).params)
    return Found(name, f"{found:.1e} apart", "" if found < 1e-5 else "more than 1e-5")


def with_dask(device: str) -> Found:
    """Compare a sweep on a Dask worker that has a GPU with one here."""
    name = "Dask, a worker with GPU=1"
    if importlib.util.find_spec("distributed") is None:
        return Found(name, "left out: distributed is not installed")
    from distributed import Client, LocalCluster

    grid, base = {"nu": [0, 1]}, BASE.replace(device=device)
    where = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 60}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, resources={"GPU": 1}, **where) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        there = sweep(grid, base, executor=client.get_executor(resources={"GPU": 1}), progress=False)
    here = sweep(grid, base, progress=False)
    found = float((there["loss"] - here["loss"]).abs().max())
    return Found(name, f"{found:.1e} apart", "" if found < 1e-5 else "more than 1e-5")


def comparisons(device: str, few: bool = False) -> Iterator[Found]:
    """Make the comparisons one after the other; `few` leaves most out. One that fails is a difference."""
    chosen = list(experiments())
    made: dict[str, Callable[[], Found]] = {}
    for name, experiment in chosen[::9] if few else chosen:
        made[name] = partial(compare, name, experiment, device)
    for name, module in modules():
        made[name] = partial(compare, name, BASE, device, module)
    for check in (precise, resumed, same_agents, with_torchrun, with_dask):
        made[check.__name__] = partial(check, device)
    for name, compared in made.items():
        try:
            yield compared()
        except Exception as error:  # whatever a GPU, its driver or another package may raise
            yield Found(name, "", checks.first_line(error))
