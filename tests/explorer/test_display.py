"""What the panel says and draws of its state."""

import dataclasses
import html
import re

import numpy as np
import pandas as pd
import pytest
import torch
from panel_helpers import QUICK, alt, control, painted, press, table, taken_away, until, words

import gmfl_lite as gl
from gmfl_lite.explorer import sentences
from gmfl_lite.explorer.curves import Curve
from gmfl_lite.explorer.knobs import KNOBS
from gmfl_lite.explorer.state import State
from gmfl_lite.explorer.what_if import WhatIf
from gmfl_lite.sweep import Given

SAME = "at the same step sizes"


@pytest.mark.parametrize(
    ("nu", "reference", "expected"),
    [
        (
            3,
            0.5,
            f"After 1 fine-tuning step new agents reach 60 %, 10 points above FedAvg fine-tuned as long, {SAME}.",
        ),
        (
            3,
            0.61,
            f"After 1 fine-tuning step new agents reach 60 %, 1 point below FedAvg fine-tuned as long, {SAME}.",
        ),
        (
            3,
            0.602,
            f"After 1 fine-tuning step new agents reach 60 %, level with FedAvg fine-tuned as long, {SAME}.",
        ),
        (3, None, "After 1 fine-tuning step new agents reach 60 %."),
        (0, None, "After 1 fine-tuning step new agents reach 60 %: this is FedAvg."),
    ],
)
def test_reading_in_words(nu, reference, expected):
    def curve(accuracy: float, nu: int) -> Curve:
        columns = {"round": 100, "group": ["trained", "new"], "fine_tune_steps": 1, "accuracy": [0.1, accuracy]}
        return Curve(WhatIf(gl.Experiment(nu=nu), 0), pd.DataFrame(columns), "completed", 0.0)

    assert sentences.of_a_curve(curve(0.6, nu), None if reference is None else curve(reference, 0), 1) == expected


def test_the_first_look_is_the_untrained_model(panel):
    explorer = panel()
    assert explorer.wait(60) is None
    start = gl.run(QUICK, progress=False).history.query("round == 0 and group == 'new' and fine_tune_steps == 3")
    assert words(explorer) == (
        "Press Run, or move a knob. Before training, after 3 fine-tuning steps new agents reach "
        f"{100 * start['accuracy'].item():.0f} %."
    )
    assert "<img" in painted(explorer, "picture")


def test_the_steps_shown_are_a_matter_of_looking(panel):
    explorer = panel()
    explorer.set(nu=1)
    result = explorer.wait(60)
    control(explorer, "fine-tuning steps before scoring").value = 10
    assert explorer.wait(60) is result
    assert f"After 10 fine-tuning steps new agents reach {100 * result.table().loc['new', 10]:.0f} %" in words(explorer)


@pytest.mark.slow
def test_worst_and_best_agents_and_what_was_sent_are_lines_to_switch_on(panel):
    explorer = panel()
    explorer.set(nu=1)
    result = explorer.wait(60)
    last = result.agents[(result.agents["group"] == "new") & (result.agents["fine_tune_steps"] == 3)]
    low, high = np.percentile(100 * last["accuracy"], [10, 90])
    mean = f"{100 * last['accuracy'].mean():.0f} %"
    sent = 10 * 2 * QUICK.agents_per_round * 4 * (64 * 10 + 10)  # of ten rounds, both ways, bytes of a softmax model
    drawn = explorer.state.picture().axes[0].lines
    assert [len(axes.lines) for axes in explorer.state.picture().axes[:2]] == [2, 3], "ν, FedAvg; a line at the steps"

    control(explorer, "worst and best agents").value = True
    assert explorer.wait(60) is result
    assert f"ν = 1 {mean} (worst {low:.0f} %, best {high:.0f} %) after round 10" in alt(explorer)
    assert f"{mean} (worst {low:.0f} %, best {high:.0f} %)".replace(" %", "&nbsp;%") in painted(explorer, "legend")
    ours, worst, best = explorer.state.picture().axes[0].lines[:3]  # then FedAvg's
    np.testing.assert_array_equal(ours.get_xydata(), drawn[0].get_xydata())
    np.testing.assert_allclose([worst.get_ydata()[-1], best.get_ydata()[-1]], [low, high])
    assert worst.get_color() == best.get_color() == ours.get_color()

    explorer.sweep("nu")
    explorer.wait(60)
    lines, said = explorer.state.picture().axes[0].lines, painted(explorer, "legend")
    assert (len(lines), said.count("worst")) == (6, 6), "too many to draw, all are said"
    explorer.sweep(None)
    explorer.wait(60)

    control(explorer, "MB sent").value = True
    explorer.wait(60)
    assert "against what was sent" in alt(explorer)
    assert f", {sent / 1e6:.3g} MB sent" in painted(explorer, "legend")
    axes = explorer.state.picture().axes[0]
    assert axes.get_xlabel() == "sent in all (MB)"
    np.testing.assert_allclose(axes.lines[0].get_xdata(), drawn[0].get_xdata() * sent / 1e7)
    assert axes.get_xlim() == pytest.approx((0, sent / 1e6))


def test_the_legend_says_that_a_run_did_not_come_to_its_end(panel):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    assert "diverged" not in painted(explorer, "legend")
    press(explorer, "a step size that diverges")
    explorer.wait(60)
    assert explorer.state.curves[0].status == "diverged"
    last = explorer.state.curves[0].history["round"].iloc[-1]
    assert f"<b>diverged; drawn to round {last}</b>" in painted(explorer, "legend")  # and no score: it is of no result
    explorer.set(meta_lr=0.1, rounds=500)
    until(lambda: any(c.status == "running" and len(c.history) for c in explorer.state.curves))
    press(explorer, "Pin this curve")
    press(explorer, "Stop")
    explorer.wait(60)
    assert re.search(r"\d+&nbsp;%, stopped, pinned</b>", painted(explorer, "legend"))


@pytest.mark.parametrize(
    ("changes", "kilobytes"),
    [
        ({}, 10.4),
        ({"precision": "float64"}, 20.8),
        ({"agents_per_round": 5}, 26.0),
        ({"model": "mlp", "agents_per_round": 1}, 85.36),
    ],
)
def test_what_a_round_sends(changes, kilobytes):
    """There and back, 64·10 + 10 numbers of a softmax model, 64·80 + 80 + 80·60 + 60 + 60·10 + 10 of an MLP."""
    what_if = WhatIf(QUICK.replace(**{"agents_per_round": 2, **changes}), 0)
    assert 1000 * what_if.megabytes_per_round == pytest.approx(kilobytes)


def test_a_module_of_ones_own_sends_what_is_trained(rng):
    days = [(rng.normal(size=(20, 4)), ["sun", "rain"] * 10) for _ in range(4)]
    federation = gl.Federation.from_agents(days, n_new_agents=1)
    with torch.random.fork_rng():
        module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    module[0].requires_grad_(False)
    what_if = WhatIf(gl.Experiment(agents_per_round=3, device="cpu"), 0, Given(federation, module))
    assert 1e6 * what_if.megabytes_per_round == 2 * 3 * 4 * (8 * 2 + 2)


@pytest.mark.parametrize(
    "impossible",
    [{"partition": "per_fedavg", "per_fedavg_a": 128}, {"agents_per_round": 50}],
    ids=["cannot be dealt out", "contradiction"],
)
def test_nothing_old_is_shown_under_a_what_if_that_fails(panel, impossible):
    explorer = panel()
    initial = explorer.state.knobs
    explorer.set(nu=1)
    explorer.wait(60)
    assert "FedAvg" in painted(explorer, "picture")
    explorer.set(nu=5, **impossible)
    assert explorer.wait(60) is None
    assert words(explorer).startswith("⚠ ")
    assert "reach" not in words(explorer)
    assert alt(explorer).endswith("against fine-tuning steps: nothing yet.")
    assert painted(explorer, "runs") == taken_away(explorer) == "Nothing has run yet."
    explorer.set(**{name: initial[name] for name in impossible})
    assert explorer.wait(60).experiment.nu == 5


@pytest.mark.slow
def test_who_holds_what_names_its_run_where_there_are_several(panel):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    assert "Below, who holds what: 16 agents by 10 classes; on average, " in alt(explorer)
    press(explorer, "Pin this curve")
    explorer.set(partition="iid", nu=0)
    explorer.wait(60)
    assert "Below, who holds what with partition = iid: 16 agents by 10 classes; on average, " in alt(explorer)
    explorer.sweep("seed")
    explorer.wait(60)
    assert "Below, who holds what with partition = iid, seed = 9: 16" in alt(explorer)


@pytest.mark.slow
def test_who_holds_what_is_said_to_those_who_cannot_see_it(panel):
    explorer = panel()
    for knobs, low, high in (
        ({"partition": "shards", "classes_per_agent": 1}, 100, 100),
        ({"classes_per_agent": 2}, 50, 60),  # the samples of two classes are not dealt out to the last one evenly
        ({"partition": "iid"}, 10, 25),
    ):
        explorer.set(**knobs)
        explorer.wait(60)
        said = re.search(r"on average, (\d+) % of an agent's samples are of its largest class\.$", alt(explorer))
        assert low <= int(said[1]) <= high


def test_words_change_with_the_picture_that_they_are_about(panel, monkeypatch):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    before, seen, draw = words(explorer), [], State.picture
    monkeypatch.setattr(State, "picture", lambda *a, **k: seen.append(words(explorer)) or draw(*a, **k))
    control(explorer, "fine-tuning steps before scoring").value = 10
    explorer.wait(60)
    assert seen[0] == before
    assert words(explorer) != before


def test_an_exception_in_the_drawing_is_shown_and_does_not_repeat(panel, monkeypatch):
    explorer = panel()
    explorer.wait(60)
    calls = []
    monkeypatch.setattr(State, "picture", lambda *_, **__: calls.append(1) or {}["lost"])
    control(explorer, "fine-tuning steps before scoring").value = 10
    explorer.wait(60)
    assert "KeyError: 'lost'" in words(explorer)
    assert calls == [1]


@pytest.mark.slow
def test_the_panel_is_painted_from_the_state_and_the_state_stays_as_it_is(panel):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    press(explorer, "Pin this curve")
    explorer.sweep("permuted_classes")
    explorer.wait(60)
    state = explorer.state
    assert words(explorer) == state.words
    assert alt(explorer) == state.picture().alt
    assert table(explorer)["run"] == list(state.runs) == state.table()["run"].tolist()
    for code in (state.python(), state.papermill()):
        assert html.escape(code) in taken_away(explorer)
    assert (state.busy, state.progress, painted(explorer, "progress")) == (False, "", "")
    assert (state.swept, state.family) == (("permuted_classes", KNOBS["permuted_classes"].values), "permuted_classes")
    runs = list(state.runs)
    explorer.set(nu=5, permuted_classes=2)
    assert (state.knobs["nu"], state.swept[0], list(state.runs)) == (1, "permuted_classes", runs)
    assert (explorer.state.knobs["nu"], explorer.state.swept) == (5, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.steps = 0
    with pytest.raises(TypeError):
        state.knobs["nu"] = 0
