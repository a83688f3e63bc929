"""Experiments are values that list every problem they have."""

import dataclasses
import inspect
import json
import math

import numpy as np
import pytest

import gmfl_lite as gl
from gmfl_lite.basics.setting_records import settings


def test_experiments_are_values():
    experiment = gl.Experiment(nu=np.int64(5), fine_tune_lr=1, eval_steps=[0, 3])
    assert experiment == gl.Experiment(nu=5, fine_tune_lr=1.0, eval_steps=(0, 3))
    assert hash(experiment) == hash(experiment.replace())
    assert (type(experiment.nu), type(experiment.fine_tune_lr), type(experiment.eval_steps)) == (int, float, tuple)
    assert gl.Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment
    assert experiment.replace(nu=0).nu == 0
    with pytest.raises(AttributeError):
        experiment.nu = 1


def test_every_problem_is_listed_at_once():
    with pytest.raises(gl.ExperimentError) as refused:
        gl.Experiment(nuu=3, fine_tune_lr=-1, rounds=1.5, gradient="exakt", dataset="cifar")
    text = str(refused.value)
    assert text.startswith("5 problems")
    for part in ("did you mean 'nu'", "fine_tune_lr = -1", "rounds = 1.5", "did you mean 'exact'", "'cifar10'"):
        assert part in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agents_per_round": 60}, "agents_per_round = 60: must be at most n_agents = 50"),
        ({"backprop_steps": 1}, "backprop_steps = 1: must be left out with the gradient 'exact'"),
        ({"gradient": "truncated"}, "backprop_steps = None"),
        ({"gradient": "truncated", "backprop_steps": 4}, "backprop_steps = 4"),
        ({"partition": "per_fedavg"}, "per_fedavg_a = None: must be given with partition='per_fedavg'"),
        ({"partition": "shards", "size_spread": 1.0}, "size_spread = 1.0: must be left out with partition='shards'"),
        ({"permuted_classes": 1}, "permuted_classes = 1: must be 0 or at least 2"),
        ({"permuted_classes": 11}, "permuted_classes = 11: must be at most 10, the classes of digits"),
        ({"classes_per_agent": 48, "dataset": "emnist"}, "classes_per_agent = 48: must be at most 47"),
        ({"fine_tune_lr": 10**400}, "fine_tune_lr: must be a finite number above 0, got 1000"),
        ({"per_fedavg_a": 4}, "per_fedavg_a = 4: must be left out"),
        ({"partition": "per_fedavg", "per_fedavg_a": 3}, "per_fedavg_a = 3: must be even"),
        ({"partition": "per_fedavg", "per_fedavg_a": 4, "n_agents": 51}, "n_agents.* = 61: must be even"),
        ({"nu": True}, "nu = True"),
        ({"nu": "3"}, "nu = '3'"),
        ({"meta_lr": math.nan}, "meta_lr = nan"),
        ({"dirichlet_alpha": math.inf}, "dirichlet_alpha = inf"),
        ({"eval_steps": ()}, "eval_steps"),
        ({"eval_steps": (1, 1)}, "increasing"),
        ({"eval_steps": (0, -1)}, r"eval_steps\[1\] = -1"),
        ({"eval_steps": 3}, "eval_steps = 3"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"test_fraction": 1}, "test_fraction = 1"),
        ({"device": "gpu"}, "device = 'gpu'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(gl.ExperimentError, match=message):
        gl.Experiment(**settings)
    with pytest.raises(gl.ExperimentError, match=message):
        gl.Experiment.from_dict(settings)
    with pytest.raises(gl.ExperimentError, match=message):
        gl.Experiment().replace(**settings)


def test_editors_see_the_settings():
    shown = inspect.signature(gl.Experiment).parameters
    fields = {field.name: field.default for field in dataclasses.fields(gl.Experiment)}
    assert {name: parameter.default for name, parameter in shown.items()} == fields
    assert all(f"\n    {name} = " in gl.Experiment.__doc__ for name in fields)


def test_what_the_data_do_not_allow_is_said_in_the_settings_names():
    with pytest.raises(gl.ExperimentError, match=r"digits cannot be dealt out to n_agents \+ n_new_agents = 185"):
        gl.build_federation(gl.Experiment(n_agents=175))
    gl.build_federation(gl.Experiment(partition="per_fedavg", per_fedavg_a=2))


def test_from_dict_takes_dicts():
    for wrong in (None, [], {1: 2}):
        with pytest.raises(gl.ExperimentError, match="dict of settings"):
            gl.Experiment.from_dict(wrong)


def test_every_setting_says_what_it_is():
    assert all(record.help.endswith(".") for record in settings(gl.Experiment).values())
