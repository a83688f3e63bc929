"""The FedAvg variant: local meta steps on the picked agents, then averaging.

In round k the server picks agents S_k; each starts from w_k, takes τ steps w ← w − β g_i(w), with g_i an estimate of
∇F_i; the server averages and steps: w_{k+1} = step(w_k, Σ_{i ∈ S_k} p_i w_{i,τ}), which for FedAvg is the average
itself. ν = 0 is FedAvg and ν = 1 is Per-FedAvg. gmfl_lite.by_hand has all of it on one page.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from .aggregation import AGGREGATIONS, Gathered
from .basics import checks
from .data import loss_of_guessing
from .engine import (
    Engine,
    LocalStep,
    build_engine,
    computing_with,
    in_order,
    look_at,
    most_kept,
    one_step,
    parts,
    take_steps,
)
from .federation import Batch, Federation
from .objective import LossFn, Params
from .server import loss_limit, pick_agents

if TYPE_CHECKING:
    from .experiment import Experiment


def local_update(
    loss_fn: LossFn,
    params: Params,
    batches: Iterable[tuple[list[Any], Any]],
    *,
    fine_tune_lr: float,
    meta_lr: float,
    proximal: float = 0.0,
    local_step: LocalStep | None = None,
    own: Params | None = None,
    stop: threading.Event | None = None,
    **estimate: Any,
) -> tuple[Params, torch.Tensor]:
    """Take one agent's local meta steps: w ← w − β (g(w) + μ (w − start)), one for each (support, query) in `batches`.

    Parameters
    ----------
    loss_fn : (params, batch) -> scalar tensor.
    params : the server's w; not changed.
    batches : τ pairs of ν support batches and a query batch.
    fine_tune_lr, meta_lr : α and β.
    proximal : μ, which draws the agent back to the server's w (FedProx: Li et al., MLSys 2020).
    local_step : what to do with a gradient g in place of w − β g: (w, g, start, own) -> the next w, `start` being
        the server's w and `own` what this agent keeps.
    stop : looked at before every step.
    estimate : of the meta-gradient: method, backprop_steps, delta, recompute, check_finite, as in `meta_gradient`.

    Returns
    -------
    (params, losses) : the agent's w after τ steps, and the meta-loss [τ] before each of them.

    Raises
    ------
    Stopped : `stop` was set.
    ValueError : no batches, or a wrong value, as in `meta_gradient`.

    Examples
    --------
    >>> half_square = lambda params, batch: 0.5 * (params["w"] ** 2).sum()
    >>> batches = [([None], None), ([None], None)]  # τ = 2, ν = 1
    >>> local_update(half_square, {"w": torch.ones(1)}, batches, fine_tune_lr=0.5, meta_lr=1.0)
    ({'w': tensor([0.5625])}, tensor([0.1250, 0.0703]))
    """
    meta_lr = checks.number("meta_lr", meta_lr, 0)
    proximal = checks.number("proximal", proximal, 0)
    one = one_step(loss_fn, local_step, fine_tune_lr=fine_tune_lr, meta_lr=meta_lr, proximal=proximal, **estimate)
    return take_steps(one, params, params, own or {}, batches, stop)


def train(
    experiment: "Experiment",
    federation: Federation,
    loss_fn: LossFn,
    params: Params,
    *,
    engine: Engine | None = None,
    start: int = 0,
    limit: float | None = None,
    stop: threading.Event | None = None,
) -> Iterator[tuple[int, Params, torch.Tensor]]:
    """Yield (rounds done, the server's w, meta-losses [picked agents, τ]) after every round from `start` on.

    A round depends only on the w it starts from, on what the engine keeps and on (experiment.seed, round), so
    (round, w, engine.state()) is all there is to save.

    Parameters
    ----------
    experiment : step sizes, ν, gradient, rounds, agents_per_round, local_steps, batch_size, weighting, aggregation,
        server and seed.
    federation, loss_fn, params : the agents, f_i as a function of (params, batch), and w at round `start`.
    engine : computes the picked agents' local updates; by default what `build_engine` gives.
    limit : the mean meta-loss beyond which a round has diverged; by default `limit_of` w, so give that of the first w
        if you continue from a later one.
    stop : looked at before every local step.

    Raises
    ------
    Stopped : `stop` was set; the round that was under way is dropped.
    Diverged (a FloatingPointError) : the meta-loss exploded, or the parameters are not finite.
    ValueError : an aggregation that needs all updates of a round at once, and more agents than fit into memory.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(rounds=2, model="softmax")
    >>> federation = gl.build_federation(experiment)
    >>> predict, w = gl.models.as_functions(gl.build_model("softmax", federation), "cpu")
    >>> loss_fn = gl.models.cross_entropy(predict)
    >>> for done, w, losses in train(experiment, federation, loss_fn, w):
    ...     print(done, tuple(losses.shape))
    1 (10, 5)
    2 (10, 5)
    """
    engine = build_engine(experiment, federation, loss_fn, params) if engine is None else engine
    limit = limit_of(experiment, federation, loss_fn, params, stop) if limit is None else limit
    most, how = most_kept(params), experiment.aggregation
    if experiment.agents_per_round > most and not AGGREGATIONS[how].adds_up:
        allowed = f"at most {most} with aggregation={how!r}, for which a round's updates are all kept in memory"
        raise checks.refusal("agents_per_round", experiment.agents_per_round, allowed)
    for round in range(start, experiment.rounds):
        with computing_with(engine.threads):
            picked = picked_in(round, experiment, federation)
            mine, gathered, losses = engine.share(picked), Gathered(how, params), []
            for some in parts(federation.alike(mine, experiment.batch_size, experiment.query), engine.at_once):
                agents = mine[some]
                batches = batches_of(agents, experiment, federation, round)
                updates, loss = engine.update(params, batches, agents, stop)
                sizes = federation.train_sizes[agents]
                gathered.add(updates, sizes if experiment.weighting == "samples" else torch.ones_like(sizes))
                losses.append((some, loss))
            params = engine.server_step(params, engine.combine(gathered))
            everyone = engine.gather(in_order(losses))
            if not everyone.is_meta:  # there are no values to look at on that device
                engine.check(everyone, params, limit)
        yield round + 1, params, everyone


def batches_of(
    agents: torch.Tensor | int, experiment: "Experiment", federation: Federation, round: int
) -> Iterable[tuple[list[Batch], Batch]]:
    """Return a round's τ pairs (support, query), drawn on the way: of several agents, [agents, batch, …], or of one."""
    several = torch.as_tensor(agents, device=federation.x.device)
    batches = federation.batches(
        several.reshape(-1),
        nu=experiment.nu,
        local_steps=experiment.local_steps,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        round=round,
        query=experiment.query,
    )
    return batches if several.ndim else (tree_map(lambda tensor: tensor[0], pair) for pair in batches)


def limit_of(
    experiment: "Experiment",
    federation: Federation,
    loss_fn: LossFn,
    params: Params,
    stop: threading.Event | None = None,
) -> float:
    """Return the mean meta-loss beyond which a round that started from w has diverged (`loss_limit`).

    It is measured on all training samples of the agents of the first round; `stop` is looked at before each of them.
    """
    losses = []
    for agent in picked_in(0, experiment, federation).split(1):  # all at once would take more memory than training
        look_at(stop)
        losses.append(loss_fn(params, tree_map(lambda tensor: tensor[0], federation.train_sets(agent))))
    mean = torch.stack(losses).mean()
    return loss_limit(loss_of_guessing(federation), 0.0 if mean.is_meta else mean.item())


def picked_in(round: int, experiment: "Experiment", federation: Federation) -> torch.Tensor:
    """Return the agents of a round."""
    return pick_agents(federation.n_agents, experiment.agents_per_round, experiment.seed, round, federation.x.device)
