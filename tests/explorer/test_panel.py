"""The panel of widgets: named, displayed, closed, and the only one in the library."""

import ast
import json
import time
from pathlib import Path

import ipywidgets
import pytest
from panel_helpers import LONG, QUICK, everything, same, threads, until

import gmfl_lite as gl
from gmfl_lite.explorer.latest_wins import LatestWins


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
    until(lambda: "round 5 " in explorer.state.progress)
    explorer.close()
    until(lambda: not threads(), 5)
    assert set(instances) == before
    explorer.close()
    explorer.start()
    assert not threads()


def test_running_its_cell_again_closes_it(panel, monkeypatch):
    from IPython.core.events import EventManager

    class Shell:
        def __init__(self):
            self.events = EventManager(self, {"pre_run_cell": lambda info: None})
            self.cell = "a"

        def get_parent(self):
            return {"metadata": {"cellId": self.cell}}

        def run(self, cell):
            self.cell = cell
            info = type("Info", (), {"cell_id": cell})
            self.events.trigger("pre_run_cell", info)

    shell = Shell()
    monkeypatch.setattr("gmfl_lite.explorer.explorer.get_ipython", lambda: shell)
    explorer = panel(LONG)
    explorer.set(nu=1)
    shell.run("b")
    assert threads("training")
    shell.run("a")
    until(lambda: not threads(), 5)
    assert explorer.panel.comm is None
    assert not [c for c in shell.events.callbacks["pre_run_cell"] if "about_to_run" in c.__qualname__]


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


def test_only_the_explorer_knows_of_widgets():
    """The library works where ipywidgets does not: in a worker process, on an agent's machine."""
    package = Path(gl.__file__).parent
    knowing = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(name.name == "ipywidgets" for name in node.names)
    }
    assert knowing == {"explorer"}
    assert "pyplot" not in "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
