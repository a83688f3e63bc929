"""Sweeps: the same rows on any executor, failures as rows, nothing computed twice."""

import itertools
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd
import pytest

import gmfl_lite as gl

module = sys.modules["gmfl_lite.sweep"]  # the name gl.sweep is the function's

BASE = gl.Experiment(
    model="softmax", n_agents=10, n_new_agents=2, agents_per_round=3, rounds=3, eval_every=3, eval_steps=(0, 2)
)
GRID = {"nu": [0, 2], "dirichlet_alpha": [0.1, 1.0], "seed": range(2)}


@pytest.fixture(scope="module")
def serial():
    return gl.sweep(GRID, BASE, progress=False)


def test_every_point_is_the_run_it_names(serial):
    assert len(serial) == 8 * 2 * 2
    for (nu, alpha, seed), rows in serial.groupby(["nu", "dirichlet_alpha", "seed"]):
        result = gl.run(BASE.replace(nu=int(nu), dirichlet_alpha=alpha, seed=int(seed)), progress=False)
        last = result.history[result.history["round"] == 3].reset_index(drop=True)
        columns = ["group", "fine_tune_steps", "loss", "accuracy", "worst_decile_accuracy"]
        pd.testing.assert_frame_equal(rows[columns].reset_index(drop=True), last[columns])
        assert set(rows["status"]) == {"completed"}


@pytest.mark.slow
def test_processes_give_the_same_bits(serial):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        pd.testing.assert_frame_equal(gl.sweep(GRID, BASE, executor=executor, progress=False), serial, check_exact=True)


def test_threads_give_the_same_bits(serial):
    with ThreadPoolExecutor(3) as executor:
        pd.testing.assert_frame_equal(gl.sweep(GRID, BASE, executor=executor, progress=False), serial, check_exact=True)


def test_failing_points_are_rows(serial):
    grid = {"agents_per_round": [3, 11], "n_agents": [10, 10_000], "meta_lr": [0.05]}
    table = gl.sweep(grid, BASE, progress=False)
    failed = table[table["status"] == "failed"]
    assert failed[["agents_per_round", "n_agents"]].to_numpy().tolist() == [[3, 10_000], [11, 10], [11, 10_000]]
    assert "ExperimentError: 1 problem" in failed["message"].iloc[1]
    assert "cannot be dealt out" in failed["message"].iloc[0]
    wild = gl.sweep({"meta_lr": [0.05, 1e39]}, BASE, progress=False)
    assert list(wild["status"].unique()) == ["completed", "diverged"]


def test_a_finished_point_is_not_computed_again(serial, tmp_path, monkeypatch):
    first = gl.sweep(GRID, BASE, cache=tmp_path / "cache", progress=False)
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 8
    files[3].write_bytes(b"spoiled")
    ran = []
    run = module.run
    monkeypatch.setattr(module, "run", lambda *a, **k: ran.append(a) or run(*a, **k))
    again = gl.sweep(GRID, BASE, cache=tmp_path / "cache", progress=False)
    assert len(ran) == 1
    for table in (first, again):
        pd.testing.assert_frame_equal(table, serial, check_exact=True)


def test_a_list_of_experiments(serial):
    values = itertools.product(*GRID.values())
    points = [BASE.replace(**dict(zip(GRID, point, strict=True))) for point in values]
    table = gl.sweep(points, progress=False)
    pd.testing.assert_frame_equal(table[serial.columns], serial)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"nuu": [1]}, "nuu is not a setting .did you mean 'nu'"),
        ({"nu": 3}, r"grid\['nu'\] = 3: must be a list"),
        ({"dataset": "digits"}, "must be a list of values"),
        ({"nu": []}, "holds no point"),
        ([], "holds no point"),
        (["digits"], "grid = "),
        (None, "grid = None"),
    ],
)
def test_refusals(grid, message):
    with pytest.raises(ValueError, match=message):
        gl.sweep(grid, progress=False)


def test_points_are_told_of_as_they_finish(serial):
    told = {}
    with ThreadPoolExecutor(2) as executor:
        gl.sweep(GRID, BASE, executor=executor, on_point=told.__setitem__, progress=False)
    pd.testing.assert_frame_equal(pd.concat([told[number] for number in range(8)], ignore_index=True), serial)
