"""What a page shows of an agent's samples: images or labels and what they are called, a function and its fit."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ..basics import images
from ..federation import Federation
from ..modules import Predict
from ..objective import Params

MOST_SAMPLES, MOST_POINTS, GRID, PIXELS = 12, 60, 81, 48
"""Of an agent: samples with classes, and points of a function. PIXELS is the longest side of an image on the page."""


@dataclass(frozen=True)
class Shown:
    """A kind of samples.

    Attributes
    ----------
    name : "images", "labels" or "fits", what the script knows it by.
    in_words : what is to be seen.
    shown : (federation, agent, predict, [params after 0, 1, … steps]) -> what the script draws.
    """

    name: str
    in_words: str
    shown: Callable[[Federation, int, Predict, Sequence[Params]], dict[str, Any]]


def kind_of_samples(federation: Federation, accurate: bool) -> Shown:
    """Return how these agents' samples can be shown.

    accurate : whether predictions are logits of the federation's classes.

    Raises
    ------
    ValueError : not at all.
    """
    x, y = federation.x, federation.y
    if accurate and y.ndim == 1:
        images = x.ndim == 4 and x.shape[1] in (1, 3) and min(x.shape[2:]) > 1 and x.is_floating_point()
        return IMAGES if images else LABELS
    if federation.classes is None and x[0].numel() == y[0].numel() == 1 and x.is_floating_point():
        return FITS
    found = (
        f"x {list(x.shape[1:])} and y {list(y.shape[1:])} with {'numbers' if federation.classes is None else 'classes'}"
    )
    raise ValueError(
        "federation: must hold samples with one class each, or one number to predict from one other, for a film of "
        f"fine-tuning, got {found}; gl.plots.accuracy_against_steps draws the scores of all"
    )


def _classified(federation: Federation, agent: int, predict: Predict, tuned: Sequence[Params]) -> dict[str, Any]:
    x, y = federation.test(agent)
    rows = torch.linspace(0, len(y) - 1, min(MOST_SAMPLES, len(y))).round().long().to(y.device)
    names = federation.classes or ()
    called = [predict({name: t.to(x.device) for name, t in w.items()}, x[rows]).argmax(-1).tolist() for w in tuned]
    return {
        "is": [names[label] for label in y[rows].tolist()],
        "called": [[names[label] for label in labels] for labels in called],
        "rows": rows.tolist(),
    }


def _images(federation: Federation, agent: int, predict: Predict, tuned: Sequence[Params]) -> dict[str, Any]:
    shown = _classified(federation, agent, predict, tuned)
    return {**shown, "images": [_as_png(image) for image in federation.test(agent)[0][shown["rows"]]]}


def _as_png(image: torch.Tensor) -> str:
    """Return [C, H, W] as a data URI, of one channel dark on white as `gmfl_lite.plots` draws it."""
    pixels = image.float().cpu()
    low, high = min(0.0, pixels.min().item()), max(1.0, pixels.max().item())  # [0, 1], unless there are others
    pixels = 255 * (pixels - low) / (high - low)
    pixels = 255 - pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    drawn, file = Image.fromarray(pixels.round().to(torch.uint8).numpy()), io.BytesIO()
    drawn.thumbnail((PIXELS, PIXELS))
    drawn.save(file, format="png", optimize=True)
    return images.address(file.getvalue())


def _fits(federation: Federation, agent: int, predict: Predict, tuned: Sequence[Params]) -> dict[str, Any]:
    halves = {"train": federation.train(agent), "test": federation.test(agent)}
    points = {
        half: [[a, b] for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)][:MOST_POINTS]
        for half, (x, y) in halves.items()
    }
    x = torch.cat([x for x, _ in halves.values()])
    grid = torch.linspace(x.min().item(), x.max().item(), GRID, dtype=x.dtype, device=x.device)
    shape = (GRID, *x.shape[1:])
    fits = [predict({name: t.to(x.device) for name, t in w.items()}, grid.reshape(shape)).flatten() for w in tuned]
    return {**points, "grid": grid.tolist(), "fits": [fit.tolist() for fit in fits]}


IMAGES = Shown("images", "Below, up to twelve images of each agent and what the model calls them.", _images)
LABELS = Shown("labels", "Below, up to twelve samples of each agent and what the model calls them.", _classified)
FITS = Shown("fits", "Below, each agent's samples and the function that the model has learnt.", _fits)
