"""Sweeps and searches of agents, a module and a loss of one's own: the same rows, and a cache that knows them."""

import multiprocessing
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gmfl_lite as gl

grid = sys.modules["gmfl_lite.sweep.grid"]  # the name gl.sweep is the function's

BASE = gl.Experiment(agents_per_round=2, rounds=2, eval_every=2, eval_steps=(0, 2), local_steps=2, device="cpu")
GRID = {"nu": [0, 2], "seed": range(2)}


def people(first=0.0, names="ABCDEF"):
    rng = np.random.default_rng(0)
    agents = {}
    for name in names:
        x = rng.normal(size=(10, 3)).astype(np.float32)
        agents[name] = x, (x[:, 0] > 0).astype(int)
    agents[names[0]][0][0, 1] += first
    return gl.Federation.from_agents(agents, n_new_agents=2)


def line(weight=0.0, inputs=3, outputs=2):
    model = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.constant_(model.weight, weight), nn.init.zeros_(model.bias)
    return model


def margin(prediction, y):
    """A loss of one's own: one number a sample."""
    return nn.functional.softplus(1 + prediction.sum(1) - 2 * prediction.gather(1, y[:, None])[:, 0])


def confidence(prediction, y):
    return prediction.softmax(-1).max(-1).values


OWN = {"model": line(), "loss": margin, "metric": confidence}


@pytest.fixture(scope="module")
def federation():
    return people()


@pytest.fixture(scope="module")
def serial(federation):
    return gl.sweep(GRID, BASE, federation=federation, **OWN, progress=False)


@pytest.fixture
def ran(monkeypatch, one_by_one):
    """All experiments that reach gl.run."""
    run, asked = grid.run, []
    monkeypatch.setattr(grid, "run", lambda experiment, **how: asked.append(experiment) or run(experiment, **how))
    return asked


def test_every_point_is_the_run_of_what_was_handed_over(serial, federation):
    assert len(serial) == 4 * 2 * 2
    for (nu, seed), rows in serial.groupby(["nu", "seed"]):
        experiment = BASE.replace(nu=int(nu), seed=int(seed))
        last = gl.run(experiment, federation=federation, **OWN, progress=False).history.query("round == 2")
        columns = ["round", "group", "fine_tune_steps", "loss", "accuracy", "worst_decile_accuracy", "metric"]
        pd.testing.assert_frame_equal(rows[columns].reset_index(drop=True), last[columns].reset_index(drop=True))
    alone = gl.sweep(GRID, BASE, federation=federation, progress=False)
    assert "metric" not in alone
    assert not np.allclose(alone["loss"], serial["loss"])


def test_threads_give_the_same_bits(serial, federation):
    with ThreadPoolExecutor(3) as executor:
        table = gl.sweep(GRID, BASE, federation=federation, **OWN, executor=executor, progress=False)
    pd.testing.assert_frame_equal(table, serial, check_exact=True)


@pytest.mark.slow
def test_processes_give_the_same_bits(serial, federation, tmp_path, ran):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        how = {"federation": federation, **OWN, "cache": tmp_path, "progress": False}
        table = gl.sweep(GRID, BASE, executor=executor, **how)
        pd.testing.assert_frame_equal(table, serial, check_exact=True)
        pd.testing.assert_frame_equal(gl.sweep(GRID, BASE, **how), serial, check_exact=True)
        assert not ran  # another process knows them by the same key
        failed = gl.sweep([BASE], federation=federation, model=line(), loss=lambda p, y: margin(p, y),
                          executor=executor, progress=False)  # fmt: skip
    assert failed["status"].tolist() == ["failed"]
    assert "pickle" in failed["message"].item().lower()


def other(**change):
    return {"federation": people(), "model": line(), "loss": margin, "metric": confidence, **change}


OTHERS = {
    "one number in x": other(federation=people(first=1e-3)),
    "names": other(federation=people(names="ABCDEG")),
    "weights": other(model=line(weight=1e-3)),
    "structure": other(model=nn.Sequential(line())),
    "loss by name": other(loss="cross_entropy"),
    "no loss": other(loss=None),
    "another function": other(loss=lambda p, y: 2 * margin(p, y)),
    "no metric": other(metric=None),
    "the library's model": other(model=None),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_other_is_computed_anew(what, federation, tmp_path, ran):
    gl.sweep([BASE], **other(), cache=tmp_path, progress=False)
    expected = gl.sweep([BASE], **OTHERS[what], progress=False)
    ran.clear()
    for _ in range(2):
        table = gl.sweep([BASE], **OTHERS[what], cache=tmp_path, progress=False)
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
        assert len(ran) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_the_same_is_read(serial, tmp_path, ran):
    for _ in range(2):
        table = gl.sweep(GRID, BASE, **other(), cache=tmp_path, progress=False)  # made anew, of equal values
        pd.testing.assert_frame_equal(table, serial, check_exact=True)
    assert len(ran) == 4


@pytest.mark.parametrize("what", ["both", "agents", "module", "loss"])
def test_with_nu_0_another_alpha_is_scored_from_the_w_that_is_there(what, federation, tmp_path, ran):
    """A file does not have a loss of one's own: then it is trained again."""
    own = {"federation": federation, "model": line(0.1)}
    kept = {
        "both": own,
        "agents": {"federation": federation},
        "module": {"model": nn.Sequential(nn.Flatten(), line(0.1, 64, 10))},
    }
    given = kept.get(what, {**own, "loss": margin})
    points = [
        BASE.replace(nu=0, n_agents=4, precision="float64", fine_tune_lr=a, seed=s) for a in (0.1, 1.0) for s in (0, 1)
    ]
    expected = gl.sweep(points, **given, progress=False)
    ran.clear()
    table = gl.sweep(points, **given, cache=tmp_path, progress=False)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert ran == (points if what == "loss" else points[:2])


def test_settings_of_what_is_handed_over_do_not_vary(federation):
    for how, varied, message in (
        ({"federation": federation}, {"dirichlet_alpha": [0.1, 1.0]}, "dirichlet_alpha: changes nothing, as feder"),
        ({"federation": federation}, {"n_agents": [10, 20]}, "n_agents: changes nothing, as federation=…"),
        ({"federation": federation}, {"shots": [1, 2]}, "shots: changes nothing"),
        ({"federation": federation}, {"dataset": ["digits", "sinusoids"]}, "dataset: changes nothing"),
        ({"model": line()}, {"model": ["softmax", "mlp"]}, "model: changes nothing, as model=…"),
        ({"federation": (1, 2)}, {"nu": [1]}, "federation = 'tuple': must be a Federation"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            gl.sweep(varied, BASE, **how, progress=False)
    with pytest.raises(ValueError, match="permuted_classes: changes nothing"):
        gl.sweep([BASE, BASE.replace(permuted_classes=2)], federation=federation, progress=False)
    table = gl.sweep({"query": ["independent", "disjoint"]}, BASE, federation=federation, progress=False)
    assert table["status"].eq("completed").all()
    assert table.groupby("query")["loss"].first().nunique() == 2


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_a_cache_that_cannot_be_written_costs_the_cache_and_one_warning(
    executor, federation, serial, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    file = tmp_path / "a file"
    file.write_text("mine")
    taken = gl.sweep(GRID, BASE, federation=federation, **OWN, cache=tmp_path / "entry is a folder", progress=False)
    for entry in (tmp_path / "entry is a folder").iterdir():
        entry.unlink()
        entry.mkdir()
    for cache, why in (
        (file, "exists"),
        (file / "below", "Not a directory"),
        (tmp_path / "c", "No space left"),
        (tmp_path / "entry is a folder", "directory"),
    ):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with monkeypatch.context() as patch:
                if why.startswith("No space"):
                    patch.setattr(gl.Result, "save", full)
                pool = executor and executor(2)
                how = {"federation": federation, **OWN, "cache": cache, "executor": pool, "progress": False}
                table = gl.sweep(GRID, BASE, **how)
        pd.testing.assert_frame_equal(table, serial, check_exact=True)
        assert [warning.category for warning in said] == [UserWarning]
        assert "will be computed again" in str(said[0].message)
        assert why in str(said[0].message)
        assert said[0].filename == __file__
    pd.testing.assert_frame_equal(taken, serial, check_exact=True)
    assert file.read_text() == "mine"
    assert not list((tmp_path / "c").iterdir())


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_a_search_for_own_agents_scores_its_new_agents(executor, federation, tmp_path, ran):
    how = {"settings": ["meta_lr"], "validation_seeds": [5], "steps": 2, "trials": 12, "progress": False}
    given = {"federation": federation, **OWN}
    tuned = gl.tune(BASE, **how, **given, cache=tmp_path, executor=executor and executor(2))
    runs = len(ran)
    assert runs == len(tuned.table)
    for _, trial in tuned.table.iterrows():
        experiment = BASE.replace(meta_lr=trial["meta_lr"], seed=5, eval_steps=(2,))
        last = gl.run(experiment, **given, progress=False).history.query("round == 2 and group == 'new'")
        assert trial["accuracy"] == last["accuracy"].item()
        assert trial["loss"] == last["loss"].item()
    ran.clear()
    again = gl.tune(BASE, **how, **given, cache=tmp_path)
    pd.testing.assert_frame_equal(again.table, tuned.table, check_exact=True)
    assert not ran
    everybody = gl.Federation.from_agents({str(i): federation.train(i) for i in range(6)})  # none of them is new
    tuned = gl.tune(BASE, **how, federation=everybody)
    assert tuned.table["accuracy"].notna().all()


def test_threads_leave_the_filters_of_warnings_as_they_are(federation):
    points = [BASE.replace(rounds=1, seed=seed) for seed in range(24)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as executor:
            gl.sweep(points, federation=federation, **OWN, executor=executor, progress=False)
        assert warnings.filters == before


def test_filters_of_warnings_that_a_thread_leaves_behind_are_taken_away(federation, monkeypatch):
    def run(*args, **options):
        warnings.simplefilter("ignore", UserWarning)  # as two threads of pandas at once do, now and then
        return gl.run(*args, **options)

    monkeypatch.setattr(grid, "run", run)
    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as executor:
        gl.sweep([BASE, BASE.replace(seed=1)], federation=federation, **OWN, executor=executor, progress=False)
    assert warnings.filters == before


def test_numbers_to_predict_are_searched_by_their_loss():
    rng = np.random.default_rng(0)
    agents = [(x, x[:, :1] * (1 + agent)) for agent, x in enumerate(rng.normal(size=(4, 12, 2)))]
    numbers = gl.Federation.from_agents(agents, n_new_agents=1)
    tuned = gl.tune(BASE.replace(model="softmax"), settings=["meta_lr"], validation_seeds=[5], trials=8,
                    federation=numbers, progress=False)  # fmt: skip
    assert "accuracy" not in tuned.table
    assert tuned.best.meta_lr == tuned.table.loc[tuned.table["loss"].idxmin(), "meta_lr"]


def test_seeds_that_torch_was_given_do_not_matter(federation, serial):
    with torch.random.fork_rng():
        torch.manual_seed(99)
        table = gl.sweep(GRID, BASE, federation=federation, **OWN, progress=False)
    pd.testing.assert_frame_equal(table, serial, check_exact=True)
