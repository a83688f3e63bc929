"""The whole algorithm on one page, for reading: no engine, no recording, one agent after the other."""

import torch
from torch import nn
from torch.func import grad

from .experiment import Experiment, build_federation
from .federation import Federation
from .meta_gradients import meta_gradient
from .models import as_functions, build_model, cross_entropy
from .objective import Params
from .server import Memory, pick_agents, server_step
from .trainer import batches_of


def by_hand(experiment: Experiment, federation: Federation | None = None, model: nn.Module | None = None) -> Params:
    """Train as `gmfl_lite.run` does, in the plainest way, and return the shared initial model w.

        w_i⁽ʲ⁺¹⁾ = w_i⁽ʲ⁾ − α ∇f_i(w_i⁽ʲ⁾),   F_i(w) = f_i(w_i⁽ᵛ⁾)
        τ times at each of the picked agents:  w_i ← w_i − β ∇F_i(w_i);   then   w ← w + λ (Σ_i p_i w_i − w)

    Parameters
    ----------
    experiment : ν, α, β, τ, rounds, and all else; λ is `server_lr`.
    federation, model : replace what the experiment would build.

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
    federation = federation or build_federation(experiment)
    predict, w = as_functions(
        model or build_model(experiment.model, federation, seed=experiment.seed), federation.x.device
    )
    f, alpha, beta = cross_entropy(predict), experiment.fine_tune_lr, experiment.meta_lr

    def minus(w, lr, gradient):
        return {name: w[name] - lr * gradient[name] for name in w}

    def F(w, support, query):  # the loss after ν fine-tuning steps
        for batch in support:
            w = minus(w, alpha, grad(f)(w, batch))
        return f(w, query)

    def g(w, support, query):  # its gradient, or what is taken for it
        if experiment.gradient == "exact":
            return grad(F)(w, support, query)
        how = {"method": experiment.gradient, "backprop_steps": experiment.backprop_steps}
        return meta_gradient(f, w, support, query, fine_tune_lr=alpha, check_finite=False, **how)[0]

    memory: Memory = {}
    for round in range(experiment.rounds):
        sent, weights = [], []
        picked = pick_agents(federation.n_agents, experiment.agents_per_round, experiment.seed, round)
        for agent in picked.tolist():
            w_i = w
            for support, query in batches_of(agent, experiment, federation, round):  # τ times
                w_i = minus(w_i, beta, g(w_i, support, query))
            sent.append(w_i)
            weights.append(federation.train_sizes[agent] if experiment.weighting == "samples" else 1)
        p = torch.tensor(weights) / sum(weights)
        average = {name: sum(share * w_i[name] for share, w_i in zip(p, sent, strict=True)) for name in w}
        w, memory = server_step(w, average, memory, server=experiment.server, server_lr=experiment.server_lr)
    return w
