"""What agents see and what they call it: few samples, turned images, renamed classes, wrong labels."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from . import randomness


def rename_classes(y: np.ndarray, parts: list[np.ndarray], k: int, n_classes: int, seed: int) -> np.ndarray:
    """Return labels in which each agent renames k of the classes by its own permutation, a cycle."""
    y = y.copy()
    for agent, part in enumerate(parts):
        rng = randomness.generator(seed, "permuted classes", agent)
        chosen, names = rng.permutation(n_classes)[:k], np.arange(n_classes)
        names[chosen] = np.roll(chosen, 1)  # a cycle, so that each of the k gets another name
        y[part] = names[y[part]]
    return y


def first_of_each_class(rows: np.ndarray, labels: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Return at most `shots` of the rows of each class, at random; fewer shots are among more of them."""
    order = rng.permutation(len(rows))
    sorted_by_class = order[np.argsort(labels[order], kind="stable")]
    classes = labels[sorted_by_class]
    rank = np.arange(len(rows)) - np.searchsorted(classes, classes)
    return rows[np.sort(sorted_by_class[rank < shots])]


def mislabel(y: np.ndarray, parts: Sequence[np.ndarray], share: float, n_classes: int, seed: int) -> np.ndarray:
    """Return labels in which each of an agent's rows has, with probability `share`, another class, any alike."""
    y = y.copy()
    for agent, part in enumerate(parts):
        rng = randomness.generator(seed, "label noise", agent)
        wrong, further = rng.random(len(part)) < share, rng.integers(1, n_classes, len(part))
        y[part[wrong]] = (y[part] + further)[wrong] % n_classes
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
