"""The check of a GPU, tried on the CPU: it finds what is equal, and what is not."""

import dataclasses
import random

import pytest
import torch
from fake_graph import FakeGraphs

import gmfl_lite as gl
from gmfl_lite import gpu_check
from gmfl_lite.aggregation import AGGREGATIONS
from gmfl_lite.engine import cuda_graphs
from gmfl_lite.gpu_check import equality, report, times
from gmfl_lite.gpu_check.equality import Found
from gmfl_lite.meta_gradients import METHODS
from gmfl_lite.models import MODELS, PERSONAL
from gmfl_lite.server import SERVER_STEPS


@pytest.fixture
def fake(monkeypatch):
    fake = FakeGraphs()
    monkeypatch.setitem(cuda_graphs.CAPTURE, "cpu", fake)
    return fake


@pytest.mark.slow
def test_the_whole_check_with_a_stand_in_for_the_gpu(fake, monkeypatch):
    monkeypatch.setattr(times, "STEPS", 3)
    said = []
    state = random.getstate()
    equal, page = gpu_check.check("cpu", few=True, say=said.append)
    random.setstate(state)  # Dask draws names from it
    assert equal, "\n".join(said)
    assert fake.replayed > fake.captured > 10
    assert "comparisons with the CPU came out equal" in page
    assert "left out: needs a GPU and nccl" in page
    assert page.count("| MLP | 10 | ") == 1
    assert "the default experiment" in page


def test_every_way_to_compute_is_compared():
    compared = [experiment for _, experiment in equality.experiments()]
    assert len({str(experiment.to_dict()) for experiment in compared}) == len(compared)

    def those(name):
        return {getattr(experiment, name) for experiment in compared}

    assert those("gradient") == set(METHODS)
    assert those("server") == set(SERVER_STEPS)
    assert those("aggregation") == set(AGGREGATIONS)
    assert those("personal") == set(PERSONAL)
    assert those("model") == set(MODELS)
    assert those("query") == {"independent", "disjoint"}
    assert those("execution") == {"auto", "vectorized", "loop"}
    for name in METHODS:
        pairs = {(each.nu, each.local_steps, each.execution) for each in compared if each.gradient == name}
        assert {(nu, tau, how) for nu in (1, 5) for tau in (1, 5) for how in ("vectorized", "loop")} <= pairs


@pytest.mark.parametrize(("wrong_by", "equal"), [(0.0, True), (1e-7, True), (1e-3, False), (float("nan"), False)])
def test_another_model_than_the_cpu_is_a_difference(monkeypatch, wrong_by, equal):
    real, asked = gl.run, []

    def run(experiment, **how):
        asked.append(experiment)
        result = real(experiment, **how)
        if len(asked) == 3:  # the one on the device
            params = {name: tensor * (1 + wrong_by) for name, tensor in result.params.items()}
            result = dataclasses.replace(result, params=params)
        return result

    monkeypatch.setattr(equality, "run", run)
    found = equality.compare("a run", equality.BASE, "cpu")
    assert (found.problem == "") == equal, found


def test_other_scores_than_the_cpus_are_a_difference(monkeypatch):
    real = gl.run

    def run(experiment, **how):
        result = real(experiment, **how)
        if experiment.precision == "float32":
            result.history["loss"] += 0.01
        return result

    monkeypatch.setattr(equality, "run", run)
    assert equality.compare("a run", equality.BASE, "cpu").problem == "scores differ by 1.0e-02"


def test_graphs_that_failed_are_a_difference(monkeypatch):
    def refuses(function, device, pool):
        raise RuntimeError("operation not permitted")

    monkeypatch.setitem(cuda_graphs.CAPTURE, "cpu", refuses)
    found = equality.compare("a run", equality.BASE, "cpu")
    assert "no CUDA graphs, as that failed (RuntimeError: operation not permitted" in found.problem


def test_what_raises_is_a_difference_and_the_others_go_on(monkeypatch):
    def raises(name, *others):
        if "reptile" in name:
            raise RuntimeError("CUDA error: misaligned address")
        return Found(name, "")

    monkeypatch.setattr(equality, "compare", raises)
    for check in ("precise", "resumed", "same_agents", "with_torchrun", "with_dask"):
        monkeypatch.setattr(equality, check, lambda device: Found("", ""))
    found = list(equality.comparisons("cpu"))
    wrong = {each.name: each.problem for each in found if each.problem}
    assert set(wrong.values()) == {"RuntimeError: CUDA error: misaligned address"}
    assert set(wrong) == {name for name, _ in equality.experiments() if "reptile" in name}
    assert found[-1].problem == ""


def test_a_run_that_goes_on_otherwise_is_a_difference(monkeypatch):
    assert equality.resumed("cpu").problem == ""
    real = gl.run

    def run(experiment, **how):
        result = real(experiment, **how)
        if how.get("checkpoint") and result.status == "completed":
            result.params["5.bias"] += 1e-4
        return result

    monkeypatch.setattr(equality, "run", run)
    assert equality.resumed("cpu").problem == "more than 1e-5"


def test_agents_and_float64_are_compared():
    assert equality.same_agents("cpu").problem == equality.precise("cpu").problem == ""


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="device = 'cuda': must be one that this machine has: PyTorch finds no CUDA"):
        gpu_check.check()


def test_steps_are_timed_as_graphs_and_without(fake, monkeypatch):
    monkeypatch.setattr(times, "STEPS", 3)
    called = times.step_times("softmax", 10, 1, "cpu", ("called",))
    assert (list(called), fake.captured) == (["called"], 0)
    both = times.step_times("softmax", 10, 1, "cpu", ("called", "graph"))
    assert fake.captured == 1
    assert all(0 < milliseconds < 1000 for milliseconds in both.values())


def test_no_memory_is_said(monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(times, "timed", full)
    assert times.step_times("softmax", 10, 1, "cpu", ("graph",)) == {"graph": float("inf")}


def test_the_page():
    found = [Found("one", "1e-07"), Found("torchrun", "left out: needs a GPU"), Found("other", "1e-02", "too far")]
    runs = {"the default experiment": {"first time": 2.0, "again": 1.25, "on this CPU": 4.0}}
    steps = {
        ("mlp", 50, 5): {"called": 31.0, "graph": 1.5, "compiled": 1.25},
        ("cnn", 1000, 5): {"called": float("inf"), "graph": float("inf")},
    }
    lines = report.page("cpu", found, runs, {"mlp": 3.0, "cnn": 51.0}, steps).splitlines()
    assert "1 of 2 comparisons with the CPU came out equal." in lines
    assert "- **DIFFERENT: other: 1e-02, too far**" in lines
    assert "- torchrun: left out: needs a GPU" in lines
    assert "| exact step of 50 agents, ν = 5, MLP 784-80-60-10 | 2 ms | 1.5 ms | yes |" in lines
    assert "| the default experiment | 1 s | 1.25 s | no |" in lines
    assert "| round of 10 agents, CNN, images of 28×28 | 50 ms | 51 ms | no |" in lines
    assert "| MLP | 50 | 1.50 (31.00, compiled 1.25) |" in lines
    assert "| CNN | 1000 | no memory (no memory) |" in lines
    assert "A round of 10 agents, 5 local steps, ν = 1: MLP 3.0 ms, CNN 51.0 ms." in lines


def test_what_time_does_not_allow_is_said():
    steps = {("mlp", 10, 0): {"called": 2.0, "graph": 1.0}, ("cnn", 10, 1): {"called": 2.0, "graph": 1.0}}
    runs = {"the default experiment": {"again": 0.5}}
    lines = report.page("cpu", [], runs, {"cnn": 1.0}, steps).splitlines()
    assert "| CNN | 10 | not measured | 1.00 (2.00) |" in lines
    assert "| exact step of 50 agents, ν = 5, MLP 784-80-60-10 | 2 ms | not measured |  |" in lines
