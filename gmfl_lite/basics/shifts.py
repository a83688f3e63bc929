"""What agents see and what they call it: few samples, turned images, renamed classes, wrong labels."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from . import randomness


def rename_classes(y: np.ndarray, parts: list[np.ndarray], k: int, n_classes: int, seed: int) -> np.ndarray:
    """Return labels in which each agent renames k of the classes by its own permutation, a cycle."""
    drawn = [
        randomness.generator(seed, "permuted classes", agent).permutation(n_classes)[:k] for agent in range(len(parts))
    ]
    chosen, names = np.stack(drawn), np.tile(np.arange(n_classes), (len(parts), 1))
    np.put_along_axis(names, chosen, np.roll(chosen, 1, axis=1), axis=1)  # so each of the k gets another name
    rows, agent = np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    y = y.copy()
    y[rows] = names[agent, y[rows]]
    return y


def mislabel(y: np.ndarray, parts: Sequence[np.ndarray], share: float, n_classes: int, seed: int) -> np.ndarray:
    """Return labels in which each of an agent's rows has, with probability `share`, another class, any alike."""
    chance, further = [], []
    for agent, part in enumerate(parts):
        rng = randomness.generator(seed, "label noise", agent)
        chance.append(rng.random(len(part)))
        further.append(rng.integers(1, n_classes, len(part)))
    wrong, rows = np.concatenate(chance) < share, np.concatenate(parts)
    y = y.copy()
    y[rows] = (y[rows] + wrong * np.concatenate(further)) % n_classes
    return y


def rotate(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Turn images [N, C, H, W] anticlockwise about their centre, with zeros (background) where nothing was.

    In float64, and rounded to the images' type at the end: the same on every processor.
    """
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], dtype=torch.float64).expand(len(images), -1, -1)
    where = F.affine_grid(turn, list(images.shape), align_corners=False).to(images.device)
    return F.grid_sample(images.double(), where, align_corners=False).to(images)
