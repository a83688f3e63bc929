"""Which of an agent's samples it trains on, fine-tunes on and is scored on.

For all agents at once: what is drawn for an agent is a function of its number, and everything else is one operation on
the rows of all agents, one agent's after the other's. A hundred thousand agents take two seconds.
"""

from collections.abc import Sequence

import numpy as np

from . import randomness

Lists = list[np.ndarray]


def split(parts: Lists, strata: np.ndarray, test_fraction: float, seed: int) -> tuple[Lists, Lists]:
    """Split each agent's rows into those it trains on and those it is scored on, both with its own mix of strata."""
    held = _Held(parts, strata)
    n_test = np.rint(test_fraction * held.sizes).astype(np.int64).clip(1, held.sizes - 1)
    chance, orders = [], []
    for agent, (size, kinds) in enumerate(zip(held.sizes.tolist(), held.kinds.tolist(), strict=True)):
        rng = randomness.generator(seed, "test split", agent)
        chance.append(rng.random(kinds))
        orders.append(rng.permutation(size))
    share = held.of_kind * n_test[held.owner] / held.sizes[held.owner]
    to_test = np.floor(share).astype(np.int64)
    # What is missing comes from the largest remainders, one each; the last sample of a class goes there at last.
    takes_last = to_test + 1 >= held.of_kind
    by_claim = np.lexsort((np.concatenate(chance), to_test - share, takes_last, held.owner))
    missing = n_test - np.add.reduceat(to_test, starts(held.kinds))
    to_test[by_claim[within(held.kinds) < missing[held.owner]]] += 1
    scored = held.places(orders) < to_test[held.kind]
    return held.lists(~scored), held.lists(scored)


def few_shots(
    training: Lists, strata: np.ndarray, shots: int | None, n_new_agents: int, twice: bool, seed: int
) -> tuple[Lists, Lists]:
    """Return what each agent trains on, and what it fine-tunes on when it is scored: at most `shots` of each stratum.

    With `twice`, agents that train hold twice as many. Fewer shots are among more of them.
    """
    if shots is None:
        return training, training
    held = _Held(training, strata)
    orders = [
        randomness.generator(seed, "shots", agent).permutation(size) for agent, size in enumerate(held.sizes.tolist())
    ]
    places, trains = held.places(orders), held.agent < len(training) - n_new_agents
    some = held.lists(places < shots)
    return held.lists(places < shots * (1 + trains)) if twice else some, some


def starts(sizes: np.ndarray) -> np.ndarray:
    """Return where each list begins, for lists that lie one after the other."""
    return sizes.cumsum() - sizes


def within(sizes: np.ndarray) -> np.ndarray:
    """Return each item's place in its list, for lists that lie one after the other.

    >>> within(np.array([3, 1, 2])).tolist()
    [0, 1, 2, 0, 0, 1]
    """
    return np.arange(sizes.sum()) - np.repeat(starts(sizes), sizes)


def lists(values: np.ndarray, sizes: np.ndarray) -> Lists:
    """Cut lists that lie one after the other.

    >>> [each.tolist() for each in lists(np.arange(4), np.array([1, 3]))]
    [[0], [1, 2, 3]]
    """
    return [values[first : first + size] for first, size in zip(starts(sizes).tolist(), sizes.tolist(), strict=True)]


class _Held:
    """The rows of all agents: whose each is, and its kind, of which an agent has one for each stratum that it holds."""

    def __init__(self, parts: Sequence[np.ndarray], strata: np.ndarray) -> None:
        self.rows = np.concatenate(parts)
        self.sizes = np.array([len(part) for part in parts])
        self.agent = np.repeat(np.arange(len(parts)), self.sizes)
        names = self.agent * (strata.max() + 1) + strata[self.rows]
        found, self.kind, self.of_kind = np.unique(names, return_inverse=True, return_counts=True)
        self.owner = found // (strata.max() + 1)
        self.kinds = np.bincount(self.owner, minlength=len(parts))

    def places(self, orders: Lists) -> np.ndarray:
        """Return each row's place among those of its kind, in the order of its agent's."""
        order = np.concatenate(orders) + np.repeat(starts(self.sizes), self.sizes)
        places = np.empty_like(order)
        places[order[np.argsort(self.kind[order], kind="stable")]] = within(self.of_kind)
        return places

    def lists(self, chosen: np.ndarray) -> Lists:
        return lists(self.rows[chosen], np.bincount(self.agent[chosen], minlength=len(self.sizes)))
