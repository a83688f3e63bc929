"""Runs in the background: the last change wins, Stop stops, errors are told, memory and time stay small."""

import gc
import random
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from functools import partial

import pytest
import torch
from own_work import Clock, crowded
from panel_helpers import (
    LONG,
    QUICK,
    control,
    move,
    painted,
    part,
    press,
    same,
    taken_away,
    threads,
    under_way,
    until,
    words,
)

import gmfl_lite as gl
from gmfl_lite.engine import local_step, vectorized
from gmfl_lite.explorer.background_runs import Runs
from gmfl_lite.explorer.knobs import KNOBS
from gmfl_lite.explorer.what_if import WhatIf

BOTH = pytest.mark.parametrize("callback", ["main thread", "another thread"], indirect=True)


@BOTH
def test_a_moved_knob_runs_and_says_what_gl_run_gives(panel, callback):
    explorer = panel()
    callback(move, explorer, "nu", 1)
    result = explorer.wait(60)
    assert same(result, gl.run(QUICK.replace(nu=1, eval_every=1), progress=False))
    accuracy = result.table().loc["new", 3]
    assert f"After 3 fine-tuning steps new agents reach {100 * accuracy:.0f} %" in words(explorer)
    assert "FedAvg fine-tuned as long, at the same step sizes." in words(explorer)


@BOTH
def test_200_changes_in_two_seconds_leave_the_last_one(panel, callback, monkeypatch):
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    explorer = panel(LONG)
    draw = random.Random(0)
    for _ in range(200):
        name = draw.choice(
            ["nu", "fine_tune_lr", "dirichlet_alpha", "permuted_classes", "local_steps", "seed", "gradient"]
        )
        callback(move, explorer, name, draw.choice(KNOBS[name].values))
        assert len(threads("training")) <= 1
        time.sleep(0.01)
    assert len(threads("training")) == 1
    assert len(threads()) <= 2  # another one may draw
    callback(move, explorer, "gradient", "exact")
    callback(move, explorer, "rounds", 10)
    result = explorer.wait(60)
    stand = {name: control(explorer, name).value for name in KNOBS}
    assert stand["shots"] == "all"
    stand["shots"] = None
    assert explorer.state.knobs == stand
    expected = WhatIf.from_values(WhatIf(LONG, LONG.seed), stand)
    assert same(result, expected.run())
    assert [curve.what_if for curve in explorer.state.curves] == [expected]
    assert "nu" in taken_away(explorer)
    assert not failures
    assert not threads()


def test_threads_that_press_at_once_leave_a_panel_that_works(panel, monkeypatch):
    explorer = panel()
    explorer.wait(60)
    started, failures = [], []
    monkeypatch.setattr(Runs, "start", lambda self, values, swept: started.append((values, swept)))
    monkeypatch.setattr(threading, "excepthook", failures.append)

    def set_pairs(nus: tuple[int, int]) -> None:
        for number in range(60):
            nu = nus[number % 2]
            explorer.set(nu=nu, rounds={0: 10, 1: 20, 2: 50, 3: 100}[nu])

    def sweep() -> None:
        for _ in range(40):
            explorer.sweep("model")
            explorer.sweep(None)

    acts = [partial(set_pairs, (0, 1)), partial(set_pairs, (2, 3)), sweep]
    together = [threading.Thread(target=act) for act in acts]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    assert len(started) == 200
    assert {(values["nu"], values["rounds"]) for values, _ in started} == {(0, 10), (1, 20), (2, 50), (3, 100)}
    assert {swept for _, swept in started} == {None, ("model", KNOBS["model"].values)}
    monkeypatch.undo()
    explorer.set(nu=1, rounds=10)
    assert explorer.wait(60).experiment == QUICK.replace(nu=1, eval_every=1)


@BOTH
def test_stop_and_run_again(panel, callback):
    explorer = panel(LONG)
    callback(press, explorer, "Run")
    until(lambda: under_way(explorer))
    pressed = Clock()
    callback(press, explorer, "Stop")
    until(lambda: not threads("training"))
    assert pressed.seconds() < 0.3
    assert explorer.wait(60) is None
    assert words(explorer).startswith("Stopped: press Run to start again. In round ")
    assert painted(explorer, "progress") == ""
    callback(press, explorer, "Run")
    until(lambda: under_way(explorer))
    assert "s left" in explorer.state.progress


def test_stop_before_the_first_point_keeps_the_picture_and_its_words(panel, monkeypatch):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    seen, said = painted(explorer, "picture"), words(explorer)
    begun = threading.Event()

    def slow(what_if, *, stop, **_):
        begun.set()
        stop.wait(60)
        return gl.run(QUICK, stop=stop, progress=False)

    monkeypatch.setattr(WhatIf, "run", slow)
    for act in (partial(explorer.set, nu=5), partial(explorer.sweep, "nu")):
        begun.clear()
        monkeypatch.setattr(explorer._runs, "_results", OrderedDict())
        act()
        assert begun.wait(60)
        press(explorer, "Stop")
        explorer.wait(60)
        assert painted(explorer, "picture") == seen
        assert words(explorer) == (
            f"Stopped before the first point, so this is the picture from before: press Run to start again. {said}"
        )


@pytest.mark.parametrize("act", ["Stop", "a knob"])
def test_stop_and_a_knob_are_heeded_while_the_local_step_is_recorded(panel, monkeypatch, act):
    """Recording it takes seconds at ν = 10, before the first round: here it is interrupted at its 300th operation."""
    explorer = panel(gl.Experiment(device="cpu"))
    explorer.wait(60)
    looked, reached, go_on, heed = [], threading.Event(), threading.Event(), local_step.look_at

    def counted(stop):
        looked.append(stop)
        if len(looked) == 300:
            reached.set()
            assert go_on.wait(60)
        heed(stop)

    monkeypatch.setattr(vectorized, "look_at", counted)
    explorer.set(nu=10, fine_tune_lr=0.01)
    assert reached.wait(60)
    assert "round 0 " in explorer.state.progress
    press(explorer, "Stop") if act == "Stop" else move(explorer, "nu", 5)
    go_on.set()
    if act == "Stop":
        until(lambda: not threads("training"))
        assert len(looked) == 300, "not one more operation is recorded"
    else:
        until(lambda: explorer.state.curves[-1].what_if.experiment.nu == 5)
        assert {id(stop) for stop in looked[:300]}.isdisjoint(id(stop) for stop in looked[300:])


def test_going_back_is_instant(panel, monkeypatch):
    explorer = panel()
    move(explorer, "nu", 1)
    first = explorer.wait(60)
    move(explorer, "nu", 0)
    explorer.wait(60)
    monkeypatch.setattr(WhatIf, "run", lambda *_, **__: pytest.fail("it is known already"))
    move(explorer, "nu", 1)
    assert explorer.wait(60) is first
    assert painted(explorer, "problem") == ""


def test_an_exception_in_the_worker_is_shown(panel, monkeypatch):
    explorer = panel()
    explorer.wait(60)
    monkeypatch.setattr(WhatIf, "run", lambda *_, **__: {}["lost"])
    press(explorer, "Run")
    explorer.wait(60)
    assert "KeyError: 'lost'" in words(explorer)
    monkeypatch.undo()
    press(explorer, "Run")
    assert explorer.wait(60).status == "completed"
    assert "KeyError" not in words(explorer)


@pytest.mark.slow
def test_an_interpreter_that_ends_while_a_run_is_at_work_ends_well():
    program = "import gmfl_lite as gl, time; e = gl.Explorer(gl.Experiment(rounds=1000)); e.set(nu=5); time.sleep(2.5)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_thread_whose_last_job_has_ended_is_gone_before_the_interpreter_is():
    program = """
import threading, time
from gmfl_lite.explorer.latest_wins import LatestWins

kept = threading.local()

class Slow:
    def __del__(self):
        time.sleep(0.5)
        print("gone", flush=True)

worker = LatestWins("slow to leave", on_error=print)
worker.submit(lambda stop: setattr(kept, "what", Slow()))
worker.wait()
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout == "gone\n"


@pytest.mark.slow
def test_memory_does_not_grow(panel, monkeypatch):
    """Counted in objects and in tensors' bytes; what recordings keep outside of both, test_recording.py counts."""
    monkeypatch.setattr("gmfl_lite.explorer.background_runs.RESULTS_KEPT", 2)
    explorer = panel(QUICK.replace(rounds=2))

    def three_runs(nu: int) -> tuple[int, int]:
        for seed in range(3):
            explorer.set(seed=seed, nu=nu)
            explorer.wait(60)
        gc.collect()
        alive = gc.get_objects()
        return len(alive), sum(one.nbytes for one in alive if type(one) is torch.Tensor and not one.is_sparse)

    before, after = ([three_runs(nu) for nu in (10, 0, 5)] for _ in range(2))
    more = [(objects_after - objects, held_after - held) for (objects, held), (objects_after, held_after) in zip(
        before, after, strict=True
    )]  # fmt: skip
    # What nine runs leave behind is there after each of them; what is only being ended is not.
    assert min(objects for objects, _ in more) < 120, more
    assert min(held for _, held in more) <= 0, more


def test_results_are_kept_up_to_a_number(panel, monkeypatch):
    monkeypatch.setattr("gmfl_lite.explorer.background_runs.RESULTS_KEPT", 2)
    explorer = panel()

    def result_of(nu: int) -> gl.Result:
        explorer.set(nu=nu)
        return explorer.wait(60)

    fedavg, first, second = map(result_of, (0, 1, 2))  # FedAvg is asked for with each, and so never the oldest
    assert result_of(2) is second
    again = result_of(1)
    assert again is not first
    assert same(again, first)
    assert result_of(0) is fedavg


@pytest.mark.slow
def test_timing_through_the_panel(panel, record_property):
    """A first point takes less than a second of this process's own work."""
    explorer = panel(gl.Experiment())
    explorer.wait(60)
    picture = part(explorer, "picture")
    first_points, bars = [], []
    for nu in (5, 1, 2, 10):  # the least of several: other processes take turns, and share caches
        moved = Clock()
        move(explorer, "nu", nu)
        until(lambda: f"ν = {nu} " in picture.value)  # noqa: B023
        first_points.append(moved.seconds())
        bars.append(crowded(1))
    record_property("explorer: first point", f"{min(first_points):.2f} s")
    assert min(first_points) < max(bars)
