"""Agents whose constants are known, and the library's own steps on them, for the tests of the theory.

What must obey the theory is `gl.fine_tune`, `gl.meta_loss`, `gl.meta_gradient`, `gl.local_update` and `gl.aggregate`.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.func import grad, jacrev, vmap

import gmfl_lite as gl


@dataclass
class Agents:
    """n agents in d dimensions: a loss (params, batch), their batches [n, …], and L, μ and ρ that hold everywhere."""

    loss: object
    batches: tuple
    smoothness: float = 0.0
    negative_curvature: float = 0.0
    hessian_lipschitz: float = 0.0
    gradient_bound: float = field(default=np.inf)

    @property
    def n(self):
        return len(self.batches[0])

    def loss_fn(self, params, batch):
        return self.loss(params["w"], batch)

    def each(self, function, w):
        """Apply function(params, batch) for every agent at w [d] or at a point of its own [n, d]."""
        w = torch.as_tensor(np.asarray(w, np.float64))
        return vmap(function, in_dims=(0 if w.ndim == 2 else None, 0))({"w": w}, self.batches)

    def tuned(self, w, j, lr):
        """w_i⁽ʲ⁾ [n, d]."""
        return self.each(lambda p, b: gl.fine_tune(self.loss_fn, p, [b] * j, lr)["w"] + 0 * p["w"], w).numpy()

    def average_tuned(self, w, j, lr):
        """w_f⁽ʲ⁾ [d], by gradient descent on the average loss."""

        def average(params, batches):
            return vmap(self.loss_fn, in_dims=(None, 0))(params, batches).mean()

        return gl.fine_tune(average, {"w": torch.from_numpy(w)}, [self.batches] * j, lr)["w"].numpy()

    def gradients(self, w):
        return self.each(lambda p, b: grad(self.loss_fn)(p, b)["w"], w).numpy()

    def hessians(self, w):
        return self.each(lambda p, b: jacrev(grad(lambda v: self.loss(v, b)))(p["w"]), w).numpy()

    def losses(self, w, nu, lr):
        return self.each(lambda p, b: gl.meta_loss(self.loss_fn, p, [b] * nu, b, fine_tune_lr=lr), w).numpy()

    def meta_gradients(self, w, nu, lr, **estimate):
        def one(p, b):
            return gl.meta_gradient(self.loss_fn, p, [b] * nu, b, fine_tune_lr=lr, **estimate)[0]["w"]

        return self.each(one, w).numpy()

    def meta_hessians(self, w, nu, lr):
        def one(p, b):
            def loss(v):
                return gl.meta_loss(self.loss_fn, {"w": v}, [b] * nu, b, fine_tune_lr=lr)

            return jacrev(grad(loss))(p["w"])  # forward mode warns of its own deprecation in some versions of torch

        return self.each(one, w).numpy()

    def local(self, w, nu, lr, meta_lr, tau, **estimate):
        """The agents' w [n, d] after τ local steps of the library."""

        def one(p, b):
            batches = [([b] * nu, b)] * tau
            return gl.local_update(self.loss_fn, p, batches, fine_tune_lr=lr, meta_lr=meta_lr, **estimate)[0]["w"]

        return self.each(one, w).numpy() if tau else np.broadcast_to(w, (self.n, np.shape(w)[-1])).copy()

    def round(self, w, nu, lr, meta_lr, tau, picked=slice(None), **estimate):
        """The server's w [d] after a round of the picked agents."""
        sent = torch.from_numpy(self.local(w, nu, lr, meta_lr, tau, **estimate)[picked])
        return gl.aggregate({"w": sent})["w"].numpy()

    def known(self, *names):
        return {name: getattr(self, name) for name in names}


def rms(vectors):
    """Root of the mean over agents of the squared norms of [n, …]."""
    return np.sqrt((vectors.reshape(len(vectors), -1) ** 2).sum(1).mean())


def apart(values):
    """Each agent's value less the average of all."""
    return values - values.mean(0)


def spread(matrices):
    """Root mean square over agents of the spectral norm."""
    return np.sqrt((np.linalg.norm(matrices, 2, axis=(1, 2)) ** 2).mean())


def quadratics(A, c):
    """f_i = ½ (w − c_i)ᵀ A_i (w − c_i)."""
    A, c = np.asarray(A, np.float64), np.asarray(c, np.float64)
    eigenvalues = np.linalg.eigvalsh(A)
    return Agents(
        lambda w, batch: 0.5 * (w - batch[1]) @ batch[0] @ (w - batch[1]),
        (torch.from_numpy(A), torch.from_numpy(c)),
        smoothness=np.abs(eigenvalues).max(),
        negative_curvature=-eigenvalues.min(),
    )


def random_quadratics(rng, n=3, d=3, low=0.02, high=1.0):
    """Rotated spectra that hold both ends, so that L = max(|low|, high) and μ = −low are attained."""
    spectra = rng.uniform(low, high, (n, d))
    spectra[:, 0], spectra[:, -1] = low, high
    turns = np.linalg.qr(rng.normal(size=(n, d, d)))[0]
    return quadratics((turns * spectra[:, None, :]) @ turns.swapaxes(1, 2), rng.normal(size=(n, d)))


def ridge(rng, n=3, d=3, features=4, cosines=2):
    """f_i = Σ_l a_il ψ_l(u_ilᵀ w − φ_il) with general u: ψ = 1 − cos for the first features, ln cosh for the others."""
    a, u = rng.uniform(0.2, 1, (n, features)), rng.normal(size=(n, features, d)) / np.sqrt(d)
    phase = rng.uniform(-np.pi, np.pi, (n, features))

    def loss(w, batch):
        a, u, phase = batch
        z = u @ w - phase
        soft = torch.nn.functional.softplus(2 * z) - z - np.log(2)  # ln cosh without overflow
        return (a * torch.where(torch.arange(features) < cosines, 1 - torch.cos(z), soft)).sum()

    def largest(weights):
        return max(np.linalg.eigvalsh(np.einsum("l,li,lj->ij", b, v, v))[-1] for b, v in zip(weights, u, strict=True))

    lengths = np.linalg.norm(u, axis=2)
    third = np.where(np.arange(features) < cosines, 1.0, 4 / (3 * np.sqrt(3)))
    L = largest(a)
    return Agents(
        loss,
        tuple(map(torch.from_numpy, (a, u, phase))),
        smoothness=L,
        negative_curvature=largest(np.where(np.arange(features) < cosines, a, 0)) if cosines else 0.0,
        hessian_lipschitz=largest(third * a * lengths),
        gradient_bound=min((a * lengths).sum(1).max(), np.sqrt(a.sum(1).max() * L)),
    )


def one_dimensional(loss, *parameters, **constants):
    """Agents on the line with f_i(w) = loss(w, parameters of i)."""
    batches = tuple(torch.as_tensor(np.atleast_1d(np.asarray(p, np.float64))) for p in parameters)
    return Agents(lambda w, batch: loss(w[0], *batch), batches, **constants)


def concave(gradients=(1.0,), L=1.0):
    """f_i = g_i w − L w²/2, for which q = 1 + αL is what a step stretches by."""
    return one_dimensional(
        lambda w, g: g * w - 0.5 * L * w**2, gradients, smoothness=L, negative_curvature=L, hessian_lipschitz=0.0
    )


def largest_gradient(agents, w, nu, lr):
    """The largest ‖∇f_i‖ at w_i⁽ᵛ⁾."""
    return np.linalg.norm(agents.gradients(agents.tuned(w, nu, lr)), axis=1).max()
