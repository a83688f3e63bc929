"""Quadratic agents, for which the ν-step meta-objective, its minimiser and every round have closed forms."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..basics import checks, randomness
from ..meta_gradients import METHODS, factors_kept, methods_with
from ..server import SERVER_STEPS


class Quadratics:
    """n agents with losses f_i(w) = ½ (w − c_i)ᵀ A_i (w − c_i).

    With M_i = I − αA_i and Q_i^(e) = A_i M_i^e (all commute):

        F_i(w) = ½ (w − c_i)ᵀ Q_i^(2ν) (w − c_i),   ∇F_i(w) = Q_i^(2ν) (w − c_i),   g_i^[m](w) = Q_i^(ν+m) (w − c_i)

    so that the gradient for ν steps that keeps m factors is the exact one for (ν + m)/2 steps, and looking further
    ahead moves the weight from agents with large curvature to those that are slow to adapt.

    Parameters
    ----------
    A : matrices [n, d, d], symmetric but for rounding.
    c : the agents' optima [n, d].

    Raises
    ------
    ValueError : other shapes, matrices that are not symmetric, values that are not finite.

    Examples
    --------
    Agent A has curvature 1 and its optimum at +1, agent B curvature 0.1 and its optimum at −1:

    >>> agents = Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]])
    >>> [round(agents.minimiser(nu, 0.5).item(), 3) for nu in (0, 1, 2, 5)]
    [0.818, 0.47, -0.132, -0.968]
    >>> agents.mismatch([0, 1, 2], 0.5).to_numpy().round(4)  # trained (rows) × deployed (columns)
    array([[0.0909, 0.0767, 0.0678],
           [0.1243, 0.0663, 0.0484],
           [0.339 , 0.0971, 0.0354]])
    """

    def __init__(self, A: ArrayLike, c: ArrayLike) -> None:
        self.A, self.c = checks.numbers("A", A), checks.numbers("c", c)
        n, d = self.c.shape if self.c.ndim == 2 else (0, 0)
        if not n or not d or self.A.shape != (n, d, d):
            raise ValueError(f"A, c: must have shapes [n, d, d] and [n, d], got {self.A.shape} and {self.c.shape}")
        if np.abs(self.A - self.A.swapaxes(1, 2)).max() > 1e-12 * np.abs(self.A).max():
            raise ValueError("A: must hold symmetric matrices")
        self.A = (self.A + self.A.swapaxes(1, 2)) / 2  # what rounding has left

    @classmethod
    def random(cls, n_agents: int, dimensions: int, *, lowest: float, highest: float, seed: int) -> "Quadratics":
        """Return agents with curvatures from `lowest` to `highest`, evenly in their logarithm, in random directions.

        The agents' optima are standard normal.

        Raises
        ------
        ValueError : a number below 1, curvatures that do not satisfy 0 < lowest < highest.

        >>> agents = Quadratics.random(10, 4, lowest=0.02, highest=1.0, seed=0)
        >>> agents.A.shape, agents.smoothness <= 1.0, agents.negative_curvature <= -0.02
        ((10, 4, 4), True, True)
        """
        n, d = checks.integer("n_agents", n_agents, 1), checks.integer("dimensions", dimensions, 1)
        highest = checks.number("highest", highest, 0, above=True)
        lowest = checks.number("lowest", lowest, 0, highest, above=True)
        draws = randomness.generator(checks.integer("seed", seed, 0), "quadratic agents")
        directions = np.linalg.qr(draws.normal(size=(n, d, d)))[0]
        curvatures = np.exp(draws.uniform(np.log(lowest), np.log(highest), size=(n, 1, d)))
        A = (directions * curvatures) @ directions.swapaxes(1, 2)
        return cls(A, draws.normal(size=(n, d)))

    @property
    def smoothness(self) -> float:
        """L, the largest absolute curvature of any agent."""
        return float(np.abs(np.linalg.eigvalsh(self.A)).max())

    @property
    def negative_curvature(self) -> float:
        """μ: no agent's curvature is below −μ; negative if all are strongly convex."""
        return float(-np.linalg.eigvalsh(self.A).min())

    def meta_loss(self, w: ArrayLike, nu: int, fine_tune_lr: float) -> float | np.ndarray:
        """Return F(w) = (1/n) Σ_i ½ (w − c_i)ᵀ Q_i^(2ν) (w − c_i), for w [d] or many of them [..., d].

        >>> Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).meta_loss([0.0], 1, 0.5)
        0.0850625
        """
        apart = self._point(w)[..., None, :] - self.c
        values = np.einsum("...ni,nij,...nj->...", apart, self._meta_hessians(nu, fine_tune_lr), apart)
        values = values / (2 * len(self.c))
        return values.item() if values.ndim == 0 else values

    def meta_gradient(
        self,
        w: ArrayLike,
        nu: int,
        fine_tune_lr: float,
        method: str = "exact",
        backprop_steps: int | None = None,
    ) -> np.ndarray:
        """Return ∇F(w) [..., d], or (1/n) Σ_i of the agents' first-order, truncated or Hessian-free gradients.

        Central differences are exact here, so that "hessian_free" is "exact", or "truncated" with `backprop_steps`.

        >>> Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).meta_gradient([0.0], 1, 0.5)
        array([-0.079875])
        """
        return self._gradients(w, nu, fine_tune_lr, method, backprop_steps).mean(axis=-2)

    def minimiser(
        self, nu: int, fine_tune_lr: float, *, method: str = "exact", backprop_steps: int | None = None
    ) -> np.ndarray:
        """Return w*_ν = (Σ_i Q_i^(2ν))⁻¹ Σ_i Q_i^(2ν) c_i [d], or where the approximated gradients vanish.

        Raises
        ------
        ValueError : F has no unique minimiser.

        >>> Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).minimiser(2, 0.5, method="first_order").round(3)
        array([0.47])
        """
        Q = self._meta_hessians(nu, fine_tune_lr, method, backprop_steps)
        total = Q.sum(0)
        curvatures = np.linalg.eigvalsh(total)
        # What rounding leaves of a flat direction is this small compared with the agents' own curvatures.
        if not curvatures.min() > 1e-14 * np.abs(Q).max():
            what = f"nu = {nu}, fine_tune_lr = {fine_tune_lr}"
            raise ValueError(f"{what}: F has no unique minimiser, its smallest curvature is {curvatures.min():.3g}")
        return np.linalg.solve(total, np.einsum("nij,nj->i", Q, self.c))

    def meta_smoothness(self, nu: int, fine_tune_lr: float) -> float:
        """Return ‖∇²F‖ = ‖(1/n) Σ_i Q_i^(2ν)‖, the smoothness of F.

        The bounds for several local steps need a constant of every F_i: `largest_meta_smoothness`.

        >>> Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).meta_smoothness(0, 0.5)
        0.55
        """
        return float(np.abs(np.linalg.eigvalsh(self._meta_hessians(nu, fine_tune_lr).mean(0))).max())

    def largest_meta_smoothness(self, nu: int, fine_tune_lr: float) -> float:
        """Return L_F = max_i ‖Q_i^(2ν)‖, the smoothness that all F_i share.

        >>> Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).largest_meta_smoothness(0, 0.5)
        1.0
        """
        return float(np.abs(np.linalg.eigvalsh(self._meta_hessians(nu, fine_tune_lr))).max())

    def meta_bias(
        self, w: ArrayLike, nu: int, fine_tune_lr: float, method: str, backprop_steps: int | None = None
    ) -> float | np.ndarray:
        """Return (1/n Σ_i ‖g_i(w) − ∇F_i(w)‖²)^½ of approximated gradients g_i, for w [d] or many of them [..., d].

        >>> round(Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).meta_bias([1.0], 1, 0.5, "first_order"), 4)
        0.0067
        """
        used = self._gradients(w, nu, fine_tune_lr, method, backprop_steps)
        return _root_mean_square(used - self._gradients(w, nu, fine_tune_lr))

    def meta_heterogeneity(self, w: ArrayLike, nu: int, fine_tune_lr: float) -> float | np.ndarray:
        """Return γ_F(w) = (1/n Σ_i ‖∇F_i(w) − ∇F(w)‖²)^½, for w [d] or many of them [..., d].

        >>> Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).meta_heterogeneity([0.0], 0, 0.5)
        0.55
        """
        gradients = self._gradients(w, nu, fine_tune_lr)
        return _root_mean_square(gradients - gradients.mean(axis=-2, keepdims=True))

    def mismatch(self, nus: Sequence[int], fine_tune_lr: float) -> pd.DataFrame:
        """Return P[ν, ν′] = F^(ν′)(w*_ν): trained for ν steps (rows), deployed with ν′ (columns).

        The diagonal is the smallest of its column.
        """
        nus = checks.integers("nus", np.atleast_1d(nus), 0).tolist()
        trained = np.stack([self.minimiser(nu, fine_tune_lr) for nu in nus])
        losses = np.stack([self.meta_loss(trained, nu, fine_tune_lr) for nu in nus], axis=1)
        return pd.DataFrame(losses, pd.Index(nus, name="trained"), pd.Index(nus, name="deployed"))

    def round(
        self,
        w: ArrayLike,
        nu: int,
        fine_tune_lr: float,
        meta_lr: float,
        local_steps: int,
        agents: Sequence[int] | None = None,
        *,
        method: str = "exact",
        backprop_steps: int | None = None,
        server: str = "average",
        server_lr: float = 1.0,
    ) -> np.ndarray:
        """Return w [..., d] after a round: the mean over `agents` (None: all) of their w after τ local steps.

        One agent's steps are w ↦ w* + (I − βQ_i)^τ (w − w*) with w* = c_i; then comes the server's step, if theory has
        a formula for it.

        >>> Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).round([0.0], 0, 0.5, 0.5, 2)
        array([0.32625])
        """
        meta_lr = checks.number("meta_lr", meta_lr, 0)
        local_steps = checks.integer("local_steps", local_steps, 1)
        chosen = np.arange(len(self.c)) if agents is None else checks.labels("agents", agents)
        if chosen.max() >= len(self.c):
            raise checks.refusal("agents", agents, f"numbers from 0 to {len(self.c) - 1}")
        Q, c = self._meta_hessians(nu, fine_tune_lr, method, backprop_steps)[chosen], self.c[chosen]
        steps = np.linalg.matrix_power(np.eye(c.shape[1]) - meta_lr * Q, local_steps)
        w = self._point(w)
        average = (c + np.einsum("nij,...nj->...ni", steps, w[..., None, :] - c)).mean(axis=-2)
        return _stepped(w, average, server, server_lr)

    def fixed_point(
        self,
        nu: int,
        fine_tune_lr: float,
        meta_lr: float,
        local_steps: int,
        *,
        method: str = "exact",
        backprop_steps: int | None = None,
    ) -> np.ndarray:
        """Return where rounds of all agents come to rest: (Σ_i P_i)⁻¹ Σ_i P_i c_i [d], P_i = I − (I − βQ_i)^τ.

        Whatever part of the way to the average the server goes. With ν = 0 it is FedAvg's, with τ = 1 `minimiser`.

        Raises
        ------
        ValueError : a step of some agent goes too far, or there is no such point, or not one alone.

        >>> Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]]).fixed_point(0, 0.5, 0.5, 10).round(3)
        array([0.427])
        """
        meta_lr = checks.number("meta_lr", meta_lr, 0, above=True)
        local_steps = checks.integer("local_steps", local_steps, 1)
        Q = self._meta_hessians(nu, fine_tune_lr, method, backprop_steps)
        low, high = (each(np.linalg.eigvalsh(Q)) for each in (np.min, np.max))
        convex = low >= -1e-14 * np.abs(Q).max()  # but for rounding
        if not convex or meta_lr * high >= 2:
            must = f"below {2 / high:.3g}" if convex else "used with curvatures of at least 0"
            raise checks.refusal("meta_lr", meta_lr, f"{must}: else local steps go ever further")
        P = np.eye(self.c.shape[1]) - np.linalg.matrix_power(np.eye(self.c.shape[1]) - meta_lr * Q, local_steps)
        if np.linalg.eigvalsh(P.sum(0)).min() <= 1e-14 * np.abs(P).max():
            raise ValueError(f"nu = {nu}: along some direction no agent moves, and no point there is the only one")
        return np.linalg.solve(P.sum(0), np.einsum("nij,nj->i", P, self.c))

    def train(
        self,
        w: ArrayLike,
        nu: int,
        fine_tune_lr: float,
        meta_lr: float,
        local_steps: int,
        *,
        rounds: int,
        agents_per_round: int | None = None,
        noise: float = 0.0,
        repeats: int = 1,
        seed: int = 0,
        method: str = "exact",
        backprop_steps: int | None = None,
        server: str = "average",
        server_lr: float = 1.0,
    ) -> np.ndarray:
        """Return w_0, …, w_K [K + 1, repeats, d] of several runs of the FedAvg variant.

        Parameters
        ----------
        w : w_0 [d].
        rounds, agents_per_round : K and rn; None picks all agents, so does n.
        noise : standard deviation s of the meta-gradients, √E‖ξ‖²: in every local step of every agent Gaussian noise
            of variance s²/d in each direction is added.
        repeats : how many independent runs, which differ in the agents picked and in their noise.

        >>> agents = Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]])
        >>> agents.train([0.0], 0, 0.5, 0.5, 2, rounds=1).squeeze()  # as in `round`
        array([0.     , 0.32625])
        """
        n, d = self.c.shape
        meta_lr, noise = checks.number("meta_lr", meta_lr, 0), checks.number("noise", noise, 0)
        local_steps, rounds = checks.integer("local_steps", local_steps, 1), checks.integer("rounds", rounds, 1)
        picked = n if agents_per_round is None else checks.integer("agents_per_round", agents_per_round, 1, n)
        repeats = checks.integer("repeats", repeats, 1)
        draws = randomness.generator(checks.integer("seed", seed, 0), "quadratic runs")
        Q = self._meta_hessians(nu, fine_tune_lr, method, backprop_steps)
        visited = [np.broadcast_to(self._point(w), (repeats, d))]
        for _ in range(rounds):
            agents = draws.permuted(np.tile(np.arange(n), (repeats, 1)), axis=1)[:, :picked]
            points = visited[-1][:, None, :]
            for _ in range(local_steps):
                gradients = np.einsum("rnij,rnj->rni", Q[agents], points - self.c[agents])
                noises = draws.normal(size=gradients.shape) * noise / np.sqrt(d) if noise else 0.0
                points = points - meta_lr * (gradients + noises)
            visited.append(_stepped(visited[-1], points.mean(axis=1), server, server_lr))
        return np.stack(visited)

    def _point(self, w: ArrayLike) -> np.ndarray:
        w = np.asarray(checks.numbers("w", w))
        if w.ndim == 0 or w.shape[-1] != self.c.shape[1]:
            raise ValueError(f"w: must have {self.c.shape[1]} entries along its last axis, got shape {w.shape}")
        return w

    def _gradients(
        self, w: ArrayLike, nu: int, fine_tune_lr: float, method: str = "exact", backprop_steps: int | None = None
    ) -> np.ndarray:
        """Return every agent's gradient [..., n, d]."""
        Q = self._meta_hessians(nu, fine_tune_lr, method, backprop_steps)
        return np.einsum("nij,...nj->...ni", Q, self._point(w)[..., None, :] - self.c)

    def _meta_hessians(
        self, nu: int, fine_tune_lr: float, method: str = "exact", backprop_steps: int | None = None
    ) -> np.ndarray:
        """Return Q_i [n, d, d] with g_i(w) = Q_i (w − c_i), by the method's own formula; Q_i^(2ν) of the exact one."""
        nu = checks.integer("nu", nu, 0)
        fine_tune_lr = checks.number("fine_tune_lr", fine_tune_lr, 0)
        kept = factors_kept(method, backprop_steps, nu)
        formula = METHODS[method].on_quadratics
        if formula == "none":
            raise checks.refusal("method", method, f"one with a formula on quadratics: {methods_with('on_quadratics')}")
        return formula(self.A, np.eye(self.A.shape[1]) - fine_tune_lr * self.A, nu, kept)


def _stepped(w: np.ndarray, average: np.ndarray, server: str, server_lr: float) -> np.ndarray:
    """Return the server's next w, by the step's own formula."""
    checks.choice("server", server, SERVER_STEPS)
    formula = SERVER_STEPS[server].on_quadratics
    if formula == "none":
        known = [repr(name) for name, step in SERVER_STEPS.items() if step.on_quadratics != "none"]
        raise checks.refusal("server", server, f"one with a formula: {', '.join(known)}")
    return formula(w, average, checks.number("server_lr", server_lr, 0, above=True))


def _root_mean_square(vectors: np.ndarray) -> float | np.ndarray:
    """Return (1/n Σ_i ‖v_i‖²)^½ of vectors [..., n, d]."""
    values = np.sqrt((vectors**2).sum(axis=-1).mean(axis=-1))
    return values.item() if values.ndim == 0 else values
