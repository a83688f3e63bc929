"""Constants of the meta-loss F_i(w) = f_i(w_i⁽ᵛ⁾), each explicit, from those of the losses f_i.

Along fine-tuning trajectories: −μI ≼ ∇²f_i ≼ LI, ‖∇²f_i(w) − ∇²f_i(u)‖ ≤ ρ‖w − u‖, ‖∇f_i‖ ≤ B. In the functions L is
`smoothness`, μ `negative_curvature` (0 if convex, below 0 if strongly convex; None if nothing more than L is known,
which is μ = L), ρ `hessian_lipschitz`, B `gradient_bound`, and γ_G, γ_H are `gradient_heterogeneity` and
`hessian_heterogeneity`. ν is `nu`, α `fine_tune_lr`. Numbers and arrays, which broadcast; computed in float64.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec

import numpy as np
from numpy.typing import ArrayLike

from ..basics import checks

Value = float | checks.Floats
P = ParamSpec("P")


def formula(function: Callable[P, ArrayLike]) -> Callable[P, Value]:
    """Return numbers as Python's own, and a bound that no float64 holds as infinity, without a warning."""

    @functools.wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Value:
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.asarray(function(*args, **kwargs), np.float64)
        value = np.where(np.isnan(value), np.inf, value)  # ∞ · 0 where the zero is one too small for float64
        return value.item() if value.ndim == 0 else value

    return computed


def product(*factors: Value) -> checks.Floats:
    """Return the product, which is zero where a factor is, even if another factor is too large for float64."""
    zero = functools.reduce(np.logical_or, [np.equal(factor, 0) for factor in factors])
    return np.where(zero, 0.0, functools.reduce(np.multiply, factors))


@formula
def growth(fine_tune_lr: ArrayLike, *, smoothness: ArrayLike, negative_curvature: ArrayLike | None = None) -> Value:
    """Return q ≥ ‖I − α∇²f‖, by how much a fine-tuning step can stretch: max(|1 − αL|, 1 + αμ).

    Without more than L it is 1 + αL. Lemma 1: w⁽ʲ⁾, ∇f(w⁽ʲ⁾) and the Jacobian of j steps grow at most like qʲ.

    Raises
    ------
    ValueError : α or L below 0, |μ| above L.

    Examples
    --------
    >>> growth(0.5, smoothness=1.0), growth(0.5, smoothness=1.0, negative_curvature=0.0)
    (1.5, 1.0)
    """
    alpha = checks.numbers("fine_tune_lr", fine_tune_lr, 0)
    L, mu = _curvatures(smoothness, negative_curvature)
    return np.maximum(np.abs(1 - alpha * L), 1 + alpha * mu)


@formula
def geometric_sum(q: ArrayLike, k: ArrayLike) -> Value:
    """Return S_k(q) = 1 + q + … + q^(k−1).

    Examples
    --------
    >>> geometric_sum(2.0, 5), geometric_sum(1.0, 5)
    (31.0, 5.0)
    """
    q, k = checks.numbers("q", q, 0), checks.integers("k", k, 0)
    excess = np.where(q == 1, 1.0, q - 1)
    with np.errstate(divide="ignore"):  # q = 0
        total = np.expm1(k * np.log1p(excess)) / excess
    return np.where(q == 1, k, np.where(k == 0, 0.0, total))


@formula
def meta_smoothness(
    nu: ArrayLike,
    fine_tune_lr: ArrayLike,
    *,
    smoothness: ArrayLike,
    hessian_lipschitz: ArrayLike = 0.0,
    gradient_bound: ArrayLike = 0.0,
    negative_curvature: ArrayLike | None = None,
) -> Value:
    """Return L_F(ν) = q^(2ν) L + α ρ B q^(ν−1) S_ν(q), a Lipschitz constant of ∇F_i (Lemma 2).

    It is attained (concave quadratics), and far too large for losses that are nearly convex unless μ is given.

    Examples
    --------
    >>> meta_smoothness([0, 1, 2], 1.0, smoothness=1.0)
    array([ 1.,  4., 16.])
    >>> meta_smoothness([0, 1, 2], 1.0, smoothness=1.0, negative_curvature=0.0)
    array([1., 1., 1.])
    """
    nu = checks.integers("nu", nu, 0)
    return _truncated_smoothness(
        nu, nu, fine_tune_lr, smoothness, hessian_lipschitz, gradient_bound, negative_curvature
    )


@formula
def truncated_smoothness(
    nu: ArrayLike,
    backprop_steps: ArrayLike,
    fine_tune_lr: ArrayLike,
    *,
    smoothness: ArrayLike,
    hessian_lipschitz: ArrayLike = 0.0,
    gradient_bound: ArrayLike = 0.0,
    negative_curvature: ArrayLike | None = None,
) -> Value:
    """Return L^[m] = q^(ν+m) L + α ρ B q^(m−1) Σ_{ν−m ≤ j < ν} qʲ: how fast the truncated gradient changes (Lemma 2).

    m = `backprop_steps`; m = ν is `meta_smoothness`, m = 0 the first-order gradient, which changes least.

    Examples
    --------
    >>> truncated_smoothness(2, [0, 1, 2], 1.0, smoothness=1.0)
    array([ 4.,  8., 16.])
    """
    nu, m = _steps(nu, backprop_steps)
    return _truncated_smoothness(nu, m, fine_tune_lr, smoothness, hessian_lipschitz, gradient_bound, negative_curvature)


@formula
def spectral_smoothness(
    nu: ArrayLike,
    fine_tune_lr: ArrayLike,
    *,
    smoothness: ArrayLike,
    hessian_lipschitz: ArrayLike = 0.0,
    gradient_bound: ArrayLike = 0.0,
    negative_curvature: ArrayLike | None = None,
) -> Value:
    """Return φ_ν + ρB (αν q^(2ν) + α²Lν(ν−1) q^(2ν−1) + α q^(ν−1) S_ν(q)) ≥ ‖∇²F_i‖ (Lemma 2, spectral form).

    φ_ν = max of |λ| (1 − αλ)^(2ν) over λ ∈ [−μ, L]; for convex losses and α ≤ 1/L it falls like 1/(2eαν). Smaller than
    `meta_smoothness` where ρ is small; for f_i in C³.

    Examples
    --------
    >>> spectral_smoothness([0, 1, 10], 1.0, smoothness=1.0, negative_curvature=0.0).round(4)
    array([1.    , 0.1481, 0.0179])
    """
    nu, alpha, q, L, mu = _setting(nu, fine_tune_lr, smoothness, negative_curvature)
    inside = 1 / np.maximum(alpha * (2 * nu + 1), np.finfo(np.float64).tiny)
    # λ* is a candidate where it lies between the ends; elsewhere clipping makes it one of them.
    candidates = [-mu, L, np.clip(inside, -mu, L)]
    phi = functools.reduce(np.maximum, [np.abs(x) * (1 - alpha * x) ** (2 * nu) for x in candidates])
    moved = alpha * nu * q ** (2 * nu) + alpha**2 * L * nu * (nu - 1) * q ** np.maximum(2 * nu - 1, 0)
    turned = moved + alpha * q ** np.maximum(nu - 1, 0) * geometric_sum(q, nu)
    return phi + product(_rho_B(hessian_lipschitz, gradient_bound), turned)


@formula
def meta_heterogeneity(
    nu: ArrayLike,
    fine_tune_lr: ArrayLike,
    *,
    smoothness: ArrayLike,
    gradient_heterogeneity: ArrayLike,
    hessian_heterogeneity: ArrayLike = 0.0,
    hessian_lipschitz: ArrayLike = 0.0,
    gradient_bound: ArrayLike = 0.0,
    negative_curvature: ArrayLike | None = None,
) -> Value:
    """Return γ_F(ν) = q^ν (1 + αL S_ν(q)) γ_G + α B q^(ν−1) (ν γ_H + α ρ γ_G Σ_{j<ν} S_j(q)) (Lemma 3).

    It bounds (1/n Σ_i ‖∇F_i(w) − ∇F(w)‖²)^½ if γ_G and γ_H hold at the ν + 1 points of gradient descent on the average
    loss from w, and B bounds the gradient of the average loss at the last of them.

    Examples
    --------
    >>> meta_heterogeneity([0, 1, 2], 1.0, smoothness=1.0, gradient_heterogeneity=0.5)
    array([0.5, 2. , 8. ])
    """
    nu, alpha, q, L, _ = _setting(nu, fine_tune_lr, smoothness, negative_curvature)
    gamma_G = checks.numbers("gradient_heterogeneity", gradient_heterogeneity, 0)
    gamma_H = checks.numbers("hessian_heterogeneity", hessian_heterogeneity, 0)
    rho = checks.numbers("hessian_lipschitz", hessian_lipschitz, 0)
    B = checks.numbers("gradient_bound", gradient_bound, 0)
    steps = range(int(nu.max(initial=0)))
    apart = sum((np.where(j < nu, geometric_sum(q, j), 0.0) for j in steps), start=np.float64(0))
    adapted = product(q**nu * (1 + alpha * L * geometric_sum(q, nu)), gamma_G)
    turned = nu * gamma_H + product(alpha, rho, gamma_G, apart)
    return adapted + product(alpha, B, q ** np.maximum(nu - 1, 0), turned)


@formula
def truncation_factor(
    nu: ArrayLike,
    backprop_steps: ArrayLike,
    fine_tune_lr: ArrayLike,
    *,
    smoothness: ArrayLike,
    negative_curvature: ArrayLike | None = None,
) -> Value:
    """Return min(κ_m, 1 + q^(ν−m)), κ_m = α L S_(ν−m)(q): ‖∇F_i − g_i^[m]‖ is at most that times ‖g_i^[m]‖ (Lemma 4).

    It bounds ‖P_i − I‖, P_i the product of the ν − m factors that the truncated gradient g_i^[m] drops. The second
    limit is the smaller one for large α: convex, α = 2/L, it stays at 2 for any number of steps.

    Examples
    --------
    >>> truncation_factor(2, [0, 1, 2], 1.0, smoothness=1.0)
    array([3., 1., 0.])
    """
    nu, m = _steps(nu, backprop_steps)
    _, alpha, q, L, _ = _setting(nu, fine_tune_lr, smoothness, negative_curvature)
    return np.minimum(alpha * L * geometric_sum(q, nu - m), np.where(m < nu, 1 + q ** (nu - m), 0.0))


@formula
def truncation_bias(
    nu: ArrayLike,
    backprop_steps: ArrayLike,
    fine_tune_lr: ArrayLike,
    *,
    smoothness: ArrayLike,
    gradient_bound: ArrayLike,
    negative_curvature: ArrayLike | None = None,
) -> Value:
    """Return b_m = α L B Σ_{m ≤ j < ν} qʲ ≥ ‖∇F_i − g_i^[m]‖, the bias of keeping the last m factors (Lemma 4).

    m = `backprop_steps`: 0 is the first-order gradient, ν the exact one, without bias.

    Examples
    --------
    >>> truncation_bias(2, [0, 1, 2], 1.0, smoothness=1.0, gradient_bound=1.0)
    array([3., 2., 0.])
    """
    nu, m = _steps(nu, backprop_steps)
    _, alpha, q, L, _ = _setting(nu, fine_tune_lr, smoothness, negative_curvature)
    B = checks.numbers("gradient_bound", gradient_bound, 0)
    return product(alpha, L, B, q**m, geometric_sum(q, nu - m))


@formula
def hessian_free_bias(
    nu: ArrayLike,
    delta: ArrayLike,
    fine_tune_lr: ArrayLike,
    *,
    hessian_lipschitz: ArrayLike,
    smoothness: ArrayLike,
    gradient_bound: ArrayLike,
    negative_curvature: ArrayLike | None = None,
) -> Value:
    """Return ½ α ρ δ ν q^(ν−1) B, the bias of central differences over ± δ v/‖v‖ (Lemma 4, normalised form).

    δ = `delta` is a length. `gmfl_lite.meta_gradient` takes a relative one: its length is delta · (1 + ‖w⁽ʲ⁾‖).

    Examples
    --------
    >>> hessian_free_bias(2, 0.01, 0.5, hessian_lipschitz=1.0, smoothness=2.0, gradient_bound=1.0)
    0.01
    """
    nu, alpha, q, _, _ = _setting(nu, fine_tune_lr, smoothness, negative_curvature)
    delta = checks.numbers("delta", delta, 0, above=True)
    return product(0.5 * alpha * delta * nu, q ** np.maximum(nu - 1, 0), _rho_B(hessian_lipschitz, gradient_bound))


@formula
def largest_safe_fine_tune_lr(
    nu: ArrayLike, smoothness: ArrayLike, negative_curvature: ArrayLike | None = None
) -> Value:
    """Return the largest α ≤ 2/L for which ν fine-tuning steps cannot more than double a vector: q^ν ≤ 2 (C1).

    It is min((2^(1/ν) − 1) / μ, 2/L), and (2^(1/ν) − 1) / L if no more than L is known, which for ν = 1 is Per-FedAvg's
    1/L: then L_F ≤ 4L + 2ρB/L. Without fine-tuning steps (ν = 0) it is the α of one step.

    Parameters
    ----------
    nu : number of fine-tuning steps.
    smoothness : L, the largest absolute curvature, above 0.
    negative_curvature : μ, by default L.

    Examples
    --------
    >>> [round(largest_safe_fine_tune_lr(nu, 1.0), 4) for nu in (1, 2, 5, 10)]
    [1.0, 0.4142, 0.1487, 0.0718]
    >>> largest_safe_fine_tune_lr(10, 1.0, negative_curvature=0.0)  # convex: any number of steps
    2.0
    """
    nu = checks.integers("nu", nu, 0)
    checks.numbers("smoothness", smoothness, 0, above=True)
    L, mu = _curvatures(smoothness, negative_curvature)
    doubled = 2 ** (1 / np.maximum(nu, 1)) - 1
    return np.minimum(doubled / np.maximum(mu, np.finfo(np.float64).tiny), 2 / L)


def _truncated_smoothness(
    nu: np.ndarray,
    m: np.ndarray,
    fine_tune_lr: ArrayLike,
    smoothness: ArrayLike,
    hessian_lipschitz: ArrayLike,
    gradient_bound: ArrayLike,
    negative_curvature: ArrayLike | None,
) -> np.ndarray:
    _, alpha, q, L, _ = _setting(nu, fine_tune_lr, smoothness, negative_curvature)
    turned = product(q ** np.maximum(m - 1, 0), q ** (nu - m), geometric_sum(q, m))
    return q ** (nu + m) * L + product(alpha, _rho_B(hessian_lipschitz, gradient_bound), turned)


def _setting(
    nu: ArrayLike, fine_tune_lr: ArrayLike, smoothness: ArrayLike, negative_curvature: ArrayLike | None
) -> tuple[np.ndarray, ...]:
    """Return ν, α, q, L and μ."""
    nu = checks.integers("nu", nu, 0)
    alpha = checks.numbers("fine_tune_lr", fine_tune_lr, 0)
    q = np.asarray(growth(alpha, smoothness=smoothness, negative_curvature=negative_curvature))
    return nu, alpha, q, *_curvatures(smoothness, negative_curvature)


def _curvatures(smoothness: ArrayLike, negative_curvature: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    L = checks.numbers("smoothness", smoothness, 0)
    mu = L if negative_curvature is None else checks.numbers("negative_curvature", negative_curvature)
    if np.any(np.abs(mu) > L):
        raise checks.refusal("negative_curvature", negative_curvature, f"between ± smoothness = {L}")
    return L, mu


def _rho_B(hessian_lipschitz: ArrayLike, gradient_bound: ArrayLike) -> np.ndarray:
    rho = checks.numbers("hessian_lipschitz", hessian_lipschitz, 0)
    return rho * checks.numbers("gradient_bound", gradient_bound, 0)


def _steps(nu: ArrayLike, backprop_steps: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    nu, m = checks.integers("nu", nu, 0), checks.integers("backprop_steps", backprop_steps, 0)
    if np.any(m > nu):
        raise checks.refusal("backprop_steps", backprop_steps, f"at most nu = {checks.shown(nu)}")
    return nu, m
