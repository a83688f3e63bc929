"""The server's side of a round: its step, and what is refused."""

import numpy as np
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite import server, theory


def test_the_step_of_the_whole_way_is_the_average_to_the_bit():
    w, average = {"w": torch.full((3,), 0.1)}, {"w": torch.tensor([0.3, 1e-8, 7.0])}
    after, memory = gl.server_step(w, average)
    assert after["w"] is average["w"]
    assert memory == {}
    half, _ = gl.server_step(w, average, server_lr=0.5)
    torch.testing.assert_close(half["w"], (w["w"] + average["w"]) / 2)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"server": "averge"}, "did you mean 'average'"),
        ({"server_lr": 0}, "server_lr = 0: must be a finite number above 0"),
        ({"server_lr": float("nan")}, "server_lr = nan"),
    ],
)
def test_a_wrong_step_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        gl.server_step({"w": torch.zeros(1)}, {"w": torch.ones(1)}, **how)
    with pytest.raises(gl.ExperimentError, match=message):
        gl.Experiment(**how)


def test_half_a_step_is_half_the_way_of_a_round(federation):
    experiment = gl.Experiment(n_agents=12, agents_per_round=4, rounds=1, model="softmax")
    start = gl.build_model("softmax", federation).state_dict()
    whole, half = (
        gl.run(experiment.replace(server_lr=lr), federation=federation, progress=False).params for lr in (1.0, 0.5)
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(half[name], (start[name] + tensor) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("loss", "w", "words"), [
    (float("nan"), 0.0, "the meta-loss grew to nan"),
    (9.0, 0.0, "the meta-loss grew to 9"),
    (1.0, float("inf"), "the averaged parameters are not finite"),
])  # fmt: skip
def test_what_counts_as_divergence(loss, w, words):
    server.check_round(8.0, {"w": torch.zeros(2)}, 8.0)
    with pytest.raises(server.Diverged, match=words):
        server.check_round(loss, {"w": torch.tensor([0.0, w])}, 8.0)


def test_train_itself_says_that_it_diverged(federation):
    experiment = gl.Experiment(n_agents=12, agents_per_round=4, rounds=30, model="mlp", meta_lr=50.0, nu=1)
    predict, w = gl.models.as_functions(gl.build_model("mlp", federation), torch.device("cpu"))
    with pytest.raises(server.Diverged):
        list(gl.train(experiment, federation, gl.models.cross_entropy(predict), w))


def test_quadratics_take_the_servers_step():
    agents = theory.Quadratics.random(4, 3, lowest=0.1, highest=1.0, seed=0)
    w, how = [1.0, -1.0, 2.0], (2, 0.3, 0.5, 3)
    whole, half = (agents.round(w, *how, server_lr=lr) for lr in (1.0, 0.5))
    np.testing.assert_allclose(half, (np.array(w) + whole) / 2, rtol=1e-12)
    walked = agents.train(w, *how, rounds=2, server_lr=0.5)
    np.testing.assert_allclose(walked[1, 0], half, rtol=1e-12)
    np.testing.assert_allclose(walked[2, 0], agents.round(half, *how, server_lr=0.5), rtol=1e-12)


def test_observations_refuse_a_step_that_the_bounds_do_not_know():
    experiment = gl.Experiment(model="softmax", n_agents=4, agents_per_round=4, batch_size=None, server_lr=0.5)
    with pytest.raises(ValueError, match=r"server_lr = 0\.5: must be 'average' with server_lr = 1"):
        theory.observe(experiment)
