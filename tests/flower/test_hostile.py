"""One student cannot end the class's federation, nor take it along; who is left out is named."""

import os
from dataclasses import fields

import numpy as np
import pytest
import torch
from bounded import bounded
from hypothesis import given, settings
from hypothesis import strategies as st

import gmfl_lite as gl

pytest.importorskip("flwr", reason="needs the extra: pip install 'gmfl_lite[flower]'")

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from lies import LIES, noisy, npy, says, sends
from test_strategy import EXPERIMENT, federate, post  # noqa: F401

from gmfl_lite.flower import answers, classroom
from gmfl_lite.flower import app as flower_app

CLASS = EXPERIMENT.replace(n_agents=5, n_new_agents=0, agents_per_round=5, rounds=4, eval_every=1)
NODES = {100 + agent: agent for agent in range(5)}
EXAMPLES = int(os.environ.get("GMFL_LITE_FUZZ", "200"))
"""Answers and settings that each of the fuzzers makes."""


@pytest.fixture(scope="module")
def alone():
    """What the others give together, by the rounds in which agent 1 does not take part."""
    return {}


@pytest.mark.parametrize(("which", "lying"), [*((which, {2}) for which in LIES), ("100 w", {1, 2, 3}), ("noise", {3})])
def test_the_others_go_on_without_one_who_lies(post, which, lying, alone):  # noqa: F811
    lie, why = LIES[which]
    experiment = CLASS.replace(weighting="samples", rounds=3, eval_every=3)
    office = post(experiment, nodes=NODES, behave={(1, round): lie for round in lying})
    found = federate(office)
    assert (found.status, found.round) == ("completed", 3)
    for round, row in office.table.iterrows():
        assert row["took_part"] == ("0 2 3 4" if round in lying else "0 1 2 3 4")
        assert row["left_out"].startswith("1: ") == (round in lying)
        assert round not in lying or why in row["left_out"]
    if str(lying) not in alone:
        errors = post(experiment, nodes=NODES, behave={(1, round): "error" for round in lying})
        alone[str(lying)] = federate(errors).params
    for name, tensor in alone[str(lying)].items():
        assert torch.equal(found.params[name], tensor)


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats()
anything = numbers | st.lists(st.integers(-3, 3), max_size=3) | st.lists(st.floats(), max_size=3)
words = st.sampled_from(["agent", "samples", "loss", "accuracy", "w", "metrics", "arrays", "", "x" * 99])


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), asked=st.sampled_from([0, 650]))
def test_any_answer_is_read_or_refused(data, asked):
    """What a node may send: records, names, numbers, and arrays with any header over any bytes."""
    scores = {"loss": 2.0} if asked else {"loss": [2.0, 1.0], "accuracy": [0.1, 0.2]}
    metrics = {"agent": 1, "samples": 20, **scores}
    for _ in range(data.draw(st.integers(0, 2))):
        metrics[data.draw(words)] = data.draw(anything)
    if data.draw(st.integers(0, 4)) == 4:
        del metrics[data.draw(st.sampled_from(sorted(metrics)))]
    content = RecordDict({"metrics": MetricRecord(metrics)})
    if asked or data.draw(st.booleans()):
        good = npy(np.zeros(650, np.float32))
        body = bytearray(good)
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, 140) | st.integers(0, len(body) - 1))
            body[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        kind = data.draw(st.just("float32") | st.sampled_from(["float64", "object", "<f4", "", "x" * 99]))
        shape = data.draw(st.just((650,)) | st.lists(st.integers(0, 10**15), max_size=3).map(tuple))
        arrays = {data.draw(st.just("w") | words): Array(kind, shape, "numpy.ndarray", bytes(body))}
        content["arrays"] = ArrayRecord(arrays)
    if data.draw(st.integers(0, 9)) == 9:
        content[data.draw(words)] = ConfigRecord({"x": 1})
    try:
        with bounded(most=20e6):
            found, update = answers.read_answer(Reply(content), CLASS, asked)
    except (ValueError, FloatingPointError) as error:
        assert len(str(error)) < 700  # noqa: PT017
    else:
        assert 0 <= found["agent"] < 5
        assert found["samples"] >= 1
        assert update.shape == (asked,)
        assert update.isfinite().all()
        assert np.isfinite(found["loss"]).all()


class Reply:
    """A message as Flower hands it over."""

    def __init__(self, content):
        self.content = content

    def has_error(self):
        return False


texts = st.text(max_size=9) | st.sampled_from(["null", "[0, 1]", "1"])
values = st.none() | st.booleans() | st.integers() | st.floats() | texts


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(st.sampled_from(classroom.OF_A_NODE) | st.text(max_size=9), values, max_size=4))
def test_any_node_config_is_kept_to_or_refused(config):
    teachers = {"clip_norm": 0.5, "noise": 0.1}
    try:
        with bounded():
            clip_norm, noise = classroom.check_node(config, teachers)
    except ValueError as error:
        assert len(str(error)) < 500  # noqa: PT017
        return
    assert 0 < clip_norm <= 0.5
    assert 0.1 <= noise <= 1e3
    assert set(config) <= set(classroom.OF_A_NODE)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*classroom.CLASSROOM, *(field.name for field in fields(gl.Experiment))]) | st.text(max_size=9),
        values, max_size=4,
    )
)  # fmt: skip
def test_any_run_config_is_an_experiment_or_refused(config):
    config = {**classroom.to_config(CLASS), **config}
    try:
        with bounded():
            experiment = classroom.from_config(config)
            found = classroom.check_classroom(config, experiment)
    except ValueError as error:
        assert len(str(error)) < 2000  # noqa: PT017
        return
    assert gl.Experiment.from_dict(experiment.to_dict()) == experiment
    assert found["round_seconds"] > 0


@pytest.mark.parametrize("scores", [{"loss": [1e300, 1e300]}, {"loss": [-5.0, -5.0]}, {"loss": [2.0, 1e9]}])
@pytest.mark.parametrize("round", [0, 2])
def test_scores_that_lie_are_left_out(post, scores, round, caplog):  # noqa: F811
    office = post(CLASS.replace(rounds=2), nodes=NODES, scores={(1, round): says(**scores)})
    office.settings["agents_to_wait_for"] = 4
    found = federate(office)
    assert found.status == "completed"
    assert found.history["loss"].max() < 5
    assert any("is left out" in line or "cannot take part" in line for line in caplog.messages)


def test_a_lie_at_the_start_does_not_lift_the_limit(post):  # noqa: F811
    """With a loss of 1e9 said before the first round, no loss would count as divergence."""
    wild = {(agent, 2): sends(lambda w: w * 1e4) for agent in range(5)}
    office = post(CLASS, nodes=NODES, behave=wild, scores={(1, 0): says(loss=[1e9, 1e9])})
    found = federate(office)
    assert found.status == "diverged"
    assert "the agents' loss grew to" in found.message


def test_what_is_saved_is_the_last_sound_w_when_the_last_round_is_bad(post):  # noqa: F811
    wild = {(agent, 4): sends(lambda w: -1e4 * w) for agent in range(5)}
    found = federate(post(CLASS, nodes=NODES, behave=wild))
    assert found.status == "diverged"
    sound = gl.run(CLASS.replace(rounds=3), progress=False).params
    for name, tensor in sound.items():
        assert torch.allclose(found.params[name], tensor, atol=1e-6)


@pytest.mark.parametrize(("n", "words"), [(2, "nobody can be outvoted"), (3, "two cannot"), (4, "")])
def test_the_log_says_how_many_can_be_outvoted(post, n, words, caplog):  # noqa: F811
    experiment = CLASS.replace(n_agents=n, agents_per_round=n)
    federate(post(experiment, nodes={100 + agent: agent for agent in range(n)}))
    said = [line for line in caplog.messages if "of so few" in line]
    assert len(said) == bool(words)
    assert all(words in line for line in said)


@pytest.mark.parametrize("n", [2, 3])
def test_few_are_held_against_earlier_rounds(post, n):  # noqa: F811
    experiment = CLASS.replace(n_agents=n, agents_per_round=n)
    office = post(
        experiment,
        nodes={100 + agent: agent for agent in range(n)},
        behave={(1, 3): sends(noisy), (0, 4): says(loss=1e9)},
    )
    assert federate(office).status == "completed"
    assert [row.split(":")[0] for row in office.table["left_out"]] == ["-", "-", "1", "0"]


def test_one_agent_without_finite_numbers_does_not_end_it(post):  # noqa: F811
    """It is the only one to answer in round 2, and in the evaluation after it."""
    others = {(agent, 2): "error" for agent in range(4)}
    bad = {(4, 2): sends(lambda w: w * np.nan)}
    office = post(CLASS, nodes=NODES, behave={**others, **bad}, scores={**others, (4, 2): says(loss=[np.nan, 1.0])})
    found = federate(office)
    assert (found.status, found.round) == ("stopped", 3)
    assert "4: its parameters are not finite" in office.table.loc[2, "left_out"]


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_teachers_clip_norm_holds_on_the_server(post, noise):  # noqa: F811
    """All agents send updates ten times as long as the teacher allows."""
    settings = {"clip_norm": 0.01, "noise": noise}
    longer = {(agent, 1): sends(lambda w: w + 0.1 / 650**0.5) for agent in range(5)}
    office = post(CLASS.replace(rounds=1, server_lr=1.0), nodes=NODES, behave=longer, settings=settings)
    found = federate(office)
    start = gl.build_model("softmax", gl.load_dataset("digits")).state_dict()
    way = torch.cat([(found.params[name] - start[name]).flatten() for name in start]).norm()
    assert way <= 0.01 * (1 + noise * (650**0.5 + 4)) * 1.001
    assert way > 0.005


def test_honest_clipped_and_noisy_updates_are_not_shortened():
    strategy = flower_app.MetaFedAvg(CLASS, 1.0, {"w": torch.zeros(650)}, 10, "unused", clip_norm=0.5, noise=0.3)
    lengths = []
    for _ in range(50):
        answer = flower_app.one_answer(CLASS, {"agent": 0}, clip_norm=0.5, noise=0.3)
        _, update = answers.read_answer(answer, CLASS, 650)
        model = gl.build_model("softmax", gl.load_dataset("digits"))
        lengths.append((update - torch.cat([p.detach().flatten() for p in model.parameters()])).norm().item())
    assert 0.5 < max(lengths) < strategy.longest
