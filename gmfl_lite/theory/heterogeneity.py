"""How different the agents are: by their labels, and by the gradients and Hessians of their losses at a point."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.func import grad, vjp, vmap

from ..basics import checks
from ..engine import in_order, modestly
from ..federation import Batch, Federation
from ..objective import LossFn, Params
from .of_a_model import objective_of
from .spectrum import products, spectral_norms


def label_heterogeneity(federation: Federation) -> pd.DataFrame:
    """Measure every agent's mix of classes q_i; `.mean()` of the result gives the averages over agents.

    Returns
    -------
    DataFrame, one row per agent:
        label_entropy      H(q_i) = −Σ_c q_i(c) ln q_i(c), in nats, from 0 (one class) to ln C;
        effective_classes  exp H(q_i), from 1 to C: how many equally common classes have that entropy;
        total_variation    ½ Σ_c |q_i(c) − q̄(c)|, from 0 to 1, with q̄ the mean of the agents' mixes: the part of its
                           labels that an agent would have to change to look like the average.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> for alpha in (0.1, 10):
    ...     federation = gl.build_federation(gl.Experiment(dirichlet_alpha=alpha))
    ...     print(alpha, label_heterogeneity(federation).mean().round(1).to_dict())
    0.1 {'label_entropy': 0.9, 'effective_classes': 2.6, 'total_variation': 0.7}
    10 {'label_entropy': 2.2, 'effective_classes': 9.5, 'total_variation': 0.1}
    """
    mixes = federation.label_counts.to_numpy() / federation.sizes[:, None]
    entropy = -(mixes * np.log(np.where(mixes > 0, mixes, 1))).sum(axis=1)
    distance = np.abs(mixes - mixes.mean(axis=0)).sum(axis=1) / 2
    columns = {"label_entropy": entropy, "effective_classes": np.exp(entropy), "total_variation": distance}
    return pd.DataFrame(columns, index=federation.label_counts.index)


class ModelHeterogeneity(NamedTuple):
    """γ_G and γ_H at a point: see `model_heterogeneity`."""

    gradient: float
    hessian: float


@modestly
def model_heterogeneity(
    federation: Federation, model: nn.Module, params: Params | None = None, *, iterations: int = 30
) -> ModelHeterogeneity:
    """Measure how far apart the gradients and Hessians of the agents that train are at a point w.

    γ_G = ((1/n) Σ_i ‖∇f_i(w) − ∇f(w)‖²)^½,   γ_H = ((1/n) Σ_i ‖∇²f_i(w) − ∇²f(w)‖²)^½,   f = (1/n) Σ_i f_i

    with f_i the mean cross-entropy on agent i's training samples and the spectral norm for Hessians.

    Parameters
    ----------
    federation, model : the agents and the model.
    params : w, for example a Result's params; by default the model's own.
    iterations : of Lanczos, which approach each spectral norm from below. Each costs as many Hessian-vector products
        on all samples as there are agents.

    Raises
    ------
    ValueError : an unsuitable module, or params that are not the model's.

    Examples
    --------
    Renaming the classes changes what the labels say, not how many of each there are:

    >>> import gmfl_lite as gl
    >>> base = gl.Experiment(partition="iid", n_agents=5, n_new_agents=0, agents_per_round=5)
    >>> for k in (0, 10):
    ...     federation = gl.build_federation(base.replace(permuted_classes=k))
    ...     model = gl.build_model("softmax", federation)
    ...     print(k, round(model_heterogeneity(federation, model).gradient, 1))
    0 0.2
    10 0.4
    """
    iterations = checks.integer("iterations", iterations, 1)
    loss_fn, params = objective_of(model, federation, params)
    agents = federation.groups["trained"]
    sets = sets_of(federation, agents)
    gradients = gradients_at(loss_fn, params, sets)
    norms = spectral_norms(hessian_differences(loss_fn, params, sets), gradients, iterations)
    return ModelHeterogeneity(root_mean_square_spread(gradients), norms.square().mean().sqrt().item())


Sets = list[tuple[torch.Tensor, Batch]]
"""All training samples of agents: (places of those of about the same size, their padded batch) for each group."""


def sets_of(federation: Federation, agents: torch.Tensor) -> Sets:
    return [(places, federation.train_sets(agents[places])) for _, places in federation.alike(agents)]


def gradients_at(loss_fn: LossFn, params: Params, sets: Sets) -> Params:
    """Return ∇f_i(w) for every agent, a dict of tensors [n, …]."""
    gradients = vmap(grad(loss_fn), in_dims=(None, 0))
    return dict(in_order([(places, gradients(params, batch)) for places, batch in sets]))


def root_mean_square_spread(vectors: Params) -> float:
    """Return ((1/n) Σ_i ‖v_i − v̄‖²)^½ of one vector per agent, a dict of tensors [n, …]."""
    squares = ((tensor - tensor.mean(0)).square().sum() / len(tensor) for tensor in vectors.values())
    return sum(squares, start=torch.zeros(())).sqrt().item()


def hessian_differences(loss_fn: LossFn, params: Params, sets: Sets) -> Callable[[Params], Params]:
    """Return v ↦ (∇²f_i(w) − ∇²f(w)) v_i for one vector per agent, a dict of tensors [n, …]."""
    n = sum(len(places) for places, _ in sets)
    flat = [(x.flatten(0, 1), y.flatten(), weight.flatten() / n) for _, (x, y, weight) in sets]
    everyone = tuple(torch.cat(parts) for parts in zip(*flat, strict=True))
    of_all = vjp(lambda w: grad(loss_fn)(w, everyone), params)[1]
    of_each = []
    for places, batch in sets:
        points = {name: tensor.expand(len(places), *tensor.shape) for name, tensor in params.items()}
        of_each.append((places, products(loss_fn, points, batch)))

    def differences(vectors: Params) -> Params:
        mine = in_order(
            [
                (places, product({name: tensor[places] for name, tensor in vectors.items()}))
                for places, product in of_each
            ]
        )
        average = vmap(lambda v: of_all(v)[0], chunk_size=8)(vectors)
        return {name: mine[name] - average[name] for name in vectors}

    return differences
