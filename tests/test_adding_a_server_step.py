"""A server step that is added from outside the library arrives everywhere it must."""

import pytest
import torch

import gmfl_lite as gl
from gmfl_lite import theory
from gmfl_lite.server import SERVER_STEPS, ServerStep, add_server_step


def heavy_ball(w, average, memory, server_lr):
    """Momentum on the server: v ← 0.9 v + (average − w), w ← w + server_lr v."""
    v = {name: 0.9 * memory.get(name, torch.zeros_like(w[name])) + average[name] - w[name] for name in w}
    return {name: w[name] + server_lr * v[name] for name in w}, v


RECORD = {"name": "heavy_ball", "help": "momentum on the server", "step": heavy_ball, "on_quadratics": "none"}


@pytest.fixture
def added():
    add_server_step(ServerStep(**RECORD))
    yield
    del SERVER_STEPS["heavy_ball"]


BASE = {"n_agents": 12, "agents_per_round": 4, "rounds": 4, "model": "softmax", "eval_every": 2}


def test_it_arrives_everywhere(added, federation, tmp_path):
    experiment = gl.Experiment(server="heavy_ball", server_lr=0.5, **BASE)
    assert gl.Experiment.from_dict(experiment.to_dict()) == experiment
    page = gl.by_hand(experiment, federation)
    plain = gl.by_hand(experiment.replace(server="average"), federation)
    for execution in ("loop", "vectorized"):
        found = gl.run(experiment.replace(execution=execution), federation=federation, progress=False).params
        for name in page:
            torch.testing.assert_close(found[name], page[name], rtol=0, atol=1e-5)
            assert (found[name] - plain[name]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"server = 'heavy_ball' with server_lr = 0\.5: must be 'average'"):
        theory.observe(experiment.replace(batch_size=None))
    agents = theory.Quadratics.random(4, 3, lowest=0.1, highest=1.0, seed=0)
    with pytest.raises(ValueError, match="server = 'heavy_ball': must be one with a formula: 'average'"):
        agents.round([0.0, 0.0, 0.0], 1, 0.1, 0.1, 1, server="heavy_ball")
    flower = pytest.importorskip("gmfl_lite.flower")
    assert flower.from_config(flower.to_config(experiment)) == experiment


def test_what_it_remembers_is_in_a_checkpoint(added, federation, tmp_path):
    experiment, path = gl.Experiment(server="heavy_ball", **BASE), tmp_path / "half"
    whole = gl.run(experiment, federation=federation, progress=False)

    def interrupt(round, rows):
        if round == 2:
            raise KeyboardInterrupt

    stopped = gl.run(experiment, federation=federation, checkpoint=path, on_round=interrupt, progress=False)
    assert stopped.status == "stopped"
    resumed = gl.run(experiment, federation=federation, checkpoint=path, progress=False)
    for name, tensor in whole.params.items():
        assert torch.equal(tensor, resumed.params[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": None}, "step of server step 'heavy_ball' = None: must be a function$"),
        ({"on_quadratics": None}, "on_quadratics of server step 'heavy_ball' = None: must be a function, or 'none'"),
        ({"name": "average"}, "name of a server step = 'average': must be another than average"),
    ],
)
def test_an_unfit_record_is_refused_when_it_is_added(changes, message):
    with pytest.raises(ValueError, match=message):
        add_server_step(ServerStep(**{**RECORD, **changes}))
    with pytest.raises(ValueError, match="must be a ServerStep"):
        add_server_step("heavy_ball")
    assert "heavy_ball" not in SERVER_STEPS
