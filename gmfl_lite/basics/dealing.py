"""Which of an agent's samples it trains on, fine-tunes on and is scored on."""

from collections.abc import Sequence

import numpy as np

from . import randomness
from .shifts import first_of_each_class
from .whole_numbers import stratified_split

Lists = list[np.ndarray]


def split(parts: Lists, strata: np.ndarray, test_fraction: float, seed: int) -> tuple[Lists, Lists]:
    """Split each agent's rows into those it trains on and those it is scored on, both with its own mix of strata."""
    halves = [
        stratified_split(part, strata[part], test_fraction, randomness.generator(seed, "test split", agent))
        for agent, part in enumerate(parts)
    ]
    training, scored = zip(*halves, strict=True)
    return list(training), list(scored)


def few_shots(
    training: Lists, strata: np.ndarray, shots: int | None, n_new_agents: int, twice: bool, seed: int
) -> tuple[Lists, Lists]:
    """Return what each agent trains on, and what it fine-tunes on when it is scored: at most `shots` of each stratum.

    With `twice`, agents that train hold twice as many.
    """
    if shots is None:
        return training, training

    def held(most: Sequence[int]) -> Lists:
        return [
            first_of_each_class(rows, strata[rows], of_each, randomness.generator(seed, "shots", agent))
            for agent, (rows, of_each) in enumerate(zip(training, most, strict=True))
        ]

    some, n_agents = held([shots] * len(training)), len(training) - n_new_agents
    return held([2 * shots] * n_agents + [shots] * n_new_agents) if twice else some, some
