"""Which step size to lower after a run has diverged, and to what."""

import math
from functools import partial

import torch
from torch.utils._pytree import tree_map

from ..engine import map_agents
from ..experiment import Experiment
from ..federation import Batch, Federation
from ..objective import LossFn, Params, meta_loss
from ..server import EXPLOSION
from ..trainer import first_picked, limit_of, mean_loss
from .constants import largest_safe_fine_tune_lr
from .spectrum import curvatures


def what_to_lower(
    experiment: Experiment, federation: Federation, loss_fn: LossFn, start: Params, params: Params
) -> str:
    """Say which step size to lower, and to what: the safe value for the curvature measured at the start.

    Parameters
    ----------
    experiment, federation, loss_fn : the run, its agents, and f_i as a function of (params, batch).
    start, params : the initial w, and the last sound one.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> gl.run(gl.Experiment(model="softmax", meta_lr=500.0), progress=False).message.partition("; ")[2]
    'lower meta_lr (now 500), for example to 0.4'
    """
    cause = _to_blame(experiment, federation, loss_fn, start, params)
    if cause == "meta_lr" and experiment.server_lr > 1:  # the server goes beyond where the agents are
        return f"lower server_lr (now {experiment.server_lr:g}), for example to 1"
    nu = experiment.nu if cause == "meta_lr" else 0

    def measured(params: Params, batch: Batch) -> torch.Tensor:
        return meta_loss(loss_fn, params, [batch] * nu, batch, fine_tune_lr=experiment.fine_tune_lr)

    def steepness(params: Params, batch: Batch) -> torch.Tensor:
        one = tree_map(lambda tensor: tensor.unsqueeze(0), (params, batch))
        return curvatures(measured, *one, iterations=8)[0]  # for the one digit that is said

    steepest = map_agents(steepness, start, first_picked(experiment, federation), execution="loop").max().item()
    now = getattr(experiment, cause)
    value = now / 10
    if 0 < steepest < math.inf:
        safe = largest_safe_fine_tune_lr(experiment.nu, steepest) if cause == "fine_tune_lr" else 1 / steepest
        value = min(now / 2, safe)
    return f"lower {cause} (now {now:g}), for example to {value:.1g}"


def _to_blame(experiment: Experiment, federation: Federation, loss_fn: LossFn, start: Params, params: Params) -> str:
    """Name the step size to lower: fine_tune_lr if fine-tuning makes a sane w worse, else meta_lr."""
    losses = partial(mean_loss, experiment, federation, loss_fn, params)
    before, after = losses(), losses(max(experiment.nu, *experiment.eval_steps))
    sane = limit_of(experiment, federation, loss_fn, start) / EXPLOSION
    return "fine_tune_lr" if before <= 2 * sane and not after <= before else "meta_lr"
