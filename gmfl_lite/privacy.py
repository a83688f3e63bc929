"""What an update gives away, and what clipping and noise do about it.

Only parameters leave an agent, but parameters are computed from data. With one sample in a batch, the first layer's
update holds that sample itself.
"""

import torch

from .engine import Protected, clip_and_add_noise, protected
from .objective import Params

__all__ = ["Protected", "clip_and_add_noise", "invert_first_layer", "protected"]


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
