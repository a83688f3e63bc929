"""The field's methods, from their papers' formulas in NumPy: three rounds of softmax regression, to the last digits."""

import threading

import numpy as np
import pytest
import torch
from same_result import assert_same

import gmfl_lite as gl

BASE = gl.Experiment(
    model="softmax", nu=0, n_agents=6, n_new_agents=0, agents_per_round=6, local_steps=3, rounds=3, batch_size=None,
    fine_tune_lr=0.2, meta_lr=0.3, eval_every=1, eval_steps=(0,), weighting="samples", device="cpu",
    precision="float64",
)  # fmt: skip
METHODS = {
    "FedAvg": {},
    "FedAvgM": {"server": "momentum", "server_lr": 0.7},
    "FedAdam": {"server": "adam", "server_lr": 0.05},
    "FedProx": {"proximal": 2.0},
    "Reptile": {"gradient": "reptile", "nu": 4, "local_steps": 1, "server_lr": 0.4},
    "FedProx, Adam": {"proximal": 2.0, "server": "adam", "server_lr": 0.05},
}


def gradient(w, x, y):
    """∇ of the mean cross-entropy of softmax(x W' + b), for w = (W [classes, inputs], b [classes])."""
    scores = x @ w[0].T + w[1]
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return [p.T @ x / len(y), p.mean(0)]


def by_textbook(experiment, agents, w):
    """Train on agents [(x, y)] from w, a list of arrays."""
    m, v = ([np.zeros_like(part) for part in w] for _ in range(2))
    for k in range(1, experiment.rounds + 1):
        sent = []
        for x, y in agents:
            w_i = w
            steps = experiment.nu if experiment.gradient == "reptile" else experiment.local_steps
            for _ in range(steps):
                g = gradient(w_i, x, y)
                if experiment.gradient == "reptile":  # fine-tunes, and is sent β/α of the way
                    w_i = [part - experiment.fine_tune_lr * change for part, change in zip(w_i, g, strict=True)]
                    continue
                pull = [experiment.proximal * (part - server) for part, server in zip(w_i, w, strict=True)]
                w_i = [part - experiment.meta_lr * (a + b) for part, a, b in zip(w_i, g, pull, strict=True)]
            if experiment.gradient == "reptile":
                way = experiment.meta_lr / experiment.fine_tune_lr
                w_i = [server + way * (part - server) for part, server in zip(w_i, w, strict=True)]
            sent.append(w_i)
        sizes = np.array([len(y) for _, y in agents])
        p = sizes / sizes.sum()
        delta = [np.tensordot(p, parts, 1) - part for *parts, part in zip(*sent, w, strict=True)]
        lr = experiment.server_lr
        if experiment.server == "momentum":
            m = [0.9 * old + change for old, change in zip(m, delta, strict=True)]
            w = [part + lr * move for part, move in zip(w, m, strict=True)]
        elif experiment.server == "adam":
            m = [0.9 * old + 0.1 * change for old, change in zip(m, delta, strict=True)]
            v = [0.99 * old + 0.01 * change**2 for old, change in zip(v, delta, strict=True)]
            w = [
                part + lr * a / (1 - 0.9**k) / (np.sqrt(b / (1 - 0.99**k)) + 1e-3)
                for part, a, b in zip(w, m, v, strict=True)
            ]
        else:
            w = [part + lr * change for part, change in zip(w, delta, strict=True)]
    return w


@pytest.mark.parametrize("execution", ["vectorized", "loop", "by hand"])
@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_textbooks(name, execution):
    experiment = BASE.replace(**METHODS[name])
    federation = gl.build_federation(experiment)
    start = gl.build_model("softmax", federation, seed=experiment.seed).state_dict()
    agents = [[t.numpy() for t in federation.train(agent)] for agent in range(6)]
    agents = [(x.reshape(len(x), -1), y) for x, y in agents]
    expected = by_textbook(experiment, agents, [tensor.numpy() for tensor in start.values()])
    if execution == "by hand":
        found = gl.by_hand(experiment)
    else:
        found = gl.run(experiment.replace(execution=execution), progress=False).params
    for (name, tensor), array, at_start in zip(found.items(), expected, start.values(), strict=True):
        np.testing.assert_allclose(tensor.numpy(), array, rtol=0, atol=1e-10, err_msg=name)
        assert np.abs(array - at_start.numpy()).max() > 1e-2, "nothing was trained"


@pytest.mark.parametrize(
    ("server", "lr", "optimiser"),
    [
        ("momentum", 0.3, lambda w: torch.optim.SGD(w, lr=0.3, momentum=0.9)),
        ("adam", 0.02, lambda w: torch.optim.Adam(w, lr=0.02, betas=(0.9, 0.99), eps=1e-3)),
    ],
)
def test_the_servers_arithmetic_is_pytorchs(server, lr, optimiser):
    draws = torch.Generator().manual_seed(0)
    w = {"a": torch.randn(3, 2, generator=draws), "steps": torch.randn(2, generator=draws)}
    theirs = [tensor.clone().requires_grad_() for tensor in w.values()]
    optimiser, memory = optimiser(theirs), {}
    for _ in range(6):
        average = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=draws) for name, tensor in w.items()}
        before = {name: tensor.clone() for name, tensor in {**w, **memory}.items()}
        after, later = gl.server_step(w, average, memory, server=server, server_lr=lr)
        assert all(torch.equal(before[name], tensor) for name, tensor in {**w, **memory}.items()), "was changed"
        for parameter, tensor in zip(theirs, average.values(), strict=True):
            parameter.grad = (parameter - tensor).detach()
        optimiser.step()
        w, memory = after, later
        for mine, tensor in zip(w.values(), theirs, strict=True):
            torch.testing.assert_close(mine, tensor.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("execution", ["vectorized", "loop"])
@pytest.mark.parametrize("name", ["FedAvgM", "FedAdam"])
def test_what_the_server_remembers_outlives_a_stop(name, execution, tmp_path):
    experiment = BASE.replace(execution=execution, **METHODS[name])
    whole, stop = gl.run(experiment, progress=False), threading.Event()
    how = {"checkpoint": tmp_path / "run", "progress": False}
    first = gl.run(experiment, stop=stop, on_round=lambda round, _: round == 2 and stop.set(), **how)
    assert first.status == "stopped"
    assert_same(gl.run(experiment, **how), whole)


def test_the_server_and_the_pull_change_neither_who_holds_what_nor_the_batches():
    small = BASE.replace(batch_size=5, rounds=1, local_steps=1, n_agents=12, agents_per_round=4)
    plain = gl.run(small, progress=False).params
    start = gl.build_model("softmax", gl.build_federation(small)).state_dict()
    pulled = gl.run(small.replace(proximal=5.0), progress=False).params
    momentum = gl.run(small.replace(server="momentum"), progress=False).params
    for name, tensor in plain.items():  # one local step starts at the server's w; momentum begins with nothing
        torch.testing.assert_close(pulled[name], tensor, rtol=0, atol=1e-14)
        torch.testing.assert_close(momentum[name], tensor, rtol=0, atol=1e-14)
        assert (tensor - start[name]).abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"server": "adam", "server_lr": 30.0}, "server_lr"),
        ({"server": "momentum", "server_lr": 30.0}, "server_lr"),
        ({"server": "momentum", "meta_lr": 1000.0}, "meta_lr"),
        ({"proximal": 1000.0, "meta_lr": 0.1}, "meta_lr"),
    ],
)
def test_a_step_that_goes_too_far_is_named_and_what_is_told_completes(settings, field):
    experiment = BASE.replace(**{**settings, "model": "mlp", "rounds": 30, "local_steps": 20, "precision": "float32"})
    result = gl.run(experiment, progress=False)
    assert result.status == "diverged"
    told = f"lower {field} (now {settings[field]:g}), for example to "
    assert told in result.message
    smaller = float(result.message.split(told)[1].split()[0])
    assert gl.run(experiment.replace(**{field: smaller}), progress=False).status == "completed"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"server": "momentum", "server_lr": 0}, "server_lr = 0: must be a finite number above 0"),
        ({"server": "adams"}, "did you mean 'adam'"),
        ({"proximal": -1}, "proximal = -1: must be a finite number of at least 0"),
        ({"proximal": float("inf")}, "proximal = inf"),
    ],
)
def test_wrong_values_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        BASE.replace(**settings)


def test_theory_refuses_what_it_has_no_bound_for():
    with pytest.raises(ValueError, match="proximal = 1"):
        gl.theory.observe(BASE.replace(proximal=1.0, weighting="uniform"))
    quadratics = gl.theory.Quadratics.random(3, 2, lowest=0.1, highest=1.0, seed=0)
    with pytest.raises(ValueError, match="server = 'adam': must be one with a formula: 'average'"):
        quadratics.round([1.0, 2.0], 1, 0.1, 0.1, 2, server="adam")
