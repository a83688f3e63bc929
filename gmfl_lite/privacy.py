"""What an update gives away, and what clipping and noise do about it.

Only parameters leave an agent, but parameters are computed from data. With one sample in a batch, the first layer's
update holds that sample itself.
"""

import math

import numpy as np
import torch

from .basics import checks
from .engine import Protected, clip_and_add_noise, protected
from .objective import Params

__all__ = ["Protected", "clip_and_add_noise", "epsilon", "invert_first_layer", "protected"]


ORDERS = 1 + np.concatenate([np.logspace(-4, 0, 200), np.arange(2, 64), 2.0 ** np.arange(6, 11)])
"""Rényi orders that are tried; the lowest are the best where there is little noise."""


def epsilon(
    noise: float, rounds: int, *, agents_per_round: int = 1, n_agents: int | None = None, delta: float = 1e-5
) -> float:
    """Return ε of (ε, δ)-differential privacy for an agent: how well its data can be told from any other data.

    Whatever is seen is at most e^ε times as likely with the agent's own samples as with any others in their place,
    but for a chance δ. Neighbours differ in *all* samples of *one* agent, which are replaced: the number of agents
    stays. An update Δ of length C may become any other, 2C away, and on a sum of m updates lies noise of
    zC√m, so that one round is a Gaussian mechanism with noise multiplier z√m/2. Where neighbours have one agent more or
    less, which Opacus and most papers count, it is z√m, and ε is smaller.

    Parameters
    ----------
    noise : z of `clip_and_add_noise`, the same for all agents; with 0, ε is infinite.
    rounds : in how many rounds the agent took part; with `n_agents`, how many rounds there were.
    agents_per_round : m, of how many agents the average is that is seen, each with noise of its own. 1 is what the
        server itself sees: each update alone.
    n_agents : n, of whom the m of each round are drawn, without replacement and for every round again, as
        `gmfl_lite.server.pick_agents` draws them, while *nobody who looks on knows whom*. That makes ε smaller.
        None: it is known who takes part, which all know who know the seed, as every agent of a Flower federation does.
    delta : δ, far below 1/n.

    What is sent with the update does not count: losses, accuracies, numbers of samples. An average counts only where
    it is uniform (not weighted by samples, no median) and the other agents add their noise, too.

    Sampling is that of the accountant, of fixed size; an accountant for Poisson sampling, in which each
    agent is picked by a coin of its own, would not be one of this library's rounds. With it, ε is an upper bound.

    Raises
    ------
    ValueError : a number out of range, or more agents in a round than there are.
    ImportError : dp-accounting is not installed: `pip install gmfl_lite[privacy]`.

    Examples
    --------
    >>> epsilon(0.0, 10)
    inf
    >>> seen_by_server, seen_by_others = epsilon(2.0, 10), epsilon(2.0, 10, agents_per_round=25)
    >>> round(seen_by_server, 1), round(seen_by_others, 1)
    (19.8, 2.8)

    References
    ----------
    Wang, Balle, Kasiviswanathan: Subsampled Rényi differential privacy and analytical moments accountant, AISTATS 2019,
    theorem 27. Computed by Google's dp-accounting.
    """
    noise = checks.number("noise", noise, 0)
    rounds = checks.integer("rounds", rounds, 0)
    m = checks.integer("agents_per_round", agents_per_round, 1, n_agents)
    n = m if n_agents is None else checks.integer("n_agents", n_agents, 1)
    delta = checks.number("delta", delta, 0, 1, above=True)
    if not rounds:
        return 0.0
    if not noise:
        return math.inf
    try:
        from dp_accounting import NeighboringRelation, dp_event, rdp
    except ImportError as error:
        raise ImportError("epsilon needs dp-accounting: pip install 'gmfl_lite[privacy]'") from error
    accountant = rdp.RdpAccountant(ORDERS, NeighboringRelation.REPLACE_ONE)
    one_round = dp_event.GaussianDpEvent(noise * math.sqrt(m) / 2)
    accountant.compose(dp_event.SampledWithoutReplacementDpEvent(n, m, one_round), rounds)
    return float(accountant.get_epsilon(delta))


def invert_first_layer(sent: Params, received: Params) -> torch.Tensor:
    """Return the image that an update of one sample was computed from, without solving anything.

    The first layer is h = Wx + b. Its gradients for one sample are ∂f/∂W = δxᵀ and ∂f/∂b = δ: row j of the first,
    divided by entry j of the second, is x. An update is −β times the gradient, and β cancels.

    Parameters
    ----------
    sent, received : an agent's parameters before and after one local step; the first two are weight [units, pixels]
        and bias [units] of a linear layer, as in "softmax" and "mlp".

    Returns
    -------
    Tensor [pixels], from the unit whose bias moved most; NaN where no bias moved.

    Raises
    ------
    ValueError : the first layer is not linear with a bias.

    Examples
    --------
    >>> start = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    >>> x, delta = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, -0.4])
    >>> invert_first_layer(start, {"weight": -torch.outer(delta, x), "bias": -delta})
    tensor([0.1000, 0.5000, 0.9000])

    References
    ----------
    Geiping, Bauermeister, Dröge, Moeller: Inverting gradients, NeurIPS 2020, proposition 3.1.
    """
    weight, bias = (received[name] - sent[name] for name in list(sent)[:2])
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ValueError("the first layer must be linear with a bias, as in the models 'softmax' and 'mlp'")
    unit = bias.abs().argmax()
    return weight[unit] / bias[unit]
