"""What can be done with a result: go on, fine-tune for somebody, score on others, take the module away."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from same_result import assert_same
from torch import nn

import gmfl_lite as gl

SMALL = gl.Experiment(
    model="softmax", n_agents=8, n_new_agents=2, agents_per_round=3, rounds=2, eval_every=1, eval_steps=(0, 1, 3),
    local_steps=2, batch_size=5, fine_tune_lr=0.3, device="cpu",
)  # fmt: skip


class Own(nn.Module):
    """A frozen layer, a buffer, a tied layer; the layer that is registered last is not the one that speaks last."""

    def __init__(self, seed=0):
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.speak = nn.utils.skip_init(nn.Linear, 5, 3)
        self.frozen, self.once = (nn.utils.skip_init(nn.Linear, 5, 5) for _ in range(2))
        self.twice = self.once
        self.begin = nn.utils.skip_init(nn.Linear, 4, 5)
        self.register_buffer("shift", torch.rand(5, generator=draws))
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=draws) - 0.5
        self.frozen.requires_grad_(False)

    def forward(self, x):
        hidden = torch.tanh(self.begin(x)) + self.shift
        return self.speak(self.twice(torch.tanh(self.frozen(self.once(hidden)))))


@pytest.fixture(scope="module")
def people():
    """Six agents that train and two new ones; three classes."""
    rng = np.random.default_rng(0)
    agents = {}
    for name in "ABCDEFGH":
        x = rng.normal(size=(rng.integers(9, 20), 4)).astype(np.float32)
        agents[name] = x, (x[:, 0] + rng.normal() > 0).astype(int) + (x[:, 1] > 1)
    return gl.Federation.from_agents(agents, n_new_agents=2)


@pytest.fixture(scope="module")
def built_in(people):
    return gl.run(SMALL.replace(precision="float64"), federation=people, progress=False)


@pytest.fixture(scope="module")
def own(people):
    return gl.run(SMALL, federation=people, model=Own(), progress=False)


def stored(result, tmp_path):
    result.save(tmp_path / "result")
    return gl.load_result(tmp_path / "result")


WAYS = {
    "vectorised": ({"execution": "vectorized"}, None),
    "loop": ({"execution": "loop"}, None),
    "full batch": ({"batch_size": None}, None),
    "disjoint": ({"query": "disjoint"}, None),
    "own model": ({}, Own),
    "proximal, by samples": ({"proximal": 0.1, "weighting": "samples"}, None),
}


@pytest.mark.parametrize("way", WAYS)
def test_rounds_in_two_runs_are_those_of_one(way, people, tmp_path):
    changes, module = WAYS[way]
    base, handed = SMALL.replace(**changes), {"federation": people, "model": module and module()}
    whole = gl.run(base.replace(rounds=5), **handed, progress=False)
    first = gl.run(base, **handed, progress=False)
    told = []
    for start in (first, stored(first, tmp_path)):
        later = gl.run(
            base.replace(rounds=3), **handed, start=start, on_round=lambda round, _: told.append(round), progress=False
        )
        assert_same(later, whole)
        assert later.experiment == whole.experiment
    assert told == [3, 4, 5] * 2
    assert first.round == 2  # and the first is as it was
    assert first.history["round"].max() == 2


def test_what_follows_may_have_other_settings(people):
    first = gl.run(SMALL, federation=people, progress=False)
    later = gl.run(SMALL.replace(nu=0, meta_lr=0.2, rounds=1), federation=people, start=first, progress=False)
    module = gl.build_model("softmax", people)
    module.load_state_dict(first.state_dict())
    again = gl.run(SMALL.replace(nu=0, meta_lr=0.2, rounds=3, seed=0), federation=people, model=module, progress=False)
    assert (later.round, later.experiment.nu, later.experiment.rounds) == (3, 0, 3)
    before = later.history[later.history["round"] <= 2].reset_index(drop=True)
    assert before.equals(first.history)
    assert not torch.equal(later.params["1.weight"], again.params["1.weight"])  # of rounds 0, 1, 2 instead of 2
    more = gl.run(SMALL.replace(rounds=1), federation=people, start=first, metric=lambda p, y: p[:, 0], progress=False)
    assert more.history["metric"].isna().sum() == len(first.history)


def test_an_interrupted_second_run_goes_on_from_its_checkpoint(people, tmp_path):
    whole = gl.run(SMALL.replace(rounds=6), federation=people, progress=False)
    first, path = gl.run(SMALL, federation=people, progress=False), tmp_path / "run"

    def crash(round, rows):
        if round == 4:
            raise RuntimeError("the lights went out")

    how = {"federation": people, "start": first, "checkpoint": path, "progress": False}
    with pytest.raises(RuntimeError, match="the lights"):
        gl.run(SMALL.replace(rounds=4), on_round=crash, **how)
    assert gl.load_result(path).round == 4
    for _ in range(2):
        assert_same(gl.run(SMALL.replace(rounds=4), **how), whole)


def test_another_architecture_cannot_go_on(people, own):
    first = gl.run(SMALL, federation=people, progress=False)
    for how, message in (
        (
            {"experiment": SMALL.replace(model="mlp")},
            r"model: is another than the result's: .*weight is \(3, 4\) there",
        ),
        ({"model": Own()}, "model: is another than the result's: .* is none there"),
        ({"federation": None}, r"model: is another than the result's"),
        ({"start": own}, r"model: is another than the result's: 1.weight is none there and \(3, 4\) here"),
        ({"start": "file"}, "start = 'file': must be a Result or None"),
    ):
        with pytest.raises(ValueError, match=message):
            gl.run(**{"experiment": SMALL, "federation": people, "start": first, **how}, progress=False)


def by_gradient(w, x, y, steps, lr):
    """Softmax regression fine-tuned in NumPy: the gradient is x (p − one-hot)."""
    weight, bias = (w[name].double().numpy().copy() for name in ("1.weight", "1.bias"))
    for _ in range(steps):
        scores = x @ weight.T + bias
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        weight, bias = weight - lr * p.T @ x / len(y), bias - lr * p.mean(0)
    return {"1.weight": weight, "1.bias": bias}


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("form", ["tensors", "arrays", "lists"])
def test_personalise_takes_gradient_steps(built_in, people, tmp_path, steps, from_file, form):
    x, y = people.train(7)
    expected = by_gradient(built_in.params, x.numpy().astype(float), y.numpy(), steps, 0.3)
    result = stored(built_in, tmp_path) if from_file else built_in
    given = {"tensors": (x, y), "arrays": (x.numpy().astype(float), y.numpy().astype(np.int32)),
             "lists": (x.tolist(), y.tolist())}[form]  # fmt: skip
    before = {name: tensor.clone() for name, tensor in result.params.items()}
    found = result.personalise(*given, steps)
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=0, atol=1e-6)
        assert torch.equal(result.params[name], before[name])


@pytest.mark.parametrize("from_file", [False, True])
def test_personalise_takes_gradient_steps_of_a_module_of_ones_own(own, people, tmp_path, from_file):
    x, y = people.train(1)
    module = Own()
    module.load_state_dict(own.state_dict())
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for _ in range(4):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(module(x), y), [*trained.values()])
        for parameter, gradient in zip(trained.values(), gradients, strict=True):
            parameter.data -= 0.3 * gradient
    found = stored(own, tmp_path).personalise(x, y, 4, model=Own()) if from_file else own.personalise(x, y, 4)
    assert found.keys() == trained.keys()
    for name, parameter in trained.items():
        torch.testing.assert_close(found[name], parameter.data, rtol=0, atol=1e-6)


def test_personalise_moves_what_the_run_moves(people):
    result = gl.run(SMALL.replace(model="mlp", personal="head", rounds=1), federation=people, progress=False)
    found = result.personalise(*people.train(0), 2)
    assert [name for name in found if not torch.equal(found[name], result.params[name])] == ["5.weight", "5.bias"]


def test_personalise_of_numbers_and_of_a_loss_of_ones_own(people, tmp_path):
    rng = np.random.default_rng(0)
    agents = [(x, 2 * x[:, :1]) for x in rng.normal(size=(4, 10, 2)).astype(np.float32)]
    numbers = gl.Federation.from_agents(agents)
    result = gl.run(SMALL.replace(agents_per_round=2, rounds=1), federation=numbers, progress=False)
    x, y = numbers.train(0)
    found = stored(result, tmp_path).personalise(x, y[:, 0], 1)
    error = x @ result.params["1.weight"].T + result.params["1.bias"] - y
    expected = result.params["1.weight"] - 0.3 * 2 * (error * x).mean(0, keepdim=True)
    torch.testing.assert_close(found["1.weight"], expected, rtol=0, atol=1e-6)

    def ordinal(prediction, y):  # one number a sample, of labels
        return (prediction[:, 0] - y).square()

    line = nn.utils.skip_init(nn.Linear, 4, 1)
    nn.init.zeros_(line.weight), nn.init.zeros_(line.bias)
    result = gl.run(SMALL.replace(rounds=1), federation=people, model=line, loss=ordinal, progress=False)
    x, y = people.train(2)
    found = result.personalise(x, y, 1)
    error = (x @ result.params["weight"].T + result.params["bias"])[:, 0] - y
    expected = result.params["weight"] - 0.3 * 2 * (error[:, None] * x).mean(0, keepdim=True)
    torch.testing.assert_close(found["weight"], expected, rtol=0, atol=1e-6)
    for again in (result.personalise, stored(result, tmp_path).personalise):
        again(x, y, 1, model=line, loss=ordinal)


def test_evaluate_gives_the_last_rows(built_in, own, people, tmp_path):
    for result, how in ((built_in, {}), (own, {"model": Own()})):
        for found in (result.evaluate(people), stored(result, tmp_path).evaluate(people, **how)):
            assert found.equals(result.agents)
            assert list(found["name"].unique()) == list("ABCDEFGH")
    others = gl.Federation.from_agents([people.train(0), people.train(1)])
    found = built_in.evaluate(others)
    assert "name" not in found
    for agent in (0, 1):
        tuned = built_in.personalise(*others.train(agent), 3)
        x, y = others.test(agent)
        expected = nn.functional.cross_entropy(x.double() @ tuned["1.weight"].T + tuned["1.bias"], y).item()
        row = found[(found["agent"] == agent) & (found["fine_tune_steps"] == 3)]
        assert row["loss"].item() == pytest.approx(expected, abs=1e-6)


def test_what_does_not_fit_is_refused_in_words(built_in, own, people, tmp_path):
    x, y = people.train(0)
    loaded = stored(built_in, tmp_path)
    for result in (built_in, loaded, own):
        for changed, message in (
            ((x, y + 5), "labels must be from 0 to the number of classes minus one, got 5 to 7 with 3 classes"),
            ((x, y - 1), "labels must be from 0 to the number of classes minus one, got -1"),
            ((x[:, :2], y), r"model: (does not take samples \[4, 2\]|is another than the result's: .* here)"),
            ((x, y[:3]), f"x and y must have as many samples, got {len(x)} and 3"),
            ((x[:0], y[:0]), "holds no samples"),
            ((x * np.nan, y), "x holds NaN or infinite"),
            ((x, ["a"] * len(x)), "y holds words; give the numbers of their classes"),
            ((x, x[:, 0]), "model: must give .* numbers, one for each to predict|is another than the result's"),
        ):
            with pytest.raises(ValueError, match=message):
                result.personalise(*changed, 2)
        with pytest.raises(ValueError, match="steps = -1"):
            result.personalise(x, y, -1)
        for federation, message in (
            (gl.Federation.from_agents([(x[:, :2], y)]), "does not take samples|is another than the result's"),
            (gl.Federation.from_agents([(x, np.arange(len(x)) % 5)]), "must give logits|is another than the result's"),
            (people.train(0), "federation = 'tuple': must be a Federation"),
        ):
            with pytest.raises(ValueError, match=message):
                result.evaluate(federation)
    unknown = stored(own, tmp_path)
    for ask in (lambda: unknown.personalise(x, y, 1), lambda: unknown.evaluate(people)):
        with pytest.raises(ValueError, match="model = 'own': this module was the caller's; pass it again"):
            ask()


@pytest.mark.parametrize("from_file", [False, True])
def test_state_dict_loads_into_a_fresh_module_that_predicts_the_same(own, built_in, people, tmp_path, from_file):
    x, y = people.test(3)
    for result, fresh, given in (
        (own, Own(seed=9), Own()),
        (built_in, gl.build_model("softmax", people, seed=9), None),
    ):
        state = stored(result, tmp_path).state_dict(given) if from_file else result.state_dict()
        fresh.load_state_dict(state)
        row = result.agents.query("agent == 3 and fine_tune_steps == 0")
        loss = nn.functional.cross_entropy(fresh(x), y).item()
        assert row["loss"].item() == pytest.approx(loss, abs=1e-6)
        assert all(not tensor.requires_grad and tensor.device.type == "cpu" for tensor in state.values())
    assert torch.equal(own.state_dict()["frozen.weight"], Own().frozen.weight)
    assert torch.equal(own.state_dict()["shift"], Own().shift)
    assert torch.equal(own.state_dict()["once.weight"], own.state_dict()["twice.weight"])


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
def test_a_result_is_copied_and_pickled(make, own, people):
    with_a_closure = gl.run(SMALL.replace(rounds=1), federation=people, metric=lambda p, y: p.sum(-1), progress=False)
    for result in (own, with_a_closure):
        found = make(result)
        assert_same(found, result)
        assert found.experiment == result.experiment
    forgotten = [] if make is copy.copy else ["metric"]  # the functions stay in this process
    assert make(with_a_closure).evaluate(people).equals(with_a_closure.agents.drop(columns=forgotten))
    if make is copy.copy:
        assert make(own).evaluate(people).equals(own.agents)
    assert own.evaluate(people).equals(own.agents)  # the one that was copied still knows its module


def test_an_experiment_of_what_was_handed_over_says_so(people, own, tmp_path):
    experiment = own.experiment
    assert (experiment.dataset, experiment.model) == ("own", "own")
    assert (experiment.n_agents, experiment.n_new_agents) == (6, 2)
    for built, message in (
        (lambda: gl.build_federation(experiment), "dataset = 'own': these agents were the caller's; pass them again"),
        (lambda: gl.run(experiment, progress=False), "dataset = 'own'"),
        (lambda: gl.build_model(experiment.model, people), "model = 'own': this module was the caller's"),
        (lambda: gl.run(experiment, federation=people, progress=False), "model = 'own'"),
        (lambda: gl.sweep([experiment], progress=False), None),
    ):
        if message is None:
            assert built()["message"].str.contains("dataset = 'own': these agents were the caller's").all()
            continue
        with pytest.raises(ValueError, match=message):
            built()
    assert gl.Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment
    assert experiment.replace(nu=1).nu == 1
    assert experiment.replace(personal="head").personal == "head"
    assert stored(own, tmp_path).experiment == experiment
    assert hash(experiment) == hash(experiment.replace())
    again = gl.run(experiment, federation=people, model=Own(), progress=False)
    assert_same(again, own)


def test_an_experiments_own_agents_and_model_that_are_handed_over_leave_it_as_it_is():
    experiment = SMALL.replace(partition="iid", permuted_classes=3, shots=4)
    federation = gl.build_federation(experiment)
    plain = gl.run(experiment, progress=False)
    handed = gl.run(experiment, federation=federation, progress=False)
    module = gl.run(experiment, model=gl.build_model("softmax", gl.load_dataset("digits")), progress=False)
    for result in (plain, handed, module):
        assert result.experiment == experiment
        assert_same(result, plain)
    other = gl.build_model("mlp", federation)
    assert gl.run(experiment, model=other, progress=False).experiment == experiment.replace(model="mlp")
    trained = experiment.replace(nu=0, rounds=1, meta_lr=0.2, batch_size=None)
    assert gl.run(trained, federation=federation, progress=False).experiment == trained
    for change in ({"seed": 1}, {"permuted_classes": 0}, {"shots": None}, {"partition": "dirichlet"}):
        found = gl.run(experiment.replace(**change), federation=federation, progress=False).experiment
        assert (found.dataset, found.n_agents, found.partition) == ("own", 8, "dirichlet")
        assert (found.permuted_classes, found.shots) == (0, None)  # nothing is said of how they were dealt
    assert gl.run(experiment, model=Own10(), progress=False).experiment == experiment.replace(model="own")


class Own10(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.utils.skip_init(nn.Linear, 64, 10)
        nn.init.zeros_(self.line.weight), nn.init.zeros_(self.line.bias)

    def forward(self, x):
        return self.line(x.flatten(1))


@pytest.mark.parametrize("module", [None, Own])
def test_by_hand_computes_the_same_on_own_agents(people, module):
    experiment = SMALL.replace(precision="float64", personal="all")
    model = module and module()
    fast = gl.run(experiment, federation=people, model=model, progress=False)
    for described in (experiment, fast.experiment):
        if module is None or described.model != "own" or model is not None:
            slow = gl.by_hand(described, people, model)
            for name, tensor in fast.params.items():
                torch.testing.assert_close(slow[name], tensor, rtol=0, atol=1e-10)


def test_a_checkpoint_of_a_module_that_is_made_anew_goes_on(people, tmp_path):
    """The frozen layer and the buffers must be the same; what is trained comes from the file."""

    def unseeded(other):
        module = Own()
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data += other
        return module

    whole = gl.run(SMALL.replace(rounds=4), federation=people, model=unseeded(0), progress=False)

    def crash(round, rows):
        if round == 2:
            raise RuntimeError("the lights went out")

    how = {"federation": people, "checkpoint": tmp_path / "run", "progress": False}
    with pytest.raises(RuntimeError, match="the lights"):
        gl.run(SMALL.replace(rounds=4), model=unseeded(0), on_round=crash, **how)
    other = Own(seed=3)
    with pytest.raises(ValueError, match="another model's structure"):
        gl.run(SMALL.replace(rounds=4), model=other, **how)
    assert_same(gl.run(SMALL.replace(rounds=4), model=unseeded(0.1), **how), whole)
