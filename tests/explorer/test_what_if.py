"""What-ifs: from the knobs' values to a run, its name, and words for what cannot be run."""

import dataclasses

import pytest
from panel_helpers import QUICK, move, painted, press, same, words

import gmfl_lite as gl
from gmfl_lite.data import DATASETS
from gmfl_lite.explorer.what_if import WhatIf, labels


def test_labels_name_what_differs():
    base = gl.Experiment()
    assert labels([]) == []
    assert labels([WhatIf(base, 0)]) == ["ν = 3"]
    assert labels([WhatIf(base, 0), WhatIf(base, 1)]) == ["weights_seed = 0", "weights_seed = 1"]
    dealt = [WhatIf(base.replace(dirichlet_alpha=0.1), 0), WhatIf(base.replace(partition="iid", dirichlet_alpha=9), 0)]
    assert labels(dealt) == ["partition = dirichlet", "partition = iid"]
    both = [*dealt, WhatIf(base, 0)]
    assert labels(both)[1:] == ["partition = iid", "partition = dirichlet, dirichlet_alpha = 0.3"]
    several = [WhatIf(base, 0), WhatIf(base.replace(nu=1, fine_tune_lr=0.1, rounds=10, eval_every=1), 0)]
    assert labels(several) == ["ν = 3, α = 0.05, rounds = 100", "ν = 1, α = 0.1, rounds = 10"]


def test_run_without_moving_a_knob_runs_the_base_itself(panel, callback):
    base = QUICK.replace(
        eval_every=1, partition="per_fedavg", per_fedavg_a=8, gradient="hessian_free", backprop_steps=2
    )
    explorer = panel(base, weights_seed=3)
    callback(press, explorer, "Run")
    assert explorer.wait(60).experiment == base
    assert explorer.state.curves[-1].what_if == WhatIf(base, 3)


def test_redraw_weights_and_data_apart(panel, callback):
    explorer = panel()
    callback(press, explorer, "Redraw weights")
    weights = explorer.wait(60)
    assert explorer.state.curves[-1].what_if == WhatIf(QUICK.replace(eval_every=1), 1)
    federation = gl.build_federation(QUICK)
    model = gl.build_model("softmax", federation, seed=1)
    assert same(weights, gl.run(QUICK.replace(eval_every=1), model=model, progress=False))
    callback(press, explorer, "Redraw data")
    explorer.wait(60)
    assert explorer.state.curves[-1].what_if == WhatIf(QUICK.replace(eval_every=1, seed=1), 1)


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
    assert "preparing" not in painted(explorer, "progress")


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_data_that_are_not_here_are_not_waited_for(panel, monkeypatch, tmp_path, dataset):
    import torchvision.datasets as tv

    monkeypatch.setenv("GMFL_LITE_DATA", str(tmp_path))
    source = DATASETS[dataset]
    monkeypatch.setitem(DATASETS, dataset, dataclasses.replace(source, files=source.files[:1]))  # not Debian's
    for loader in (tv.MNIST, tv.FashionMNIST):
        monkeypatch.setattr(loader, "download", lambda _: pytest.fail("nobody can stop a download"))
    explorer = panel()
    explorer.set(dataset=dataset)
    assert explorer.wait(60) is None
    said = f"{dataset} is not in {tmp_path} and is not downloaded here. Put torchvision's files there"
    assert said in words(explorer)
    assert list(tmp_path.iterdir()) == []
