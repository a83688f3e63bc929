"""Figures of numbers that are predicted: one agent's function, before and after fine-tuning."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..basics import checks
from ..federation import Federation
from ..models import moving
from ..objective import fine_tune
from ..result import Result
from .picture import AXES, Picture, literal, seaborn, steps_in_words


def fit(
    result: Result,
    federation: Federation,
    *,
    agent: int | None = None,
    steps: Sequence[int] = (0, 1, 5, 10),
    model: nn.Module | None = None,
) -> Picture:
    """Draw what w predicts for one agent before and after fine-tuning steps, with its samples.

    Parameters
    ----------
    result, federation : a run, and its agents, each of whose samples is one number with one number to predict.
    agent : whose samples; by default the last one, which is new if any agent is.
    steps : after how many fine-tuning steps to draw a line.
    model : the module that was trained, where it was handed over and the result comes from a file.

    Raises
    ------
    ValueError : samples of another kind, no such agent, or a wrong number of steps.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> steps = {"fine_tune_lr": 0.01, "meta_lr": 0.01, "server": "adam", "server_lr": 0.01}
    >>> experiment = gl.Experiment(dataset="sinusoids", shots=10, rounds=10, **steps)
    >>> figure = fit(gl.run(experiment, progress=False), gl.build_federation(experiment))
    """
    if federation.x.ndim != 2 or federation.x.shape[1] != 1 or federation.classes is not None:
        raise ValueError("federation: must hold samples of one number each, with numbers to predict")
    last = len(federation.sizes) - 1
    agent = last if agent is None else checks.integer("agent", agent, 0, last)
    steps = sorted({checks.integer("steps", each, 0) for each in steps})
    experiment, device = result.experiment, federation.x.device
    loss_fn, w = result.functions(federation, model)
    predict, part = loss_fn.predict, moving(w, experiment.personal)
    sets = federation.fine_tune_sets, federation.test_sets
    learned, (x, y, _) = (tuple(t[0] for t in held(torch.tensor([agent], device=device))) for held in sets)
    everywhere = torch.linspace(x.min().item(), x.max().item(), 200, device=device, dtype=federation.dtype)
    with seaborn(AXES) as sns:
        figure = Picture(figsize=(6.6, 3.4), layout="constrained")
        axes = figure.subplots()
    axes.scatter(_numbers(x), _numbers(y), s=12, color="0.75", label="scored", zorder=1)
    losses, taken = [], 0
    for number, (target, colour) in enumerate(zip(steps, sns.color_palette("flare", len(steps)), strict=True)):
        w = fine_tune(loss_fn, w, [learned] * (target - taken), experiment.fine_tune_lr, moving=part)
        taken, words = target, steps_in_words(target)
        line = _numbers(predict(w, everywhere[:, None]))
        axes.plot(_numbers(everywhere), line, color=colour, linewidth=1.2 + number / 2, label=f"after {words}")
        losses.append(f"{(predict(w, x) - y).square().mean().item():.2g} after {words}")
    held = learned[2] > 0  # the rest is padding
    own_x, own_y = (_numbers(tensor[held]) for tensor in learned[:2])
    axes.scatter(own_x, own_y, s=45, marker="x", color="black", label="fine-tuned on")
    axes.set(xlabel="x", ylabel="y", title=literal(federation.name_of(agent)))
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    figure.alt = (
        f"What w predicts for {federation.name_of(agent)}, next to its samples; mean squared error {', '.join(losses)}."
    )
    return figure


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.flatten().numpy(force=True)
