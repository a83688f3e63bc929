"""The ν-step meta-objective and its gradients.

Pure functions of a dict of parameters and a loss; they know nothing of agents or data. For one agent with loss f:

    w⁽⁰⁾ = w,   w⁽ʲ⁺¹⁾ = w⁽ʲ⁾ − α ∇f(w⁽ʲ⁾),   F(w) = f(w⁽ᵛ⁾)
    ∇F(w) = (I − α∇²f(w⁽⁰⁾)) (I − α∇²f(w⁽¹⁾)) … (I − α∇²f(w⁽ᵛ⁻¹⁾)) ∇f(w⁽ᵛ⁾)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.func import grad, grad_and_value, vjp

from .basics import checks

Params = dict[str, torch.Tensor]
LossFn = Callable[[Params, Any], torch.Tensor]
Product = Callable[[Params, Any, Params], Params]
"""A Hessian-vector product: (w, batch, v) -> ∇²f(w) v."""

METHODS = ("exact", "truncated", "first_order", "hessian_free")


DELTA = 1e-5
"""The relative step of Hessian-free differences.

Measured on the 80–60 MLP in float32 (digits and Fashion-MNIST, at the start and trained, ν = 3, 480 meta-gradients):
within 0.7 % of the exact gradient, 0.1 % in the median. Larger steps meet the jumps of ELU's second derivative
(1e-4: up to 2 %), smaller ones round-off.
"""


class NonFiniteLoss(FloatingPointError, ValueError):
    """A loss or its gradient is NaN or infinite: some step size is too large, or the batch holds such values."""


def fine_tune(loss_fn: LossFn, params: Params, support: Sequence[Any], lr: float) -> Params:
    """Take one gradient step per batch: w⁽ʲ⁺¹⁾ = w⁽ʲ⁾ − lr · ∇f(w⁽ʲ⁾), ν = len(support) times.

    Parameters
    ----------
    loss_fn : (params, batch) -> scalar tensor.
    params : dict of tensors, w⁽⁰⁾; never changed. ν = 0 returns it as it is.
    support : the batches, one a step.
    lr : the step size α.

    Returns
    -------
    w⁽ᵛ⁾, a dict like `params`, differentiable with respect to it.

    Examples
    --------
    >>> half_square = lambda params, batch: 0.5 * (params["w"] ** 2).sum()
    >>> fine_tune(half_square, {"w": torch.ones(1)}, [None, None], lr=0.5)
    {'w': tensor([0.2500])}
    """
    lr = checks.number("lr", lr, 0)
    _checked(params)
    for batch in _batches(support):
        params = step(params, grad(_scalar(loss_fn))(params, batch), lr)
    return params


def meta_loss(
    loss_fn: LossFn, params: Params, support: Sequence[Any], query: Any, *, fine_tune_lr: float
) -> torch.Tensor:
    """Return F(w) = f(w⁽ᵛ⁾): the loss on `query` after one fine-tuning step per batch in `support`.

    Parameters as in `meta_gradient`; the result is a scalar tensor, differentiable with respect to `params`.

    Examples
    --------
    >>> half_square = lambda params, batch: 0.5 * (params["w"] ** 2).sum()
    >>> meta_loss(half_square, {"w": torch.ones(1)}, [None], None, fine_tune_lr=0.5)
    tensor(0.1250)
    """
    fine_tune_lr = checks.number("fine_tune_lr", fine_tune_lr, 0)
    return _meta_loss(params, loss_fn, support, query, fine_tune_lr)


def meta_gradient(
    loss_fn: LossFn,
    params: Params,
    support: Sequence[Any],
    query: Any,
    *,
    fine_tune_lr: float,
    method: str = "exact",
    backprop_steps: int | None = None,
    delta: float | None = None,
    recompute: bool = False,
    check_finite: bool = True,
) -> tuple[Params, torch.Tensor]:
    """Return the gradient of the meta-loss, exact or approximated, and the meta-loss itself.

    With v⁽ᵛ⁾ = ∇f(w⁽ᵛ⁾) and v⁽ʲ⁾ = (I − α∇²f(w⁽ʲ⁾)) v⁽ʲ⁺¹⁾, the exact gradient is v⁽⁰⁾ and keeping the last m factors
    gives v⁽ᵛ⁻ᵐ⁾, which is the exact gradient of the m-step meta-loss at w⁽ᵛ⁻ᵐ⁾.

    Parameters
    ----------
    loss_fn : (params, batch) -> scalar tensor; any function that torch.func can differentiate.
    params : non-empty dict of floating-point tensors, w; never changed, and no graph leads back to it.
    support : ν batches, one for each fine-tuning step (and the Hessian at its start).
    query : the batch of the loss after them.
    fine_tune_lr : α, the step size of a fine-tuning step.
    method : "exact"         all ν factors, by differentiating through the steps;
        "truncated"     the factors of the last `backprop_steps` steps (0 is first_order, ν is exact);
        "first_order"   none: ∇f(w⁽ᵛ⁾);
        "hessian_free"  every product ∇²f(w) v by a central difference of gradients on the same batch,
            ‖v‖ (∇f(w + t v/‖v‖) − ∇f(w − t v/‖v‖)) / 2t, with t = delta · (1 + ‖w‖), so that no graph is kept; with
            `backprop_steps`, of the last steps only.
    backprop_steps : m from 0 to ν, for "truncated" (needed) and "hessian_free" (all, unless given).
    delta : relative step of "hessian_free", by default DELTA.
    recompute : keep the iterates w⁽⁰⁾ … w⁽ᵛ⁾ instead of ν graphs, and take one Hessian-vector product at a time,
        backwards: the same gradient in less memory and more time (benchmarks/RESULTS.md says how much).
    check_finite : whether to look at the values of the result, for which a GPU has to be waited for.

    Returns
    -------
    (gradient, loss) : a dict like `params`, and the scalar F(w). Both work under torch.func.vmap over agents.

    Raises
    ------
    ValueError : an unknown method, backprop_steps outside 0 … ν or with a method that ignores it, params that are
        not a dict of floating-point tensors, a loss that is not a scalar.
    NonFiniteLoss (a ValueError) : the loss or the gradient is not finite (not looked at under vmap, where they have no
        values yet).

    References
    ----------
    Fallah, Mokhtari, Ozdaglar (2020) for ν = 1; Jamali, Saber, Bae, arXiv 2504.21327 (2025) for any ν.

    Examples
    --------
    With f(w) = w²/2 each of the factors is 1 − α:

    >>> half_square = lambda params, batch: 0.5 * (params["w"] ** 2).sum()
    >>> meta_gradient(half_square, {"w": torch.ones(1)}, [None, None], None, fine_tune_lr=0.5)
    ({'w': tensor([0.0625])}, tensor(0.0312))
    >>> meta_gradient(half_square, {"w": torch.ones(1)}, [None, None], None, fine_tune_lr=0.5, method="first_order")
    ({'w': tensor([0.2500])}, tensor(0.0312))
    """
    fine_tune_lr = checks.number("fine_tune_lr", fine_tune_lr, 0)
    support = _batches(support)
    nu = len(support)
    kept = factors_kept(method, backprop_steps, nu)
    if delta is not None and method != "hessian_free":
        raise checks.refusal("delta", delta, f"left out: method {method!r} takes no finite differences")
    params = {name: tensor.detach() for name, tensor in _checked(params).items()}
    with torch.no_grad():  # of a caller's graph, to which loss_fn may lead; torch.func differentiates all the same
        gradient, loss = _estimate(
            loss_fn, params, support, query, fine_tune_lr, kept=kept, method=method, delta=delta, recompute=recompute
        )
    if check_finite:
        _check_finite(loss, gradient)
    return gradient, loss


def _estimate(
    loss_fn: LossFn,
    params: Params,
    support: list[Any],
    query: Any,
    fine_tune_lr: float,
    *,
    kept: int,
    method: str,
    delta: float | None,
    recompute: bool,
) -> tuple[Params, torch.Tensor]:
    dropped = len(support) - kept
    params = fine_tune(loss_fn, params, support[:dropped], fine_tune_lr)
    support = support[dropped:]
    if method == "hessian_free":
        delta = DELTA if delta is None else checks.number("delta", delta, 0, above=True)
        product = _difference_product(loss_fn, delta)
        return _backwards(loss_fn, params, support, query, fine_tune_lr, product)
    if recompute:
        return _backwards(loss_fn, params, support, query, fine_tune_lr, exact_product(loss_fn))
    return grad_and_value(_meta_loss)(params, loss_fn, support, query, fine_tune_lr)


def factors_kept(method: str, backprop_steps: int | None, nu: int) -> int:
    """Return how many of the ν Hessian factors a method keeps, or say what is wrong with what was asked."""
    checks.choice("method", method, METHODS)
    if method in ("exact", "first_order"):
        if backprop_steps is not None:
            allowed = f"left out with {method!r}; method 'truncated' or 'hessian_free' uses it"
            raise checks.refusal("backprop_steps", backprop_steps, allowed)
        return nu if method == "exact" else 0
    if backprop_steps is None and method == "hessian_free":
        return nu
    if backprop_steps is None:
        raise checks.refusal("backprop_steps", None, f"given with 'truncated', from 0 to nu = {nu}")
    return checks.integer("backprop_steps", backprop_steps, 0, nu)


def step(params: Params, gradient: Params, lr: float) -> Params:
    """Return params − lr · gradient."""
    return {
        # One pass over memory. torch.add refuses a finite step size beyond its type.
        name: torch.add(tensor, gradient[name], alpha=-lr if lr <= torch.finfo(tensor.dtype).max else -math.inf)
        for name, tensor in params.items()
    }


def _meta_loss(params: Params, loss_fn: LossFn, support: Sequence[Any], query: Any, lr: float) -> torch.Tensor:
    return _scalar(loss_fn)(fine_tune(loss_fn, params, support, lr), query)


def _backwards(
    loss_fn: LossFn, params: Params, support: list[Any], query: Any, lr: float, product: Product
) -> tuple[Params, torch.Tensor]:
    """Return v⁽⁰⁾ of the recursion v⁽ʲ⁾ = v⁽ʲ⁺¹⁾ − α ∇²f(w⁽ʲ⁾) v⁽ʲ⁺¹⁾, and the meta-loss."""
    visited = []
    for batch in support:
        visited.append((params, batch))
        params = fine_tune(loss_fn, params, [batch], lr)
    v, loss = grad_and_value(_scalar(loss_fn))(params, query)
    while visited:
        v = step(v, product(*visited.pop(), v), lr)
    return v, loss


def exact_product(loss_fn: LossFn) -> Product:
    """Return (w, batch, v) ↦ ∇²f(w) v, by differentiating the gradient; the Hessian is symmetric."""

    def product(w: Params, batch: Any, v: Params) -> Params:
        _, pull_back = vjp(lambda point: grad(loss_fn)(point, batch), w)
        return pull_back(v)[0]

    return product


def _difference_product(loss_fn: LossFn, delta: float) -> Product:
    """Return (w, batch, v) ↦ ‖v‖ (∇f(w + t v/‖v‖) − ∇f(w − t v/‖v‖)) / 2t, with t = delta · (1 + ‖w‖)."""

    def product(w: Params, batch: Any, v: Params) -> Params:
        size, t = norm(v), delta * (1 + norm(w))
        # Where v is zero the displacement is, too, however large its factor.
        displacement = t / size.clamp(min=torch.finfo(size.dtype).tiny ** 0.5)
        ahead, behind = (
            grad(loss_fn)({name: w[name] + shift * v[name] for name in w}, batch)
            for shift in (displacement, -displacement)
        )
        return {name: size / (2 * t) * (ahead[name] - behind[name]) for name in v}

    return product


def _checked(params: Params) -> Params:
    if not isinstance(params, dict) or not params:
        raise checks.refusal("params", params, "a non-empty dict of tensors")
    for name, tensor in params.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            found = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ValueError(f"params[{name!r}]: must be a floating-point tensor, got {found}")
    return params


def _check_finite(loss: torch.Tensor, gradient: Params) -> None:
    try:
        bool(loss)
    except RuntimeError:  # under vmap and on the meta device there is no value to look at
        return
    if not torch.stack([loss.isfinite(), *(tensor.isfinite().all() for tensor in gradient.values())]).all():
        what = "the loss after fine-tuning" if not loss.isfinite() else "the gradient of the loss after fine-tuning"
        raise NonFiniteLoss(f"{what} is not finite: lower the step sizes, or look at the batch")


def curvature(loss_fn: LossFn, params: Params, batch: Any, *, iterations: int = 30) -> torch.Tensor:
    """Return ‖∇²f(w)‖, the largest absolute curvature, by the power method, which approaches it from below.

    >>> steep = lambda params, batch: 1.5 * params["w"][0] ** 2 - 2 * params["w"][1] ** 2
    >>> curvature(steep, {"w": torch.zeros(2)}, None).item()
    4.0
    """
    product = exact_product(_scalar(loss_fn))
    # Any start will do that is not orthogonal to the steepest direction; a random one is not to be had under vmap.
    v = {
        name: torch.arange(1.0, tensor.numel() + 1, device=tensor.device)
        .square()
        .sin()
        .reshape(tensor.shape)
        .to(tensor)
        for name, tensor in params.items()
    }
    for _ in range(iterations):
        size = norm(v).clamp(min=torch.finfo(torch.float32).tiny)
        v = product(params, batch, {name: tensor / size for name, tensor in v.items()})
    return norm(v)


def norm(params: Params) -> torch.Tensor:
    """Return the Euclidean norm of all tensors together."""
    return sum((tensor * tensor).sum() for tensor in params.values()).sqrt()


def _scalar(loss_fn: LossFn) -> LossFn:
    def checked(params: Params, batch: Any) -> torch.Tensor:
        loss = loss_fn(params, batch)
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)
            raise ValueError(f"loss_fn: must return a scalar tensor, got {found}")
        return loss

    return checked


def _batches(support: Sequence[Any]) -> list[Any]:
    if not isinstance(support, (list, tuple)):
        raise checks.refusal("support", type(support).__name__, "a list or tuple of batches, one for each step")
    return list(support)
