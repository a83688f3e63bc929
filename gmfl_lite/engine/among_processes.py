"""An engine in each of several processes, which share a round's agents and the average (torch.distributed)."""

import hashlib
import threading
from typing import Any

import torch
import torch.distributed as dist

from ..aggregation import Gathered
from ..objective import Params
from .base import Around, Engine


class Shared(Around):
    """An engine in every process of torch's default process group, each with its share of the agents.

    The server's step is taken in every process, from the same average, so that all hold the same w.
    """

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner)
        if inner.own:
            raise ValueError("what agents keep from round to round (Engine.own) cannot be shared among processes")
        self.rank, self.processes, self.together = dist.get_rank(), dist.get_world_size(), False
        self.writes = self.rank == 0

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

    def combine(self, gathered: Gathered) -> Params:
        """Return Σ_r s_r w_r / Σ_r s_r over the processes r, in one message of all parameters and the weight."""
        params, weight = gathered.value, gathered.weight
        scaled = [tensor.flatten() * weight for tensor in params.values()]
        message = torch.cat([*scaled, weight.to(scaled[0]).reshape(1)])
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
