"""Where to compute, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from . import checks, randomness

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def choose_device(name: str, precision: str = "float32") -> torch.device:
    """Return the device called `name`; "auto" is CUDA where there is one, else MPS if it will do, else the CPU."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(name for name, here in present.items() if here and _will_do(name, precision)))
    if not present[name]:
        raise checks.refusal("device", name, "one that this machine has: 'auto' or 'cpu'")
    return torch.device(name)


def _will_do(device: str, precision: str) -> bool:
    return randomness.works_on(device) and (device, precision) != ("mps", "float64")  # which Apple's GPUs lack


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device that torch finds on this machine, or say that it does not."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise checks.refusal("device", device, "a device that torch finds on this machine, such as 'cpu'") from error


@contextmanager
def cudnn_without(what: Literal["enabled", "allow_tf32"]) -> Iterator[None]:
    """Let a GPU compute without cuDNN at all, or its convolutions in float32 instead of TF32; then as before.

    >>> with cudnn_without("allow_tf32"):
    ...     torch.backends.cudnn.allow_tf32
    False
    """
    try:
        before = getattr(torch.backends.cudnn, what)
    except RuntimeError:  # of the caller's own precision for one kind of layers, which stays
        yield
        return
    setattr(torch.backends.cudnn, what, False)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, what, before)
