"""Sweeps: the same rows on any executor, failures as rows, nothing computed twice."""

import dataclasses
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd
import pytest

import gmfl_lite as gl
from gmfl_lite.data import DATASETS
from gmfl_lite.sweep import kept as cached
from gmfl_lite.sweep import prune

module = sys.modules["gmfl_lite.sweep.grid"]  # the name gl.sweep is the function's

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
    files[5].write_bytes(files[6].read_bytes())  # whole, but of another point
    ran = []
    run = module.run
    monkeypatch.setattr(module, "run", lambda *a, **k: ran.append(a) or run(*a, **k))
    again = gl.sweep(GRID, BASE, cache=tmp_path / "cache", progress=False)
    assert len(ran) == 2
    for table in (first, again):
        pd.testing.assert_frame_equal(table, serial, check_exact=True)


@pytest.mark.slow
@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_what_differs_in_how_it_is_scored_alone_is_not_trained_again(tmp_path, monkeypatch, precision):
    """Of ν = 0 that is α, too; wherever a point comes from, its numbers are those of a run, to the bit."""
    base = BASE.replace(model="mlp", rounds=4, eval_every=4, precision=precision)
    points = [
        base.replace(nu=nu, fine_tune_lr=lr, eval_steps=steps, seed=seed)
        for nu in (0, 1) for lr in (0.1, 0.5, 1e300) for steps in ((0, 2), (5,)) for seed in (0, 1)
    ]  # fmt: skip
    points += [base.replace(nu=0, meta_lr=0.3), base.replace(nu=0, eval_agents=2), base.replace(nu=0, eval_every=3)]
    expected = gl.sweep(points, progress=False)
    assert set(expected["status"]) == {"completed", "diverged"}
    ran = []
    run = module.run
    monkeypatch.setattr(module, "run", lambda experiment, **k: ran.append(experiment) or run(experiment, **k))
    table = gl.sweep(points, cache=tmp_path, progress=False)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    plain = [point for point in ran if point.fine_tune_lr < 1]
    assert [(point.nu, point.fine_tune_lr, point.seed) for point in plain] == [
        *((0, 0.1, 0), (0, 0.1, 1), (1, 0.1, 0), (1, 0.1, 1), (1, 0.5, 0), (1, 0.5, 1)),
        *([(0, base.fine_tune_lr, 0)] * 3),  # another β; some agents alone; a look on the way
    ]
    ways = {"history": True, "progress": False}
    on_the_way = gl.sweep(points, cache=tmp_path, **ways)
    pd.testing.assert_frame_equal(on_the_way, gl.sweep(points, **ways), check_exact=True)


def test_several_sweeps_may_share_a_cache(serial, tmp_path):
    with ThreadPoolExecutor(2) as executor:
        tables = list(executor.map(lambda _: gl.sweep(GRID, BASE, cache=tmp_path, progress=False), range(2)))
    for table in tables:
        pd.testing.assert_frame_equal(table, serial, check_exact=True)
    assert len(list(tmp_path.iterdir())) == 8  # and nothing half-written beside them


def swept_by(library, cache):
    """The losses that a process with this copy of the library gives, and how many points it computed."""
    program = f"""
import sys
import gmfl_lite as gl
assert gl.__file__.startswith({str(library)!r})
grid, ran = sys.modules["gmfl_lite.sweep.grid"], []
run = grid.run
grid.run = lambda *a, **k: ran.append(a) or run(*a, **k)
table = gl.sweep([gl.Experiment(**{BASE.to_dict()!r})], cache={cache and str(cache)!r}, progress=False)
print(*table["loss"], len(ran))
"""
    environment = {**os.environ, "PYTHONPATH": str(library.parent)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=library.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *losses, ran = done.stdout.split()
    return losses, int(ran)


@pytest.mark.slow
def test_other_code_of_the_library_computes_anew(planted, tmp_path):
    """As after `git pull`: the version is the same, one line of it is not."""
    library, cache = planted("trainer.py", ""), tmp_path / "cache"
    before, ran = swept_by(library, cache)
    assert (swept_by(library, cache), ran) == ((before, 0), 1)
    half = "def step(w, g, lr):\n    return {name: w[name] - lr / 2 * g[name] for name in g}"
    with open(library / "objective.py", "a", encoding="utf-8") as file:
        file.write(f"\n\n{half}\n")
    after, ran = swept_by(library, cache)
    assert (after, ran) == (swept_by(library, None)[0], 1)
    assert after != before


@pytest.mark.usefixtures("one_by_one")
def test_ctrl_c_ends_the_sweep_and_keeps_what_is_finished(serial, tmp_path, monkeypatch):
    run, ran = module.run, []

    def interrupted(experiment, **options):
        ran.append(experiment)
        result = run(experiment, **options)
        return result if len(ran) < 4 else dataclasses.replace(result, status="stopped")  # as run does on Ctrl-C

    monkeypatch.setattr(module, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gl.sweep(GRID, BASE, cache=tmp_path, progress=False)
    assert (len(ran), len(list(tmp_path.iterdir()))) == (4, 3)
    monkeypatch.setattr(module, "run", run)
    pd.testing.assert_frame_equal(gl.sweep(GRID, BASE, cache=tmp_path, progress=False), serial, check_exact=True)


def test_a_pool_whose_worker_died_gives_rows_that_say_so():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        with pytest.raises(BrokenExecutor):
            executor.submit(os._exit, 1).result()
        table = gl.sweep([BASE, BASE.replace(nu=1)], executor=executor, progress=False)
    assert list(table["status"]) == ["failed"] * 2
    assert table["message"].str.contains("BrokenProcessPool").all()


class OneByOne(ThreadPoolExecutor):
    """One thread that begins when it is told to."""

    def __init__(self):
        super().__init__(1)
        self.begin = threading.Event()
        super().submit(self.begin.wait)

    def submit(self, *arguments):
        future = super().submit(*arguments)
        self.begin.set()
        return future


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("after", [1, 3])
def test_an_executor_that_is_shut_down_ends_the_sweep_with_what_there_is(serial, after):
    """Of futures that `shutdown` cancels, as_completed never hears."""
    told = []

    def on_point(number, rows):
        told.append(number)
        if len(told) == after:
            executor.shutdown(wait=False, cancel_futures=True)

    executor = OneByOne()
    table = gl.sweep(GRID, BASE, executor=executor, on_point=on_point, progress=False)
    assert sorted(told) == list(range(8))
    done = table[table["status"] == "completed"]
    assert after <= len(done) / 4 < 8
    first = serial.iloc[: len(done)]
    pd.testing.assert_frame_equal(done.reset_index(drop=True), first, check_dtype=False, check_exact=True)
    rest = table[table["status"] == "stopped"]
    assert len(done) / 4 + len(rest) == 8
    assert rest["message"].unique().tolist() == ["the executor was shut down before this point was begun"]


def test_an_executor_that_was_shut_down_before_takes_nothing():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    assert gl.sweep({"nu": [0, 1]}, BASE, executor=executor, progress=False)["status"].tolist() == ["stopped"] * 2


def test_points_of_other_versions_are_counted_ignored_and_pruned(serial, tmp_path, monkeypatch):
    gl.sweep(GRID, BASE, cache=tmp_path, progress=False)
    mine = sorted(path.name for path in tmp_path.iterdir())
    for name in mine[:3]:
        (tmp_path / f"{'0' * 16}-{name[17:]}").write_bytes(b"of another version")
    (tmp_path / mine[0][17:]).write_bytes(b"of a version that did not say which")
    others = ["federation.result", "notes.txt", f"{'0' * 16}-short.result"]
    for name in others:
        (tmp_path / name).write_text("mine")
    with pytest.warns(UserWarning, match="cache: 4 points there of other versions of gmfl_lite or torch are not used"):
        table = gl.sweep(GRID, BASE, cache=tmp_path, progress=False)
    pd.testing.assert_frame_equal(table, serial, check_exact=True)
    assert (prune(tmp_path), prune(tmp_path), prune(tmp_path / "nowhere")) == (4, 0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*mine, *others])
    gl.sweep(GRID, BASE, cache=tmp_path, progress=False)
    monkeypatch.setattr(cached, "library", lambda: "f" * 16)
    assert prune(tmp_path) == 8


def test_other_files_of_a_dataset_are_other_points(digits, tmp_path, monkeypatch):
    """The name of the dataset is the same, and what lies in its files is not."""
    tables = []
    for shade in (0.5, 0.25):
        cached._samples.cache_clear()
        source = dataclasses.replace(DATASETS["digits"], read=lambda *_, shade=shade: (shade * digits.x, digits.y))
        monkeypatch.setitem(DATASETS, "digits", source)
        tables.append(gl.sweep([BASE], cache=tmp_path, progress=False))
    cached._samples.cache_clear()
    assert len(list(tmp_path.iterdir())) == 2
    assert not tables[0]["loss"].equals(tables[1]["loss"])


def test_histories_of_all_rounds():
    points = [BASE.replace(eval_every=1, nu=nu) for nu in (0, 1)]
    table = gl.sweep(points, progress=False, history=True)
    for nu, rows in table.groupby("nu"):
        history = gl.run(points[nu], progress=False).history
        pd.testing.assert_frame_equal(rows[list(history)].reset_index(drop=True), history)


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
