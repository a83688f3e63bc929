"""Gradients of the ν-step meta-loss: one record for each way to estimate them, and `meta_gradient`, which takes any.

∇F(w) = (I − α∇²f(w⁽⁰⁾)) (I − α∇²f(w⁽¹⁾)) … (I − α∇²f(w⁽ᵛ⁻¹⁾)) ∇f(w⁽ᵛ⁾)
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.func import grad, grad_and_value

from .basics import checks, ways
from .objective import (
    LossFn,
    NonFiniteLoss,
    Params,
    Product,
    StepSize,
    checked_batches,
    checked_params,
    checked_step_size,
    exact_product,
    fine_tune,
    norm,
    scalar,
    step,
)  # fmt: skip

Moving = Collection[str] | None  # the names of the parameters that fine-tuning moves; None is all

DELTA = 1e-5
"""The relative step of Hessian-free differences.

Measured on the 80–60 MLP in float32 (digits and Fashion-MNIST, at the start and trained, ν = 3, 480 meta-gradients):
within 0.7 % of the exact gradient, 0.1 % in the median. Larger steps meet the jumps of ELU's second derivative
(1e-4: up to 2 %), smaller ones round-off.
"""


@dataclass(frozen=True, kw_only=True)
class GradientMethod:
    """All there is to know of one way to estimate a meta-gradient; `add_gradient` makes it a choice everywhere.

    Attributes
    ----------
    name : what `method` and Experiment's `gradient` call it.
    help : what it is, in a line.
    keeps : "all" or "none" of the ν Hessian factors, where `backprop_steps` is left out.
    backprop_steps : whether that number of factors is "refused", "optional" or "needed".
    estimate : (loss_fn, params, support, query, fine_tune_lr, *, kept, delta, recompute, moving) -> (gradient, F(w)).
    cost : (nu, kept, product_cost) -> gradient evaluations, or "none" where no formula is known.
    on_quadratics : (A, M, nu, kept) -> Q [n, d, d] with g_i(w) = Q_i (w − c_i) for f_i = ½ (w − c_i)ᵀ A_i (w − c_i) and
        M_i = I − αA_i, or "none" where no formula is known.
    least_nu : the smallest ν for which the method is one.
    differences : whether it takes finite differences, of relative size `delta`.
    moves_parts : whether `estimate` knows what to do where only the parameters named by `moving` are fine-tuned.
    """

    name: str
    help: str
    keeps: Literal["all", "none"]
    backprop_steps: Literal["refused", "optional", "needed"]
    estimate: Callable[..., tuple[Params, torch.Tensor]]
    cost: Callable[[Any, Any, Any], Any] | Literal["none"]
    on_quadratics: Callable[[np.ndarray, np.ndarray, int, int], np.ndarray] | Literal["none"]
    least_nu: int = 0
    differences: bool = False
    moves_parts: bool = False

    def __post_init__(self) -> None:
        checks.choice("keeps", self.keeps, ("all", "none"))
        checks.choice("backprop_steps", self.backprop_steps, ("refused", "optional", "needed"))
        ways.check_functions(self, "gradient", "estimate", "cost", "on_quadratics")


def meta_gradient(
    loss_fn: LossFn,
    params: Params,
    support: Sequence[Any],
    query: Any,
    *,
    fine_tune_lr: StepSize,
    method: str = "exact",
    backprop_steps: int | None = None,
    delta: float | None = None,
    recompute: bool = False,
    moving: Moving = None,
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
        "reptile"       the way that fine-tuning goes, Σ_{j<ν} ∇f(w⁽ʲ⁾) = (w − w⁽ᵛ⁾)/α, for ν ≥ 1;
        "hessian_free"  every product ∇²f(w) v by a central difference of gradients on the same batch,
            ‖v‖ (∇f(w + t v/‖v‖) − ∇f(w − t v/‖v‖)) / 2t, with t = delta · (1 + ‖w‖), so that no graph is kept; with
            `backprop_steps`, of the last steps only.
    backprop_steps : m from 0 to ν, for "truncated" (needed) and "hessian_free" (all, unless given).
    delta : relative step of "hessian_free", by default DELTA.
    recompute : keep the iterates w⁽⁰⁾ … w⁽ᵛ⁾ instead of ν graphs, and take one Hessian-vector product at a time,
        backwards: the same gradient, in more time. A step then keeps one copy of the parameters, where a graph keeps
        its activations and most weights: for digits and batches of 20, 3.5 copies of the MLP, 73 of the CNN
        (benchmarks/RESULTS.md has more).
    moving : the names of the parameters that fine-tuning moves, such as those of a personal head; None is all. The
        gradient is that of all parameters: with P, which keeps what moves, the factors are I − α∇²f(w⁽ʲ⁾) P.
    check_finite : whether to look at the values of the result, for which a GPU has to be waited for.

    Returns
    -------
    (gradient, loss) : a dict like `params`, and the scalar F(w). Both work under torch.func.vmap over agents.

    Raises
    ------
    ValueError : an unknown method, backprop_steps outside 0 … ν or with a method that ignores it, `moving` with a
        method that knows no parts, params that are not a dict of floating-point tensors, a loss that is not a scalar.
    NonFiniteLoss (a ValueError) : the loss or the gradient is not finite (not looked at under vmap, where they have no
        values yet).

    References
    ----------
    Fallah, Mokhtari, Ozdaglar (2020) for ν = 1; Jamali, Saber, Bae, arXiv 2504.21327 (2025) for any ν; Nichol, Achiam,
    Schulman, arXiv 1803.02999 (2018) for Reptile.

    Examples
    --------
    With f(w) = w²/2 each of the factors is 1 − α:

    >>> half_square = lambda params, batch: 0.5 * (params["w"] ** 2).sum()
    >>> meta_gradient(half_square, {"w": torch.ones(1)}, [None, None], None, fine_tune_lr=0.5)
    ({'w': tensor([0.0625])}, tensor(0.0312))
    >>> meta_gradient(half_square, {"w": torch.ones(1)}, [None, None], None, fine_tune_lr=0.5, method="first_order")
    ({'w': tensor([0.2500])}, tensor(0.0312))
    """
    fine_tune_lr = checked_step_size("fine_tune_lr", fine_tune_lr)
    support = checked_batches(support)
    nu = len(support)
    kept = factors_kept(method, backprop_steps, nu)
    if delta is not None and not METHODS[method].differences:
        raise checks.refusal("delta", delta, f"left out: method {method!r} takes no finite differences")
    delta = DELTA if delta is None else checks.number("delta", delta, 0, above=True)
    if moving is not None:
        check_moves_parts("moving", moving, "None", method)
    params = {name: tensor.detach() for name, tensor in checked_params(params, moving).items()}
    estimate = METHODS[method].estimate
    with torch.no_grad():  # of a caller's graph, to which loss_fn may lead; torch.func differentiates all the same
        gradient, loss = estimate(
            loss_fn, params, support, query, fine_tune_lr, kept=kept, delta=delta, recompute=recompute, moving=moving
        )
    if check_finite:
        _check_finite(loss, gradient)
    return gradient, loss


def add_gradient(method: GradientMethod) -> GradientMethod:
    """Make a way to estimate meta-gradients a choice everywhere: in `meta_gradient`, Experiment, theory and the panel.

    Raises
    ------
    ValueError : not a GradientMethod, or its name is taken.
    """
    return ways.added(method, METHODS, GradientMethod, "method", "a gradient")


def factors_kept(method: str, backprop_steps: int | None, nu: int) -> int:
    """Return how many of the ν Hessian factors a method keeps, or say what is wrong with what was asked."""
    checks.choice("method", method, METHODS)
    record = METHODS[method]
    if nu < record.least_nu:
        raise checks.refusal("nu", nu, f"at least {record.least_nu} with the gradient {method!r}")
    if backprop_steps is None and record.backprop_steps == "needed":
        raise checks.refusal("backprop_steps", None, f"given with the gradient {method!r}, from 0 to nu = {nu}")
    if backprop_steps is None:
        return nu if record.keeps == "all" else 0
    if record.backprop_steps == "refused":
        those = " or ".join(repr(name) for name, other in METHODS.items() if other.backprop_steps != "refused")
        allowed = f"left out with the gradient {method!r}; {those} uses it"
        raise checks.refusal("backprop_steps", backprop_steps, allowed)
    return checks.integer("backprop_steps", backprop_steps, 0, nu)


def check_moves_parts(name: str, value: Any, whole: str, method: str) -> None:
    """Say what is wrong where only a part of the parameters is to move, which a method does not know."""
    if not METHODS[method].moves_parts:
        raise checks.refusal(name, value, f"{whole} with the gradient {method!r}, which knows no fine-tuning of a part")


def methods_with(formula: str) -> str:
    """Name the methods that have a formula: "cost" or "on_quadratics"."""
    return ", ".join(repr(name) for name, method in METHODS.items() if getattr(method, formula) != "none")


def _differentiated(
    loss_fn: LossFn, params: Params, support: list[Any], query: Any, lr: StepSize,
    *, kept: int, recompute: bool, moving: Moving = None, **_: Any,
) -> tuple[Params, torch.Tensor]:  # fmt: skip
    """Return the gradient through the last `kept` steps, from one graph or step by step."""
    params, support = _beyond_the_dropped(loss_fn, params, support, lr, kept, moving)
    if recompute:
        return _backwards(loss_fn, params, support, query, lr, exact_product(loss_fn), moving)
    return grad_and_value(lambda w: scalar(loss_fn)(fine_tune(loss_fn, w, support, lr, moving=moving), query))(params)


def _hessian_free(
    loss_fn: LossFn, params: Params, support: list[Any], query: Any, lr: StepSize,
    *, kept: int, delta: float, moving: Moving = None, **_: Any,
) -> tuple[Params, torch.Tensor]:  # fmt: skip
    params, support = _beyond_the_dropped(loss_fn, params, support, lr, kept, moving)
    return _backwards(loss_fn, params, support, query, lr, _difference_product(loss_fn, delta), moving)


def _reptile(
    loss_fn: LossFn, params: Params, support: list[Any], query: Any, lr: StepSize, **_: Any
) -> tuple[Params, torch.Tensor]:
    """Return Σ_{j<ν} ∇f(w⁽ʲ⁾), summed on the way: (w − w⁽ᵛ⁾)/α would lose digits where α is small."""
    w, total = params, {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    for batch in support:
        gradient = grad(scalar(loss_fn))(w, batch)
        w, total = step(w, gradient, lr), {name: total[name] + gradient[name] for name in total}
    return total, scalar(loss_fn)(w, query)


def _beyond_the_dropped(
    loss_fn: LossFn, params: Params, support: list[Any], lr: StepSize, kept: int, moving: Moving
) -> tuple[Params, list[Any]]:
    """Take the steps whose factors are dropped; return where they lead, and the batches that are left."""
    dropped = len(support) - kept
    return fine_tune(loss_fn, params, support[:dropped], lr, moving=moving), support[dropped:]


def _backwards(
    loss_fn: LossFn, params: Params, support: list[Any], query: Any, lr: StepSize, product: Product, moving: Moving
) -> tuple[Params, torch.Tensor]:
    """Return v⁽⁰⁾ of the recursion v⁽ʲ⁾ = v⁽ʲ⁺¹⁾ − α ∇²f(w⁽ʲ⁾) P v⁽ʲ⁺¹⁾, and the meta-loss; P keeps what moves."""
    visited = []
    for batch in support:
        visited.append((params, batch))
        params = fine_tune(loss_fn, params, [batch], lr, moving=moving)
    v, loss = grad_and_value(scalar(loss_fn))(params, query)
    while visited:
        v = step(v, product(*visited.pop(), v if moving is None else {name: v[name] for name in moving}), lr)
    return v, loss


def _difference_product(loss_fn: LossFn, delta: float) -> Product:
    """Return (w, batch, v) ↦ ‖v‖ (∇f(w + t v/‖v‖) − ∇f(w − t v/‖v‖)) / 2t, with t = delta · (1 + ‖w‖)."""

    def product(w: Params, batch: Any, v: Params) -> Params:
        size, t = norm(v), delta * (1 + norm(w))
        # Where v is zero the displacement is, too, however large its factor.
        displacement = t / size.clamp(min=torch.finfo(size.dtype).tiny ** 0.5)
        ahead, behind = (
            grad(loss_fn)({**w, **{name: w[name] + shift * v[name] for name in v}}, batch)
            for shift in (displacement, -displacement)
        )
        return {name: size / (2 * t) * (ahead[name] - behind[name]) for name in w}

    return product


def _check_finite(loss: torch.Tensor, gradient: Params) -> None:
    try:
        bool(loss)
    except RuntimeError:  # under vmap and on the meta device there is no value to look at
        return
    if not torch.stack([loss.isfinite(), *(tensor.isfinite().all() for tensor in gradient.values())]).all():
        what = "the loss after fine-tuning" if not loss.isfinite() else "the gradient of the loss after fine-tuning"
        raise NonFiniteLoss(f"{what} is not finite: lower the step sizes, or look at the batch")


def _factors(A: np.ndarray, M: np.ndarray, nu: int, kept: int) -> np.ndarray:
    """Return A M^(ν+m): what ν steps and m factors make of a quadratic."""
    return A @ np.linalg.matrix_power(M, nu + kept)


METHODS: dict[str, GradientMethod] = {}
"""Every way to estimate a meta-gradient, by name."""

for _method in (
    GradientMethod(
        name="exact",
        help="all ν Hessian factors, by differentiating through the steps",
        keeps="all",
        backprop_steps="refused",
        estimate=_differentiated,
        moves_parts=True,
        cost=lambda nu, kept, product_cost: nu + 1 + kept * product_cost,
        on_quadratics=_factors,
    ),
    GradientMethod(
        name="truncated",
        help="the Hessian factors of the last `backprop_steps` steps",
        keeps="none",
        backprop_steps="needed",
        estimate=_differentiated,
        moves_parts=True,
        cost=lambda nu, kept, product_cost: nu + 1 + kept * product_cost,
        on_quadratics=_factors,
    ),
    GradientMethod(
        name="first_order",
        help="no Hessian factor: the gradient at w⁽ᵛ⁾",
        keeps="none",
        backprop_steps="refused",
        estimate=_differentiated,
        moves_parts=True,
        cost=lambda nu, kept, product_cost: nu + 1,
        on_quadratics=_factors,
    ),
    GradientMethod(
        name="hessian_free",
        help="Hessian-vector products by central differences of gradients",
        keeps="all",
        backprop_steps="optional",
        estimate=_hessian_free,
        moves_parts=True,
        cost=lambda nu, kept, product_cost: nu + 1 + 2 * kept,
        on_quadratics=_factors,  # central differences are exact there
        differences=True,
    ),
    GradientMethod(
        name="reptile",
        help="the way that fine-tuning goes, (w − w⁽ᵛ⁾)/α",
        keeps="none",
        backprop_steps="refused",
        estimate=_reptile,
        cost=lambda nu, kept, product_cost: nu,
        on_quadratics=lambda A, M, nu, kept: A @ sum(np.linalg.matrix_power(M, j) for j in range(nu)),
        least_nu=1,
    ),
):
    add_gradient(_method)

BUILT_IN = frozenset(method.estimate for method in METHODS.values())
"""The estimates whose code is this module's: nothing but their arguments decides what they give."""
