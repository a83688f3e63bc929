"""What is measured along a real run is what the definitions say, and stays under the bound of Theorem 3."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.func import grad, jacrev

import gmfl_lite as gl
from gmfl_lite import theory
from gmfl_lite.models import as_functions

BASE = gl.Experiment(
    model="softmax", partition="dirichlet", dirichlet_alpha=0.3, n_agents=10, n_new_agents=0, agents_per_round=10,
    nu=2, fine_tune_lr=0.2, rounds=20, batch_size=None, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def real():
    federation = gl.build_federation(BASE)
    model = gl.build_model("softmax", federation)
    constants = theory.estimate_constants(model, federation, nu=BASE.nu, fine_tune_lr=BASE.fine_tune_lr)
    return federation, model, constants.meta_smoothness


@pytest.mark.parametrize("gradient", ["exact", "first_order"])
def test_what_is_measured_is_what_the_definitions_say(gradient):
    """The same run by a loop over flat float64 vectors of a tiny model."""
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(3, size=60))
    x = torch.from_numpy(rng.normal(size=(60, 1, 2, 1)) + y.numpy()[:, None, None, None]).float()
    federation = gl.Federation.from_partition(
        gl.Dataset("tiny", x, y, tuple("abc")), gl.partition(y, gl.Dirichlet(0.5), 3, seed=0, min_samples=5)
    )
    with torch.device("meta"):  # so that the layer's constructor draws nothing
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 3))
    model.to_empty(device="cpu")
    torch.nn.init.normal_(model[1].weight, std=2, generator=torch.Generator().manual_seed(2))
    torch.nn.init.zeros_(model[1].bias)
    setting = {"n_agents": 3, "agents_per_round": 3, "rounds": 3, "local_steps": 2, "meta_lr": 0.3}
    experiment = BASE.replace(gradient=gradient, eval_every=2, **setting)
    seen = theory.observe(experiment, federation=federation, model=model)

    predict, params = as_functions(model.double(), torch.device("cpu"))
    w = torch.cat([params[name].flatten() for name in ("1.weight", "1.bias")])

    def loss_of(agent):
        images, labels = federation.train(agent)

        def loss(flat):
            named = {"1.weight": flat[:6].reshape(3, 2), "1.bias": flat[6:]}
            return torch.nn.functional.cross_entropy(predict(named, images.double()), labels)

        return loss

    def tuned(loss, flat):
        for _ in range(experiment.nu):
            flat = flat - experiment.fine_tune_lr * grad(loss)(flat)
        return flat

    losses = [loss_of(agent) for agent in range(3)]
    metas = [lambda flat, loss=loss: loss(tuned(loss, flat)) for loss in losses]
    used = [lambda flat, loss=loss: grad(loss)(tuned(loss, flat)) for loss in losses]
    used = used if gradient == "first_order" else [grad(meta) for meta in metas]
    assert seen.n_agents == 3

    def steepness(meta, flat):
        return torch.linalg.matrix_norm(jacrev(grad(meta))(flat), 2).item()

    steepest = []
    for k in range(3):
        exact = torch.stack([grad(meta)(w) for meta in metas])
        assert seen.losses[k] == pytest.approx(np.mean([meta(w).item() for meta in metas]), rel=1e-5)
        assert seen.squares[k] == pytest.approx(exact.mean(0).square().sum().item(), rel=1e-4)
        assert seen.heterogeneity[k] == pytest.approx((exact - exact.mean(0)).square().sum(1).mean().item(), rel=1e-4)
        ends, biases = [], []
        for meta, gradient_used in zip(metas, used, strict=True):
            here, errors = w, []
            for _ in range(2):
                errors.append((gradient_used(here) - grad(meta)(here)).square().sum().item())
                here = here - experiment.meta_lr * gradient_used(here)
            ends.append(here)
            biases.append(max(errors))
        assert seen.bias[k] == pytest.approx(np.mean(biases), rel=1e-3, abs=1e-12)
        if k in (0, 2):
            steepest += [steepness(meta, point) for meta, end in zip(metas, ends, strict=True) for point in (w, end)]
        w = torch.stack(ends).mean(0)
    assert seen.losses[3] == pytest.approx(np.mean([meta(w).item() for meta in metas]), rel=1e-5)
    assert "meta_smoothness" not in vars(seen), "it takes longer than the rest: measured when it is asked for"
    assert seen.meta_smoothness == pytest.approx(max(steepest), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["exact", "first_order"])
@pytest.mark.parametrize("tau", [1, 5])
@pytest.mark.parametrize("picked", [2, 10])
def test_a_real_run_stays_under_its_bound(real, gradient, tau, picked):
    federation, model, L_F = real
    experiment = BASE.replace(gradient=gradient, local_steps=tau, agents_per_round=picked, meta_lr=0.25 / (tau * L_F))
    seeds = range(2) if picked < 10 else [0]
    seen = [theory.observe(experiment.replace(seed=seed), federation=federation, model=model) for seed in seeds]
    table = theory.beside_bound(seen)
    assert (table["measured"] <= table["total"]).all()
    last = table.iloc[-1]
    assert last["measured"] > last["total"] / 10
    terms = {name for name in ("drift", "sampling", "bias", "noise") if last[name] > 0}
    expected = {"drift": tau > 1, "sampling": picked < 10, "bias": gradient == "first_order"}
    assert terms == {name for name, there in expected.items() if there}
    total = theory.convergence_bound(
        rounds=20,
        local_steps=tau,
        meta_lr=experiment.meta_lr,
        meta_smoothness=max(run.meta_smoothness for run in seen),
        initial_gap=np.mean([run.losses[0] - run.losses[-1] for run in seen]),
        n_agents=10,
        agents_per_round=picked,
        meta_heterogeneity=np.sqrt(np.mean([run.heterogeneity for run in seen])),
        meta_bias=np.sqrt(np.mean([run.bias for run in seen])),
    ).total
    assert last["total"] == pytest.approx(total)


def test_refusals(real):
    federation, model, _ = real
    with pytest.raises(ValueError, match="batch_size = 20: must be None"):
        theory.observe(BASE.replace(batch_size=20), federation=federation, model=model)
    with pytest.raises(ValueError, match="weighting = 'samples': must be 'uniform'"):
        theory.observe(BASE.replace(weighting="samples"), federation=federation, model=model)
    short = BASE.replace(rounds=1, local_steps=1)
    one, other = (theory.observe(short.replace(nu=nu), federation=federation, model=model) for nu in (0, 1))
    for runs in ([], [one, other], [one, dataclasses.replace(one, n_agents=9)]):
        with pytest.raises(ValueError, match="observations"):
            theory.beside_bound(runs)
