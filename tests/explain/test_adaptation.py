"""The film of fine-tuning: its labels are those of Result.personalise, its scores those of Result.evaluate."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from saved_page import data_of

import gmfl_lite as gl

SMALL = gl.Experiment(rounds=4, eval_every=2, n_agents=6, n_new_agents=2, agents_per_round=2, eval_steps=(0, 2, 4))


@pytest.fixture(scope="module")
def trained():
    """A run, and its federation."""
    return gl.run(SMALL, progress=False), gl.build_federation(SMALL)


@pytest.fixture(scope="module")
def data(trained):
    return data_of(gl.explain.adaptation(*trained))


def test_labels_are_those_of_personalise(trained, data):
    result, federation = trained
    model = gl.build_model("mlp", federation)
    assert [agent["number"] for agent in data["agents"]] == [6, 0, 7, 1, 2, 3]
    for agent in data["agents"]:
        x, y = federation.test(agent["number"])
        rows = agent["shown"]["rows"]
        assert len(rows) == min(12, len(y))
        assert sorted({*rows}) == rows
        assert agent["shown"]["is"] == [str(label) for label in y[rows].tolist()]
        for steps, called in enumerate(agent["shown"]["called"]):
            model.load_state_dict(result.personalise(*federation.train(agent["number"]), steps))
            assert called == [str(label) for label in model(x[rows]).argmax(-1).tolist()]


def test_scores_are_those_of_the_run_and_of_a_finer_look(trained, data):
    result, federation = trained
    assert data["most"] == 4
    for agent in data["agents"]:
        mine = result.agents[result.agents["agent"] == agent["number"]]
        assert [agent["score"][steps] for steps in SMALL.eval_steps] == mine["accuracy"].tolist()
        assert (agent["scored"], agent["group"]) == (len(federation.test(agent["number"])[1]), mine["group"].iloc[0])
        assert agent["tuned_on"] == len(federation.train(agent["number"])[1])
    for group, found in data["groups"].items():
        rows = result.agents[result.agents["group"] == group].groupby("fine_tune_steps")["accuracy"]
        for kind, expected in (("worst", rows.min()), ("mean", rows.mean()), ("best", rows.max())):
            assert [found[kind][steps] for steps in SMALL.eval_steps] == pytest.approx(expected.tolist())
        for line in data["history"][group]:
            kept = result.history[
                (result.history["group"] == group) & (result.history["fine_tune_steps"] == line["steps"])
            ]
            assert line["points"] == kept[["round", "accuracy"]].to_numpy().tolist()


def test_images_are_those_of_the_agent(trained, data):
    _, federation = trained
    for agent in data["agents"]:
        for row, uri in zip(agent["shown"]["rows"], agent["shown"]["images"], strict=True):
            drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
            expected = 255 * (1 - federation.test(agent["number"])[0][row, 0].numpy())
            np.testing.assert_allclose(drawn, expected, atol=0.51)


def test_few_shots_are_what_an_agent_fine_tunes_on():
    """With shots and a disjoint query an agent trains on twice as many as it fine-tunes on when it is scored."""
    experiment = SMALL.replace(shots=2, query="disjoint")
    result, federation = gl.run(experiment, progress=False), gl.build_federation(experiment)
    agent = data_of(gl.explain.adaptation(result, federation, 0))["agents"][0]
    assert len(federation.train(0)[1]) > agent["tuned_on"]
    x, y = federation.test(0)
    batch = federation.fine_tune_sets(torch.tensor([0]))
    mine = result.personalise(batch[0][0][batch[2][0] > 0], batch[1][0][batch[2][0] > 0], 4)
    model = gl.build_model("mlp", federation)
    model.load_state_dict(mine)
    assert (model(x).argmax(-1) == y).float().mean().item() == pytest.approx(agent["score"][4])


def test_an_agent_is_chosen_by_number_or_name():
    rng = np.random.default_rng(0)
    people = {name: (rng.normal(size=(12, 3)), ["sun", "rain"] * 6) for name in ("Ada", "Ben", "Cleo")}
    federation = gl.Federation.from_agents(people)
    result = gl.run(SMALL.replace(agents_per_round=2), federation=federation, progress=False)
    for chosen in ("Ben", 1):
        found = data_of(gl.explain.adaptation(result, federation, chosen))
        assert [agent["name"] for agent in found["agents"]] == ["Ben", "Ada", "Cleo"]
        assert found["kind"] == "labels"
        assert {*found["agents"][0]["shown"]["is"]} == {"rain", "sun"}
    with pytest.raises(ValueError, match=r"agent = 'Bem': must be the name of an agent, Ada, .*did you mean 'Ben'"):
        gl.explain.adaptation(result, federation, "Bem")


def test_a_function_of_one_number_is_shown_with_its_fit():
    experiment = SMALL.replace(dataset="sinusoids", fine_tune_lr=0.01, precision="float64")
    result, federation = gl.run(experiment, progress=False), gl.build_federation(experiment)
    found = data_of(gl.explain.adaptation(result, federation, 3))
    assert (found["kind"], found["score"]) == ("fits", "loss")
    shown = found["agents"][0]["shown"]
    model = gl.build_model("mlp", federation)
    model.load_state_dict(result.personalise(*federation.train(3), 2))
    grid = torch.tensor(shown["grid"], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(shown["fits"][2], dtype=torch.float64), model(grid[:, None])[:, 0].detach())
    assert found["groups"]["new"]["best"][0] <= found["groups"]["new"]["worst"][0]


def test_large_images_are_made_small():
    rng = np.random.default_rng(0)
    photos = [(rng.random((14, 3, 80, 60), np.float32), ["cat", "dog"] * 7) for _ in range(3)]
    federation = gl.Federation.from_agents(photos)
    result = gl.run(SMALL.replace(rounds=2, agents_per_round=2, model="softmax"), federation=federation, progress=False)
    uri = data_of(gl.explain.adaptation(result, federation))["agents"][0]["shown"]["images"][0]
    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (36, 48)


def test_what_is_neither_classified_nor_a_function_of_one_number_is_refused():
    rng = np.random.default_rng(0)
    federation = gl.Federation.from_agents([(rng.normal(size=(12, 3)), rng.normal(size=(12, 1))) for _ in range(3)])
    result = gl.run(SMALL.replace(agents_per_round=2, model="mlp"), federation=federation, progress=False)
    with pytest.raises(ValueError, match=r"got x \[3\] and y \[1\] with numbers; gl.plots.accuracy_against_steps"):
        gl.explain.adaptation(result, federation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"result": "run"}, "result = 'run': must be a Result with at least one evaluation"),
        ({"federation": [1]}, "federation = 'list': must be a Federation"),
        ({"agent": 8}, "agent = 8: must be an integer of at least 0 and at most 7"),
        ({"agent": 1.5}, "agent = 1.5: must be an integer"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(trained, arguments, message):
    given = dict(zip(("result", "federation"), trained, strict=True)) | arguments
    with pytest.raises(ValueError, match=message):
        gl.explain.adaptation(**given)
