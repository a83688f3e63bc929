"""Each method at its best step sizes: what it costs is said before, what is found is what `gl.tune` finds."""

import re
import sys
import threading

import pytest
from panel_helpers import QUICK, alt, move, painted, press, same, threads, until, words

import gmfl_lite as gl
from gmfl_lite.explorer import best_step_sizes
from gmfl_lite.explorer.what_if import WhatIf

BASE = QUICK.replace(rounds=3, eval_every=1, fine_tune_lr=0.3, meta_lr=0.3)


@pytest.fixture(autouse=True)
def few_trials(monkeypatch):
    monkeypatch.setattr(best_step_sizes, "TRIALS", 6)
    monkeypatch.setattr(best_step_sizes, "SEEDS", (1000,))


@pytest.mark.slow
def test_it_compares_what_tune_finds_for_each_method_and_says_so(panel, monkeypatch):
    explorer = panel(BASE)
    explorer.start()
    explorer.wait(60)
    assert words(explorer).endswith("FedAvg fine-tuned as long, at the same step sizes.")
    press(explorer, "Fair")
    explorer.wait(60)
    said = words(explorer)
    assert said.startswith("Fair searches for the best α and β of ν = 3 and FedAvg (ν = 0): at most 12 runs, less than")
    assert "Press Fair again to begin." in said
    press(explorer, "Fair")
    result = explorer.wait(100)
    for experiment, found in ((BASE, result), (BASE.replace(**gl.methods["FedAvg"]), explorer.state.fedavg)):
        best = gl.tune(experiment, steps=3, validation_seeds=[1000], trials=6, progress=False).best
        curve = gl.run(best, progress=False)
        assert curve.history.equals(found.history)
    assert same(result, gl.run(result.experiment, progress=False))
    assert words(explorer).endswith("FedAvg fine-tuned as long, each at its best step sizes.")
    assert re.search(r"ν = 3.* %, α = [\d.]+, β = [\d.]+", painted(explorer, "legend").replace("&nbsp;", " "))
    assert "α" not in alt(explorer)
    monkeypatch.setattr(best_step_sizes, "tune", lambda *_, **__: pytest.fail("it is known already"))
    explorer.start()
    explorer.wait(60)
    assert "at the same step sizes" in words(explorer)
    press(explorer, "Fair")  # which costs nothing now
    assert explorer.wait(60) is result


def number_of_run(explorer) -> int:
    """Return which run of a search is at work; 0 if none is."""
    found = re.search(r"run (\d+) of at most 50", explorer.state.progress)
    return int(found[1]) if found else 0


@pytest.mark.slow
@pytest.mark.usefixtures("one_by_one")
def test_stopped_it_keeps_what_was_tried_and_the_picture(panel, monkeypatch):
    monkeypatch.setattr(best_step_sizes, "TRIALS", 50)
    explorer = panel(BASE)
    explorer.start()
    explorer.wait(60)
    picture = painted(explorer, "picture")
    explorer.fair()
    until(lambda: number_of_run(explorer) >= 8)
    assert explorer.state.progress.startswith("best step sizes of ν = 3, run ")
    press(explorer, "Stop")
    until(lambda: not threads("training"), 30)
    explorer.wait(60)
    assert words(explorer).startswith("Stopped: what was tried is kept, and Fair continues from there.")
    assert (painted(explorer, "picture"), painted(explorer, "progress")) == (picture, "")
    numbers, ran = [], gl.sweep.__globals__["run"]
    monkeypatch.setitem(
        gl.sweep.__globals__, "run", lambda *a, **k: numbers.append(number_of_run(explorer)) or ran(*a, **k)
    )
    explorer.fair()
    until(lambda: numbers)
    assert min(numbers) >= 8, "the first seven are kept"
    move(explorer, "nu", 1)
    assert explorer.wait(60).experiment.nu == 1


def test_runs_are_counted_though_several_are_one_job(monkeypatch):
    monkeypatch.setattr(sys.modules["gmfl_lite.sweep.grid"], "usable_cores", lambda: 1)
    told = []
    sizes = best_step_sizes.BestStepSizes()
    sizes.of(WhatIf(BASE, 0), 3, threading.Event(), lambda *words: told.append(words))
    assert [re.sub(", at most .* left", "", words) for words, _ in told] == ["run 1 of at most 6", "run 6 of at most 6"]
    assert [part for _, part in told] == [0, 5 / 6]


def test_knobs_that_contradict_each_other_are_said_instead(panel):
    explorer = panel(BASE)
    explorer.set(agents_per_round=50)
    explorer.wait(60)
    press(explorer, "Fair")
    explorer.wait(60)
    assert "agents_per_round = 50: must be at most n_agents = 12" in words(explorer)


def test_fedavg_itself_is_searched_for_once_and_wherever_the_step_sizes_begin():
    sizes = best_step_sizes.BestStepSizes()
    fedavg = WhatIf(BASE.replace(nu=0), 0)
    assert "of FedAvg (ν = 0): at most 6 runs." in sizes.cost([fedavg], 3, None)
    assert ", about 12 min." in sizes.cost([fedavg], 3, 40.0)
    sizes._found[best_step_sizes._method(fedavg), 3] = fedavg
    other = WhatIf(fedavg.experiment.replace(meta_lr=1.0), 0)
    assert sizes.cost([other], 3, None) == ""
    assert sizes.cost([other], 5, None) != ""
