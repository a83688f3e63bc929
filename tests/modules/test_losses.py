"""Losses of one's own, and metrics: beside a plain autograd loop, by hand, and refused with what to change."""

import functools
import threading

import kinds_of_modules as kinds
import numpy as np
import plain_loop
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gmfl_lite as gl

EXPERIMENT = gl.Experiment(
    rounds=1, agents_per_round=2, local_steps=2, batch_size=4, fine_tune_lr=0.1, meta_lr=0.1, eval_steps=(0, 1, 3),
    precision="float64",
)  # fmt: skip


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def of_agents(outputs):
    """Return three agents that train and a new one; y are `outputs` of three features, one for each sample."""
    rng, agents = np.random.default_rng(0), {}
    for name, size in {"a": 8, "b": 11, "c": 14, "d": 9}.items():
        x = rng.normal(size=(size, 3)) + rng.normal(size=3)
        agents[name] = x, outputs(x, rng)
    return gl.Federation.from_agents(agents, n_new_agents=1)


@pytest.fixture(scope="module")
def numbers():
    return of_agents(lambda x, rng: x.sum(1) + rng.standard_t(2, size=len(x)))


@pytest.fixture(scope="module")
def pairs():
    return of_agents(lambda x, rng: np.stack([x.sum(1), x.prod(1)], 1))


@pytest.fixture(scope="module")
def labels():
    return of_agents(lambda x, rng: ["yes" if found else "no" for found in x.sum(1) > 0])


@pytest.fixture(scope="module")
def several_labels():
    """Each of four labels holds for a sample, or does not."""
    return of_agents(lambda x, rng: (x @ rng.normal(size=(3, 4)) > 0).astype(float))


@pytest.fixture(scope="module")
def plays():
    return gl.load_federation("plays", n_new_agents=10)


def network(*last, outputs=1):
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, outputs), *last)


def one_number():
    """Of samples [n, 3] it gives [n, 1], as y are."""
    return network()


def flat():
    return network(nn.Flatten(0))


def four_numbers():
    return network(outputs=4)


def two_logits():
    return network(outputs=2)


def reader():
    layer = nn.LSTM(5, 6, batch_first=True)
    return kinds.Own(
        lambda self, x: self.out(self.layer(self.e(x))[0]), e=nn.Embedding(35, 5), layer=layer, out=nn.Linear(6, 35)
    )


def transformer():
    def read(self, x):
        h = self.embed(x) + self.place
        query, key, value = self.qkv(self.norm(h)).chunk(3, -1)
        h = h + F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(h + self.feed(h))

    return kinds.Own(
        read, embed=nn.Embedding(35, 8), place=nn.Parameter(torch.randn(20, 8) / 3), norm=nn.LayerNorm(8),
        qkv=nn.Linear(8, 24), feed=nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)), out=nn.Linear(8, 35),
    )  # fmt: skip


def huber(prediction, y):
    return F.huber_loss(prediction, y, reduction="none", delta=0.7).mean(1)


def over_labels(prediction, y):
    return F.binary_cross_entropy_with_logits(prediction, y, reduction="none").mean(1)


def at_each_place(prediction, y):
    return F.cross_entropy(prediction.flatten(0, 1), y.flatten(), reduction="none").reshape(y.shape).mean(1)


def run(federation, make, nu=1, **how):
    settings = {name: how.pop(name) for name in ("rounds", "eval_steps") if name in how}
    experiment = EXPERIMENT.replace(nu=nu, **settings)
    return gl.run(experiment, federation=federation, model=seeded(make), progress=False, **how)


def tuned_by_hand(federation, make, result, loss, agent, steps):
    """Return an agent's prediction of its scored samples after so many steps on its training samples, and their y."""
    federation = federation.in_precision("float64")
    model = seeded(make)
    model.load_state_dict(result.params, strict=False)
    x, y = federation.train(agent)
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(model(x), y).mean(), list(model.parameters()))
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.data -= EXPERIMENT.fine_tune_lr * gradient
    x, y = federation.test(agent)
    return model(x).detach(), y


WORK = {
    "numbers, Huber": ("numbers", one_number, huber),
    "numbers, what y asks for": ("numbers", one_number, None),
    "numbers, by name": ("numbers", one_number, "squared_error"),
    "two numbers, what y asks for": ("pairs", two_logits, None),
    "labels, a module": ("labels", two_logits, nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)),
    "labels, partly given": ("labels", two_logits, functools.partial(F.cross_entropy, reduction="none")),
    "several labels": ("several_labels", four_numbers, over_labels),
    "plays, LSTM": ("plays", reader, None),
    "plays, LSTM, own loss": ("plays", reader, at_each_place),
    "plays, transformer": ("plays", transformer, "cross_entropy"),
}
PLAINLY = {
    "numbers": F.mse_loss,
    "pairs": F.mse_loss,
    "plays": lambda prediction, y: F.cross_entropy(prediction.transpose(1, 2), y),
}


@pytest.mark.parametrize("nu", [0, 1, 3])
@pytest.mark.parametrize("name", WORK)
def test_trains_as_a_plain_loop(request, name, nu):
    agents, make, loss = WORK[name]
    federation = request.getfixturevalue(agents)
    result = run(federation, make, nu, loss=loss, eval_steps=(0, 1))
    plainly = (lambda prediction, y: loss(prediction, y).mean()) if callable(loss) else PLAINLY[agents]
    expected = plain_loop.plain_loop(seeded(make), EXPERIMENT.replace(nu=nu), federation, plainly)
    assert plain_loop.largest_gap(result, expected) < 1e-10
    assert result.status == "completed"
    assert ("accuracy" in result.agents) == (agents in ("labels", "plays"))
    assert "metric" not in result.agents


class Own:
    def mean_error(self, prediction, y):
        return (prediction - y).abs().mean(1)

    def __call__(self, prediction, y):
        return self.mean_error(prediction, y)


class Module(nn.L1Loss):
    def forward(self, prediction, y):
        return F.l1_loss(prediction, y, reduction="none").mean(1)


def absolute(prediction, y, power=2):
    return (prediction - y).abs().pow(power).mean(1)


@pytest.mark.parametrize("loss", [Own().mean_error, Own(), functools.partial(absolute, power=1), Module()])
def test_whatever_can_be_called_is_a_loss(numbers, loss):
    result = run(numbers, one_number, loss=loss)
    expected = run(numbers, one_number, loss=lambda prediction, y: (prediction - y).abs().mean(1))
    assert plain_loop.largest_gap(result, expected.params) == 0
    assert result.agents.equals(expected.agents)


# What is measured.


def per_position(prediction, y):
    return (prediction.argmax(-1) == y).double().mean(-1)


def correct_labels(prediction, y):
    return ((prediction > 0) == (y > 0)).double().mean(1)


def largest(prediction, y):
    """NumPy cannot be computed for many agents at once."""
    return torch.from_numpy(np.abs(prediction.numpy(force=True) - y.numpy(force=True)).mean(1))


@pytest.mark.parametrize(
    ("agents", "make", "loss", "metric"),
    [
        ("numbers", one_number, huber, absolute),
        ("several_labels", four_numbers, over_labels, correct_labels),
        ("plays", reader, at_each_place, lambda p, y: p.exp().amax(-1).mean(-1)),
    ],
)
def test_loss_accuracy_and_metric_are_what_a_hand_computes(request, agents, make, loss, metric):
    federation = request.getfixturevalue(agents)
    result = run(federation, make, loss=loss, metric=metric)
    rows = result.agents.query("agent in (0, 3)")
    assert len(rows) == 6
    for row in rows.itertuples():
        prediction, y = tuned_by_hand(federation, make, result, loss, row.agent, row.fine_tune_steps)
        assert row.loss == pytest.approx(loss(prediction, y).mean().item(), rel=1e-9)
        assert row.metric == pytest.approx(metric(prediction, y).mean().item(), rel=1e-9)
        if agents == "plays":
            assert row.accuracy == pytest.approx(per_position(prediction, y).mean().item())
    summary = result.history.query("round == 1 and group == 'trained' and fine_tune_steps == 3")["metric"].item()
    mine = result.agents.query("group == 'trained' and fine_tune_steps == 3")["metric"]
    assert summary == pytest.approx(mine.mean())
    assert ("accuracy" in result.history) == ("worst_decile_accuracy" in result.history) == (agents == "plays")


def test_a_metric_that_needs_agents_alone_gets_them(numbers):
    result = run(numbers, one_number, metric=largest)
    assert "one agent at a time, as torch has no batching rule" in result.engine
    expected = run(numbers, one_number, metric=functools.partial(absolute, power=1))
    np.testing.assert_allclose(result.agents["metric"], expected.agents["metric"])


def test_a_stored_result_keeps_the_metric_and_has_no_accuracy(numbers, tmp_path):
    result = run(numbers, one_number, metric=huber)
    result.save(tmp_path / "result")
    again = gl.load_result(tmp_path / "result")
    assert again.history.equals(result.history)
    assert again.agents.equals(result.agents)
    assert {"loss", "metric"} < set(again.history)
    assert not {"accuracy", "worst_decile_accuracy"} & {*again.history, *again.agents}


class Huber(nn.HuberLoss):
    """What tells one from another, delta, is not in the words that torch has for it."""

    def forward(self, prediction, y):
        return huber(prediction, y) * self.delta


def interrupted(numbers, path, **how):
    stop = threading.Event()
    on_round = lambda round, rows: stop.set() if round == 1 else None  # noqa: E731
    return run(numbers, one_number, rounds=2, stop=stop, on_round=on_round, checkpoint=path, **how)


def test_a_checkpoint_goes_on_with_the_same_loss_and_metric_alone(numbers, tmp_path):
    how = {"loss": Huber(delta=0.7), "metric": functools.partial(absolute, power=1)}
    other = {"loss": Huber(delta=0.8), "metric": absolute}
    interrupted(numbers, tmp_path / "run", **how)
    for name in how:
        for value in (other[name], None):
            with pytest.raises(ValueError, match="another loss or metric: use another path"):
                interrupted(numbers, tmp_path / "run", **{**how, name: value})
    resumed = run(numbers, one_number, rounds=2, checkpoint=tmp_path / "run", **how)
    whole = run(numbers, one_number, rounds=2, **how)
    assert resumed.history.equals(whole.history)
    assert plain_loop.largest_gap(resumed, whole.params) == 0


# What is refused.


def drawing(prediction, y):
    return absolute(prediction, y) * torch.rand(())


def in_place(prediction, y):
    return prediction.sub_(y).square().mean(1)


ONE_EACH, DEPENDS, NO_GRADIENT = "one number per sample", "must not depend on the others", "does not depend on its para"
REFUSED = {
    "averages already": ("numbers", one_number, F.mse_loss, "reduction='none'"),
    "averages, a module": ("labels", two_logits, nn.CrossEntropyLoss(), "reduction='none'"),
    "sum": ("numbers", one_number, lambda p, y: (p - y).square().sum(), "reduction='none'"),
    "several numbers": (
        "several_labels", four_numbers, nn.BCEWithLogitsLoss(reduction="none"), r"\[4, 4\].*\.flatten\(1\)\.mean\(1\)"
    ),
    "two numbers": ("numbers", one_number, lambda p, y: torch.cat([p - y, y - p], 1), ONE_EACH),
    "too few": ("numbers", one_number, lambda p, y: absolute(p, y)[1:], ONE_EACH),
    "one column left": ("numbers", one_number, lambda p, y: p - y, r"got \[4, 1\].*\.flatten\(1\)\.mean\(1\)"),
    "broadcast": ("numbers", flat, lambda p, y: p - y, r"let the model give \[4, 1\]$"),
    "broadcast, averaged": ("numbers", flat, absolute, r"must not depend on.*let the model give \[4, 1\]"),
    "another shape": ("numbers", flat, None, r"model: must give \[4, 1\] numbers.*got \[4\]"),
    "logits for numbers": ("numbers", two_logits, "squared_error", r"model: must give \[4, 1\] numbers"),
    "labels for numbers": ("numbers", one_number, "cross_entropy", "use 'squared_error'"),
    "classes before places": (
        "plays", lambda: kinds.Own(lambda self, x: self.inner(x).transpose(1, 2), inner=reader()), None,
        r"must give logits \[4, 20, 35\], one per class, got \[4, 35, 20\]",
    ),
    "centred": ("numbers", one_number, lambda p, y: absolute(p - p.mean(), y), DEPENDS),
    "sum up to a sample": ("numbers", one_number, lambda p, y: absolute(p, y).cumsum(0), DEPENDS),
    "fails": ("numbers", one_number, lambda p, y: p.nothing, "fails on predictions.*AttributeError"),
    "of no use": ("numbers", one_number, lambda p: p, "fails on predictions.*TypeError"),
    "integers": ("labels", two_logits, lambda p, y: (p.argmax(-1) != y).long(), r"int64; call \.to\("),
    "truth": ("labels", two_logits, lambda p, y: p.argmax(-1) != y, r"bool; call \.to\("),
    "a float": ("numbers", one_number, lambda p, y: 0.5, "got float"),
    "not a function": ("numbers", one_number, 3, "must be one of 'cross_entropy', 'squared_error'"),
    "misspelled": ("labels", two_logits, "cross_entrpy", "did you mean 'cross_entropy'"),
    "a class": ("numbers", one_number, nn.HuberLoss, r"give one of it, such as HuberLoss\(reduction='none'\)"),
    "random": ("numbers", one_number, drawing, "must not draw at random"),
    "in place": ("numbers", one_number, in_place, r"work on copies \(\.clone\(\)\)"),
    "without a gradient": ("labels", two_logits, lambda p, y: (p.argmax(-1) != y) * 1.0, NO_GRADIENT),
    "NumPy": ("numbers", one_number, largest, "cannot be differentiated by torch.func.*without NumPy"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_loss_is_refused_with_what_to_change(request, name):
    agents, make, loss, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as refused:
        run(request.getfixturevalue(agents), make, loss=loss)
    assert str(refused.value).startswith(("loss", "model: "))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda p, y: (p - y).abs().mean(), "metric: averages over the batch already"),
        (lambda p, y: p[:, 0] > y[:, 0], "metric: must give a tensor of floating-point numbers"),
        (lambda p, y: absolute(p, p.mean()), "metric: a sample's number must not depend"),
        (lambda p, y: p.nothing, "metric: fails on"),
        ("accuracy", "metric = 'accuracy': must be a function of"),
        (nn.L1Loss, "metric: is a class"),
    ],
)
def test_what_is_no_metric_is_refused_with_what_to_change(numbers, metric, message):
    with pytest.raises(ValueError, match=message):
        run(numbers, one_number, metric=metric)


def test_a_batch_without_weights_counts_all_samples_the_same():
    """As a notebook has it from federation.train; held against PyTorch's own mean."""
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, dtype=torch.float64, generator=draws), torch.arange(7) % 4
    w = {"w": torch.randn(3, 4, dtype=torch.float64, generator=draws)}
    loss = gl.models.cross_entropy(lambda params, x: x @ params["w"])
    torch.testing.assert_close(loss(w, (x, y)), F.cross_entropy(x @ w["w"], y))
    torch.testing.assert_close(loss(w, (x, y)), loss(w, (x, y, torch.full((7,), 1 / 7, dtype=torch.float64))))
    right = ((x @ w["w"]).argmax(1) == y).double().mean()
    torch.testing.assert_close(loss.scores(w, (x, y), accurate=True)["accuracy"], right)
