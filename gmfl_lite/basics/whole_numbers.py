"""Samples dealt out in whole numbers: shares that add up, counts that fit totals."""

import numpy as np

from . import checks

CLOSE = 1e-13
"""Relative error of the classes' totals at which scaling ends: what follows is rounding."""


def equal_sizes(total: int, n: int) -> np.ndarray:
    return total // n + (np.arange(n) < total % n)


def unequal_sizes(total: int, n: int, least: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    if spread == 0:
        return equal_sizes(total, n)
    weights = np.exp(spread * rng.standard_normal(n))
    shared = (total - n * least) * weights / weights.sum()
    sizes = least + np.floor(shared).astype(np.int64)
    sizes[np.argsort(np.floor(shared) - shared)[: total - sizes.sum()]] += 1
    return sizes


def apportion(weights: np.ndarray, seats: int, most: int) -> np.ndarray:
    """Return integers from 1 to `most`, about proportional to `weights`, that sum to `seats` (Webster's method)."""
    given = np.ones(len(weights), np.int64)
    for _ in range(seats - len(weights)):
        given[np.argmax(np.where(given < most, weights / (2 * given + 1), -1.0))] += 1
    return given


def fit_to_totals(log_mix: np.ndarray, sizes: np.ndarray, available: np.ndarray, scalings: int = 100) -> np.ndarray:
    """Return integer counts close to the mixes, with rows summing to `sizes` and columns to `available`, exactly."""

    def normalise(logs: np.ndarray, totals: np.ndarray, axis: int) -> tuple[np.ndarray, float]:
        top = logs.max(axis, keepdims=True)
        shift = np.log(np.expand_dims(totals, axis)) - np.log(np.exp(logs - top).sum(axis, keepdims=True)) - top
        return logs + shift, abs(shift).max()

    log_counts, _ = normalise(log_mix, sizes, 1)
    for _ in range(scalings):
        log_counts, change = normalise(log_counts, available, 0)
        if change < CLOSE:
            break
        log_counts, _ = normalise(log_counts, sizes, 1)
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


def raise_poorest(counts: np.ndarray, holds: np.ndarray, min_samples: int) -> np.ndarray:
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
