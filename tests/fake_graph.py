"""A stand-in for CUDA graphs on a CPU: it repeats the operations that were captured, in the memory that they had.

As with the real ones, Python is not asked again: what depends on anything but the memory of the arguments comes out
as it was at the capture. To look at a value is an error.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

LOOKS_AT_A_VALUE = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


def as_they_are(arguments: Any) -> Any:
    """Return other tensors of the same memory: the shape that an operation gives one in place is gone the next time."""
    return tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation in LOOKS_AT_A_VALUE:
            raise RuntimeError("operation not permitted when stream is capturing")
        given = as_they_are((args, kwargs or {}))
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, given, as_they_are(tree_leaves(result))))
        return result

    def replay(self) -> None:
        for operation, given, results in self.operations:
            args, kwargs = as_they_are(given)
            for old, new in zip(results, tree_leaves(operation(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class FakeGraphs:
    """Captures as `gmfl_lite.engine.cuda_graphs.CAPTURE` asks for, and counts."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, function: Callable[[], Any], device: torch.device, pool: list[Any]) -> tuple[Any, Any]:
        function()  # as the real one does, which may not load kernels while it captures
        tape = Tape()
        with tape:
            results = function()
        self.captured += 1
        for result in tree_leaves(results):
            result.fill_(torch.nan if result.is_floating_point() else -1)  # a capture computes nothing

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay, results
