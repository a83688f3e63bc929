"""One function of one agent, for many agents: all of a chunk at once, or one after the other."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from ..objective import LossFn, Params
from .cuda_graphs import Graphs

CHUNK_ELEMENTS = 10**8
"""Numbers of four bytes that the vectorised engine keeps at once (400 MB); agents beyond that come in chunks."""

BLOCK_ELEMENTS = 2**22
"""Numbers of the largest tensor of a chunk's parameters (16 MB): larger ones are no faster, and fragment memory."""

ALONE_ELEMENTS = 10**6
"""Numbers of one agent (4 MB) above which a CPU takes it alone: its caches hold no more, and dispatch costs little."""


def map_agents(
    function: Callable[..., Any], params: Params, data: Any, *, execution: str, graphs: Graphs | None = None
) -> Any:
    """Apply function(params, one agent's data) to every agent and stack the results along a leading agents axis.

    graphs : of a function that is always the same one, to repeat it at many agents at once as a CUDA graph.
    """
    if execution == "vectorized" and len(tree_leaves(data)[0]) > 1:
        together = torch.func.vmap(function, in_dims=(None, 0))
        return together(params, data) if graphs is None else graphs.call("agents", together, params, data)
    n_agents = len(tree_leaves(data)[0])
    results = [function(params, tree_map(lambda tensor: tensor[agent], data)) for agent in range(n_agents)]  # noqa: B023
    return tree_map(lambda *tensors: torch.stack(tensors), *results)


def a_gradient(loss_fn: LossFn, params: Params, example: Any, n_agents: int) -> Callable[[], object]:
    """Return what computes one gradient of each of several agents, who all hold the `example` [1, …]: to be timed."""
    execution = "loop" if getattr(loss_fn, "alone", "") else "vectorized"
    batches = tree_map(lambda tensor: tensor.expand(n_agents, *tensor.shape[1:]).contiguous(), example)
    return partial(map_agents, torch.func.grad(loss_fn), params, batches, execution=execution)


def chunks(agents: torch.Tensor, most: int) -> Iterable[torch.Tensor]:
    """Split agents into as few parts as hold at most `most`, all but the last of the same size."""
    parts = math.ceil(len(agents) / most)
    return agents.split(math.ceil(len(agents) / parts))


def parts(groups: Iterable[tuple[int, torch.Tensor]], at_once: Callable[[int], int]) -> Iterator[torch.Tensor]:
    """Split groups, (the width of the agents' batches, their places), into parts of at most at_once(width) places."""
    for width, places in groups:
        yield from chunks(places, at_once(width))


def in_order(results: Sequence[tuple[torch.Tensor, Any]]) -> Any:
    """Put the parts' results, (places, tensors [agents, …]), together: each agent's at its place.

    >>> in_order([(torch.tensor([2]), torch.tensor([7.0])), (torch.tensor([0, 1]), torch.tensor([5.0, 6.0]))])
    tensor([5., 6., 7.])
    """
    places, values = zip(*results, strict=True)
    order = torch.cat(places).argsort()
    return tree_map(lambda *tensors: torch.cat(tensors)[order], *values)


def agents_at_once(loss_fn: LossFn, params: Params, example: Any, copies: int) -> int:
    """Return how many agents to compute at once: as many as fit, one if that is no slower, or 0 if none fits.

    One where the model says that agents have to be alone. Each keeps `copies` sets of its parameters and of what
    differentiating its loss keeps, which is measured on an `example` of a batch of one agent, [1, …].
    """
    weights = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
    own = {tensor.untyped_storage()._cdata for tensor in weights.values()}
    kept = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes() // tensor.element_size()
        # Numbers without their graph: a graph that holds its own output never dies, and memory that nobody holds is
        # given to the next tensor, which would be taken for the same one.
        return tensor.detach()

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss_fn(weights, tree_map(lambda tensor: tensor[0].clone(), example))
    sizes = [tensor.numel() for tensor in params.values()]
    if getattr(loss_fn, "alone", ""):
        return 1
    wide = max(1, next(iter(params.values())).element_size() // 4)  # how many numbers of four bytes one is as large as
    numbers = wide * (sum(sizes) + sum(kept.values()))
    device = example[0].device
    if device.type == "cuda":
        return gpu_elements(device) // (copies * numbers)
    alone = numbers > ALONE_ELEMENTS and device.type == "cpu"
    return min(CHUNK_ELEMENTS // (copies * numbers), 1 if alone else max(1, BLOCK_ELEMENTS // (wide * max(sizes))))


def most_kept(params: Params) -> int:
    """Return how many agents' parameters may be kept at once and sorted, one tensor after the other."""
    sizes, example = [tensor.numel() for tensor in params.values()], next(iter(params.values()))
    wide = max(1, example.element_size() // 4)
    most = gpu_elements(example.device) if example.device.type == "cuda" else CHUNK_ELEMENTS
    return most // (wide * (sum(sizes) + 4 * max(sizes)))


def gpu_elements(device: torch.device) -> int:
    """Return how many numbers of four bytes a GPU keeps at once: a quarter of all its memory, whatever is free now.

    The rest is for the agents' samples, the graphs' own copies and other programs; how agents are split, and with it
    the order of sums, is then the same in every run.
    """
    return torch.cuda.get_device_properties(device).total_memory // 16
