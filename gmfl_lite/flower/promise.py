"""What the noise of a federation's agents promises them, in one sentence for the log."""

import math
from collections.abc import Sequence

from ..privacy import epsilon

DELTA = 1e-5


def promise(noise: float, asked: int, averaged: Sequence[int], *, uniform: bool) -> str:
    """Return what clipping and noise promise each agent after the rounds that were run.

    Fellow agents know the seed, and with it who was picked: nothing is gained by picking at random.

    Parameters
    ----------
    noise : z, the least that every agent was asked to add.
    asked : in how many rounds the agent that was asked most was asked.
    averaged : how many updates were averaged in each of the rounds.
    uniform : whether w is made of their plain average.

    >>> promise(0.0, 3, [4, 4, 3], uniform=True)
    'privacy: clipping without noise promises nothing'
    """
    if not noise:
        return "privacy: clipping without noise promises nothing"
    try:
        server = epsilon(noise, asked, delta=DELTA)
        others = epsilon(noise, asked, agents_per_round=min(averaged, default=1), delta=DELTA) if uniform else math.nan
    except ImportError as error:
        return f"privacy: {error}"
    said = f"privacy of each agent's data, with noise {noise:g} and δ = {DELTA:g}: ε = {server:.3g} towards the server"
    if uniform and averaged:
        said += f", and ε = {others:.3g} towards who sees w alone, if all of at least {min(averaged)} added their noise"
    return f"{said}; losses, accuracies and numbers of samples went as they are"
