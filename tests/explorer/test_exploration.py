"""`Explorer.run`: for a script what the panel does, in the calling thread."""

import pytest
from panel_helpers import QUICK, press, same

import gmfl_lite as gl
from gmfl_lite.explorer.what_if import WhatIf


def test_run_gives_what_gl_run_gives_and_shows_itself(panel):
    explorer = panel()
    experiment = QUICK.replace(permuted_classes=5)
    explored = explorer.run(experiment, progress=False)
    assert same(explored, gl.run(experiment, progress=False))
    assert same(explored.fedavg, gl.run(experiment.replace(nu=0), progress=False))
    assert explored.table().shape == (2, 5)
    data, metadata = explored._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert f"ν = 3 {100 * explored.table().loc['new', 3]:.0f} % after round 10" in metadata["image/png"]["alt"]
    gap = round(100 * explored.table().loc["new", 3]) - round(100 * explored.fedavg.table().loc["new", 3])
    assert {1: "above", 0: "level", -1: "below"}[(gap > 0) - (gap < 0)] in explored.words
    assert explorer.run(QUICK.replace(nu=0), progress=False).fedavg is None
    assert "this is FedAvg" in explorer.run(QUICK.replace(nu=0), progress=False).words
    diverged = explorer.run(QUICK.replace(meta_lr=1e6), progress=False)
    assert (diverged.status, diverged.words) == ("diverged", diverged.message)
    with pytest.raises(ValueError, match="experiment = 3: must be an Experiment"):
        explorer.run(3)


def test_run_and_panel_share_what_is_done(panel, monkeypatch):
    base = QUICK.replace(eval_every=1)
    explorer = panel(base)
    explorer.wait(60)
    explored = explorer.run(base, progress=False)
    monkeypatch.setattr(WhatIf, "run", lambda *_, **__: pytest.fail("it is known already"))
    press(explorer, "Run")
    assert explorer.wait(60).history.equals(explored.history)
    assert explorer.state.fedavg.history.equals(explored.fedavg.history)
    assert explorer.run(base, progress=False).params is explored.params


def test_no_new_agents(panel):
    explored = panel().run(QUICK.replace(n_new_agents=0, nu=1), progress=False)
    assert "agents trained on reach" in explored.words
    assert explored.picture.alt.startswith("Accuracy of agents trained on after 1 fine-tuning step ")
