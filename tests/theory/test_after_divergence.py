"""What to lower after a run has diverged: bounded work, an answer at once when somebody waits, and a good one."""

import re
import threading

import pytest
import torch

import gmfl_lite as gl
from gmfl_lite import runner
from gmfl_lite.engine import Stopped
from gmfl_lite.models import as_functions, cross_entropy
from gmfl_lite.theory import after_divergence
from gmfl_lite.theory.after_divergence import AGENTS, SAMPLES, what_to_lower
from gmfl_lite.trainer import limit_of

WILD = gl.Experiment(rounds=20, n_agents=20, meta_lr=100.0)
AT_ONCE = "lower meta_lr (now 100), for example to 10, or fine_tune_lr (now 0.05)"


@pytest.fixture(scope="module")
def parts():
    """The agents, f_i and the initial w."""
    federation = gl.build_federation(WILD)
    predict, w = as_functions(gl.build_model("mlp", federation), torch.device("cpu"))
    return federation, cross_entropy(predict), w


def never(params, batch):
    raise AssertionError("computed all the same")


def test_somebody_who_has_stopped_is_answered_at_once(parts):
    stop = threading.Event()
    stop.set()
    assert what_to_lower(WILD, parts[0], never, parts[2], parts[2], stop) == AT_ONCE


def test_out_of_time_the_run_ends_all_the_same(monkeypatch):
    monkeypatch.setattr(after_divergence, "SECONDS", 0.0)
    result = gl.run(WILD, progress=False)
    assert result.status == "diverged"
    assert result.message.endswith(AT_ONCE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError("CUDA"), torch.linalg.LinAlgError("nan")])
def test_ctrl_c_and_what_cannot_be_measured_lose_nothing(error, monkeypatch):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(after_divergence, "curvatures", fails)
    result = gl.run(WILD, progress=False)
    assert result.status == "diverged"
    assert result.message.endswith(AT_ONCE)
    assert len(result.history) > 0


def test_stop_ends_the_measuring_in_the_middle(monkeypatch):
    """Set by the first measurement; what that has told is the last word, and the run has diverged."""
    stop, plain, calls = threading.Event(), after_divergence.curvatures, []

    def sets(*args, **kwargs):
        calls.append(1)
        found = plain(*args, **kwargs)
        threading.Event.set(stop)
        return found

    monkeypatch.setattr(after_divergence, "curvatures", sets)
    result = gl.run(WILD, stop=stop, progress=False)
    assert (result.status, len(calls)) == ("diverged", 1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"meta_lr": 100.0}, {"meta_lr": 3.0}, {"meta_lr": 100.0, "nu": 20}])
def test_a_value_told_before_all_is_measured_is_good_too(settings, monkeypatch):
    """There is time for the curvatures of the agents' losses, none for those after ν steps."""
    plain, measured = after_divergence.curvatures, []

    def once(*args, **kwargs):
        measured.append(1)
        if len(measured) > 1:
            raise Stopped
        return plain(*args, **kwargs)

    monkeypatch.setattr(after_divergence, "curvatures", once)
    monkeypatch.setattr(after_divergence, "SECONDS", 600.0)
    experiment = gl.Experiment(rounds=50, n_agents=20, **settings)
    told = gl.run(experiment, progress=False).message
    assert len(measured) == 2
    smaller = float(re.search(r"lower meta_lr \(now \d+\), for example to (\S+)$", told)[1])
    assert gl.run(experiment.replace(meta_lr=smaller), progress=False).status == "completed"


def test_the_work_does_not_grow_with_the_agents_and_their_samples(digits, monkeypatch):
    monkeypatch.setattr(after_divergence, "SECONDS", 600.0)
    experiment = WILD.replace(n_agents=30, n_new_agents=0, agents_per_round=30, nu=1)
    federation = gl.Federation.from_partition(digits, gl.partition(digits.y, gl.IID(), 30, seed=0))
    assert federation.train_sizes.max() > SAMPLES
    predict, w = as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    seen = []

    def loss_fn(params, batch):
        seen.append(batch[2].shape[-1])
        return cross_entropy(predict)(params, batch)

    plain = after_divergence.curvatures
    agents = []

    def counted(loss_fn, points, batches, **how):
        agents.append(len(batches[2]))
        torch.testing.assert_close(batches[2].sum(1), torch.ones(len(batches[2])))
        return plain(loss_fn, points, batches, **how)

    monkeypatch.setattr(after_divergence, "curvatures", counted)
    assert what_to_lower(experiment, federation, loss_fn, w, w).startswith("lower meta_lr (now 100), for example to ")
    assert max(seen) <= SAMPLES
    assert agents == [AGENTS] * 2


def test_the_loss_before_training_is_not_deaf(parts):
    federation, loss_fn, w = parts
    stop, calls = threading.Event(), []

    def sets(params, batch):
        calls.append(1)
        stop.set()
        return loss_fn(params, batch)

    with pytest.raises(Stopped):
        limit_of(WILD, federation, sets, w, stop)
    assert len(calls) == 1
    monkey = gl.run(WILD.replace(rounds=1), stop=stop, progress=False)
    assert (monkey.status, monkey.round) == ("stopped", 0)


def test_a_run_that_diverges_when_scored_keeps_the_last_sound_parameters(monkeypatch):
    plain, calls = runner.evaluate, []

    def bad(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise FloatingPointError("the loss of new agents is not finite after 3 fine-tuning steps")
        return plain(*args, **kwargs)

    monkeypatch.setattr(runner, "evaluate", bad)
    calm = gl.Experiment(model="softmax", rounds=6, eval_every=2, n_agents=20)
    found = gl.run(calm, progress=False)
    monkeypatch.undo()
    whole = gl.run(calm.replace(rounds=3), progress=False)
    assert (found.status, found.round) == ("diverged", 3)
    assert "diverged in round 4: the loss of new agents" in found.message
    assert sorted(set(found.history["round"])) == [0, 2]
    assert all(torch.equal(tensor, whole.params[name]) for name, tensor in found.params.items())
