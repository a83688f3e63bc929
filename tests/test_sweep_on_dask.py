"""A sweep on Dask's workers is the serial sweep, even when a worker is killed."""

import importlib
import os
import random
import time

import pandas as pd
import pytest

import gmfl_lite as gl

distributed = pytest.importorskip("distributed", reason="needs the extra: pip install 'gmfl_lite[dask]'")
psutil = pytest.importorskip("psutil")  # which Dask needs, too

BASE = gl.Experiment(
    model="softmax", n_agents=10, n_new_agents=2, agents_per_round=3, rounds=5, eval_every=5, eval_steps=(0, 2)
)
GRID = {"nu": [0, 1, 2], "dirichlet_alpha": [0.1, 1.0], "seed": range(4)}


@pytest.fixture
def dask_may_draw():
    """Dask's own machinery draws from Python's global generator; what it has drawn is put back."""
    state = random.getstate()
    yield
    random.setstate(state)


@pytest.mark.slow
def test_a_sweep_survives_a_killed_worker(tmp_path, record_property, dask_may_draw):
    serial = gl.sweep(GRID, BASE, progress=False)
    assert len(serial) == 24 * 2 * 2
    seen, killed = [], {}

    def hold(folder):
        """Let a worker's points, from the fifth that it begins, wait until one worker has been killed."""
        module = importlib.import_module("gmfl_lite.sweep.grid")
        run, begun = module.run, []

        def held(*arguments, **how):
            begun.append(None)
            while len(begun) > 4 and not (folder / "killed").exists():
                time.sleep(0.05)
            return run(*arguments, **how)

        module.run = held

    def kill_one(number: int, rows: pd.DataFrame) -> None:
        seen.append(number)
        if not killed and len(seen) >= 3:
            busy = {worker: tasks for worker, tasks in client.processing().items() if tasks}
            pids = client.run(os.getpid)
            worker = next(iter(busy))
            kept = len(list((tmp_path / "cache").glob("*.result")))
            killed.update(worker=worker, pid=pids[worker], tasks=len(busy[worker]), kept=kept)
            psutil.Process(pids[worker]).kill()
            (tmp_path / "killed").touch()

    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=60
    )
    with cluster, distributed.Client(cluster) as client:
        client.run(hold, tmp_path)
        executor = client.get_executor()
        table = gl.sweep(GRID, BASE, executor=executor, cache=tmp_path / "cache", on_point=kill_one, progress=False)
        alive = set(client.run(os.getpid).values())
    assert killed["tasks"] > 0, "the worker had nothing to lose"
    assert killed["pid"] not in alive
    assert 3 <= killed["kept"] < 24, "results reach the cache as they finish"
    assert sorted(seen) == list(range(24))
    pd.testing.assert_frame_equal(table, serial, rtol=1e-5)
    assert set(table["status"]) == {"completed"}
    record_property("points that a killed Dask worker was to do, and others did", killed["tasks"])


@pytest.mark.slow
@pytest.mark.parametrize(("resources", "at_once"), [({"GPU": 1}, 1), ({}, 2)])
def test_points_that_ask_for_the_gpu_take_turns(resources, at_once, dask_may_draw):
    """A worker with two threads and one GPU."""

    class Count(distributed.WorkerPlugin):
        """Keeps, for the worker's tasks, the largest number under way at once."""

        def setup(self, worker):
            self.worker, self.executing, worker.most = worker, set(), 0

        def transition(self, key, start, finish, **kwargs):
            self.executing.discard(key)
            if finish == "executing":
                self.executing.add(key)
                self.worker.most = max(self.worker.most, len(self.executing))

    how = {
        "n_workers": 1,
        "threads_per_worker": 2,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": 60,
    }
    with distributed.LocalCluster(**how, resources={"GPU": 1}) as cluster, distributed.Client(cluster) as client:
        client.register_plugin(Count())
        executor = client.get_executor(resources=resources)
        table = gl.sweep({"seed": range(6)}, BASE, executor=executor, progress=False)
        (most,) = client.run(lambda dask_worker: dask_worker.most).values()
    assert set(table["status"]) == {"completed"}
    assert most == at_once
