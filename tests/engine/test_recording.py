"""A recording gives what the function gives, tidied or not."""

import gc
import linecache
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.func import grad, vmap

import gmfl_lite as gl
from gmfl_lite.engine import recording as capture_module
from gmfl_lite.engine import vectorized
from gmfl_lite.engine.recording import capture
from gmfl_lite.models import as_functions, cross_entropy


def operations(recording) -> list[str]:
    graph = recording.__closure__[0].cell_contents.__self__.graph
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, B, W = draw(3, 4, 5), draw(3, 5, 6, seed=1), draw(3, 4, 6, seed=2)
S = draw(seed=5)
EACH = draw(3, 1, 1, seed=6)
SMALL = draw(3, 1, 40, seed=3), draw(3, 40, 30, seed=4)


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        pytest.param(lambda w, a, b: w + a @ b, (W, A, B), ["baddbmm"], id="sum"),
        pytest.param(lambda w, a, b: a @ b + w, (W, A, B), ["baddbmm"], id="sum, product first"),
        pytest.param(lambda w, a, b: torch.add(w, a @ b, alpha=-0.3), (W, A, B), ["baddbmm"], id="scaled product"),
        pytest.param(lambda w, a, b: torch.add(a @ b, w, alpha=-0.3), (W, A, B), ["bmm", "add"], id="scaled sum"),
        pytest.param(lambda w, a, b, s: w + s * (a @ b), (W, A, B, S), ["mul", "baddbmm"], id="a step"),
        pytest.param(lambda w, a, b, s: (a @ b) * s + w, (W, A, B, S), ["mul", "baddbmm"], id="a step, product first"),
        pytest.param(
            lambda w, a, b, s: torch.add(w, s * (a @ b), alpha=-0.3),
            (W, A, B, S),
            ["mul", "baddbmm"],
            id="a scaled step",
        ),
        pytest.param(
            lambda w, a, b, s: w.mT + s * (a @ b).mT,
            (W, A, B, S),
            ["transpose", "mul", "transpose", "transpose", "baddbmm"],
            id="a turned step",
        ),
        pytest.param(
            lambda w, a, b, s: ((e := s * (a @ b)) + w, e), (W, A, B, S), ["bmm", "mul", "add"], id="a step given back"
        ),
        pytest.param(
            lambda w, a, b, s: (w + s * (e := a @ b), e),
            (W, A, B, S),
            ["bmm", "mul", "add"],
            id="a step and its product",
        ),
        pytest.param(
            lambda w, a, b, s: w + s * (a @ b), (W, A, B, S[None]), ["bmm", "mul", "add"], id="a step size with an axis"
        ),
        pytest.param(
            lambda w, a, b, s: w + s * (a @ b), (W, A, B, EACH), ["mul", "baddbmm"], id="a step size for each agent"
        ),
        pytest.param(
            lambda w, a, b, s: w.mT + s * (a @ b).mT,
            (W, A, B, EACH),
            ["transpose", "mul", "transpose", "transpose", "baddbmm"],
            id="a turned step size for each agent",
        ),
        pytest.param(
            lambda w, a, b, s: w + s * (a @ b),
            (W, A, B, EACH.mT[:1].expand(1, 4, 1)),
            ["bmm", "mul", "add"],
            id="a step size for each row",
        ),
        pytest.param(lambda w, s, r: w + s * r, (W, S, S.cos()), ["mul", "add"], id="a product of two step sizes"),
        pytest.param(
            lambda w, a, b: w.mT + (a @ b).mT,
            (W, A, B),
            ["transpose", "transpose", "transpose", "baddbmm"],
            id="turned",
        ),
        pytest.param(lambda w, a, b: w[:, :1] + a @ b, (W, A, B), ["slice", "bmm", "add"], id="broadcast sum"),
        pytest.param(
            lambda w, a, b: (w + a @ b, a @ b), (W, A, B), ["bmm", "add"], id="a product that is also given back"
        ),
        pytest.param(lambda a, b: a @ (b * 0.5), SMALL, ["bmm", "mul"], id="scaled the smaller"),
        pytest.param(lambda a, b: a @ (b * 0.5) @ (b * 0.5).mT, SMALL, None, id="scaled twice"),
        pytest.param(lambda b: (b * 0.5) @ (b * 0.5).mT, SMALL[1:], None, id="a product with itself"),
        pytest.param(lambda a, b: (a @ (b * 0.5), b * 0.5), SMALL, ["mul", "bmm"], id="scaled and given back"),
        pytest.param(lambda a: a.mT.mT.view(3, 4, 5).expand(3, 4, 5) * 1, (A,), [], id="nothing"),
        pytest.param(lambda a: (a.transpose(0, 1).mT, a.mT), (A,), ["transpose"] * 3, id="other axes"),
        pytest.param(lambda a: a.exp() + a.exp(), (A,), ["exp", "add"], id="twice the same"),
        pytest.param(lambda w, a, b: w.exp() + a @ b, (W, A, B), ["exp", "baddbmm_"], id="written over"),
        pytest.param(
            lambda w, a, b: ((e := w.exp()) + a @ b).sum() + (e + a @ b + 1).cos(),
            (W, A, B),
            None,
            id="written over when it is over",
        ),
        pytest.param(lambda w, a, b: ((e := w.exp()) + a @ b, e), (W, A, B), ["exp", "baddbmm"], id="given back"),
        pytest.param(
            lambda w, a, b: ((e := w.exp()) + a @ b, e.mT.cos()),
            (W, A, B),
            ["exp", "baddbmm", "transpose", "cos"],
            id="a view of it is used later",
        ),
        pytest.param(
            lambda w, a, b: (e := w.exp().mT @ w) + e.mT @ e,
            (W, A, B),
            ["exp", "transpose", "bmm", "transpose", "baddbmm"],
            id="a view of it is in the product",
        ),
        pytest.param(
            lambda w, a, b: ((e := w.exp()).mT.contiguous().mT + a @ b, e), (W, A, B), None, id="a copy is written over"
        ),
        pytest.param(
            lambda w, a, b: ((w.exp() + a @ b) + 2 * a @ b) + 3 * a @ b, (W, A, B), None, id="written over three times"
        ),
        pytest.param(lambda a: (a.int() + 1, a.int() + 1.0), (A,), None, id="equal numbers of two types"),
        pytest.param(lambda a: (1 / (a * 0.0).abs(), 1 / (a.abs() * -0.0)), (A,), None, id="equal zeros of two signs"),
        pytest.param(
            lambda a: a.clone().exp_() + a.clone().mul_(2), (A,), ["clone", "exp", "mul", "add"], id="changed in place"
        ),
        pytest.param(
            lambda w, a, b: (e := w.exp(), e.mT[0].add_(1), e.squeeze_(0).unsqueeze_(1).mul_(2), e.sum() + a @ b),
            (W, A, B),
            None,
            id="changed through views and in shape",
        ),
    ],
)
def test_tidying_changes_operations_and_not_values(function, arguments, expected):
    recording = capture(function, *arguments)
    fresh = [tensor + 0.1 for tensor in arguments]  # not the values it was recorded with
    results, truths = recording(*fresh), function(*fresh)
    for result, truth in zip(*((r if isinstance(r, tuple) else (r,)) for r in (results, truths)), strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-12, atol=1e-12)
    if expected is not None:
        names = [name.split(".")[1] for name in operations(recording)]
        assert [name for name in names if name not in ("reshape", "expand")] == expected


def test_one_tensor_in_two_places_is_two_arguments():
    recording = capture(lambda a, b: a + 2 * b, A, A)
    torch.testing.assert_close(recording(A, -A), -A, rtol=0, atol=0)


def test_an_argument_that_is_changed_is_changed_by_the_recording_too():
    def function(w, a):
        before = w * 1
        w.mT[0].add_(a.sum())
        return before, w @ w.mT, w.view(-1).mul_(2)

    recording = capture(function, W.clone(), A)
    first, second = W.clone(), W.clone()
    results, truths = recording(first, A), function(second, A)
    torch.testing.assert_close(first, second)
    for result, truth in zip(results, truths, strict=True):
        torch.testing.assert_close(result, truth)


def test_arguments_are_told_apart_by_their_keys():
    recording = capture(lambda w: {"difference": w["a"] - w["b"]}, {"a": A, "b": 2 * A})
    torch.testing.assert_close(recording({"b": A, "a": 5 * A})["difference"], 4 * A)
    with pytest.raises(ValueError, match="key"):
        recording({"a": A, "c": A})


def test_recordings_leave_nothing_behind():
    """Neither their source, in torch or in Python, nor their graph and the tensors that it closes over."""

    def record() -> weakref.ref:
        large = torch.ones(3, 5, 6)
        recording = capture(lambda a, b: (a @ (b + large)).exp_(), A, B)
        torch.testing.assert_close(recording(A, B), (A @ (B + 1)).exp())
        return weakref.ref(recording.__closure__[0].cell_contents.__self__)

    record()
    sources = torch.fx.graph_module._loader.eval_cache
    before = len(sources), len(linecache.cache)
    recordings = [record() for _ in range(5)]
    gc.collect()
    assert (len(sources), len(linecache.cache)) == before
    assert [recording() for recording in recordings] == [None] * 5


def test_sums_of_another_type_are_left_alone():
    w, a, b = W, A.float(), B.float()
    torch.testing.assert_close(capture(lambda w, a, b: w + a @ b, w, a, b)(w, a, b), w + a @ b)


@pytest.mark.parametrize("name", ["softmax", "mlp", "cnn"])
@pytest.mark.parametrize("method", ["exact", "first_order", "truncated", "hessian_free"])
def test_a_recorded_meta_gradient_is_the_meta_gradient(federation, name, method):
    predict, w = as_functions(gl.build_model(name, federation), torch.device("cpu"))

    def double(batch):
        return batch[0].double(), batch[1], batch[2].double()

    (support, query), (later_support, later_query) = (
        ([double(batch) for batch in support], double(query))
        for support, query in federation.batches(torch.arange(4), nu=2, local_steps=2, batch_size=7, seed=0, round=0)
    )
    params = {key: tensor.double().expand(4, *tensor.shape).contiguous() for key, tensor in w.items()}
    steps = {"backprop_steps": 1} if method == "truncated" else {}
    function = vmap(partial(gl.meta_gradient, cross_entropy(predict), fine_tune_lr=0.3, method=method, **steps))
    recording = capture(function, params, support, query)
    elsewhere = {key: 1.1 * tensor for key, tensor in params.items()}
    gradient, loss = recording(elsewhere, later_support, later_query)
    truth, true_loss = function(elsewhere, later_support, later_query)
    torch.testing.assert_close(loss, true_loss)
    # Differences divide rounding errors by their small step.
    tolerance = 1e-7 if method == "hessian_free" else 1e-12
    for key in truth:
        torch.testing.assert_close(gradient[key], truth[key], rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "mlp", "cnn"])
def test_recorded_runs_end_where_others_do_and_resume_bit_by_bit(federation, tmp_path, monkeypatch, name):
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 12)
    experiment = gl.Experiment(
        model=name, nu=2, rounds=6, local_steps=2, n_agents=12, agents_per_round=5, eval_every=2, fine_tune_lr=0.1
    )
    recorded = gl.run(experiment, federation=federation, progress=False)
    assert "; recorded" in recorded.engine

    class Killed(Exception):
        pass

    def die(round, rows):
        if round == 4:
            raise Killed

    with pytest.raises(Killed):
        gl.run(experiment, federation=federation, progress=False, on_round=die, checkpoint=tmp_path / "run")
    resumed = gl.run(experiment, federation=federation, progress=False, checkpoint=tmp_path / "run")
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 13)
    plain = gl.run(experiment, federation=federation, progress=False)
    assert "; not recorded" in plain.engine
    for key in recorded.params:
        assert torch.equal(recorded.params[key], resumed.params[key])
        torch.testing.assert_close(recorded.params[key], plain.params[key], rtol=0, atol=1e-5)


def linear() -> torch.nn.Module:
    frozen = torch.nn.Linear(64, 20).requires_grad_(False)
    return torch.nn.Sequential(torch.nn.Flatten(), frozen, torch.nn.ReLU(inplace=True), torch.nn.Linear(20, 10))


def convolution() -> torch.nn.Module:
    """Its second derivatives have other strides than torch predicts."""
    frozen = torch.nn.Linear(64, 10).requires_grad_(False)
    layers = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.GroupNorm(2, 4), torch.nn.ELU(inplace=True)
    return torch.nn.Sequential(*layers, torch.nn.AvgPool2d(2), torch.nn.Flatten(), frozen)


@pytest.mark.parametrize("build", [linear, convolution])
def test_modules_that_work_in_place_or_keep_frozen_parameters_are_recorded_rightly(federation, monkeypatch, build):
    with torch.random.fork_rng():
        model = build()
    experiment = gl.Experiment(nu=2, rounds=3, n_agents=12, agents_per_round=5, fine_tune_lr=0.2)
    results = []
    for enough in (1, 10**9):
        monkeypatch.setattr(vectorized, "RECORDED_FROM", enough)
        results.append(gl.run(experiment, federation=federation, model=model, progress=False))
    recorded, plain = results
    assert "; recorded" in recorded.engine
    for key in plain.params:
        torch.testing.assert_close(recorded.params[key], plain.params[key], rtol=0, atol=1e-6)
    assert not any(torch.equal(tensor, model.state_dict()[key]) for key, tensor in plain.params.items())


def test_what_is_drawn_twice_is_two_draws():
    recording = capture(lambda x: (torch.rand_like(x), torch.rand_like(x)), torch.ones(9))
    with torch.random.fork_rng():
        one, other = recording(torch.ones(9))
    assert not torch.equal(one, other)


def test_a_recording_that_is_compiled_gives_the_same(federation, monkeypatch):
    """Compiled by torch.compile's own interpreter: its compilers take minutes."""
    compiled, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compiled.append(f) or compile_(f, backend="eager"))
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1)
    experiment = gl.Experiment(model="softmax", nu=2, rounds=3, n_agents=12, agents_per_round=5)
    plain = gl.run(experiment, federation=federation, progress=False)
    assert not compiled
    engine = partial(gl.build_engine, compiled=True)
    result = gl.run(experiment, federation=federation, progress=False, engine=engine)
    assert len(compiled) == 1
    assert result.engine == f"{plain.engine}; compiled"
    for name, tensor in plain.params.items():
        torch.testing.assert_close(result.params[name], tensor, rtol=0, atol=1e-6)


def test_a_recording_carries_no_graph_and_changes_nothing():
    x = torch.ones(3, requires_grad=True)
    recording = capture(lambda x: grad(lambda x: (x**3).sum())(x), x.detach())
    assert not recording(x).requires_grad
    assert x.tolist() == [1, 1, 1]


def test_a_recording_can_be_given_up_at_any_moment(federation):
    """While it traces, while it rewrites, and while another one records; the next is made as if nothing had been."""

    class GivenUp(Exception):
        pass

    def after(looks: int) -> Callable[[], None]:
        left = iter(range(looks))

        def look_up() -> None:
            if next(left, None) is None:
                raise GivenUp

        return look_up

    predict, w = as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    support, query = federation.batches(torch.arange(4), nu=2, local_steps=1, batch_size=7, seed=0, round=0)[0]
    params = {key: tensor.expand(4, *tensor.shape).contiguous() for key, tensor in w.items()}
    function = vmap(partial(gl.meta_gradient, cross_entropy(predict), fine_tune_lr=0.3))
    looks = looks_while_tracing = 0

    def traced(*args):
        nonlocal looks_while_tracing
        result = function(*args)
        looks_while_tracing = looks
        return result

    def count() -> None:
        nonlocal looks
        looks += 1

    recording = capture(traced, params, support, query, look_up=count)
    assert looks_while_tracing > len(operations(recording))
    for moment in (0, looks_while_tracing // 2, looks_while_tracing + 1, looks - 1):
        with pytest.raises(GivenUp):
            capture(function, params, support, query, look_up=after(moment))
    with capture_module._recording, pytest.raises(GivenUp):
        capture(function, params, support, query, look_up=after(1))
    again = capture(function, params, support, query)
    assert operations(again) == operations(recording)
    assert torch.equal(again(params, support, query)[1], recording(params, support, query)[1])
