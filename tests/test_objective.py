"""The meta-gradient against closed forms and finite differences in float64."""

import numpy as np
import pytest
import torch
from torch.func import vmap

import gmfl_lite as gl

NUS = (0, 1, 2, 5, 10)
ALPHA = 0.4


def quadratic(params, batch):
    """f(w) = ½ (w − c)ᵀ A (w − c), with w spread over two tensors of the dict."""
    A, c = batch
    d = torch.cat([params["a"].flatten(), params["b"]]) - c
    return 0.5 * d @ A @ d


def unpack(w):
    return {"a": w[:4].reshape(2, 2), "b": w[4:]}


def pack(params):
    return torch.cat([params["a"].flatten(), params["b"]]).numpy()


@pytest.fixture
def instance(rng):
    """A positive definite A with largest eigenvalue 2, a centre c and a point w in seven dimensions."""
    rotation, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    A = rotation @ np.diag(np.linspace(0.1, 2, 7)) @ rotation.T
    return A, rng.normal(size=7), rng.normal(size=7)


def on_quadratic(instance, nu, **options):
    A, c, w = instance
    batch = (torch.from_numpy(A), torch.from_numpy(c))
    gradient, loss = gl.meta_gradient(
        quadratic, unpack(torch.from_numpy(w)), [batch] * nu, batch, fine_tune_lr=ALPHA, **options
    )
    return pack(gradient), loss.item()


def closed_form(instance, factors):
    A, c, w = instance
    return A @ np.linalg.matrix_power(np.eye(7) - ALPHA * A, factors) @ (w - c)


@pytest.mark.parametrize("nu", NUS)
def test_exact_and_first_order_on_a_quadratic(instance, nu):
    _, c, w = instance
    exact, loss = on_quadratic(instance, nu)
    np.testing.assert_allclose(exact, closed_form(instance, 2 * nu), rtol=0, atol=1e-10)
    assert loss == pytest.approx(0.5 * (w - c) @ closed_form(instance, 2 * nu), abs=1e-12)
    first_order, same_loss = on_quadratic(instance, nu, method="first_order")
    np.testing.assert_allclose(first_order, closed_form(instance, nu), rtol=0, atol=1e-10)
    assert same_loss == loss


def test_fine_tune_on_a_quadratic(instance):
    A, c, w = instance
    batch = (torch.from_numpy(A), torch.from_numpy(c))
    start = unpack(torch.from_numpy(w))
    for nu in NUS:
        tuned = pack(gl.fine_tune(quadratic, start, [batch] * nu, ALPHA))
        np.testing.assert_allclose(tuned, c + np.linalg.matrix_power(np.eye(7) - ALPHA * A, nu) @ (w - c), atol=1e-12)
    assert gl.fine_tune(quadratic, start, [], ALPHA) is start


def cosines(params, batch):
    """A ridge family with general directions, whose Hessians do not commute along a trajectory."""
    directions, phases = batch
    return (1 - torch.cos(directions @ torch.cat([params["a"].flatten(), params["b"]]) - phases)).sum()


def tanh_mlp(params, batch):
    w = torch.cat([params["a"].flatten(), params["b"]])
    x, y = batch
    hidden = torch.tanh(x @ w[:4].reshape(2, 2) + w[4:6])
    return ((hidden.sum(1) * w[6] - y) ** 2).mean()


def batches_for(loss_fn, rng, n):
    if loss_fn is cosines:
        return [(torch.from_numpy(rng.normal(size=(5, 7)) / 2), torch.from_numpy(rng.normal(size=5))) for _ in range(n)]
    return [(torch.from_numpy(rng.normal(size=(6, 2))), torch.from_numpy(rng.normal(size=6))) for _ in range(n)]


def finite_difference(function, w, h=1e-5):
    """Fourth-order central differences."""
    columns = []
    for e in np.eye(len(w)):
        f = [function(w + k * h * e) for k in (-2, -1, 1, 2)]
        columns.append((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h))
    return np.array(columns)


@pytest.mark.parametrize("nu", NUS)
@pytest.mark.parametrize("loss_fn", [cosines, tanh_mlp])
def test_exact_against_finite_differences_of_the_meta_loss(loss_fn, nu, rng):
    *support, query = batches_for(loss_fn, rng, nu + 1)
    w = rng.normal(size=7)

    def loss(point):
        """F(w) from the formulas, with a gradient by differences, so that the library's own is not used."""
        params = torch.from_numpy(point)
        for batch in support:
            params = params.requires_grad_()
            params = (params - ALPHA * torch.autograd.grad(loss_fn(unpack(params), batch), params)[0]).detach()
        return loss_fn(unpack(params), query).item()

    gradient, value = gl.meta_gradient(loss_fn, unpack(torch.from_numpy(w)), support, query, fine_tune_lr=ALPHA)
    expected = finite_difference(loss, w)
    np.testing.assert_allclose(pack(gradient), expected, atol=1e-6 * np.abs(expected).max())
    assert value.item() == pytest.approx(loss(w), abs=1e-12)
    assert gl.meta_loss(loss_fn, unpack(torch.from_numpy(w)), support, query, fine_tune_lr=ALPHA) == value


@pytest.mark.parametrize("method", ["exact", "first_order"])
def test_vmap_over_agents_equals_one_after_the_other(method, rng):
    agents = [batches_for(cosines, rng, 4) for _ in range(3)]
    points = torch.from_numpy(rng.normal(size=(3, 7)))

    def gradient(w, batches):
        return gl.meta_gradient(cosines, unpack(w), batches[:3], batches[3], fine_tune_lr=ALPHA, method=method)

    stacked = [tuple(torch.stack(parts) for parts in zip(*step, strict=True)) for step in zip(*agents, strict=True)]
    together, losses = vmap(gradient)(points, stacked)
    for i, batches in enumerate(agents):
        alone, loss = gradient(points[i], batches)
        np.testing.assert_allclose(pack({k: v[i] for k, v in together.items()}), pack(alone), atol=1e-12)
        assert losses[i].item() == pytest.approx(loss.item())


@pytest.mark.parametrize("method", ["exact", "first_order"])
def test_params_are_neither_changed_nor_tied_to_the_result(instance, method):
    A, c, w = instance
    batch = (torch.from_numpy(A), torch.from_numpy(c))
    params = {name: tensor.requires_grad_() for name, tensor in unpack(torch.from_numpy(w.copy())).items()}
    gradient, loss = gl.meta_gradient(quadratic, params, [batch] * 2, batch, fine_tune_lr=ALPHA, method=method)
    assert not loss.requires_grad
    assert not any(tensor.requires_grad for tensor in gradient.values())
    assert all(tensor.grad is None for tensor in params.values())
    assert np.array_equal(pack({name: tensor.detach() for name, tensor in params.items()}), w)


def test_meta_loss_can_be_differentiated_by_the_caller(instance):
    A, c, w = instance
    batch = (torch.from_numpy(A), torch.from_numpy(c))
    point = torch.from_numpy(w).requires_grad_()
    gl.meta_loss(quadratic, unpack(point), [batch] * 3, batch, fine_tune_lr=ALPHA).backward()
    np.testing.assert_allclose(point.grad.numpy(), closed_form(instance, 6), atol=1e-10)


BATCH = (torch.eye(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "exakt"}, r"gradient method = 'exakt'.*did you mean 'exact'"),
        ({"backprop_steps": 1}, r"backprop_steps = 1: must be left out with 'exact'"),
        ({"method": "first_order", "backprop_steps": 0}, "left out with 'first_order'"),
        ({"method": "truncated"}, "backprop_steps = None: must be given with 'truncated', from 0 to nu = 2"),
        ({"method": "truncated", "backprop_steps": 3}, "backprop_steps = 3.*at most 2"),
        ({"method": "truncated", "backprop_steps": -1}, "backprop_steps = -1"),
        ({"delta": 0.1}, "delta = 0.1: must be left out"),
        ({"method": "hessian_free", "delta": 0.0}, "delta = 0.0"),
        ({"fine_tune_lr": -1}, "fine_tune_lr = -1"),
        ({"fine_tune_lr": float("nan")}, "fine_tune_lr = nan"),
        ({"support": BATCH[0]}, "support = 'Tensor'"),
        ({"loss_fn": lambda params, batch: params["b"]}, r"loss_fn: must return a scalar tensor, got shape \(3,\)"),
        ({"loss_fn": lambda params, batch: 1.0}, r"loss_fn: must return a scalar tensor, got 1\.0"),
    ],
)
def test_refusals(changes, message):
    arguments = {"loss_fn": quadratic, "support": [BATCH, BATCH], "fine_tune_lr": ALPHA, **changes}
    with pytest.raises(ValueError, match=message):
        gl.meta_gradient(arguments.pop("loss_fn"), unpack(BATCH[1]), arguments.pop("support"), BATCH, **arguments)
