"""Few samples to learn from, and wrong labels among them: who holds what, and what is scored all the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import gmfl_lite as gl


def dealt(digits, n=12, seed=1, **how):
    parts = gl.partition(digits.y, gl.Dirichlet(0.5), n, seed=1)
    return gl.Federation.from_partition(digits, parts, n_new_agents=3, seed=seed, **how)


def rows(federation, agent):
    """The agent's training images, each as the bytes that tell it from all others."""
    return [image.numpy().tobytes() for image in federation.train(agent)[0]]


@settings(deadline=None, max_examples=20)
@given(shots=st.integers(1, 40), permuted=st.sampled_from([0, 4, 10]))
def test_an_agent_keeps_so_many_of_each_class_and_is_scored_as_before(digits, shots, permuted):
    whole, few = (dealt(digits, permuted_classes=permuted, shots=k) for k in (None, shots))
    for agent in range(12):
        counts, kept = (torch.bincount(f.train(agent)[1], minlength=10) for f in (whole, few))
        assert torch.equal(kept, counts.clamp(max=shots))
        assert {*rows(few, agent)} <= {*rows(whole, agent)}
        assert all(torch.equal(*pair) for pair in zip(few.test(agent), whole.test(agent), strict=True))
    assert few.sizes.tolist() == [len(few.train(a)[1]) + len(few.test(a)[1]) for a in range(12)]


def test_fewer_shots_are_among_more_of_them_and_are_drawn(digits):
    one, five = (dealt(digits, shots=k) for k in (1, 5))
    assert all({*rows(one, agent)} <= {*rows(five, agent)} for agent in range(12))
    first = [min(rows_of := rows(dealt(digits), agent), key=rows_of.index) for agent in range(12)]
    assert sum(first[agent] in rows(one, agent) for agent in range(12)) < 12, "not the first of each class: drawn"
    assert all(rows(dealt(digits, shots=3), agent) == rows(dealt(digits, shots=3), agent) for agent in range(12))


@pytest.mark.parametrize("noise", [0.05, 0.3, 0.9])
def test_so_many_training_labels_are_wrong_and_no_scored_one(digits, noise):
    changed, became, total = 0, np.zeros(10), 0
    for seed in range(4):
        how = {"seed": seed, "permuted_classes": 10 * (seed % 2)}
        clean, noisy = (dealt(digits, label_noise=p, **how) for p in (0.0, noise))
        for agent in range(12):
            (x, y), (same_x, noisy_y) = clean.train(agent), noisy.train(agent)
            assert torch.equal(x, same_x)
            assert all(torch.equal(*pair) for pair in zip(noisy.test(agent), clean.test(agent), strict=True))
            wrong = y != noisy_y
            changed, total = changed + int(wrong.sum()), total + len(y)
            became += np.bincount(((noisy_y - y) % 10)[wrong], minlength=10)
    assert stats.binomtest(changed, total, noise).pvalue > 1e-3
    assert became[0] == 0
    assert stats.chisquare(became[1:]).pvalue > 1e-3, "every other class alike"


def test_wrong_labels_are_the_same_however_many_shots_there_are(digits):
    noisy, few = dealt(digits, label_noise=0.5), dealt(digits, label_noise=0.5, shots=2)
    clean = dealt(digits, shots=2)
    for agent in range(12):
        label = dict(zip(rows(noisy, agent), noisy.train(agent)[1].tolist(), strict=True))
        assert [label[image] for image in rows(few, agent)] == few.train(agent)[1].tolist()
        assert rows(few, agent) == rows(clean, agent), "chosen by the true classes"


@pytest.mark.parametrize("execution", ["vectorized", "loop"])
def test_they_are_trained_with(execution):
    experiment = gl.Experiment(
        partition="iid", permuted_classes=10, shots=2, label_noise=0.2, n_agents=8, n_new_agents=2, agents_per_round=4,
        rounds=3, model="softmax", batch_size=None, execution=execution, device="cpu", precision="float64",
    )  # fmt: skip
    result = gl.run(experiment, progress=False)
    page = gl.by_hand(experiment)
    for name, tensor in result.params.items():
        torch.testing.assert_close(tensor, page[name], rtol=0, atol=1e-10)
    federation = gl.build_federation(experiment)
    assert federation.train_sizes.tolist() == [20] * 10
    assert len(federation.test(0)[1]) == len(gl.build_federation(experiment.replace(shots=None)).test(0)[1])
    other = gl.build_federation(experiment.replace(nu=7, server="adam", meta_lr=0.7))
    assert all(torch.equal(*pair) for pair in zip(federation.train(3), other.train(3), strict=True))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"shots": 0}, "shots = 0: must be an integer of at least 1"),
        ({"shots": 1.5}, r"shots = 1\.5"),
        ({"label_noise": 1}, "label_noise = 1: must be a finite number of at least 0, and below 1"),
        ({"label_noise": -0.1}, r"label_noise = -0\.1"),
        ({"label_noise": float("nan")}, "label_noise = nan"),
    ],
)
def test_wrong_values_are_refused(digits, how, words):
    with pytest.raises(ValueError, match=words):
        dealt(digits, **how)
    with pytest.raises(ValueError, match=words):
        gl.Experiment(**how)


def test_one_class_has_no_other(digits):
    alone = gl.Dataset("zeros", digits.x[:40], torch.zeros(40, dtype=torch.int64), ("zero",))
    with pytest.raises(ValueError, match=r"label_noise = 0\.5: must be 0: there is one class"):
        gl.Federation.from_partition(alone, [np.arange(20), np.arange(20, 40)], label_noise=0.5)
