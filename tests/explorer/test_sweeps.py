"""Sweeps: a family of curves, whatever one of its points does, and where a sweep ends."""

import re

import pytest
from panel_helpers import LONG, alt, control, move, press, sweep_button, words

from gmfl_lite.explorer.knobs import KNOBS
from gmfl_lite.explorer.what_if import WhatIf


@pytest.mark.slow
def test_sweep_draws_its_family(panel, callback):
    explorer = panel()
    one = control(explorer, "nu")
    callback(setattr, sweep_button(explorer, "nu"), "value", True)
    explorer.wait(120)
    curves = explorer.state.curves
    assert [curve.what_if.experiment.nu for curve in curves] == [0, 1, 2, 3, 5, 10]
    assert all(curve.status == "completed" for curve in curves)
    said = r"After 3 fine-tuning steps, ν = \d+ gives \d+ % and ν = \d+ \d+ %, at the same step sizes\."
    assert re.match(said, words(explorer))
    callback(setattr, control(explorer, "nu"), "index", (0, 2))
    explorer.wait(60)
    assert [curve.what_if.experiment.nu for curve in explorer.state.curves] == [0, 1, 2]
    callback(setattr, sweep_button(explorer, "gradient"), "value", True)  # only one knob is swept at a time
    assert sweep_button(explorer, "nu").value is False
    assert control(explorer, "nu") is one
    explorer.wait(120)
    assert "truncated: backprop_steps" not in words(explorer)
    callback(setattr, sweep_button(explorer, "gradient"), "value", False)
    assert explorer.wait(60).experiment.nu == 3
    assert len(explorer.state.curves) == 1


def test_a_sweep_goes_on_after_points_that_fail(panel):
    explorer = panel()
    explorer.sweep("agents_per_round")
    explorer.wait(60)
    said = words(explorer)
    assert "agents_per_round = 20: 1 problem" in said
    assert "agents_per_round = 50: 1 problem" in said
    assert "After 3 fine-tuning steps, agents_per_round = " in said
    assert [curve.what_if.experiment.agents_per_round for curve in explorer.state.curves] == [1, 2, 5, 10]


def test_a_sweep_goes_on_after_agents_that_cannot_be_dealt(panel):
    explorer = panel()
    explorer.set(partition="per_fedavg")
    explorer.sweep("per_fedavg_a")
    explorer.wait(120)
    assert "per_fedavg_a = 128: digits cannot be dealt out" in words(explorer)
    assert [curve.what_if.experiment.per_fedavg_a for curve in explorer.state.curves] == [2, 4, 8, 16]


def test_a_failing_point_does_not_take_the_family_with_it(panel):
    explorer = panel()
    explorer.set(partition="per_fedavg", per_fedavg_a=128)
    explorer.wait(60)
    explorer.sweep("partition")  # of which the last cannot be dealt out
    assert explorer.wait(60).experiment.partition == "shards"
    assert [curve.status for curve in explorer.state.curves] == ["completed"] * 3
    assert "partition = shards" in alt(explorer)
    assert "per_fedavg" not in alt(explorer)


def test_every_knob_can_be_swept(panel):
    explorer = panel(LONG)
    for name, knob in KNOBS.items():
        if knob.setting.counts_with:
            other, (first, *_) = knob.setting.counts_with
            explorer.set(**{other: first})
        explorer.sweep(name)
        values = knob.with_value(WhatIf(LONG, LONG.seed).value(name)).values
        assert explorer.state.swept == (name, values)
        assert [other for other in KNOBS if sweep_button(explorer, other).value] == [name]


def test_a_preset_ends_the_sweep_that_it_contradicts(panel, callback):
    explorer = panel()
    explorer.sweep("dirichlet_alpha")
    callback(press, explorer, "IID")
    assert explorer.wait(60).experiment.partition == "iid"
    assert len(explorer.state.curves) == 1
    assert not sweep_button(explorer, "dirichlet_alpha").value
    explorer.sweep("nu")
    callback(press, explorer, "ν = 5")
    assert explorer.wait(60).experiment.nu == 5
    assert len(explorer.state.curves) == 1
    with pytest.raises(ValueError, match="dirichlet_alpha changes nothing unless partition = dirichlet"):
        explorer.sweep("dirichlet_alpha")
    callback(move, explorer, "partition", "dirichlet")
    explorer.sweep("dirichlet_alpha")
    callback(move, explorer, "partition", "shards")
    explorer.wait(60)
    assert len(explorer.state.curves) == 1


def test_a_sweep_over_nothing_asks_for_a_value(panel, callback):
    explorer = panel()
    explorer.sweep("model")
    callback(setattr, control(explorer, "model"), "value", ())
    assert explorer.wait(60) is None
    assert words(explorer) == "⚠ model: choose at least one value to sweep over"


def test_a_knob_that_a_swept_one_needs_can_be_moved(panel):
    explorer = panel()
    knob, button = control(explorer, "classes_per_agent"), sweep_button(explorer, "classes_per_agent")
    assert knob.disabled
    assert button.disabled
    explorer.sweep("partition")
    assert not knob.disabled
    assert button.disabled
