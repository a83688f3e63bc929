"""One big run on many processes or machines: the picked agents are shared among them, the average is an all-reduce.

    torchrun --nproc-per-node 2 -m gmfl_lite.distributed --experiment '{"n_agents": 500, "nu": 3}' --save big.result

Every process deals out the same agents and draws the same picks and batches (gmfl_lite.randomness), takes its share of
a round's agents, and ends the round with the same average. In a program of your own:

    torch.distributed.init_process_group("gloo")  # "nccl" where every process has its own GPU
    result = gl.run(experiment, engine=gmfl_lite.distributed.build_engine)

Only training is shared: every process scores all agents, as each must know the result.
"""

import argparse
import hashlib
import json
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from . import engine
from .basics import checks
from .engine import Around, Engine
from .experiment import Experiment
from .federation import Federation
from .objective import LossFn, Params
from .runner import run
from .server import Average

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others' share of a round before it gives up: torch's nccl default, not gloo's 30."""


class Shared(Around):
    """An engine in every process of torch's default process group, each with its share of the agents.

    The server's step is taken in every process, from the same average, so that all hold the same w.
    """

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner)
        self.rank, self.processes, self.together = dist.get_rank(), dist.get_world_size(), False

    def update(
        self, params: Params, batches: Any, agents: torch.Tensor, stop: threading.Event | None
    ) -> tuple[Params, torch.Tensor]:
        if not self.together:
            content = b"".join(tensor.contiguous().numpy(force=True).tobytes() for tensor in params.values())
            agree("w at the start: have all found the same checkpoint, on a disk that they share?", content)
            self.together = True
        return self.inner.update(params, batches, agents, stop)

    def share(self, agents: torch.Tensor) -> torch.Tensor:
        return agents.tensor_split(self.processes)[self.rank]

    def combine(self, average: Average) -> Params:
        """Return Σ_r s_r w_r / Σ_r s_r over the processes r, in one message of all parameters and the weight."""
        params = average.value
        scaled = [tensor.flatten() * average.weight for tensor in params.values()]
        message = torch.cat([*scaled, average.weight.to(scaled[0]).reshape(1)])
        dist.all_reduce(message)
        sizes = [tensor.numel() for tensor in params.values()]
        parts = (message[:-1] / message[-1]).split(sizes)
        return {name: part.reshape(params[name].shape) for name, part in zip(params, parts, strict=True)}

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        counts = rows.new_zeros(self.processes, dtype=torch.int64)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        everything = rows.new_zeros(int(counts.sum()), *rows.shape[1:])
        start = int(counts[: self.rank].sum())
        everything[start : start + len(rows)] = rows
        dist.all_reduce(everything)
        return everything

    def __str__(self) -> str:
        return f"{self.inner}, in {self.processes} processes"


def build_engine(experiment: Experiment, federation: Federation, loss_fn: LossFn, params: Params) -> Shared:
    """Return the engine that the experiment asks for, shared among the processes of torch's default process group.

    Raises
    ------
    ValueError : no process group, fewer agents in a round than processes, or another experiment in another process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("no process group: start by torchrun, and call torch.distributed.init_process_group")
    n = dist.get_world_size()
    if experiment.agents_per_round < n:
        allowed = f"at least {n}, the number of processes, so that each has an agent to compute"
        raise checks.refusal("agents_per_round", experiment.agents_per_round, allowed)
    agree("experiments", json.dumps(experiment.to_dict()).encode())
    return Shared(engine.build_engine(experiment, federation, loss_fn, params))


def agree(what: str, content: bytes) -> None:
    """Compare what all processes hold, so that none goes on alone and the others wait for it.

    Raises
    ------
    ValueError : in all processes, if one holds something else.
    """
    digest = int.from_bytes(hashlib.sha256(content).digest()[:7])
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    bounds = torch.tensor([digest, -digest], device=device)  # the largest, and minus the smallest
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    if bounds.sum() != 0:
        raise ValueError(f"the processes differ in their {what}")


def choose_backend(device: str, gpus: int) -> str:
    """Return how processes talk: "nccl" if each has a GPU, else "gloo".

    Raises
    ------
    ValueError : not started by torchrun, or a device that cannot be had.

    >>> choose_backend("auto", gpus=0)
    Traceback (most recent call last):
    ValueError: start by torchrun: torchrun --nproc-per-node 2 -m gmfl_lite.distributed
    """
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise ValueError("start by torchrun: torchrun --nproc-per-node 2 -m gmfl_lite.distributed")
    processes = int(os.environ["LOCAL_WORLD_SIZE"])
    if device not in ("auto", "cuda", "cpu") or (device == "cuda" and gpus < processes):
        raise checks.refusal("device", device, f"'auto' or 'cpu': {processes} processes here have {gpus} GPUs")
    return "nccl" if device != "cpu" and gpus >= processes else "gloo"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="torchrun … -m gmfl_lite.distributed", description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", default="{}", help="settings that differ from Experiment()'s, as JSON")
    parser.add_argument("--save", help="file for the result, which gl.load_result reads")
    parser.add_argument("--checkpoint", help="file to go on from, on a disk that all processes share")
    options = parser.parse_args(arguments)
    experiment = Experiment.from_dict(json.loads(options.experiment))
    backend = choose_backend(experiment.device, torch.cuda.device_count())
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        experiment = experiment.replace(device="cpu")
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        first, found = dist.get_rank() == 0, Path(options.checkpoint or "")
        agree(f"checkpoints: {found} must be on a disk that they share", found.read_bytes() if found.is_file() else b"")
        result = run(experiment, engine=build_engine, checkpoint=options.checkpoint, progress=first)
        if first:
            print(result, result.table().round(3).to_string(), sep="\n")
            if options.save:
                result.save(options.save)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
