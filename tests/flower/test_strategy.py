"""What the federation's server does with those who answer, are late, leave, come, or answer nonsense."""

import math
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite.server import SERVER_STEPS, ServerStep, add_server_step

pytest.importorskip("flwr", reason="needs the extra: pip install 'gmfl_lite[flower]'")

from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from gmfl_lite.flower import app as flower_app
from gmfl_lite.flower import strategy as flower_strategy

EXPERIMENT = gl.Experiment(
    model="softmax", n_agents=4, n_new_agents=1, agents_per_round=2, rounds=4, eval_every=2, eval_steps=(0, 1),
    device="cpu", execution="loop",
)  # fmt: skip


def spoil(content: RecordDict, how) -> None:
    """Make an answer to either question unusable."""
    metrics = content.get("metrics")
    if callable(how):
        how(content)
    elif how == "no metrics":
        del content["metrics"]
    elif how == "empty":
        content.clear()
    elif how == "arrays for metrics":
        content["metrics"] = flower_app.pack({"w": torch.zeros(3)})
    elif how.startswith("arrays"):
        damaged = {"arrays of zero bytes": b"", "arrays of nonsense": b"\x93NUMPY\x01\x00\xff\xff"}[how]
        content["arrays"] = ArrayRecord({"w": Array("float32", (650,), "numpy.ndarray", damaged)})
    elif how.startswith("w ="):
        content["arrays"] = ArrayRecord({"w": Array(eval(how[3:], {"np": np}))})
    else:
        name, value = how.split(" = ")
        content["metrics"] = MetricRecord({**metrics, name: eval(value, {"nan": math.nan, "inf": math.inf})})


@dataclass
class Post:
    """A post office without computers: the agents' real app answers here, as `behave` lets it, in every round.

    behave, scores : what is wrong with an agent's update, or with its scores, in a round (0: before the first).
    """

    experiment: gl.Experiment
    folder: str
    nodes: dict[int, int]
    behave: dict[tuple[int, int], str] = field(default_factory=dict)
    scores: dict[tuple[int, int], str] = field(default_factory=dict)
    arrivals: dict[int, dict[int, int]] = field(default_factory=dict)
    beats: dict[int, float] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    round: int = 0
    asked: list[list[int]] = field(default_factory=list)
    saved: list[gl.Result] = field(default_factory=list)

    def config(self) -> dict:
        settings = {"save": f"{self.folder}/post.result", "round_seconds": 1.0, **self.settings}
        return flower_app.to_config(self.experiment, **settings)

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, online_until=self.beats.get(node, 1.0)) for node in self.nodes]

    def send_and_receive(self, messages, *, timeout: float):
        messages, replies = list(messages), []
        training = bool(messages) and messages[0].metadata.message_type == "train"
        if training:
            self.round += 1
            self.asked.append(sorted(self.nodes[message.metadata.dst_node_id] for message in messages))
            self.nodes |= self.arrivals.get(self.round, {})
        for message in messages:
            node = message.metadata.dst_node_id
            how = (self.behave if training else self.scores).get((self.nodes[node], self.round), "")
            if how == "silent":
                continue
            context = Context(1, node, {"agent": self.nodes[node]}, RecordDict(), self.config())
            try:
                reply = flower_app.agent(message, context)
            except Exception as error:  # as Flower does
                reply = Message(Error(0, f"{type(error)}:<'{error}'>"), reply_to=message)
            if how == "error":
                reply = Message(Error(0, "no such file"), reply_to=message)
            elif how == "gone":  # then Flower's SuperLink answers for it, under a number of its own
                reply = Message(Error(0, "Node Unavailable"), reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1
            elif how:
                spoil(reply.content, how)
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
    with pytest.MonkeyPatch.context() as patch:
        save = flower_strategy.MetaFedAvg.save

        def save_and_look(strategy, *arguments) -> gl.Result:
            post.saved.append(save(strategy, *arguments))
            post.table = strategy.took_part.set_index("round")
            return post.saved[-1]

        patch.setattr(flower_strategy.MetaFedAvg, "save", save_and_look)
        flower_app.serve(post, Context(1, 1, {}, RecordDict(), post.config()))
    return gl.load_result(f"{post.folder}/post.result")


@pytest.fixture
def heavy_ball():
    """A server step that remembers and looks at every tensor by itself, from outside the library."""

    def step(w, average, memory, server_lr):
        change = {name: average[name] - w[name] for name in w}
        v = {name: 0.5 * memory.get(name, 0) + move / (1 + move.norm()) for name, move in change.items()}
        return {name: w[name] + server_lr * v[name] for name in w}, v

    add_server_step(ServerStep(name="heavy_ball", help="momentum", step=step, on_quadratics="none"))
    yield
    del SERVER_STEPS["heavy_ball"]


@pytest.mark.parametrize(
    "changes",
    [
        {"weighting": "uniform"},
        {"weighting": "samples"},
        {"shots": 3, "label_noise": 0.2},
        {"shots": 3, "query": "disjoint", "model": "mlp", "personal": "head"},
        {"server_lr": 0.5},
        {"eval_agents": 2},
        {"aggregation": "median", "agents_per_round": 4},
        {"server": "momentum", "server_lr": 0.5},
        {"server": "adam", "server_lr": 0.02, "proximal": 0.1},
        {"gradient": "reptile", "nu": 2, "server_lr": 0.5},
        {"server": "heavy_ball", "server_lr": 0.5},
    ],
    ids=str,
)
def test_it_is_gl_run(post, changes, heavy_ball):
    """Two of four agents in a round, and one that is only scored."""
    experiment = EXPERIMENT.replace(size_spread=1.0, **changes)
    office = post(experiment)
    found, expected = federate(office), gl.run(experiment, progress=False)
    for name, tensor in expected.params.items():
        assert torch.allclose(found.params[name], tensor, atol=1e-6)
    assert found.history["loss"].tolist() == pytest.approx(expected.history["loss"].tolist(), rel=1e-5)
    assert found.history["group"].tolist() == expected.history["group"].tolist()
    assert found.agents["agent"].tolist() == expected.agents["agent"].tolist()
    assert all(len(agents) == experiment.agents_per_round and 4 not in agents for agents in office.asked)


UNREADABLE = ["error", "empty", "no metrics", "arrays for metrics", "samples = 0", "samples = 2.5", "agent = 9"]


@pytest.mark.parametrize(
    "how",
    [
        *UNREADABLE,
        "agent = 0",
        "loss = nan",
        "loss = [1.0]",
        "arrays of zero bytes",
        "arrays of nonsense",
        "w = np.zeros(3, np.float32)",
        "w = np.zeros(650)",
        "w = np.full(650, np.nan, np.float32)",
    ],
)
def test_an_update_that_cannot_be_used_is_left_out(post, how):
    """The average of a round is that of the other agent alone."""
    experiment = EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=1)
    office = post(experiment, nodes={100: 0, 101: 1}, behave={(1, 1): how})
    found = federate(office)
    assert office.table.loc[1].tolist()[:3] == ["0 1", "0", "1"]
    assert office.table.loc[1, "left_out"].startswith("1: ")
    context = Context(1, 1, {"agent": 0}, RecordDict(), office.config())
    alone = flower_app.one_answer(experiment, context.node_config).content["arrays"]["w"].numpy()
    assert torch.allclose(torch.cat([p.flatten() for p in found.params.values()]), torch.tensor(alone), atol=1e-6)
    assert (found.status, found.message, found.round) == ("completed", "all 1 rounds", 1)


@pytest.mark.parametrize(
    "how",
    [
        *UNREADABLE,
        "agent = 0",
        "loss = [nan, 1.0]",
        "loss = [1.0]",
        "loss = 1.0",
        "accuracy = [0.5, 1.5]",
        "accuracy = [inf, 1.0]",
    ],
)
def test_scores_that_cannot_be_used_are_left_out(post, how):
    experiment = EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=4)
    found = federate(post(experiment, nodes={100: 0, 101: 1}, scores={(1, 4): how}))
    assert found.status == "completed"
    assert found.agents["agent"].tolist() == [0, 0]
    expected = gl.run(experiment, progress=False)
    mine = expected.agents[expected.agents["agent"] == 0]
    assert found.agents["loss"].tolist() == pytest.approx(mine["loss"].tolist(), rel=1e-5)
    assert found.history["round"].unique().tolist() == [0, 2, 4]


@pytest.mark.parametrize("how", UNREADABLE)
def test_who_answers_nonsense_at_first_does_not_count_and_may_come_again(post, how, monkeypatch):
    office = post(
        EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=1), nodes={100: 0, 101: 1}, scores={(1, 0): how}
    )

    def later(seconds: float) -> None:
        office.scores.clear()
        office.beats[101] = 2.0

    monkeypatch.setattr(flower_strategy.time, "sleep", later)
    found = federate(office)
    assert not office.scores, "it did not wait"
    assert found.status == "completed"
    assert office.table.loc[1, "took_part"] == "0 1"


def test_a_computer_that_comes_back_with_another_number_is_met_again(post):
    office = post(EXPERIMENT.replace(n_new_agents=0, rounds=3, agents_per_round=4), nodes={100: 0, 101: 1})
    office.settings["agents_to_wait_for"] = 2
    office.arrivals[1] = {101: 3}
    federate(office)
    assert office.table["took_part"].tolist() == ["0", "0 3", "0 3"]


def test_two_computers_with_one_number_are_one_agent(post, monkeypatch, caplog):
    office = post(EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=1), nodes={100: 0, 101: 0})
    monkeypatch.setattr(flower_strategy.time, "sleep", lambda seconds: office.nodes.update({102: 1}))
    federate(office)
    assert office.table.loc[1].tolist() == ["0 1", "0 1", "-", "-"]
    assert "1 of 2 agents are here: 0" in caplog.messages
    assert any("another computer says that it is agent 0" in line for line in caplog.messages)


def test_what_there_is_is_saved_after_every_evaluation(post):
    office = post()
    found = federate(office)
    rounds = [result.history["round"].max() for result in office.saved]
    assert rounds == [0, 0, 2, 2, 4, 4]
    assert [(result.status, result.message) for result in office.saved[:3:2]] == [
        ("stopped", "stopped after 0 of 4 rounds"),
        ("stopped", "stopped after 2 of 4 rounds"),
    ]
    two = gl.run(EXPERIMENT.replace(rounds=2), progress=False)
    assert all(torch.allclose(office.saved[2].params[name], tensor, atol=1e-6) for name, tensor in two.params.items())
    assert found.status == "completed"


@pytest.mark.parametrize(
    ("change", "when"),
    [
        ({"meta_lr": 1e38}, r"in round \d: no agent's update can be used: .*NonFiniteLoss"),
        ({"meta_lr": 1e30}, r"in round \d: the meta-loss grew to"),
        ({"fine_tune_lr": 1e38, "eval_steps": (0, 5)}, "before training: no agent's scores can be used"),
    ],
)
def test_a_federation_that_diverges_ends_and_says_so_as_gl_run_does(post, change, when):
    experiment = EXPERIMENT.replace(nu=1, n_new_agents=0, agents_per_round=4, **change)
    office = post(experiment, nodes={100 + agent: agent for agent in range(4)})
    found, alone = federate(office), gl.run(experiment, progress=False)
    assert (found.status, alone.status) == ("diverged", "diverged")
    assert re.match(f"diverged {when}.*; lower meta_lr .*fine_tune_lr", found.message)
    assert len(office.asked) < experiment.rounds
    assert all(tensor.isfinite().all() for tensor in found.params.values())


def test_rounds_without_answers_are_counted(post):
    experiment = EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=3)
    office = post(experiment, nodes={100: 0, 101: 1}, behave={(agent, 2): "error" for agent in range(2)})
    found = federate(office)
    assert (found.status, found.round) == ("stopped", 2)
    assert found.message == "all 3 rounds, of which 1 had no answer that could be used"


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


def test_whom_the_superlink_answers_for_is_missing(post):
    """The rounds go on, and it is asked no more, as it has given no sign of life."""
    experiment = EXPERIMENT.replace(n_agents=3, n_new_agents=0, rounds=3, agents_per_round=3)
    office = post(experiment, nodes={100: 0, 101: 1, 102: 2}, behave={(1, 2): "gone"})
    found = federate(office)
    assert office.asked == [[0, 1, 2], [0, 1, 2], [0, 2]]
    assert office.table.loc[2].tolist() == ["0 1 2", "0 2", "1", "-"]
    assert found.status == "completed"


def test_newcomers_take_part_from_the_next_round_on_and_the_absent_are_replaced(post):
    experiment = EXPERIMENT.replace(agents_per_round=4, n_new_agents=0)
    arrivals = {2: {103: 3, 102: 2}, 3: {105: 1}}
    office = post(experiment, nodes={100: 0, 101: 1}, arrivals=arrivals, settings={"agents_to_wait_for": 2})
    federate(office)
    assert office.asked == [[0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_a_round_without_answers_keeps_the_model(post):
    experiment = EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=1)
    office = post(experiment, nodes={100: 0, 101: 1}, behave={(0, 1): "silent", (1, 1): "error"})
    found = federate(office)
    start = gl.build_model("softmax", gl.load_dataset("digits")).state_dict()
    assert office.table.loc[1].tolist() == ["0 1", "-", "0 1", "1: no such file"]
    assert (found.status, found.round) == ("stopped", 0)
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


def test_an_agent_protects_itself_whatever_the_teacher_asks():
    model = gl.build_model("softmax", gl.load_dataset("digits"))
    start = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    for teachers in ({}, {"clip_norm": 10.0}):
        answer = flower_app.one_answer(EXPERIMENT, {"agent": 0, "clip_norm": 0.01}, **teachers)
        assert ((answer.content["arrays"]["w"].numpy() - start) ** 2).sum() ** 0.5 == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ValueError, match=r"noise = 0\.1: must be 0 where clip_norm is 0"):
        flower_app.one_answer(EXPERIMENT, {"agent": 0, "noise": 0.1})


def test_the_noise_has_a_seed_that_cannot_be_tried(monkeypatch):
    asked = []
    monkeypatch.setattr(flower_app.secrets, "randbits", lambda bits: asked.append(bits) or 7)
    one, two = (
        flower_app.one_answer(EXPERIMENT, {"agent": 0}, clip_norm=0.01, noise=0.5).content["arrays"]["w"].numpy()
        for _ in range(2)
    )
    assert asked == [128, 128]
    assert (one == two).all(), "all of the noise comes from this seed"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"noise": 0.03}, "noise = 0.03: must be 0 where clip_norm is 0"),
        ({"clip_norm": -1.0}, "clip_norm = -1.0"),
        ({"clip_norm": math.nan}, "clip_norm = nan"),
        ({"round_seconds": 0.0}, "round_seconds = 0.0"),
        ({"agents_to_wait_for": 6}, "agents_to_wait_for = 6: must be an integer of at least 0 and at most 5"),
        ({"save": ""}, "save = ''"),
    ],
)
def test_wrong_classroom_settings_are_refused(post, settings, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        flower_app.to_config(EXPERIMENT, **settings)
    office = post()
    context = Context(1, 1, {}, RecordDict(), {**office.config(), **settings})  # as --run-config changes it
    with pytest.raises(ValueError, match=re.escape(problem)):
        flower_app.serve(office, context)
    assert office.asked == []


def test_no_files_name_leaves_with_an_error(post, tmp_path, caplog):
    (tmp_path / "private" / "diary").mkdir(parents=True)
    context = Context(1, 1, {"agent": 0, "images": str(tmp_path / "private")}, RecordDict(), post().config())
    message = flower_app.one_answer(EXPERIMENT, {"agent": 0})
    with pytest.raises(ValueError, match="its terminal says why") as caught:
        flower_app.train(message, context)
    assert "private" not in str(caught.value)
    assert "diary must be among the classes" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({"clip_nrom": 0.01}, "clip_nrom is no entry of --node-config (did you mean 'clip_norm'?)"),
        ({"clip-norm": 0.01}, "clip-norm is no entry of --node-config (did you mean 'clip_norm'?)"),
        ({"imges": "/mine"}, "imges is no entry of --node-config (did you mean 'images'?)"),
        ({"round_seconds": 5.0}, "round_seconds is no entry of --node-config"),
        ({"clip_norm": "0.01"}, "clip_norm = '0.01': must be a finite number"),
        ({"clip_norm": True}, "clip_norm = True: must be a finite number"),
        ({"clip_norm": 1e-46}, "clip_norm = 1e-46: must be 0, which clips nothing, or at least 1e-06"),
        ({"clip_norm": 1e38, "noise": 1.0}, "clip_norm = 1e+38: must be a finite number of at least 0 and at most"),
        ({"clip_norm": 1.0, "noise": 1e9}, "noise = 1000000000.0: must be"),
        ({"images": 3}, "images = 3: must be a folder's path"),
        ({"images": "here", "invert": "yes"}, "invert = 'yes': must be true or false"),
        ({"agent": "0"}, "agent (in --node-config) = '0': must be an integer"),
        ({"agent": True}, "agent (in --node-config) = True: must be an integer"),
    ],
)
def test_a_wrong_node_config_is_refused_and_the_student_told(node, problem, caplog):
    with pytest.raises(ValueError, match=re.escape(problem)):
        flower_app.one_answer(EXPERIMENT, {"agent": 0, **node})
    assert problem in caplog.messages[-1], "in the student's terminal"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, (0.01, 0.5)),
        ({"clip_norm": 100.0}, (0.01, 0.5)),
        ({"clip_norm": 0.0, "noise": 0.0}, (0.01, 0.5)),
        ({"clip_norm": 0.001}, (0.001, 0.5)),
        ({"noise": 0.7}, (0.01, 0.7)),
    ],
)
def test_an_agent_may_only_be_stricter_than_the_teacher(own, expected):
    assert flower_app.check_node({"agent": 0, **own}, {"clip_norm": 0.01, "noise": 0.5}) == expected


def test_a_run_config_with_unknown_or_unreadable_settings_is_refused():
    config = flower_app.to_config(EXPERIMENT)
    with pytest.raises(
        ValueError, match=r"round_second is no setting of the run config \(did you mean 'round_seconds'"
    ):
        flower_app.check_classroom({**config, "round_second": 3.0}, EXPERIMENT)
    with pytest.raises(ValueError, match=r"eval_steps = '0, 1': must be JSON in quotes, such as .*\[0, 1\]"):
        flower_app.from_config({**config, "eval_steps": "0, 1"})


@pytest.mark.parametrize("cannot", [1, 2])
def test_where_all_are_connected_but_some_cannot_score_the_wait_ends(post, monkeypatch, caplog, cannot):
    experiment = EXPERIMENT.replace(n_agents=2, n_new_agents=0, rounds=1)
    scores = {(1 - agent, 0): "error" for agent in range(cannot)}
    office, now = post(experiment, nodes={100: 0, 101: 1}, scores=scores), [0.0]
    monkeypatch.setattr(flower_strategy.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(flower_strategy.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    said = f"only {2 - cannot} of 2 agents can score; the last of the others says: no such file"
    if cannot == 2:
        with pytest.raises(TimeoutError, match=said):
            federate(office)
    else:
        assert federate(office).status == "completed"
        assert office.table.loc[1, "took_part"] == "0"
        assert any(said in line for line in caplog.messages)
    assert 5 < now[0] < 10, "five times a round's second"


def test_the_log_ends_with_what_the_noise_promises(post, caplog):
    pytest.importorskip("dp_accounting", reason="needs the extra: pip install 'gmfl_lite[privacy]'")
    experiment = EXPERIMENT.replace(n_new_agents=0, agents_per_round=4, rounds=3)
    office = post(experiment, nodes={100 + agent: agent for agent in range(4)}, behave={(1, 2): "error"})
    office.settings |= {"clip_norm": 0.5, "noise": 2.0}
    federate(office)
    (said,) = (line for line in caplog.messages if line.startswith("privacy"))
    server, others = (gl.privacy.epsilon(2.0, 3, agents_per_round=m) for m in (1, 3))
    assert f"ε = {server:.3g} towards the server" in said
    assert f"ε = {others:.3g} towards who sees w alone, if all of at least 3 added their noise" in said
    assert "numbers of samples went as they are" in said


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {}, "updates came as they are, neither clipped nor blurred"),
        ({}, {"clip_norm": 0.5}, "clipping without noise promises nothing"),
        ({"weighting": "samples"}, {"clip_norm": 0.5, "noise": 1.0}, "towards the server; losses"),
        ({"aggregation": "median"}, {"clip_norm": 0.5, "noise": 1.0}, "towards the server; losses"),
    ],
)
def test_no_more_is_promised_than_holds(post, change, settings, words, caplog):
    federate(post(EXPERIMENT.replace(rounds=1, **change), settings=settings))
    (said,) = (line for line in caplog.messages if line.startswith("privacy"))
    assert words in said
    assert "sees w alone" not in said


@pytest.mark.parametrize("when", ["from the beginning", "later"])
def test_a_disk_that_takes_no_result_does_not_end_the_federation(post, when, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(flower_strategy.tempfile, "tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "here"
    office = post(EXPERIMENT, settings={"save": str(folder / "post.result")})
    if when == "later":
        folder.mkdir()
        before = office.send_and_receive

        def full(messages, *, timeout):
            if office.round == 3 and (folder / "post.result").is_file():
                (folder / "post.result").unlink()
                (folder / "post.result").mkdir()
            return before(messages, timeout=timeout)

        office.send_and_receive = full
    with pytest.raises((FileNotFoundError, ValueError)):
        federate(office)  # which looks where it was asked to be
    (found,) = (tmp_path / "elsewhere").glob("*/post.result")
    assert found.parent.stat().st_mode & 0o077 == 0, "nobody else looks into it"
    result = gl.load_result(found)
    assert result.status == "completed"
    expected = gl.run(EXPERIMENT, progress=False)
    assert all(torch.allclose(result.params[name], tensor, atol=1e-6) for name, tensor in expected.params.items())
    assert found.with_name("post.result.rounds.csv").exists()
    said = [line for line in caplog.messages if "cannot be saved as" in line]
    assert len(said) == 1
    assert caplog.messages[-1].endswith(f"saved as {found}")
