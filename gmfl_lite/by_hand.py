"""The whole algorithm on one page, for reading: no engine, no recording, one agent after the other."""

import torch
from torch import nn
from torch.func import grad

from .aggregation import aggregate
from .engine import modestly
from .experiment import Experiment, build_federation
from .federation import Batch, Federation
from .meta_gradients import meta_gradient
from .models import build_model, moving
from .modules import objective_of
from .objective import Params, gradient_of, step
from .server import Memory, pick_agents, server_step
from .trainer import batches_of


@modestly
def by_hand(experiment: Experiment, federation: Federation | None = None, model: nn.Module | None = None) -> Params:
    """Train as `gmfl_lite.run` does, in the simplest way, and return the shared initial model w.

        w_i⁽ʲ⁺¹⁾ = w_i⁽ʲ⁾ − α ∇f_i(w_i⁽ʲ⁾),   F_i(w) = f_i(w_i⁽ᵛ⁾)
        τ times at each of the picked agents:  w_i ← w_i − β (∇F_i(w_i) + μ (w_i − w))
        and then, with the plain server step:  w ← w + λ (Σ_i p_i w_i − w)

    Parameters
    ----------
    experiment : ν, α, β, τ, rounds, and all else; λ is `server_lr`, μ `proximal`.
    federation, model : replace what the experiment would build; the model's parameters are the start.

    Returns
    -------
    dict of tensors, equal to `gmfl_lite.run(…).params` but for rounding.

    References
    ----------
    Jamali, Saber, Bae, arXiv 2504.21327 (2025), algorithm 1.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(model="softmax", rounds=2, agents_per_round=3)
    >>> mine, fast = by_hand(experiment), gl.run(experiment, progress=False).params
    >>> all(torch.allclose(mine[name], fast[name], atol=1e-5) for name in fast)
    True
    """
    federation = (federation or build_federation(experiment)).in_precision(experiment.precision)
    model = model or build_model(experiment.model, federation, seed=experiment.seed)
    f, w = objective_of(model, federation)
    alpha, beta, mu = experiment.fine_tune_lr, experiment.meta_lr, experiment.proximal
    part = moving(w, experiment.personal)  # what fine-tuning moves: None is all of w

    def F(w: Params, support: list[Batch], query: Batch) -> torch.Tensor:  # the loss after ν fine-tuning steps
        for batch in support:
            w = step(w, gradient_of(f, w, batch, part), alpha)
        return f(w, query)

    def g(w: Params, support: list[Batch], query: Batch) -> Params:  # its gradient, or what is taken for it
        if experiment.gradient == "exact":
            return grad(F)(w, support, query)
        method, m = experiment.gradient, experiment.backprop_steps
        return meta_gradient(f, w, support, query, fine_tune_lr=alpha, method=method, backprop_steps=m, moving=part)[0]

    memory: Memory = {}
    for round in range(experiment.rounds):
        picked, sent = pick_agents(federation.n_agents, experiment.agents_per_round, experiment.seed, round), []
        for agent in picked.tolist():
            w_i = w
            for support, query in batches_of(agent, experiment, federation, round):  # τ times
                pull = {name: mu * (w_i[name] - w[name]) for name in w}
                w_i = step(step(w_i, g(w_i, support, query), beta), pull, beta)
            sent.append(w_i)
        sizes = federation.train_sizes[picked] if experiment.weighting == "samples" else None
        updates = {name: torch.stack([w_i[name] for w_i in sent]) for name in w}
        average = aggregate(updates, sizes, aggregation=experiment.aggregation)  # Σ_i p_i w_i
        w, memory = server_step(w, average, memory, server=experiment.server, server_lr=experiment.server_lr)
    return w
