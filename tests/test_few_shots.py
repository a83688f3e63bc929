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


def positions_of(federation, agents, **how):
    """The rows of support and query batches, by the bytes of their images, of every agent and local step."""
    settings = {"nu": 2, "local_steps": 3, "batch_size": 6, "seed": 0, "round": 0, "query": "disjoint"} | how
    for support, query in federation.batches(torch.tensor(agents), **settings):
        for place, agent in enumerate(agents):
            kept = [
                [image.numpy().tobytes() for image in x[place][weight[place] > 0]] for x, _, weight in [query, *support]
            ]
            yield agent, kept[0], kept[1:]


def numbered(sizes, classes=3):
    """Agents of these sizes of training samples, each sample its own number and of the class of its remainder."""
    total = sum(sizes) + len(sizes)
    x, y = torch.arange(total, dtype=torch.float32).reshape(-1, 1, 1, 1), torch.arange(total) % classes
    parts = np.split(np.arange(total), np.cumsum([size + 1 for size in sizes])[:-1])
    return gl.Federation.from_partition(gl.Dataset("numbers", x, y, tuple("abc")), parts, test_fraction=1e-9)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.integers(2, 70), min_size=1, max_size=6),
    nu=st.integers(0, 6),
    batch_size=st.one_of(st.none(), st.integers(1, 40)),
    round=st.integers(0, 1000),
)
def test_no_query_sample_is_in_its_support(sizes, nu, batch_size, round):
    federation = numbered(sizes)
    assert federation.train_sizes.tolist() == sizes
    how = {"nu": nu, "batch_size": batch_size, "local_steps": 50, "round": round}  # 10,000 steps in all
    for agent, query, support in positions_of(federation, list(range(len(sizes))), **how):
        own = {*rows(federation, agent)}
        assert {*query} <= own
        assert len({*query}) == len(query) == min(batch_size or 100, sizes[agent] // 2)
        assert len(support) == nu
        for batch in support:
            assert {*batch} <= own - {*query}
            assert len({*batch}) == len(batch) == min(batch_size or 100, (sizes[agent] + 1) // 2)


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(2, 70), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_halves_are_alike_in_their_classes_and_are_dealt_anew_in_every_local_step(sizes, seed):
    federation = numbered(sizes)
    everything = {"batch_size": None, "nu": 1, "local_steps": 8, "seed": seed}
    kept = {agent: set() for agent in range(len(sizes))}
    for agent, query, (support,) in positions_of(federation, list(range(len(sizes))), **everything):
        label = dict(zip(rows(federation, agent), federation.train(agent)[1].tolist(), strict=True))
        counts = [np.bincount([label[image] for image in half], minlength=3) for half in (support, query)]
        assert np.abs(counts[0] - counts[1]).max() <= 1
        assert sorted([*support, *query]) == sorted(label)
        kept[agent].add(frozenset(query))
    assert all(len(halves) > 4 for agent, halves in kept.items() if sizes[agent] > 8)


@pytest.mark.parametrize("size", [2, 9])
def test_every_sample_is_as_often_in_the_query(size):
    """Of two samples of two classes, too: whether a class alone has its sample in the query is not settled for ever."""
    federation, asked = numbered([size]), np.zeros(size)
    for _, query, _ in positions_of(federation, [0], batch_size=None, nu=0, local_steps=3000):
        asked += [image in query for image in rows(federation, 0)]
    assert asked.sum() == size // 2 * 3000
    assert stats.chisquare(asked).pvalue > 1e-3


def test_nu_and_others_do_not_change_what_a_disjoint_draw_is():
    federation = numbered([30, 7, 12, 55])
    first = {(a, n): (q, s) for n, (a, q, s) in enumerate(positions_of(federation, [0, 2], nu=1, local_steps=4))}
    for n, (agent, query, support) in enumerate(positions_of(federation, [0, 2], nu=5, local_steps=4)):
        mine = first[agent, n]
        assert mine == (query, support[:1])
    alone = [(q, s) for _, q, s in positions_of(federation.only(2, 2), [2], nu=1, local_steps=4)]
    assert alone == [pair for (agent, _), pair in first.items() if agent == 2]
    other = [q for _, q, _ in positions_of(federation, [2], nu=1, local_steps=4, round=1)]
    assert other != [q for q, _ in alone]


def test_with_shots_support_and_query_have_as_many_of_each_class_and_all_are_scored_alike(digits):
    how = {"test_fraction": 0.25, "permuted_classes": 10, "label_noise": 0.4}
    parts = gl.partition(digits.y, gl.IID(), 9, seed=1)
    apart, usual, clean = (
        gl.Federation.from_partition(digits, parts, n_new_agents=2, seed=1, shots=3, **more)
        for more in ({**how, "query": "disjoint"}, how, {"query": "disjoint"})
    )
    assert apart.train_sizes.tolist() == [60] * 7 + [30] * 2
    truth = {agent: dict(zip(rows(clean, agent), clean.train(agent)[1].tolist(), strict=True)) for agent in range(9)}
    for agent, query, (support,) in positions_of(apart, list(range(7)), nu=1, batch_size=None):
        for half in (support, query):
            assert np.bincount([truth[agent][image] for image in half]).tolist() == [3] * 10, "of the true classes"
    everyone = torch.arange(9)
    for mine, theirs in zip(apart.fine_tune_sets(everyone), usual.fine_tune_sets(everyone), strict=True):
        assert torch.equal(mine, theirs), "scored after fine-tuning on the same samples"
    assert all(torch.equal(*pair) for a in range(9) for pair in zip(apart.test(a), usual.test(a), strict=True))
    assert all({*rows(usual, agent)} < {*rows(apart, agent)} for agent in range(7))


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_engines_train_with_disjoint_queries_as_by_hand_does(batch_size, partition):
    experiment = gl.Experiment(
        partition=partition, size_spread=1.0, n_agents=8, n_new_agents=2, agents_per_round=4, rounds=4, local_steps=2,
        nu=2, model="softmax", query="disjoint", batch_size=batch_size, device="cpu", precision="float64",
    )  # fmt: skip
    fast, slow, page = (
        gl.run(experiment, progress=False).params,
        gl.run(experiment.replace(execution="loop"), progress=False).params,
        gl.by_hand(experiment),
    )
    independent = gl.run(experiment.replace(query="independent"), progress=False).params
    for name, tensor in page.items():
        torch.testing.assert_close(fast[name], tensor, rtol=0, atol=1e-10)
        torch.testing.assert_close(slow[name], tensor, rtol=0, atol=1e-10)
        assert (independent[name] - tensor).abs().max() > 1e-4


def test_a_recording_serves_halves_of_unequal_sizes():
    federation = numbered([9, 8, 9, 8, 7, 9])
    experiment = gl.Experiment(
        n_agents=6, n_new_agents=0, agents_per_round=3, rounds=60, local_steps=3, nu=2, model="softmax", eval_every=60,
        eval_steps=(0, 1), query="disjoint", batch_size=None, fine_tune_lr=1e-4, meta_lr=1e-4, device="cpu",
        precision="float64",
    )  # fmt: skip
    recorded = gl.run(experiment, federation=federation, progress=False)
    page = gl.by_hand(experiment, federation=federation)
    assert " recorded" in recorded.engine
    assert "not recorded" not in recorded.engine
    for name, tensor in recorded.params.items():
        torch.testing.assert_close(tensor, page[name], rtol=1e-9, atol=1e-9)


def test_an_agent_of_one_sample_cannot_have_a_disjoint_query():
    federation = numbered([4, 1, 6, 1])
    words = "query = 'disjoint': must be 'independent', or every agent must train on at least 2 samples: agent 1 and 1"
    experiment = gl.Experiment(query="disjoint", agents_per_round=2, model="softmax", rounds=1)
    for ask in (
        lambda: gl.run(experiment, federation=federation, progress=False, on_round=lambda *_: pytest.fail("it works")),
        lambda: gl.by_hand(experiment, federation=federation),
        lambda: federation.batches(
            torch.tensor([1]), nu=1, local_steps=1, batch_size=2, seed=0, round=0, query="disjoint"
        ),
    ):
        with pytest.raises(ValueError, match=words):
            ask()
    gl.run(experiment.replace(query="independent", fine_tune_lr=1e-5), federation=federation, progress=False)
    with pytest.raises(ValueError, match="query = 'apart': must be"):
        gl.Experiment(query="apart")
    with pytest.raises(ValueError, match="query = 'apart': must be"):
        gl.Federation.from_partition(gl.load_dataset("digits"), [np.arange(9), np.arange(9, 20)], query="apart")
