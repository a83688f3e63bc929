"""One round step by step: its numbers are those of training, of gl.aggregate and of plain autograd."""

import pytest
import torch
from saved_page import data_of

import gmfl_lite as gl
from gmfl_lite.explain.one_round import SMALL, _still
from gmfl_lite.explain.round_numbers import measure_round
from gmfl_lite.trainer import batches_of, picked_in


def length(params) -> float:
    return torch.cat([tensor.flatten() for tensor in params.values()]).norm().item()


def difference(one, other):
    return {name: one[name] - other[name] for name in one}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nu": 0},
        {"nu": 1, "weighting": "samples", "size_spread": 1.0},
        {"model": "mlp", "personal": "head", "proximal": 0.5},
        {"server": "adam", "server_lr": 0.1},
        {"server": "momentum", "server_lr": 0.5},
        {"gradient": "reptile", "server_lr": 0.5},
        {"gradient": "first_order", "query": "disjoint", "batch_size": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("round", [0, 2])
def test_w_after_the_round_is_that_of_training(changes, round):
    experiment = SMALL.replace(**changes)
    measured = measure_round(experiment, None, None, round)
    expected = gl.by_hand(experiment.replace(rounds=round + 1))
    assert all(torch.allclose(measured.after[name], expected[name], rtol=0, atol=1e-10) for name in expected)


def test_federation_and_model_of_ones_own():
    rng = torch.Generator().manual_seed(0)
    people = {name: (torch.rand(12, 3, generator=rng), ["sun", "rain"] * 6) for name in ("Ada", "Ben", "Cleo")}
    federation = gl.Federation.from_agents(people)
    with torch.random.fork_rng(devices=[]):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    experiment = SMALL.replace(agents_per_round=2, rounds=2)
    data = data_of(gl.explain.one_round(experiment, federation, model, 1))
    picked = picked_in(1, experiment, federation).tolist()
    assert [agent["name"] for agent in data["picked"]] == [list(people)[agent] for agent in picked]
    assert data["parameters"] == 3 * 4 + 4 + 4 * 2 + 2
    assert data["picked"][0]["holds"] == "9 training samples, most of rain, sun"
    before, after = (gl.by_hand(experiment.replace(rounds=rounds), federation, model) for rounds in (1, 2))
    assert data["step"] == pytest.approx(length(difference(after, before)), abs=1e-10)


def test_a_regression_has_no_classes_to_name():
    data = data_of(gl.explain.one_round(SMALL.replace(dataset="sinusoids", model="mlp", fine_tune_lr=0.01)))
    assert all(agent["holds"].endswith("training samples") for agent in data["picked"])


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_bytes_are_those_of_the_parameters(precision):
    data = data_of(gl.explain.one_round(SMALL.replace(precision=precision)))
    assert data["bytes"] == {"float32": 4, "float64": 8}[precision]
    assert data["parameters"] == sum(
        p.numel() for p in gl.build_model("softmax", gl.load_dataset("digits")).parameters()
    )


def test_losses_and_gradients_are_those_of_plain_autograd():
    """Fine-tuning, the losses and v⁽ʲ⁾ = v⁽ʲ⁺¹⁾ − α ∇²f(w⁽ʲ⁾) v⁽ʲ⁺¹⁾, with nothing of the library but the batches."""
    experiment = SMALL.replace(nu=2, local_steps=1)
    federation = gl.build_federation(experiment)
    model = gl.build_model("softmax", federation)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    shapes = [p.shape for p in model.parameters()]

    def f(vector, batch):
        x, y, weight = batch
        matrix, bias = (
            part.reshape(shape) for part, shape in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True)
        )
        losses = torch.nn.functional.cross_entropy(x.flatten(1) @ matrix.T + bias, y, reduction="none")
        return (losses * weight).sum()

    def gradient(vector, batch):
        return torch.autograd.functional.jacobian(lambda point: f(point, batch), vector)

    measured = measure_round(experiment, federation, model, 0)
    alpha = experiment.fine_tune_lr
    for agent, (step,), (walk,) in zip(measured.picked, measured.steps, measured.walks, strict=True):
        ((support, query),) = batches_of(agent, experiment, federation, 0)
        points = [flat]
        for batch in support:
            points.append(points[-1] - alpha * gradient(points[-1], batch))
        v = [gradient(points[-1], query)]
        for point, batch in reversed([*zip(points, support, strict=False)]):
            product = torch.autograd.functional.hvp(lambda at, batch=batch: f(at, batch), point, v[-1])[1]
            v.append(v[-1] - alpha * product)
        assert step.support == pytest.approx([f(p, b).item() for p, b in zip(points, support, strict=False)], abs=1e-10)
        assert step.query == pytest.approx([f(point, query).item() for point in points], abs=1e-10)
        assert step.back == pytest.approx([one.norm().item() for one in v], abs=1e-10)
        assert step.gradient == pytest.approx(v[-1].norm().item(), abs=1e-10)
        assert step.displacement == pytest.approx(experiment.meta_lr * v[-1].norm().item(), abs=1e-10)
        expected = torch.stack([*points[1:], flat - experiment.meta_lr * v[-1]]) - flat
        torch.testing.assert_close(walk, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"gradient": "exact"}, 3),
        ({"gradient": "truncated", "backprop_steps": 2}, 2),
        ({"gradient": "first_order"}, 0),
        ({"gradient": "hessian_free"}, 3),
        ({"gradient": "hessian_free", "backprop_steps": 1}, 1),
        ({"gradient": "exact", "model": "mlp", "personal": "body"}, 3),
    ],
    ids=str,
)
def test_the_way_back_ends_in_the_gradient_that_is_taken(changes, kept):
    for steps in measure_round(SMALL.replace(**changes), None, None, 0).steps:
        for step in steps:
            assert len(step.back) == kept + 1
            assert step.back[-1] == pytest.approx(step.gradient, rel=1e-9)


def test_reptile_goes_no_way_back():
    measured = measure_round(SMALL.replace(gradient="reptile"), None, None, 0)
    assert all(step.back == [] for steps in measured.steps for step in steps)


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_inner_products_give_the_length_of_every_average(weighting):
    measured = measure_round(SMALL.replace(weighting=weighting, size_spread=1.0), None, None, 1)
    products, everyone = measured.inner_products(), len(measured.picked)
    for subset in range(1, 2**everyone):
        kept = [place for place in range(everyone) if subset >> place & 1]
        average = gl.aggregate({name: sent[kept] for name, sent in measured.updates.items()}, measured.weights[kept])
        p = torch.zeros(everyone, dtype=torch.float64)
        p[kept] = measured.weights[kept] / measured.weights[kept].sum(dtype=torch.float64)
        assert (p @ products @ p).sqrt().item() == pytest.approx(length(difference(average, measured.w)), abs=1e-10)


def test_the_plane_keeps_lengths_and_angles_where_two_agents_span_all():
    experiment = SMALL.replace(agents_per_round=2)
    data = data_of(gl.explain.one_round(experiment))
    seen = torch.tensor(data["walks"], dtype=torch.float64).flatten(0, 2)
    walks = measure_round(experiment, None, None, 0).walks.flatten(0, 2)
    ends = [experiment.local_steps * (experiment.nu + 1) * agent - 1 for agent in (1, 2)]
    # Whatever stands out of the plane, its product with an update is that of its shadow.
    torch.testing.assert_close(seen @ seen[ends].T, walks @ walks[ends].T)
    torch.testing.assert_close(seen[ends] @ seen[ends].T, torch.tensor(data["products"], dtype=torch.float64))
    assert (seen.norm(dim=1) <= walks.norm(dim=1) + 1e-10).all()
    assert data["share"] == 100


def test_a_local_step_starts_where_the_last_one_ended():
    measured = measure_round(SMALL.replace(nu=1, local_steps=3), None, None, 0)
    displacements = [[step.displacement for step in steps] for steps in measured.steps]
    torch.testing.assert_close(measured.walks[:, :, -1].norm(dim=2), torch.tensor(displacements, dtype=torch.float64))
    looked_ahead = (measured.walks[:, 1:, 0] - measured.walks[:, :-1, -1]).norm(dim=2)
    assert (looked_ahead < measured.walks[:, 1:, 0].norm(dim=2)).all()


def test_one_agent_and_no_movement_are_no_trouble():
    data = data_of(gl.explain.one_round(SMALL.replace(agents_per_round=1, meta_lr=1e-300, local_steps=1)))
    assert data["walks"] == [[[[0, 0]] * 4]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experiment": "small"}, "experiment = 'small': must be an Experiment"),
        ({"federation": 3}, "federation = 3: must be a Federation or None"),
        ({"model": "mlp"}, "model = 'mlp': must be a torch.nn.Module or None"),
        ({"round": 20}, "round = 20: must be an integer of at least 0 and at most 19"),
        ({"round": True}, "round = True: must be an integer"),
        ({"experiment": gl.Experiment(agents_per_round=13)}, "agents_per_round = 13: must be at most 12 in a picture"),
        ({"experiment": SMALL.replace(nu=11)}, "nu = 11: must be at most 10 in a picture"),
        ({"experiment": SMALL.replace(aggregation="median")}, "aggregation = 'median': must be 'average' in a picture"),
        ({"experiment": SMALL.replace(local_steps=11)}, "local_steps = 11: must be at most 10 in a picture"),
        (
            {"federation": gl.build_federation(SMALL.replace(n_agents=3, agents_per_round=2))},
            "agents_per_round = 4: must be at most the federation's n_agents = 3",
        ),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gl.explain.one_round(**arguments)


def test_a_diverging_round_is_said():
    with pytest.raises(FloatingPointError):
        gl.explain.one_round(SMALL.replace(meta_lr=1e6, fine_tune_lr=50.0), round=3)


@pytest.mark.slow
def test_the_largest_round_stays_below_the_limit():
    experiment = SMALL.replace(agents_per_round=12, nu=10, local_steps=10, fine_tune_lr=0.01)
    picture = gl.explain.one_round(experiment)
    assert len(data_of(picture)["picked"]) == 12
    assert "12 of 12 agents take 10 local steps with ν = 10" in repr(picture)


@pytest.mark.parametrize(("nu", "of"), [(0, "local steps taken"), (2, "fine-tuning steps in the last local step")])
def test_the_still_draws_the_loss_along_the_walk_that_there_is(nu, of):
    measured = measure_round(SMALL.replace(nu=nu, local_steps=3), None, None, 0)
    losses, _ = _still(measured, {"parameters": 1, "average": 1.0}).axes
    assert losses.get_xlabel() == of
    for line, steps in zip(losses.lines, measured.steps, strict=True):
        expected = [step.query[0] for step in steps] if nu == 0 else steps[2].query
        assert list(line.get_ydata()) == list(expected)
        assert len(expected) == 3
