"""A panel of agents, a module and a loss of one's own: what they decide has no knob; what is taken away names them."""

import importlib.util

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from panel_helpers import QUICK, control, everything, painted, press, same, taken_away, words
from torch import nn

import gmfl_lite as gl
from gmfl_lite.explorer.take_away import as_papermill, as_python, as_yaml
from gmfl_lite.explorer.what_if import WhatIf
from gmfl_lite.sweep import Given

DECIDED = (
    "dataset", "partition", "dirichlet_alpha", "classes_per_agent", "per_fedavg_a", "permuted_classes", "max_rotation",
    "shots", "label_noise",
)  # fmt: skip
BASE = QUICK.replace(nu=1, rounds=10, agents_per_round=10)


def table_of_two_classes(n_new_agents=2):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"who": np.repeat(list("abcdefgh"), 15), "u": rng.normal(size=120), "v": rng.normal(size=120)})
    frame["plays"] = np.where(frame["u"] + rng.normal(size=120) > 0, "yes", "no")
    return gl.Federation.from_frame(frame, agent="who", label="plays", n_new_agents=n_new_agents, name="games")


def watch():
    if importlib.util.find_spec("seglearn") is None:
        pytest.skip("needs the extra: pip install 'gmfl_lite[people]'")
    return gl.load_federation("watch", n_new_agents=2)


MAKES = {"watch": watch, "table": table_of_two_classes}


def knobs(explorer):
    described = [getattr(widget, "description", "") for widget in everything(explorer.panel)]
    return {text.split(" (")[0] for text in described}


def line(federation):
    model = nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, federation.x[0].numel(), len(federation.classes)))
    nn.init.zeros_(model[1].weight), nn.init.zeros_(model[1].bias)
    return model


def twice(prediction, y):
    return 2 * nn.functional.cross_entropy(prediction, y, reduction="none")


@pytest.mark.parametrize("kind", MAKES)
def test_the_panel_of_own_agents_has_no_knobs_that_they_decide(kind, panel):
    federation = MAKES[kind]()
    explorer = panel(BASE, federation=federation)
    shown = knobs(explorer)
    assert not shown & set(DECIDED)
    assert {"query", "model", "rounds", "seed", "weights_seed"} <= shown
    picks = control(explorer, "agents_per_round")
    offered = [value for _, value in picks.options]
    assert max(offered) == federation.n_agents
    assert offered == sorted({value for value in (1, 2, 5, 10, 20, 50) if value < federation.n_agents} | {max(offered)})
    assert picks.value == min(10, federation.n_agents)
    buttons = {widget.description for widget in everything(explorer.panel) if isinstance(widget, ipywidgets.Button)}
    assert "FedAvg" in buttons
    assert not {"IID", "permuted labels", "one shot"} & buttons
    with pytest.raises(ValueError, match="dirichlet_alpha is not a knob"):
        explorer.set(dirichlet_alpha=0.1)
    with pytest.raises(ValueError, match="agents_per_round = 50: must be one of"):
        explorer.set(agents_per_round=50)


@pytest.mark.parametrize("kind", MAKES)
def test_the_panel_shows_the_run_that_gl_run_gives(kind, panel):
    federation = MAKES[kind]()
    explorer = panel(BASE, federation=federation, weights_seed=3)
    press(explorer, "Run")
    result = explorer.wait(60)
    model = gl.build_model("softmax", federation, seed=3)
    experiment = BASE.replace(agents_per_round=federation.n_agents, eval_every=1)
    expected = gl.run(experiment, federation=federation, model=model, progress=False)
    assert same(result, expected)
    assert (result.experiment.dataset, result.experiment.n_agents) == ("own", federation.n_agents)
    assert "new agents" in words(explorer)
    assert "<img" in painted(explorer, "picture")
    explorer.set(agents_per_round=2, seed=1)
    assert explorer.wait(60).experiment.agents_per_round == 2


@pytest.mark.parametrize(("weights_seed", "loss"), [(0, None), (3, None), (3, twice)])
def test_python_to_take_away_gives_the_same_with_what_was_handed_over(weights_seed, loss, panel, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    federation = table_of_two_classes()
    given = Given(federation, None, loss)
    explorer = panel(BASE, federation=federation, loss=loss, weights_seed=weights_seed)
    press(explorer, "Run")
    result = explorer.wait(60)
    taken = [
        WhatIf(result.experiment, weights_seed, given),
        WhatIf(result.experiment.replace(nu=0), weights_seed, given),
    ]
    program = as_python(taken)
    assert ("Here federation and loss must be" if loss else "Here federation must be") in program
    namespace = {"federation": federation, "loss": loss}
    exec(program, namespace)  # our own text
    assert same(namespace["results"][0], result)
    for what_if, found in zip(taken, namespace["results"], strict=True):
        assert same(found, what_if.run())
    with pytest.raises(NameError, match="federation"):
        exec(program, {})
    assert as_papermill(taken).startswith("# The notebook takes no federation")
    assert "papermill " not in as_papermill(taken)
    assert "takes no federation" in taken_away(explorer)


def test_python_to_take_away_with_a_module_or_a_loss_alone(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    module = line(gl.build_federation(QUICK))
    for given, seed in ((Given(None, module, None), 4), (Given(None, module, twice), 0), (Given(None, None, twice), 4)):
        what_if = WhatIf(given.as_run(QUICK.replace(rounds=2)), seed, given)
        namespace = dict(given.arguments)
        exec(as_python([what_if]), namespace)  # our own text
        assert same(namespace["results"][0], what_if.run())
        for text in (as_papermill([what_if]), as_yaml([what_if])):
            assert f"takes no {' or '.join(given.arguments)} of your own" in text


def test_a_module_of_ones_own_decides_the_model_and_its_weights(panel):
    federation = table_of_two_classes()
    explorer = panel(BASE, federation=federation, model=line(federation), loss=twice)
    assert not knobs(explorer) & {"model", "weights_seed"}
    press(explorer, "Run")
    result = explorer.wait(60)
    experiment = BASE.replace(agents_per_round=6, eval_every=1)
    assert same(result, gl.run(experiment, federation=federation, model=line(federation), loss=twice, progress=False))
    assert result.experiment.model == "own"
    explored = explorer.run(BASE, progress=False)
    assert explored.fedavg.experiment.nu == 0
    assert torch.equal(result.params["1.weight"], explorer.run(experiment, progress=False).params["1.weight"])


def test_an_exploration_is_short_in_words_and_runs_for_scripts_too(panel):
    federation = table_of_two_classes()
    explored = panel(BASE, federation=federation).run(BASE, progress=False)
    assert len(repr(explored)) < 100
    assert repr(explored).startswith("Result(completed after 10 rounds")
    assert same(explored, gl.run(BASE.replace(agents_per_round=6), federation=federation, progress=False))
    no_new = table_of_two_classes(n_new_agents=0)
    assert "agents trained on" in panel(BASE, federation=no_new).run(BASE, progress=False).words


def test_what_a_panel_cannot_show_is_refused_in_words():
    federation = table_of_two_classes()
    numbers = gl.Federation.from_agents([(federation.x[:20], federation.x[:20, 0])] * 2)
    for how, message in (
        ({"federation": numbers}, "must be one with classes: the panel draws accuracy. Use gmfl_lite.run"),
        ({"base": gl.Experiment(dataset="sinusoids")}, "dataset = 'sinusoids': must be one with classes"),
        ({"federation": 3}, "federation = 'int': must be a Federation or None"),
        ({"federation": federation, "base": 3}, "base = 3: must be an Experiment"),
    ):
        with pytest.raises(ValueError, match=message):
            gl.Explorer(**how)


def test_a_model_that_does_not_fit_is_told_in_the_panel(panel):
    federation = table_of_two_classes()
    explorer = panel(BASE.replace(model="cnn"), federation=federation)
    press(explorer, "Run")
    explorer.wait(60)
    assert "model = 'cnn': needs images" in words(explorer)
    explorer.set(model="softmax")
    assert explorer.wait(60).status == "completed"
