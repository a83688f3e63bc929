"""A gradient that is added from outside the library arrives everywhere it must; one record says all of it."""

import numpy as np
import pytest
import torch
from torch.func import grad_and_value

import gmfl_lite as gl
from gmfl_lite import theory
from gmfl_lite.meta_gradients import METHODS, GradientMethod, add_gradient


def middle(loss_fn, params, support, query, fine_tune_lr, **_):
    """The gradient where half of the way is gone: exact through the second half of the steps, scaled by two."""
    half = gl.fine_tune(loss_fn, params, support[: len(support) // 2], fine_tune_lr)

    def rest(w):
        return loss_fn(gl.fine_tune(loss_fn, w, support[len(support) // 2 :], fine_tune_lr), query)

    gradient, loss = grad_and_value(rest)(half)
    return {name: 2 * tensor for name, tensor in gradient.items()}, loss


RECORD = {
    "name": "middle",
    "help": "twice the gradient from the middle of the way",
    "keeps": "none",
    "backprop_steps": "refused",
    "estimate": middle,
    "cost": lambda nu, kept, product_cost: 100 + nu,
    "on_quadratics": lambda A, M, nu, kept: 2 * A @ np.linalg.matrix_power(M, nu + nu - nu // 2),
    "least_nu": 1,
}


@pytest.fixture
def added():
    add_gradient(GradientMethod(**RECORD))
    yield
    del METHODS["middle"]


def test_it_arrives_everywhere(added, federation):
    base = gl.Experiment(n_agents=12, agents_per_round=4, rounds=2, model="softmax", nu=3, gradient="middle")
    assert gl.Experiment.from_dict(base.to_dict()) == base
    runs = [
        gl.run(base.replace(execution=execution), federation=federation, progress=False).params
        for execution in ("loop", "vectorized")
    ]
    exact = gl.run(base.replace(gradient="exact"), federation=federation, progress=False).params
    page = gl.by_hand(base, federation)
    for name in page:
        for params in runs:
            torch.testing.assert_close(params[name], page[name], rtol=0, atol=1e-5)
        assert (page[name] - exact[name]).abs().max() > 1e-3
    assert theory.meta_gradient_cost(3, "middle") == 103
    table = gl.sweep({"gradient": ["exact", "middle"]}, base.replace(rounds=1), progress=False)
    assert set(table["status"]) == {"completed"}
    explorer = gl.Explorer(base)
    try:
        explorer.set(gradient="exact")
        explorer.set(gradient="middle")
    finally:
        explorer.close()
    flower = pytest.importorskip("gmfl_lite.flower")
    assert flower.from_config(flower.to_config(base)) == base


def test_its_formula_on_quadratics_is_the_gradient(added):
    """Hold the record against itself: the closed form and the estimate are two derivations."""
    agents = theory.Quadratics.random(4, 3, lowest=0.1, highest=1.0, seed=0)
    w, nu, alpha = np.array([0.3, -1.0, 2.0]), 3, 0.4
    found = []
    for A, c in zip(torch.from_numpy(agents.A), torch.from_numpy(agents.c), strict=True):

        def loss_fn(params, _, A=A, c=c):
            return 0.5 * (params["w"] - c) @ A @ (params["w"] - c)

        params = {"w": torch.from_numpy(w)}
        gradient, _ = gl.meta_gradient(loss_fn, params, [None] * nu, None, fine_tune_lr=alpha, method="middle")
        found.append(gradient["w"].numpy())
    np.testing.assert_allclose(np.mean(found, axis=0), agents.meta_gradient(w, nu, alpha, "middle"), rtol=1e-12)
    vanishes = agents.minimiser(nu, alpha, method="middle")
    np.testing.assert_allclose(agents.meta_gradient(vanishes, nu, alpha, "middle"), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost": None}, "cost of gradient 'middle' = None: must be a function, or 'none' where no formula is known"),
        ({"on_quadratics": 3}, "on_quadratics of gradient 'middle' = 3: must be a function, or 'none'"),
        ({"estimate": "none"}, "estimate of gradient 'middle' = 'none': must be a function$"),
        ({"keeps": "some"}, "keeps = 'some'"),
        ({"backprop_steps": "maybe"}, "backprop_steps = 'maybe'"),
        ({"name": "exact"}, "name of a gradient = 'exact': must be another than exact, "),
    ],
)
def test_an_unfit_record_is_refused_when_it_is_added(changes, message):
    before = dict(METHODS)
    with pytest.raises(ValueError, match=message):
        add_gradient(GradientMethod(**{**RECORD, **changes}))
    with pytest.raises(ValueError, match="must be a GradientMethod"):
        add_gradient("middle")
    assert before == METHODS


def test_a_record_without_a_cost_is_refused_when_it_is_made():
    with pytest.raises(TypeError, match="cost"):
        GradientMethod(**{name: value for name, value in RECORD.items() if name != "cost"})


def test_what_has_no_formula_is_refused_where_the_formula_is_asked_for(added):
    METHODS["middle"] = GradientMethod(**{**RECORD, "cost": "none", "on_quadratics": "none"})
    agents = theory.Quadratics.random(4, 3, lowest=0.1, highest=1.0, seed=0)
    for asked in (
        lambda: agents.meta_gradient(np.zeros(3), 2, 0.1, "middle"),
        lambda: agents.minimiser(2, 0.1, method="middle"),
        lambda: agents.round(np.zeros(3), 2, 0.1, 0.1, 1, method="middle"),
        lambda: agents.meta_bias(np.zeros(3), 2, 0.1, "middle"),
        lambda: theory.meta_gradient_cost(3, "middle"),
    ):
        with pytest.raises(ValueError, match=r"method = 'middle': must be one .*'exact'"):
            asked()


def test_reptile_is_the_way_that_fine_tuning_goes(federation):
    """Against plain autograd: (w − w⁽ᵛ⁾)/α, in float64; with ν = 1 it is the gradient at w."""
    x, y = federation.train(0)
    model = gl.build_model("softmax", federation).double()
    predict, w = gl.models.as_functions(model, torch.device("cpu"))
    loss_fn = gl.models.cross_entropy(predict)
    batch = (x.double(), y, torch.full((len(y),), 1 / len(y), dtype=torch.float64))
    for nu, alpha in ((1, 0.3), (4, 0.3), (3, 1e-9)):
        found, loss = gl.meta_gradient(loss_fn, w, [batch] * nu, batch, fine_tune_lr=alpha, method="reptile")
        weights = [tensor.detach().clone().requires_grad_() for tensor in model.parameters()]
        total = [torch.zeros_like(tensor) for tensor in weights]
        for _ in range(nu):
            logits = x.double().flatten(1) @ weights[0].T + weights[1]
            gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), weights)
            total = [t + g for t, g in zip(total, gradients, strict=True)]
            weights = [(p - alpha * g).detach().requires_grad_() for p, g in zip(weights, gradients, strict=True)]
        for tensor, expected in zip(found.values(), total, strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-10, atol=1e-12)
        logits = x.double().flatten(1) @ weights[0].T + weights[1]
        assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), abs=1e-12)


def test_reptile_on_quadratics():
    agents = theory.Quadratics.random(5, 3, lowest=0.05, highest=1.5, seed=3)
    w, nu, alpha = np.array([1.0, 2.0, -1.0]), 4, 0.3
    walked = np.broadcast_to(w, agents.c.shape)
    for _ in range(nu):
        walked = walked - alpha * np.einsum("nij,nj->ni", agents.A, walked - agents.c)
    np.testing.assert_allclose(
        agents.meta_gradient(w, nu, alpha, "reptile"), ((w - walked) / alpha).mean(0), rtol=1e-10
    )


def test_reptile_without_a_step_is_refused():
    with pytest.raises(gl.ExperimentError, match="nu = 0: must be at least 1 with the gradient 'reptile'"):
        gl.Experiment(gradient="reptile", nu=0)
