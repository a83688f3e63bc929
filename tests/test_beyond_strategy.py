"""What the federation's server does with those who answer, are late, leave, come, or answer nonsense."""

import math
from dataclasses import dataclass, field

import pytest
import torch

import gmfl_lite as gl

pytest.importorskip("flwr", reason="needs the extra: pip install 'gmfl_lite[flower]'")

from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from gmfl_lite import flower_app

EXPERIMENT = gl.Experiment(
    model="softmax", n_agents=4, n_new_agents=1, agents_per_round=2, rounds=4, eval_every=2, eval_steps=(0, 1),
    device="cpu", execution="loop",
)  # fmt: skip


@dataclass
class Post:
    """A post office without computers: the agents' real app answers here, as `behave` lets it, in every round."""

    experiment: gl.Experiment
    folder: str
    nodes: dict[int, int]
    behave: dict[tuple[int, int], str] = field(default_factory=dict)
    arrivals: dict[int, dict[int, int]] = field(default_factory=dict)
    beats: dict[int, float] = field(default_factory=dict)
    round: int = 0
    asked: list[list[int]] = field(default_factory=list)

    def config(self) -> dict:
        return flower_app.to_config(self.experiment, save=f"{self.folder}/post.result", round_seconds=1.0)

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, online_until=self.beats.get(node, 1.0)) for node in self.nodes]

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout: float):
        messages, replies = list(messages), []
        if messages and messages[0].metadata.message_type == "train":
            self.round += 1
            self.asked.append(sorted(self.nodes[message.metadata.dst_node_id] for message in messages))
            self.nodes |= self.arrivals.get(self.round, {})
        for message in messages:
            node = message.metadata.dst_node_id
            training = message.metadata.message_type == "train"
            how = self.behave.get((self.nodes[node], self.round), "") if training else ""
            if how == "silent":
                continue
            context = Context(1, node, {"agent": self.nodes[node]}, RecordDict(), self.config())
            reply = flower_app.agent(message, context)
            vector = flower_app.pack({"w": torch.zeros(650)})
            if how == "error":
                reply = Message(Error(0, "no such file"), reply_to=message)
            elif how == "nan":
                vector = flower_app.pack({"w": torch.full((650,), math.nan)})
                reply.content["arrays"] = vector
            elif how == "short":
                reply.content["arrays"] = flower_app.pack({"w": torch.zeros(3)})
            elif how == "empty":
                reply.content.clear()
            replies.append(reply)
        return replies


@pytest.fixture
def post(tmp_path, monkeypatch):
    for name in ("_run_id", "_task_id", "_node_id"):  # as Flower sets them where it runs an app
        monkeypatch.setattr(TaskIdentity, name, 1)
    return lambda experiment=EXPERIMENT, **how: Post(
        experiment, str(tmp_path), how.pop("nodes", {100 + agent: agent for agent in range(5)}), **how
    )


def federate(post: Post) -> gl.Result:
    import gmfl_lite.flower_strategy as strategy

    context = Context(1, 1, {}, RecordDict(), post.config())
    seen = []
    original = strategy.MetaFedAvg.result
    strategy.MetaFedAvg.result = lambda self, params: seen.append(self.took_part) or original(self, params)
    try:
        flower_app.main(post, context)
    finally:
        strategy.MetaFedAvg.result = original
    post.table = seen[0].set_index("round")
    return gl.load_result(f"{post.folder}/post.result")


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_it_is_gl_run(post, weighting):
    """Two of four agents in a round, and one that is only scored."""
    experiment = EXPERIMENT.replace(weighting=weighting, size_spread=1.0)
    office = post(experiment)
    found, expected = federate(office), gl.run(experiment, progress=False)
    for name, tensor in expected.params.items():
        assert torch.allclose(found.params[name], tensor, atol=1e-6)
    assert found.history["loss"].tolist() == pytest.approx(expected.history["loss"].tolist(), rel=1e-5)
    assert found.history["group"].tolist() == expected.history["group"].tolist()
    assert found.agents["agent"].tolist() == expected.agents["agent"].tolist()
    assert all(len(agents) == 2 and 4 not in agents for agents in office.asked)


@pytest.mark.parametrize("how", ["error", "nan", "short", "empty"])
def test_what_cannot_be_used_is_left_out(post, how):
    """The average of a round is that of the other agent alone, who is asked again, and so is the one left out."""
    experiment = EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=1)
    office = post(experiment, nodes={100: 0, 101: 1}, behave={(1, 1): how})
    found = federate(office)
    assert office.table.loc[1].tolist() == ["0 1", "0", "1"]
    context = Context(1, 1, {"agent": 0}, RecordDict(), office.config())
    alone = flower_app.one_answer(experiment, context.node_config).content["arrays"]["w"].numpy()
    assert torch.allclose(torch.cat([p.flatten() for p in found.params.values()]), torch.tensor(alone), atol=1e-6)


def test_the_silent_are_asked_again_only_after_a_sign_of_life(post):
    experiment = EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=5)
    office = post(experiment, nodes={100: 0, 101: 1}, behave={(1, 1): "silent"})
    before = office.get_nodes

    def heart_beats_after_round_three():
        if office.round >= 3:
            office.beats[101] = 2.0
        return before()

    office.get_nodes = heart_beats_after_round_three
    federate(office)
    assert office.asked == [[0, 1], [0], [0], [0, 1], [0, 1]]
    assert office.table["missing"].tolist() == ["1", "-", "-", "-", "-"]


def test_newcomers_take_part_from_the_next_round_on_and_the_absent_are_replaced(post):
    experiment = EXPERIMENT.replace(agents_per_round=4, n_new_agents=0)
    office = post(experiment, nodes={100: 0, 101: 1}, arrivals={2: {103: 3, 102: 2}, 3: {105: 1}})
    office.config = lambda: {**Post.config(office), "agents_to_wait_for": 2}
    federate(office)
    assert office.asked == [[0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_a_round_without_answers_keeps_the_model(post):
    experiment = EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=1)
    office = post(experiment, nodes={100: 0, 101: 1}, behave={(0, 1): "silent", (1, 1): "error"})
    found = federate(office)
    start = gl.build_model("softmax", gl.load_dataset("digits")).state_dict()
    assert office.table.loc[1].tolist() == ["0 1", "-", "0 1"]
    assert all(torch.equal(found.params[name], tensor) for name, tensor in start.items())


def test_clipping_and_noise_happen_before_anything_leaves():
    plain = flower_app.one_answer(EXPERIMENT, {"agent": 0}).content["arrays"]["w"].numpy()
    model = gl.build_model("softmax", gl.load_dataset("digits"))
    start = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    clipped, noisy, again = (
        flower_app.one_answer(EXPERIMENT, {"agent": 0}, clip_norm=0.01, noise=noise).content["arrays"]["w"].numpy()
        for noise in (0.0, 0.5, 0.5)
    )
    assert ((plain - start) ** 2).sum() ** 0.5 > 0.02
    assert ((clipped - start) ** 2).sum() ** 0.5 == pytest.approx(0.01, rel=1e-3)
    assert (noisy - clipped).std() == pytest.approx(0.5 * 0.01, rel=0.2)
    assert (noisy != again).any(), "the noise must be one that nobody else can draw"
