"""A knob and a preset that are added from outside are offered by every panel whose experiments have that setting."""

from dataclasses import dataclass

import ipywidgets
import pytest

import gmfl_lite as gl
from gmfl_lite.basics.setting_records import integer, or_none, setting
from gmfl_lite.explorer.knobs import KNOBS, PRESETS, Knob, add_knob, add_preset
from gmfl_lite.explorer.take_away import as_papermill, as_python, as_yaml
from gmfl_lite.explorer.what_if import WhatIf, labels
from gmfl_lite.models import MODELS
from gmfl_lite.partition import IID, PARTITIONS, Dealing


@dataclass(frozen=True, kw_only=True)
class Mine(gl.Experiment):
    """A what-if of mine."""

    warmth: int = setting(1, integer(0), "How warm it is.", "training", symbol="θ")
    layers: int | None = setting(
        None, or_none(integer(1)), "Layers of it.", "training", needs=("model", ("cnn",)), refused_otherwise=True
    )


QUICK = {"model": "softmax", "n_agents": 6, "n_new_agents": 2, "agents_per_round": 2, "rounds": 10, "device": "cpu"}


@pytest.fixture(autouse=True)
def as_they_were():
    before = dict(KNOBS), dict(PRESETS)
    yield
    for registry, content in zip((KNOBS, PRESETS), before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture
def panel():
    made = []
    yield lambda base: made.append(gl.Explorer(base)) or made[-1]
    for explorer in made:
        explorer.close()


def described(widget):
    """Return every widget inside that has a description."""
    inside = [one for child in getattr(widget, "children", ()) for one in described(child)]
    return [widget, *inside] if getattr(widget, "description", "") else inside


def group_of(explorer, control):
    """Return the title of the fold that a control is in."""
    folds = [
        box.children[0].description
        for box in everything(explorer.panel)
        if getattr(box, "children", ()) and "gmfl-fold" in getattr(box.children[0], "_dom_classes", ())
        if control in everything(box)
    ]
    return folds[0] if folds else ""


def everything(widget):
    return [widget, *(one for child in getattr(widget, "children", ()) for one in everything(child))]


def control(explorer, description):
    (found,) = [one for one in described(explorer.panel) if one.description == description]
    return found


@pytest.mark.slow
def test_a_knob_for_a_setting_of_the_library(panel):
    add_knob(Knob("test_fraction", (0.25, 0.5), group="Who holds what"))
    add_knob(Knob("n_agents", (6, 12), group="Size"))
    explorer = panel(gl.Experiment(**QUICK))
    assert list(explorer.state.knobs)[-2:] == ["test_fraction", "n_agents"]
    moved = control(explorer, "test_fraction")
    assert moved.tooltip == "Part of each agent's samples that is scored and never fine-tuned on."
    assert (group_of(explorer, moved), group_of(explorer, control(explorer, "n_agents"))) == ("Who holds what", "Size")
    moved.value = 0.5
    assert explorer.wait(60).experiment.test_fraction == 0.5
    assert "# but test_fraction = 0.5" in explorer.state.papermill()
    explorer.set(n_agents=12)
    assert explorer.wait(60).experiment.n_agents == 12
    assert "-p n_agents 12" in explorer.state.papermill()


@pytest.mark.slow
def test_a_knob_for_a_setting_of_a_subclass_and_a_preset(panel):
    add_knob(Knob("warmth", (0, 1, 2), of=Mine))
    add_knob(Knob("layers", (1, 2), start=2, group="Training", of=Mine))
    add_preset("hot", warmth=2, nu=0)
    explorer = panel(Mine(**QUICK, warmth=7))
    moved = control(explorer, "warmth (θ)")
    assert (group_of(explorer, moved), moved.tooltip) == ("", "θ, how warm it is.")
    assert isinstance(moved, ipywidgets.SelectionSlider)
    assert [value for _, value in moved.options] == [0, 1, 2, 7]
    assert control(explorer, "layers").disabled
    with pytest.raises(ValueError, match="layers changes nothing unless model = cnn"):
        explorer.sweep("layers")
    assert control(explorer, "hot").tooltip == "Set θ = 2, ν = 0"
    control(explorer, "hot").click()
    assert explorer.wait(60).experiment == Mine(**QUICK, warmth=2, nu=0, eval_every=1)
    explorer.set(model="cnn")
    assert explorer.wait(60).experiment.layers == 2
    explorer.set(model="mlp")
    assert explorer.wait(60).experiment.layers is None

    others = panel(gl.Experiment(**QUICK))
    assert not {"warmth", "layers"} & set(others.state.knobs)
    assert "hot" not in [one.description for one in described(others.panel)]


def test_it_is_named_and_taken_away():
    what_ifs = [WhatIf(Mine(**QUICK, warmth=warmth), 0) for warmth in (1, 2)]
    add_knob(Knob("warmth", (0, 1, 2), of=Mine))
    assert labels(what_ifs) == ["θ = 1", "θ = 2"]
    namespace = {}
    exec(as_python(what_ifs).replace("results = ", "results = lambda: "), namespace)
    assert namespace["experiment"] == what_ifs[0].experiment
    assert "experiment.replace(warmth=2)" in as_python(what_ifs)
    assert as_yaml(what_ifs).startswith("# The command line takes no Mine of your own")
    assert "# but warmth = 2, which the notebook has no parameter for" in as_papermill(what_ifs[1:])


def test_choices_are_looked_up_when_a_panel_is_built(panel, monkeypatch):
    monkeypatch.setitem(MODELS, "linear", MODELS["softmax"])
    monkeypatch.setitem(PARTITIONS, "even", Dealing(IID))
    explorer = panel(gl.Experiment(**QUICK))
    assert [value for _, value in control(explorer, "partition").options][-1] == "even"
    explorer.set(model="linear", partition="even")
    assert explorer.wait(60).status == "completed"
    with pytest.raises(ValueError, match="dirichlet_alpha changes nothing unless partition = dirichlet"):
        explorer.sweep("dirichlet_alpha")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: add_knob(Knob("nu", (0, 1))), "nu: there is a knob for this setting already"),
        (lambda: Knob("nuu", (0, 1)), r"nuu is not a setting \(did you mean 'nu'\?\)"),
        (lambda: Knob("warmth", (0, 1)), "warmth is not a setting"),
        (lambda: Knob("batch_size", (10, 0)), "batch_size = 0: must be an integer of at least 1"),
        (lambda: Knob("batch_size", (10,), start=0.5), r"batch_size = 0\.5: must be"),
        (lambda: Knob("batch_size", ()), "batch_size: a knob needs values"),
        (lambda: add_preset("IID", nu=0), "preset 'IID': there is one of this name already"),
        (lambda: add_preset("mine", nuu=0), r"preset 'mine': nuu is not a knob \(did you mean 'nu'\?\)"),
        (lambda: add_preset("mine", nu=-1), "nu = -1: must be one of 0, 1, 2, 3, 5, 10"),
    ],
)
def test_what_is_wrong_is_refused_when_it_is_added(wrong, message):
    before = dict(KNOBS), dict(PRESETS)
    with pytest.raises(ValueError, match=message):
        wrong()
    assert (dict(KNOBS), dict(PRESETS)) == before
