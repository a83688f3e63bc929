"""Random numbers as a function of (seed, purpose, round, agent), never of the order in which things happen.

The vectorised engine, the readable loop, a resumed run and an agent on another machine ask for the same numbers by
name and get the same numbers. No global random state is read or written.
"""

import zlib

import numpy as np
import torch

# splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), as signed 64-bit integers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64


def generator(seed: int, purpose: str, *path: int) -> np.random.Generator:
    """Return NumPy's generator for one purpose, for work that is done once: the partition, the initial weights.

    >>> a, b = (generator(0, "partition").integers(100, size=3) for _ in range(2))
    >>> bool((a == b).all())
    True
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *path])


def keys(seed: int, purpose: str, round: int, names: torch.Tensor) -> torch.Tensor:
    """Return one 64-bit key for every name (an agent's number) of the int64 tensor `names`, on its device."""
    base = int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), round]).generate_state(1, np.uint64)[0])
    return spawn(torch.full_like(names, base - 2**63), names)


def spawn(keys: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """Return the keys' children with these names: a hash of both, int64, broadcast like a sum."""
    return _mix(keys + _GAMMA * (names + 1))


def choose(keys: torch.Tensor, sizes: torch.Tensor, k: int, largest: int) -> torch.Tensor:
    """Return k distinct positions below `sizes`, uniformly drawn without replacement, for every key.

    keys [...], sizes broadcastable to it and at most `largest`; the result is [..., k]. Where sizes < k, all positions
    come first and what follows is at or beyond `sizes`: padding for the caller to mask.

    >>> torch.sort(choose(keys(0, "example", 0, torch.arange(2)), torch.tensor([3, 2]), 3, 3)).values.tolist()
    [[0, 1, 2], [0, 1, 2]]
    """
    positions = torch.arange(largest, device=keys.device)
    priorities = spawn(keys.unsqueeze(-1), positions)
    priorities = priorities.masked_fill(positions >= sizes.unsqueeze(-1), torch.iinfo(torch.int64).min)
    return priorities.topk(k, dim=-1).indices


def works_on(device: str) -> bool:
    """Say whether a device draws the same numbers as the CPU: some lack the 64-bit integers that this takes."""

    def draw(where: str) -> list[int]:
        names = torch.arange(40, device=where)
        return choose(keys(0, "probe", 0, names), torch.full_like(names, 33), 17, 40).tolist()

    try:
        return draw(device) == draw("cpu")
    except (RuntimeError, TypeError):
        return False


def _mix(z: torch.Tensor) -> torch.Tensor:
    """Scramble all 64 bits; the masks make the arithmetic shifts of signed integers logical ones."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _MULTIPLIER_1
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _MULTIPLIER_2
    return z ^ ((z >> 31) & (2**33 - 1))
