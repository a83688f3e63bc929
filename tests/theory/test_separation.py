"""Where rounds come to rest for any τ, and agents for which averaging is as bad as one likes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gmfl_lite as gl

Quadratics = gl.theory.Quadratics
AGENTS = Quadratics.random(7, 3, lowest=0.05, highest=1.0, seed=2)


@pytest.mark.parametrize("local_steps", [1, 2, 5, 20])
@pytest.mark.parametrize(
    "how",
    [
        {"nu": 0},
        {"nu": 2},
        {"nu": 2, "method": "first_order"},
        {"nu": 3, "method": "truncated", "backprop_steps": 1},
        {"nu": 3, "method": "reptile"},
    ],
    ids=str,
)
def test_rounds_come_to_rest_at_the_fixed_point_however_far_the_server_goes(how, local_steps):
    how = {"fine_tune_lr": 0.4, "meta_lr": 0.5, "local_steps": local_steps} | how
    expected = AGENTS.fixed_point(**how)
    for server_lr in (1.0, 0.3, 1.5):
        visited = AGENTS.train(np.zeros(3), **how, rounds=4000, server_lr=server_lr)
        np.testing.assert_allclose(visited[-1, 0], expected, atol=1e-9)


def test_with_one_local_step_it_is_the_minimiser():
    for nu in (0, 1, 4):
        np.testing.assert_allclose(AGENTS.fixed_point(nu, 0.4, 0.3, 1), AGENTS.minimiser(nu, 0.4), atol=1e-12)


def test_agents_with_directions_that_they_do_not_care_for_have_one_too():
    """Of rank one each, as agents with fewer samples than parameters, and together of full rank."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(9, 3))
    agents = Quadratics(np.einsum("ni,nj->nij", directions, directions) / 10, rng.normal(size=(9, 3)))
    expected = agents.fixed_point(1, 0.2, 0.3, 4)
    visited = agents.train(np.zeros(3), 1, 0.2, 0.3, 4, rounds=5000)
    np.testing.assert_allclose(visited[-1, 0], expected, atol=1e-9)


@pytest.mark.slow
def test_library_training_comes_to_rest_there():
    """The vectorised trainer on regression, whose losses are quadratics, with all agents in every round."""
    import torch

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5 * 12, 2)) * np.repeat([0.3, 0.5, 1.0, 1.2, 0.7], 12)[:, None]
    y = np.concatenate([x[12 * i : 12 * i + 12] @ rng.normal(size=(2, 1)) for i in range(5)])
    y += 0.1 * rng.normal(size=y.shape)
    dataset = gl.Dataset("lines", torch.from_numpy(x).float(), torch.from_numpy(y).float())
    federation = gl.Federation.from_partition(dataset, np.split(np.arange(60), 5))
    experiment = gl.Experiment(
        model="softmax", nu=2, fine_tune_lr=0.2, meta_lr=0.3, local_steps=4, rounds=3000, agents_per_round=5,
        batch_size=None, n_agents=5, n_new_agents=0, eval_every=3000, eval_steps=(0,), device="cpu",
        precision="float64",
    )  # fmt: skip
    w = gl.run(experiment, federation=federation, progress=False).params
    A, c = [], []
    for agent in range(5):
        inputs, numbers = (t.double().numpy() for t in federation.train(agent))
        inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
        A.append(2 * inputs.T @ inputs / len(inputs))
        c.append(np.linalg.lstsq(inputs, numbers[:, 0], rcond=None)[0])
    expected = Quadratics(A, c).fixed_point(2, 0.2, 0.3, 4)
    found = np.append(w["1.weight"].numpy()[0], w["1.bias"].numpy())
    np.testing.assert_allclose(found, expected, atol=1e-8)


@settings(deadline=None, max_examples=200)
@given(
    ratio=st.floats(0.01, 1e9),
    nu=st.integers(1, 30),
    alpha=st.floats(1e-3, 1e3),
    part=st.floats(0.01, 1.95),
    tau=st.integers(1, 40),
)
def test_averaging_is_as_bad_as_one_likes(ratio, nu, alpha, part, tau):
    """The oracle is the arithmetic of two numbers on the line."""
    agents = gl.theory.separating_agents(ratio, nu=nu, fine_tune_lr=alpha, meta_lr=part * alpha, local_steps=tau)
    a, c = agents.A[:, 0, 0], agents.c[:, 0]
    assert (a > 0).all()
    weights = 1 - (1 - part * alpha * a) ** tau
    averaged = weights @ c / weights.sum()
    left = a * (1 - alpha * a) ** (2 * nu)
    best = left @ c / left.sum()
    after = [left @ (w - c) ** 2 for w in (averaged, best)]
    assert after[0] > ratio * after[1] * (1 - 1e-9)


@pytest.mark.slow
def test_simulated_rounds_show_it():
    agents = gl.theory.separating_agents(1000, nu=5, fine_tune_lr=0.5, meta_lr=0.2, local_steps=10)
    fedavg = agents.train([0.0], 0, 0.5, 0.2, 10, rounds=3000)[-1, 0]
    ahead = agents.train([0.0], 5, 0.5, 0.9, 1, rounds=300_000)[-1, 0]
    assert agents.meta_loss(fedavg, 5, 0.5) > 1000 * agents.meta_loss(agents.minimiser(5, 0.5), 5, 0.5)
    assert agents.meta_loss(fedavg, 5, 0.5) > 100 * agents.meta_loss(ahead, 5, 0.5)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"ratio": 0}, "ratio = 0: must be"),
        ({"ratio": np.inf}, "ratio = inf"),
        ({"nu": 0}, "nu = 0: must be an integer of at least 1"),
        ({"meta_lr": 1.0}, r"meta_lr = 1\.0: must be below 2 · fine_tune_lr = 1"),
        ({"local_steps": 0}, "local_steps = 0"),
    ],
)
def test_what_cannot_be_is_refused(how, words):
    with pytest.raises(ValueError, match=words):
        gl.theory.separating_agents(**{"ratio": 2, "nu": 1, "fine_tune_lr": 0.5, "meta_lr": 0.1} | how)


@pytest.mark.parametrize(
    ("A", "meta_lr", "words"),
    [
        ([[[1.0]], [[0.5]]], 2.0, r"meta_lr = 2\.0: must be below 2: else local steps go ever further"),
        ([[[1.0]], [[-0.5]]], 0.1, r"meta_lr = 0\.1: must be used with curvatures of at least 0"),
        ([[[0.0]], [[0.0]]], 0.1, "no agent moves"),
    ],
)
def test_without_a_point_to_rest_at_there_is_none(A, meta_lr, words):
    with pytest.raises(ValueError, match=words):
        Quadratics(A, [[1.0], [0.0]]).fixed_point(0, 0.1, meta_lr, 3)
