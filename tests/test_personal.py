"""A personal head or body: what fine-tuning moves, in training and when scored; the meta-gradient is of all of w."""

import numpy as np
import pytest
import torch
from same_result import assert_same
from torch import nn

import gmfl_lite as gl
from gmfl_lite.models import as_functions, cross_entropy, moving

BASE = gl.Experiment(
    model="mlp", nu=3, n_agents=6, n_new_agents=2, agents_per_round=3, local_steps=2, rounds=3, batch_size=7,
    fine_tune_lr=0.3, meta_lr=0.2, eval_every=3, eval_steps=(0, 2), personal="head", device="cpu", precision="float64",
)  # fmt: skip
HEAD, BODY = ("5.weight", "5.bias"), ("1.weight", "1.bias", "3.weight", "3.bias")


def an_agent(experiment):
    """The loss, w and the batches of an agent's local steps."""
    federation = gl.build_federation(experiment)
    predict, w = as_functions(gl.build_model("mlp", federation), federation.x.device)
    batches = [*gl.trainer.batches_of(1, experiment, federation, 0)]
    return cross_entropy(predict), w, batches


def elu(z):
    return np.where(z > 0, z, np.expm1(z))


def network(w, x):
    """The network's layers' outputs; w is a list of weights and biases."""
    one = elu(x @ w[0].T + w[1])
    two = elu(one @ w[2].T + w[3])
    return one, two, two @ w[4].T + w[5]


def mean_loss(w, x, y):
    scores = network(w, x)[2]
    largest = scores.max(1)
    log_sum = np.log(np.exp(scores - largest[:, None]).sum(1)) + largest
    return (log_sum - scores[np.arange(len(y)), y]).mean()


def head_gradient(w, x, y):
    _, two, scores = network(w, x)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p.T @ two / len(y), p.mean(0)


def meta_loss(w, support, query, alpha):
    """F(w) with a personal head, from the formulas, in NumPy."""
    *body, weight, bias = w
    for x, y in support:
        change = head_gradient([*body, weight, bias], x, y)
        weight, bias = weight - alpha * change[0], bias - alpha * change[1]
    return mean_loss([*body, weight, bias], *query)


def numpys(batch):
    x, y, weight = (tensor.numpy() for tensor in batch)
    assert np.allclose(weight, 1 / len(y))
    return x.reshape(len(x), -1), y


@pytest.mark.parametrize("method", ["exact", "recomputed", "hessian_free", "through its graph"])
def test_the_gradient_of_three_head_steps_is_that_of_finite_differences(method):
    loss_fn, w, ((support, query), *_) = an_agent(BASE)
    data = [numpys(batch) for batch in support], numpys(query)
    flat = [tensor.numpy().copy() for tensor in w.values()]
    how = {"method": "hessian_free"} if method == "hessian_free" else {"recompute": method == "recomputed"}
    if method == "through its graph":
        found = torch.func.grad(lambda w: gl.meta_loss(loss_fn, w, support, query, fine_tune_lr=0.3, moving=HEAD))(w)
    else:
        found, loss = gl.meta_gradient(loss_fn, w, support, query, fine_tune_lr=0.3, moving=HEAD, **how)
        assert loss.item() == pytest.approx(meta_loss(flat, *data, 0.3), rel=1e-12)
    rng = np.random.default_rng(0)
    for number, tensor in enumerate(found.values()):
        for _ in range(6):
            place = tuple(rng.integers(size) for size in flat[number].shape)
            sides = []
            for shift in (1e-5, -1e-5):
                moved = [array.copy() for array in flat]
                moved[number][place] += shift
                sides.append(meta_loss(moved, *data, 0.3))
            difference = (sides[0] - sides[1]) / 2e-5
            assert tensor[place].item() == pytest.approx(difference, abs=1e-8), (number, place)
    whole, _ = gl.meta_gradient(loss_fn, w, support, query, fine_tune_lr=0.3)
    assert max((whole[name] - found[name]).abs().max() for name in w) > 1e-3


def test_first_order_and_truncated_follow_the_head_too():
    loss_fn, w, ((support, query), *_) = an_agent(BASE)
    how = {"fine_tune_lr": 0.3, "moving": HEAD}
    tuned = gl.fine_tune(loss_fn, w, support, 0.3, moving=HEAD)
    assert all(torch.equal(tuned[name], w[name]) for name in BODY)
    assert all((tuned[name] - w[name]).abs().max() > 1e-3 for name in HEAD)
    at_the_end = torch.func.grad(loss_fn)(tuned, query)
    first = gl.meta_gradient(loss_fn, w, support, query, method="first_order", **how)[0]
    middle = gl.fine_tune(loss_fn, w, support[:2], 0.3, moving=HEAD)
    last = gl.meta_gradient(loss_fn, middle, support[2:], query, **how)[0]
    truncated = gl.meta_gradient(loss_fn, w, support, query, method="truncated", backprop_steps=1, **how)[0]
    for name in w:
        torch.testing.assert_close(first[name], at_the_end[name], rtol=0, atol=1e-14)
        torch.testing.assert_close(truncated[name], last[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("personal", ["head", "body"])
@pytest.mark.parametrize("gradient", ["exact", "hessian_free", "first_order"])
def test_engines_train_as_by_hand_does(personal, gradient):
    experiment = BASE.replace(personal=personal, gradient=gradient)
    page, whole = gl.by_hand(experiment), gl.by_hand(experiment.replace(personal="all"))
    for execution in ("vectorized", "loop"):
        found = gl.run(experiment.replace(execution=execution), progress=False).params
        for name, tensor in page.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-9)
    assert max((page[name] - whole[name]).abs().max() for name in page) > 1e-3


def test_three_rounds_are_those_of_a_loop_in_plain_autograd():
    """The network, its loss and both derivatives written out in tensor operations, on the batches that are drawn."""
    experiment = BASE.replace(agents_per_round=6)
    federation = gl.build_federation(experiment)
    w = [tensor.detach() for tensor in gl.build_model("mlp", federation, seed=experiment.seed).state_dict().values()]

    def loss(w, batch):
        x, y, weight = batch
        one = torch.nn.functional.elu(x.flatten(1) @ w[0].T + w[1])
        scores = torch.nn.functional.elu(one @ w[2].T + w[3]) @ w[4].T + w[5]
        return (weight * (scores.exp().sum(1).log() - scores[torch.arange(len(y)), y])).sum()

    for round in range(3):
        sent = []
        for agent in range(6):
            mine = w
            for support, query in gl.trainer.batches_of(agent, experiment, federation, round):
                leaves = [tensor.clone().requires_grad_() for tensor in mine]
                body, head = leaves[:4], leaves[4:]
                for batch in support:
                    change = torch.autograd.grad(loss([*body, *head], batch), head, create_graph=True)
                    head = [tensor - 0.3 * step for tensor, step in zip(head, change, strict=True)]
                gradient = torch.autograd.grad(loss([*body, *head], query), leaves)
                mine = [tensor - 0.2 * step for tensor, step in zip(mine, gradient, strict=True)]
            sent.append(mine)
        w = [torch.stack(parts).mean(0) for parts in zip(*sent, strict=True)]
    for execution in ("vectorized", "loop"):
        found = gl.run(experiment.replace(execution=execution), progress=False).params
        for tensor, expected in zip(found.values(), w, strict=True):
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-10)


def test_agents_are_scored_after_moving_their_head_alone():
    result = gl.run(BASE, progress=False)
    federation = gl.build_federation(BASE)
    for agent in (0, 7):
        x, y = (tensor.numpy() for tensor in federation.train(agent))
        w = [tensor.numpy() for tensor in result.params.values()]
        for _ in range(2):
            change = head_gradient(w, x.reshape(len(x), -1), y)
            w = [*w[:4], w[4] - 0.3 * change[0], w[5] - 0.3 * change[1]]
        x, y = (tensor.numpy() for tensor in federation.test(agent))
        scored = result.agents[(result.agents["agent"] == agent) & (result.agents["fine_tune_steps"] == 2)]
        assert scored["loss"].item() == pytest.approx(mean_loss(w, x.reshape(len(x), -1), y), rel=1e-10)


def test_fedavg_with_a_personal_head_trains_as_fedavg_and_is_scored_by_its_head():
    plain, head = (gl.run(BASE.replace(nu=0, personal=part), progress=False) for part in ("all", "head"))
    assert all(torch.equal(plain.params[name], head.params[name]) for name in plain.params)
    before, after = (result.agents["fine_tune_steps"].to_numpy() for result in (plain, head))
    losses = plain.agents["loss"].to_numpy(), head.agents["loss"].to_numpy()
    assert np.array_equal(losses[0][before == 0], losses[1][after == 0])
    assert np.abs(losses[0][before == 2] - losses[1][after == 2]).min() > 1e-6


def test_an_interrupted_run_goes_on(tmp_path):
    class Enough(Exception):
        pass

    def leave(round, _):
        if round == 1:
            raise Enough

    experiment = BASE.replace(eval_every=1)
    whole = gl.run(experiment, progress=False)
    with pytest.raises(Enough):
        gl.run(experiment, checkpoint=tmp_path / "run", on_round=leave, progress=False)
    assert_same(gl.run(experiment, checkpoint=tmp_path / "run", progress=False), whole)


def test_a_module_of_ones_own_has_its_last_layer_for_a_head():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh())
            self.scale = nn.Parameter(torch.ones(5))
            self.classifier = nn.Linear(5, 10)

        def forward(self, x):
            return self.classifier(self.scale * self.features(x))

    with torch.random.fork_rng():
        module = Two()
    _, w = as_functions(module, torch.device("cpu"))
    assert moving(w, "head") == ("classifier.weight", "classifier.bias")
    assert moving(w, "body") == ("scale", "features.1.weight", "features.1.bias")
    assert moving(w, "all") is None
    result = gl.run(BASE, model=module, progress=False)
    assert result.status == "completed"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"model": "softmax"}, "personal = 'head': must be 'all' with a model of one layer"),
        (
            {"gradient": "reptile"},
            "personal = 'head': must be 'all' with the gradient 'reptile', which knows no fine-tuning of a part",
        ),
        ({"personal": "tail"}, "personal = 'tail': must be one of 'all', 'head', 'body'"),
    ],
)
def test_wrong_values_are_refused(how, words):
    with pytest.raises(gl.ExperimentError, match=words):
        BASE.replace(**how)


def test_one_layer_of_ones_own_is_refused_before_any_work():
    with torch.random.fork_rng():
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="must be 'all' with a model of one layer"):
        gl.run(BASE, model=flat, on_round=lambda *_: pytest.fail("it works"), progress=False)
    with pytest.raises(ValueError, match=r"moving = .*: must be None with the gradient 'reptile'"):
        gl.meta_gradient(
            lambda w, _: w["a"].sum(), {"a": torch.ones(1)}, [0], 0, fine_tune_lr=1, method="reptile", moving=["a"]
        )
    for names in (["b"], "a", []):
        with pytest.raises(ValueError, match=r"moving = .*: must be names of parameters, of a, or None for all"):
            gl.fine_tune(lambda w, _: w["a"].sum(), {"a": torch.ones(1)}, [0], 1, moving=names)
    with pytest.raises(ValueError, match="personal = 'head': must be 'all': the bounds"):
        gl.theory.observe(BASE.replace(batch_size=None))
    with pytest.raises(ValueError, match="query = 'disjoint': must be 'independent': the bounds"):
        gl.theory.observe(BASE.replace(batch_size=None, query="disjoint"))
