"""Training against an independent float64 computation, and the two engines against each other."""

import dataclasses
import itertools
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite import engine, meta_gradients, server, trainer
from gmfl_lite.basics import ragged
from gmfl_lite.engine import agents_axis, local_step, vectorized
from gmfl_lite.models import as_functions, cross_entropy


def softmax_oracle(federation, w, b, experiment):
    """Rounds of the FedAvg variant for softmax regression in NumPy, from the formulas, in float64.

    Loss f(W, b) = mean over samples of −log softmax(W x + b)_y. Its gradient is G = (P − Y)ᵀ X̃ / N, X̃ = [X, 1], and
    its Hessian along V is (diag-minus-outer applied to X̃ Vᵀ)ᵀ X̃ / N; with ν steps the meta-gradient is the product
    (I − αH₀) … (I − αH_{ν−1}) ∇f(w⁽ᵛ⁾), applied from the right.
    """
    alpha, beta = experiment.fine_tune_lr, experiment.meta_lr
    W = np.concatenate([w, b[:, None]], axis=1)

    def gradient(W, X, Y):
        Z = X @ W.T
        P = np.exp(Z - Z.max(1, keepdims=True))
        P /= P.sum(1, keepdims=True)
        return (P - Y).T @ X / len(X), P

    def hessian_times(P, X, V):
        Z = X @ V.T
        return (P * (Z - (P * Z).sum(1, keepdims=True))).T @ X / len(X)

    agents = []
    for agent in range(federation.n_agents):
        x, y = federation.train(agent)
        X = np.concatenate([x.flatten(1).double().numpy(), np.ones((len(x), 1))], axis=1)
        agents.append((X, np.eye(10)[y.numpy()]))
    for _ in range(experiment.rounds):
        updates = []
        for X, Y in agents:
            local = W
            for _ in range(experiment.local_steps):
                point, curvature = local, []
                for _ in range(experiment.nu):
                    G, P = gradient(point, X, Y)
                    curvature.append(P)
                    point = point - alpha * G
                V, _ = gradient(point, X, Y)
                for P in reversed(curvature):
                    V = V - alpha * hessian_times(P, X, V)
                local = local - beta * V
            updates.append(local)
        W = np.mean(updates, axis=0)
    return W[:, :-1], W[:, -1]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
@pytest.mark.parametrize("execution", ["vectorized", "loop"])
@pytest.mark.parametrize("nu", [0, 1, 3])
def test_three_rounds_equal_the_formulas(federation, nu, execution, precision, tolerance):
    experiment = gl.Experiment(
        model="softmax", nu=nu, rounds=3, local_steps=2, batch_size=None, fine_tune_lr=0.5, meta_lr=0.8,
        n_agents=12, n_new_agents=3, agents_per_round=12, execution=execution, eval_every=3, precision=precision,
    )  # fmt: skip
    model = gl.build_model("softmax", federation)
    start = [p.detach().double().numpy() for p in model.parameters()]
    result = gl.run(experiment, federation=federation, model=model, progress=False)
    moved = 0.0
    for found, expected, before in zip(
        result.params.values(), softmax_oracle(federation, *start, experiment), start, strict=True
    ):
        np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=tolerance)
        moved = max(moved, abs(expected - before).max())
    assert moved > 0.05  # so that the tolerance means something


def experiments():
    base = gl.Experiment(rounds=5, n_agents=12, n_new_agents=3, agents_per_round=5, batch_size=8, eval_every=5)
    yield "mlp", base
    yield "nu 0", base.replace(nu=0)
    yield "first order", base.replace(gradient="first_order")
    yield "truncated", base.replace(gradient="truncated", backprop_steps=1)
    yield "hessian-free", base.replace(gradient="hessian_free")
    yield "hessian-free truncated", base.replace(gradient="hessian_free", backprop_steps=2)
    yield "cnn", base.replace(model="cnn", nu=1, rounds=2)
    yield "samples", base.replace(weighting="samples", model="softmax")
    yield "full batch", base.replace(batch_size=None)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    "experiment",
    [pytest.param(e, id=name, marks=[pytest.mark.slow] * (name == "cnn")) for name, e in experiments()],
)
def test_both_engines_give_the_same_model(federation, experiment, precision):
    fast, readable = (
        gl.run(experiment.replace(execution=execution, precision=precision), federation=federation, progress=False)
        for execution in ("vectorized", "loop")
    )
    tolerance = 5e-4 if experiment.gradient == "hessian_free" else 1e-5  # differences divide rounding errors by delta
    tolerance *= 1e-6 if precision == "float64" else 1
    for name, tensor in fast.params.items():
        torch.testing.assert_close(tensor, readable.params[name], rtol=0, atol=tolerance)
    np.testing.assert_allclose(fast.history["loss"], readable.history["loss"], atol=2e-3)
    np.testing.assert_allclose(fast.agents["accuracy"], readable.agents["accuracy"], atol=1e-6)


def test_chunks_of_agents_change_nothing(federation, monkeypatch):
    update = gl.Vectorized.update
    experiment = gl.Experiment(rounds=2, n_agents=12, agents_per_round=12, batch_size=8)
    whole = gl.run(experiment, federation=federation, progress=False)
    sizes = []
    monkeypatch.setattr(agents_axis, "CHUNK_ELEMENTS", agents_axis.CHUNK_ELEMENTS // 100)
    monkeypatch.setattr(gl.Vectorized, "update", lambda *given: sizes.append(len(given[3])) or update(*given))
    pieces = gl.run(experiment, federation=federation, progress=False)
    assert all(1 < size < 12 for size in sizes), sizes
    for name, tensor in whole.params.items():
        torch.testing.assert_close(tensor, pieces.params[name], rtol=0, atol=1e-6)


def test_picks_are_distinct_fair_and_the_same_for_every_method(federation):
    picks = torch.stack([server.pick_agents(federation.n_agents, 5, 0, round) for round in range(2000)])
    assert all(len(set(row)) == 5 for row in picks.tolist())
    times = torch.bincount(picks.flatten(), minlength=12).numpy()
    assert len(times) == 12  # new agents are never picked
    assert abs(times - 2000 * 5 / 12).max() < 5 * np.sqrt(2000 * 5 / 12 * 7 / 12)


def test_aggregate():
    updates = {"w": torch.tensor([[1.0, 2.0], [3.0, 6.0]])}
    assert gl.aggregate(updates)["w"].tolist() == [2, 4]
    assert gl.aggregate(updates, torch.tensor([1, 3]))["w"].tolist() == [2.5, 5]
    thirds = gl.aggregate({"w": torch.tensor([[1.0], [0], [0]]).double()}, [1, 1, 1])
    assert thirds["w"].item() == pytest.approx(1 / 3, abs=1e-15)
    shapes = (
        {"a": torch.ones(2, 3), "b": torch.ones(3)},
        {"a": torch.ones(0, 3)},
        {"a": torch.tensor(1.0)},
        {},
        [updates],
    )
    for wrong in shapes:
        with pytest.raises(ValueError, match="updates"):
            gl.aggregate(wrong)
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(ValueError, match="weights"):
            gl.aggregate(updates, torch.tensor(weights))


def test_weighting_by_samples_is_by_training_samples(federation):
    """One round, one step, ν = 0, full batch: w − β Σ p_i ∇f_i is the gradient step on the pooled samples."""
    experiment = gl.Experiment(
        model="softmax", nu=0, rounds=1, local_steps=1, batch_size=None, n_agents=12, agents_per_round=12,
        weighting="samples", meta_lr=0.7,
    )  # fmt: skip
    model = gl.build_model("softmax", federation)
    x, y = (torch.cat(parts) for parts in zip(*(federation.train(agent) for agent in range(12)), strict=True))
    torch.nn.functional.cross_entropy(model(x), y).backward()
    result = gl.run(experiment, federation=federation, model=model, progress=False)
    for parameter, found in zip(model.parameters(), result.params.values(), strict=True):
        torch.testing.assert_close(found, (parameter - 0.7 * parameter.grad).detach(), rtol=0, atol=1e-6)


def test_local_update_is_steps_along_the_meta_gradient(rng):
    def loss_fn(params, batch):
        return 0.5 * ((params["w"] - batch) ** 2).sum()

    w = {"w": torch.from_numpy(rng.normal(size=3))}
    batches = [
        ([torch.from_numpy(rng.normal(size=3)) for _ in range(2)], torch.from_numpy(rng.normal(size=3))) for _ in "ab"
    ]
    expected = w["w"]
    for (c0, c1), query in batches:
        tuned = c1 + 0.9 * (c0 + 0.9 * (expected - c0) - c1)
        expected = expected - 0.3 * 0.9**2 * (tuned - query)
    updated, losses = gl.local_update(loss_fn, w, batches, fine_tune_lr=0.1, meta_lr=0.3)
    torch.testing.assert_close(updated["w"], expected)
    assert losses.shape == (2,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta_lr": float("nan")}, "meta_lr = nan"),
        ({"meta_lr": -1}, "meta_lr = -1"),
        ({"fine_tune_lr": "fast"}, "fine_tune_lr = 'fast'"),
        ({"batches": []}, "batches: must hold at least one"),
        ({"method": "exakt"}, "did you mean 'exact'"),
        ({"params": {}}, "params = {}"),
    ],
)
def test_local_update_refuses(changes, message):
    rates = {"fine_tune_lr": 0.1, "meta_lr": 0.1}
    arguments = {"params": {"w": torch.ones(1)}, "batches": [([], None)], **rates, **changes}
    with pytest.raises(ValueError, match=message):
        gl.local_update(lambda params, batch: params["w"].sum(), **arguments)


def test_recomputation_takes_over_where_memory_ends(federation, monkeypatch):
    experiment = gl.Experiment(rounds=2, n_agents=12, agents_per_round=6, batch_size=8, nu=4)
    through = gl.run(experiment, federation=federation, progress=False)
    monkeypatch.setattr(agents_axis, "CHUNK_ELEMENTS", 0.8 * 12_500 * (3 * 4 + 2))  # one agent, if it recomputes
    asked = []
    meta_gradient = local_step.meta_gradient

    def spy(*arguments, **options):
        asked.append(options["recompute"])
        return meta_gradient(*arguments, **options)

    monkeypatch.setattr(local_step, "meta_gradient", spy)
    recomputed = gl.run(experiment, federation=federation, progress=False)
    assert set(asked) == {True}
    for name, tensor in through.params.items():
        torch.testing.assert_close(tensor, recomputed.params[name], rtol=0, atol=1e-6)


def test_stop_is_looked_at_before_every_local_step():
    stop, seen = threading.Event(), []

    def loss_fn(params, batch):
        seen.append(batch)
        if batch == 2:
            stop.set()
        return params["w"].sum()

    with pytest.raises(engine.Stopped):
        gl.local_update(
            loss_fn, {"w": torch.ones(1)}, [([], k) for k in range(9)], fine_tune_lr=1, meta_lr=1, stop=stop
        )
    assert seen == [0, 1, 2]


def test_every_round_picks_anew_and_every_method_picks_the_same(federation, monkeypatch):
    experiment = gl.Experiment(rounds=6, n_agents=12, agents_per_round=4, model="softmax", execution="vectorized")
    seen = {}
    batches = gl.Federation.batches

    def spy(self, agents, **settings):
        seen.setdefault(settings["nu"], []).append(agents.tolist())
        assert settings["round"] == len(seen[settings["nu"]]) - 1
        return batches(self, agents, **settings)

    monkeypatch.setattr(gl.Federation, "batches", spy)
    for nu in (0, 2):
        gl.run(experiment.replace(nu=nu), federation=federation, progress=False)
    assert seen[0] == seen[2]
    assert len({tuple(sorted(agents)) for agents in seen[0]}) > 3


@pytest.mark.parametrize("model", ["softmax", "mlp", pytest.param("cnn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gradient", ["exact", "first_order", "hessian_free"])
@pytest.mark.parametrize(
    ("how", "weighting"),
    [("at once", "samples"), *((how, "uniform") for how in ("at once", "recorded", "one at a time", "loop"))],
)
def test_a_round_keeps_to_one_device_and_never_waits_for_a_value(digits, monkeypatch, model, gradient, weighting, how):
    """On the meta device tensors have no values: what mixes devices, or looks at a value, raises."""
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1 if how == "recorded" else 10**9)
    if how == "one at a time":
        monkeypatch.setattr(vectorized, "agents_at_once", lambda *_: 1)
    monkeypatch.setattr(meta_gradients, "_check_finite", None)  # which does not look on a device without values
    parts = gl.partition(digits.y, gl.Dirichlet(0.5), 8, seed=1)
    federation = gl.Federation.from_partition(digits, parts, seed=1)
    federation.x, federation.y = federation.x.to("meta"), federation.y.to("meta")
    federation._train, federation._test = (
        dataclasses.replace(table, **{part: getattr(table, part).to("meta") for part in ("index", "starts", "sizes")})
        for table in (federation._train, federation._test)
    )
    predict, w = as_functions(gl.build_model(model, digits), torch.device("meta"))
    experiment = gl.Experiment(
        n_agents=8, agents_per_round=4, rounds=2, local_steps=2, nu=1, gradient=gradient, weighting=weighting,
        execution="loop" if how == "loop" else "auto",
    )  # fmt: skip
    rounds = list(gl.train(experiment, federation, cross_entropy(predict), w))
    assert len(rounds) == 2
    for _, params, losses in rounds:
        assert losses.shape == (4, 2)
        assert {tensor.device.type for tensor in [losses, *params.values()]} == {"meta"}
        assert {name: tensor.shape for name, tensor in params.items()} == {name: t.shape for name, t in w.items()}


GIANT = gl.Experiment(
    n_agents=10, n_new_agents=0, agents_per_round=10, rounds=3, local_steps=2, nu=1, meta_lr=0.3, model="softmax",
    eval_every=3, eval_steps=(0, 1),
)  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"batch_size": None}, {"batch_size": 400}, {"agents_per_round": 4}], ids=str)
@pytest.mark.parametrize("weighting", ["uniform", "samples"])
@pytest.mark.parametrize("recorded", [True, False])
def test_one_giant_among_small_agents_trains_as_by_hand(one_giant, monkeypatch, changes, weighting, recorded):
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1 if recorded else 10**9)
    experiment = GIANT.replace(weighting=weighting, **{"batch_size": None, **changes})
    page = gl.by_hand(experiment, one_giant)
    predict, w = as_functions(gl.build_model("softmax", one_giant), torch.device("cpu"))
    runs = [
        list(gl.train(experiment.replace(execution=execution), one_giant, cross_entropy(predict), w))
        for execution in ("vectorized", "loop")
    ]
    settings, start = engine.estimate_settings(experiment, w), w
    for round, (_, params, losses) in enumerate(runs[0]):
        for place, agent in enumerate(server.pick_agents(10, experiment.agents_per_round, 0, round).tolist()):
            mine = trainer.batches_of(agent, experiment, one_giant, round)
            _, alone = gl.local_update(cross_entropy(predict), start, mine, **settings)
            torch.testing.assert_close(losses[place], alone, rtol=0, atol=1e-5)
        start = params
    for (_, params, losses), (_, others, other_losses) in zip(*runs, strict=True):
        torch.testing.assert_close(losses, other_losses, rtol=0, atol=1e-5)
        for name in params:
            torch.testing.assert_close(params[name], others[name], rtol=0, atol=1e-5)
    for name in page:
        assert (page[name] - w[name]).abs().max() > 1e-3, "nothing was trained"
        torch.testing.assert_close(page[name], runs[0][-1][1][name], rtol=0, atol=1e-5)


def test_the_loss_at_the_start_is_measured_on_each_agent_at_its_own_width(one_giant, monkeypatch):
    """Padded to the giant among them, ten agents' sets would be ten giants."""
    predict, w = as_functions(gl.build_model("softmax", one_giant), torch.device("cpu"))
    seen = []

    def loss_fn(params, batch):
        seen.append(len(batch[1]))
        return cross_entropy(predict)(params, batch)

    trainer.limit_of(GIANT, one_giant, loss_fn, w)
    assert sorted(seen)[-1] == 1125
    assert len(seen) == 10
    assert max(sorted(seen)[:-1]) <= 14


def test_each_group_of_agents_is_as_large_as_its_own_width_allows(one_giant, monkeypatch):
    predict, w = as_functions(gl.build_model("softmax", one_giant), torch.device("cpu"))
    monkeypatch.setattr(agents_axis, "CHUNK_ELEMENTS", 10**4)  # of which the giant alone needs twenty times as many
    engine_ = gl.build_engine(GIANT.replace(batch_size=None), one_giant, cross_entropy(predict), w)
    asked = []
    update = engine_.update

    def spy(params, batches, agents, stop):
        asked.append((len(agents), batches[0][1][0].shape[1]))
        return update(params, batches, agents, stop)

    monkeypatch.setattr(engine_, "update", spy)
    next(gl.train(GIANT.replace(batch_size=None), one_giant, cross_entropy(predict), w, engine=engine_))
    assert asked[0] == (1, 1125)
    assert len(asked) > 2
    assert {width for _, width in asked[1:]} == {10}
    assert 1 < max(count for count, _ in asked[1:]) <= engine_.at_once(10) < 9
    assert sum(count for count, _ in asked) == 10


def test_recordings_are_few_however_many_sizes_there_are(monkeypatch):
    """Sizes from 2 to 2,000 with ten picks a round: more shapes come than are recorded, or than the run repays."""
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1)
    monkeypatch.setattr(ragged, "ROWS_OF_A_GROUP", 1)
    sizes = (4 * 1.25 ** np.arange(30)).astype(int)
    ends, total = np.cumsum(sizes), sizes.sum()
    dataset = gl.Dataset("many", torch.zeros(total, 1, 2, 2), torch.arange(total) % 3, ("a", "b", "c"))
    federation = gl.Federation.from_partition(dataset, np.split(np.arange(total), ends[:-1]))
    predict, w = as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    experiment = GIANT.replace(n_agents=30, batch_size=None, rounds=100, nu=0)
    engine_ = gl.build_engine(experiment, federation, cross_entropy(predict), w)
    assert len(federation.alike(federation.groups["trained"])) > 5
    rounds = gl.train(experiment, federation, cross_entropy(predict), w, engine=engine_)
    assert len(list(itertools.islice(rounds, 5))) == 5
    assert not engine_.recordings
    assert "shapes do not repay it" in str(engine_)
    monkeypatch.setattr(vectorized, "MOST_RECORDINGS", 10**3)
    assert gl.build_engine(experiment, federation, cross_entropy(predict), w).records
    short = experiment.replace(rounds=8)
    assert not gl.build_engine(short, federation, cross_entropy(predict), w).records


@pytest.mark.slow
def test_a_resumed_run_of_unequal_agents_ends_with_the_same_bits(one_giant, monkeypatch, tmp_path):
    """Whether a shape is recorded may not depend on which one came first."""
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 2)
    experiment = GIANT.replace(agents_per_round=4, batch_size=None, rounds=6, model="mlp", eval_every=2)
    whole = gl.run(experiment, federation=one_giant, progress=False)
    assert "; recorded" in whole.engine
    stop = threading.Event()
    gl.run(
        experiment, federation=one_giant, checkpoint=tmp_path / "half", stop=stop, progress=False,
        on_round=lambda round, _: stop.set() if round == 2 else None,
    )  # fmt: skip
    resumed = gl.run(experiment, federation=one_giant, checkpoint=tmp_path / "half", progress=False)
    assert resumed.status == "completed"
    for name, tensor in whole.params.items():
        assert torch.equal(tensor, resumed.params[name])


@pytest.mark.slow
def test_one_giant_among_ten_thousand_agents_needs_little_memory():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    code = """
import numpy as np, torch, gmfl_lite as gl
from memory import peak_memory
gl.run(gl.Experiment(rounds=1), progress=False)  # what the library needs in any case
sizes = np.array([100_000, *[12] * 10_000])
dataset = gl.Dataset("random", torch.zeros(sizes.sum(), 1, 8, 8), torch.arange(sizes.sum()) % 10, tuple("0123456789"))
def go():
    parts = np.split(np.arange(len(dataset)), sizes.cumsum()[:-1])
    federation = gl.Federation.from_partition(dataset, parts)
    assert federation.label_counts.to_numpy().sum() == len(dataset)
    for batch_size in (20, None):
        experiment = gl.Experiment(
            n_agents=10_001, n_new_agents=0, rounds=1, nu=1, batch_size=batch_size, eval_steps=(0, 1)
        )
        assert gl.run(experiment, federation=federation, progress=False).status == "completed"
print(peak_memory(go))
"""
    benchmarks = Path(__file__).parent.parent / "benchmarks"
    ran = subprocess.run([sys.executable, "-c", code], cwd=benchmarks, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 600, ran.stdout  # padded to the largest it was 8,900


@pytest.mark.slow
def test_ten_thousand_agents_need_no_more_memory_than_one_chunk_of_them():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    code = """
import sys, torch, gmfl_lite as gl
from gmfl_lite.models import as_functions, cross_entropy
from memory import peak_memory
images = torch.rand(20_000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
dataset = gl.Dataset("random", images, torch.arange(20_000) % 10, tuple("0123456789"))
federation = gl.Federation.from_partition(dataset, list(torch.arange(20_000).reshape(10_000, 2).numpy()))
predict, w = as_functions(gl.build_model("mlp", dataset), torch.device("cpu"))
for picked in (1000, 10_000):
    experiment = gl.Experiment(n_agents=10_000, agents_per_round=picked, rounds=1, local_steps=1, nu=1, batch_size=1)
    rounds = gl.train(experiment, federation, cross_entropy(predict), w)
    print(peak_memory(lambda: next(rounds)))
"""
    benchmarks = Path(__file__).parent.parent / "benchmarks"
    ran = subprocess.run([sys.executable, "-c", code], cwd=benchmarks, capture_output=True, text=True, check=True)
    few, many = map(float, ran.stdout.split())
    # All of them at once would be 2,700 MB of parameters alone.
    assert many < few + 200, (few, many)


def test_the_result_says_what_computed_it(federation, monkeypatch):
    monkeypatch.setenv("GMFL_LITE_THREADS", "0")  # which says nothing of threads

    def said(execution: str, rounds: int = 1) -> str:
        experiment = gl.Experiment(rounds=rounds, n_agents=12, execution=execution, model="softmax")
        return gl.run(experiment, federation=federation, progress=False).engine

    at_once = "vectorized: all picked agents at once; "
    assert said("auto") == said("vectorized") == at_once + "not recorded, as 5 local steps do not repay it"
    assert said("auto", 19) == at_once + "not recorded, as 95 local steps do not repay it"
    assert said("auto", 20) == at_once + "recorded, as 100 local steps repay it"
    assert said("loop").startswith("loop")
    monkeypatch.setattr(vectorized, "agents_at_once", lambda *_: 4)
    assert said("auto").startswith(
        "vectorized: at most 4 agents at once, to stay within the memory budget; not recorded"
    )
    monkeypatch.setattr(vectorized, "agents_at_once", lambda *_: 1)
    assert said("auto").startswith("vectorized: one agent at a time, as each keeps more numbers than caches hold; ")
