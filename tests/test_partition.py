"""Partitions: design guarantees that no peer gives, as properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_work import Clock

import gmfl_lite as gl
from gmfl_lite.data import DEBIAN_FASHION_MNIST, load_dataset


def counts_of(labels, parts, n_classes):
    return np.stack([np.bincount(labels[part], minlength=n_classes) for part in parts])


def entropy(counts):
    mix = counts / counts.sum(axis=1, keepdims=True)
    return -(mix * np.log(np.where(mix > 0, mix, 1))).sum(axis=1).mean()


spreads = st.sampled_from([0.0, 0.5, 2.0])
schemes = st.one_of(
    spreads.map(gl.IID),
    st.builds(gl.Dirichlet, st.floats(0, allow_infinity=False, exclude_min=True), spreads),
    st.integers(1, 4).map(gl.Shards),
)


@settings(max_examples=150, deadline=None)
@given(
    weights=st.lists(st.integers(1, 30), min_size=4, max_size=8),
    scheme=schemes,
    n_agents=st.integers(1, 40),
    min_samples=st.integers(1, 6),
    seed=st.integers(0, 2**40),
)
def test_disjoint_complete_large_enough_and_repeatable(weights, scheme, n_agents, min_samples, seed):
    labels = np.repeat(np.arange(len(weights)), np.array(weights) * 12)
    np.random.default_rng(seed).shuffle(labels)
    before = labels.copy()
    if isinstance(scheme, gl.Shards) and n_agents * scheme.classes_per_agent < len(weights):
        with pytest.raises(ValueError, match="classes_per_agent"):
            gl.partition(labels, scheme, n_agents, seed=seed, min_samples=min_samples)
        return
    infeasible = n_agents * min_samples > len(labels)
    if infeasible:
        with pytest.raises(ValueError, match="n_agents"):
            gl.partition(labels, scheme, n_agents, seed=seed, min_samples=min_samples)
        return
    try:
        parts = gl.partition(labels, scheme, n_agents, seed=seed, min_samples=min_samples)
    except ValueError as error:
        # Only Shards may find that agents with these few classes cannot all hold as many, and not if they hold all.
        few_classes = isinstance(scheme, gl.Shards) and scheme.classes_per_agent < len(weights)
        if not (few_classes and "min_samples" in str(error)):
            raise
        return
    assert len(parts) == n_agents
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert min(map(len, parts)) >= min_samples
    again = gl.partition(labels, scheme, n_agents, seed=seed, min_samples=min_samples)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert np.array_equal(labels, before)
    if isinstance(scheme, gl.Shards):
        assert (counts_of(labels, parts, len(weights)) > 0).sum(axis=1).max() <= scheme.classes_per_agent
    elif scheme.size_spread == 0:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_another_seed_gives_another_partition():
    labels = np.arange(1000) % 10
    for scheme in (gl.IID(), gl.Dirichlet(0.3), gl.Shards(2), gl.PerFedAvgSplit(4)):
        one, other = (gl.partition(labels, scheme, 10, seed=seed, min_samples=5) for seed in (0, 1))
        assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_entropy_grows_with_alpha_from_one_class_to_the_datasets_own_mix():
    labels = np.random.default_rng(0).choice(10, 20_000, p=np.arange(1, 11) / 55)
    alphas = [0.001, 0.03, 0.1, 0.3, 1, 3, 10, 1e5]
    found = [entropy(counts_of(labels, gl.partition(labels, gl.Dirichlet(a), 50, seed=0), 10)) for a in alphas]
    assert found == sorted(found)
    assert found[0] < 0.2
    iid = entropy(counts_of(labels, gl.partition(labels, gl.IID(), 50, seed=0), 10))
    assert abs(found[-1] - iid) < 0.02


def test_dirichlet_mixes_have_the_dirichlets_own_spread():
    """Var(q_c) = p_c (1 − p_c) / (A + 1) with A = alpha · C: the fit to the totals must not change it by much."""
    labels = np.arange(60_000) % 10
    for alpha in (0.1, 0.5, 2.0):
        counts = counts_of(labels, gl.partition(labels, gl.Dirichlet(alpha), 600, seed=3), 10)
        variance = (counts / counts.sum(axis=1, keepdims=True)).var(axis=0).mean()
        assert variance == pytest.approx(0.09 / (10 * alpha + 1), rel=0.1)


def test_extreme_alpha_ends_quickly():
    labels = np.random.default_rng(0).integers(10, size=60_000)
    start = Clock()
    parts = gl.partition(labels, gl.Dirichlet(0.001), 500, seed=0)
    assert start.seconds() < 2
    shown = (counts_of(labels, parts, 10) > 0).sum(axis=1)
    assert shown.mean() < 1.2


@pytest.mark.parametrize("scheme", [gl.IID, lambda spread: gl.Dirichlet(0.5, spread)])
def test_sizes_spread_log_normally(scheme):
    labels = np.arange(60_000) % 10
    for spread in (0.0, 0.5, 1.0):
        sizes = np.array([len(part) for part in gl.partition(labels, scheme(spread), 400, seed=1, min_samples=2)])
        logs = np.log(sizes - 2)
        assert logs.std() == pytest.approx(spread, rel=0.1, abs=0.01)
        if spread:
            skewness = ((logs - logs.mean()) ** 3).mean() / logs.std() ** 3
            assert abs(skewness) < 0.4
    for agents_per_sample in (400, 4000):  # all that min_samples asks for is all there is
        sizes = [len(p) for p in gl.partition(labels[:agents_per_sample], scheme(1.0), 40, seed=1, min_samples=10)]
        assert min(sizes) >= 10


def test_shards_hold_exactly_their_classes_in_varied_pairs():
    labels = np.arange(6000) % 10
    counts = counts_of(labels, gl.partition(labels, gl.Shards(2), 50, seed=0), 10)
    assert ((counts > 0).sum(axis=1) == 2).all()
    assert (counts.sum(axis=1) == 120).all()
    assert len({tuple(np.flatnonzero(row)) for row in counts}) > 20


def test_shards_share_what_there_is_before_they_refuse():
    for sizes, k, n_agents in (([43, 18], 2, 59), ([11, 178, 125, 55, 168], 5, 191), ([30, 30, 2], 2, 12)):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        parts = gl.partition(labels, gl.Shards(k), n_agents, seed=0, min_samples=1)
        assert min(map(len, parts)) >= 1
        assert sum(map(len, parts)) == len(labels)


@pytest.mark.parametrize("alpha", [5e-324, 1e-310, 1e-200, 1e300, 1.7e308])
def test_the_ends_of_floating_point(alpha):
    parts = gl.partition(BALANCED, gl.Dirichlet(alpha), 20, seed=0)
    assert [len(part) for part in parts] == [50] * 20
    assert len(set(np.concatenate(parts).tolist())) == 1000


def test_per_fedavg_split_is_the_papers():
    labels = (
        load_dataset("fashion-mnist").y.numpy() if DEBIAN_FASHION_MNIST.is_dir() else np.repeat(np.arange(10), 6000)
    )
    counts = counts_of(labels, gl.partition(labels, gl.PerFedAvgSplit(196), 50, seed=0), 10)
    first = [row for row in counts.tolist() if row == [196] * 5 + [0] * 5]
    second = [
        row for row in counts.tolist() if sorted(row[:5]) == [0] * 4 + [98] and sorted(row[5:]) == [0] * 4 + [392]
    ]
    assert len(first) == len(second) == 25
    assert len({tuple(row) for row in second}) == 25  # every pair of classes once
    assert any(row in second for row in counts[-10:].tolist())
    assert any(row in first for row in counts[-10:].tolist())  # new agents come from both halves


BALANCED = np.arange(1000) % 10


@pytest.mark.parametrize(
    ("labels", "scheme", "n_agents", "options", "message"),
    [
        (BALANCED, gl.IID(), 101, {}, "n_agents = 101: must be at most 100"),
        (BALANCED, gl.IID(), 0, {}, "n_agents = 0"),
        (BALANCED, gl.IID(), True, {}, "n_agents = True"),
        (BALANCED, gl.IID(), 10, {"seed": -1}, "seed = -1"),
        (BALANCED, gl.IID(), 10, {"min_samples": 0}, "min_samples = 0"),
        (BALANCED, gl.IID, 10, {}, "scheme"),
        (BALANCED, "iid", 10, {}, r"scheme = 'iid'.*Dirichlet\(alpha\)"),
        (BALANCED, gl.Shards(11), 10, {}, "at least 11 classes"),
        (BALANCED, gl.Shards(1), 9, {}, "classes_per_agent = 1: must be at least 2"),
        (BALANCED, gl.PerFedAvgSplit(50), 10, {}, "a = 50: must be at most"),
        (BALANCED, gl.PerFedAvgSplit(4), 9, {}, "n_agents = 9: must be even"),
        (BALANCED, gl.PerFedAvgSplit(2), 10, {"min_samples": 8}, "min_samples = 8: must be at most 5"),
        (BALANCED % 9, gl.PerFedAvgSplit(4), 10, {}, "at least 10 classes"),
        (np.zeros(100, int), gl.Dirichlet(1.0), 5, {}, "at least 2 classes"),
        (np.zeros(100, int), gl.Shards(1), 5, {}, "at least 2 classes"),
        (BALANCED.reshape(10, 100), gl.IID(), 5, {}, "labels: .*one-dimensional"),
        (BALANCED / 2, gl.IID(), 5, {}, "labels: .*float64"),
        ([], gl.IID(), 5, {}, "labels: .*non-empty"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(labels, scheme, n_agents, options, message):
    with pytest.raises(ValueError, match=message):
        gl.partition(labels, scheme, n_agents, **{"seed": 0, **options})


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), "0.3", None, True])
def test_dirichlet_refuses(alpha):
    with pytest.raises(ValueError, match=r"alpha = .*must be a finite number above 0"):
        gl.Dirichlet(alpha)


@pytest.mark.parametrize("spread", [-1, float("nan"), 11, "1"])
def test_size_spread_is_checked(spread):
    for scheme in (gl.IID, lambda spread: gl.Dirichlet(1.0, spread)):
        with pytest.raises(ValueError, match=r"size_spread = .*must be a finite number of at least 0"):
            scheme(spread)


@pytest.mark.parametrize(
    ("scheme", "value"), [(gl.Shards, 0), (gl.Shards, 1.5), (gl.PerFedAvgSplit, 3), (gl.PerFedAvgSplit, 0)]
)
def test_schemes_refuse(scheme, value):
    with pytest.raises(ValueError, match=f"= {value}: must be"):
        scheme(value)


def test_the_largest_a_that_is_named_fits():
    with pytest.raises(ValueError, match="at most") as refused:
        gl.partition(BALANCED, gl.PerFedAvgSplit(900), 10, seed=0)
    a = int(str(refused.value).split("at most ")[1].split()[0])
    gl.partition(BALANCED, gl.PerFedAvgSplit(a), 10, seed=0)
    with pytest.raises(ValueError, match=f"at most {a}"):
        gl.partition(BALANCED, gl.PerFedAvgSplit(a + 2), 10, seed=0)
