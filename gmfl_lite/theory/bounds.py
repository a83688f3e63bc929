"""How fast the FedAvg variant converges: bounds on (1/K) Σ_k E‖∇F(w_k)‖², and step sizes that reach a target.

β is `meta_lr`, τ `local_steps`, K `rounds`, rn `agents_per_round`; L_F `meta_smoothness` is a Lipschitz constant that
all ∇F_i share, Δ `initial_gap` is F(w_0) − E F(w_K), or F(w_0) less any lower bound of F. γ_F `meta_heterogeneity`,
b `meta_bias` and s `meta_std` may be root mean squares over the visited rounds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..basics import checks
from .constants import Value, formula, geometric_sum


@formula
def sampling_factor(n_agents: ArrayLike, agents_per_round: ArrayLike) -> Value:
    """Return φ = (1 − r) / (r (n − 1)), r the share of agents picked: what averaging a sample costs (Lemma 6).

    E_S ‖p_S − p̄‖² = φ · (1/n) Σ_i ‖p_i − p̄‖², S drawn uniformly without replacement. Nothing (0) if all are picked,
    also where there is only one agent.

    Raises
    ------
    ValueError : more agents picked than there are.

    Examples
    --------
    >>> sampling_factor(10, [1, 5, 10]).round(4)
    array([1.    , 0.1111, 0.    ])
    """
    n, picked = checks.integers("n_agents", n_agents, 1), checks.integers("agents_per_round", agents_per_round, 1)
    if np.any(picked > n):
        raise checks.refusal("agents_per_round", agents_per_round, f"at most n_agents = {checks.shown(n)}")
    return (n - picked) / (picked * np.maximum(n - 1, 1))


@formula
def drift(local_steps: ArrayLike, meta_lr: ArrayLike, *, meta_smoothness: ArrayLike) -> Value:
    """Return Ψ = (1/τ) Σ_{t<τ} ((1 + βL_F)^t − 1)²: how far agents drift from w in τ local steps (Lemma 7).

    Without bias and noise, (1/nτ) Σ_{i,t} L_F² ‖w_{i,t} − w‖² ≤ Ψ (‖∇F(w)‖² + γ_F²); attained by concave quadratics.

    Examples
    --------
    >>> drift([1, 2, 3], 1.0, meta_smoothness=1.0).round(4)
    array([0.    , 0.5   , 3.3333])
    """
    tau, a = _local(local_steps, meta_lr, meta_smoothness)
    t = np.arange(int(tau.max(initial=1))).reshape(-1, *[1] * np.broadcast(tau, a).ndim)
    return np.sum(np.where(t < tau, ((1 + a) ** t - 1) ** 2, 0.0), axis=0) / tau


@formula
def drift_noise(local_steps: ArrayLike, meta_lr: ArrayLike, *, meta_smoothness: ArrayLike) -> Value:
    """Return Υ = (β²L_F²/τ) Σ_{t<τ} Σ_{j<t} (1 + βL_F)^(2j): what noise adds to the drift (Lemma 7).

    With gradient noise of variance s² and bias b, the root mean square of L_F ‖w_{i,t} − w‖ over agents and steps is
    at most √Ψ (√(‖∇F(w)‖² + γ_F²) + b) + √Υ s.

    Examples
    --------
    >>> drift_noise([1, 2, 3], 1.0, meta_smoothness=1.0).round(4)
    array([0. , 0.5, 2. ])
    """
    tau, a = _local(local_steps, meta_lr, meta_smoothness)
    t = np.arange(int(tau.max(initial=1))).reshape(-1, *[1] * np.broadcast(tau, a).ndim)
    return a**2 * np.sum(np.where(t < tau, geometric_sum((1 + a) ** 2, t), 0.0), axis=0) / tau


@formula
def full_participation_bound(
    *,
    rounds: ArrayLike,
    local_steps: ArrayLike,
    meta_lr: ArrayLike,
    meta_smoothness: ArrayLike,
    initial_gap: ArrayLike,
    meta_heterogeneity: ArrayLike = 0.0,
) -> Value:
    """Return (2Δ/(βτK) + Ψγ_F²) / (1 − Ψ): every agent in every round, exact gradients (Theorem 2).

    With τ = 1 it is 2Δ/(βK) (Theorem 1).

    Raises
    ------
    ValueError : βτL_F above 1, where the theorem says nothing.

    Examples
    --------
    >>> full_participation_bound(rounds=100, local_steps=1, meta_lr=0.5, meta_smoothness=2.0, initial_gap=1.0)
    0.04
    """
    tau, _ = _condition(local_steps, meta_lr, meta_smoothness, 1.0)
    transient = _transient(rounds, tau, meta_lr, initial_gap)
    psi = drift(tau, meta_lr, meta_smoothness=meta_smoothness)
    return (transient + psi * checks.numbers("meta_heterogeneity", meta_heterogeneity, 0) ** 2) / (1 - psi)


@dataclass(frozen=True)
class ConvergenceBound:
    """The five terms of Theorem 3, each divided by ω, so that they add up to `total`: see `convergence_bound`."""

    transient: Value
    drift: Value
    bias: Value
    noise: Value
    sampling: Value
    total: Value


def convergence_bound(
    *,
    rounds: ArrayLike,
    local_steps: ArrayLike,
    meta_lr: ArrayLike,
    meta_smoothness: ArrayLike,
    initial_gap: ArrayLike,
    n_agents: ArrayLike,
    agents_per_round: ArrayLike,
    meta_heterogeneity: ArrayLike = 0.0,
    meta_bias: ArrayLike = 0.0,
    meta_std: ArrayLike = 0.0,
) -> ConvergenceBound:
    """Bound (1/K) Σ_{k<K} E‖∇F(w_k)‖² for any τ, participation, bias and noise of the meta-gradients (Theorem 3).

    With c = βτL_F, φ, Ψ, Υ of Lemmas 6 and 7, ω = 1 − Ψ(2 + 5cφ) and b′ = (1 + √Ψ) b it is 1/ω times

        transient  2Δ/(βτK), the only term that K lowers,
        drift      Ψ (2 + 5cφ) γ_F²,  zero for τ = 1,
        bias       2 (b′ + √Υ s)²,  the only one that no β removes,
        noise      2c s²/(nτ),
        sampling   (5/4) c φ (γ_F + b′ + (√Υ + 1/√τ) s)²,  zero if every agent is picked, or there is only one (φ = 0).

    Returns
    -------
    ConvergenceBound : these terms, with their 1/ω, and their sum.

    Raises
    ------
    ValueError : βτL_F above ½, where the theorem says nothing: lower meta_lr or local_steps.

    Examples
    --------
    >>> setting = dict(rounds=100, meta_smoothness=1.0, initial_gap=1.0, n_agents=10, meta_heterogeneity=1.0)
    >>> convergence_bound(local_steps=1, meta_lr=0.1, agents_per_round=10, **setting).total
    0.2
    >>> convergence_bound(local_steps=5, meta_lr=0.2, agents_per_round=10, **setting)
    Traceback (most recent call last):
    ValueError: meta_lr = 0.2: must be at most 0.5 / (local_steps · meta_smoothness) = 0.1; lower meta_lr or local_steps
    """
    tau, c = _condition(local_steps, meta_lr, meta_smoothness, 0.5)
    n, phi = checks.integers("n_agents", n_agents, 1), sampling_factor(n_agents, agents_per_round)
    gamma_F = checks.numbers("meta_heterogeneity", meta_heterogeneity, 0)
    b, s = checks.numbers("meta_bias", meta_bias, 0), checks.numbers("meta_std", meta_std, 0)
    psi = drift(tau, meta_lr, meta_smoothness=meta_smoothness)
    upsilon = drift_noise(tau, meta_lr, meta_smoothness=meta_smoothness)
    drifting = psi * (2 + 5 * c * phi)
    omega, b = 1 - drifting, (1 + np.sqrt(psi)) * b
    terms = {
        "transient": _transient(rounds, tau, meta_lr, initial_gap),
        "drift": drifting * gamma_F**2,
        "bias": 2 * (b + np.sqrt(upsilon) * s) ** 2,
        "noise": 2 * c * s**2 / (n * tau),
        "sampling": 1.25 * c * phi * (gamma_F + b + (np.sqrt(upsilon) + 1 / np.sqrt(tau)) * s) ** 2,
    }
    scaled = {name: formula(lambda term: term / omega)(term) for name, term in terms.items()}
    return ConvergenceBound(**scaled, total=formula(lambda: sum(scaled.values()))())


@formula
def covariance_bound(
    *,
    rounds: ArrayLike,
    local_steps: ArrayLike,
    meta_lr: ArrayLike,
    meta_smoothness: ArrayLike,
    initial_gap: ArrayLike,
    covariance: ArrayLike,
    dropped_deviation: ArrayLike,
    dropped_norm: ArrayLike | None = None,
    truncated_smoothness: ArrayLike | None = None,
    truncated_heterogeneity: ArrayLike | None = None,
) -> Value:
    """Return 2Δ/(βτK) + (c + pψγ_g)² / (1 − κ′), κ′ = κ + pψ: first-order or truncated gradients (Theorem 4).

    Every agent in every round, no noise. The floor is usually far below b², as it is the covariance across agents
    between the factors P_i that were dropped and the gradients g_i^[m] that were used.

    Parameters
    ----------
    covariance : c ≥ ‖C‖, C = (1/n) Σ_i (P_i − P̄)(g_i − ḡ), or its root mean square over the visited rounds.
    dropped_deviation : κ ≥ ‖P̄ − I‖, such as `truncation_factor`.
    dropped_norm, truncated_smoothness, truncated_heterogeneity : p ≥ ‖P̄‖, L^[m] and γ_g = (1/n Σ_i ‖g_i − ḡ‖²)^½, which
        τ > 1 needs and τ = 1 does not: ψ = √Ψ / (1 − √Ψ) with Ψ of L^[m].

    Raises
    ------
    ValueError : one of these three missing for τ > 1, κ′ not below 1, or βτL_F above 1 − κ′.

    Examples
    --------
    >>> covariance_bound(rounds=100, local_steps=1, meta_lr=0.1, meta_smoothness=1.0, initial_gap=1.0,
    ...                  covariance=0.3, dropped_deviation=0.5)
    0.38
    """
    tau, _ = _local(local_steps, meta_lr, meta_smoothness)
    several = {
        "dropped_norm": dropped_norm,
        "truncated_smoothness": truncated_smoothness,
        "truncated_heterogeneity": truncated_heterogeneity,
    }
    for name, value in several.items():
        if value is None and np.any(tau > 1):
            raise checks.refusal(name, None, f"given for more than one local step (local_steps = {checks.shown(tau)})")
    p, truncated, gamma_g = (checks.numbers(name, 0 if value is None else value, 0) for name, value in several.items())
    root = np.sqrt(drift(tau, meta_lr, meta_smoothness=truncated))
    psi = np.where(root < 1, root / np.where(root < 1, 1 - root, 1), np.inf)
    deviation = checks.numbers("dropped_deviation", dropped_deviation, 0)
    kappa = deviation + np.where(root < 1, p * psi, np.inf)
    if np.any(kappa >= 1):
        raise ValueError(
            f"dropped_deviation = {checks.shown(dropped_deviation)}: must be lower, as κ′ = {np.max(kappa):.3g} is not"
            f" below 1 (with local_steps = {checks.shown(tau)}): lower fine_tune_lr, meta_lr or local_steps, or keep"
            " more factors"
        )
    _condition(tau, meta_lr, meta_smoothness, 1 - kappa)
    floor = (checks.numbers("covariance", covariance, 0) + p * psi * gamma_g) ** 2 / (1 - kappa)
    return _transient(rounds, tau, meta_lr, initial_gap) + floor


def rounds_to_reach(
    epsilon: ArrayLike, *, initial_gap: ArrayLike, meta_smoothness: ArrayLike, meta_heterogeneity: ArrayLike = 0.0
) -> int | np.ndarray:
    """Return K = max(9.2 ΔL_F/ε², 5.3 ΔL_Fγ_F/ε³), rounded up: then (1/K) Σ_k ‖∇F(w_k)‖² ≤ ε² (C3).

    Every agent in every round, exact gradients, any τ, and the step size β of `prescription`. With τ = 1 the second
    term is not needed: leave γ_F out. The first round below ε often comes many times earlier. A number is an int, an
    array holds whole numbers in float64, as they may be beyond int64.

    Raises
    ------
    ValueError : more rounds than a float64 holds.

    Examples
    --------
    >>> rounds_to_reach([0.1, 0.01], initial_gap=1.0, meta_smoothness=2.0)
    array([  1840., 184000.])
    """
    epsilon = checks.numbers("epsilon", epsilon, 0, above=True)
    scale = _gap(initial_gap) * checks.numbers("meta_smoothness", meta_smoothness, 0, above=True)
    gamma_F = checks.numbers("meta_heterogeneity", meta_heterogeneity, 0)
    with np.errstate(all="ignore"):
        # Not ε²: NumPy's powers of a number and of an array may differ in the last digit.
        return _whole(epsilon, np.maximum(9.2 * scale, 5.3 * scale * gamma_F / epsilon) / (epsilon * epsilon))


@dataclass(frozen=True)
class Prescription:
    """A step size β and a number of rounds K that reach a target: see `prescription`."""

    meta_lr: float
    rounds: int


def prescription(
    epsilon: float,
    *,
    local_steps: int,
    initial_gap: float,
    meta_smoothness: float,
    n_agents: int,
    agents_per_round: int,
    meta_heterogeneity: float = 0.0,
    meta_bias: float = 0.0,
    meta_std: float = 0.0,
) -> Prescription:
    """Return β = c/(τL_F) and K with which (1/K) Σ_k E‖∇F(w_k)‖² ≤ ε² + 7.3 b², b = `meta_bias`.

    Every agent, no noise, no bias (C3): c = ½ if τ = 1, else min(½, ε/(1.15 γ_F)), and K ≥ 4.6 ΔL_F/(cε²). Otherwise
    (C4): K ≥ 4.4 ΔL_F/(cε²) and, without the terms that divide by zero and those marked * if τ = 1,

        c = min(¼, ε/(3.6γ_F)*, ε²/(33φγ_F²), τε²/(8(2.2/n + 5.9φ)s²), √τ ε/(4.9s)*).

    Examples
    --------
    >>> setting = dict(local_steps=5, initial_gap=1.0, meta_smoothness=2.0, n_agents=10, meta_heterogeneity=1.0)
    >>> prescription(0.1, agents_per_round=10, **setting).rounds
    10580
    >>> round(prescription(0.1, agents_per_round=10, **setting).meta_lr, 4)
    0.0087
    """
    epsilon, tau = checks.number("epsilon", epsilon, 0, above=True), checks.integer("local_steps", local_steps, 1)
    gamma_F = checks.number("meta_heterogeneity", meta_heterogeneity, 0)
    b, s = checks.number("meta_bias", meta_bias, 0), checks.number("meta_std", meta_std, 0)
    L_F = checks.numbers("meta_smoothness", meta_smoothness, 0, above=True)
    phi = float(sampling_factor(n_agents, agents_per_round))
    several = float(tau > 1)
    if phi == 0 and b == 0 and s == 0:
        factor = 4.6
        rates = [(0.5, 1.0), (epsilon, 1.15 * gamma_F * several)]
    else:
        factor = 4.4
        rates = [
            (0.25, 1.0),
            (epsilon, 3.6 * gamma_F * several),
            (epsilon**2, 33 * phi * gamma_F**2),
            (tau * epsilon**2, 8 * (2.2 / n_agents + 5.9 * phi) * s**2),
            (np.sqrt(tau) * epsilon, 4.9 * s * several),
        ]
    c = min(above / below for above, below in rates if below)
    with np.errstate(all="ignore"):
        rounds = np.asarray(factor * _gap(initial_gap) * L_F) / (c * epsilon**2)
    return Prescription(float(c / (tau * L_F)), int(_whole(epsilon, rounds)))


def _local(local_steps: ArrayLike, meta_lr: ArrayLike, meta_smoothness: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return τ and a = βL_F."""
    tau = checks.integers("local_steps", local_steps, 1)
    L_F = checks.numbers("meta_smoothness", meta_smoothness, 0)
    return tau, checks.numbers("meta_lr", meta_lr, 0, above=True) * L_F


def _condition(
    local_steps: ArrayLike, meta_lr: ArrayLike, meta_smoothness: ArrayLike, largest: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Return τ and c = βτL_F, if that is not too large."""
    tau, a = _local(local_steps, meta_lr, meta_smoothness)
    if np.any(a * tau > np.asarray(largest) * (1 + 1e-12)):  # β = largest / (τL_F), rounded, is what users ask for
        limit = np.min(largest / (tau * np.asarray(meta_smoothness, np.float64)))
        allowed = f"at most {np.min(largest):.3g} / (local_steps · meta_smoothness) = {limit:.3g}"
        raise checks.refusal("meta_lr", meta_lr, f"{allowed}; lower meta_lr or local_steps")
    return tau, a * tau


def _transient(rounds: ArrayLike, tau: np.ndarray, meta_lr: ArrayLike, initial_gap: ArrayLike) -> np.ndarray:
    return 2 * _gap(initial_gap) / (np.asarray(meta_lr) * tau * checks.integers("rounds", rounds, 1))


def _gap(initial_gap: ArrayLike) -> np.ndarray:
    return checks.numbers("initial_gap", initial_gap, 0)


def _whole(epsilon: ArrayLike, rounds: np.ndarray) -> int | np.ndarray:
    """Round up; a product that is whole but for rounding stays what it is."""
    if not np.isfinite(rounds).all():
        raise checks.refusal("epsilon", np.asarray(epsilon).tolist(), "larger: it needs more rounds than float64 holds")
    whole = np.maximum(np.ceil(rounds * (1 - 1e-12)), 1)
    return int(whole) if whole.ndim == 0 else whole
