"""Messages: whatever an argument holds, they stay short, and what is allowed stays in sight."""

import inspect
import json
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gmfl_lite as gl
from gmfl_lite import theory
from gmfl_lite.basics import checks
from gmfl_lite.basics.over_seeds import over_seeds
from gmfl_lite.data import load_images

LONGEST = 400


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 80), nn.ELU(), nn.Linear(80, 60), nn.ELU(), nn.Linear(60, 10))


class Silent:
    def __repr__(self):
        raise RuntimeError("not finished")


HEAVY = {
    "list of tensors": list(net().parameters()),
    "state dicts": [OrderedDict(net().state_dict()) for _ in range(10)],
    "dict of index arrays": pd.DataFrame({"client": np.arange(1797) % 50}).groupby("client").indices,
    "module": nn.Sequential(*(nn.Linear(8, 8) for _ in range(60))),
    "DataFrame": pd.DataFrame(np.zeros((500, 30))),
    "tensor": torch.rand(1797, 64),
    "nested lists": [[list(range(30))] * 30] * 30,
    "text": "word " * 5000,
    "settings": {f"setting_{number}": "much " * 50 for number in range(300)},
    "rows of different lengths": [list(range(number)) for number in range(100)],
    "set": set(range(10_000)),
    "no repr": [Silent()] * 1000,
}


def loss(params, batch):
    return (params["w"] ** 2).sum()


@pytest.fixture(scope="module")
def calls(digits, federation, tmp_path_factory):
    """Functions, with arguments that are allowed."""
    experiment = gl.Experiment(model="softmax", n_agents=10, n_new_agents=0, rounds=1, eval_every=1, agents_per_round=2)
    result = gl.run(experiment, progress=False)
    w, parts = {"w": torch.ones(2)}, gl.partition(digits.y, gl.IID(), 4, seed=0)
    table = gl.sweep({"nu": [0]}, experiment.replace(rounds=1), progress=False)
    led = table[:1].assign(one="A", other="B", lead=1.0, low=0.0, high=2.0)
    return {
        gl.meta_gradient: {
            "loss_fn": loss,
            "params": w,
            "support": [],
            "query": None,
            "fine_tune_lr": 0.1,
            "method": "exact",
        },
        gl.fine_tune: {"loss_fn": loss, "params": w, "support": [], "lr": 0.1, "moving": None},
        gl.aggregate: {"updates": {"w": torch.ones(2, 1)}, "weights": torch.ones(2)},
        gl.partition: {"labels": digits.y, "scheme": gl.IID(), "n_agents": 4, "seed": 0, "min_samples": 2},
        gl.Federation.from_partition: {
            "dataset": digits,
            "parts": parts,
            "n_new_agents": 0,
            "test_fraction": 0.5,
            "permuted_classes": 0,
            "max_rotation": 0,
            "shots": None,
            "query": "independent",
            "label_noise": 0,
            "seed": 0,
            "device": "cpu",
        },
        gl.Dataset: {"name": "mine", "x": torch.zeros(2, 3), "y": torch.tensor([0, 1]), "classes": "ab"},
        gl.load_dataset: {"name": "digits", "root": None, "split": "train", "download": False},
        load_images: {"folder": tmp_path_factory.mktemp("images"), "like": digits, "invert": False},
        gl.run: {
            "experiment": experiment,
            "federation": None,
            "model": None,
            "on_round": None,
            "stop": None,
            "progress": False,
        },
        gl.sweep: {"grid": {"nu": [0]}, "base": experiment, "executor": None, "progress": False},
        gl.tune: {
            "base": experiment,
            "settings": ["meta_lr"],
            "steps": 1,
            "validation_seeds": [1],
            "trials": 3,
            "progress": False,
        },
        gl.Experiment.from_dict: {"settings": {}},
        gl.plots.accuracy_against_steps: {"results": {"one": result}},
        gl.plots.accuracy_against_rounds: {"results": {"one": result}, "fine_tune_steps": 0},
        gl.plots.label_distances: {"federations": {"one": federation}},
        gl.plots.images: {"pictures": {"one": torch.zeros(1, 2, 2)}, "alt": ""},
        gl.plots.sweep: {"frame": table, "x": "nu", "hue": None, "y": "accuracy", "fine_tune_steps": 0},
        gl.plots.tried: {"tuned": None},
        gl.plots.leads: {"table": led, "down": "nu", "across": "nu", "panel": "nu"},
        over_seeds: {"frame": table, "by": ["nu"], "value": "accuracy"},
        theory.drift: {"local_steps": 2, "meta_lr": 0.01, "meta_smoothness": 1.0},
    }


def said(function, arguments):
    """Return what an error says, or nothing if the arguments are good for something."""
    try:
        function(**arguments)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    except Exception:  # Python's own, of a wrong type far inside
        return ""
    return ""


def test_the_calls_are_right_but_for_the_one_argument(calls):
    for function, arguments in calls.items():
        inspect.signature(function).bind(**arguments)
        if function not in (gl.plots.tried, load_images):  # these show that they are looked at
            assert said(function, arguments) == "", function


@pytest.mark.parametrize("kind", HEAVY)
def test_a_wrong_argument_that_holds_much_is_told_in_few_words(kind, calls):
    refused = 0
    for function, arguments in calls.items():
        for name in arguments.keys() - {"progress"}:
            text = said(function, {**arguments, name: HEAVY[kind]})
            refused += bool(text)
            assert len(text) < LONGEST, (function.__qualname__, name, text[:1000])
            assert text.count("\n") < 12
    assert refused > 20


def test_every_setting_of_an_experiment_is_told_in_few_words():
    for name in gl.Experiment().to_dict():
        for value in HEAVY.values():
            text = said(gl.Experiment, {name: value})
            assert name in text
            assert len(text) < LONGEST, text[:1000]
    many = {f"weight_{number}": 0 for number in range(300)}
    assert said(gl.Experiment, many).startswith("300 problems")
    assert said(gl.Experiment, many).endswith("and 292 more")


def test_of_many_names_the_first_are_told():
    params = {f"block_{number}.weight": torch.ones(1) for number in range(300)}
    text = said(gl.fine_tune, {"loss_fn": loss, "params": params, "support": [], "lr": 0.1, "moving": ["head"]})
    assert "block_0.weight, block_1.weight" in text
    assert "and 292 more" in text
    assert len(text) < LONGEST


def test_what_is_allowed_comes_first_where_a_value_is_long():
    text = str(checks.refusal("params", HEAVY["list of tensors"], "a non-empty dict of tensors"))
    assert text.startswith("params: must be a non-empty dict of tensors, got a list of 6: Parameter float32 [80, 64], ")
    assert str(checks.refusal("nu", -1, "at least 0")) == "nu = -1: must be at least 0"


@pytest.mark.parametrize(
    "value", [None, 3, 0.1, "a word", (0, 1, 3, 5, 10), {"nu": 1}, [], {"a", "b"}, torch.tensor([1.0, 2.0]), 1 + 2j]
)
def test_what_is_short_is_shown_as_python_writes_it(value):
    assert checks.shown(value) == repr(value)


def test_both_ends_of_a_long_path_are_shown():
    path = "/home/" + "long/" * 100 + "digits.result"
    assert checks.shown(path).startswith("'/home/long")
    assert checks.shown(path).endswith("digits.result'")


@pytest.mark.parametrize("kind", HEAVY)
def test_what_is_shown_has_one_line_and_a_bound(kind):
    assert len(checks.shown(HEAVY[kind])) <= 2 * checks.ROOM
    assert "\n" not in checks.shown(HEAVY[kind])


def test_what_holds_itself_is_shown():
    endless = [list(range(30))]
    endless += [endless] * 40
    assert checks.shown(endless).startswith("a list of 41")
    assert len(json.dumps(checks.shown(endless))) < 2 * checks.ROOM
