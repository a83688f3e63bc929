"""One local step, w ← w − β g(w), and τ of them: what every engine repeats."""

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..meta_gradients import meta_gradient
from ..models import moving
from ..objective import LossFn, Params, StepSize, step

if TYPE_CHECKING:
    from ..experiment import Experiment

LocalStep = Callable[[Params, Params, Params, Params], Params]
"""What an agent does with a meta-gradient: (w, gradient, start, own) -> the next w.

`start` is the w that the server sent, `own` what the engine keeps for this agent. Tensors in, tensors out, no branch on
their values: then it works for all agents at once, and in a recording.
"""

OneStep = Callable[[Params, Params, Params, Any, Any], tuple[Params, torch.Tensor]]
"""A whole local step: (w, start, own, support, query) -> (the next w, the meta-loss at w)."""


class Stopped(Exception):
    """Raised between two local steps when somebody has asked to stop."""


def look_at(stop: threading.Event | None) -> None:
    """Raise Stopped if `stop` is set."""
    if stop is not None and stop.is_set():
        raise Stopped


def descend(w: Params, gradient: Params, start: Params, own: Params, *, meta_lr: StepSize) -> Params:
    """Return w − β g, the plain local step."""
    return step(w, gradient, meta_lr)


def one_step(
    loss_fn: LossFn, local_step: LocalStep | None, *, meta_lr: StepSize, proximal: StepSize = 0.0, **estimate: Any
) -> OneStep:
    """Return a local step of one agent: a meta-gradient, estimated as asked, and what `local_step` does with it.

    With `proximal`, μ, it is that of F(w) + μ/2 ‖w − start‖².
    """
    follow = partial(descend, meta_lr=meta_lr) if local_step is None else local_step

    def one(w: Params, start: Params, own: Params, support: Any, query: Any) -> tuple[Params, torch.Tensor]:
        gradient, loss = meta_gradient(loss_fn, w, support, query, **estimate)
        if isinstance(proximal, torch.Tensor) or proximal:
            gradient = step(gradient, {name: start[name] - w[name] for name in w}, proximal)
        return follow(w, gradient, start, own), loss

    return one


def take_steps(
    one: OneStep,
    w: Params,
    start: Params,
    own: Params,
    batches: Iterable[tuple[Any, Any]],
    stop: threading.Event | None,
) -> tuple[Params, torch.Tensor]:
    """Take a local step for each (support, query); return the last w, and the meta-loss before each step [..., τ]."""
    losses = []
    for support, query in batches:
        look_at(stop)
        w, loss = one(w, start, own, support, query)
        losses.append(loss)
    if not losses:
        raise ValueError("batches: must hold at least one (support, query), one for each local step")
    return w, torch.stack(losses, -1)


def estimate_settings(experiment: "Experiment", params: Params) -> dict[str, Any]:
    """Return what a local step takes from an experiment, of a model with these parameters."""
    return {
        "fine_tune_lr": experiment.fine_tune_lr,
        "meta_lr": experiment.meta_lr,
        "method": experiment.gradient,
        "backprop_steps": experiment.backprop_steps,
        "moving": moving(params, experiment.personal),
        "proximal": experiment.proximal,
    }
