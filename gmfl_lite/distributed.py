"""One big run on many processes or machines: the picked agents are shared among them, the average is an all-reduce.

    torchrun --nproc-per-node 2 -m gmfl_lite.distributed --experiment '{"n_agents": 500, "nu": 3}' --save big.result

Every process deals out the same agents, draws the same picks and batches, takes its share of a round's agents, and ends
the round with the same average. In a program of your own:

    torch.distributed.init_process_group("gloo")  # "nccl" where every process has its own GPU
    result = gl.run(experiment, engine=gmfl_lite.distributed.build_engine)

Only training is shared: every process scores all agents, as each must know the result.
"""

import argparse
import json
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from . import engine
from .aggregation import AGGREGATIONS
from .basics import checks
from .basics.storage import expanded
from .engine.among_processes import Shared, agree
from .experiment import Experiment
from .federation import Federation
from .objective import LossFn, Params
from .runner import run

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others' share of a round before it gives up: torch's nccl default, not gloo's 30."""


def build_engine(
    experiment: Experiment, federation: Federation, loss_fn: LossFn, params: Params, **options: Any
) -> Shared:
    """Return the engine that the experiment asks for, shared among the processes of torch's default process group.

    `options` as in `gmfl_lite.build_engine`: hooks of your own.

    Raises
    ------
    ValueError : no process group, fewer agents in a round than processes, an aggregation that is no sum, or another
        experiment in another process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("no process group: start by torchrun, and call torch.distributed.init_process_group")
    n = dist.get_world_size()
    if experiment.agents_per_round < n:
        allowed = f"at least {n}, the number of processes, so that each has an agent to compute"
        raise checks.refusal("agents_per_round", experiment.agents_per_round, allowed)
    if not AGGREGATIONS[experiment.aggregation].adds_up:
        sums = [name for name, aggregation in AGGREGATIONS.items() if aggregation.adds_up]
        allowed = f"{' or '.join(map(repr, sums))}: processes exchange sums, not every agent's update"
        raise checks.refusal("aggregation", experiment.aggregation, allowed)
    agree("experiments", json.dumps(experiment.to_dict()).encode())
    return Shared(engine.build_engine(experiment, federation, loss_fn, params, **options))


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
    parser.add_argument("--checkpoint", help="file to continue from, on a disk that all processes share")
    options = parser.parse_args(arguments)
    experiment = Experiment.from_dict(json.loads(options.experiment))
    backend = choose_backend(experiment.device, torch.cuda.device_count())
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        experiment = experiment.replace(device="cpu")
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        first, found = dist.get_rank() == 0, expanded(options.checkpoint or "")
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
