"""The explorer without a browser: the same answers whichever thread calls back, and nothing left behind."""

import ast
import gc
import html
import json
import random
import re
import resource
import shlex
import statistics
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import ipywidgets
import nbformat
import pandas as pd
import papermill
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite.explorer import display as reading
from gmfl_lite.explorer.display import Curve
from gmfl_lite.explorer.knobs import KNOBS, PRESETS
from gmfl_lite.explorer.latest_wins import LatestWins
from gmfl_lite.explorer.take_away import NOTEBOOK, as_papermill, as_python
from gmfl_lite.explorer.what_if import WhatIf, labels

QUICK = gl.Experiment(
    model="softmax", n_agents=12, n_new_agents=4, rounds=10, local_steps=1, batch_size=10, device="cpu"
)
LONG = QUICK.replace(rounds=100_000, eval_every=5)


@pytest.fixture
def panel():
    """Make explorers that are closed at the end, and check that their threads end, too."""
    made = []

    def make(base: gl.Experiment = QUICK, **options) -> gl.Explorer:
        made.append(gl.Explorer(base, **options))
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


@pytest.fixture(params=["main thread", "another thread"])
def callback(request):
    """Call a function as a kernel calls back: ipykernel 7.4 from the main thread, 7.0 to 7.3 from another."""

    def call(act, *arguments):
        if request.param == "main thread":
            return act(*arguments)
        thread = threading.Thread(target=act, args=arguments)
        thread.start()
        return thread.join()

    return call


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("gmfl_lite")]


def until(what, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def everything(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in everything(child))]


def press(explorer: gl.Explorer, name: str) -> None:
    buttons = [w for w in everything(explorer.panel) if isinstance(w, ipywidgets.Button) and w.description == name]
    assert len(buttons) == 1
    buttons[0].click()


def move(explorer: gl.Explorer, name: str, value) -> None:
    """Move a control as the browser does."""
    explorer._rows[name]._one.value = value


def words(explorer: gl.Explorer) -> str:
    """What is read out: what went wrong, and what is to be seen."""
    said = f"{explorer._problem.value} {explorer._words.value}".strip()
    return html.unescape(re.sub("<[^>]+>", "", said)).replace("\xa0", " ")


def same(one: gl.Result, other: gl.Result) -> bool:
    equal = all(torch.equal(one.params[name], other.params[name]) for name in other.params)
    return equal and one.history.equals(other.history) and one.experiment == other.experiment


# The worker


def test_worker_does_the_last_job_only_and_one_at_a_time():
    done, at_work, most = [], 0, 0

    def job(number: int, stop: threading.Event) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        stop.wait(0.05)
        at_work -= 1
        if not stop.is_set():
            done.append(number)

    worker = LatestWins("gmfl_lite test", on_error=pytest.fail)
    for number in range(200):
        worker.submit(partial(job, number))
    assert worker.wait(10)
    assert done == [199]
    assert most == 1
    assert not threads()


def test_worker_tells_errors_and_goes_on():
    errors, done = [], []
    worker = LatestWins("gmfl_lite test", on_error=errors.append)
    worker.submit(lambda stop: 1 / 0)
    assert worker.wait(10)
    worker.submit(lambda stop: done.append(1))
    assert worker.wait(10)
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert done == [1]


def test_worker_stops_waits_and_closes():
    worker = LatestWins("gmfl_lite test", on_error=pytest.fail)
    started = threading.Event()
    forgotten = []

    def job(stop: threading.Event) -> None:
        started.set()
        assert stop.wait(10)

    worker.submit(job)
    assert started.wait(10)
    assert worker.wait(timeout=0.05) is False
    worker.submit(forgotten.append)
    worker.stop()
    assert worker.wait(10)
    worker.close()
    worker.submit(forgotten.append)
    assert worker.wait(0)
    assert forgotten == []


# The panel


def test_a_moved_knob_runs_and_says_what_gl_run_gives(panel, callback):
    explorer = panel()
    callback(move, explorer, "nu", 1)
    result = explorer.wait(60)
    assert same(result, gl.run(QUICK.replace(nu=1, eval_every=1), progress=False))
    accuracy = result.table().loc["new", 3]
    assert f"After 3 fine-tuning steps new agents reach {100 * accuracy:.0f} %" in words(explorer)
    assert "FedAvg fine-tuned as long." in words(explorer)


def test_the_first_look_is_the_untrained_model(panel):
    explorer = panel()
    assert explorer.wait(60) is None
    start = gl.run(QUICK, progress=False).history.query("round == 0 and group == 'new' and fine_tune_steps == 3")
    assert words(explorer) == (
        "Press Run, or move a knob. Before training, after 3 fine-tuning steps new agents reach "
        f"{100 * start['accuracy'].item():.0f} %."
    )
    assert "<img" in explorer._picture.value


def test_run_without_moving_a_knob_runs_the_base_itself(panel, callback):
    base = QUICK.replace(
        eval_every=1, partition="per_fedavg", per_fedavg_a=8, gradient="hessian_free", backprop_steps=2
    )
    explorer = panel(base, weights_seed=3)
    callback(press, explorer, "Run")
    assert explorer.wait(60).experiment == base
    assert explorer._runs.view.curves[-1].what_if == WhatIf(base, 3)


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
        assert len([thread for thread in threads() if "training" in thread.name]) <= 1
        time.sleep(0.01)
    assert len(threads()) == 2  # one trains, one draws
    callback(move, explorer, "gradient", "exact")
    callback(move, explorer, "rounds", 10)
    result = explorer.wait(60)
    expected = WhatIf.from_values(explorer._base, {name: row.value for name, row in explorer._rows.items()})
    assert same(result, expected.run())
    assert [curve.what_if for curve in explorer._runs.view.curves] == [expected]
    assert "nu" in explorer._take_away.value
    assert not failures
    assert not threads()


def test_stop_and_run_again(panel, callback):
    explorer = panel(LONG)
    callback(press, explorer, "Run")
    until(lambda: explorer._runs.view.progress.startswith("round 5 "))
    pressed = time.monotonic()
    callback(press, explorer, "Stop")
    assert explorer._runs.wait(10)
    assert time.monotonic() - pressed < 0.3
    assert explorer.wait(10) is None
    assert words(explorer).startswith("Stopped: press Run to start again. In round ")
    assert explorer._progress.value == ""
    callback(press, explorer, "Run")
    until(lambda: explorer._runs.view.progress.startswith("round 5 "))
    assert "s left" in explorer._runs.view.progress


def test_going_back_is_instant(panel, callback, monkeypatch):
    explorer = panel()
    callback(move, explorer, "nu", 1)
    first = explorer.wait(60)
    callback(move, explorer, "nu", 0)
    explorer.wait(60)
    monkeypatch.setattr(WhatIf, "run", lambda *_, **__: pytest.fail("it is known already"))
    callback(move, explorer, "nu", 1)
    assert explorer.wait(60) is first
    assert explorer._problem.value == ""


@pytest.mark.parametrize("name", PRESETS)
def test_presets_change_what_they_say_and_only_that(panel, name):
    explorer = panel(QUICK.replace(max_rotation=15.0))
    press(explorer, name)
    explorer.wait(60)
    now = explorer._runs.view.curves[-1].what_if
    assert {knob: now.value(knob) for knob in PRESETS[name]} == PRESETS[name]
    others = set(KNOBS) - set(PRESETS[name])
    assert all(now.value(knob) == explorer._base.value(knob) for knob in others)


def test_the_diverging_preset_says_what_to_lower(panel, callback):
    explorer = panel(gl.Experiment(device="cpu"))
    callback(press, explorer, "a step size that diverges")
    assert explorer.wait(60).status == "diverged"
    assert re.search(r"diverged in round 1: .*lower meta_lr \(now 10\), for example to 0\.\d", words(explorer))
    assert "nan" not in explorer._picture.value.split("src=")[0].lower()
    callback(press, explorer, "Reset")
    until(lambda: "round 0" in explorer._runs.view.progress)
    assert reading.problem(explorer._runs.view) == ""


def test_reset_puts_every_knob_back(panel, callback):
    explorer = panel()
    initial = dict(explorer._initial)
    explorer.set(nu=10, partition="iid", weights_seed=5, rounds=20)
    explorer.sweep("nu")
    callback(press, explorer, "Reset")
    assert {name: row.value for name, row in explorer._rows.items()} == initial
    assert explorer._swept is None
    assert explorer.wait(60).experiment == QUICK.replace(eval_every=1)


def test_contradictions_are_said_in_words(panel, callback):
    explorer = panel(QUICK)
    callback(move, explorer, "agents_per_round", 50)
    explorer.wait(60)
    assert "agents_per_round = 50: must be at most n_agents = 12" in words(explorer)
    explorer.set(agents_per_round=10, gradient="truncated", backprop_steps=5)
    explorer.wait(60)
    assert "backprop_steps = 5: must be an integer of at least 0 and at most 3" in words(explorer)
    explorer.set(backprop_steps=2)
    assert explorer.wait(60).status == "completed"


def test_agents_that_cannot_be_dealt_are_said_in_words(panel):
    explorer = panel()
    explorer.set(partition="per_fedavg", per_fedavg_a=128)
    explorer.wait(60)
    assert "digits cannot be dealt out" in words(explorer)
    assert "preparing" not in explorer._progress.value


def test_an_exception_in_the_worker_is_shown(panel, callback, monkeypatch):
    explorer = panel()
    explorer.wait(60)
    monkeypatch.setattr(WhatIf, "run", lambda *_, **__: {}["lost"])
    callback(press, explorer, "Run")
    explorer.wait(60)
    assert "KeyError: 'lost'" in words(explorer)
    monkeypatch.undo()
    callback(press, explorer, "Run")
    assert explorer.wait(60).status == "completed"
    assert "KeyError" not in words(explorer)


def test_an_exception_in_the_drawing_is_shown_and_does_not_repeat(panel, monkeypatch):
    explorer = panel()
    explorer.wait(60)
    calls = []
    monkeypatch.setattr(reading, "picture", lambda *_: calls.append(1) or {}["lost"])
    explorer._steps.value = 10
    explorer.wait(60)
    assert "KeyError: 'lost'" in words(explorer)
    assert calls == [1]


def test_sweep_draws_its_family(panel, callback):
    explorer = panel()
    row = explorer._rows["nu"]
    callback(setattr, row._button, "value", True)
    explorer.wait(120)
    curves = explorer._runs.view.curves
    assert [curve.what_if.experiment.nu for curve in curves] == [0, 1, 2, 3, 5, 10]
    assert all(curve.status == "completed" for curve in curves)
    assert re.match(r"After 3 fine-tuning steps, ν = \d+ gives \d+ % and ν = \d+ \d+ %\.", words(explorer))
    callback(setattr, row._many, "index", (0, 2))
    explorer.wait(60)
    assert [curve.what_if.experiment.nu for curve in explorer._runs.view.curves] == [0, 1, 2]
    callback(setattr, explorer._rows["gradient"]._button, "value", True)  # only one knob is swept at a time
    assert row._button.value is False
    assert row.box.children[0] is row._one
    explorer.wait(120)
    assert "truncated: backprop_steps" not in words(explorer)
    callback(setattr, explorer._rows["gradient"]._button, "value", False)
    assert explorer.wait(60).experiment.nu == 3
    assert len(explorer._runs.view.curves) == 1


def test_a_sweep_goes_on_after_points_that_fail(panel):
    explorer = panel()
    explorer.sweep("agents_per_round")
    explorer.wait(60)
    said = words(explorer)
    assert "agents_per_round = 20: 1 problem" in said
    assert "agents_per_round = 50: 1 problem" in said
    assert "After 3 fine-tuning steps, agents_per_round = " in said
    assert [curve.what_if.experiment.agents_per_round for curve in explorer._runs.view.curves] == [1, 2, 5, 10]


def test_a_sweep_goes_on_after_agents_that_cannot_be_dealt(panel):
    explorer = panel()
    explorer.set(partition="per_fedavg")
    explorer.sweep("per_fedavg_a")
    explorer.wait(120)
    assert "per_fedavg_a = 128: digits cannot be dealt out" in words(explorer)
    assert [curve.what_if.experiment.per_fedavg_a for curve in explorer._runs.view.curves] == [2, 4, 8, 16]


def test_every_knob_can_be_swept(panel):
    explorer = panel(LONG)
    for name, knob in KNOBS.items():
        explorer.set(**dict([knob.needs] if knob.needs else []))
        explorer.sweep(name)
        assert explorer._rows[name].swept == explorer._rows[name].knob.values
        assert [row.knob.name for row in explorer._rows.values() if row._button.value] == [name]


def test_pins_stay_and_are_named_by_what_differs(panel, callback):
    explorer = panel()
    for nu in (0, 3):
        callback(move, explorer, "nu", 5)
        callback(move, explorer, "nu", nu)
        explorer.wait(60)
        callback(press, explorer, "Pin this curve")
    callback(press, explorer, "Pin this curve")  # once is enough
    explorer.set(nu=1)
    explorer.wait(60)
    shown = table(explorer)
    assert shown["run"] == ["ν = 0", "ν = 3", "ν = 1"]
    assert shown["pinned"] == ["yes", "yes", ""]
    explorer._best_first.value = True
    explorer.wait(60)
    column = [float(value) for value in table(explorer)["3"]]
    assert column == sorted(column, reverse=True)
    assert re.search("ν = 0 .*ν = 3 .*ν = 1 ", explorer._picture.value.split(" onload")[0])
    callback(press, explorer, "Clear pins")
    explorer.wait(60)
    assert table(explorer)["run"] == ["ν = 1", "FedAvg (ν = 0)"]


def table(explorer: gl.Explorer) -> dict[str, list[str]]:
    rows = [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in explorer._table.value.split("<tr")[1:]]
    return {name: list(values) for name, *values in zip(*rows, strict=True)}


def test_redraw_weights_and_data_apart(panel, callback):
    explorer = panel()
    callback(press, explorer, "Redraw weights")
    weights = explorer.wait(60)
    assert explorer._runs.view.curves[-1].what_if == WhatIf(QUICK.replace(eval_every=1), 1)
    federation = gl.build_federation(QUICK)
    model = gl.build_model("softmax", federation, seed=1)
    assert same(weights, gl.run(QUICK.replace(eval_every=1), model=model, progress=False))
    callback(press, explorer, "Redraw data")
    explorer.wait(60)
    assert explorer._runs.view.curves[-1].what_if == WhatIf(QUICK.replace(eval_every=1, seed=1), 1)


def test_the_steps_shown_are_a_matter_of_looking(panel):
    explorer = panel()
    explorer.set(nu=1)
    result = explorer.wait(60)
    explorer._steps.value = 10
    assert explorer.wait(60) is result
    assert f"After 10 fine-tuning steps new agents reach {100 * result.table().loc['new', 10]:.0f} %" in words(explorer)


def test_two_panels_do_not_disturb_each_other(panel):
    one, other = panel(), panel(QUICK.replace(seed=7))
    one.set(nu=1)
    other.set(nu=5, dirichlet_alpha=0.1)
    first, second = one.wait(60), other.wait(60)
    assert same(first, gl.run(QUICK.replace(nu=1, eval_every=1), progress=False))
    assert same(second, gl.run(QUICK.replace(nu=5, seed=7, dirichlet_alpha=0.1, eval_every=1), progress=False))
    one.close()
    other.set(nu=0)
    assert other.wait(60).experiment.nu == 0


def test_close_stops_the_worker_and_takes_all_widgets_away(panel):
    instances = ipywidgets.widgets.widget._instances
    before = set(instances)
    explorer = panel(LONG)
    explorer.sweep("model")
    until(lambda: "round 5 " in explorer._runs.view.progress)
    explorer.close()
    until(lambda: not threads(), 5)
    assert set(instances) == before
    explorer.close()
    explorer._changed()
    assert not threads()


def test_running_its_cell_again_closes_it(panel, monkeypatch):
    from IPython.core.events import EventManager

    class Shell:
        def __init__(self):
            self.events = EventManager(self, {"pre_run_cell": lambda info: None})
            self.cell = "a"

        def get_parent(self):
            return {"metadata": {"cellId": self.cell}}

        def run(self, cell):
            self.cell = cell
            info = type("Info", (), {"cell_id": cell})
            self.events.trigger("pre_run_cell", info)

    shell = Shell()
    monkeypatch.setattr("gmfl_lite.explorer.widget_rows.get_ipython", lambda: shell)
    explorer = panel(LONG)
    explorer.set(nu=1)
    shell.run("b")
    assert explorer._runs._worker.busy
    shell.run("a")
    until(lambda: not threads(), 5)
    assert explorer.panel.comm is None
    assert not [c for c in shell.events.callbacks["pre_run_cell"] if "about_to_run" in c.__qualname__]


def test_an_interpreter_that_ends_while_a_run_is_at_work_ends_well():
    program = "import gmfl_lite as gl, time; e = gl.Explorer(gl.Experiment(rounds=1000)); e.set(nu=5); time.sleep(2.5)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.slow
def test_memory_does_not_grow(panel, record_property, monkeypatch):
    monkeypatch.setattr("gmfl_lite.explorer.background_runs.RESULTS_KEPT", 5)
    explorer = panel(QUICK.replace(rounds=2))

    def ten_runs(nu: int) -> tuple[float, int]:
        for seed in range(10):
            explorer.set(seed=seed, nu=nu)
            explorer.wait(60)
        gc.collect()
        return resident_megabytes(), len(gc.get_objects())

    # The largest ν first: what a run needs grows with ν, what it leaves behind must not.
    (megabytes, objects), *_, (megabytes_after, objects_after) = map(ten_runs, (10, 0, 1, 2, 3, 5))
    record_property("explorer: memory over 50 runs", f"{megabytes_after - megabytes:+.1f} MB")
    assert megabytes_after - megabytes < 20
    assert objects_after - objects < 1000
    assert len(explorer._runs._results) == 5


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_timing_through_the_panel(panel, record_property):
    """First point, whole default run and Stop, of three each where there is a limit.

    On a busy machine a first point may take twice the second that it may take of the panel's own time.
    """
    explorer = panel(gl.Experiment())
    explorer.wait(60)
    first_points, own, stops = [], [], []
    for nu in (5, 1, 2):
        started = time.monotonic(), time.process_time()
        move(explorer, "nu", nu)
        until(lambda: f"ν = {nu} " in alt(explorer))  # noqa: B023
        first_points.append(time.monotonic() - started[0])
        own.append(min(first_points[-1], time.process_time() - started[1]))
    move(explorer, "nu", 3)
    started = time.monotonic()
    until(lambda: "FedAvg" in explorer._runs.view.progress, 120)
    whole_run = time.monotonic() - started
    for seed in (1, 2, 3):
        explorer.set(nu=10, seed=seed)
        until(lambda: "round 10 " in explorer._runs.view.progress)
        started = time.monotonic()
        press(explorer, "Stop")
        assert explorer._runs.wait(10)
        stops.append(time.monotonic() - started)
    first_point, stop = statistics.median(first_points), statistics.median(stops)
    record_property("explorer: first point", f"{first_point:.2f} s")
    record_property("explorer: whole default run", f"{whole_run:.1f} s")
    record_property("explorer: Stop", f"{stop:.2f} s")
    assert first_point < 2
    assert statistics.median(own) < 1
    assert stop < 0.3


# What was promised of a panel that is played with


def test_stop_and_a_knob_are_heeded_while_the_local_step_is_recorded(panel, record_property):
    """Recording it takes seconds at ν = 10, before the first round of every new what-if."""
    explorer = panel(gl.Experiment(device="cpu"))
    explorer.wait(60)
    took = []
    for lr, later in ((0.01, 0.0), (0.03, 0.2), (0.1, 0.6)):
        explorer.set(nu=10, fine_tune_lr=lr)
        until(lambda: "round 0 " in explorer._runs.view.progress)
        time.sleep(later)
        assert "round 0 " in explorer._runs.view.progress
        pressed = time.monotonic()
        press(explorer, "Stop")
        assert explorer._runs.wait(10)
        took.append(time.monotonic() - pressed)
    record_property("explorer: Stop while recording", ", ".join(f"{seconds:.2f} s" for seconds in took))
    assert statistics.median(took) < 0.3
    took.clear()
    for lr in (0.01, 0.03, 0.1):
        explorer.set(nu=10, fine_tune_lr=lr)
        until(lambda: explorer._runs.view.curves[-1].what_if.experiment.nu == 10)
        started = time.monotonic()
        move(explorer, "nu", 5)
        until(lambda: explorer._runs.view.curves[-1].what_if.experiment.nu == 5)
        took.append(time.monotonic() - started)
    record_property("explorer: a knob while recording", ", ".join(f"{seconds:.2f} s" for seconds in took))
    assert statistics.median(took) < 1


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_data_that_are_not_here_are_not_waited_for(panel, monkeypatch, tmp_path, dataset):
    import torchvision.datasets as tv

    monkeypatch.setenv("GMFL_LITE_DATA", str(tmp_path))
    monkeypatch.setattr("gmfl_lite.data.DEBIAN_FASHION_MNIST", tmp_path / "none")
    for loader in (tv.MNIST, tv.FashionMNIST):
        monkeypatch.setattr(loader, "download", lambda _: pytest.fail("nobody can stop a download"))
    explorer = panel()
    explorer.set(dataset=dataset)
    assert explorer.wait(10) is None
    said = f"{dataset} is not in {tmp_path} and is not downloaded here. Put torchvision's files there"
    assert said in words(explorer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "impossible",
    [{"partition": "per_fedavg", "per_fedavg_a": 128}, {"agents_per_round": 50}],
    ids=["cannot be dealt out", "contradiction"],
)
def test_nothing_old_is_shown_under_a_what_if_that_fails(panel, impossible):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    assert "FedAvg" in explorer._picture.value
    explorer.set(nu=5, **impossible)
    assert explorer.wait(60) is None
    assert words(explorer).startswith("⚠ ")
    assert "reach" not in words(explorer)
    assert alt(explorer).endswith("against fine-tuning steps: nothing yet.")
    assert explorer._table.value == explorer._take_away.value == "Nothing has run yet."
    explorer.set(**{name: explorer._initial[name] for name in impossible})
    assert explorer.wait(60).experiment.nu == 5


def test_a_failing_point_does_not_take_the_family_with_it(panel):
    explorer = panel()
    explorer.set(partition="per_fedavg", per_fedavg_a=128)
    explorer.wait(60)
    explorer.sweep("partition")  # of which the last cannot be dealt out
    assert explorer.wait(60).experiment.partition == "shards"
    assert [curve.status for curve in explorer._runs.view.curves] == ["completed"] * 3
    assert "partition = shards" in alt(explorer)
    assert "per_fedavg" not in alt(explorer)


def test_a_pin_grows_until_its_run_ends(panel):
    explorer = panel(LONG.replace(rounds=200))
    press(explorer, "Run")
    until(lambda: "round 5 " in explorer._runs.view.progress)
    press(explorer, "Pin this curve")
    explorer.wait(60)
    assert [(len(pin.history), pin.status) for pin in explorer._pins] == [(41 * 10, "completed")]
    explorer.set(nu=1)
    explorer.wait(60)
    assert table(explorer)["rounds"] == ["200", "200", "200"]


def test_a_pin_whose_run_was_replaced_is_called_stopped(panel):
    explorer = panel(LONG)
    press(explorer, "Run")
    until(lambda: "round 5 " in explorer._runs.view.progress)
    press(explorer, "Pin this curve")
    explorer.set(nu=1, rounds=10)
    explorer.wait(60)
    assert table(explorer)["status"] == ["stopped", "completed", "completed"]


def test_a_pinned_first_look_becomes_its_run(panel):
    explorer = panel(QUICK.replace(eval_every=10))  # of which the panel makes 1
    explorer.wait(60)
    press(explorer, "Pin this curve")
    press(explorer, "Run")
    explorer.wait(60)
    explorer.set(nu=1)
    explorer.wait(60)
    shown = table(explorer)
    assert shown["run"] == ["ν = 3", "ν = 1", "FedAvg (ν = 0)"]
    assert shown["status"] == ["completed"] * 3
    assert shown["rounds"] == ["10"] * 3


def test_threads_that_press_at_once_leave_a_panel_that_works(panel, monkeypatch):
    explorer = panel()
    explorer.wait(60)
    started, failures = [], []
    monkeypatch.setattr(explorer._runs, "start", lambda values, swept: started.append((values, swept)))
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


def test_a_preset_ends_the_sweep_that_it_contradicts(panel, callback):
    explorer = panel()
    explorer.sweep("dirichlet_alpha")
    callback(press, explorer, "IID")
    assert explorer.wait(60).experiment.partition == "iid"
    assert len(explorer._runs.view.curves) == 1
    assert not explorer._rows["dirichlet_alpha"]._button.value
    explorer.sweep("nu")
    callback(press, explorer, "ν = 5")
    assert explorer.wait(60).experiment.nu == 5
    assert len(explorer._runs.view.curves) == 1
    with pytest.raises(ValueError, match="dirichlet_alpha changes nothing unless partition = dirichlet"):
        explorer.sweep("dirichlet_alpha")
    callback(move, explorer, "partition", "dirichlet")
    explorer.sweep("dirichlet_alpha")
    callback(move, explorer, "partition", "shards")
    explorer.wait(60)
    assert len(explorer._runs.view.curves) == 1


def test_a_sweep_over_nothing_asks_for_a_value(panel, callback):
    explorer = panel()
    explorer.sweep("model")
    callback(setattr, explorer._rows["model"]._many, "value", ())
    assert explorer.wait(60) is None
    assert words(explorer) == "⚠ model: choose at least one value to sweep over"


def test_a_knob_that_a_swept_one_needs_can_be_moved(panel):
    explorer = panel()
    row = explorer._rows["classes_per_agent"]
    assert row._one.disabled
    assert row._button.disabled
    explorer.sweep("partition")
    assert not row._one.disabled
    assert row._button.disabled


@pytest.mark.parametrize("wrong", [{"rounds": 7}, {"nuu": 3}])
def test_what_cannot_be_set_sets_nothing(panel, wrong):
    explorer = panel()
    explorer.wait(60)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        explorer.set(nu=1, **wrong)
    assert explorer._rows["nu"].value == QUICK.nu
    assert not explorer._runs._worker.busy


@pytest.mark.parametrize("base", [{"model": "softmax"}, {"nu": 0}, {"model": "cnn", "gradient": "first_order"}])
def test_the_diverging_preset_diverges_from_wherever_one_stands(panel, base):
    explorer = panel(QUICK.replace(**base, local_steps=5))
    press(explorer, "a step size that diverges")
    assert explorer.wait(100).status == "diverged"


def test_knobs_start_where_they_change_something(panel):
    explorer = panel()
    explorer.set(gradient="truncated")
    assert explorer.wait(60).experiment.backprop_steps == 1
    explorer.set(gradient="hessian_free")
    assert explorer.wait(60).experiment.backprop_steps is None
    explorer.set(gradient="exact", partition="per_fedavg")
    assert explorer.wait(60).experiment.per_fedavg_a == 8
    assert "'hessian_free' keep all" in explorer._rows["backprop_steps"]._one.tooltip


def test_who_holds_what_names_its_run_where_there_are_several(panel):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    assert "Below, who holds what: 16 agents by 10 classes." in alt(explorer)
    press(explorer, "Pin this curve")
    explorer.set(partition="iid", nu=0)
    explorer.wait(60)
    assert "Below, who holds what with partition = iid: 16 agents by 10 classes." in alt(explorer)
    explorer.sweep("seed")
    explorer.wait(60)
    assert "Below, who holds what with partition = iid, seed = 9: 16" in alt(explorer)


def alt(explorer: gl.Explorer) -> str:
    return html.unescape(re.search('alt="(.*?)"', explorer._picture.value)[1])


def test_waiting_takes_no_longer_than_was_said(panel, monkeypatch):
    explorer = panel()
    explorer.wait(60)
    given = []
    monkeypatch.setattr(explorer._runs, "wait", lambda timeout: given.append(timeout) or time.sleep(0.2) or True)
    monkeypatch.setattr(explorer._painter, "wait", lambda timeout: given.append(timeout) or True)
    explorer.wait(1)
    assert given[0] == 1
    assert given[1] < 0.81


def test_a_worker_outlives_even_an_error_that_cannot_be_told(capsys):
    worker = LatestWins("gmfl_lite test", on_error=lambda error: 1 / 0)
    worker.submit(lambda stop: {}["lost"])
    assert worker.wait(10)
    assert "ZeroDivisionError" in capsys.readouterr().err
    done = []
    worker.submit(done.append)
    assert worker.wait(10)
    assert len(done) == 1


def test_what_is_taken_away_waits_for_the_end(panel):
    explorer = panel(LONG)
    press(explorer, "Run")
    until(lambda: re.search(r"round \d+ of", explorer._progress.value))
    until(lambda: explorer._take_away.value == "Here when the run is over.")
    press(explorer, "Stop")
    explorer.wait(60)
    assert "gl.Experiment(" in explorer._take_away.value


def test_fedavg_is_taken_away_with_the_rest(panel, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    explorer = panel(QUICK.replace(gradient="truncated", backprop_steps=1), weights_seed=2)
    press(explorer, "Run")
    result = explorer.wait(60)
    assert table(explorer)["run"] == ["ν = 3", "FedAvg (ν = 0)"]
    assert unquote(re.search('csv;charset=utf-8,(.*?)"', explorer._take_away.value)[1]).count("\n") == 3
    python, commands = re.findall("<pre.*?>(.*?)</pre>", explorer._take_away.value, re.DOTALL)
    namespace = {}
    exec(html.unescape(python), namespace)  # our own text
    fedavg = explorer._runs.result(explorer._runs.view.fedavg.what_if)
    for taken, shown in zip(namespace["results"], (result, fedavg), strict=True):
        assert same(taken, shown)
    assert commands.count("papermill ") == 1


@pytest.mark.slow
def test_the_papermill_command_gives_what_the_panel_shows(panel, tmp_path):
    explorer = panel(QUICK.replace(eval_steps=(0, 2), permuted_classes=3), weights_seed=1)
    explorer.set(nu=2)
    result = explorer.wait(60)
    command = html.unescape(re.findall("<pre.*?>(.*?)</pre>", explorer._take_away.value, re.DOTALL)[1])
    root = Path(__file__).parent.parent
    command = command.replace("papermill ", f"{sys.executable} -m papermill ").replace("explored-1", f"{tmp_path}/out")
    subprocess.run(command, shell=True, cwd=root, check=True, capture_output=True, timeout=300)
    outputs = [out for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for out in cell.get("outputs", ())]
    tables = [out.data["text/html"] for out in outputs if "<table" in out.get("data", {}).get("text/html", "")]
    numbers = [int(number) for number in re.findall(r"<td>(\d+)</td>", tables[0])]
    fedavg = explorer._runs.result(explorer._runs.view.fedavg.what_if)
    shown = pd.concat([result.table(), fedavg.table()])
    assert numbers == (100 * shown).round().astype(int).to_numpy().flatten().tolist()


# The synchronous twin


def test_run_gives_what_gl_run_gives_and_shows_itself(panel):
    explorer = panel()
    experiment = QUICK.replace(permuted_classes=5)
    explored = explorer.run(experiment, progress=False)
    assert same(explored, gl.run(experiment, progress=False))
    assert same(explored.fedavg, gl.run(experiment.replace(nu=0), progress=False))
    assert explored.table().shape == (2, 5)
    data, metadata = explored._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert f"ν = 3 {100 * explored.table().loc['new', 3]:.0f} % after round 10" in metadata["image/png"]["alt"]
    gap = round(100 * explored.table().loc["new", 3]) - round(100 * explored.fedavg.table().loc["new", 3])
    assert {1: "above", 0: "level", -1: "below"}[(gap > 0) - (gap < 0)] in explored.words
    assert explorer.run(QUICK.replace(nu=0), progress=False).fedavg is None
    assert "this is FedAvg" in explorer.run(QUICK.replace(nu=0), progress=False).words
    diverged = explorer.run(QUICK.replace(meta_lr=1e6), progress=False)
    assert (diverged.status, diverged.words) == ("diverged", diverged.message)
    with pytest.raises(ValueError, match="experiment = 3: must be an Experiment"):
        explorer.run(3)


def test_run_and_panel_share_what_is_done(panel):
    explorer = panel()
    explored = explorer.run(QUICK, progress=False)
    assert explorer._runs.result(WhatIf(QUICK, 0)).history.equals(explored.history)
    assert len(explorer._runs._results) == 2


def test_no_new_agents(panel):
    explored = panel().run(QUICK.replace(n_new_agents=0, nu=1), progress=False)
    assert "agents trained on reach" in explored.words
    assert explored.picture.alt.startswith("Accuracy of agents trained on after 1 fine-tuning step ")


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="base = 'digits': must be an Experiment"):
        gl.Explorer("digits")
    with pytest.raises(ValueError, match="weights_seed = -1"):
        gl.Explorer(weights_seed=-1)
    assert not threads()


def test_unknown_knobs_are_refused(panel):
    explorer = panel()
    with pytest.raises(ValueError, match=r"nuu is not a knob \(did you mean 'nu'\?\)"):
        explorer.set(nuu=3)
    with pytest.raises(ValueError, match="batch_size is not a knob"):
        explorer.sweep("batch_size")
    with pytest.raises(ValueError, match="nu = 7: must be one of 0, 1, 2, 3, 5, 10"):
        explorer.set(nu=7)
    with pytest.raises(TimeoutError, match="still busy after 0 seconds"):
        explorer.set(nu=1) or explorer.wait(0)


# To take away


def what_ifs_to_take_away() -> dict[str, list[WhatIf]]:
    other = QUICK.replace(partition="iid", permuted_classes=5, eval_every=2, nu=1)
    return {
        "as it is": [WhatIf(QUICK, 0)],
        "other weights": [WhatIf(other, 3)],
        "a family": [WhatIf(QUICK.replace(nu=nu, rounds=5 * nu + 5), 0) for nu in (0, 1, 2)],
        "a family of weights": [WhatIf(other.replace(seed=2), seed) for seed in (1, 2)],
    }


@pytest.mark.parametrize("kind", what_ifs_to_take_away())
def test_python_to_take_away_gives_the_same_bit_for_bit(kind, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    taken = what_ifs_to_take_away()[kind]
    namespace = {}
    exec(as_python(taken), namespace)  # our own text
    assert len(namespace["results"]) == len(taken)
    for what_if, result in zip(taken, namespace["results"], strict=True):
        assert same(result, what_if.run())


def test_papermill_to_take_away_is_understood_by_the_notebook():
    path = Path(__file__).parent.parent / "notebooks" / NOTEBOOK
    known = papermill.inspect_notebook(str(path))
    what_if = WhatIf(QUICK.replace(gradient="truncated", backprop_steps=1, batch_size=None, test_fraction=0.5), 4)
    folder, command, remark = as_papermill([what_if]).splitlines()
    assert folder == "cd notebooks"
    words = shlex.split(command)
    given = {name: value for flag, name, value in zip(words, words[1:], words[2:], strict=False) if flag == "-p"}
    assert set(given) == set(known)
    from papermill.cli import _resolve_type

    assert given.pop("eval_steps") == "0 1 3 5 10"
    assert {name: _resolve_type(value) for name, value in given.items()} == {
        name: what_if.value(name) for name in given
    }
    assert remark == "# but test_fraction = 0.5, which the notebook has no parameter for"


def test_take_away_offers_the_table_and_escapes(panel):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    assert 'download="explored.csv"' in explorer._take_away.value
    assert "gl.Experiment(" in explorer._take_away.value
    assert "experiment = gl.Experiment(dataset=&#x27;" not in explorer._take_away.value
    assert "model=&#x27;softmax&#x27;" in explorer._take_away.value


# Small things that it is made of


@pytest.mark.parametrize(
    ("nu", "reference", "expected"),
    [
        (3, 0.5, "After 1 fine-tuning step new agents reach 60 %, 10 points above FedAvg fine-tuned as long."),
        (3, 0.61, "After 1 fine-tuning step new agents reach 60 %, 1 point below FedAvg fine-tuned as long."),
        (3, 0.602, "After 1 fine-tuning step new agents reach 60 %, level with FedAvg fine-tuned as long."),
        (3, None, "After 1 fine-tuning step new agents reach 60 %."),
        (0, None, "After 1 fine-tuning step new agents reach 60 %: this is FedAvg."),
    ],
)
def test_reading_in_words(nu, reference, expected):
    def curve(accuracy: float, nu: int) -> Curve:
        columns = {"round": 100, "group": ["trained", "new"], "fine_tune_steps": 1, "accuracy": [0.1, accuracy]}
        return Curve(WhatIf(gl.Experiment(nu=nu), 0), pd.DataFrame(columns), "completed")

    assert reading.reading(curve(0.6, nu), None if reference is None else curve(reference, 0), 1) == expected


def test_knobs_offer_what_an_experiment_takes():
    for name, knob in KNOBS.items():
        assert knob.help
        for value in knob.values:
            needs = {
                "per_fedavg": {"per_fedavg_a": 2},
                "truncated": {"backprop_steps": 1},
            }.get(value, {}) | dict([knob.needs] if knob.needs else [])
            if name != "weights_seed":
                gl.Experiment(**{"n_agents": 50, "agents_per_round": 1, "nu": 5, name: value} | needs)


def test_labels_name_what_differs():
    base = gl.Experiment()
    assert labels([]) == []
    assert labels([WhatIf(base, 0)]) == ["ν = 3"]
    assert labels([WhatIf(base, 0), WhatIf(base, 1)]) == ["weights_seed = 0", "weights_seed = 1"]
    several = [WhatIf(base, 0), WhatIf(base.replace(nu=1, fine_tune_lr=0.1, rounds=10, eval_every=1), 0)]
    assert labels(several) == ["ν = 3, α = 0.05, rounds = 100", "ν = 1, α = 0.1, rounds = 10"]


def test_every_control_has_a_name_and_a_tooltip(panel):
    controls = [
        widget
        for widget in everything(panel().panel)
        if isinstance(
            widget, ipywidgets.Button | ipywidgets.ToggleButton | ipywidgets.SelectionSlider | ipywidgets.Dropdown
        )
    ]
    assert len(controls) > 40
    for widget in controls:
        assert widget.description
        assert widget.tooltip or "gmfl-fold" in widget._dom_classes


def test_only_the_explorer_knows_of_widgets():
    """The library works where ipywidgets does not: in a worker process, on an agent's machine."""
    package = Path(gl.__file__).parent
    knowing = {
        path.stem
        for path in package.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(name.name == "ipywidgets" for name in node.names)
    }
    assert knowing == {"explorer", "controls"}
    assert "pyplot" not in "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))


def test_what_is_stored_in_a_notebook_is_the_same_every_time(panel):
    one, other = panel()._repr_mimebundle_(), panel()._repr_mimebundle_()
    view = "application/vnd.jupyter.widget-view+json"
    assert one.pop(view) != other.pop(view)
    assert one == other
    assert json.dumps(one)
