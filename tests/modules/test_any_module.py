"""Any module trains as a plain autograd loop does, or is refused in words before any work."""

import warnings

import kinds_of_modules as kinds
import numpy as np
import plain_loop
import pytest
import torch
import torch.nn.functional as F

import gmfl_lite as gl
from gmfl_lite.basics.identity import identity

EXPERIMENT = gl.Experiment(
    rounds=1, agents_per_round=2, local_steps=2, batch_size=5, fine_tune_lr=0.1, meta_lr=0.1, eval_steps=(0, 1)
)


@pytest.fixture(scope="module")
def few(digits):
    """Two agents that train, of 8 and 12 samples, and a new one."""
    parts = [np.arange(11), np.arange(11, 27), np.arange(27, 35)]
    return gl.Federation.from_partition(digits, parts, n_new_agents=1, seed=0)


def made(make):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old ways to make a module still work
        torch.manual_seed(0)
        return make()


def ran(few, make, nu, **settings):
    """Return a run's result, the warnings on the way, and the module, which must not have changed."""
    model = made(make)
    before = identity(model)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = gl.run(EXPERIMENT.replace(nu=nu, **settings), federation=few, model=model, progress=False)
    assert identity(model) == before
    assert [str(warning.message) for warning in seen if "with oneDNN" not in str(warning.message)] == []
    return result


@pytest.mark.parametrize("nu", [0, 1, 3])
@pytest.mark.parametrize("name", kinds.TRAINS | kinds.ALONE | kinds.EITHER)
def test_trains_as_a_plain_loop(few, name, nu):
    make = (kinds.TRAINS | kinds.ALONE | kinds.EITHER)[name]
    result = ran(few, make, nu)
    expected = plain_loop.plain_loop(made(make), EXPERIMENT.replace(nu=nu), few, F.cross_entropy)
    assert plain_loop.largest_gap(result, expected) < 2e-5
    assert result.status == "completed"
    alone = result.engine.count("one agent at a time, as torch has no batching rule for")
    assert alone in {(name in kinds.ALONE), (name in kinds.ALONE or name in kinds.EITHER)}


@pytest.mark.parametrize("name", kinds.REFUSED)
def test_is_refused_in_words(few, name):
    make, message = kinds.REFUSED[name]
    for nu in (0, 1, 3):
        with pytest.raises(ValueError, match=message) as refused:
            ran(few, make, nu)
        said = str(refused.value)
        assert said.startswith("model: ")
        assert len(said) < 400
        assert "Traceback" not in said
        assert "\n" not in said


@pytest.mark.parametrize("name", ["ReLU", "LayerNorm", "causal attention", "MultiheadAttention", "GRU"])
def test_in_float64_the_difference_is_rounding(few, name):
    make = (kinds.TRAINS | kinds.ALONE)[name]
    result = ran(few, make, 3, precision="float64")
    experiment = EXPERIMENT.replace(nu=3, precision="float64")
    assert plain_loop.largest_gap(result, plain_loop.plain_loop(made(make), experiment, few, F.cross_entropy)) < 1e-12


@pytest.mark.slow
def test_a_compiled_module_trains_as_it_does_itself(few):
    itself, compiled = (ran(few, make, 1) for make in (kinds.mlp, lambda: torch.compile(kinds.mlp())))
    for name, tensor in itself.params.items():
        torch.testing.assert_close(compiled.params[f"_orig_mod.{name}"], tensor)


def test_a_module_without_second_derivative_is_told_what_has_none(few):
    with pytest.raises(ValueError, match=r"use gradient='first_order', or nu=0 \(NotImplementedError"):
        ran(few, kinds.bag, 1)
    assert ran(few, kinds.bag, 1, gradient="first_order").status == "completed"
    result = ran(few, kinds.bag, 0)
    assert (
        plain_loop.largest_gap(
            result, plain_loop.plain_loop(made(kinds.bag), EXPERIMENT.replace(nu=0), few, F.cross_entropy)
        )
        < 2e-5
    )


@pytest.mark.parametrize("nu", [0, 1])
def test_a_module_that_gives_nan_has_diverged_before_training(few, nu):
    result = ran(few, lambda: kinds.wrapped(lambda self, x: self.inner(x) / 0 * 0), nu)
    assert result.status == "diverged"
    assert result.message.startswith("diverged before training: the loss of trained agents is not finite")


def test_what_a_module_says_itself_does_not_slow_it_down(few):
    def warn(self, x):
        warnings.warn("of my own", stacklevel=1)
        return self.inner(x)

    model = made(lambda: kinds.wrapped(warn))
    with pytest.warns(UserWarning, match="of my own"):
        result = gl.run(EXPERIMENT, federation=few, model=model, progress=False)
    assert "all picked agents at once" in result.engine
