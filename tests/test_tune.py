"""The search for step sizes: as good as a grid, the same on any executor, and never near what is scored."""

import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import gmfl_lite as gl

module = sys.modules["gmfl_lite.sweep.search"]  # the name gl.tune is the function's

SEEDS = (1000, 1001)
BASE = gl.Experiment(
    model="softmax", partition="iid", permuted_classes=10, n_agents=8, n_new_agents=4, agents_per_round=4, rounds=5,
    batch_size=None, nu=0, local_steps=1, fine_tune_lr=0.3, meta_lr=0.3, eval_every=2, eval_steps=(0, 1), device="cpu",
)  # fmt: skip


def tune(base=BASE, **options):
    return gl.tune(base, **{"validation_seeds": SEEDS, "progress": False, **options})


@pytest.fixture(scope="module")
def tuned():
    return tune()


@pytest.fixture
def ran(monkeypatch, one_by_one):
    """All experiments that reach gl.run."""
    module, asked = sys.modules["gmfl_lite.sweep.grid"], []
    run = module.run
    monkeypatch.setattr(
        module, "run", lambda experiment, **options: asked.append(experiment) or run(experiment, **options)
    )
    return asked


def surface(monkeypatch, height, accuracy=True):
    """Let trials score what `height` says of an experiment, its accuracy or loss; None diverges."""
    asked = []

    def fake(runs, base, given, executor, cache, on_point, **_):
        for number, run in reversed(list(enumerate(runs))):  # in whatever order they finish
            asked.append(run)
            score = height(run)
            scores = {"loss": 1.0, "accuracy": score} if accuracy else {"loss": score}
            rows = pd.DataFrame([{"group": group, **scores} for group in ("trained", "new")])
            on_point(number, rows.assign(status="diverged" if score is None else "completed", message=""))
        return None, []

    monkeypatch.setattr(module, "swept", fake)
    return asked


def hill(run, top=(1.0, 0.125)):
    return 0.9 - 0.05 * sum(np.log2([run.fine_tune_lr / top[0], run.meta_lr / top[1]]) ** 2)


def same(tuned, other):
    assert (other.best, other.at_edge) == (tuned.best, tuned.at_edge)
    pd.testing.assert_frame_equal(other.table, tuned.table, check_exact=True)


def test_a_trial_is_the_mean_of_the_runs_it_names(tuned):
    for _, trial in tuned.table.iloc[[0, 3, -1]].iterrows():
        runs = [BASE.replace(fine_tune_lr=trial["fine_tune_lr"], meta_lr=trial["meta_lr"], seed=seed) for seed in SEEDS]
        histories = [gl.run(run.replace(eval_steps=(5,)), progress=False).history for run in runs]
        last = [history.query("round == 5 and group == 'new'").iloc[0] for history in histories]
        for what in ("loss", "accuracy"):
            assert trial[what] == pytest.approx(np.mean([row[what] for row in last]), rel=1e-6)


def test_the_best_is_the_base_with_the_best_trial(tuned):
    best = tuned.table.loc[tuned.table["accuracy"].idxmax()]
    assert tuned.best == BASE.replace(fine_tune_lr=best["fine_tune_lr"], meta_lr=best["meta_lr"])
    assert not tuned.at_edge
    assert f"fine_tune_lr={best['fine_tune_lr']:.3g}" in repr(tuned)


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"nu": 0, "local_steps": 3}, {"nu": 2}], ids=str)
def test_at_least_as_good_as_a_grid_of_as_many_trials(method):
    base = BASE.replace(**method, eval_every=BASE.rounds, eval_steps=(5,))
    found = tune(base, trials=49)
    assert len(found.table) <= 49
    values = [0.3 * 2**exponent for exponent in np.linspace(-4, 4, 7)]
    grid = gl.sweep({"fine_tune_lr": values, "meta_lr": values, "seed": SEEDS}, base, progress=False)
    grid = grid[(grid["group"] == "new") & (grid["status"] == "completed")]
    points = grid.groupby(["fine_tune_lr", "meta_lr"])["accuracy"].agg(["mean", "size"])
    again = gl.sweep([found.best.replace(seed=seed) for seed in SEEDS], progress=False)
    reached = again[again["group"] == "new"]["accuracy"].mean()
    assert reached >= points[points["size"] == len(SEEDS)]["mean"].max()


@pytest.mark.slow
@pytest.mark.usefixtures("one_by_one")
def test_the_same_on_any_executor(tuned, processes):
    submitted = []

    class Watched(ThreadPoolExecutor):
        def submit(self, *args, **options):
            submitted.append(args)
            return super().submit(*args, **options)

    with Watched(3) as executor:
        same(tuned, tune(executor=executor))
    assert len(submitted) == len(SEEDS) * len(tuned.table)
    with ProcessPoolExecutor(2, mp_context=processes) as executor:
        same(tuned, tune(executor=executor))


@pytest.mark.slow
@pytest.mark.usefixtures("one_by_one")
def test_killed_in_the_middle_it_goes_on_and_computes_nothing_again(tuned, tmp_path, monkeypatch):
    module, finished = sys.modules["gmfl_lite.sweep.grid"], []
    run = module.run

    def killed(experiment, **options):
        if len(finished) == 15:
            raise KeyboardInterrupt
        finished.append(experiment)
        return run(experiment, **options)

    monkeypatch.setattr(module, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(cache=tmp_path)
    later = []
    monkeypatch.setattr(module, "run", lambda *args, **options: later.append(args[0]) or run(*args, **options))
    same(tuned, tune(cache=tmp_path))
    assert not set(later) & set(finished)
    assert len(later) == len(SEEDS) * tuned.table["meta_lr"].nunique() - 15  # with ν = 0 no training depends on α
    later.clear()
    same(tuned, tune(cache=tmp_path))
    assert not later


def test_no_seed_that_is_scored_is_ever_run(ran):
    found = tune(BASE.replace(seed=7), trials=7, steps=3)
    assert {run.seed for run in ran} == set(SEEDS)
    assert {run.eval_steps for run in ran} == {(3,)}
    assert len(ran) == 7 * len(SEEDS)
    assert (found.best.seed, found.best.eval_every, found.best.eval_steps) == (7, 2, (0, 1))


def test_it_finds_the_top_of_a_hill_wherever_it_begins(monkeypatch):
    surface(monkeypatch, hill)
    for start in (0.001, 0.125, 1.0, 300.0):
        found = tune(BASE.replace(fine_tune_lr=start, meta_lr=start))
        distance = np.abs(np.log2([found.best.fine_tune_lr, found.best.meta_lr / 0.125]))
        assert (distance <= 1 / 8 + 1e-9).all()  # half a factor of 2^¼
        assert not found.at_edge


def test_at_edge_where_the_trials_do_not_suffice(monkeypatch):
    surface(monkeypatch, hill)
    needed = len(tune().table)
    assert not tune(trials=needed).at_edge
    for trials in (5, 10, needed - 1):
        found = tune(trials=trials)
        assert found.at_edge
        assert len(found.table) == trials
        assert found.table["accuracy"].max() == hill(found.best)


def test_at_edge_where_a_setting_makes_no_difference(monkeypatch):
    surface(monkeypatch, lambda run: hill(run.replace(meta_lr=1.0)))
    assert tune().at_edge
    assert not tune(settings=["fine_tune_lr"]).at_edge


def test_what_approaches_its_best_from_afar_is_not_followed_for_ever(monkeypatch):
    """Four digits count: here the loss falls for ever, by less and less."""
    surface(monkeypatch, lambda run: 1 + run.meta_lr, accuracy=False)
    found = tune(settings=["meta_lr"])
    assert len(found.table) < 40
    assert 1e-6 < found.best.meta_lr < 1e-3


def test_without_accuracies_the_lowest_loss_is_best(monkeypatch):
    surface(monkeypatch, lambda run: 1 - hill(run), accuracy=False)
    found = tune()
    assert "accuracy" not in found.table
    np.testing.assert_allclose([found.best.fine_tune_lr, found.best.meta_lr], (1, 0.125), rtol=0.1)


def test_of_equal_accuracies_the_lower_loss_is_better(monkeypatch):
    def fake(runs, base, given, executor, cache, on_point, **_):
        for number, run in enumerate(runs):
            row = {"group": "new", "status": "completed", "accuracy": 0.5, "loss": 2 - hill(run)}
            on_point(number, pd.DataFrame([row]))
        return None, []

    monkeypatch.setattr(module, "swept", fake)
    np.testing.assert_allclose(tune().best.meta_lr, 0.125, rtol=0.1)


def test_one_seed_that_diverges_is_enough(monkeypatch):
    surface(monkeypatch, lambda run: None if run.seed == 1001 and run.fine_tune_lr > 0.5 else hill(run))
    found = tune()
    assert 0.4 < found.best.fine_tune_lr <= 0.5
    wild = found.table[found.table["fine_tune_lr"] > 0.5]
    assert set(wild["status"]) == {"diverged"}
    assert wild["accuracy"].isna().all()


def test_from_where_everything_diverges_it_goes_down(monkeypatch):
    surface(monkeypatch, lambda run: None if max(run.fine_tune_lr, run.meta_lr) > 2 else hill(run))
    found = tune(BASE.replace(fine_tune_lr=1e4, meta_lr=1e3))
    assert found.table["status"].iloc[:20].eq("diverged").all()
    np.testing.assert_allclose([found.best.fine_tune_lr, found.best.meta_lr], (1, 0.125), rtol=0.1)
    assert not found.at_edge


def test_a_search_that_finds_nothing_says_so():
    with pytest.raises(ValueError, match=r"all 5 trials diverged: begin lower than fine_tune_lr = 2.5e\+29, meta_lr"):
        tune(BASE.replace(fine_tune_lr=1e30, meta_lr=1e30), trials=5)


def test_a_run_that_fails_is_an_error_with_its_words():
    with pytest.raises(RuntimeError, match="trial failed: ExperimentError: digits cannot be dealt out"):
        tune(BASE.replace(n_agents=10_000))


def test_three_settings_and_trained_agents_where_there_are_no_others():
    base = BASE.replace(n_new_agents=0, server="adam", server_lr=0.1)
    found = tune(base, settings=("meta_lr", "server_lr", "fine_tune_lr"), trials=8, validation_seeds=range(3, 4))
    assert found.settings == ("meta_lr", "server_lr", "fine_tune_lr")
    assert list(found.table) == [*found.settings, "status", "loss", "accuracy"]
    history = gl.run(base.replace(seed=3, eval_steps=(5,)), progress=False).history
    assert found.table["accuracy"].iloc[0] == pytest.approx(history["accuracy"].iloc[-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "FedAvg"}, "base = 'FedAvg': must be an Experiment"),
        ({"settings": ["meta_rl"]}, r"settings = 'meta_rl': must be one of .*did you mean 'meta_lr'"),
        ({"settings": ["nu"]}, "settings = 'nu': must be one of 'fine_tune_lr', 'meta_lr', 'server_lr'"),
        ({"settings": ["test_fraction"]}, "settings = 'test_fraction': must be one of"),
        ({"settings": ["proximal"]}, "settings = 'proximal': must be one of"),  # 0 times 4 is 0
        ({"settings": [["meta_lr"]]}, "must be one of"),
        ({"settings": "meta_lr"}, "settings = 'meta_lr': must be a list of one or more of"),
        ({"settings": []}, r"settings = \[\]: must be a list of one or more of"),
        ({"settings": ["meta_lr", "meta_lr"]}, "each once"),
        ({"settings": None}, "settings = None: must be a list"),
        ({"steps": -1}, "steps = -1: must be an integer of at least 0"),
        ({"validation_seeds": []}, r"validation_seeds = \[\]: must be different seeds other than base.seed = 0"),
        ({"validation_seeds": [1000, 0]}, "other than base.seed = 0"),
        ({"validation_seeds": [1, 1]}, "must be different seeds"),
        ({"validation_seeds": [-1]}, "validation_seeds = -1: must be an integer of at least 0"),
        ({"validation_seeds": 1000}, "validation_seeds = 1000: must be different seeds"),
        ({"validation_seeds": "12"}, "validation_seeds = '12': must be different seeds"),
        ({"trials": 4}, "trials = 4: must be an integer of at least 5"),
        ({"trials": 2, "settings": ["meta_lr"]}, "trials = 2: must be an integer of at least 3"),
    ],
    ids=str,
)
def test_refusals(options, message, ran):
    with pytest.raises(ValueError, match=message):
        tune(**options)
    assert not ran


def test_a_positive_proximal_can_be_tuned():
    assert tune(BASE.replace(proximal=0.1), settings=["proximal"], trials=3).table["proximal"].nunique() == 3


class ShutDown(ThreadPoolExecutor):
    """One thread that is shut down after so many points."""

    def __init__(self, points):
        super().__init__(1)
        self.left = points

    def submit(self, *arguments):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return super().submit(*arguments)


def test_an_executor_that_is_shut_down_leaves_the_best_so_far():
    base = gl.Experiment(model="softmax", n_agents=4, n_new_agents=1, agents_per_round=2, rounds=2)
    how = {"settings": ["meta_lr"], "validation_seeds": [5], "trials": 9, "progress": False}
    found = gl.tune(base, **how, executor=ShutDown(4))
    whole = gl.tune(base, **how)
    assert found.at_edge
    assert 3 <= len(found.table) < len(whole.table)
    pd.testing.assert_frame_equal(found.table, whole.table.iloc[: len(found.table)])
    with pytest.raises(RuntimeError, match="shut down before a trial had ended"):
        gl.tune(base, **how, executor=ShutDown(0))
