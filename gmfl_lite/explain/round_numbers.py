"""One round of a run, measured step by step: every number comes from the functions that training itself calls."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..aggregation import AGGREGATIONS, aggregate
from ..basics import checks
from ..engine import build_engine, estimate_settings, modestly, one_step
from ..experiment import Experiment, build_federation
from ..federation import Batch, Federation
from ..meta_gradients import factors_kept, meta_gradient
from ..models import build_model, moving
from ..modules import Objective, objective_of
from ..objective import Params, fine_tune, norm
from ..server import check_round
from ..trainer import batches_of, limit_of, picked_in, train

if TYPE_CHECKING:
    from ..engine.local_step import OneStep

LIMITS = {"agents_per_round": 12, "nu": 10, "local_steps": 10}
"""More than this is no picture that a reader can follow."""

CHAINS = {"exact": "exact", "truncated": "exact", "first_order": "exact", "hessian_free": "hessian_free"}
"""Gradients that go back through the fine-tuning steps: gradient -> the method that gives it from w⁽ʲ⁾ on."""


@dataclass(frozen=True, eq=False)
class LocalStep:
    """A local step of an agent, w ← w − β g.

    Attributes
    ----------
    support : f_i(w⁽ʲ⁾) on the batch of fine-tuning step j + 1, j = 0 … ν − 1.
    query : f_i(w⁽ʲ⁾) on the query batch, j = 0 … ν; the last one is F_i(w).
    back : ‖v⁽ᵛ⁾‖, ‖v⁽ᵛ⁻¹⁾‖, …, as far back as the gradient goes; empty where it does not go back.
    gradient : ‖g‖, the gradient that the step takes.
    displacement : ‖w − the server's w‖ after the step.
    """

    support: list[float]
    query: list[float]
    back: list[float]
    gradient: float
    displacement: float


@dataclass(frozen=True, eq=False)
class Round:
    """What happened in a round.

    Attributes
    ----------
    experiment, federation, number : the setting, the agents, and the round, counted from 0.
    w, average, after : the server's w, the average of what came back, and the server's next w.
    picked : the agents' numbers, in the order in which they are picked.
    weights : how much each of them counts in the average, before scaling to a sum of one.
    steps : for each of them, its τ local steps.
    updates : what came back, a dict of tensors [agents, …].
    walks : where each agent is on its way, seen from the server's w: in every local step w⁽¹⁾ … w⁽ᵛ⁾ and then w_i, a
        tensor [agents, τ, ν + 1, parameters].
    """

    experiment: Experiment
    federation: Federation
    number: int
    w: Params
    average: Params
    after: Params
    picked: list[int]
    weights: torch.Tensor
    steps: list[list[LocalStep]] = field(repr=False)
    updates: Params = field(repr=False)
    walks: torch.Tensor = field(repr=False)

    def inner_products(self) -> torch.Tensor:
        """Return ⟨w_i − w, w_k − w⟩ of all pairs [agents, agents], float64: what any average's displacement is made of.

        ‖Σ_i p_i w_i − w‖² = Σ_i Σ_k p_i p_k ⟨w_i − w, w_k − w⟩ where the p_i sum to one.
        """
        away = [(sent.double() - self.w[name].double()).flatten(1) for name, sent in self.updates.items()]
        return sum((part @ part.T for part in away), torch.zeros((), dtype=torch.float64))

    def plane(self) -> tuple[torch.Tensor, float]:
        """Return the walks in the plane that holds most of the updates, and the share of their squared lengths in it.

        The plane's axes are the two main directions of the updates; the walks there are [agents, τ, ν + 1, 2], float64.
        """
        values, vectors = torch.linalg.eigh(self.inner_products())
        values, vectors = values.flip(0)[:2].clamp(min=0), vectors.flip(1)[:, :2]
        # An eigenvector's sign is free; this makes it the same on every machine.
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        updates, lengths = self.walks[:, -1, -1].double(), values.sqrt()
        # A main direction is a sum of updates, Σ_i vectors_i (w_i − w), scaled to a length of one.
        axes = updates.T @ torch.where(lengths > 1e-9 * lengths[0], vectors / lengths, 0)
        seen = torch.zeros(*self.walks.shape[:-1], 2, dtype=axes.dtype)
        for place, walk in enumerate(self.walks):  # one after the other: there may be many parameters
            seen[place, ..., : axes.shape[1]] = walk.double() @ axes
        total = updates.square().sum()
        return seen, 1.0 if total == 0 else (values.sum() / total).clamp(max=1).item()


@modestly
def measure_round(experiment: Experiment, federation: Federation | None, model: nn.Module | None, round: int) -> Round:
    """Train up to a round, and take that one step by step.

    Raises
    ------
    ValueError : wrong arguments, or more agents, fine-tuning or local steps than a picture can show.
    FloatingPointError : the run has diverged by then.
    """
    for name, fits, value, allowed in (
        ("experiment", isinstance(experiment, Experiment), experiment, "an Experiment"),
        ("federation", isinstance(federation, Federation | None), federation, "a Federation or None"),
        ("model", isinstance(model, nn.Module | None), model, "a torch.nn.Module or None"),
    ):
        if not fits:
            raise checks.refusal(name, value, allowed)
    round = checks.integer("round", round, 0, experiment.rounds - 1)
    for name, most in LIMITS.items():
        if getattr(experiment, name) > most:
            raise checks.refusal(name, getattr(experiment, name), f"at most {most} in a picture of one round")
    if not AGGREGATIONS[experiment.aggregation].adds_up:
        raise checks.refusal("aggregation", experiment.aggregation, "'average' in a picture of one round")
    federation = (build_federation(experiment) if federation is None else federation).in_precision(experiment.precision)
    if federation.n_agents < experiment.agents_per_round:
        allowed = f"at most the federation's n_agents = {federation.n_agents}"
        raise checks.refusal("agents_per_round", experiment.agents_per_round, allowed)
    federation.check_query(experiment.query)
    if model is None:
        model = build_model(experiment.model, federation, seed=experiment.seed)
    loss_fn, w = objective_of(model, federation)
    engine = build_engine(experiment, federation, loss_fn, w)
    limit = limit_of(experiment, federation, loss_fn, w)
    if round:
        before = experiment.replace(rounds=round)
        for _, later, _ in train(before, federation, loss_fn, w, engine=engine, limit=limit):
            w = later
    picked = picked_in(round, experiment, federation)
    one = one_step(loss_fn, None, **estimate_settings(experiment, w))
    steps, sent = [], []
    shape = (len(picked), experiment.local_steps, experiment.nu + 1, _flat(w).numel())
    walks = torch.empty(shape, dtype=_flat(w).dtype)
    for place, agent in enumerate(picked.tolist()):
        taken, w_i = [], w
        for t, (support, query) in enumerate(batches_of(agent, experiment, federation, round)):
            step, tuned, w_i = _local_step(experiment, loss_fn, one, w, w_i, support, query)
            taken.append(step)
            for j, point in enumerate((*tuned, w_i)):
                walks[place, t, j] = _flat(point) - _flat(w)
        steps.append(taken)
        sent.append(w_i)
    updates = {name: torch.stack([w_i[name] for w_i in sent]) for name in w}
    sizes = federation.train_sizes[picked]
    weights = sizes if experiment.weighting == "samples" else torch.ones_like(sizes)
    average = aggregate(updates, weights)
    after = engine.server_step(w, average)
    mean = torch.tensor([step.query[-1] for taken in steps for step in taken]).mean().item()
    check_round(mean, after, limit)
    return Round(experiment, federation, round, w, average, after, picked.tolist(), weights, steps, updates, walks)


def _flat(params: Params) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in params.values()])


def _local_step(
    experiment: Experiment,
    loss_fn: Objective,
    one: "OneStep",
    start: Params,
    w: Params,
    support: list[Batch],
    query: Batch,
) -> tuple[LocalStep, list[Params], Params]:
    """Return the numbers of one local step from w, the fine-tuned w⁽¹⁾ … w⁽ᵛ⁾, and where it leads."""
    lr, part = experiment.fine_tune_lr, moving(w, experiment.personal)
    points = [w]
    for batch in support:
        points.append(fine_tune(loss_fn, points[-1], [batch], lr, moving=part))
    kept = factors_kept(experiment.gradient, experiment.backprop_steps, len(support))
    back, method = [], CHAINS.get(experiment.gradient)
    if method is not None:
        for j in range(len(support), len(support) - kept - 1, -1):  # v⁽ʲ⁾ is the gradient of what is left from w⁽ʲ⁾ on
            v, _ = meta_gradient(loss_fn, points[j], support[j:], query, fine_tune_lr=lr, method=method, moving=part)
            back.append(norm(v).item())
    gradient, _ = meta_gradient(
        loss_fn,
        w,
        support,
        query,
        fine_tune_lr=lr,
        method=experiment.gradient,
        backprop_steps=experiment.backprop_steps,
        moving=part,
    )
    after, _ = one(w, start, {}, support, query)
    step = LocalStep(
        support=[loss_fn(point, batch).item() for point, batch in zip(points, support, strict=False)],
        query=[loss_fn(point, query).item() for point in points],
        back=back,
        gradient=norm(gradient).item(),
        displacement=norm({name: after[name] - start[name] for name in start}).item(),
    )
    return step, points[1:], after
