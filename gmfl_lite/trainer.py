"""The FedAvg variant: local meta steps on the picked agents, then averaging.

In round k the server picks agents S_k; each starts from w_k, takes τ steps w ← w − β g_i(w), with g_i an estimate of
∇F_i; the server averages: w_{k+1} = Σ_{i ∈ S_k} p_i w_{i,τ}. ν = 0 is FedAvg and ν = 1 is Per-FedAvg.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils._pytree import tree_leaves, tree_map

from .basics import checks, randomness
from .engine.agents_axis import agents_at_once, chunks, map_agents
from .engine.recording import capture
from .engine.threads_and_memory import prepare_process
from .federation import Federation
from .objective import LossFn, Params, factors_kept, meta_gradient, step

if TYPE_CHECKING:
    from .experiment import Experiment

RECORDED_FROM = 150
"""Local steps of a whole run from which on the vectorised engine records them (gmfl_lite.capture)."""


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
    local_step = partial(_local_step, loss_fn, fine_tune_lr=fine_tune_lr, meta_lr=meta_lr, **estimate)
    return _local_steps(local_step, params, batches, stop)


def _local_step(
    loss_fn: LossFn, params: Params, support: list[Any], query: Any, *, meta_lr: float, **estimate: Any
) -> tuple[Params, torch.Tensor]:
    gradient, loss = meta_gradient(loss_fn, params, support, query, **estimate)
    return step(params, gradient, meta_lr), loss


def _local_steps(
    local_step: Callable[..., tuple[Params, torch.Tensor]],
    params: Params,
    batches: Iterable[tuple[list[Any], Any]],
    stop: threading.Event | None,
) -> tuple[Params, torch.Tensor]:
    losses = []
    for support, query in batches:
        _look_at(stop)
        params, loss = local_step(params, support, query)
        losses.append(loss)
    if not losses:
        raise ValueError("batches: must hold at least one (support, query), one for each local step")
    return params, torch.stack(losses, -1)


def _look_at(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped


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
    return _weighted_mean(updates, weights)


def _weighted_mean(updates: Params, weights: torch.Tensor) -> Params:
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
    engine: "Engine | None" = None,
    start: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[tuple[int, Params, torch.Tensor]]:
    """Yield (rounds done, the server's w, meta-losses [picked agents, τ]) after every round from `start` on.

    A round depends only on the w it starts from and on (experiment.seed, round), so (round, w) is all there is to save.

    Parameters
    ----------
    experiment : step sizes, ν, gradient, rounds, agents_per_round, local_steps, batch_size, weighting and seed.
    federation, loss_fn, params : the agents, f_i as a function of (params, batch), and w at round `start`.
    engine : computes the picked agents' local updates; by default what `build_engine` gives.
    stop : looked at before every local step.

    Raises
    ------
    Stopped : `stop` was set; the round that was under way is dropped.

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
    engine = engine or build_engine(experiment, federation, loss_fn, params)
    for round in range(start, experiment.rounds):
        picked = pick_agents(federation, experiment.agents_per_round, experiment.seed, round)
        average, total, losses = None, 0, []
        for agents in chunks(engine.share(picked), engine.agents_at_once):
            batches = federation.batches(
                agents,
                nu=experiment.nu,
                local_steps=experiment.local_steps,
                batch_size=experiment.batch_size,
                seed=experiment.seed,
                round=round,
            )
            updates, loss = engine.update(params, batches, stop)
            sizes = federation.train_sizes[agents]
            weights = sizes if experiment.weighting == "samples" else torch.ones_like(sizes)
            average, total = _average_with(average, total, updates, weights)
            losses.append(loss)
        params = engine.average(average, total)
        yield round + 1, params, engine.gather(torch.cat(losses))


def _average_with(
    average: Params | None, total: torch.Tensor | int, updates: Params, weights: torch.Tensor
) -> tuple[Params, torch.Tensor]:
    """Return the average of all agents so far and their weight, so that only one chunk of them is in memory."""
    mean, weight = _weighted_mean(updates, weights), weights.sum()
    if average is None:
        return mean, weight
    total = total + weight
    return {name: torch.lerp(average[name], mean[name], (weight / total).to(mean[name])) for name in mean}, total


class Engine(Protocol):
    """Computes local updates: of `agents_at_once` agents together, from batches with a leading agents axis.

    The last three say how the agents are shared among processes (gmfl_lite.distributed); here one has them all.
    """

    execution: str
    agents_at_once: int

    def update(self, params: Params, batches: Any, stop: threading.Event | None) -> tuple[Params, torch.Tensor]: ...

    def share(self, agents: torch.Tensor) -> torch.Tensor:
        """Return those of the agents that this process computes, at least one."""
        return agents

    def average(self, params: Params, weight: torch.Tensor) -> Params:
        """Return the average over all processes of this one's, whose agents weigh `weight` in all."""
        return params

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all agents, of which this process has those of its share."""
        return rows


class Loop(Engine):
    """One agent after the other: what a student reads."""

    execution, agents_at_once = "loop", 1

    def __init__(self, experiment: "Experiment", loss_fn: LossFn) -> None:
        self.update_one = partial(local_update, loss_fn, check_finite=False, **estimate_settings(experiment))

    def update(self, params: Params, batches: Any, stop: threading.Event | None) -> tuple[Params, torch.Tensor]:
        return map_agents(partial(self.update_one, stop=stop), params, batches, execution="loop")

    def __str__(self) -> str:
        return "loop: one agent after the other, as execution asks"


class Vectorized(Engine):
    """A chunk of agents at once, each local step one batched computation, recorded if it is repeated often."""

    execution = "vectorized"

    def __init__(
        self, experiment: "Experiment", loss_fn: LossFn, params: Params, example: Any, compiled: bool = False
    ) -> None:
        kept = factors_kept(experiment.gradient, experiment.backprop_steps, experiment.nu)
        most = partial(agents_at_once, loss_fn, params, example)
        # Differentiating through a step keeps about three sets of an agent's numbers, recomputing it one, which takes
        # longer (benchmarks/RESULTS.md): only where not even one agent fits otherwise.
        recompute = most(3 * kept + 2) < 1
        self.agents_at_once = max(1, most((1 if recompute else 3) * kept + 2))
        parts = math.ceil(experiment.agents_per_round / self.agents_at_once)
        settings = {"recompute": recompute, "check_finite": False, **estimate_settings(experiment)}
        one = partial(_local_step, loss_fn, **settings)
        alone = parts == experiment.agents_per_round
        self.local_step = partial(_alone, one) if alone else torch.func.vmap(one)
        # A recording merges what is recomputed to save memory. Whether to record is decided by the whole run's length,
        # so that a resumed run does what an uninterrupted one does.
        steps = experiment.rounds * experiment.local_steps * parts
        self.records, self.compiled = not recompute and steps >= RECORDED_FROM, compiled
        self.why = [
            "all picked agents at once" if parts == 1
            else f"at most {self.agents_at_once} agents at once, which memory is meant for" if not alone
            else "one agent at a time, as each keeps more numbers than caches hold" if not recompute
            else "one agent at a time and its steps recomputed, as memory is meant for no more",
            f"recorded, as {steps} local steps repay it" if self.records
            else f"not recorded, as {steps} local steps do not repay it",
        ]  # fmt: skip
        self.recordings: dict[int, Callable[..., tuple[Params, torch.Tensor]]] = {}

    def update(self, params: Params, batches: Any, stop: threading.Event | None) -> tuple[Params, torch.Tensor]:
        agents = len(tree_leaves(batches)[0])
        # Contiguous, as the parameters will be from the second step on: a recording is made for that layout.
        params = {name: tensor.expand(agents, *tensor.shape).contiguous() for name, tensor in params.items()}
        if self.records and agents not in self.recordings:
            self.recordings[agents] = capture(
                self.local_step, params, *batches[0], look_up=partial(_look_at, stop), compiled=self.compiled
            )
        return _local_steps(self.recordings.get(agents, self.local_step), params, batches, stop)

    def __str__(self) -> str:
        return "vectorized: " + "; ".join(self.why) + "; compiled" * (self.records and self.compiled)


def _alone(local_step: Callable[..., Any], *arguments: Any) -> Any:
    """Do what vmap does, for a leading agents axis of length one, where it only costs time."""
    results = local_step(*tree_map(lambda tensor: tensor[0], arguments))
    return tree_map(lambda tensor: tensor.unsqueeze(0), results)


def build_engine(
    experiment: "Experiment", federation: Federation, loss_fn: LossFn, params: Params, *, compiled: bool = False
) -> Engine:
    """Return the engine that experiment.execution names; "auto" is the vectorised one.

    Measured (benchmarks/RESULTS.md), it is the faster one for every model: by far for small products, where a loop
    spends its time between them. Where products are large on a CPU it takes one agent at a time itself.

    `compiled` hands its recording of the local step on to torch.compile, which takes half a minute or more:
    gmfl_lite.run(experiment, engine=partial(build_engine, compiled=True)). On a CPU it halves the time of a small step
    and leaves a large one as it is; on a GPU it has not been tried.
    """
    prepare_process()
    if experiment.execution == "loop":
        return Loop(experiment, loss_fn)
    everything = federation.train_sets(torch.zeros(1, dtype=torch.int64, device=federation.x.device))
    example = tuple(tensor[:, : experiment.batch_size] for tensor in everything)
    return Vectorized(experiment, loss_fn, params, example, compiled)


def estimate_settings(experiment: "Experiment") -> dict[str, Any]:
    return {
        "fine_tune_lr": experiment.fine_tune_lr,
        "meta_lr": experiment.meta_lr,
        "method": experiment.gradient,
        "backprop_steps": experiment.backprop_steps,
    }


def pick_agents(federation: Federation, agents_per_round: int, seed: int, round: int) -> torch.Tensor:
    """Return the agents of a round, drawn uniformly without replacement from those that train."""
    n_agents = torch.full((), federation.n_agents, device=federation.x.device)
    key = randomness.keys(seed, "picks", round, torch.zeros_like(n_agents))
    return randomness.choose(key, n_agents, agents_per_round, federation.n_agents)
