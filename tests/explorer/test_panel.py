"""The panel of widgets: named, displayed, closed, and the only one in the library."""

import ast
import json
import time
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import pytest
from IPython.core.events import EventManager
from panel_helpers import LONG, QUICK, control, everything, move, press, same, table, threads, under_way, until, words

import gmfl_lite as gl
from gmfl_lite.explorer.latest_wins import LatestWins
from gmfl_lite.explorer.what_if import WhatIf


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


def test_what_is_stored_in_a_notebook_is_the_same_every_time(panel):
    one, other = panel()._repr_mimebundle_(), panel()._repr_mimebundle_()
    view = "application/vnd.jupyter.widget-view+json"
    assert one.pop(view) != other.pop(view)
    assert one == other
    assert json.dumps(one)


def test_it_is_shown_where_ipywidgets_is_colabs(panel, monkeypatch):
    """Version 7, whose widgets show themselves and have no bundle to take."""
    monkeypatch.delattr(ipywidgets.Widget, "_repr_mimebundle_")
    explorer = panel()
    view = explorer._repr_mimebundle_()["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == explorer.panel.model_id


@pytest.mark.slow
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
    until(lambda: under_way(explorer))
    explorer.close()
    until(lambda: not threads())
    assert set(instances) == before
    explorer.close()
    explorer.start()
    assert not threads()


class Notebook:
    """A shell of which cell "a" runs; `run` runs another, which takes as long as it is told."""

    def __init__(self):
        self.events = EventManager(self, dict.fromkeys(("pre_run_cell", "post_run_cell"), lambda *_: None))
        self.cell = "a"

    def get_parent(self):
        return {"metadata": {"cellId": self.cell}}

    def run(self, cell, make=lambda: None):
        self.cell = cell
        self.events.trigger("pre_run_cell", SimpleNamespace(cell_id=cell))
        made = make()
        self.events.trigger("post_run_cell", None)
        return made

    def watching(self):
        return [c for event in self.events.callbacks.values() for c in event if getattr(c, "__self__", None)]


@pytest.fixture
def notebook(monkeypatch):
    shell = Notebook()
    monkeypatch.setattr("gmfl_lite.explorer.cells.get_ipython", lambda: shell)
    return shell


def test_running_its_cell_again_closes_it(panel, notebook):
    explorer = panel(LONG)
    explorer.wait(60)  # what takes long only once is over
    explorer.set(nu=1)
    notebook.run("b")
    assert threads("training")
    notebook.run("a")
    until(lambda: not threads())
    assert explorer.panel.comm is None
    assert notebook.watching() == []


def test_what_its_cell_made_before_is_taken_over(panel, notebook, monkeypatch):
    old = panel()
    old.set(nu=1, dirichlet_alpha=0.1)
    old.wait(60)
    press(old, "Pin this curve")
    move(old, "fine-tuning steps before scoring", 10)
    old.set(nu=5)
    result = old.wait(60)
    monkeypatch.setattr(WhatIf, "run", lambda *_, **__: pytest.fail("it is known already"))
    new = notebook.run("a", panel)
    new.wait(60)
    assert new is not old
    assert (new.state.knobs, new.state.steps) == (old.state.knobs, 10)
    assert {control(new, name).value for name in ("nu",)} == {5}
    assert table(new)["run"] == ["ν = 1", "ν = 5", "FedAvg (ν = 0)"]
    assert words(new).startswith("All is as you left it; Reset starts afresh. After 10 fine-tuning steps")
    new.start()
    assert new.wait(60) is result
    monkeypatch.undo()
    press(new, "Reset")
    assert new.wait(60).experiment == QUICK.replace(eval_every=1)
    assert table(new)["run"] == ["ν = 3", "FedAvg (ν = 0)"]


@pytest.mark.parametrize("cell", ["a", "b"])
def test_another_base_or_another_cell_takes_nothing_over(cell, panel, notebook):
    panel().set(nu=5)
    base = QUICK.replace(nu=1) if cell == "a" else QUICK
    new = notebook.run(cell, lambda: panel(base))
    assert new.state.knobs["nu"] == base.nu
    assert new.state.curves == () or new.state.curves[0].status == "untrained"


def test_a_run_that_was_at_work_is_left_as_stopped(panel, notebook):
    old = panel(LONG)
    press(old, "Run")
    until(lambda: under_way(old))
    new = notebook.run("a", lambda: panel(LONG))
    assert [curve.status for curve in new.state.curves] == ["stopped"]
    assert not new.state.busy


def test_a_long_cell_is_said_to_be_waited_for(panel, notebook):
    explorer = panel()
    explorer.wait(60)
    said = "Another cell of this notebook is at work: what you press here waits until it is done."
    notebook.run("b", lambda: until(lambda: words(explorer).startswith(said)))
    until(lambda: said not in words(explorer))
    notebook.run("b")
    time.sleep(0.7)
    assert not explorer.state.elsewhere


def test_it_says_what_it_does_before_there_is_anything_to_see(monkeypatch, panel):
    monkeypatch.setattr("gmfl_lite.explorer.explorer.LatestWins.submit", lambda *_: None)
    assert words(panel()) == "Dealing the samples out to the agents."


def test_waiting_takes_no_longer_than_was_said(panel, monkeypatch):
    given = []
    monkeypatch.setattr(LatestWins, "wait", lambda self, timeout: given.append(timeout) or time.sleep(0.2) or True)
    panel().wait(1)
    assert given[0] == 1
    assert given[1] < 0.81


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="base = 'digits': must be an Experiment"):
        gl.Explorer("digits")
    with pytest.raises(ValueError, match="weights_seed = -1"):
        gl.Explorer(weights_seed=-1)
    assert not threads()


def test_only_the_explorer_and_predictions_know_of_widgets():
    """The library works where ipywidgets does not: in a worker process, on an agent's machine."""
    package = Path(gl.__file__).parent
    knowing = {
        path.relative_to(package).as_posix().removesuffix(".py")
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(name.name == "ipywidgets" for name in node.names)
    }
    assert {name for name in knowing if not name.startswith("explorer/")} == {"exercises/prediction"}
    assert "pyplot" not in "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
