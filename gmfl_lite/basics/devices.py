"""Where to compute."""

import torch

from . import checks, randomness


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA where there is one, else MPS, else the CPU."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, here in present.items() if here and randomness.works_on(device)))
    if not present[name]:
        raise checks.refusal("device", name, "one that this machine has: 'auto' or 'cpu'")
    return torch.device(name)


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device that torch finds on this machine, or say that it does not."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise checks.refusal("device", device, "a device that torch finds on this machine, such as 'cpu'") from error
