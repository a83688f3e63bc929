"""Pinned curves stay, grow with their runs, and are named by what differs."""

import re

import pytest
from matplotlib.colors import to_hex
from panel_helpers import LONG, QUICK, control, move, painted, press, table, under_way, until


def test_pins_stay_and_are_named_by_what_differs(panel, callback):
    explorer = panel()
    for nu in (0, 3):
        callback(move, explorer, "nu", 5)
        callback(move, explorer, "nu", nu)
        explorer.wait(60)
        callback(press, explorer, "Pin this curve")
    callback(press, explorer, "Pin this curve")  # once is enough
    explorer.set(nu=1)
    explorer.wait(60)
    shown = table(explorer)
    assert shown["run"] == ["ν = 0", "ν = 3", "ν = 1"]
    assert shown["pinned"] == ["yes", "yes", ""]
    control(explorer, "best first").value = True
    explorer.wait(60)
    column = [float(value) for value in table(explorer)["3"]]
    assert column == sorted(column, reverse=True)
    assert re.search("ν = 0 .*ν = 3 .*ν = 1 ", painted(explorer, "picture").split(" onload")[0])
    callback(press, explorer, "Clear pins")
    explorer.wait(60)
    assert table(explorer)["run"] == ["ν = 1", "FedAvg (ν = 0)"]


def test_the_legend_says_what_differs_and_counts_and_looks_as_the_curves_do(panel):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    look = explorer.state.legend["ν = 1"][0]
    press(explorer, "Pin this curve")
    press(explorer, "IID")
    explorer.set(dirichlet_alpha=10.0)
    explorer.wait(60)
    names = list(explorer.state.legend)
    assert names == ["partition = dirichlet", "partition = iid", "FedAvg (ν = 0), partition = iid"]
    entries = re.findall("<span>.*?</span>", painted(explorer, "legend"))
    assert [re.sub("<[^>]*>", "", entry).split("&ensp;")[0] for entry in entries] == names
    assert [entry.count(", pinned") for entry in entries] == [1, 0, 0]
    assert re.findall('svg .*?color="(.*?)"', entries[0]) == [to_hex(look.colour)]
    assert [line.get_marker() for line in explorer.state.picture().axes[0].lines] == ["s", "s", "o"]
    assert explorer.state.legend["partition = dirichlet"][0] == look
    assert "stroke-dasharray" in entries[1]


def test_fedavg_says_whose_data_it_had_where_data_differ(panel):
    """Its curve would be taken for that of pins on other data."""
    explorer = panel()
    explorer.set(dirichlet_alpha=0.1)
    explorer.wait(60)
    press(explorer, "Pin this curve")
    explorer.set(nu=1)
    explorer.wait(60)
    assert [*explorer.state.runs][-1] == "FedAvg (ν = 0)"
    explorer.set(dirichlet_alpha=100)
    explorer.wait(60)
    assert [*explorer.state.runs][-1] == "FedAvg (ν = 0), dirichlet_alpha = 100"
    widths = [line.get_linewidth() for line in explorer.state.picture().axes[0].lines]
    assert widths[0] == widths[1] > widths[2]  # still the one that others are compared with
    assert "FedAvg" not in explorer.state.papermill()
    assert "dirichlet_alpha=100" in explorer.state.python()


@pytest.mark.slow
def test_a_pin_grows_until_its_run_ends(panel):
    explorer = panel(LONG.replace(rounds=200))
    press(explorer, "Run")
    until(lambda: under_way(explorer))
    press(explorer, "Pin this curve")
    explorer.wait(60)
    assert [(len(pin.history), pin.status) for pin in explorer.state.pins] == [(41 * 10, "completed")]
    explorer.set(nu=1)
    explorer.wait(60)
    assert table(explorer)["rounds"] == ["200", "200", "200"]


def test_a_pin_whose_run_was_replaced_is_called_stopped(panel):
    explorer = panel(LONG)
    press(explorer, "Run")
    until(lambda: under_way(explorer))
    press(explorer, "Pin this curve")
    explorer.set(nu=1, rounds=10)
    explorer.wait(60)
    assert table(explorer)["status"] == ["stopped", "completed", "completed"]


def test_a_pinned_first_look_becomes_its_run(panel):
    explorer = panel(QUICK.replace(eval_every=10))  # of which the panel makes 1
    explorer.wait(60)
    press(explorer, "Pin this curve")
    press(explorer, "Run")
    explorer.wait(60)
    explorer.set(nu=1)
    explorer.wait(60)
    shown = table(explorer)
    assert shown["run"] == ["ν = 3", "ν = 1", "FedAvg (ν = 0)"]
    assert shown["status"] == ["completed"] * 3
    assert shown["rounds"] == ["10"] * 3
