"""Knobs, presets and Reset: what can be chosen, and that nothing else changes."""

import re

import pytest
from panel_helpers import QUICK, control, painted, press, threads, until, words

import gmfl_lite as gl
from gmfl_lite.explorer.knobs import KNOBS, PRESETS
from gmfl_lite.explorer.what_if import WhatIf


def test_knobs_offer_what_an_experiment_takes():
    for name, knob in KNOBS.items():
        assert knob.setting.help
        for value in knob.values:
            needs = {"per_fedavg": {"per_fedavg_a": 2}, "truncated": {"backprop_steps": 1}}.get(value, {})
            if knob.setting.counts_with:
                other, (first, *_) = knob.setting.counts_with
                needs = {other: first}
            if name != "weights_seed":
                gl.Experiment(**{"n_agents": 50, "agents_per_round": 1, "nu": 5, name: value} | needs)


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


@pytest.mark.parametrize("wrong", [{"rounds": 7}, {"nuu": 3}])
def test_what_cannot_be_set_sets_nothing(panel, wrong):
    explorer = panel()
    explorer.wait(60)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        explorer.set(nu=1, **wrong)
    assert control(explorer, "nu").value == QUICK.nu
    assert not threads()


@pytest.mark.slow
def test_knobs_start_where_they_change_something(panel):
    explorer = panel()
    explorer.set(gradient="truncated")
    assert explorer.wait(60).experiment.backprop_steps == 1
    explorer.set(gradient="hessian_free")
    assert explorer.wait(60).experiment.backprop_steps is None
    explorer.set(gradient="exact", partition="per_fedavg")
    assert explorer.wait(60).experiment.per_fedavg_a == 8
    assert "'hessian_free' keep all" in control(explorer, "backprop_steps").tooltip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_change_what_they_say_and_only_that(panel, name):
    base = QUICK.replace(max_rotation=15.0)
    explorer = panel(base)
    press(explorer, name)
    explorer.wait(60)
    now = explorer.state.curves[-1].what_if
    assert {knob: now.value(knob) for knob in PRESETS[name]} == PRESETS[name]
    others = set(KNOBS) - set(PRESETS[name])
    assert all(now.value(knob) == WhatIf(base, base.seed).value(knob) for knob in others)


def test_the_diverging_preset_says_what_to_lower(panel, callback, monkeypatch):
    monkeypatch.setattr("gmfl_lite.theory.after_divergence.SECONDS", 60.0)  # beside other work, too
    explorer = panel(gl.Experiment(device="cpu"))
    callback(press, explorer, "a step size that diverges")
    assert explorer.wait(60).status == "diverged"
    assert re.search(r"diverged in round 1: .*lower meta_lr \(now 10\), for example to 0\.\d", words(explorer))
    assert "nan" not in painted(explorer, "picture").split("src=")[0].lower()
    callback(press, explorer, "Reset")
    until(lambda: "round 0" in explorer.state.progress)
    assert explorer.state.problem == ""


@pytest.mark.parametrize("base", [{"model": "softmax"}, {"nu": 0}, {"model": "cnn", "gradient": "first_order"}])
def test_the_diverging_preset_diverges_from_wherever_one_stands(panel, base):
    explorer = panel(QUICK.replace(**base, local_steps=5))
    press(explorer, "a step size that diverges")
    assert explorer.wait(100).status == "diverged"


def test_reset_puts_every_knob_back(panel, callback):
    explorer = panel()
    initial = explorer.state.knobs
    explorer.set(nu=10, partition="iid", weights_seed=5, rounds=20)
    explorer.sweep("nu")
    callback(press, explorer, "Reset")
    assert explorer.state.knobs == initial
    shown = {name: control(explorer, name).value for name in KNOBS}
    assert shown == {name: "all" if value is None else value for name, value in initial.items()}
    assert explorer.state.swept is None
    assert explorer.wait(60).experiment == QUICK.replace(eval_every=1)


@pytest.mark.slow
def test_all_shots_can_be_chosen_and_swept_beside_some(panel, callback):
    explorer = panel()
    assert control(explorer, "shots").value == "all"
    callback(setattr, control(explorer, "shots"), "value", 2)
    assert explorer.wait(60).experiment.shots == 2
    callback(setattr, control(explorer, "shots"), "value", "all")
    assert explorer.wait(60).experiment.shots is None
    explorer.sweep("shots")
    explorer.wait(60)
    assert [curve.what_if.experiment.shots for curve in explorer.state.curves] == [None, 1, 2, 5, 10, 20]
    assert "shots = all" in explorer.state.runs
    explorer.set(shots=1)
    assert explorer.wait(60).experiment.shots == 1
    with pytest.raises(ValueError, match="shots = 3: must be one of all, 1, 2"):
        explorer.set(shots=3)


def test_a_base_of_other_shots_has_them_among_its_knobs_values(panel):
    explorer = panel(QUICK.replace(shots=3))
    explorer.start()
    assert explorer.wait(60).experiment.shots == 3
    explorer.set(shots=None)
    assert explorer.wait(60).experiment.shots is None


def test_presets_of_methods_are_the_fields_methods():
    for name in {"FedAvg", "FedProx", "FedAdam", "Reptile", "Per-FedAvg", "ANIL"}:
        settings = {knob: value for knob, value in gl.methods[name].items() if value is not None}
        assert PRESETS[name].items() >= settings.items()


def test_numbers_to_predict_have_no_accuracy_to_draw():
    with pytest.raises(ValueError, match="dataset = 'sinusoids': must be one with classes: the panel draws accuracy"):
        gl.Explorer(gl.Experiment(dataset="sinusoids"))
    assert "sinusoids" not in KNOBS["dataset"].values


@pytest.mark.slow
def test_a_method_gives_way_to_another_and_to_reset(panel, callback):
    explorer = panel(QUICK.replace(model="mlp"))
    for name, personal in (("ANIL", "head"), ("FedAvg", "all"), ("ANIL", "head"), ("Reset", "all")):
        callback(press, explorer, name)
        assert explorer.wait(60).experiment.personal == personal
        assert control(explorer, "personal").value == personal


@pytest.mark.parametrize("name", ["FedProx", "FedAdam", "ANIL", "Reptile"])
def test_the_grey_curve_is_fedavg_whatever_method_is_chosen(panel, name):
    explorer = panel(QUICK.replace(model="mlp"))
    press(explorer, name)
    explorer.wait(60)
    grey = explorer.state.runs["FedAvg (ν = 0)"].what_if.experiment
    assert grey == explorer.state.curves[-1].what_if.experiment.replace(**gl.methods["FedAvg"])
    assert "this is FedAvg" not in words(explorer)


def test_data_that_is_whole_again_after_one_shot(panel):
    explorer = panel()
    press(explorer, "one shot")
    press(explorer, "permuted labels")
    experiment = explorer.wait(60).experiment
    assert (experiment.shots, experiment.query) == (None, "independent")
