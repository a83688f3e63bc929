"""Random numbers by name: known values, uniformity, independence of order and company."""

import numpy as np
import torch

from gmfl_lite.basics import randomness


def splitmix64(state):
    """The published algorithm in Python's own integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_spawn_is_splitmix64():
    for key in (0, 1, -5, 2**62, -(2**63)):
        found = randomness.spawn(torch.tensor([key]), torch.tensor([0])).item()
        assert found % 2**64 == splitmix64(key % 2**64)


def test_choices_are_distinct_in_range_and_uniform():
    sizes = torch.tensor([5, 30])
    keys = torch.stack([randomness.keys(0, "test", r, torch.arange(2)) for r in range(4000)])
    chosen = randomness.choose(keys, sizes, 5, 30)
    assert (chosen[:, 0].sort().values == torch.arange(5)).all()
    assert (chosen[:, 1] < 30).all()
    assert all(len(set(row)) == 5 for row in chosen[:, 1].tolist())
    # Each of the 30 is chosen in 1/6 of 4,000 draws, and each pair (first, second) of different ones equally often.
    times = torch.bincount(chosen[:, 1].flatten(), minlength=30).numpy()
    assert abs(times - 4000 / 6).max() < 5 * np.sqrt(4000 * 5 / 36)
    pairs = np.histogram2d(*chosen[:, 1, :2].T.numpy(), bins=30)[0]
    off = pairs[~np.eye(30, dtype=bool)]
    chi_square = ((off - 4000 / 870) ** 2 / (4000 / 870)).sum()
    assert abs(chi_square - 870) < 5 * np.sqrt(2 * 870)


def test_a_name_gives_the_same_number_whatever_the_company():
    alone = randomness.keys(7, "batches", 3, torch.tensor([4]))
    together = randomness.keys(7, "batches", 3, torch.tensor([9, 4, 0]))
    assert alone[0] == together[1]
    assert (
        len({int(k) for s in range(3) for r in range(3) for k in randomness.keys(s, "a", r, torch.arange(50))}) == 450
    )


def test_padding_comes_last():
    keys = randomness.keys(0, "test", 0, torch.arange(3))
    chosen = randomness.choose(keys, torch.tensor([2, 4, 1]), 4, 6)
    for row, size in zip(chosen.tolist(), (2, 4, 1), strict=True):
        assert sorted(row[:size]) == list(range(size))
        assert all(position >= size for position in row[size:])
