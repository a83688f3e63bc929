"""Measured constants against dense gradients and Hessians, and a real run against its bound."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.func import grad, jacrev

import gmfl_lite as gl
from gmfl_lite import theory
from gmfl_lite.basics import ragged
from gmfl_lite.engine import agents_axis as vectorize
from gmfl_lite.models import as_functions, cross_entropy
from gmfl_lite.theory.spectrum import curvatures, spectrum_ends

NU, ALPHA = 2, 0.4


@pytest.fixture(scope="module")
def tiny():
    """Five agents with 2×2 images of three classes, so that dense Hessians are cheap."""
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(3, size=100))
    x = torch.from_numpy(rng.normal(size=(100, 1, 2, 2)) + y.numpy()[:, None, None, None]).float()
    parts = gl.partition(y, gl.Dirichlet(0.5, size_spread=0.5), 6, seed=0, min_samples=5)
    return gl.Federation.from_partition(gl.Dataset("tiny", x, y, tuple("abc")), parts, n_new_agents=1)


def small_model(hidden):
    """Softmax regression, which is convex, or a tanh network, which is not; with weights of size one."""
    with torch.device("meta"):  # so that the layers' constructors draw nothing
        layers = [torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)] if hidden else [torch.nn.Linear(4, 3)]
        model = torch.nn.Sequential(torch.nn.Flatten(), *layers)
    model.to_empty(device="cpu")
    draws = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=draws)
    return model


def dense(federation, model):
    """Everything that is measured, in float64 from dense Hessians of flat parameters."""
    predict, params = as_functions(model.double(), torch.device("cpu"))
    model.float()
    shapes = {name: tensor.shape for name, tensor in params.items()}
    w = torch.cat([tensor.flatten() for tensor in params.values()])

    def unpack(flat):
        parts = flat.split([shape.numel() for shape in shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def loss_of(agent):
        x, y = federation.train(agent)
        return lambda flat: torch.nn.functional.cross_entropy(predict(unpack(flat), x.double()), y)

    losses = [loss_of(agent) for agent in range(federation.n_agents)]

    def average(flat):
        return sum(loss(flat) for loss in losses) / len(losses)

    def descend(loss, flat, steps):
        for _ in range(steps):
            flat = flat - ALPHA * grad(loss)(flat)
        return flat

    def meta(loss):
        return lambda flat: loss(descend(loss, flat, NU))

    def hessian(loss, flat):
        return jacrev(grad(loss))(flat).numpy()

    def gradients(functions, flat):
        return np.stack([grad(f)(flat).numpy() for f in functions])

    def apart(values):
        return values - values.mean(0)

    own = [(loss, descend(loss, w, j)) for loss in losses for j in range(NU + 1)]
    eigenvalues = np.stack([np.linalg.eigvalsh(hessian(*point)) for point in own])
    way = [descend(average, w, j) for j in range(NU + 1)]
    spreads = [apart(np.stack([hessian(loss, flat) for loss in losses])) for flat in way]
    meta_gradients = gradients([meta(loss) for loss in losses], w)
    return {
        "smoothness": np.abs(eigenvalues).max(),
        "negative_curvature": -eigenvalues.min(),
        "gradient_bound": max(grad(loss)(flat).norm().item() for loss, flat in own),
        "gradient_heterogeneity": max(np.sqrt((apart(gradients(losses, flat)) ** 2).sum(1).mean()) for flat in way),
        "hessian_heterogeneity": max(
            np.sqrt((np.linalg.norm(spread, 2, axis=(1, 2)) ** 2).mean()) for spread in spreads
        ),
        "meta_heterogeneity": np.sqrt((apart(meta_gradients) ** 2).sum(1).mean()),
        "meta_smoothness": max(np.linalg.norm(hessian(meta(loss), w), 2) for loss in losses),
        "meta_loss": np.mean([meta(loss)(w).item() for loss in losses]),
        "meta_gradient_norm": np.linalg.norm(meta_gradients.mean(0)),
    }


@pytest.mark.parametrize("hidden", [False, True])
def test_measured_constants_are_those_of_dense_hessians(tiny, hidden):
    model = small_model(hidden)
    expected = dense(tiny, model)
    found = theory.estimate_constants(model, tiny, nu=NU, fine_tune_lr=ALPHA)
    assert (found.nu, found.fine_tune_lr, found.n_agents) == (NU, ALPHA, 5)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=0.01, abs=1e-5), name
    assert (expected["negative_curvature"] > 0.1) == hidden


def test_the_whole_trajectory_counts(tiny):
    """f(w) = w³/6 − w for everybody: from 0 on, the curvature w grows and the gradient shrinks with every step."""

    def loss_fn(params, batch):
        return (params["w"] ** 3 / 6 - params["w"]).sum() * batch[2].sum()

    found = theory.estimate_constants(loss_fn, tiny, {"w": torch.zeros(1)}, nu=NU, fine_tune_lr=ALPHA)
    first = ALPHA
    assert found.smoothness == pytest.approx(first + ALPHA * (1 - first**2 / 2))
    assert found.gradient_bound == pytest.approx(1)
    assert found.negative_curvature == 0
    assert max(found.gradient_heterogeneity, found.hessian_heterogeneity, found.meta_heterogeneity) < 1e-6


def test_few_iterations_come_from_inside(tiny):
    model = small_model(hidden=True)
    expected = dense(tiny, model)
    for iterations in (2, 4, 8):
        found = theory.estimate_constants(model, tiny, nu=NU, fine_tune_lr=ALPHA, iterations=iterations)
        for name in ("smoothness", "negative_curvature", "hessian_heterogeneity", "meta_smoothness"):
            assert getattr(found, name) <= expected[name] * (1 + 1e-5)
    assert found.smoothness == pytest.approx(expected["smoothness"], rel=0.01)


@pytest.mark.slow
def test_agents_of_each_size_in_their_own_group_give_the_same(tiny, monkeypatch):
    whole = theory.estimate_constants(small_model(True), tiny, nu=NU, fine_tune_lr=ALPHA)
    monkeypatch.setattr(ragged, "padded", lambda sizes: sizes)
    assert len(tiny.alike(tiny.groups["trained"])) > 1
    grouped = theory.estimate_constants(small_model(True), tiny, nu=NU, fine_tune_lr=ALPHA)
    for name, value in vars(whole).items():
        assert getattr(grouped, name) == pytest.approx(value, rel=1e-4)


@pytest.mark.slow
def test_a_loss_function_and_chunks_give_the_same(tiny, monkeypatch):
    model = small_model(hidden=True)
    whole = theory.estimate_constants(model, tiny, nu=NU, fine_tune_lr=ALPHA)
    assert theory.estimate_constants(model, tiny, nu=NU, fine_tune_lr=ALPHA) == whole  # deterministic
    predict, params = as_functions(model, torch.device("cpu"))
    monkeypatch.setattr(vectorize, "CHUNK_ELEMENTS", 1)
    other = theory.estimate_constants(cross_entropy(predict), tiny, params, nu=NU, fine_tune_lr=ALPHA)
    for name, value in vars(whole).items():
        assert getattr(other, name) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("eigenvalues", [[3.0, 1.0, 2.0], [-5.0, -1.0, 4.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
def test_spectrum_ends_of_few_and_repeated_eigenvalues(eigenvalues):
    """Lanczos ends early where eigenvalues repeat; what follows must not count as an eigenvalue zero."""
    diagonal = torch.tensor([eigenvalues], dtype=torch.float64).repeat(1, 4)
    ends = spectrum_ends(lambda v: {"w": diagonal * v["w"]}, {"w": torch.zeros_like(diagonal)}, 12)
    assert [end.item() for end in ends] == pytest.approx([min(eigenvalues), max(eigenvalues)], abs=1e-9)


def test_spectrum_ends_against_dense_eigenvalues(rng):
    matrices = rng.normal(size=(4, 60, 60))
    matrices = torch.from_numpy(matrices + matrices.swapaxes(1, 2))
    ends = spectrum_ends(
        lambda v: {"w": torch.einsum("nij,nj->ni", matrices, v["w"])}, {"w": torch.zeros(4, 60).double()}, 60
    )
    expected = np.linalg.eigvalsh(matrices.numpy())
    np.testing.assert_allclose(torch.stack(ends).T, expected[:, [0, -1]], rtol=1e-9)


def test_curvatures_are_the_largest_absolute_eigenvalues(rng):
    matrices = rng.normal(size=(5, 12, 12))
    matrices = torch.from_numpy(matrices + matrices.swapaxes(1, 2))

    def loss_fn(params, matrix):
        return 0.5 * params["w"] @ matrix @ params["w"]

    found = curvatures(loss_fn, {"w": torch.zeros(5, 12).double()}, matrices)
    np.testing.assert_allclose(found, abs(np.linalg.eigvalsh(matrices.numpy())).max(axis=1), rtol=1e-9)


MEASURED = theory.Constants(
    nu=5, fine_tune_lr=0.5, n_agents=10, smoothness=2.0, negative_curvature=0.5, gradient_bound=1.0,
    gradient_heterogeneity=1.0, hessian_heterogeneity=1.0, meta_heterogeneity=0.7, meta_smoothness=3.0, meta_loss=2.0,
    meta_gradient_norm=0.5,
)  # fmt: skip


def test_advice_is_the_theory_in_numbers_and_words():
    found = theory.advice(MEASURED, local_steps=4, agents_per_round=2, target=0.2, meta_std=0.3)
    assert found.fine_tune_lr == theory.largest_safe_fine_tune_lr(5, 2.0, 0.5)
    assert found.largest_meta_lr == 1 / 24
    plan = theory.prescription(
        0.1,
        local_steps=4,
        initial_gap=2.0,
        meta_smoothness=3.0,
        n_agents=10,
        agents_per_round=2,
        meta_heterogeneity=0.7,
        meta_std=0.3,
    )
    assert (found.meta_lr, found.rounds) == (plan.meta_lr, plan.rounds)
    assert "up to 0.3 is safe for nu = 5; 0.5 is not" in str(found)
    assert "up to 0.042 for local_steps = 4" in str(found)
    bound = theory.convergence_bound(
        rounds=found.rounds,
        local_steps=4,
        meta_lr=found.meta_lr,
        meta_smoothness=3.0,
        initial_gap=2.0,
        n_agents=10,
        agents_per_round=2,
        meta_heterogeneity=0.7,
        meta_std=0.3,
    )
    assert bound.total <= 0.01
    assert "norm 0.1 on average (now 0.5), with exact gradients and mini-batches of standard deviation 0.3;" in str(
        found
    )


def test_advice_for_biased_gradients():
    setting = {"local_steps": 4, "agents_per_round": 10}
    exact = theory.advice(MEASURED, target=0.2, **setting)
    biased = theory.advice(MEASURED, target=0.2, meta_bias=0.05, **setting)
    assert biased.meta_lr < exact.meta_lr
    assert "norm 0.1 on average (now 0.5), with exact gradients and the full batch;" in str(exact)
    assert "norm 0.17 on average (now 0.5), with gradients of bias 0.05 and the full batch;" in str(biased)
    bound = theory.convergence_bound(
        rounds=biased.rounds,
        meta_lr=biased.meta_lr,
        meta_smoothness=3.0,
        initial_gap=2.0,
        n_agents=10,
        meta_heterogeneity=0.7,
        meta_bias=0.05,
        **setting,
    )
    assert bound.total <= 0.01 + 7.3 * 0.05**2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_or_loss": 3}, "model_or_loss = 3: must be a torch.nn.Module or a loss"),
        ({"model_or_loss": lambda params, batch: 0}, "params = None: must be given with a loss"),
        ({"federation": "digits"}, "federation = 'str': must be a gmfl_lite.Federation"),
        ({"params": {"w": torch.ones(1)}}, "params: must have the names and shapes"),
        ({"nu": -1}, "nu = -1"),
        ({"fine_tune_lr": -1}, "fine_tune_lr = -1"),
        ({"iterations": 1}, "iterations = 1"),
    ],
)
def test_wrong_values_are_refused(tiny, change, message):
    setting = {"model_or_loss": gl.build_model("softmax", tiny), "federation": tiny, "nu": 1, "fine_tune_lr": 0.1}
    with pytest.raises(ValueError, match=message):
        theory.estimate_constants(**setting | change)


def test_advice_refuses_what_was_not_measured():
    with pytest.raises(ValueError, match="measured = 'dict': must be what estimate_constants returns"):
        theory.advice({}, local_steps=1, agents_per_round=1)
    with pytest.raises(ValueError, match=r"meta_loss F\(w\) = -0.5 is below 0, .*: add a constant to the loss"):
        theory.advice(dataclasses.replace(MEASURED, meta_loss=-0.5), local_steps=1, agents_per_round=1)
