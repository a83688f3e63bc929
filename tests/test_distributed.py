"""One run in several processes: the same numbers as in one."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from classroom import environment, settings
from ports import free_port

import gmfl_lite as gl
from gmfl_lite import distributed
from gmfl_lite.engine.among_processes import Shared

EXPERIMENT = gl.Experiment(
    n_agents=9, n_new_agents=2, agents_per_round=5, rounds=3, eval_every=3, weighting="samples", size_spread=1.0,
    device="cpu",
)  # fmt: skip
"""Five agents in two processes: three in one, two in the other, who weigh differently."""

PROGRAM = """
import sys
from datetime import timedelta
import torch.distributed as dist
import gmfl_lite as gl
from gmfl_lite import distributed

dist.init_process_group("gloo", timeout=timedelta(seconds=300))
rank = dist.get_rank()
if sys.argv[1] == "run":
    for number, settings in enumerate({many!r}):
        result = gl.run(gl.Experiment.from_dict(settings), engine=distributed.build_engine, progress=False)
        if rank == 0:
            result.save(f"{sys.argv[2]}/{number}.result")
    sys.exit()
small = gl.Experiment.from_dict({small!r})
differing = small.replace(meta_lr=0.1 * (1 + rank))
for one, how in ((small, {"checkpoint": sys.argv[2] + "/half"} if rank == 0 else {}), (differing, {})):
    try:
        gl.run(one, engine=distributed.build_engine, progress=False, **how)
    except ValueError as error:
        sys.stderr.write(f"process {rank}: {error}.\\n")
"""


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), *arguments]
    return subprocess.run(
        command, env={**environment(folder), "GLOO_SOCKET_IFNAME": "lo"}, cwd=folder, timeout=600,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def program(folder: Path, **values: object) -> str:
    """Write the program, with values put in, and return its path."""
    text = PROGRAM
    for name in ("many", "small"):
        text = text.replace(f"{{{name}!r}}", repr(values.get(name)))
    (folder / "program.py").write_text(text, encoding="utf-8")
    return str(folder / "program.py")


def difference(experiment: gl.Experiment, there: gl.Result) -> float:
    """Return the largest difference of a parameter from a run in this process, which must have moved them."""
    here = gl.run(experiment, progress=False)
    assert there.engine.endswith("in 2 processes")
    assert max((here.params[name] - start).abs().max().item() for name, start in initial().items()) > 1e-2
    assert (there.history["loss"] - here.history["loss"]).abs().max() < 1e-5
    return max((there.params[name] - here.params[name]).abs().max().item() for name in here.params)


@pytest.mark.slow
def test_two_processes_give_the_model_of_one(tmp_path, record_property):
    """By the notebook's command."""
    experiment = gl.Experiment(**settings())
    setting = ["--experiment", json.dumps(experiment.to_dict()), "--save", str(tmp_path / "two.result")]
    ran = torchrun(tmp_path, "-m", "gmfl_lite.distributed", *setting)
    assert ran.returncode == 0, ran.stderr[-3000:]
    gap = difference(experiment, gl.load_result(tmp_path / "two.result"))
    record_property("torchrun, largest difference of a parameter after three rounds", gap)
    assert gap < 1e-5


@pytest.mark.slow
def test_two_processes_give_the_model_of_one_whatever_the_method(tmp_path):
    """One run after the other in the same processes."""
    experiments = [
        EXPERIMENT,
        EXPERIMENT.replace(server="adam", server_lr=0.02, proximal=0.1, shots=4, query="disjoint", personal="head"),
        EXPERIMENT.replace(gradient="reptile", nu=2, server_lr=0.5, local_steps=2),
    ]
    many = [experiment.to_dict() for experiment in experiments]
    ran = torchrun(tmp_path, program(tmp_path, many=many), "run", str(tmp_path))
    assert ran.returncode == 0, ran.stderr[-3000:]
    for number, experiment in enumerate(experiments):
        assert difference(experiment, gl.load_result(tmp_path / f"{number}.result")) < 1e-5


@pytest.mark.slow
def test_processes_that_differ_are_refused_at_once(tmp_path):
    """One has a checkpoint after the first of two rounds, the other none; then they are to do different things."""
    small = EXPERIMENT.replace(model="softmax", agents_per_round=9, rounds=2, eval_every=1)
    stop = threading.Event()

    def after_the_first(round, rows):
        if round:
            stop.set()

    gl.run(small, checkpoint=tmp_path / "half", on_round=after_the_first, stop=stop, progress=False)
    ran = torchrun(tmp_path, program(tmp_path, small=small.to_dict()), "differ", str(tmp_path))
    for process in range(2):
        for said in ("w at the start", "experiments"):
            assert f"process {process}: the processes differ in their {said}" in ran.stderr


def initial():
    model = gl.build_model(EXPERIMENT.model, gl.load_dataset(EXPERIMENT.dataset), seed=EXPERIMENT.seed)  # of both
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


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 0, "gloo"), ("auto", 1, "gloo"), ("auto", 2, "nccl"), ("cuda", 2, "nccl"), ("cpu", 2, "gloo")],
)
def test_processes_talk_by_nccl_where_each_has_a_gpu(monkeypatch, device, gpus, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert distributed.choose_backend(device, gpus) == expected


def test_what_torchrun_cannot_give_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device = 'cuda': must be 'auto' or 'cpu': 2 processes here have 1 GPUs"):
        distributed.choose_backend("cuda", 1)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    with pytest.raises(ValueError, match="start by torchrun: torchrun --nproc-per-node"):
        distributed.main([])


def test_agents_that_remember_are_not_shared_among_processes(federation):
    predict, w = gl.models.as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    engine = gl.build_engine(gl.Experiment(), federation, gl.models.cross_entropy(predict), w)
    engine.own = {"c": torch.zeros(12, 3)}
    with pytest.raises(ValueError, match=r"what agents keep .* cannot be shared among processes"):
        Shared(engine)
