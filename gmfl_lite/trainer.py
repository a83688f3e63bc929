"""The FedAvg variant: local meta steps on the picked agents, then averaging.

In round k the server picks agents S_k; each starts from w_k, takes τ steps w ← w − β g_i(w), with g_i an estimate of
∇F_i; the server averages: w_{k+1} = Σ_{i ∈ S_k} p_i w_{i,τ}. ν = 0 is FedAvg and ν = 1 is Per-FedAvg.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from . import checks, randomness
from .federation import Federation
from .objective import LossFn, Params, factors_kept, meta_gradient, step

if TYPE_CHECKING:
    from .experiment import Experiment

CHUNK_ELEMENTS = 2**26
"""Numbers that the vectorised engine keeps at once (256 MB in float32); agents beyond that come in chunks."""


class Stopped(Exception):
    """Raised between two local steps when somebody has asked to stop."""


def local_update(
    loss_fn: LossFn,
    params: Params,
    batches: Iterable[tuple[list[Any], Any]],
    *,
    fine_tune_lr: float,
    meta_lr: float,
    stop: threading.Event | None = None,
    **estimate: Any,
) -> tuple[Params, torch.Tensor]:
    """Take one agent's local meta steps: w ← w − β g(w), one for each (support, query) in `batches`.

    Parameters
    ----------
    loss_fn : (params, batch) -> scalar tensor.
    params : the server's w; not changed.
    batches : τ pairs of ν support batches and a query batch.
    fine_tune_lr, meta_lr : α and β.
    stop : looked at before every step.
    estimate : of the meta-gradient: method, backprop_steps, delta, recompute, as in `meta_gradient`.

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
    losses = []
    for support, query in batches:
        if stop is not None and stop.is_set():
            raise Stopped
        gradient, loss = meta_gradient(loss_fn, params, support, query, fine_tune_lr=fine_tune_lr, **estimate)
        params = step(params, gradient, meta_lr)
        losses.append(loss)
    if not losses:
        raise ValueError("batches: must hold at least one (support, query), one for each local step")
    return params, torch.stack(losses)


def aggregate(updates: Params, weights: torch.Tensor | None = None) -> Params:
    """Average what the agents sent back: Σ_i p_i w_i.

    Parameters
    ----------
    updates : dict of tensors [agents, …].
    weights : non-negative [agents], scaled here to sum to one; None is the uniform average, which is what the
        objective (1/n) Σ_i F_i asks for.

    Raises
    ------
    ValueError : no tensors or agents, different numbers of agents, weights of another length, negative, or all zero.

    Examples
    --------
    >>> aggregate({"w": torch.tensor([[0.0], [1.0]])}, torch.tensor([1.0, 3.0]))
    {'w': tensor([0.7500])}
    """
    if not isinstance(updates, dict) or not updates:
        raise checks.refusal("updates", updates, "a non-empty dict of tensors [agents, …]")
    counts = {name: tensor.shape[:1] for name, tensor in updates.items()}
    n_agents = next(iter(counts.values()))
    if set(counts.values()) != {n_agents} or not n_agents or not n_agents[0]:
        found = {name: list(tensor.shape) for name, tensor in updates.items()}
        raise ValueError(f"updates: must have one leading axis of at least one agent in common, got shapes {found}")
    if weights is None:
        return {name: tensor.mean(0) for name, tensor in updates.items()}
    weights = torch.as_tensor(weights)
    if weights.shape != n_agents:
        raise ValueError(f"weights: must be one for each of the {n_agents[0]} agents, got shape {tuple(weights.shape)}")
    if not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < float("inf"):
        raise ValueError(f"weights: must be non-negative with a finite sum above 0, got {weights.tolist()}")
    averages = {}
    for name, tensor in updates.items():
        share = weights.to(tensor)
        averages[name] = torch.tensordot(share / share.sum(), tensor, dims=1)
    return averages


def train(
    experiment: "Experiment",
    federation: Federation,
    loss_fn: LossFn,
    params: Params,
    *,
    execution: str,
    start: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[tuple[int, Params, torch.Tensor]]:
    """Yield (rounds done, the server's w, meta-losses [picked agents, τ]) after every round from `start` on.

    A round depends only on the w it starts from and on (experiment.seed, round), so (round, w) is all there is to save.

    Parameters
    ----------
    experiment : step sizes, ν, gradient, rounds, agents_per_round, local_steps, batch_size, weighting and seed.
    federation, loss_fn, params : the agents, f_i as a function of (params, batch), and w at round `start`.
    execution : "vectorized" computes all picked agents at once, "loop" one after the other; they agree to rounding.
    stop : looked at before every local step.

    Raises
    ------
    Stopped : `stop` was set; the round that was under way is dropped.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> from gmfl_lite.experiment import build_federation
    >>> experiment = gl.Experiment(rounds=2, model="softmax")
    >>> federation = build_federation(experiment)
    >>> predict, w = gl.models.as_functions(gl.build_model("softmax", gl.load_dataset("digits")), "cpu")
    >>> loss_fn = gl.models.cross_entropy(predict)
    >>> for done, w, losses in train(experiment, federation, loss_fn, w, execution="loop"):
    ...     print(done, tuple(losses.shape))
    1 (10, 5)
    2 (10, 5)
    """
    kept = factors_kept(experiment.gradient, experiment.backprop_steps, experiment.nu)
    # Differentiating through a step keeps about three sets of an agent's parameters, recomputing it one
    # (benchmarks/RESULTS.md); recomputing is slower, but chunks of very few agents are slower still.
    recompute = agents_at_once(params, 3 * kept) < min(10, experiment.agents_per_round)
    update = partial(
        local_update,
        loss_fn,
        fine_tune_lr=experiment.fine_tune_lr,
        meta_lr=experiment.meta_lr,
        stop=stop,
        method=experiment.gradient,
        backprop_steps=experiment.backprop_steps,
        recompute=recompute,
    )
    chunk = agents_at_once(params, kept if recompute else 3 * kept) if execution == "vectorized" else 1
    for round in range(start, experiment.rounds):
        picked = pick_agents(federation, experiment.agents_per_round, experiment.seed, round)
        sent, losses = [], []
        for agents in picked.split(chunk):
            batches = federation.batches(
                agents,
                nu=experiment.nu,
                local_steps=experiment.local_steps,
                batch_size=experiment.batch_size,
                seed=experiment.seed,
                round=round,
            )
            updated, loss = map_agents(update, params, batches, execution=execution)
            sent.append(updated)
            losses.append(loss)
        weights = federation.train_sizes[picked] if experiment.weighting == "samples" else None
        params = aggregate({name: torch.cat([part[name] for part in sent]) for name in params}, weights)
        yield round + 1, params, torch.cat(losses)


def pick_agents(federation: Federation, agents_per_round: int, seed: int, round: int) -> torch.Tensor:
    """Return the agents of a round, drawn uniformly without replacement from those that train."""
    n_agents = torch.tensor(federation.n_agents, device=federation.x.device)
    key = randomness.keys(seed, "picks", round, torch.zeros_like(n_agents))
    return randomness.choose(key, n_agents, agents_per_round, federation.n_agents)


def map_agents(function: Callable[..., Any], params: Params, data: Any, *, execution: str) -> Any:
    """Apply function(params, one agent's data) to every agent and stack the results along a leading agents axis."""
    if execution == "vectorized":
        return torch.func.vmap(function, in_dims=(None, 0))(params, data)
    n_agents = len(tree_leaves(data)[0])
    results = [function(params, tree_map(lambda tensor: tensor[agent], data)) for agent in range(n_agents)]  # noqa: B023
    return tree_map(lambda *tensors: torch.stack(tensors), *results)


def agents_at_once(params: Params, copies: int) -> int:
    """Return how many agents the vectorised engine takes in one chunk if each keeps `copies` + 2 sets of parameters."""
    return max(1, CHUNK_ELEMENTS // (sum(tensor.numel() for tensor in params.values()) * (copies + 2)))
