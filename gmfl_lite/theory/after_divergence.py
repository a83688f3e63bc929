"""Which step size to lower after a run has diverged, and to what: told within a second."""

import math
import threading
from collections.abc import Iterator

import torch
from torch.func import vmap
from torch.utils._pytree import tree_map

from ..data import loss_of_guessing
from ..engine import Stopped, Watch, agents_at_once, chunks
from ..experiment import Experiment
from ..federation import Batch, Federation
from ..models import moving
from ..objective import LossFn, Params, fine_tune, meta_loss
from ..server import EXPLOSION, SERVER_STEPS, loss_limit
from ..trainer import picked_in
from .constants import largest_safe_fine_tune_lr
from .spectrum import curvatures

SECONDS = 0.8
"""After this time what has been found by then is told."""

Parts = list[tuple[Params, Batch]]
"""The points and the batches of the agents that are computed at once."""

AGENTS, SAMPLES = 10, 25
"""How many of the first round's agents the measurements take, and how many samples of each."""


def what_to_lower(
    experiment: Experiment,
    federation: Federation,
    loss_fn: LossFn,
    start: Params,
    params: Params,
    stop: threading.Event | None = None,
) -> str:
    """Say which step size to lower, and to what: the safe value for the curvature measured at the start.

    If there is no time for all of that, or it cannot be measured, the value is a cruder one.

    Parameters
    ----------
    experiment, federation, loss_fn : the run, its agents, and f_i as a function of (params, batch).
    start, params : the initial w, and the last sound one.
    stop : ends the measuring at once; so does Ctrl-C.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> gl.run(gl.Experiment(model="softmax", meta_lr=500.0), progress=False).message.partition("; ")[2]
    'lower meta_lr (now 500), for example to 0.4'
    """
    told = f"{_lower(experiment, 'meta_lr')}, or fine_tune_lr (now {experiment.fine_tune_lr:g})"
    try:
        with Watch(stop, SECONDS):
            for better in _better_and_better(experiment, federation, loss_fn, start, params):
                told = better
    except (Stopped, KeyboardInterrupt, RuntimeError):  # a RuntimeError: numbers too wild for it, or too little memory
        pass
    return told


def _better_and_better(
    experiment: Experiment, federation: Federation, loss_fn: LossFn, start: Params, params: Params
) -> Iterator[str]:
    """Yield what to lower each time that more is known."""
    picked, nu = picked_in(0, experiment, federation)[:AGENTS], experiment.nu
    drawn = federation.batches(picked, nu=0, local_steps=1, batch_size=SAMPLES, seed=experiment.seed, round=0)
    _, data = next(iter(drawn))
    most = max(1, agents_at_once(loss_fn, start, data, copies=4))
    at_start, last = ([(_expanded(w, part), part) for part in _parts(data, most)] for w in (start, params))
    steepest, losses = 0.0, torch.empty(2, 0)
    for (first, batches), (points, _) in zip(at_start, last, strict=True):
        losses = torch.cat([losses, torch.stack([vmap(loss_fn)(w, batches).cpu() for w in (first, points)])], dim=1)
        loss_at_start, before = losses.mean(1).tolist()
        sane = before <= 2 * loss_limit(loss_of_guessing(federation), loss_at_start) / EXPLOSION
        steepest = max(steepest, _curvature(experiment, loss_fn, first, batches, nu=0))
        crude = 4 * steepest if nu else steepest  # L_F ≤ 4L + …, by C1
        unstable = experiment.fine_tune_lr * steepest > 2 and experiment.fine_tune_lr > experiment.meta_lr
        yield _lower(experiment, *(("fine_tune_lr", steepest) if sane and unstable else ("meta_lr", crude)))
    if sane and not _mean_loss_after_tuning(experiment, loss_fn, last) <= before:
        yield _lower(experiment, "fine_tune_lr", steepest)
        return
    yield _lower(experiment, "meta_lr", crude)
    most = agents_at_once(loss_fn, start, data, copies=6 * nu + 4)
    if nu and most and not _is_the_servers_fault(experiment, crude):
        found = [_curvature(experiment, loss_fn, _expanded(start, part), part, nu) for part in _parts(data, most)]
        yield _lower(experiment, "meta_lr", max(found))


def _curvature(experiment: Experiment, loss_fn: LossFn, points: Params, batches: Batch, nu: int) -> float:
    """Return the largest curvature of the agents' losses after ν steps."""

    def measured(params: Params, batch: Batch) -> torch.Tensor:
        part = moving(params, experiment.personal)
        return meta_loss(loss_fn, params, [batch] * nu, batch, fine_tune_lr=experiment.fine_tune_lr, moving=part)

    return curvatures(measured, points, batches, iterations=8).max().item()  # for the one digit that is told


def _mean_loss_after_tuning(experiment: Experiment, loss_fn: LossFn, parts: Parts) -> float:
    """Return the agents' mean loss after as many fine-tuning steps as are taken or scored."""

    def tuned(params: Params, batch: Batch) -> Params:
        part = moving(params, experiment.personal)
        return fine_tune(loss_fn, params, [batch], experiment.fine_tune_lr, moving=part)

    losses = []
    for points, batches in parts:
        for _ in range(max(experiment.nu, *experiment.eval_steps)):
            points = vmap(tuned)(points, batches)
        losses.append(vmap(loss_fn)(points, batches))
    return torch.cat(losses).mean().item()


def _is_the_servers_fault(experiment: Experiment, steepest: float) -> bool:
    """Tell whether the server's step, not the agents', is too long: it goes beyond where they are, or far with them."""
    if experiment.server == "average":
        return experiment.server_lr > 1
    return not experiment.meta_lr * (steepest + experiment.proximal) > 2


def _lower(experiment: Experiment, cause: str, steepest: float = math.nan) -> str:
    if cause == "meta_lr" and _is_the_servers_fault(experiment, steepest):
        usual, now = SERVER_STEPS[experiment.server].usual_lr, experiment.server_lr
        return f"lower server_lr (now {now:g}), for example to {usual if now > usual else now / 10:.1g}"
    now = getattr(experiment, cause)
    value = now / 10
    if 0 < steepest < math.inf:
        curvature = steepest + experiment.proximal
        safe = largest_safe_fine_tune_lr(experiment.nu, steepest) if cause == "fine_tune_lr" else 1 / curvature
        value = min(now / 2, safe)
    return f"lower {cause} (now {now:g}), for example to {float(f'{value:.1g}'):g}"


def _parts(data: Batch, most: int) -> list[Batch]:
    """Return the batches in chunks of at most `agents_at_once` agents."""
    split = chunks(torch.arange(len(data[2])), most)
    return [tree_map(lambda tensor: tensor[agents], data) for agents in split]  # noqa: B023


def _expanded(w: Params, data: Batch) -> Params:
    return {name: tensor.expand(len(data[2]), *tensor.shape) for name, tensor in w.items()}
