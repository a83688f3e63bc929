"""What the trial of a module finds: state, randomness, padding; and derivatives of attention by finite differences."""

import random
import threading

import kinds_of_modules as kinds
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gmfl_lite as gl
from gmfl_lite.basics.identity import identity
from gmfl_lite.modules import as_functions, loss_of, try_out
from gmfl_lite.objective import exact_product

OWN = random.Random(3)

EXPERIMENT = gl.Experiment(
    rounds=1, agents_per_round=2, local_steps=2, batch_size=5, fine_tune_lr=0.1, meta_lr=0.1, eval_steps=(0, 2)
)


@pytest.fixture(scope="module")
def few(digits):
    return gl.Federation.from_partition(digits, np.arange(36).reshape(3, 12), n_new_agents=1, seed=0)


def made(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def multiplied(factor, **parts):
    """An MLP whose predictions are multiplied by what a function of itself and x gives."""
    return lambda: kinds.wrapped(lambda self, x: self.inner(x) * factor(self, x), **parts)


def called_before(change, **parts):
    """An MLP that does something else before it predicts."""
    return lambda: kinds.wrapped(lambda self, x: (change(self, x), self.inner(x))[1], **parts)


def with_buffer(change, start):
    return lambda: kinds.with_buffer(lambda self, x: (change(self, x), self.inner(x))[1], start)


def numbered(self, x):
    self.calls += 1
    return 1 + self.calls / 100


def listed(self, x):
    self.seen.append(1)
    return 1 + len(self.seen) / 100


def held(self, x):
    found = 1 + (0 if self.last is None else self.last)
    self.last = x.mean()
    return found


def seen_first(self, x):
    """The first samples that were ever seen set the scale."""
    if self.mean is None:
        self.mean = x[:1].mean() + 1
    self.mean = self.mean * 1.01
    return self.mean


def set_item(self, x):
    self.scale = torch.tensor(3.0)


def every_third(self, x):
    self.calls += 1
    return torch.rand(()) if self.calls % 3 == 0 else 0.5


KINDS = {
    "draws from torch's": [
        multiplied(lambda self, x: torch.rand(())),
        lambda: kinds.mlp(kinds.Own(lambda self, h: F.dropout(h, 0.1))),
        multiplied(lambda self, x: torch.randperm(10)),
        multiplied(lambda self, x: torch.empty(10).normal_() * 0 + 1),  # drawn, and not used
        lambda: kinds.products(dropout_p=0.5),
        multiplied(lambda self, x: torch.bernoulli(torch.full((10,), 0.5))),
    ],
    "draws from Python's": [
        multiplied(lambda self, x: random.random()),
        multiplied(lambda self, x: random.choice([1, 2])),
        multiplied(lambda self, x: random.gauss(0, 1) * 0 + 1),
    ],
    "draws from NumPy's": [
        multiplied(lambda self, x: float(np.random.rand())),  # noqa: NPY002
        multiplied(lambda self, x: int(np.random.randint(3))),  # noqa: NPY002
        multiplied(lambda self, x: 1 + 0 * len(np.random.permutation(3))),  # noqa: NPY002
    ],
    "another prediction for the same samples": [
        multiplied(lambda self, x: self.own.random(), own=np.random.default_rng(0)),
        multiplied(lambda self, x: torch.rand((), generator=self.own), own=torch.Generator()),
        multiplied(lambda self, x: OWN.random()),
        multiplied(lambda self, x: 1 + (OWN.random() < 0.5)),
        multiplied(numbered, calls=0),
        multiplied(listed, seen=[]),
        multiplied(held, last=None),
        multiplied(seen_first, mean=None),
        multiplied(lambda self, x: 1 + next(self.numbers), numbers=iter(range(10**6))),
        multiplied(every_third, calls=0),
    ],
    "changes its buffers": [
        with_buffer(lambda self, x: self.scale.add_(1), 0.0),
        with_buffer(lambda self, x: self.scale.mul_(0.9).add_(0.1 * x.mean()), 1.0),
        with_buffer(set_item, 2.0),
        lambda: kinds.REFUSED["spectral_norm"][0](),
    ],
    "changes its input": [
        called_before(lambda self, x: x.mul_(0.5)),
        called_before(lambda self, x: x.clamp_(0.1, 0.9)),
        called_before(lambda self, x: x.view(-1).__setitem__(0, 7.0)),
        lambda: nn.Sequential(nn.Hardtanh(0.1, 0.8, inplace=True), kinds.mlp()),
    ],
    "changes its parameters": [
        lambda: kinds.embedded(nn.Embedding(17, 3, max_norm=0.1), 192),
        called_before(lambda self, x: self.inner[1].weight.data.mul_(0.99)),
        called_before(lambda self, x: self.inner[1].bias.data.zero_()),
    ],
}  # fmt: skip


def states():
    return identity((random.getstate(), np.random.get_state(), torch.get_rng_state()))  # noqa: NPY002


@pytest.mark.parametrize("said", KINDS)
def test_state_and_randomness_are_found_and_global_generators_stand_still(few, said):
    assert len(KINDS[said]) >= 3
    for number, make in enumerate(KINDS[said]):
        OWN.seed(number)
        model, before = made(make), states()
        with pytest.raises(ValueError, match=said) as refused:
            gl.run(EXPERIMENT, federation=few, model=model, progress=False)
        assert states() == before, number
        assert len(str(refused.value)) < 400


def test_generators_stand_still_after_other_refusals_too(few):
    def fail(self, x):
        random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
        raise KeyError("of my own")

    def loss(prediction, y):
        return torch.rand(()) * F.cross_entropy(prediction, y, reduction="none") + random.random()

    before = states()
    with pytest.raises(ValueError, match="does not take images"):
        gl.run(EXPERIMENT, federation=few, model=made(lambda: kinds.wrapped(fail)), progress=False)
    assert states() == before
    with pytest.raises(ValueError, match="must not draw at random"):
        gl.run(EXPERIMENT, federation=few, model=made(kinds.mlp), loss=loss, progress=False)
    assert states() == before


def test_a_loss_that_draws_in_vain_is_found(few):
    def loss(prediction, y):
        return F.cross_entropy(prediction, y, reduction="none") + 0 * torch.rand(())

    with pytest.raises(ValueError, match="loss or metric: draws from torch's global random generator"):
        gl.run(EXPERIMENT, federation=few, model=made(kinds.mlp), loss=loss, progress=False)


def test_a_module_and_a_loss_that_are_functions_pass(few):
    predict, params = as_functions(made(kinds.mlp), few.x.device, few.dtype)
    assert try_out(loss_of(predict), params, few) is None


# Attention.


def attention_losses():
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([1, 4, 7])
    names = [name for name in kinds.TRAINS if "attention" in name.lower() or "Transformer" in name]
    for name in names:
        predict, params = as_functions(made(kinds.TRAINS[name]), torch.device("cpu"), torch.float64)
        objective = loss_of(predict)
        yield name, lambda w, objective=objective: objective(w, (x, y, torch.full((3,), 1 / 3).double())), params


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_attention_has_exact_derivatives_of_both_orders(alpha):
    """The meta-gradient of one step along a direction equals central differences of the meta-loss."""
    draws, tried = torch.Generator().manual_seed(2), 0
    for name, f, params in attention_losses():

        def meta_loss(w, f=f):
            gradient = torch.func.grad(f)(w)
            return f({key: tensor - alpha * gradient[key] for key, tensor in w.items()})

        along = {key: torch.randn(p.shape, generator=draws, dtype=p.dtype) for key, p in params.items()}
        exact = sum((g * along[key]).sum() for key, g in torch.func.grad(meta_loss)(params).items())
        step = 1e-5
        there, back = (meta_loss({key: p + sign * step * along[key] for key, p in params.items()}) for sign in (1, -1))
        torch.testing.assert_close(exact, (there - back) / (2 * step), rtol=1e-6, atol=1e-8, msg=name)
        tried += 1
    assert tried >= 9


def test_second_derivatives_of_attention_equal_differences_of_the_first():
    for name, f, params in attention_losses():
        along = {key: p.detach() + 0.1 for key, p in params.items()}
        product = exact_product(lambda w, batch, f=f: f(w))(params, None, along)
        step = 1e-5
        there, back = (
            torch.func.grad(f)({key: p + sign * step * along[key] for key, p in params.items()}) for sign in (1, -1)
        )
        for key, tensor in product.items():
            expected = (there[key] - back[key]) / (2 * step)
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-8, msg=f"{name}: {key}")


# Padding.


PADDED = ["ReLU", "GroupNorm", "InstanceNorm", "MultiheadAttention, weights", "TransformerEncoderLayer", "GRU", "LSTM"]


def beside(digits, stranger, spoilt=False):
    """Two agents, and a stranger who holds so many samples; one of them has a single sample to be scored on."""
    parts = [np.arange(5), np.arange(5, 19), np.arange(19, 19 + stranger)]
    dataset = gl.Dataset("digits", digits.x.clone(), digits.y, digits.classes)
    federation = gl.Federation.from_partition(dataset, parts, seed=0)
    if spoilt:
        federation.x[19 + stranger :] = torch.nan
    return federation


@pytest.mark.parametrize("name", PADDED)
def test_an_agents_scores_do_not_depend_on_how_much_others_hold(digits, name):
    make = (kinds.TRAINS | kinds.ALONE)[name]
    scores = []
    for federation in (beside(digits, 20), beside(digits, 500)):
        stop = threading.Event()
        how = {"on_round": lambda round, rows, stop=stop: stop.set(), "stop": stop, "progress": False}
        result = gl.run(EXPERIMENT, federation=federation, model=made(make), **how)
        assert result.round == 0
        scores.append(result.agents.query("agent < 2")[["loss", "accuracy"]].to_numpy())
    np.testing.assert_allclose(scores[0], scores[1], rtol=2e-5)


@pytest.mark.parametrize("name", PADDED)
def test_what_nobody_holds_is_never_looked_at(digits, name):
    make = (kinds.TRAINS | kinds.ALONE)[name]
    whole, spoilt = (
        gl.run(EXPERIMENT, federation=federation, model=made(make), progress=False)
        for federation in (beside(digits, 40), beside(digits, 40, spoilt=True))
    )
    assert spoilt.status == "completed"
    assert spoilt.agents.equals(whole.agents)
    assert all(torch.equal(tensor, whole.params[name]) for name, tensor in spoilt.params.items())
