"""Who holds what: schemes that deal a dataset's samples out to agents.

A scheme only says how many samples of each class every agent holds (`counts`); `partition` then deals that many out,
so disjointness and completeness hold for every scheme by construction, and nothing is ever retried.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from .basics import checks
from .basics.dealing import lists
from .basics.randomness import generator
from .basics.whole_numbers import apportion, equal_sizes, fit_to_totals, raise_poorest, unequal_sizes


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
        for size in unequal_sizes(available.sum(), n_agents, min_samples, self.size_spread, rng):
            rows.append(rng.multivariate_hypergeometric(left, size))
            left -= rows[-1]
        return np.stack(rows)


@dataclass(frozen=True)
class Dirichlet:
    """Each agent's mix of classes is drawn from a Dirichlet distribution; small `alpha` = heterogeneous.

    Agent i draws a mix q_i ~ Dirichlet(alpha · C · p), with p the dataset's own mix of its C classes (for balanced
    classes: concentration `alpha` in each). How many samples an agent holds is settled before its mix, so min_samples
    is honoured by construction, without retrying, and does not bend the mixes. Together the mixes ask for more samples
    of some classes than there are, and every sample must be used: the table of counts is the one closest to the mixes
    (in relative entropy, by Sinkhorn scaling) that uses each class up exactly; what a bounded number of scalings leaves
    over is moved between classes at the agents whose mixes change least. alpha → ∞ tends to IID, alpha → 0 to one class
    per agent (two or three for those who take what is left).

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
        sizes = unequal_sizes(available.sum(), n_agents, min_samples, self.size_spread, rng)
        return fit_to_totals(log_mix, sizes, available)


@dataclass(frozen=True)
class Shards:
    """Every agent holds `classes_per_agent` classes; the agents who hold a class share it equally.

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
        holders = apportion(available, n_agents * k, most=n_agents)
        holds = np.zeros((n_agents, n_classes), bool)
        left = holders.copy()
        for done, agent in enumerate(rng.permutation(n_agents)):
            # A class with as many places left as there are agents must be taken now; the rest by chance.
            must = left == n_agents - done
            order = np.lexsort((-left * rng.random(n_classes), ~must))
            holds[agent, order[:k]] = True
            left -= holds[agent]
        counts = np.zeros((n_agents, n_classes), np.int64)
        for c in range(n_classes):
            counts[rng.permutation(np.flatnonzero(holds[:, c])), c] = equal_sizes(available[c], holders[c])
        return raise_poorest(counts, holds, min_samples)


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
    dealt, holders = [], []
    for c, column in enumerate(counts.T):
        dealt.append(rng.permutation(np.flatnonzero(class_of == c))[: column.sum()])
        holders.append(np.repeat(np.arange(n_agents), column))
    rows, agents = np.concatenate(dealt), np.concatenate(holders)
    return lists(rows[np.lexsort((rows, agents))], counts.sum(axis=1))


def _need_classes(scheme: str, found: int, needed: int) -> None:
    if found < needed:
        raise ValueError(f"{scheme} needs at least {needed} classes among the labels, which show {found}")


@dataclass(frozen=True)
class Dealing:
    """A choice of `partition`: a scheme, and which of its parameters is which setting.

    `min_samples` is the least that an agent may hold.
    """

    scheme: Callable[..., Scheme]
    settings: Mapping[str, str] = field(default_factory=dict)
    min_samples: int = 10


PARTITIONS = {
    "iid": Dealing(IID, {"size_spread": "size_spread"}),
    "dirichlet": Dealing(Dirichlet, {"alpha": "dirichlet_alpha", "size_spread": "size_spread"}),
    "shards": Dealing(Shards, {"classes_per_agent": "classes_per_agent"}),
    # The split fixes how many samples an agent holds; two are enough for one to train on and one to score.
    "per_fedavg": Dealing(PerFedAvgSplit, {"a": "per_fedavg_a"}, min_samples=2),
}
"""Every way to deal samples out that can be asked for by name."""
