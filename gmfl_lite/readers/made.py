"""Samples that are made, not read."""

import math
from pathlib import Path

import torch

from ..basics import checks, randomness

SAMPLES = 200
"""Of each agent."""


def sinusoid(seed: int, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x [200, 1], uniform in [−5, 5], and y = A sin(x − φ) of one agent: A in [0.1, 5], φ in [0, π].

    The classical benchmark of meta-learning (Finn, Abbeel, Levine, ICML 2017, section 5.1).
    """
    rng = randomness.generator(seed, "sinusoid", agent)
    amplitude, phase = rng.uniform(0.1, 5.0), rng.uniform(0.0, math.pi)
    x = torch.from_numpy(rng.uniform(-5.0, 5.0, (SAMPLES, 1)))
    return x.float(), (amplitude * torch.sin(x - phase)).float()


def sinusoids(root: Path, split: str, download: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return those of 50 agents, one after the other."""
    if split != "train":
        raise checks.refusal("split", split, "'train' for sinusoids, which are made")
    x, y = zip(*(sinusoid(0, agent) for agent in range(50)), strict=True)
    return torch.cat(x), torch.cat(y)
