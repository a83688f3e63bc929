"""The ν-step meta-objective: a pure function of parameters and a loss, which knows nothing of agents or data.

    w⁽⁰⁾ = w,   w⁽ʲ⁺¹⁾ = w⁽ʲ⁾ − α ∇f(w⁽ʲ⁾),   F(w) = f(w⁽ᵛ⁾)

Its gradients are in gmfl_lite.meta_gradients.
"""

import math
import operator
from collections.abc import Callable, Collection, Sequence
from functools import reduce
from typing import Any

import torch
from torch.func import grad, vjp

from .basics import checks

Params = dict[str, torch.Tensor]
LossFn = Callable[[Params, Any], torch.Tensor]
StepSize = float | torch.Tensor
"""A number, or a tensor [] of the parameters' type."""
Product = Callable[[Params, Any, Params], Params]
"""A Hessian-vector product: (w, batch, v) -> ∇²f(w) v."""


class NonFiniteLoss(FloatingPointError, ValueError):
    """A loss or its gradient is NaN or infinite: some step size is too large, or the batch holds such values."""


def fine_tune(
    loss_fn: LossFn, params: Params, support: Sequence[Any], lr: StepSize, *, moving: Collection[str] | None = None
) -> Params:
    """Take one gradient step per batch: w⁽ʲ⁺¹⁾ = w⁽ʲ⁾ − lr · ∇f(w⁽ʲ⁾), ν = len(support) times.

    Parameters
    ----------
    loss_fn : (params, batch) -> scalar tensor.
    params : dict of tensors, w⁽⁰⁾; never changed. ν = 0 returns it as it is.
    support : the batches, one per step.
    lr : the step size α, a number, or a tensor [] that may be mapped over or differentiated.
    moving : the names of the parameters that move, such as those of a personal head; None is all.

    Returns
    -------
    w⁽ᵛ⁾, a dict like `params`, differentiable with respect to it.

    Examples
    --------
    >>> half_square = lambda params, batch: 0.5 * (params["w"] ** 2).sum()
    >>> fine_tune(half_square, {"w": torch.ones(1)}, [None, None], lr=0.5)
    {'w': tensor([0.2500])}
    """
    lr = checked_step_size("lr", lr)
    checked_params(params, moving)
    for batch in checked_batches(support):
        params = step(params, gradient_of(scalar(loss_fn), params, batch, moving), lr)
    return params


def meta_loss(
    loss_fn: LossFn,
    params: Params,
    support: Sequence[Any],
    query: Any,
    *,
    fine_tune_lr: StepSize,
    moving: Collection[str] | None = None,
) -> torch.Tensor:
    """Return F(w) = f(w⁽ᵛ⁾): the loss on `query` after one fine-tuning step per batch in `support`.

    Parameters as in `meta_gradient`; the result is a scalar tensor, differentiable with respect to `params`.

    Examples
    --------
    >>> half_square = lambda params, batch: 0.5 * (params["w"] ** 2).sum()
    >>> meta_loss(half_square, {"w": torch.ones(1)}, [None], None, fine_tune_lr=0.5)
    tensor(0.1250)
    """
    fine_tune_lr = checked_step_size("fine_tune_lr", fine_tune_lr)
    return scalar(loss_fn)(fine_tune(loss_fn, params, support, fine_tune_lr, moving=moving), query)


def step(params: Params, gradient: Params, lr: StepSize) -> Params:
    """Return params − lr · gradient; what the gradient does not name stays as it is."""
    if isinstance(lr, torch.Tensor):
        back = -lr  # once, not for every number
        return {name: tensor + back * gradient[name] if name in gradient else tensor for name, tensor in params.items()}
    return {
        # One pass over memory. torch.add refuses a finite step size beyond its type.
        name: torch.add(tensor, gradient[name], alpha=-lr if lr <= torch.finfo(tensor.dtype).max else -math.inf)
        if name in gradient
        else tensor
        for name, tensor in params.items()
    }


def gradient_of(loss_fn: LossFn, params: Params, batch: Any, moving: Collection[str] | None = None) -> Params:
    """Return ∇f(w), or its part with respect to the parameters that are named."""
    if moving is None:
        return grad(loss_fn)(params, batch)
    return grad(lambda part: loss_fn({**params, **part}, batch))({name: params[name] for name in moving})


def norm(params: Params) -> torch.Tensor:
    """Return the Euclidean norm of all tensors together."""
    return reduce(operator.add, [(tensor * tensor).sum() for tensor in params.values()]).sqrt()


def exact_product(loss_fn: LossFn) -> Product:
    """Return (w, batch, v) ↦ ∇²f(w) v, by differentiating the gradient; the Hessian is symmetric.

    What v does not name is zero.
    """

    def product(w: Params, batch: Any, v: Params) -> Params:
        moving = None if v.keys() == w.keys() else v.keys()
        pull_back = vjp(lambda point: gradient_of(loss_fn, point, batch, moving), w)[1]
        return pull_back(v)[0]

    return product


def checked_params(params: Params, moving: Collection[str] | None = None) -> Params:
    if not isinstance(params, dict) or not params:
        raise checks.refusal("params", params, "a non-empty dict of tensors")
    for name, tensor in params.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            found = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ValueError(f"params[{name!r}]: must be a floating-point tensor, got {found}")
    if moving is not None and (isinstance(moving, str) or not moving or not {*moving} <= params.keys()):
        raise checks.refusal("moving", moving, f"names of parameters, of {checks.few(params)}, or None for all")
    return params


def checked_step_size(name: str, value: StepSize) -> StepSize:
    """Return a step size as a number, or the tensor that it is: under vmap there is no value to look at."""
    if not isinstance(value, torch.Tensor):
        return checks.number(name, value, 0)
    if value.ndim or not value.is_floating_point():
        raise checks.refusal(name, value, "a number or a floating-point tensor of shape []")
    return value


def scalar(loss_fn: LossFn) -> LossFn:
    def checked(params: Params, batch: Any) -> torch.Tensor:
        loss = loss_fn(params, batch)
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else checks.shown(loss)
            raise ValueError(f"loss_fn: must return a scalar tensor, got {found}")
        return loss

    return checked


def checked_batches(support: Sequence[Any]) -> list[Any]:
    if not isinstance(support, (list, tuple)):
        raise checks.refusal("support", type(support).__name__, "a list or tuple of batches, one for each step")
    return list(support)
