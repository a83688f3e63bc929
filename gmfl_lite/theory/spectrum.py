"""Both ends of a Hessian's spectrum, of many agents at once, from products with vectors alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.func import grad, vjp, vmap

from ..basics import randomness
from ..objective import LossFn, Params


def spectrum_ends(
    product: Callable[[Params], Params], like: Params, iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest and the largest eigenvalue of n symmetric maps [n], float64, by Lanczos iterations.

    product : one vector per map, a dict of tensors [n, …] like `like`, to their images.

    >>> diagonal = torch.tensor([[-1.0, 0.5, 3.0]])
    >>> ends = spectrum_ends(lambda v: {"w": diagonal * v["w"]}, {"w": torch.zeros(1, 3)}, iterations=3)
    >>> [round(end.item(), 4) for end in ends]
    [-1.0, 3.0]
    """
    names, shapes = list(like), [like[name].shape for name in like]
    widths = [shape[1:].numel() for shape in shapes]
    n, d = shapes[0][0], sum(widths)

    def flat_product(v: torch.Tensor) -> torch.Tensor:
        parts = [part.reshape(shape) for part, shape in zip(v.split(widths, dim=1), shapes, strict=True)]
        images = product({name: part.to(like[name]) for name, part in zip(names, parts, strict=True)})
        return torch.cat([images[name].reshape(n, -1).double() for name in names], dim=1)

    iterations = min(iterations, d)
    draws = randomness.generator(0, "Lanczos").normal(size=d)
    v = torch.from_numpy(draws / np.linalg.norm(draws)).to(like[names[0]].device).expand(n, d)
    basis = v.new_zeros(iterations, n, d)
    diagonal: list[torch.Tensor] = []
    off_diagonal: list[torch.Tensor] = []
    for j in range(iterations):
        basis[j] = v
        image = flat_product(v)
        diagonal.append((image * v).sum(1))
        for _ in range(2):  # once leaves rounding errors that grow into copies of eigenvalues
            image = image - torch.einsum(
                "jn,jnd->nd", torch.einsum("jnd,nd->jn", basis[: j + 1], image), basis[: j + 1]
            )
        size = image.norm(dim=1)
        scale = torch.stack([*diagonal, *off_diagonal, size]).abs().max(0).values
        # Where the start holds no further directions, zeros follow; they must not count as eigenvalues.
        size = torch.where(size > 1e-10 * scale, size, 0)
        off_diagonal.append(size)
        v = torch.where(size[:, None] > 0, image / size[:, None].clamp(min=1e-300), 0)
    ended = torch.stack(off_diagonal).eq(0).cumsum(0)[:-1] > 0
    rest = torch.stack(diagonal)
    rest[1:] = torch.where(ended, rest[0], rest[1:])
    beside = torch.stack(off_diagonal)[:-1].T
    matrix = torch.diag_embed(rest.T) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    return eigenvalues[:, 0], eigenvalues[:, -1]


def products(loss_fn: LossFn, points: Params, batches: Any) -> Callable[[Params], Params]:
    """Return v ↦ ∇²f_i(w_i) v_i for one vector per agent, at a point and a batch for each, all tensors [n, …].

    The gradients are computed once for all v: every product is one way back through them.

    >>> def loss_fn(params, batch):
    ...     return (batch * params["w"] ** 2).sum()
    >>> product = products(loss_fn, {"w": torch.zeros(2, 1)}, torch.tensor([[1.0], [2.0]]))
    >>> product({"w": torch.ones(2, 1)})["w"].tolist()
    [[2.0], [4.0]]
    """
    pull_back = vjp(lambda at: vmap(grad(loss_fn))(at, batches), points)[1]
    return lambda v: pull_back(v)[0]


def spectral_norms(product: Callable[[Params], Params], like: Params, iterations: int) -> torch.Tensor:
    """Return the largest absolute eigenvalue of n symmetric maps [n], float64, given as in `spectrum_ends`."""
    return torch.stack(spectrum_ends(product, like, iterations)).abs().max(0).values


def curvatures(loss_fn: LossFn, points: Params, batches: Any, *, iterations: int = 30) -> torch.Tensor:
    """Return ‖∇²f_i(w_i)‖ [n], float64, at a point and a batch for each agent, tensors [n, …].

    >>> def loss_fn(params, batch):
    ...     return (batch * params["w"] ** 2).sum()
    >>> curvatures(loss_fn, {"w": torch.zeros(2, 2)}, torch.tensor([[1.5, -2.0], [0.5, 0.0]]))
    tensor([4.0000, 1.0000], dtype=torch.float64)
    """
    return spectral_norms(products(loss_fn, points, batches), points, iterations)
