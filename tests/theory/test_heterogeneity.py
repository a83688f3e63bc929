"""Measures of heterogeneity against scipy's and NumPy's own, and dense Hessians."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

import gmfl_lite as gl
from gmfl_lite.basics import ragged


def test_label_measures_are_the_textbooks(federation):
    found = gl.label_heterogeneity(federation)
    mixes = []
    for agent in range(15):
        labels = torch.cat([federation.train(agent)[1], federation.test(agent)[1]]).numpy()
        mixes.append(np.bincount(labels, minlength=10) / len(labels))
    average = np.mean(mixes, axis=0)
    for agent, mix in enumerate(mixes):
        row = found.loc[agent]
        assert row["label_entropy"] == pytest.approx(entropy(mix))
        assert row["effective_classes"] == pytest.approx(np.exp(entropy(mix)))
        # total variation: the largest difference that the two mixes give to any set of classes
        assert row["total_variation"] == pytest.approx(np.clip(mix - average, 0, None).sum())


def test_label_measures_at_both_ends(digits):
    one_class = gl.Federation.from_partition(digits, gl.partition(digits.y, gl.Shards(1), 10, seed=0))
    means = gl.label_heterogeneity(one_class).mean()
    assert means.tolist() == pytest.approx([0, 1, 0.9])
    alike = gl.Federation.from_partition(digits, gl.partition(digits.y, gl.Dirichlet(1e6), 5, seed=0))
    means = gl.label_heterogeneity(alike).mean()
    assert means["effective_classes"] > 9.9
    assert means["total_variation"] < 0.02


@pytest.fixture(scope="module")
def tiny():
    """Five agents with 2×2 images of three classes, so that dense Hessians are cheap."""
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(3, size=100))
    x = torch.from_numpy(rng.normal(size=(100, 1, 2, 2)) + y.numpy()[:, None, None, None]).float()
    dataset = gl.Dataset("tiny", x, y, tuple("abc"))
    parts = gl.partition(y, gl.Dirichlet(0.5, size_spread=0.5), 6, seed=0, min_samples=5)
    return gl.Federation.from_partition(dataset, parts, n_new_agents=1)


def dense(federation, model, w):
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def loss(flat, agent):
        pieces = torch.split(flat, [shape.numel() for shape in shapes.values()])
        params = {name: p.reshape(shape) for (name, shape), p in zip(shapes.items(), pieces, strict=True)}
        x, y = federation.train(agent)
        return torch.nn.functional.cross_entropy(torch.func.functional_call(model, params, x), y)

    flat = torch.cat([w[name].flatten() for name in shapes])
    agents = range(federation.n_agents)
    gradients = np.stack([torch.autograd.functional.jacobian(lambda u: loss(u, i), flat).numpy() for i in agents])  # noqa: B023
    hessians = np.stack([torch.autograd.functional.hessian(lambda u: loss(u, i), flat).numpy() for i in agents])  # noqa: B023
    return gradients, hessians


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("layers", [[], [torch.nn.Tanh()]])
def test_model_measures_equal_dense_gradients_and_hessians(tiny, layers, grouped, monkeypatch):
    """Convex without, not convex with the Tanh; all agents in one group, or those of each size in their own."""
    if grouped:
        monkeypatch.setattr(ragged, "padded", lambda sizes: sizes)
    assert len(tiny.alike(tiny.groups["trained"])) == (5 if grouped else 1)
    model = torch.nn.Sequential(*gl.build_model("softmax", tiny), *layers)
    w = {name: 2 * parameter.detach() for name, parameter in model.named_parameters()}
    gradients, hessians = dense(tiny, model, w)
    gamma_g = np.sqrt(((gradients - gradients.mean(0)) ** 2).sum(1).mean())
    gamma_h = np.sqrt((np.linalg.norm(hessians - hessians.mean(0), ord=2, axis=(1, 2)) ** 2).mean())
    found = gl.model_heterogeneity(tiny, model, w, iterations=200)
    assert found.gradient == pytest.approx(gamma_g, rel=1e-4)
    assert found.hessian == pytest.approx(gamma_h, rel=1e-2)
    assert found.hessian <= gamma_h * (1 + 1e-4)  # the power method comes from below


def test_agents_that_are_alike_are_alike(digits):
    copies = gl.Dataset("copies", digits.x[:40].repeat(4, 1, 1, 1), digits.y[:40].repeat(4), digits.classes)
    federation = gl.Federation.from_partition(copies, np.arange(160).reshape(4, 40), test_fraction=0.5)
    first = federation._train.of(0) % 40
    federation._train.index.copy_((first + 40 * torch.arange(4)[:, None]).flatten())
    found = gl.model_heterogeneity(federation, gl.build_model("softmax", federation), iterations=10)
    assert found.gradient < 1e-6
    assert found.hessian < 1e-6


def test_refusals(tiny):
    model = gl.build_model("softmax", tiny)
    with pytest.raises(ValueError, match="params: must have the names and shapes"):
        gl.model_heterogeneity(tiny, model, {"w": torch.ones(3)})
    with pytest.raises(ValueError, match="iterations = 0"):
        gl.model_heterogeneity(tiny, model, iterations=0)
