"""The field's names: each gives the method it names, from whatever base, and nothing else."""

import numpy as np
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite.models import as_functions

BASE = gl.Experiment(
    model="mlp", n_agents=6, n_new_agents=3, agents_per_round=3, local_steps=2, rounds=3, batch_size=8, eval_every=3,
    eval_steps=(0, 2), fine_tune_lr=0.1, meta_lr=0.1, device="cpu", precision="float64",
)  # fmt: skip
ODD = BASE.replace(
    nu=4, gradient="truncated", backprop_steps=2, server="adam", server_lr=0.3, proximal=0.7, personal="body"
)


@pytest.mark.parametrize("name", gl.methods)
def test_it_is_the_same_from_any_base_and_completes(name):
    experiment = BASE.replace(**gl.methods[name])
    assert ODD.replace(**gl.methods[name]) == experiment
    assert gl.run(experiment, progress=False).status == "completed"
    page, found = gl.by_hand(experiment), gl.run(experiment, progress=False).params
    assert all(torch.allclose(page[n], found[n], rtol=0, atol=1e-9) for n in page)


def test_all_of_them_differ():
    ends = {name: gl.run(BASE.replace(**gl.methods[name]), progress=False) for name in gl.methods}
    flat = {name: torch.cat([t.flatten() for t in end.params.values()]).numpy() for name, end in ends.items()}
    assert np.array_equal(flat.pop("one model for all"), flat["FedAvg"]), "the same model, scored as it is"
    assert list(ends["one model for all"].table().columns) == [0]
    names = list(flat)
    for i, name in enumerate(names):
        for other in names[:i]:
            assert np.abs(flat[name] - flat[other]).max() > 1e-9, (name, other)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_without_training_the_initial_weights_are_fine_tuned(precision):
    experiment = BASE.replace(precision=precision, **gl.methods["no training"])
    result, federation = gl.run(experiment, progress=False), gl.build_federation(experiment)
    predict, start = as_functions(gl.build_model("mlp", federation), federation.x.device)
    assert all(torch.equal(result.params[name], tensor) for name, tensor in start.items())

    def loss(w, batch):
        return torch.nn.functional.cross_entropy(predict(w, batch[0]), batch[1])

    own = gl.fine_tune(loss, start, [federation.train(7)] * 2, 0.1)
    row = result.agents[(result.agents["agent"] == 7) & (result.agents["fine_tune_steps"] == 2)]
    assert row["loss"].item() == pytest.approx(loss(own, federation.test(7)).item(), rel=1e-5)


def test_they_are_plain_values_and_name_no_setting_of_the_data():
    data = {*gl.Experiment().to_dict()} - {
        *("nu", "gradient", "backprop_steps", "server", "server_lr", "proximal", "personal"),
        *("rounds", "agents_per_round", "local_steps", "meta_lr", "eval_steps"),
    }
    for settings in gl.methods.values():
        assert not data & settings.keys()
        assert gl.Experiment.from_dict(gl.Experiment(**settings).to_dict()) == gl.Experiment(**settings)
