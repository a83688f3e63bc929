"""Scores against a plain PyTorch computation, and nothing scored that was fine-tuned on."""

import copy
import weakref

import numpy as np
import pandas as pd
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite.basics import ragged
from gmfl_lite.basics.ragged import IndexTable
from gmfl_lite.engine import Stopped
from gmfl_lite.engine.agents_axis import agents_at_once
from gmfl_lite.evaluation import evaluate, some_of, summarise
from gmfl_lite.models import as_functions


@pytest.fixture
def model(federation):
    return gl.build_model("mlp", federation, seed=3)


def scores(federation, model, steps=(0, 2, 5), execution="vectorized", lr=0.3):
    predict, params = as_functions(model, torch.device("cpu"))
    return evaluate(federation, predict, params, steps=steps, fine_tune_lr=lr, execution=execution)


def test_every_score_equals_plain_pytorch(federation, model):
    found = scores(federation, model).set_index(["agent", "fine_tune_steps"])
    assert len(found) == 15 * 3
    for agent in (0, 7, 11, 12, 14):
        tuned = copy.deepcopy(model)
        optimiser = torch.optim.SGD(tuned.parameters(), lr=0.3)
        x, y = federation.train(agent)
        x_test, y_test = federation.test(agent)
        for taken in range(6):
            if taken in (0, 2, 5):
                row = found.loc[agent, taken]
                logits = tuned(x_test)
                assert row["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, y_test).item(), abs=1e-5)
                assert row["accuracy"] == pytest.approx((logits.argmax(1) == y_test).float().mean().item(), abs=1e-6)
                assert row["group"] == ("trained" if agent < 12 else "new")
                assert row["samples"] == federation.sizes[agent]
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(tuned(x), y).backward()
            optimiser.step()


def test_engines_agree(federation, model):
    pd.testing.assert_frame_equal(scores(federation, model), scores(federation, model, execution="loop"), atol=1e-5)


def test_scored_samples_do_not_touch_the_fine_tuned_model(federation, model):
    """Spoiling one agent's test images changes that agent's scores only; spoiling its training images, too."""
    before = scores(federation, model)
    for table, touched_at_zero in ((federation._test, True), (federation._train, False)):
        spoiled = copy.copy(federation)
        spoiled.x = federation.x.clone()
        spoiled.x[table.of(4)] = 0.5
        after = scores(spoiled, model)
        changed = set(before[before["loss"] != after["loss"]]["agent"])
        assert changed == {4}
        at_zero = (before["agent"] == 4) & (before["fine_tune_steps"] == 0)
        assert (before["loss"] != after["loss"])[at_zero].any() == touched_at_zero


def test_summary_is_the_uniform_mean_over_agents():
    agents = pd.DataFrame(
        {
            "group": ["trained"] * 4 + ["new"] * 2,
            "fine_tune_steps": [0, 1, 0, 1, 0, 1],
            "samples": [1, 1, 99, 99, 5, 5],
            "loss": [1.0, 2, 3, 4, 5, 6],
            "accuracy": [0.0, 0.2, 1.0, 0.4, 0.5, 0.6],
        }
    )
    summary = summarise(agents).set_index(["group", "fine_tune_steps"])
    assert summary.loc[("trained", 0)].tolist() == [2.0, 0.5, pytest.approx(0.1), pytest.approx(0.9)]
    assert summary.loc[("new", 1)].tolist() == [6.0, 0.6, 0.6, 0.6]
    assert list(summary.index.get_level_values("group").unique()) == ["trained", "new"]


def test_a_loss_that_is_not_finite_is_no_score(federation, model):
    with pytest.raises(FloatingPointError, match="trained agents is not finite after 5 fine-tuning steps"):
        scores(federation, model, lr=1e30, steps=(0, 5))


def test_padding_counts_for_nothing(federation, model, monkeypatch):
    narrow = scores(federation, model)
    monkeypatch.setattr(ragged, "padded", lambda sizes: np.full_like(sizes, sizes.max() + 9))
    assert federation.train_sets(torch.tensor([0]))[0].shape[1] == federation.train_sizes.max() + 9
    np.testing.assert_allclose(narrow["loss"], scores(federation, model)["loss"], atol=1e-5)


@pytest.mark.parametrize("execution", ["vectorized", "loop"])
def test_agents_of_very_different_sizes_are_scored_as_each_is_alone(one_giant, execution):
    """In groups, and in the agents' order all the same; a federation of the one agent is the oracle."""
    model = gl.build_model("mlp", one_giant, seed=3)
    found = scores(one_giant, model, execution=execution).set_index(["agent", "fine_tune_steps"])
    assert found.index.get_level_values("agent").unique().tolist() == list(range(len(one_giant.sizes)))
    for agent in (0, 6, 7, 11):  # the giant is number 7
        (x, y), (x_test, y_test) = one_giant.train(agent), one_giant.test(agent)
        dataset = gl.Dataset("alone", torch.cat([x, x_test]), torch.cat([y, y_test]), one_giant.classes)
        train, test = torch.arange(len(x)).numpy(), torch.arange(len(x), len(dataset)).numpy()
        tables = (IndexTable.from_lists([rows], torch.device("cpu")) for rows in (train, test))
        alone = gl.Federation(dataset.x, dataset.y, dataset.classes, *tables, 0, np.zeros(1))
        np.testing.assert_allclose(found.loc[agent]["loss"], scores(alone, model)["loss"], atol=1e-5)


def test_stop_ends_an_evaluation_within_a_step(federation, model):
    class AfterThreeLooks:
        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 3

    stop = AfterThreeLooks()
    predict, params = as_functions(model, torch.device("cpu"))
    with pytest.raises(Stopped):
        evaluate(federation, predict, params, steps=(0, 10), fine_tune_lr=0.1, execution="vectorized", stop=stop)
    assert stop.looks == 4


def test_counting_what_a_loss_keeps_leaves_nothing_behind():
    """An operation that saves its own result must not be kept alive by being looked at."""
    results = []

    def loss_fn(params, batch):
        result = (params["w"] * batch[0]).exp()
        results.append(weakref.ref(result))
        return result.sum()

    assert agents_at_once(loss_fn, {"w": torch.ones(3)}, (torch.ones(1, 3),), copies=1) > 1
    assert [result() for result in results] == [None]


def test_everything_that_a_loss_keeps_is_counted():
    def loss_fn(params, batch):
        result = params["w"] * batch[0]
        for _ in range(20):
            result = result.exp()  # keeps its own result of a thousand numbers, and nothing else does
        return result.sum()

    numbers = 22_000  # w, the batch that the product keeps, and twenty results
    found = agents_at_once(loss_fn, {"w": torch.zeros(1000)}, (torch.zeros(1, 1000),), copies=100)
    assert found == 10**8 // (100 * numbers)


QUICK = gl.Experiment(
    n_agents=12, n_new_agents=3, agents_per_round=4, rounds=4, eval_every=2, model="softmax", eval_steps=(0, 2),
    device="cpu",
)  # fmt: skip


def test_some_agents_are_scored_as_they_are_among_all(federation):
    """The same model, the same rows; twelve and three agents of which five are asked for: five and all three."""
    every, some = (gl.run(QUICK.replace(eval_agents=most), progress=False) for most in (None, 5))
    assert all(torch.equal(every.params[name], tensor) for name, tensor in some.params.items())
    chosen = some.agents["agent"].unique()
    assert [(chosen < 12).sum(), (chosen >= 12).sum()] == [5, 3]
    assert list(chosen) == sorted(chosen)
    rows = every.agents[every.agents["agent"].isin(chosen)].reset_index(drop=True)
    pd.testing.assert_frame_equal(some.agents, rows, atol=1e-6)
    last = some.history[some.history["round"] == 4].set_index(["group", "fine_tune_steps"])["loss"]
    for (group, steps), loss in rows.groupby(["group", "fine_tune_steps"])["loss"].mean().items():
        assert last[group, steps] == pytest.approx(loss, rel=1e-6)


def test_the_same_agents_are_scored_in_every_round_and_others_with_another_seed():
    seen = []
    for seed in (0, 0, 1):
        experiment = QUICK.replace(eval_agents=5, seed=seed)
        run = gl.run(experiment, progress=False)
        first = gl.run(experiment.replace(rounds=2), progress=False)
        assert run.agents["agent"].tolist() == first.agents["agent"].tolist()
        seen.append(run.agents["agent"].unique().tolist())
    assert seen[0] == seen[1] != seen[2]


def test_every_agent_of_a_group_is_chosen_as_often():
    members = torch.arange(20, 30)
    times = torch.bincount(torch.cat([some_of("new", members, 3, seed) for seed in range(2000)]), minlength=30)
    assert times[:20].sum() == 0
    assert abs(times[20:] - 600).max() < 5 * (2000 * 0.3 * 0.7) ** 0.5
    assert some_of("new", members, 10, 0) is members
    assert some_of("new", members, None, 0) is members


def test_what_takes_long_shows_how_far_it_is(federation, model, monkeypatch, capsys):
    result = gl.run(QUICK, federation=federation, model=model, progress=False)
    for patience, shown in ((100, False), (0, True)):
        monkeypatch.setattr("gmfl_lite.evaluation.PATIENCE", patience)
        monkeypatch.delenv("TQDM_DISABLE", raising=False)
        result.evaluate(federation, model=model)
        assert ("agent/s" in capsys.readouterr().err) is shown
    monkeypatch.setenv("TQDM_DISABLE", "1")
    result.evaluate(federation, model=model)
    assert "agent" not in capsys.readouterr().err
