"""Numbers to predict: sinusoids and data of one's own, squared error, and no accuracy anywhere."""

import threading

import numpy as np
import pytest
import torch
from same_result import assert_same
from scipy import stats

import gmfl_lite as gl
from gmfl_lite.data import loss_of_guessing
from gmfl_lite.models import as_functions, loss_of

SINUSOIDS = gl.Experiment(
    dataset="sinusoids", nu=2, n_agents=6, n_new_agents=2, agents_per_round=3, local_steps=2, rounds=3, batch_size=None,
    shots=10, fine_tune_lr=0.01, meta_lr=0.02, eval_every=1, eval_steps=(0, 1, 3), device="cpu", precision="float64",
)  # fmt: skip


def waves(experiment):
    """The amplitude and the phase of each agent, from all its samples, by least squares on sin x and cos x."""
    federation = gl.build_federation(experiment)
    for agent in range(len(federation.sizes)):
        x, y = (
            torch.cat(halves).numpy() for halves in zip(federation.train(agent), federation.test(agent), strict=True)
        )
        (a, b), *_ = np.linalg.lstsq(np.hstack([np.sin(x), np.cos(x)]), y[:, 0], rcond=None)
        assert np.abs(a * np.sin(x) + b * np.cos(x) - y).max() < 1e-5
        yield np.hypot(a, b), np.arctan2(-b, a), x[:, 0]


def test_every_agent_has_a_sinusoid_of_its_own():
    many = SINUSOIDS.replace(n_agents=300, n_new_agents=0, shots=None)
    amplitudes, phases, xs = zip(*waves(many), strict=True)
    assert {len(x) for x in xs} == {200}
    for values, low, high in ((amplitudes, 0.1, 5), (phases, 0, np.pi), (np.concatenate(xs), -5, 5)):
        assert min(values) >= low - 1e-4
        assert max(values) <= high + 1e-4
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(amplitudes, phases).statistic) < 0.2


def test_an_agents_wave_depends_on_the_seed_and_its_number_alone():
    few, more = (
        [(a, p) for a, p, _ in waves(SINUSOIDS.replace(shots=None, **how))]
        for how in ({}, {"n_agents": 9, "nu": 0, "test_fraction": 0.5, "partition": "iid"})
    )
    assert np.allclose(few, more[:8], atol=1e-5)
    other = [(a, p) for a, p, _ in waves(SINUSOIDS.replace(shots=None, seed=1))]
    assert not np.allclose(few, other, atol=0.1)


def test_shots_are_samples_and_a_disjoint_query_has_as_many():
    for query, held in (("independent", 10), ("disjoint", 20)):
        experiment = SINUSOIDS.replace(query=query)
        federation = gl.build_federation(experiment)
        assert federation.train_sizes.tolist() == [held] * 6 + [10] * 2
        assert federation.fine_tune_sets(torch.arange(8))[1].shape == (8, 10, 1)
        support, (_, y, weight) = next(iter(gl.trainer.batches_of(torch.arange(6), experiment, federation, 0)))
        assert y.shape == (6, 10, 1)
        assert [batch[1].shape for batch in support] == [(6, 10, 1)] * 2
        assert y.dtype == weight.dtype == torch.float64


def test_the_loss_is_the_weighted_squared_error():
    federation = gl.build_federation(SINUSOIDS)
    predict, w = as_functions(gl.build_model("mlp", federation), federation.x.device)
    x, y = federation.train(0)
    weight = torch.linspace(0, 1, 10, dtype=torch.float64) / torch.linspace(0, 1, 10, dtype=torch.float64).sum()
    errors = (predict(w, x).numpy() - y.numpy())[:, 0] ** 2
    assert loss_of(predict)(w, (x, y, weight)).item() == pytest.approx(np.average(errors, weights=weight), rel=1e-12)
    expected = np.concatenate([federation.y.numpy()]).var()
    assert loss_of_guessing(federation) == pytest.approx(expected, rel=1e-5)


def a_plane(n_agents=5, outputs=3):
    """Agents whose three numbers are linear in four, each with a plane of its own."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20 * n_agents, 2, 2)).astype(np.float32)
    maps = rng.normal(size=(n_agents, outputs, 4))
    y = np.concatenate([rows.reshape(20, 4) @ m.T for rows, m in zip(np.split(x, n_agents), maps, strict=True)])
    dataset = gl.Dataset("planes", torch.from_numpy(x), torch.from_numpy(y.astype(np.float32)))
    return gl.Federation.from_partition(dataset, np.split(np.arange(20 * n_agents), n_agents), n_new_agents=1)


@pytest.mark.parametrize("nu", [0, 2])
def test_a_linear_model_is_trained_as_by_numpy(nu):
    """Softmax regression without its softmax: the meta-gradient of quadratics, from the normal equations."""
    federation = a_plane()
    experiment = gl.Experiment(
        model="softmax", nu=nu, agents_per_round=4, local_steps=3, rounds=4, batch_size=None, fine_tune_lr=0.1,
        meta_lr=0.2, device="cpu", precision="float64", eval_steps=(0, 2), weighting="uniform",
    )  # fmt: skip
    result = gl.run(experiment, federation=federation, progress=False)
    weight, bias = (t.double().numpy() for t in gl.build_model("softmax", federation).state_dict().values())
    w = np.hstack([weight, bias[:, None]])
    agents = [
        (np.hstack([x.reshape(len(x), 4).double().numpy(), np.ones((len(x), 1))]), y.double().numpy())
        for x, y in (federation.train(agent) for agent in range(5))
    ]
    for _ in range(4):
        sent = []
        for A, y in agents[:4]:
            H, w_i = 2 * A.T @ A / (len(A) * 3), w
            M = np.linalg.matrix_power(np.eye(5) - 0.1 * H, nu)
            best = np.linalg.lstsq(A, y, rcond=None)[0].T
            for _ in range(3):
                w_i = w_i - 0.2 * (w_i - best) @ M @ H @ M
            sent.append(w_i)
        w = np.mean(sent, axis=0)
    found = np.hstack([result.params["1.weight"].numpy(), result.params["1.bias"].numpy()[:, None]])
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-10)
    A, y = agents[4]
    for steps in (0, 2):
        H, own = 2 * A.T @ A / (len(A) * 3), w
        for _ in range(steps):
            own = own - 0.1 * (own - np.linalg.lstsq(A, y, rcond=None)[0].T) @ H
        x, numbers = federation.test(4)
        error = np.hstack([x.reshape(len(x), 4).numpy(), np.ones((len(x), 1))]) @ own.T - numbers.numpy()
        row = result.agents[(result.agents["agent"] == 4) & (result.agents["fine_tune_steps"] == steps)]
        assert row["loss"].item() == pytest.approx((error**2).mean(), rel=1e-6)


@pytest.mark.parametrize("changes", [{}, {"query": "disjoint"}, {"personal": "head"}, {"gradient": "reptile"}], ids=str)
def test_engines_agree_on_sinusoids(changes):
    experiment = SINUSOIDS.replace(**changes)
    page = gl.by_hand(experiment)
    for execution in ("vectorized", "loop"):
        found = gl.run(experiment.replace(execution=execution), progress=False).params
        for name, tensor in page.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10)


def test_there_is_no_accuracy_anywhere(tmp_path, capsys):
    result = gl.run(SINUSOIDS)
    assert "new agents' loss" in capsys.readouterr().err
    for table in (result.history, result.agents):
        assert not [name for name in table if "accuracy" in name]
        assert table["loss"].gt(0).all()
    last = result.history[(result.history["round"] == 3) & (result.history["group"] == "new")]
    assert result.table().loc["new"].tolist() == last["loss"].tolist()
    result.save(tmp_path / "result")
    assert_same(gl.load_result(tmp_path / "result"), result)
    swept = gl.sweep({"nu": [0, 2], "server": ["average", "nonsense"]}, SINUSOIDS, cache=tmp_path, progress=False)
    assert "accuracy" not in swept
    assert swept["status"].value_counts().to_dict() == {"completed": 12, "failed": 2}
    assert swept[(swept["nu"] == 2) & (swept["group"] == "new")]["loss"].tolist() == last["loss"].tolist()
    again = gl.sweep({"nu": [0, 2], "server": ["average", "nonsense"]}, SINUSOIDS, cache=tmp_path, progress=False)
    assert again.equals(swept)


def test_an_interrupted_run_goes_on(tmp_path):
    whole, stop = gl.run(SINUSOIDS, progress=False), threading.Event()
    how = {"checkpoint": tmp_path / "run", "progress": False}
    first = gl.run(SINUSOIDS, stop=stop, on_round=lambda round, _: round == 1 and stop.set(), **how)
    assert first.status == "stopped"
    assert "accuracy" not in first.history
    assert_same(gl.run(SINUSOIDS, **how), whole)


def test_a_step_that_goes_too_far_is_named():
    result = gl.run(SINUSOIDS.replace(meta_lr=1e3, rounds=20), progress=False)
    assert result.status == "diverged"
    assert "lower meta_lr" in result.message


def test_pictures_draw_the_loss():
    results = {f"ν = {nu}": gl.run(SINUSOIDS.replace(nu=nu), progress=False) for nu in (0, 2)}
    steps, rounds = (
        gl.plots.accuracy_against_steps(results),
        gl.plots.accuracy_against_rounds(results, fine_tune_steps=1),
    )
    assert steps.axes[0].get_ylabel() == "loss"
    assert rounds.axes[0].get_ylabel() == "loss after 1 fine-tuning step"
    mean = results["ν = 2"].table().loc["new"]
    drawn = steps.axes[1].lines[1].get_ydata()
    assert drawn.tolist() == mean.tolist()
    assert f"{mean.iloc[-1]:.2g} at 3" in steps.alt
    highest = max(
        path.vertices[:, 1].max() for axes in steps.axes for band in axes.collections for path in band.get_paths()
    )
    assert steps.axes[0].get_ylim()[0] == 0
    assert steps.axes[0].get_ylim()[1] >= highest
    digits = gl.run(gl.Experiment(rounds=1, model="softmax", n_agents=10, n_new_agents=2), progress=False)
    with pytest.raises(ValueError, match="one axis cannot show both"):
        gl.plots.accuracy_against_steps({"numbers": results["ν = 0"], "classes": digits})


def test_a_fit_is_what_the_model_predicts_after_so_many_steps():
    result, federation = gl.run(SINUSOIDS, progress=False), gl.build_federation(SINUSOIDS)
    picture = gl.plots.fit(result, federation, steps=(3, 0))
    assert picture.axes[0].get_title() == "agent 7"
    predict, _ = as_functions(gl.build_model("mlp", federation), federation.x.device)
    x, y = federation.train(7)
    w = gl.fine_tune(lambda w, _: (predict(w, x) - y).square().mean(), result.params, [None] * 3, 0.01)
    for line, params in zip(picture.axes[0].lines, (result.params, w), strict=True):
        expected = predict(params, torch.from_numpy(line.get_xdata())[:, None])[:, 0]
        np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-12)
    scored = result.agents[(result.agents["agent"] == 7)].set_index("fine_tune_steps")["loss"]
    assert f"{scored[0]:.2g} after 0 fine-tuning steps, {scored[3]:.2g} after 3 fine-tuning steps" in picture.alt
    marked = picture.axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(marked, torch.cat([x, y], 1), atol=1e-6)
    with pytest.raises(ValueError, match="samples of one number each"):
        gl.plots.fit(result, a_plane())
    with pytest.raises(ValueError, match="agent = 9"):
        gl.plots.fit(result, federation, agent=9)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"model": "cnn"}, r"model = 'cnn': needs images \[C, H, W\] of at least 4×4 pixels, got samples of 1"),
        ({"label_noise": 0.1}, r"label_noise = 0\.1: must be 0, as sinusoids has no classes"),
        ({"permuted_classes": 2}, "permuted_classes = 2: must be 0, as sinusoids has no classes"),
        ({"max_rotation": 5.0}, r"max_rotation = 5\.0: must be 0, as sinusoids holds no images"),
        ({"model": "cnn", "label_noise": 0.1, "max_rotation": 1.0}, "3 problems"),
    ],
)
def test_what_does_not_fit_is_refused(how, words):
    with pytest.raises(gl.ExperimentError, match=words):
        SINUSOIDS.replace(**how)


def test_a_federation_refuses_what_numbers_do_not_have():
    numbers = gl.load_dataset("sinusoids")
    parts = np.split(np.arange(len(numbers)), 50)
    for how in ({"label_noise": 0.1}, {"permuted_classes": 2}, {"max_rotation": 5}):
        with pytest.raises(ValueError, match=next(iter(how))):
            gl.Federation.from_partition(numbers, parts, **how)
    federation = gl.Federation.from_partition(numbers, parts)
    with pytest.raises(ValueError, match="there are no classes"):
        federation.label_counts  # noqa: B018
    with pytest.raises(ValueError, match="must hold images of classes"):
        gl.plots.examples(federation)
    with pytest.raises(ValueError, match="split = 'test'"):
        gl.load_dataset("sinusoids", split="test")


X = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.zeros(4), r"Dataset y: must be a floating-point tensor \[N, outputs\] where there are no classes, got"),
        (torch.zeros(4, 1, dtype=torch.int64), "must be a floating-point tensor"),
        (torch.zeros(4, 0), "at least one number to predict"),
        (torch.full((4, 1), torch.inf), "Dataset y: must be finite"),
        (torch.zeros(3, 1), "of one length"),
    ],
)
def test_wrong_numbers_are_refused(y, words):
    with pytest.raises(ValueError, match=words):
        gl.Dataset("mine", X, y)


def test_flower_asks_for_classes():
    app = pytest.importorskip("gmfl_lite.flower.app", reason="needs the extra: pip install 'gmfl_lite[flower]'")
    with pytest.raises(ValueError, match="dataset = 'sinusoids': must be one of the library's, with classes"):
        app.to_config(SINUSOIDS)


@pytest.mark.slow
def test_looking_ahead_learns_to_learn_sinusoids_where_averaging_does_not():
    """Ten shots, Adam at the server, each with the best step sizes that were found for it, in two minutes."""
    few = SINUSOIDS.replace(
        n_agents=100, n_new_agents=50, agents_per_round=20, local_steps=1, rounds=600, eval_every=600,
        eval_steps=(5,), server="adam", server_lr=0.02, precision="float32",
    )  # fmt: skip
    ahead = gl.run(few.replace(nu=5, query="disjoint", fine_tune_lr=0.005), progress=False)
    fedavg = gl.run(few.replace(nu=0, fine_tune_lr=0.02), progress=False)
    assert ahead.table().loc["new", 5] < fedavg.table().loc["new", 5] / 2
