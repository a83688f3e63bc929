"""Lists of different lengths in one tensor, padded where they are taken together, to little more than their length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch

from . import randomness

ROWS_OF_A_GROUP = 2**10
"""Rows that are padded in the time that the operations of one more group take (measured: a small model on a CPU)."""


@dataclass(frozen=True, eq=False)
class IndexTable:
    """Which rows of the dataset each agent holds.

    Attributes
    ----------
    index : int64 [samples of all agents], one agent's rows after the other's.
    starts, sizes : int64 [agents], where an agent's rows begin in `index`, and how many they are.
    lengths : the sizes once more, in the computer's own memory: to look at them, no device is waited for.
    """

    index: torch.Tensor
    starts: torch.Tensor
    sizes: torch.Tensor
    lengths: np.ndarray

    @classmethod
    def from_lists(cls, lists: Sequence[np.ndarray], device: torch.device) -> "IndexTable":
        lengths = np.array([len(rows) for rows in lists])
        parts = np.concatenate(lists), lengths.cumsum() - lengths, lengths
        index, starts, sizes = (torch.from_numpy(part).to(device) for part in parts)
        return cls(index, starts, sizes, lengths)

    @property
    def width(self) -> int:
        """The largest size."""
        return int(self.lengths.max())

    def of(self, agent: int) -> torch.Tensor:
        """Return the rows of one agent."""
        return self.index[self.starts[agent] :][: self.lengths[agent]]

    def alone(self, agent: int, number: int, kept: torch.Tensor) -> "IndexTable":
        """Return the list of one agent alone, its rows as places in `kept`, which is sorted.

        What is drawn is a function of an agent's number: it has this number, and those before it hold nothing.
        """
        nobody = [np.empty(0, np.int64)] * number
        return IndexTable.from_lists([*nobody, torch.searchsorted(kept, self.of(agent)).numpy(force=True)], kept.device)

    def rows(self, agents: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows at positions [agents, …] of the agents' lists, and which of them count.

        Those beyond the end do not: there is the agent's own first row, so that nothing of an agent depends on others.
        """
        starts, sizes = (part[agents].reshape(-1, *[1] * (positions.ndim - 1)) for part in (self.starts, self.sizes))
        counted = positions < sizes
        return self.index[starts + positions * counted], counted

    def choose(
        self, keys: torch.Tensor, agents: torch.Tensor, groups: Sequence[tuple[int, torch.Tensor]], k: int
    ) -> torch.Tensor:
        """Return k distinct positions of the agents' lists for every key [agents, …]; groups: see `alike`.

        What is drawn is a function of key and size: each group's width is only how many positions it is drawn from.
        """
        positions = keys.new_empty(*keys.shape, k)
        for width, places in groups:
            sizes = self.sizes[agents[places]].reshape(-1, *[1] * (keys.ndim - 1))
            positions[places] = randomness.choose(keys[places], sizes, k, max(k, width))
        return positions

    def choose_apart(
        self,
        keys: torch.Tensor,
        deals: torch.Tensor,
        agents: torch.Tensor,
        groups: Sequence[tuple[int, torch.Tensor]],
        k: int,
        strata: torch.Tensor,
        n_strata: int,
    ) -> torch.Tensor:
        """Return k distinct positions for every key [agents, …, batches], the first batch's apart from all others'.

        For every key in `deals` [agents, …, 1] an agent's list is dealt into two halves: shuffled, put in the order of
        its strata (int64 [rows], below n_strata), in which they come in an order of their own each time, and dealt out
        by turns. The first batch comes from the half that is not the larger one. k is at most the larger half of the
        longest list.
        """
        positions = keys.new_empty(*keys.shape, k)
        names = -1 - torch.arange(n_strata, device=keys.device)  # those from 0 on are the positions'
        for width, places in groups:
            half = max(k, (width + 1) // 2)
            sizes = self.sizes[agents[places]].reshape(-1, *[1] * (keys.ndim - 1))
            every = torch.arange(2 * half, device=keys.device).expand(len(places), *[1] * (keys.ndim - 2), -1)
            rows, counted = self.rows(agents[places], every)
            shuffled = (randomness.spawn(deals[places], every) >> 16) & (2**48 - 1)
            turn_of = randomness.spawn(deals[places], names).argsort(-1).argsort(-1)
            stratum = turn_of.gather(-1, strata[rows].expand(shuffled.shape))
            order = (shuffled + (stratum << 48)).masked_fill(~counted, torch.iinfo(torch.int64).max)
            dealt = order.sort(dim=-1, stable=True).indices.unflatten(-1, (half, 2))
            chosen = []
            for ours, turn in ((keys[places, ..., :1], 1), (keys[places, ..., 1:], 0)):
                drawn = randomness.choose(ours, (sizes + 1 - turn) // 2, k, half)
                chosen.append(dealt[..., turn].unsqueeze(-2).expand(*drawn.shape[:-1], -1).gather(-1, drawn))
            positions[places] = torch.cat(chosen, -2)
        return positions

    def widths(self, most: int | None = None, *, halves: bool = False) -> np.ndarray:
        """Return how many positions to take of each agent's list, or of its larger half, of which `most` are wanted."""
        lengths = (self.lengths + 1) // 2 if halves else self.lengths
        return padded(lengths if most is None else np.minimum(lengths, most))


def padded(sizes: np.ndarray) -> np.ndarray:
    """Return the width that each of several lists is padded to, so that all of them together cost the least.

    Lists of about the same size, the largest less than twice the smallest, have one width: so at most half is padding.
    Neighbouring groups have one width, too, where the padding costs less than one more group.

    >>> padded(np.array([20000, 12, 9, 7, 3])).tolist()
    [20000, 12, 12, 12, 12]
    """
    largest = sizes.max()
    if len(sizes) * largest <= 2 * sizes.sum():
        return np.full_like(sizes, largest)
    halvings = np.log2(largest / sizes.clip(1)).astype(np.int64)
    _, kinds, counts = np.unique(halvings, return_inverse=True, return_counts=True)
    widths = np.zeros(len(counts), sizes.dtype)
    np.maximum.at(widths, kinds, sizes)
    best: list[tuple[float, list[int]]] = [(0.0, [])]  # for the first kinds: the cost, and where each group begins
    for end in range(1, len(counts) + 1):
        ways = []
        for first in range(end):
            cost, begins = best[first]
            rows = float(widths[first] * counts[first:end].sum())
            ways.append((cost + rows + ROWS_OF_A_GROUP, [*begins, first]))
        best.append(min(ways))
    firsts = np.array(best[-1][1])
    return widths[firsts[np.searchsorted(firsts, kinds, "right") - 1]]


def alike(agents: torch.Tensor, *widths: np.ndarray) -> list[tuple[int, torch.Tensor]]:
    """Put agents together that have the same widths: (the first of the widths, places in `agents`) of each group.

    Where all agents have the same widths, the values of `agents` are not looked at.

    >>> alike(torch.tensor([3, 0, 1]), np.array([7, 2, 2, 2]))
    [(7, tensor([1])), (2, tensor([0, 2]))]
    """
    if all((each == each[0]).all() for each in widths):
        return [(int(widths[0][0]), torch.arange(len(agents), device=agents.device))]
    numbers = agents.numpy(force=True)
    kinds, group = np.unique(np.stack([each[numbers] for each in widths], 1), axis=0, return_inverse=True)
    places = [torch.from_numpy(np.flatnonzero(group.ravel() == number)) for number in range(len(kinds))]
    return [(int(kind[0]), some.to(agents.device)) for kind, some in zip(kinds, places, strict=True)][::-1]


class InBlocks(Sequence[Any]):
    """Items that are made when they are asked for, a block at a time, and not kept.

    length : how many.
    block : how many of them are made at once when one goes through them.
    make : (first, end) -> the items first, …, end − 1.

    >>> squares = InBlocks(5, 2, lambda first, end: [i * i for i in range(first, end)])
    >>> list(squares), squares[-1], squares[:2]
    ([0, 1, 4, 9, 16], 16, [0, 1])
    """

    def __init__(self, length: int, block: int, make: Callable[[int, int], Sequence[Any]]) -> None:
        self._length, self._block, self._make = length, block, make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        chosen = range(self._length)[place]
        if isinstance(chosen, int):
            return self._make(chosen, chosen + 1)[0]
        return [self[number] for number in chosen]

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, self._length, self._block):
            yield from self._make(first, min(first + self._block, self._length))
