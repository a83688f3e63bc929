"""One run in several processes: the same numbers as in one."""

import json
import subprocess
import sys

import pytest
import torch
from classroom import environment, free_port

import gmfl_lite as gl
from gmfl_lite import distributed

EXPERIMENT = gl.Experiment(
    n_agents=9, n_new_agents=2, agents_per_round=5, rounds=3, eval_every=3, weighting="samples", size_spread=1.0,
    device="cpu",
)  # fmt: skip


@pytest.mark.slow
def test_two_processes_give_the_model_of_one(tmp_path, record_property):
    """Five agents in two processes: three in one, two in the other, who weigh differently."""
    here = gl.run(EXPERIMENT, progress=False)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "gmfl_lite.distributed"]
    command += ["--experiment", json.dumps(EXPERIMENT.to_dict()), "--save", str(tmp_path / "two.result")]
    ran = subprocess.run(
        command, env={**environment(tmp_path), "GLOO_SOCKET_IFNAME": "lo"}, cwd=tmp_path, timeout=200,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    there = gl.load_result(tmp_path / "two.result")
    assert there.engine.endswith("in 2 processes")
    gap = max((there.params[name] - here.params[name]).abs().max().item() for name in here.params)
    record_property("torchrun, largest difference of a parameter after three rounds", gap)
    assert gap < 1e-5
    moved = max((here.params[name] - start).abs().max().item() for name, start in initial().items())
    assert moved > 1e-2
    assert (there.history["loss"] - here.history["loss"]).abs().max() < 1e-5


def initial():
    model = gl.build_model(EXPERIMENT.model, gl.load_dataset(EXPERIMENT.dataset), seed=EXPERIMENT.seed)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


@pytest.fixture
def one_process(tmp_path):
    """A process group of one: what torchrun would start."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1, timeout=distributed.TIMEOUT
    )
    yield
    torch.distributed.destroy_process_group()


def test_a_group_of_one_changes_nothing(one_process):
    small = EXPERIMENT.replace(model="softmax", rounds=2)
    shared, plain = (gl.run(small, progress=False, **how) for how in ({"engine": distributed.build_engine}, {}))
    for name, tensor in plain.params.items():
        assert torch.allclose(shared.params[name], tensor, atol=1e-6)


def test_without_torchrun_it_says_what_is_missing():
    with pytest.raises(ValueError, match="start by torchrun"):
        gl.run(EXPERIMENT, engine=distributed.build_engine, progress=False)


def test_more_processes_than_agents_are_refused(monkeypatch, one_process):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 6)
    with pytest.raises(ValueError, match="agents_per_round = 5: must be at least 6"):
        gl.run(EXPERIMENT, engine=distributed.build_engine, progress=False)
