"""Who holds what: schemes that deal a dataset's samples out to agents.

A scheme only says how many samples of each class every agent holds (`counts`); `partition` then deals that many out,
so disjointness and completeness hold for every scheme by construction, and nothing is ever retried.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from .basics import checks
from .basics.randomness import generator


class Scheme(Protocol):
    """How many samples of each class every agent holds."""

    def counts(self, available: np.ndarray, n_agents: int, min_samples: int, rng: np.random.Generator) -> np.ndarray:
        """Return integers [n_agents, classes] whose columns sum to at most `available` [classes]."""


@dataclass(frozen=True)
class IID:
    """Every agent draws from the same mix of classes: the samples are shuffled and cut.

    Parameters
    ----------
    size_spread : how unequal the agents' sizes are; every agent gets min_samples, and the rest is shared in proportion
        to exp(size_spread · Z) with Z standard normal. 0 gives equal sizes (± 1), 1 a range of about one to ten.

    Examples
    --------
    >>> [len(part) for part in partition([0, 1] * 10, IID(), 3, seed=0, min_samples=1)]
    [7, 7, 6]
    """

    size_spread: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_spread", checks.number("size_spread", self.size_spread, 0, 10))

    def counts(self, available: np.ndarray, n_agents: int, min_samples: int, rng: np.random.Generator) -> np.ndarray:
        left, rows = available.copy(), []
        for size in _sizes(available.sum(), n_agents, min_samples, self.size_spread, rng):
            rows.append(rng.multivariate_hypergeometric(left, size))
            left -= rows[-1]
        return np.stack(rows)


@dataclass(frozen=True)
class Dirichlet:
    """Each agent's mix of classes is drawn from a Dirichlet distribution; small `alpha` = heterogeneous.

    Agent i draws a mix q_i ~ Dirichlet(alpha · C · p), with p the dataset's own mix of its C classes (for balanced
    classes: concentration `alpha` in each). How many samples an agent holds is settled before its mix, so min_samples
    is honoured by construction, without retrying, and does not bend the mixes. The mixes together ask for more of some
    classes than there is, and every sample must be used: the table of counts is the one closest to the mixes (in
    relative entropy, by Sinkhorn scaling) that uses each class up exactly; what a bounded number of scalings leaves
    over is moved between classes at the agents who mind least. alpha → ∞ tends to IID, alpha → 0 to one class an agent
    (two or three for those who take what is left).

    Parameters
    ----------
    alpha : concentration, finite and above 0.
    size_spread : as in IID.

    References
    ----------
    Hsu, Qi, Brown: Measuring the effects of non-identical data distribution, arXiv 1909.06335 (2019).

    Examples
    --------
    >>> parts = partition(np.arange(100) % 10, Dirichlet(0.3), 5, seed=0)
    >>> sorted(np.concatenate(parts)) == list(range(100))
    True
    """

    alpha: float
    size_spread: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", checks.number("alpha", self.alpha, 0, above=True))
        object.__setattr__(self, "size_spread", checks.number("size_spread", self.size_spread, 0, 10))

    def counts(self, available: np.ndarray, n_agents: int, min_samples: int, rng: np.random.Generator) -> np.ndarray:
        _need_classes("Dirichlet", len(available), 2)
        # Beyond these bounds the law has long reached its limits, and floating point overflows.
        concentration = np.clip(self.alpha, 1e-100, 1e100) * len(available) * available / available.sum()
        # log Gamma(a) = log Gamma(a + 1) + log(U) / a keeps its digits where the plain draw underflows to 0 / 0.
        shape = (n_agents, len(available))
        log_mix = np.log(rng.gamma(concentration + 1, size=shape)) + np.log1p(-rng.random(shape)) / concentration
        sizes = _sizes(available.sum(), n_agents, min_samples, self.size_spread, rng)
        return _fit_to_totals(log_mix, sizes, available)


@dataclass(frozen=True)
class Shards:
    """Every agent holds `classes_per_agent` classes; a class is shared equally by the agents who hold it.

    Common classes have more holders than rare ones, so that agents end up with about equally many samples.

    Parameters
    ----------
    classes_per_agent : from 1 to the number of classes; n_agents times it must reach the number of classes.

    References
    ----------
    McMahan et al.: Communication-efficient learning of deep networks from decentralized data, AISTATS 2017.

    Examples
    --------
    >>> parts = partition(np.arange(200) % 10, Shards(2), 10, seed=0)
    >>> {len(set(part % 10)) for part in parts}
    {2}
    """

    classes_per_agent: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes_per_agent", checks.integer("classes_per_agent", self.classes_per_agent, 1))

    def counts(self, available: np.ndarray, n_agents: int, min_samples: int, rng: np.random.Generator) -> np.ndarray:
        k, n_classes = self.classes_per_agent, len(available)
        _need_classes(f"Shards(classes_per_agent={k})", n_classes, max(k, 2))
        if n_agents * k < n_classes:
            allowed = f"at least {-(-n_classes // n_agents)} so that {n_agents} agents hold all {n_classes} classes"
            raise checks.refusal("classes_per_agent", k, allowed)
        holders = _apportion(available, n_agents * k, most=n_agents)
        holds = np.zeros((n_agents, n_classes), bool)
        left = holders.copy()
        for agent in rng.permutation(n_agents):
            # A class with as many places left as there are agents must be taken now; the rest by chance.
            must = left == n_agents - holds.any(axis=1).sum()
            order = np.lexsort((-left * rng.random(n_classes), ~must))
            holds[agent, order[:k]] = True
            left -= holds[agent]
        counts = np.zeros((n_agents, n_classes), np.int64)
        for c in range(n_classes):
            counts[rng.permutation(np.flatnonzero(holds[:, c])), c] = _equal_sizes(available[c], holders[c])
        return _raise_poorest(counts, holds, min_samples)


@dataclass(frozen=True)
class PerFedAvgSplit:
    """The split of the Per-FedAvg experiments, over the first ten classes.

    Half of the agents hold `a` images of each of the first five classes; each of the others holds a/2 images of one of
    the first five classes and 2a images of one of the other five. Which agents are in which half is drawn by chance.

    Parameters
    ----------
    a : an even number of images.

    References
    ----------
    Fallah, Mokhtari, Ozdaglar: Personalized federated learning with theoretical guarantees, NeurIPS 2020, section 5.

    Examples
    --------
    >>> parts = partition(np.arange(1000) % 10, PerFedAvgSplit(10), 10, seed=0)
    >>> sorted(len(part) for part in parts)
    [25, 25, 25, 25, 25, 50, 50, 50, 50, 50]
    """

    a: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", checks.integer("a", self.a, 2))
        if self.a % 2:
            raise checks.refusal("a", self.a, "even, since some agents hold a/2 images of a class")

    def counts(self, available: np.ndarray, n_agents: int, min_samples: int, rng: np.random.Generator) -> np.ndarray:
        _need_classes("PerFedAvgSplit", len(available), 10)
        if n_agents % 2:
            raise checks.refusal("n_agents", n_agents, "even (new agents included): PerFedAvgSplit has two halves")
        half = n_agents // 2
        units = np.zeros((n_agents, len(available)), np.int64)  # in units of a/2 images
        units[:half, :5] = 2
        for j in range(half):
            units[half + j, j % 5] = 1
            units[half + j, 5 + (j + j // 5) % 5] = 4
        asked = units.sum(axis=0)
        fits = 2 * int((available[asked > 0] // asked[asked > 0]).min())
        if self.a > fits:
            raise checks.refusal("a", self.a, f"at most {fits} for {n_agents} agents on this dataset")
        counts = units * (self.a // 2)
        if counts.sum(axis=1).min() < min_samples:
            least = counts.sum(axis=1).min()
            raise checks.refusal("min_samples", min_samples, f"at most {least} for PerFedAvgSplit(a={self.a})")
        return rng.permutation(counts)


def partition(
    labels: ArrayLike, scheme: Scheme, n_agents: int, *, seed: int, min_samples: int = 10
) -> list[np.ndarray]:
    """Deal samples out to agents: return each agent's sorted indices into `labels`.

    The index arrays are pairwise disjoint and hold at least `min_samples` each; IID, Dirichlet and Shards use every
    sample exactly once. The time is bounded whatever the scheme; the global random generators are not touched.

    Parameters
    ----------
    labels : integers [N] (array, list or tensor).
    scheme : IID(), Dirichlet(alpha), Shards(classes_per_agent) or PerFedAvgSplit(a).
    n_agents : how many agents, the new ones included.
    seed : the same seed gives the same partition.
    min_samples : the least that any agent may hold.

    Raises
    ------
    ValueError : what is asked for cannot be done; the message names the number to change.

    Examples
    --------
    >>> partition([0, 0, 1, 1], Shards(1), 2, seed=0, min_samples=1)
    [array([2, 3]), array([0, 1])]
    """
    y = checks.labels("labels", labels)
    n_agents = checks.integer("n_agents", n_agents, 1)
    min_samples = checks.integer("min_samples", min_samples, 1)
    seed = checks.integer("seed", seed, 0)
    if not callable(getattr(scheme, "counts", None)) or isinstance(scheme, type):
        allowed = "IID(), Dirichlet(alpha), Shards(classes_per_agent) or PerFedAvgSplit(a)"
        raise checks.refusal("scheme", scheme, allowed)
    if n_agents * min_samples > len(y):
        allowed = f"at most {len(y) // min_samples} for {len(y)} samples with min_samples={min_samples}"
        raise checks.refusal("n_agents", n_agents, allowed)
    rng = generator(seed, "partition")
    _, class_of, available = np.unique(y, return_inverse=True, return_counts=True)
    counts = scheme.counts(available, n_agents, min_samples, rng)
    pieces = []
    for c, column in enumerate(counts.T):
        pieces.append(np.split(rng.permutation(np.flatnonzero(class_of == c)), column.cumsum())[:-1])
    return [np.sort(np.concatenate(agent)) for agent in zip(*pieces, strict=True)]


def _need_classes(scheme: str, found: int, needed: int) -> None:
    if found < needed:
        raise ValueError(f"{scheme} needs at least {needed} classes among the labels, which show {found}")


def _equal_sizes(total: int, n: int) -> np.ndarray:
    return total // n + (np.arange(n) < total % n)


def _sizes(total: int, n: int, least: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    if spread == 0:
        return _equal_sizes(total, n)
    weights = np.exp(spread * rng.standard_normal(n))
    shared = (total - n * least) * weights / weights.sum()
    sizes = least + np.floor(shared).astype(np.int64)
    sizes[np.argsort(np.floor(shared) - shared)[: total - sizes.sum()]] += 1
    return sizes


def _apportion(weights: np.ndarray, seats: int, most: int) -> np.ndarray:
    """Return integers from 1 to `most`, about proportional to `weights`, that sum to `seats` (Webster's method)."""
    given = np.ones(len(weights), np.int64)
    for _ in range(seats - len(weights)):
        given[np.argmax(np.where(given < most, weights / (2 * given + 1), -1.0))] += 1
    return given


def _fit_to_totals(log_mix: np.ndarray, sizes: np.ndarray, available: np.ndarray, scalings: int = 100) -> np.ndarray:
    """Return integer counts close to the mixes, with rows summing to `sizes` and columns to `available`, exactly."""

    def normalise(logs: np.ndarray, totals: np.ndarray, axis: int) -> np.ndarray:
        return logs - np.logaddexp.reduce(logs, axis=axis, keepdims=True) + np.log(np.expand_dims(totals, axis))

    log_counts = normalise(log_mix, sizes, 1)
    for _ in range(scalings):
        log_counts = normalise(normalise(log_counts, available, 0), sizes, 1)
    exact = np.exp(log_counts)
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(counts - exact, axis=1)
    places = np.argsort(by_remainder, axis=1)  # of each class in its agent's order of remainders
    counts += places < (sizes - counts.sum(axis=1))[:, None]
    # Rows are exact now; move what a class has too much of to one that has too little, wholly at few agents.
    surplus = counts.sum(axis=0) - available
    while (surplus > 0).any():
        rich, poor = np.argmax(surplus), np.argmin(surplus)
        willing = np.argsort(log_mix[:, rich] - log_mix[:, poor])
        moved = np.clip(min(surplus[rich], -surplus[poor]) - _before(counts[willing, rich]), 0, counts[willing, rich])
        counts[willing, rich] -= moved
        counts[willing, poor] += moved
        surplus = counts.sum(axis=0) - available
    return counts


def _before(values: np.ndarray) -> np.ndarray:
    return np.cumsum(values) - values


def _raise_poorest(counts: np.ndarray, holds: np.ndarray, min_samples: int) -> np.ndarray:
    """Lift every agent to `min_samples` by gifts within classes that both hold, passed on through others if need be."""
    totals = counts.sum(axis=1)
    for poor in np.flatnonzero(totals < min_samples).tolist():
        while totals[poor] < min_samples:
            chains = (_chain_of_gifts(counts, holds, poor, min_samples, keep) for keep in (1, 0))
            gifts = next(filter(None, chains), None)
            if gifts is None:
                allowed = f"at most {totals[poor]}: the classes of agent {poor} have no more samples to share"
                raise checks.refusal("min_samples", min_samples, allowed)
            for giver, taker, c in gifts:
                counts[giver, c] -= 1
                counts[taker, c] += 1
            totals = counts.sum(axis=1)
    return counts


def _chain_of_gifts(
    counts: np.ndarray, holds: np.ndarray, poor: int, min_samples: int, keep: int
) -> list[tuple[int, int, int]] | None:
    """Return the shortest chain of (giver, taker, class) from an agent with more than enough, by breadth-first search.

    Nobody gives away its last `keep` samples of a class.
    """
    gift_of: dict[int, tuple[int, int, int]] = {poor: (-1, -1, -1)}
    queue = [poor]
    for taker in queue:
        for c in np.flatnonzero(holds[taker]).tolist():
            for giver in np.flatnonzero(counts[:, c] > keep).tolist():
                if giver in gift_of:
                    continue
                gift_of[giver] = (giver, taker, c)
                queue.append(giver)
                if counts[giver].sum() > min_samples:
                    chain = [gift_of[giver]]
                    while chain[-1][1] != poor:
                        chain.append(gift_of[chain[-1][1]])
                    return chain
    return None
