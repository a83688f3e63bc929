"""Runs of the same local step share its recording; runs whose step differs in anything do not."""

import dataclasses

import pytest
import torch
from torch import nn

import gmfl_lite as gl
from gmfl_lite.engine import recording as module
from gmfl_lite.engine import vectorized
from gmfl_lite.meta_gradients import METHODS

BASE = gl.Experiment(
    model="softmax", n_agents=8, n_new_agents=0, agents_per_round=3, rounds=3, local_steps=1, eval_every=3, nu=1,
    eval_steps=(0,), batch_size=5,
)  # fmt: skip


@pytest.fixture
def recorded(monkeypatch):
    """Count the recordings that are made, beginning with none that are kept."""
    made = []
    capture = vectorized.capture
    monkeypatch.setattr(vectorized, "capture", lambda *a, **k: made.append(1) or capture(*a, **k))
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1)
    monkeypatch.setattr(module, "_kept", {})
    return made


def run(experiment, **more):
    return gl.run(experiment, progress=False, **more).params


OTHERS = [
    {"nu": 2}, {"gradient": "first_order"}, {"gradient": "hessian_free"},
    {"proximal": 0.5}, {"batch_size": 6}, {"agents_per_round": 4}, {"precision": "float64"}, {"model": "mlp"},
    {"nu": 2, "gradient": "truncated", "backprop_steps": 1}, {"model": "mlp", "personal": "head"},
    {"model": "mlp", "personal": "body"}, {"dataset": "sinusoids", "model": "mlp", "partition": "iid"},
]  # fmt: skip


@pytest.mark.slow
def test_each_kind_of_step_has_its_own(recorded, monkeypatch):
    """What comes after others is what comes first, to the bit, whatever the others have left."""
    monkeypatch.setattr(module, "MOST_KEPT", 100)
    kinds = [BASE, *(BASE.replace(**other) for other in OTHERS)]
    later = [run(experiment) for experiment in kinds]
    assert len(recorded) == len(kinds)
    for experiment, params in zip(kinds[::3], later[::3], strict=True):
        module.forget()
        alone = run(experiment)
        assert all(torch.equal(params[name], alone[name]) for name in alone)


@pytest.mark.parametrize(
    "other",
    [{"seed": 3}, {"fine_tune_lr": 0.06}, {"meta_lr": 0.06}, {"dirichlet_alpha": 5.0}, {"rounds": 4},
     {"local_steps": 3}, {"server": "adam", "server_lr": 0.1}, {"weighting": "samples"}, {"n_agents": 9}],
)  # fmt: skip
def test_what_no_step_depends_on_shares_it(recorded, other):
    alone = run(BASE.replace(**other))
    module.forget()
    recorded.clear()
    run(BASE)
    shared = run(BASE.replace(**other))
    assert len(recorded) == 1
    assert all(torch.equal(shared[name], alone[name]) for name in alone)


def test_what_is_not_the_librarys_in_all_its_parts_is_recorded_by_itself(recorded):
    """A module's, a loss's or a local step's code may close over anything."""

    class Scaled(nn.Linear):
        by = 1.0

        def forward(self, x):
            return self.by * super().forward(x.flatten(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        modules = Scaled(64, 10), Scaled(64, 10)
        frozen = [nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ELU(), nn.Linear(8, 10)) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    modules[1].by = 2.0
    for model in frozen:
        model[1].requires_grad_(False)
    frozen[1][3].load_state_dict(frozen[0][3].state_dict())
    for pair in (modules, frozen):
        first, second = (run(BASE, model=model) for model in pair)
        assert any(not torch.equal(first[name], second[name]) for name in first)
    run(BASE, loss=lambda prediction, y: nn.functional.cross_entropy(prediction, y, reduction="none"))
    run(BASE, loss=lambda prediction, y: 2 * nn.functional.cross_entropy(prediction, y, reduction="none"))
    assert len(recorded) == 6
    assert not module._kept


def flat(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


class Config:
    scale = 1.0


def tied(to):
    """Two models whose layers have the same names, shapes and classes: the fourth is tied to another one."""
    layers = [nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 64), nn.Linear(64, 10)]
    layers[4].weight, layers[4].bias = layers[to].weight, layers[to].bias
    return flat(*layers)


def repeated(again):
    layer, elu, out = nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 10)
    return flat(layer, elu, layer if again else elu, out)


def hooked(scale):
    model = flat(nn.Linear(64, 10))
    model[1].register_forward_hook(lambda layer, given, output: output * Config.scale)
    Config.scale = scale
    return model


@pytest.mark.parametrize("pair", [(tied, 0, 2), (repeated, True, False), (hooked, 1.0, 2.0)])
def test_layers_that_say_not_all_are_recorded_by_themselves(recorded, pair):
    build, *ways = pair
    for way in ways:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            run(BASE, model=build(way))
    assert len(recorded) == 2
    assert not module._kept


def test_a_layer_whose_forward_was_replaced_does_not_say_all():
    with torch.random.fork_rng():
        model = flat(nn.Linear(64, 10))
    assert gl.models.as_functions(model, torch.device("cpu"))[0].known
    model[1].forward = lambda x: x[:, :10]
    assert not gl.models.as_functions(model, torch.device("cpu"))[0].known


def test_a_hook_on_all_modules_and_autocast_are_recorded_by_themselves(recorded):
    handle = nn.modules.module.register_module_forward_hook(lambda layer, given, output: output * 1.0)
    try:
        run(BASE)
    finally:
        handle.remove()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(BASE)
    assert len(recorded) == 2
    assert not module._kept


def test_a_loss_and_a_gradient_of_ones_own_are_recorded_by_themselves(recorded, monkeypatch):
    class Doubled(type(gl.models.loss_of(lambda w, x: x))):
        def __call__(self, params, batch):
            return 2 * super().__call__(params, batch)

    plain = run(BASE)
    own = run(BASE, engine=lambda e, f, o, w: gl.Vectorized(e, f, Doubled(o.predict), w))
    assert any(not torch.equal(plain[name], own[name]) for name in plain)
    assert len(recorded) == 2


def test_another_estimate_under_the_same_name_is_recorded_anew(recorded, monkeypatch):
    before = run(BASE)
    exact = METHODS["exact"]

    def twice(*args, **kwargs):
        gradient, loss = exact.estimate(*args, **kwargs)
        return {name: 2 * tensor for name, tensor in gradient.items()}, loss

    monkeypatch.setitem(METHODS, "exact", dataclasses.replace(exact, estimate=twice))
    after = run(BASE)
    assert len(recorded) == 2
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_an_estimate_of_ones_own_is_given_its_step_size_as_a_number(recorded, monkeypatch):
    """It may branch on it; recordings of it are its run's alone, and need not be valid for other step sizes."""
    exact, given = METHODS["exact"], []

    def watching(loss_fn, params, support, query, lr, **settings):
        given.append(lr)
        return exact.estimate(loss_fn, params, support, query, lr, **settings)

    monkeypatch.setitem(METHODS, "exact", dataclasses.replace(exact, estimate=watching))
    run(BASE.replace(fine_tune_lr=0.06))
    assert len(recorded) == 1
    assert given
    assert all(type(lr) is float and lr == 0.06 for lr in given)


def test_few_are_kept_the_ones_that_were_asked_for_last(recorded):
    sizes = [2 + k for k in range(module.MOST_KEPT + 1)]
    for size in sizes:
        run(BASE.replace(batch_size=size))
        run(BASE.replace(batch_size=sizes[0]))  # is asked for again and again
    assert len(module._kept) == module.MOST_KEPT
    assert len(recorded) == len(sizes)
    run(BASE.replace(batch_size=sizes[0]))
    assert len(recorded) == len(sizes)
    run(BASE.replace(batch_size=sizes[1]))
    assert len(recorded) == len(sizes) + 1


def test_all_step_sizes_share_one_and_give_what_the_readable_loop_gives(recorded):
    """Also a pull of its own to the server's w, and all of them other than at the recording."""
    base = BASE.replace(proximal=0.5, precision="float64", local_steps=2)
    run(base)
    other = base.replace(fine_tune_lr=0.2, meta_lr=0.3, proximal=1.5)
    shared, by_loop = run(other), run(other.replace(execution="loop"))
    assert len(recorded) == 1
    for name, tensor in by_loop.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-10, atol=1e-12)
