"""A real run next to its bound: what Theorem 3 is about, measured in every round."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.func import vmap

from ..aggregation import AGGREGATIONS
from ..basics import checks
from ..engine import estimate_settings, modestly
from ..experiment import Experiment, build_federation
from ..federation import Batch, Federation
from ..meta_gradients import meta_gradient
from ..models import build_model
from ..objective import LossFn, Params, meta_loss
from ..trainer import local_update, train
from . import bounds
from .of_a_model import objective_of
from .spectrum import curvatures


@dataclass(frozen=True, eq=False)
class Observation:
    """What `observe` measured along w_0, …, w_K.

    Attributes
    ----------
    experiment : the run.
    n_agents : n, the agents that train.
    squares : ‖∇F(w_k)‖² [K].
    losses : F(w_k) [K + 1].
    heterogeneity : γ_F(w_k)² [K].
    bias : b² [K], the mean over agents of the largest ‖g_i − ∇F_i‖² in the round's local steps.
    meta_smoothness : L_F, the largest ‖∇²F_i‖ of any agent i at w_k and where its own local steps from there end, in
        every evaluated round k = 0, eval_every, … and in the last one. The bounds ask for it between these points too;
        as it is measured where agents are furthest from w_k, it is off only as far as it rises and falls in between.
        It takes longer than all the rest, and is measured when it is first asked for.
    """

    experiment: Experiment
    n_agents: int
    squares: np.ndarray
    losses: np.ndarray
    heterogeneity: np.ndarray
    bias: np.ndarray
    _measure: "_Measure" = field(repr=False)
    _evaluated: tuple[Params, ...] = field(repr=False)

    @cached_property
    @modestly
    def meta_smoothness(self) -> float:
        return max(self._measure.steepest(w) for w in self._evaluated)


@modestly
def observe(
    experiment: Experiment, *, federation: Federation | None = None, model: nn.Module | None = None
) -> Observation:
    """Train as `gmfl_lite.train` does and measure, in every round, what the bounds speak of.

    F_i is the meta-loss on all of agent i's training samples, so that the run must use them all: batch_size None. And
    F is the plain mean of all F_i, so that the server must average likewise: weighting "uniform".

    Parameters
    ----------
    experiment : the run.
    federation, model : replace what the experiment would build.

    Raises
    ------
    ValueError : batch_size is not None, weighting is "samples", an aggregation that is no mean, a server that does not
        take the average itself, a method that the bounds do not know, or an unsuitable model.
    Diverged (a FloatingPointError) : as `gmfl_lite.train`.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(model="softmax", n_agents=4, n_new_agents=0, agents_per_round=4, rounds=5,
    ...                            batch_size=None, local_steps=1, meta_lr=0.3, device="cpu")
    >>> seen = observe(experiment)
    >>> bool((seen.losses[1:] < seen.losses[:-1]).all()), float(seen.bias.max())
    (True, 0.0)
    """
    if experiment.batch_size is not None:
        raise checks.refusal("batch_size", experiment.batch_size, "None: the bounds are compared with full batches")
    if experiment.weighting != "uniform":
        raise checks.refusal("weighting", experiment.weighting, "'uniform': the bounds speak of the agents' plain mean")
    if not AGGREGATIONS[experiment.aggregation].adds_up:
        raise checks.refusal("aggregation", experiment.aggregation, "'average': the bounds speak of the agents' mean")
    if (experiment.server, experiment.server_lr) != ("average", 1.0):
        found = f"{experiment.server!r} with server_lr = {experiment.server_lr:g}"
        raise ValueError(f"server = {found}: must be 'average' with server_lr = 1: the bounds know no other step")
    for name, known, why in (
        ("proximal", 0, "the bounds know no other local step"),
        ("query", "independent", "the bounds speak of one loss for fine-tuning and after it"),
        ("personal", "all", "the bounds know no fine-tuning of a part"),
    ):
        if getattr(experiment, name) != known:
            raise checks.refusal(name, getattr(experiment, name), f"{known!r}: {why}")
    federation = build_federation(experiment) if federation is None else federation.in_precision(experiment.precision)
    model = build_model(experiment.model, federation, seed=experiment.seed) if model is None else model
    loss_fn, w = objective_of(model, federation)
    measure = _Measure(experiment, loss_fn, federation.train_sets(federation.groups["trained"]))
    visited = [w, *(later for _, later, _ in train(experiment, federation, measure.loss_fn, w))]
    rows = [measure.at(point) for point in visited[:-1]]
    squares, losses, heterogeneity, bias = (np.array(column) for column in zip(*rows, strict=True))
    evaluated = sorted({*range(0, experiment.rounds, experiment.eval_every), experiment.rounds - 1})
    return Observation(
        experiment,
        federation.n_agents,
        squares,
        np.append(losses, measure.at(visited[-1])[1]),
        heterogeneity,
        bias,
        measure,
        tuple(visited[k] for k in evaluated),
    )


def beside_bound(observations: Sequence[Observation]) -> pd.DataFrame:
    """Return the mean of ‖∇F(w_k)‖² over the first K rounds, and the bound of Theorem 3 with measured constants.

    Parameters
    ----------
    observations : runs that differ in their seed, over which expectations are taken.

    Returns
    -------
    DataFrame : for K = 1, 2, …: measured, transient, drift, bias, noise, sampling and total.

    Raises
    ------
    ValueError : no runs, runs that differ in more than their seed, or βτL_F above ½.
    """
    if len({(seen.experiment.replace(seed=0), seen.n_agents) for seen in observations}) != 1:
        raise checks.refusal("observations", len(observations), "at least one run, all equal but for their seed")
    experiment = observations[0].experiment
    K = np.arange(1, experiment.rounds + 1)

    def so_far(name: str) -> np.ndarray:
        return np.mean([getattr(seen, name) for seen in observations], axis=0).cumsum() / K

    losses = np.mean([seen.losses for seen in observations], axis=0)
    bound = bounds.convergence_bound(
        rounds=K,
        local_steps=experiment.local_steps,
        meta_lr=experiment.meta_lr,
        meta_smoothness=max(seen.meta_smoothness for seen in observations),
        initial_gap=np.maximum(losses[0] - losses[1:], 0),
        n_agents=observations[0].n_agents,
        agents_per_round=experiment.agents_per_round,
        meta_heterogeneity=np.sqrt(so_far("heterogeneity")),
        meta_bias=np.sqrt(so_far("bias")),
    )
    return pd.DataFrame({"measured": so_far("squares"), **vars(bound)}, index=pd.Index(K, name="rounds"))


class _Measure:
    """Full-batch quantities of all agents at a point."""

    def __init__(self, experiment: Experiment, loss_fn: LossFn, batches: Batch) -> None:
        self.experiment, self.loss_fn, self.batches = experiment, loss_fn, batches

    def at(self, w: Params) -> tuple[float, float, float, float]:
        """Return ‖∇F(w)‖², F(w), γ_F(w)² and b²."""
        points = self.everywhere(w)
        exact, loss = self.gradients(points, "exact")
        mean = exact.mean(0)
        return (mean @ mean).item(), loss, (exact - mean).square().sum(1).mean().item(), self.bias(points, exact)

    def bias(self, points: Params, exact: torch.Tensor) -> float:
        if self.experiment.gradient == "exact":
            return 0.0
        errors = []
        for t in range(self.experiment.local_steps):
            if t:
                points = vmap(self.local_step)(points, self.batches)
                exact, _ = self.gradients(points, "exact")
            used, _ = self.gradients(points, self.experiment.gradient, self.experiment.backprop_steps)
            errors.append((used - exact).square().sum(1))
        return torch.stack(errors).max(0).values.mean().item()

    def gradients(self, points: Params, method: str, backprop_steps: int | None = None) -> tuple[torch.Tensor, float]:
        """Return every agent's meta-gradient at its own point [n, d], and the mean of the meta-losses."""

        def one(p: Params, batch: Batch) -> tuple[Params, torch.Tensor]:
            return meta_gradient(
                self.loss_fn, p, [batch] * self.experiment.nu, batch, method=method, backprop_steps=backprop_steps,
                fine_tune_lr=self.experiment.fine_tune_lr,
            )  # fmt: skip

        gradients, losses = vmap(one)(points, self.batches)
        return torch.cat([g.flatten(1) for g in gradients.values()], 1).double(), losses.double().mean().item()

    def local_step(self, p: Params, batch: Batch) -> Params:
        experiment = self.experiment
        steps = [([batch] * experiment.nu, batch)]
        return local_update(self.loss_fn, p, steps, **estimate_settings(experiment, p))[0]

    def steepest(self, w: Params) -> float:
        """Return the largest ‖∇²F_i‖ at w and where the agents' local steps end."""
        experiment, points = self.experiment, self.everywhere(w)

        def f_nu(p: Params, batch: Batch) -> torch.Tensor:
            return meta_loss(self.loss_fn, p, [batch] * experiment.nu, batch, fine_tune_lr=experiment.fine_tune_lr)

        def largest(points: Params) -> float:
            return curvatures(f_nu, points, self.batches).max().item()

        at_w = largest(points)
        for _ in range(experiment.local_steps):
            points = vmap(self.local_step)(points, self.batches)
        return max(at_w, largest(points))

    def everywhere(self, w: Params) -> Params:
        """Return w for every agent [n, …]."""
        n = len(self.batches[0])
        return {name: tensor.expand(n, *tensor.shape) for name, tensor in w.items()}
