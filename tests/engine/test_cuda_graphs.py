"""CUDA graphs, with a stand-in for the GPU: what is repeated is what would have been computed."""

import functools
import threading
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from fake_graph import FakeGraphs

import gmfl_lite as gl
from gmfl_lite.engine import Graphs, Stopped, agents_axis, computing_with, cuda_graphs, recording, vectorized
from gmfl_lite.models import as_functions, cross_entropy

CPU = torch.device("cpu")

SETTINGS = {
    "n_agents": 12,
    "n_new_agents": 3,
    "agents_per_round": 6,
    "rounds": 5,
    "eval_every": 1,
    "batch_size": 8,
    "eval_steps": (0, 1, 3),
}


@pytest.fixture
def fake(monkeypatch):
    fake = FakeGraphs()
    monkeypatch.setitem(cuda_graphs.CAPTURE, "cpu", fake)
    return fake


def both(experiment, fake, **how):
    """Run with graphs, and without."""
    graphed = gl.run(experiment, progress=False, **how)
    assert fake.captured
    assert "CUDA graphs" in graphed.engine
    real = cuda_graphs.CAPTURE.pop("cpu")
    plain = gl.run(experiment, progress=False, **how)
    cuda_graphs.CAPTURE["cpu"] = real
    assert "CUDA" not in plain.engine
    return graphed, plain


def agree(graphed, plain):
    for name, tensor in plain.params.items():
        torch.testing.assert_close(graphed.params[name], tensor, rtol=0, atol=1e-6)
    pd.testing.assert_frame_equal(graphed.history, plain.history, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        *({"gradient": g, "nu": n} for g in ("exact", "first_order", "hessian_free") for n in (0, 1, 4)),
        {"gradient": "truncated", "backprop_steps": 1},
        {"gradient": "reptile"},
        pytest.param({"model": "cnn", "nu": 1, "rounds": 3}, marks=pytest.mark.slow),
        {"model": "softmax", "batch_size": None},
        {"query": "disjoint", "batch_size": None},
        {"query": "disjoint"},
        {"partition": "iid", "size_spread": 1.0},
        {"server": "adam", "server_lr": 0.1, "proximal": 0.3},
        {"local_steps": 1, "weighting": "samples", "personal": "head"},
        {"precision": "float64"},
    ],
    ids=str,
)
def test_a_run_in_graphs_is_the_run(fake, changes):
    agree(*both(gl.Experiment(**{**SETTINGS, **changes}), fake))
    assert fake.captured >= 2, "a local step, and the scores"
    assert fake.replayed > 2 * fake.captured


def test_a_run_that_is_resumed_ends_as_the_other(fake, tmp_path):
    experiment = gl.Experiment(**SETTINGS, server="momentum", server_lr=0.1)
    stop = threading.Event()
    how = {"checkpoint": tmp_path / "run", "progress": False}
    gl.run(experiment, stop=stop, on_round=lambda round, _: stop.set() if round == 2 else None, **how)
    resumed, whole = gl.run(experiment, **how), gl.run(experiment, progress=False)
    for name, tensor in whole.params.items():
        torch.testing.assert_close(resumed.params[name], tensor, rtol=0, atol=1e-6)


def test_results_stay_when_the_graph_runs_again(fake):
    graphs = Graphs(CPU)
    found = [graphs.call("square", lambda x: {"y": x * x}, torch.tensor([float(n)])) for n in range(5)]
    assert [each["y"].item() for each in found] == [0, 1, 4, 9, 16]
    assert (fake.captured, fake.replayed) == (1, 4)


def test_arguments_are_left_alone(fake):
    graphs, handed = Graphs(CPU), [torch.full((2,), float(n)) for n in range(4)]
    for x in handed:
        graphs.call("double", lambda y: 2 * y, x)
    assert [x.tolist() for x in handed] == [[n, n] for n in range(4)]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (([1.0],), ([1.0, 2.0],)),
        (([1.0],), (torch.ones(1, dtype=torch.float64),)),
        (([1.0], [1.0]), ([1.0, 1.0], [2.0, 2.0])),
    ],
    ids=["shape", "type", "two"],
)
def test_each_kind_of_arguments_has_a_graph_of_its_own(fake, first, then):
    graphs = Graphs(CPU)
    for arguments in (first, then, first, then):
        tensors = [torch.as_tensor(argument) for argument in arguments]
        found = graphs.call("sum", lambda *all: sum(all), *tensors)
        torch.testing.assert_close(found, sum(tensors))
    assert fake.captured == 2


def test_two_tensors_are_not_taken_for_one_that_comes_twice(fake):
    graphs, x = Graphs(CPU), torch.ones(3)
    for _ in range(3):
        graphs.call("pair", torch.sub, x, x)
    found = graphs.call("pair", torch.sub, torch.full((3,), 5.0), torch.full((3,), 2.0))
    assert found.tolist() == [3, 3, 3]


def test_no_more_graphs_are_made_than_memory_should_hold(fake, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    graphs = Graphs(CPU)
    for _ in range(3):
        for width in range(1, 5):
            assert graphs.call("double", lambda x: 2 * x, torch.ones(width)).tolist() == [2] * width
    assert fake.captured == 2


def test_what_cannot_be_captured_runs_as_it_is_and_says_so(fake):
    """Here a local step of one's own that looks at a value, which a graph cannot."""

    def halves(w, gradient, start, own):
        rate = 0.1 if float(torch.ones(1)) else 0.2  # no value of an agent's, so vmap does not mind
        return {name: w[name] - rate * gradient[name] for name in w}

    experiment = gl.Experiment(**SETTINGS)
    build = functools.partial(gl.build_engine, local_step=halves)
    result = gl.run(experiment, engine=build, progress=False)
    assert "no CUDA graphs, as that failed (RuntimeError: operation not permitted" in result.engine
    assert not fake.captured
    cuda_graphs.CAPTURE.pop("cpu")
    plain = gl.run(experiment, engine=build, progress=False)
    for name, tensor in plain.params.items():
        torch.testing.assert_close(result.params[name], tensor, rtol=0, atol=1e-6)


def test_a_wish_to_stop_ends_a_capture_and_is_no_failure(fake):
    graphs = Graphs(CPU)

    def stopped(x):
        raise Stopped

    graphs.call("step", lambda x: x, torch.ones(1))
    with pytest.raises(Stopped):
        graphs.call("step", stopped, torch.ones(1))
    assert graphs.in_words == "local steps as CUDA graphs"


def test_the_compiled_step_goes_into_a_graph_too(fake, monkeypatch):
    """With "eager" in place of inductor, for which not every machine has a compiler."""
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1)
    monkeypatch.setattr(recording.torch, "compile", lambda function: function)
    result = gl.run(gl.Experiment(**SETTINGS), engine=functools.partial(gl.build_engine, compiled=True), progress=False)
    assert "; recorded, as 25 local steps repay it; local steps as CUDA graphs" in result.engine
    assert result.engine.endswith("compiled")


@pytest.mark.parametrize("compiled", [False, True])
def test_a_recording_keeps_the_derivative_of_a_derivative(compiled, monkeypatch):
    """A compiler that cut the graph at the inner gradient would give the first-order gradient, silently."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # without C++
    federation = gl.build_federation(gl.Experiment(**SETTINGS))
    predict, w = as_functions(gl.build_model("mlp", federation), CPU)
    support, query = next(iter(federation.batches(torch.arange(3), nu=2, local_steps=1, batch_size=8, seed=0, round=0)))

    def gradient(method):
        one = functools.partial(gl.meta_gradient, cross_entropy(predict), w, fine_tune_lr=0.5, method=method)
        return lambda support, query: torch.func.vmap(lambda *both: one(*both, check_finite=False)[0])(support, query)

    exact, first_order = (gradient(method)(support, query) for method in ("exact", "first_order"))
    recorded = recording.capture(gradient("exact"), support, query, compiled=compiled)(support, query)
    for name, tensor in exact.items():
        torch.testing.assert_close(recorded[name], tensor, rtol=1e-4, atol=1e-6)
    assert max((exact[name] - first_order[name]).abs().max() for name in exact) > 1e-3


def test_a_gpu_is_given_a_quarter_of_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * 2**30))
    assert agents_axis.gpu_elements(CPU) * 4 == 4 * 2**30


def test_convolutions_of_a_gpu_compute_in_float32(monkeypatch):
    """And the precision that was is there again: torch's default, or what somebody has chosen."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for before in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
        with computing_with(0):
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == before


def test_recurrent_layers_do_without_cudnn_which_has_one_derivative():
    seen = []

    class Watched(torch.nn.GRU):
        def forward(self, x):
            seen.append(torch.backends.cudnn.enabled)
            return super().forward(x)[0][:, -1]

    with torch.random.fork_rng(devices=[]):
        predict, w = as_functions(Watched(8, 10, batch_first=True), CPU)
    predict(w, torch.ones(2, 8, 8))
    assert (seen, torch.backends.cudnn.enabled) == ([False], True)
