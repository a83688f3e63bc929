"""One w of many: NumPy and SciPy agree, every engine honours it, and a few liars do not move it."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

import gmfl_lite as gl
from gmfl_lite import theory
from gmfl_lite.aggregation import (
    AGGREGATIONS,
    OUTLIER,
    Aggregation,
    Gathered,
    add_aggregation,
    judge,
    outliers,
    plausible,
)  # fmt: skip
from gmfl_lite.engine import Vectorized, agents_axis, most_kept
from gmfl_lite.engine.base import Around
from gmfl_lite.modules import objective_of

ROBUST = ("median", "trimmed")


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 10, 15])
def test_median_and_trimmed_mean_are_those_of_numpy_and_scipy(rng, n):
    sent = rng.normal(size=(n, 3, 2))
    updates = {"w": torch.from_numpy(sent), "b": torch.from_numpy(sent[:, 0, 0])}
    median, trimmed = (gl.aggregate(updates, aggregation=how) for how in ROBUST)
    share = {3: 1 / 3, 4: 1 / 4}.get(n, 0.2)  # of three and four agents, one is left out at each end
    np.testing.assert_allclose(median["w"], np.median(sent, axis=0), rtol=1e-12)
    np.testing.assert_allclose(trimmed["w"], stats.trim_mean(sent, share, axis=0), rtol=1e-12)
    np.testing.assert_allclose(median["b"], np.median(sent[:, 0, 0]), rtol=1e-12)


@pytest.mark.parametrize("how", ROBUST)
@pytest.mark.parametrize("lie", [float("nan"), float("inf"), -float("inf"), 1e38, -1e38])
def test_two_of_ten_cannot_move_it_beyond_the_others(rng, how, lie):
    honest = torch.from_numpy(rng.normal(size=(8, 5)).astype(np.float32))
    found = gl.aggregate({"w": torch.cat([torch.full((2, 5), lie), honest])}, aggregation=how)["w"]
    assert (found >= honest.min(0).values).all()
    assert (found <= honest.max(0).values).all()


def expected_places(n):
    """Return the mean of each of n ordered standard normal numbers, by integration."""

    def mean(k):
        def weigh(x):
            log = stats.norm.logpdf(x) + (k - 1) * stats.norm.logcdf(x) + (n - k) * stats.norm.logsf(x)
            return x * np.exp(log + special.gammaln(n + 1) - special.gammaln(k) - special.gammaln(n - k + 1))

        return integrate.quad(weigh, -9, 9)[0]

    return np.array([mean(k) for k in range(1, n + 1)])


@pytest.mark.parametrize("lie", [float("nan"), float("inf"), 1e30, -1e30])
@pytest.mark.parametrize(("how", "shift"), [("trimmed", slice(2, 8)), ("median", slice(4, 6))])
def test_liars_at_one_end_do_not_shift_the_others(rng, how, shift, lie):
    """Ranked with eight honest agents, two such liars would move the middle: in all numbers to one side."""
    honest = torch.from_numpy(rng.normal(size=(8, 20_000)))
    w = {"w": torch.zeros(20_000, dtype=torch.float64)}
    gathered = Gathered(how, w)
    gathered.add({"w": honest[:5]}, torch.ones(5))
    gathered.add({"w": torch.cat([torch.full((2, 20_000), lie, dtype=torch.float64), honest[5:]])}, torch.ones(5))
    assert abs(gathered.value["w"].mean()) < 0.02
    torch.testing.assert_close(gathered.value, gl.aggregate({"w": honest}, aggregation=how))
    ranked = np.concatenate([expected_places(8), [np.inf] * 2])[shift].mean()
    assert ranked == pytest.approx({"trimmed": 0.38, "median": 0.31}[how], abs=0.005), "as `plausible` says"


def test_all_at_once_is_divergence_and_one_of_few_is_no_outlier():
    w = {"w": torch.ones(3)}
    for lengths in ([np.nan] * 4, [np.inf] * 4, [1.0, np.nan], [1e-9, 1e-3], [0.0, 0.0, 0.02]):
        counts = plausible(torch.tensor(lengths), w)
        assert counts.tolist() == [not np.isnan(length) or all(np.isnan(lengths)) for length in lengths]
    assert plausible(torch.tensor([1.0, 1.0, 1.0, 25.0]), w).all()
    assert plausible(torch.tensor([1.0, 1.0, 1.0, 27.0]), w).tolist() == [True] * 3 + [False]
    meta = {"w": torch.empty(4, 3, device="meta")}
    assert gl.aggregate(meta, aggregation="median")["w"].shape == (3,)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_in_chunks_it_is_the_same(rng, how):
    updates = {"a": torch.from_numpy(rng.normal(size=(9, 3))), "b": torch.from_numpy(rng.normal(size=(9, 2, 2)))}
    weights = torch.tensor([1, 5, 2, 2, 9, 1, 1, 3, 4])
    whole = gl.aggregate(updates, weights if how == "average" else None, aggregation=how)
    gathered = Gathered(how)
    assert gathered.value == {}
    for some in (slice(0, 4), slice(4, 5), slice(5, 9)):
        gathered.add({name: tensor[some] for name, tensor in updates.items()}, weights[some])
    assert how != "average" or gathered.weight == weights.sum()
    for name in whole:
        torch.testing.assert_close(gathered.value[name], whole[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", ROBUST)
def test_an_engine_in_chunks_gives_the_algorithm_on_one_page(federation, how):
    class ByThree(Vectorized):
        def at_once(self, width):
            return 3

    experiment = gl.Experiment(n_agents=12, agents_per_round=10, rounds=3, model="softmax", aggregation=how)
    page = gl.by_hand(experiment, federation)
    plain = gl.by_hand(experiment.replace(aggregation="average"), federation)
    found = gl.run(experiment, federation=federation, engine=ByThree, progress=False).params
    for name, tensor in page.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
        assert (plain[name] - tensor).abs().max() > 1e-4


LIES = {
    "−100 times the update": lambda w, w_i: w - 100 * (w_i - w),
    "NaN": lambda w, w_i: torch.full_like(w, float("nan")),
    "a huge constant": lambda w, w_i: torch.full_like(w, 1e30),
}


class Liars(Around):
    """An engine whose first agents lie."""

    def __init__(self, inner, liars, lie):
        super().__init__(inner)
        self.liars, self.lie = liars, lie

    def update(self, params, batches, agents, stop):
        updates, losses = self.inner.update(params, batches, agents, stop)
        for place in torch.nonzero(agents < self.liars).flatten():
            for name, tensor in updates.items():
                tensor[place] = self.lie(params[name], tensor[place])
        return updates, losses


CLASS = gl.Experiment(
    n_agents=10, n_new_agents=0, agents_per_round=10, rounds=60, eval_every=60, meta_lr=0.2, nu=1, eval_steps=(0, 1),
    dirichlet_alpha=10.0, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def honest():
    """The accuracy where nobody lies, by aggregation, of those who never do."""
    return {how: accuracy(gl.run(CLASS.replace(aggregation=how), progress=False)) for how in AGGREGATIONS}


def accuracy(result, liars=2):
    rows = result.agents[(result.agents["agent"] >= liars) & (result.agents["fine_tune_steps"] == 1)]
    return rows["accuracy"].mean()


def with_liars(how, lie, liars):
    def build(*arguments):
        return Liars(gl.build_engine(*arguments), liars, LIES[lie])

    return gl.run(CLASS.replace(aggregation=how), engine=build, progress=False)


@pytest.mark.parametrize("liars", [1, 2])
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("how", ROBUST)
def test_the_honest_do_as_well_beside_liars_as_without(honest, how, lie, liars, record_property):
    found = accuracy(with_liars(how, lie, liars))
    record_property(f"{how}, {liars} of 10 send {lie}", f"{found:.3f}; without liars {honest[how]:.3f}")
    assert honest["average"] > 0.8
    assert found > max(honest[how], honest["average"]) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("how", ROBUST)
def test_nothing_adds_up_over_many_rounds_among_agents_that_differ(how, record_property):
    """Two liars of ten, 150 rounds, Dirichlet 1: where NaN has a rank, the model ends at guessing."""
    experiment = CLASS.replace(rounds=150, eval_every=150, dirichlet_alpha=1.0, aggregation=how)
    alone = accuracy(gl.run(experiment, progress=False))
    for lie in ("NaN", "a huge constant"):
        lying = lambda *arguments, lie=LIES[lie]: Liars(gl.build_engine(*arguments), 2, lie)  # noqa: E731
        found = accuracy(gl.run(experiment, engine=lying, progress=False))
        record_property(f"{how}, two of ten send {lie} for 150 rounds", f"{found:.3f}; without liars {alone:.3f}")
        assert found > alone - 0.02


@pytest.mark.parametrize("lie", LIES)
def test_the_average_does_not(honest, lie):
    result = with_liars("average", lie, 1)
    assert result.status == "diverged" or accuracy(result) < honest["average"] - 0.1


def test_what_makes_no_sense_is_refused(federation, monkeypatch):
    updates = {"w": torch.ones(3, 2)}
    with pytest.raises(ValueError, match=r"aggregation = 'mediann': must be one of .*did you mean 'median'"):
        gl.aggregate(updates, aggregation="mediann")
    with pytest.raises(ValueError, match="must be None with aggregation='median': the median of every number"):
        gl.aggregate(updates, torch.ones(3), aggregation="median")
    with pytest.raises(gl.ExperimentError, match="weighting = 'samples': must be 'uniform' with aggregation='trimmed'"):
        gl.Experiment(aggregation="trimmed", weighting="samples")
    with pytest.raises(ValueError, match="aggregation = 'median': must be 'average': the bounds speak of"):
        theory.observe(gl.Experiment(model="softmax", batch_size=None, aggregation="median"))
    monkeypatch.setattr(agents_axis, "CHUNK_ELEMENTS", 4 * (650 + 4 * 640))
    small = gl.Experiment(n_agents=12, agents_per_round=5, rounds=1, model="softmax", aggregation="median")
    with pytest.raises(ValueError, match="agents_per_round = 5: must be at most 4 with aggregation='median'"):
        gl.run(small, federation=federation, progress=False)
    gl.run(small.replace(agents_per_round=4), federation=federation, progress=False)
    gl.run(small.replace(aggregation="average"), federation=federation, progress=False)
    assert most_kept({"w": torch.zeros(650, dtype=torch.float64)}) == 4 * (650 + 4 * 640) // (2 * 5 * 650)


def test_processes_that_exchange_sums_refuse_it(monkeypatch):
    distributed = pytest.importorskip("gmfl_lite.distributed")
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="aggregation = 'median': must be 'average': processes exchange sums"):
        gl.run(gl.Experiment(aggregation="median"), engine=distributed.build_engine, progress=False)


RECORD = {"name": "largest", "help": "the largest", "plain": lambda tensor: tensor.amax(0), "weighted": "none"}


def test_another_one_arrives_everywhere(federation):
    add_aggregation(Aggregation(**RECORD))
    try:
        experiment = gl.Experiment(
            n_agents=12, agents_per_round=4, rounds=2, model="softmax", aggregation="largest", execution="loop"
        )
        page, found = gl.by_hand(experiment, federation), gl.run(experiment, federation=federation, progress=False)
        for name, tensor in page.items():
            torch.testing.assert_close(found.params[name], tensor, rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match="must be another than average, median, trimmed, largest"):
            add_aggregation(Aggregation(**RECORD))
    finally:
        del AGGREGATIONS["largest"]
    with pytest.raises(ValueError, match="weighted of aggregation 'largest' = None: must be a function, or 'none'"):
        Aggregation(**{**RECORD, "weighted": None})
    with pytest.raises(ValueError, match="must be an Aggregation"):
        add_aggregation("largest")


class Judged(Around):
    """An engine that looks at every round as Flower's strategy does."""

    def __init__(self, inner, sizes, w):
        super().__init__(inner)
        self.sizes, self.left_out, self.highest = sizes, [], 0.0
        self.usual = 1e-3 * float(torch.cat([tensor.flatten() for tensor in w.values()]).double().norm())

    def update(self, params, batches, agents, stop):
        updates, losses = self.inner.update(params, batches, agents, stop)
        squares = [(updates[name] - w).double().square().flatten(1).sum(1) for name, w in params.items()]
        lengths, samples = torch.stack(squares).sum(0).sqrt().numpy(), self.sizes[agents].tolist()
        reasons = judge(lengths, losses.mean(1).tolist(), samples, usual_length=self.usual, guessing=np.log(10))
        self.left_out += filter(None, reasons)
        median = float(np.median(lengths))
        self.usual = max(self.usual, median)
        self.highest = max(self.highest, (lengths.max() - median) / self.usual)
        return updates, losses


@pytest.mark.slow
@pytest.mark.parametrize(("how", "liars"), [("average", 1), ("median", 2), ("trimmed", 2)])
def test_a_liar_below_the_bound_spoils_the_average_and_not_the_others(how, liars, record_property):
    experiment = CLASS.replace(aggregation=how, dirichlet_alpha=1.0)
    federation = gl.build_federation(experiment)
    engines = []

    def build(experiment, federation, loss_fn, w):
        lying = Liars(gl.build_engine(experiment, federation, loss_fn, w), liars, lambda w, w_i: w - 12 * (w_i - w))
        engines.append(Judged(lying, federation.train_sizes, w))
        return engines[-1]

    result = gl.run(experiment, federation=federation, engine=build, progress=False)
    found, alone = accuracy(result), accuracy(gl.run(experiment, progress=False))
    record_property(f"{how}, {liars} of 10 send −12 times their updates", f"{found:.3f} beside {alone:.3f} without")
    assert (found < 0.5) if how == "average" else (found > alone - 0.03)
    assert how == "average" or engines[0].left_out == [], "nobody is seen to lie"


HETEROGENEOUS = {
    "two classes an agent": {"partition": "shards", "classes_per_agent": 2},
    "renamed classes": {"partition": "iid", "permuted_classes": 10},
    "sizes that differ tenfold": {"partition": "dirichlet", "size_spread": 1.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("nu", [0, 1, 3])
@pytest.mark.parametrize("how", HETEROGENEOUS)
def test_no_honest_agent_is_left_out_in_200_rounds(how, nu, record_property):
    left_out, highest = [], 0.0
    for seed in range(3):
        experiment = gl.Experiment(
            n_agents=10, n_new_agents=0, agents_per_round=10, rounds=200, nu=nu, seed=seed, device="cpu",
            **HETEROGENEOUS[how],
        )  # fmt: skip
        federation = gl.build_federation(experiment)
        loss_fn, w = objective_of(gl.build_model(experiment.model, federation, seed=seed), federation)
        sizes = federation.train_sizes
        assert "tenfold" not in how or sizes.max() > 7 * sizes.min()
        engine = Judged(gl.build_engine(experiment, federation, loss_fn, w), sizes, w)
        assert sum(1 for _ in gl.train(experiment, federation, loss_fn, w, engine=engine)) == 200
        left_out, highest = left_out + engine.left_out, max(highest, engine.highest)
    record_property(f"{how}, ν = {nu}: the longest update, in spreads above the median", f"{highest:.1f}")
    assert left_out == []
    assert highest < OUTLIER / 2


def test_what_is_an_outlier():
    assert outliers([1.0, 1.0, 1.0, 1.0 + 1e-9], floor=0.1).tolist() == [False] * 4, "nearly equal values"
    assert outliers([0.0, 1.0, 2.0, 3.0, 4.0, 1e6], floor=0.0).tolist() == [False] * 5 + [True]
    assert outliers([-1e9, 1.0, 1.1], floor=1.0).tolist() == [False] * 3, "small values do no harm"
    assert outliers([1.0, 1e30], floor=0.0).tolist() == [False, False], "nothing is known and nobody is outvoted"
    assert outliers([1.0, 1e30], floor=1.0).tolist() == [False, True]


def test_the_judge_says_why_and_never_leaves_out_everybody():
    how = {"usual_length": 0.1, "guessing": 2.3}
    assert judge([0.1] * 4, [1.0, 1.0, 2.0, 1e3], **how) == ["", "", "", "its loss is 1e+03"]
    found = judge([0.1] * 4, [1.0] * 4, [10, 20, 30, 10**6], **how)
    assert found == ["", "", "", "it says it has 1000000 samples, 25 are usual"]
    assert judge([1e9, 1e9], [1.0, 1.0], **how) == ["", ""]
    assert judge([1e-5, 2e-5, 1.0], [1.0] * 3, **how) == [""] * 3, (
        "long beside a round that rests, not beside earlier ones"
    )
    assert judge([], [], **how) == []
