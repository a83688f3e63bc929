"""Repeat a function of tensors as a CUDA graph, so that all that a GPU does in it is launched at once.

A local step is hundreds of small operations. To launch one takes Python and torch as long as a GPU takes for ten of
them (benchmarks/GPU.md), so that the GPU waits for the computer. A graph holds the operations, and the memory that they
read and write: arguments are copied there, the graph is replayed, results are copied out. No value is waited for.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..basics import checks
from .local_step import Stopped

Captured = tuple[Callable[[], None], Any]
"""A captured function: what replays it, and its results, in memory that every replay overwrites."""

MOST_GRAPHS = 16
"""As each keeps memory for itself, more are not made; what is called with other shapes is then called as it is."""


def _on_cuda(function: Callable[[], Any], device: torch.device, pool: list[Any]) -> Captured:
    """Capture what a function of no arguments does on a GPU; `pool` holds the memory that one's graphs share."""
    with torch.cuda.device(device):
        pool[:] = pool or [torch.cuda.graph_pool_handle()]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            function()  # loads kernels and chooses among them, which a capture must not
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a panel's, may go on using the GPU.
        with torch.cuda.graph(graph, pool=pool[0], capture_error_mode="thread_local"):
            results = function()
    return graph.replay, results


CAPTURE: dict[str, Callable[[Callable[[], Any], torch.device, list[Any]], Captured]] = {"cuda": _on_cuda}
"""How a function is captured, by the type of its device."""


class Graphs:
    """Functions of tensors that are called again and again: as graphs where there are such, as they are elsewhere.

    device : of the tensors; None is none of those that have graphs.

    >>> graphs = Graphs(torch.device("cpu"))
    >>> graphs.call("double", lambda x: 2 * x, torch.ones(2)), graphs.in_words
    (tensor([2., 2.]), '')
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._capture = None if device is None else CAPTURE.get(device.type)
        self._graphs: dict[Hashable, _Graph | None] = {}
        self._pool: list[Any] = []  # shared, as they never run at the same time and each keeps its own results
        self.in_words = "local steps as CUDA graphs" if self._capture else ""

    def call(self, key: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args), a tree of tensors; from the second call with such arguments on, from a graph.

        key : names the function and the structure of its arguments, trees of tensors. It may look at no value of
            theirs, and at nothing else that changes from call to call.
        """
        if self._capture is None:
            return function(*args)
        leaves, structure = tree_flatten(args)
        kind = (key, *_likeness(leaves))
        if kind not in self._graphs:
            self._graphs[kind] = None
            return function(*args)
        graph = self._graphs[kind]
        if graph is None:
            if sum(each is not None for each in self._graphs.values()) >= MOST_GRAPHS:
                return function(*args)
            try:
                graph = _Graph(lambda *leaves: function(*tree_unflatten(leaves, structure)), leaves, self._made)
            except Stopped:
                raise
            except Exception as error:  # whatever a GPU cannot capture it may do all the same
                self._capture, self._graphs = None, {}
                self.in_words = f"no CUDA graphs, as that failed ({checks.first_line(error)})"
                return function(*args)
            self._graphs[kind] = graph
        return graph(leaves)

    def _made(self, function: Callable[[], Any]) -> Captured:
        assert self._capture is not None
        assert self._device is not None
        with torch.no_grad():
            return self._capture(function, self._device, self._pool)


class _Graph:
    """One function in a graph: the memory of its arguments, of its results, and what replays it."""

    def __init__(
        self, function: Callable[..., Any], leaves: list[torch.Tensor], made: Callable[[Callable[[], Any]], Captured]
    ) -> None:
        # A tensor that comes several times, as a full batch in every fine-tuning step, is kept and copied once.
        different = {id(leaf): place for place, leaf in enumerate(leaves)}
        own = {number: leaves[place].clone() for number, place in different.items()}
        self._places, self._arguments = list(different.values()), list(own.values())
        static = [own[id(leaf)] for leaf in leaves]
        self._replay, results = made(lambda: function(*static))
        self._results, self._structure = tree_flatten(results)

    def __call__(self, leaves: list[torch.Tensor]) -> Any:
        with torch.no_grad():
            _copy(self._arguments, [leaves[place] for place in self._places])
            self._replay()
            results = [torch.empty_like(result) for result in self._results]
            _copy(results, self._results)
        return tree_unflatten(results, self._structure)


def _likeness(leaves: list[torch.Tensor]) -> tuple[Hashable, ...]:
    """Return what a graph depends on: shapes, types, and which of the tensors are the same one."""
    first: dict[int, int] = {}
    return tuple(
        (first.setdefault(id(leaf), place), leaf.shape, leaf.dtype, leaf.device) for place, leaf in enumerate(leaves)
    )


def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copy tensors, all of one type at one launch."""
    for dtype in {target.dtype for target in targets}:
        places = [place for place, target in enumerate(targets) if target.dtype == dtype]
        torch._foreach_copy_([targets[place] for place in places], [sources[place] for place in places])
