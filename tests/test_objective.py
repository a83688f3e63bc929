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
    """Three agents with matrices that do not commute (eigenvalues to 2), centres, and a point in seven dimensions."""
    agents = []
    for _ in range(3):
        rotation, _ = np.linalg.qr(rng.normal(size=(7, 7)))
        agents.append((rotation @ np.diag(rng.uniform(0.1, 2, 7)) @ rotation.T, rng.normal(size=7)))
    (A, _), (B, _), _ = agents
    assert np.linalg.norm(A @ B - B @ A) > 1
    return agents, rng.normal(size=7)


def on_quadratics(instance, nu, **options):
    """The mean over agents of the meta-gradients and of the meta-losses."""
    agents, w = instance
    found = []
    for agent in agents:
        batch = tuple(map(torch.from_numpy, agent))
        params = unpack(torch.from_numpy(w))
        found.append(gl.meta_gradient(quadratic, params, [batch] * nu, batch, fine_tune_lr=ALPHA, **options))
    return np.mean([pack(gradient) for gradient, _ in found], axis=0), np.mean([loss.item() for _, loss in found])


def closed_form(instance, factors):
    """The mean over agents of Q⁽ᵉ⁾ (w − c), with Q⁽ᵉ⁾ = A (I − αA)ᵉ."""
    agents, w = instance
    return np.mean([A @ np.linalg.matrix_power(np.eye(7) - ALPHA * A, factors) @ (w - c) for A, c in agents], axis=0)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("nu", NUS)
def test_exact_on_quadratics(instance, nu, recompute):
    exact, loss = on_quadratics(instance, nu, recompute=recompute)
    np.testing.assert_allclose(exact, closed_form(instance, 2 * nu), rtol=0, atol=1e-10)
    agents, w = instance
    values = [0.5 * (w - c) @ A @ np.linalg.matrix_power(np.eye(7) - ALPHA * A, 2 * nu) @ (w - c) for A, c in agents]
    assert loss == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("nu", NUS)
def test_truncated_on_quadratics(instance, nu, recompute):
    for m in range(nu + 1):
        truncated, _ = on_quadratics(instance, nu, method="truncated", backprop_steps=m, recompute=recompute)
        np.testing.assert_allclose(truncated, closed_form(instance, nu + m), rtol=0, atol=1e-10)


@pytest.mark.parametrize("nu", NUS)
def test_first_order_on_quadratics(instance, nu):
    first_order, _ = on_quadratics(instance, nu, method="first_order")
    np.testing.assert_allclose(first_order, closed_form(instance, nu), rtol=0, atol=1e-10)
    if nu % 2 == 0:  # ν steps without their factors are exact for ν/2 steps
        np.testing.assert_allclose(first_order, on_quadratics(instance, nu // 2)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("delta", [None, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("nu", NUS)
def test_hessian_free_on_quadratics_is_exact_whatever_delta(instance, nu, delta):
    for m in (None, 0, nu // 2):
        found, _ = on_quadratics(instance, nu, method="hessian_free", delta=delta, backprop_steps=m)
        expected = closed_form(instance, 2 * nu if m is None else nu + m)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_fine_tune_on_a_quadratic(instance):
    [(A, c), *_], w = instance
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


def differentiated(loss_fn, w, support, query):
    """∇F by finite differences of F, with F from plain steps along autograd's gradients, and F itself."""

    def loss(point):
        params = torch.from_numpy(point)
        for batch in support:
            params = params.requires_grad_()
            params = (params - ALPHA * torch.autograd.grad(loss_fn(unpack(params), batch), params)[0]).detach()
        return loss_fn(unpack(params), query).item()

    return finite_difference(loss, w), loss(w)


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("nu", NUS)
@pytest.mark.parametrize("loss_fn", [cosines, tanh_mlp])
def test_exact_against_finite_differences_of_the_meta_loss(loss_fn, nu, rng):
    *support, query = batches_for(loss_fn, rng, nu + 1)
    w = rng.normal(size=7)
    expected, loss = differentiated(loss_fn, w, support, query)
    params = unpack(torch.from_numpy(w))
    for options in ({}, {"recompute": True}, {"method": "truncated", "backprop_steps": nu}):
        gradient, value = gl.meta_gradient(loss_fn, params, support, query, fine_tune_lr=ALPHA, **options)
        assert relative_error(pack(gradient), expected) < 1e-6
        assert value.item() == pytest.approx(loss, abs=1e-12)
    assert gl.meta_loss(loss_fn, params, support, query, fine_tune_lr=ALPHA) == value
    gradient, _ = gl.meta_gradient(loss_fn, params, support, query, fine_tune_lr=ALPHA, method="hessian_free")
    assert relative_error(pack(gradient), expected) < 1e-6


@pytest.mark.parametrize("loss_fn", [cosines, tanh_mlp])
def test_truncated_is_the_exact_gradient_of_the_last_steps(loss_fn, rng):
    *support, query = batches_for(loss_fn, rng, 6)
    w = unpack(torch.from_numpy(rng.normal(size=7)))
    for m in range(6):
        later = gl.fine_tune(loss_fn, w, support[: 5 - m], ALPHA)
        expected, _ = differentiated(loss_fn, pack(later), support[5 - m :], query)
        for options in (
            {"method": "truncated"},
            {"method": "truncated", "recompute": True},
            {"method": "hessian_free"},
        ):
            gradient, _ = gl.meta_gradient(loss_fn, w, support, query, fine_tune_lr=ALPHA, backprop_steps=m, **options)
            assert relative_error(pack(gradient), expected) < 1e-6


# --- what others have got wrong, each of which these tests must see -------------------------------------------------


def product_in_order(loss_fn, w, support, query, order):
    """The factors (I − αH_j) applied to ∇f(w⁽ᵛ⁾) in a given order, with dense Hessians."""
    points = [torch.from_numpy(w)]
    for batch in support:
        points.append(points[-1] - ALPHA * torch.func.grad(lambda u: loss_fn(unpack(u), batch))(points[-1]))  # noqa: B023
    v = torch.func.grad(lambda u: loss_fn(unpack(u), query))(points.pop())
    factors = list(zip(points, support, strict=True))
    for point, batch in order(factors):
        v = v - ALPHA * torch.autograd.functional.hessian(lambda u: loss_fn(unpack(u), batch), point) @ v  # noqa: B023
    return v.numpy()


@pytest.mark.parametrize("nu", [2, 5, 10])
@pytest.mark.parametrize("loss_fn", [cosines, tanh_mlp])
def test_the_order_of_the_factors_matters_and_is_right(loss_fn, nu, rng):
    *support, query = batches_for(loss_fn, rng, nu + 1)
    w = rng.normal(size=7)
    expected, _ = differentiated(loss_fn, w, support, query)
    assert relative_error(product_in_order(loss_fn, w, support, query, reversed), expected) < 1e-6
    assert relative_error(product_in_order(loss_fn, w, support, query, list), expected) > 1e-3
    for options in ({}, {"recompute": True}, {"method": "hessian_free"}):
        params = unpack(torch.from_numpy(w))
        gradient, _ = gl.meta_gradient(loss_fn, params, support, query, fine_tune_lr=ALPHA, **options)
        assert relative_error(pack(gradient), product_in_order(loss_fn, w, support, query, reversed)) < 1e-6


def test_trap_a_first_order_iteration_that_never_returns_to_w(instance):
    """w − α∇f(w) − β∇f(w⁽¹⁾) is plain gradient descent in disguise; the right update starts from w."""
    [(A, c), *_], w = instance
    batch, beta = (torch.from_numpy(A), torch.from_numpy(c)), 0.3
    steps = [([batch], batch)]
    updated, _ = gl.local_update(
        quadratic, unpack(torch.from_numpy(w)), steps, fine_tune_lr=ALPHA, meta_lr=beta, method="first_order"
    )
    tuned = w - ALPHA * A @ (w - c)
    right, trap = w - beta * A @ (tuned - c), tuned - beta * A @ (tuned - c)
    np.testing.assert_allclose(pack(updated), right, atol=1e-12)
    assert np.abs(pack(updated) - trap).max() > 0.1


def test_trap_a_graph_cut_on_the_way(rng):
    """Assigning to .data in the fine-tuning steps gives the first-order gradient under another name."""
    *support, query = batches_for(tanh_mlp, rng, 6)
    w = rng.normal(size=7)
    expected, _ = differentiated(tanh_mlp, w, support, query)
    leaf = torch.from_numpy(w.copy()).requires_grad_()
    for batch in support:
        (gradient,) = torch.autograd.grad(tanh_mlp(unpack(leaf), batch), leaf, create_graph=True)
        leaf.data = leaf.data - ALPHA * gradient
    (trap,) = torch.autograd.grad(tanh_mlp(unpack(leaf), query), leaf)
    params = unpack(torch.from_numpy(w))
    exact, _ = gl.meta_gradient(tanh_mlp, params, support, query, fine_tune_lr=ALPHA)
    first_order, _ = gl.meta_gradient(tanh_mlp, params, support, query, fine_tune_lr=ALPHA, method="first_order")
    np.testing.assert_allclose(trap.numpy(), pack(first_order), atol=1e-12)
    assert relative_error(trap.numpy(), expected) > 0.05
    assert relative_error(pack(exact), expected) < 1e-6


def test_trap_an_optimiser_shared_by_inner_and_outer_steps(instance):
    """With momentum, inner gradients leak into the outer step; ours keeps no state from one step to the next."""
    [(A, c), (B, e), _], w = instance
    one, two = ((torch.from_numpy(m), torch.from_numpy(v)) for m, v in ((A, c), (B, e)))
    rates = {"fine_tune_lr": ALPHA, "meta_lr": 0.3}
    both, _ = gl.local_update(quadratic, unpack(torch.from_numpy(w)), [([one], one), ([two], two)], **rates)
    first, _ = gl.local_update(quadratic, unpack(torch.from_numpy(w)), [([one], one)], **rates)
    second, _ = gl.local_update(quadratic, first, [([two], two)], **rates)
    np.testing.assert_array_equal(pack(both), pack(second))

    leaf = torch.from_numpy(w.copy()).requires_grad_()
    shared = torch.optim.SGD([leaf], lr=0.3, momentum=0.9)
    for batch in (one, two):
        start = leaf.detach().clone()
        leaf.grad = torch.autograd.grad(quadratic(unpack(leaf), batch), leaf)[0] * ALPHA / 0.3
        shared.step()
        gradient = torch.autograd.grad(quadratic(unpack(leaf), batch), leaf)[0]
        leaf.data.copy_(start)
        leaf.grad = gradient
        shared.step()
    first_order, _ = gl.local_update(
        quadratic, unpack(torch.from_numpy(w)), [([one], one), ([two], two)], method="first_order", **rates
    )
    assert np.abs(leaf.detach().numpy() - pack(first_order)).max() > 0.1


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_trap_a_difference_whose_step_has_no_scale(scale, rng):
    """In float32 a difference with a fixed δ v loses its digits for small or large v; a scaled one keeps them."""
    *support, query = [tuple(t.float() for t in batch) for batch in batches_for(cosines, rng, 4)]

    def loss_fn(params, batch):
        return cosines(params, batch) * scale

    w = unpack(torch.from_numpy(rng.normal(size=7)).float())
    alpha = ALPHA / scale

    def unscaled(batch, point, v, delta=1e-6):
        ahead, behind = (
            torch.func.grad(loss_fn)({k: t + sign * delta * v[k] for k, t in point.items()}, batch) for sign in (1, -1)
        )
        return {k: v[k] - alpha * (ahead[k] - behind[k]) / (2 * delta) for k in v}

    exact, _ = gl.meta_gradient(loss_fn, w, support, query, fine_tune_lr=alpha)
    way = {"method": "hessian_free", "delta": 1e-3}  # these losses are smooth; the default is for networks with kinks
    difference, _ = gl.meta_gradient(loss_fn, w, support, query, fine_tune_lr=alpha, **way)
    assert relative_error(pack(difference), pack(exact)) < 2e-3
    points = [w]
    for batch in support:
        points.append(gl.fine_tune(loss_fn, points[-1], [batch], alpha))
    v = torch.func.grad(loss_fn)(points.pop(), query)
    for point, batch in zip(reversed(points), reversed(support), strict=True):
        v = unscaled(batch, point, v)
    if scale <= 1:
        assert relative_error(pack(v), pack(exact)) > 2e-2


@pytest.mark.parametrize("nu", [0, 1, 4])
def test_what_a_meta_gradient_evaluates(instance, nu):
    """Counted evaluations of the loss, each differentiated once: theory's C2, where a product is not one of them."""
    [(A, c), *_], w = instance
    batch = (torch.from_numpy(A), torch.from_numpy(c))

    def evaluations(**options):
        calls = []

        def counted(params, batch):
            calls.append(batch)
            return quadratic(params, batch)

        gl.meta_gradient(counted, unpack(torch.from_numpy(w)), [batch] * nu, batch, fine_tune_lr=ALPHA, **options)
        return len(calls)

    assert evaluations() == evaluations(method="first_order") == nu + 1
    assert evaluations(recompute=True) == 2 * nu + 1  # one more for each product
    assert evaluations(method="hessian_free") == 3 * nu + 1
    for m in range(nu + 1):
        assert evaluations(method="truncated", backprop_steps=m) == nu + 1
        assert evaluations(method="hessian_free", backprop_steps=m) == nu + 1 + 2 * m


WAYS = [
    {},
    {"recompute": True},
    {"method": "first_order"},
    {"method": "truncated", "backprop_steps": 1},
    {"method": "hessian_free"},
    {"method": "hessian_free", "backprop_steps": 1},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", WAYS)
def test_vmap_over_agents_equals_one_after_the_other(way, dtype, rng):
    agents = [[tuple(t.to(dtype) for t in batch) for batch in batches_for(cosines, rng, 4)] for _ in range(3)]
    points = torch.from_numpy(rng.normal(size=(3, 7))).to(dtype)
    if way.get("method") == "hessian_free":
        way = way | {"delta": 1e-3}  # this loss is smooth; the default is for networks with kinks
    # Differences of float32 gradients divide their rounding errors, which are not the same under vmap, by the step.
    tolerance = (1e-3 if way.get("method") == "hessian_free" else 1e-5) if dtype == torch.float32 else 1e-9

    def gradient(w, batches):
        return gl.meta_gradient(cosines, unpack(w), batches[:3], batches[3], fine_tune_lr=ALPHA, **way)

    stacked = [tuple(torch.stack(parts) for parts in zip(*step, strict=True)) for step in zip(*agents, strict=True)]
    together, losses = vmap(gradient)(points, stacked)
    for i, batches in enumerate(agents):
        alone, loss = gradient(points[i], batches)
        assert all(tensor.dtype == dtype for tensor in alone.values())
        np.testing.assert_allclose(pack({k: v[i] for k, v in together.items()}), pack(alone), atol=tolerance)
        assert losses[i].item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_params_are_neither_changed_nor_tied_to_the_result(instance, way):
    [(A, c), *_], w = instance
    batch = (torch.from_numpy(A), torch.from_numpy(c))
    params = {name: tensor.requires_grad_() for name, tensor in unpack(torch.from_numpy(w.copy())).items()}
    gradient, loss = gl.meta_gradient(quadratic, params, [batch] * 2, batch, fine_tune_lr=ALPHA, **way)
    assert not loss.requires_grad
    assert not any(tensor.requires_grad for tensor in gradient.values())
    assert all(tensor.grad is None for tensor in params.values())
    assert np.array_equal(pack({name: tensor.detach() for name, tensor in params.items()}), w)


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_leads_to_a_callers_graph_does_not_tie_the_result_to_it(way):
    anchor = torch.ones(7, dtype=torch.float64, requires_grad=True)

    def pulled(params, batch):
        return quadratic(params, batch) + 0.5 * ((params["b"] - anchor[4:]) ** 2).sum()

    point = unpack(torch.zeros(7, dtype=torch.float64))
    gradient, loss = gl.meta_gradient(pulled, point, [BATCH] * 2, BATCH, fine_tune_lr=ALPHA, **way)
    assert not loss.requires_grad
    assert not any(tensor.requires_grad for tensor in gradient.values())
    assert abs(gradient["b"]).min() > 0.001


def test_meta_loss_can_be_differentiated_by_the_caller(instance):
    [(A, c), *_], w = instance
    batch = (torch.from_numpy(A), torch.from_numpy(c))
    point = torch.from_numpy(w).requires_grad_()
    gl.meta_loss(quadratic, unpack(point), [batch] * 3, batch, fine_tune_lr=ALPHA).backward()
    np.testing.assert_allclose(point.grad.numpy(), closed_form(([(A, c)], w), 6), atol=1e-10)


BATCH = (torch.eye(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "exakt"}, r"method = 'exakt'.*did you mean 'exact'"),
        ({"backprop_steps": 1}, r"backprop_steps = 1: must be left out with the gradient 'exact'"),
        ({"method": "first_order", "backprop_steps": 0}, "left out with the gradient 'first_order'"),
        ({"method": "truncated"}, "None: must be given with the gradient 'truncated', from 0 to nu = 2"),
        ({"method": "truncated", "backprop_steps": 3}, "backprop_steps = 3.*at most 2"),
        ({"method": "truncated", "backprop_steps": -1}, "backprop_steps = -1"),
        ({"delta": 0.1}, "delta = 0.1: must be left out"),
        ({"method": "hessian_free", "delta": 0.0}, "delta = 0.0"),
        ({"fine_tune_lr": -1}, "fine_tune_lr = -1"),
        ({"fine_tune_lr": float("nan")}, "fine_tune_lr = nan"),
        ({"support": BATCH[0]}, "support = 'Tensor'"),
        ({"loss_fn": lambda params, batch: params["b"]}, r"loss_fn: must return a scalar tensor, got shape \(3,\)"),
        ({"loss_fn": lambda params, batch: params["b"].sum() / 0}, "the loss after fine-tuning is not finite: lower"),
        ({"loss_fn": lambda params, batch: params["b"].abs().sqrt().sum(), "support": []}, "gradient .* is not finite"),
        ({"params": {}}, "params = {}: must be a non-empty dict"),
        ({"params": torch.ones(3)}, "params = "),
        ({"params": {"w": torch.ones(3, dtype=torch.int64)}}, r"params\['w'\]: must be a floating-point tensor"),
        ({"params": {"w": 1.0}}, r"params\['w'\].*got float"),
        ({"loss_fn": lambda params, batch: 1.0}, r"loss_fn: must return a scalar tensor, got 1\.0"),
    ],
)
def test_refusals(changes, message):
    arguments = {
        "loss_fn": quadratic,
        "params": unpack(BATCH[1]),
        "support": [BATCH, BATCH],
        "fine_tune_lr": ALPHA,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        gl.meta_gradient(**arguments, query=BATCH)


def test_step_sizes_may_be_tensors_and_be_differentiated():
    """½ w² after two steps: w⁽²⁾ = (1 − α)² w, so that F = ½ (1 − α)⁴ w² and dF/dα = −2 (1 − α)³ w²."""
    half_square = lambda params, batch: 0.5 * (params["w"] ** 2).sum()  # noqa: E731
    w = {"w": torch.tensor([3.0], dtype=torch.float64)}

    def after_two(alpha):
        return gl.meta_loss(half_square, w, [None, None], None, fine_tune_lr=alpha)

    alphas = torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64)
    losses = torch.func.vmap(after_two)(alphas)
    torch.testing.assert_close(losses, 4.5 * (1 - alphas) ** 4)
    assert losses.tolist() == pytest.approx([after_two(alpha).item() for alpha in alphas.tolist()])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(after_two))(alphas), -18 * (1 - alphas) ** 3)


@pytest.mark.parametrize("wrong", [torch.ones(1), torch.tensor(1), torch.ones(2, 3)])
def test_tensors_that_are_no_step_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"fine_tune_lr.*must be a number or a floating-point tensor of shape \[\]"):
        gl.meta_gradient(lambda w, b: w["w"].sum(), {"w": torch.ones(1)}, [None], None, fine_tune_lr=wrong)
