"""The class as a federation: Flower gives the model that gl.run gives, whoever leaves, and sends no images."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import gmfl_lite as gl

flwr = pytest.importorskip("flwr", reason="needs the extra: pip install 'gmfl_lite[flower]'")

from classroom import Classroom, Wire, block, settings  # noqa: E402
from idx_files import write_dataset  # noqa: E402
from lies import IN_EVERY_ROUND, LIES  # noqa: E402
from test_strategy import federate, post  # noqa: E402, F401

from gmfl_lite.data import load_images  # noqa: E402
from gmfl_lite.flower import app as flower_app  # noqa: E402

ANOTHER_METHOD = "server='adam' server_lr=0.02 proximal=0.1 shots='6' query='disjoint' personal='head'"
EXPERIMENT = gl.Experiment(
    n_agents=3, n_new_agents=0, agents_per_round=3, rounds=3, eval_every=3, weighting="samples", size_spread=1.0,
    device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def in_process():
    """The notebook's experiment, in one process."""
    return gl.run(gl.Experiment(**settings()), progress=False)


def agrees(found: gl.Result, expected: gl.Result) -> float:
    assert list(found.params) == list(expected.params)
    scores = ["round", "group", "fine_tune_steps", "loss", "accuracy", "worst_decile_accuracy"]
    pd.testing.assert_frame_equal(found.history[scores], expected.history[scores], atol=1e-5)
    return max((found.params[name] - tensor).abs().max().item() for name, tensor in expected.params.items())


def test_the_run_config_is_the_experiment():
    odd = gl.Experiment(nu=0, batch_size=None, eval_steps=(0, 7), partition="per_fedavg", per_fedavg_a=4, seed=2**62)
    for experiment in (EXPERIMENT, odd):
        config = flower_app.to_config(experiment)
        assert {type(value) for value in config.values()} <= {int, float, str, bool}  # all that Flower takes
        assert flower_app.from_config(config) == experiment


def test_a_wrong_experiment_is_refused():
    with pytest.raises(gl.ExperimentError, match="nu = -1"):
        flower_app.from_config({**flower_app.to_config(EXPERIMENT), "nu": -1})
    with pytest.raises(ValueError, match="did you mean 'round_seconds'"):
        flower_app.write_app("nowhere", EXPERIMENT, round_second=3)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("query", ["independent", "disjoint"])
def test_an_agent_holds_its_own_samples_and_draws_its_own_batches(number, query):
    """The oracle is the whole federation, in which every agent's rows lie among the others'."""
    experiment = EXPERIMENT.replace(query=query, shots=6 if query == "disjoint" else None, label_noise=0.2)
    whole = gl.build_federation(experiment)
    found, alone = flower_app.own_data(experiment, {"agent": number})
    assert found == number
    assert len(alone.x) == whole.sizes[number]
    how = {"nu": 2, "local_steps": 2, "batch_size": 7, "seed": 3, "round": 5, "query": query}
    me = torch.tensor([number])
    ours, theirs = (federation.batches(me, **how) for federation in (alone, whole))
    for (support, query), (their_support, their_query) in zip(ours, theirs, strict=True):
        for mine, other in zip((*support, query), (*their_support, their_query), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
    for sets in ("fine_tune_sets", "test_sets"):
        for mine, other in zip(getattr(alone, sets)(me), getattr(whole, sets)(me), strict=True):
            assert torch.equal(mine[0], other[0][: len(mine[0])])


@pytest.mark.parametrize("config", [{}, {"agent": 3}, {"agent": "one"}, {"agent": 0, "images": "nowhere"}])
def test_a_node_without_a_number_or_images_is_refused(config):
    with pytest.raises(ValueError, match=r"agent \(in --node-config\)|images = 'nowhere'"):
        flower_app.own_data(EXPERIMENT, config)


def test_a_students_own_images(tmp_path):
    from PIL import Image

    for name, shade, below in (("3", 0, 51), ("3", 255, 204), ("7", 102, 153), ("7", 51, 153)):
        folder = tmp_path / "mine" / name
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (40, 32), (shade,) * 3)
        image.paste((below,) * 3, (0, 16, 40, 32))
        image.save(folder / f"{shade}.png")
    number, federation = flower_app.own_data(EXPERIMENT, {"agent": 1, "images": str(tmp_path / "mine"), "invert": True})
    assert (number, federation.sizes.tolist()) == (1, [0, 4])
    x, y = (torch.cat(parts) for parts in zip(federation.train(1), federation.test(1), strict=True))
    assert x.shape == (4, 1, 8, 8)
    seen = sorted((label, round(1 - image.mean().item(), 1)) for image, label in zip(x, y.tolist(), strict=True))
    assert seen == [(3, 0.1), (3, 0.9), (7, 0.4), (7, 0.5)]
    notes = tmp_path / "mine" / "3" / "telephone.heic"
    notes.write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=r"telephone\.heic is not an image that can be read: save it as PNG"):
        flower_app.own_data(EXPERIMENT, {"agent": 1, "images": str(tmp_path / "mine")})
    notes.rename(notes.with_name(".heic"))  # hidden
    (tmp_path / "mine" / "cat").mkdir()
    with pytest.raises(ValueError, match="cat must be among the classes"):
        flower_app.own_data(EXPERIMENT, {"agent": 1, "images": str(tmp_path / "mine")})


def test_every_path_may_begin_with_the_home_folders_sign(tmp_path, monkeypatch):
    from PIL import Image

    for name in ("HOME", "USERPROFILE"):  # of Windows
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    written = flower_app.write_app("~/classroom", EXPERIMENT)
    assert (tmp_path / "home" / "classroom" / "pyproject.toml").samefile(written / "pyproject.toml")
    for name in "37":
        folder = tmp_path / "home" / "mine" / name
        folder.mkdir(parents=True)
        Image.linear_gradient("L").save(folder / "first.png")
    assert flower_app.own_data(EXPERIMENT, {"agent": 1, "images": "~/mine"})[1].sizes.tolist() == [0, 2]
    _, start = flower_app._model(EXPERIMENT, gl.load_dataset("digits"))
    flower_app.MetaFedAvg(EXPERIMENT, 1.0, start, 10, "~/federation.result").save()
    assert {path.name for path in (tmp_path / "home").glob("f*")} == {
        "federation.result",
        "federation.result.rounds.csv",
    }
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_photograph_is_upright_however_the_telephone_was_held(digits, tmp_path):
    """Orientation 6: the telephone's left edge, on which the light is, is the top of what it saw."""
    from PIL import Image

    (tmp_path / "3").mkdir()
    turned = Image.new("L", (8, 8))
    turned.paste(255, (0, 0, 4, 8))
    tag = Image.Exif()
    tag[0x0112] = 6
    for name in "ab":
        turned.save(tmp_path / "3" / f"{name}.png", exif=tag)
    seen = load_images(tmp_path, like=digits).x[0, 0]
    assert seen[:4].min() == 1
    assert seen[4:].max() == 0


@pytest.mark.slow
def test_the_simulation_gives_the_model_of_gl_run(tmp_path, record_property):
    """Of another method, asked for by the notebook's command that changes settings."""
    pytest.importorskip("ray", reason="needs Flower's simulation: pip install 'gmfl_lite[flower]'")
    with Classroom(tmp_path) as classroom:
        classroom.be_patient()
        classroom.superlink(block("flower-superlink", "--simulation"))
        prepare = block("gmfl_lite.flower_app classroom").split("flwr run")[0]
        changed = block("--run-config").rstrip().replace("nu=0", f"nu=2 {ANOTHER_METHOD}")
        where = block("num-supernodes=3").removeprefix("flwr run classroom class --stream")
        run = classroom.terminal("teacher", f"{prepare}{changed}{where}")
        run.wait_for("saved as", 900)
        assert run.popen.wait(300) == 0
    other = gl.Experiment(**settings()).replace(
        nu=2, server="adam", server_lr=0.02, proximal=0.1, shots=6, query="disjoint", personal="head"
    )
    gap = agrees(gl.load_result(tmp_path / "nu0.result"), gl.run(other, progress=False))
    record_property("Flower's simulation, largest difference of a parameter after three rounds", gap)
    assert gap < 1e-5


@pytest.mark.slow
def test_the_notebooks_commands_give_the_model_of_gl_run_and_send_no_images(in_process, tmp_path, record_property):
    """A post office, a teacher and three students, as written in the notebook; the wire of student 1 is watched."""
    with Classroom(tmp_path) as classroom:
        classroom.superlink(block("flower-superlink --insecure --host"))
        wire = Wire(classroom.port)
        classroom.callback(wire.close)
        classroom.warm_up()
        for number in range(3):
            classroom.student(number, port=wire.port if number == 1 else None)
        teacher = classroom.terminal("teacher", block("gmfl_lite.flower_app classroom"))
        teacher.wait_for("saved as", 900)
        assert teacher.popen.wait(300) == 0
        sent, requests = wire.sent, wire.requests()
        shown = classroom.terminal("afterwards", block("load_result('federation"))
        shown.wait_for("trained +[0-9. ]+", 300)
    gap = agrees(gl.load_result(tmp_path / "federation.result"), in_process)
    record_property("Flower with three processes, largest difference of a parameter after three rounds", gap)
    assert gap < 1e-5
    assert "round 3: asked 0 1 2; took part: 0 1 2; missing: -" in teacher.output

    parameters, updates = sizes_of_updates(in_process, requests)
    assert len(answers(requests)) == len(updates) + 2, "the scores of rounds 0 and 3 are in what is searched below"
    for size, contents in updates:  # so small a model that the headers, as many for any, are not small beside it
        assert contents < 1.1 * parameters
        assert size < parameters + 9000
    beyond, of_it = (max(sizes) - parameters for sizes in zip(*updates, strict=True))
    record_property("bytes of an update beyond its parameters'", f"{beyond}, of which {beyond - of_it} of headers")

    federation = gl.build_federation(in_process.experiment)
    images = torch.cat([federation.train(1)[0], federation.test(1)[0]])
    private = byte_runs(images, levels=16)
    assert len(private) > 10_000
    assert not holds_any(sent, private)
    for form in (images[5], (images[5] * 16).to(torch.uint8)):  # the search can find
        assert holds_any(sent + form.numpy().tobytes(), private)


@pytest.mark.slow
def test_with_all_headers_an_ordinary_models_update_is_its_parameters_and_a_tenth(
    rng, tmp_path, monkeypatch, record_property
):
    """A node with images of 28 by 28 pixels, in MNIST's own files; every byte that it sends is counted."""
    images = rng.integers(256, size=(20, 28, 28), dtype=np.uint8)
    write_dataset(tmp_path / "MNIST" / "raw", ("train", "t10k"), images, np.arange(20, dtype=np.uint8) % 10)
    monkeypatch.setenv("GMFL_LITE_DATA", str(tmp_path))
    saved = tmp_path / "federation.result"
    experiment = gl.Experiment(
        dataset="mnist", partition="iid", n_agents=1, n_new_agents=0, agents_per_round=1, rounds=1, device="cpu"
    )
    flower_app.write_app(tmp_path / "classroom", experiment, save=str(saved))
    with Classroom(tmp_path) as classroom:
        classroom.superlink(block("flower-superlink --insecure --host"))
        wire = Wire(classroom.port)
        classroom.callback(wire.close)
        classroom.warm_up()
        classroom.student(0, port=wire.port)
        teacher = classroom.terminal("teacher", block("gmfl_lite.flower_app classroom").split("\n", 1)[1])
        teacher.wait_for("saved as", 900)
        sent, requests = wire.sent, wire.requests()
    parameters, updates = sizes_of_updates(gl.load_result(saved), requests)
    largest = max(size for size, _ in updates)
    record_property("bytes of a 28×28 model's update, all headers counted", f"{largest} for {parameters}")
    assert parameters < largest < 1.1 * parameters
    private = byte_runs(torch.from_numpy(images).float() / 255, levels=255)
    assert len(private) > 10_000
    assert not holds_any(sent, private)
    assert holds_any(sent + images[7].tobytes(), private)


def sizes_of_updates(result: gl.Result, requests: list[bytes]) -> tuple[int, list[tuple[int, int]]]:
    """Return the bytes of a model's parameters, and those of each update of it among the answers."""
    parameters = 4 * sum(tensor.numel() for tensor in result.params.values())
    updates = [sizes for sizes in answers(requests) if sizes[0] > parameters]
    assert len(updates) == result.experiment.rounds
    return parameters, updates


@pytest.mark.slow
def test_who_is_not_registered_is_turned_away(tmp_path):
    """TLS and keys, as written in the notebook, for two students of whom one is registered."""
    with Classroom(tmp_path) as classroom:
        certificate, superlink = block("openssl").split("\n", 1)
        classroom.terminal("openssl", certificate).popen.wait(300)
        classroom.superlink(superlink)
        assert classroom.terminal("key-0", block("ssh-keygen"), agent=0).popen.wait(300) == 0
        assert classroom.terminal("register", block("supernode register")).popen.wait(300) == 0
        assert classroom.terminal("key-1", block("ssh-keygen"), agent=1).popen.wait(300) == 0
        known, unknown = (
            classroom.terminal(f"student-{number}", block("--auth-supernode-private-key"), agent=number)
            for number in range(2)
        )
        known.wait_for("SuperNode ID: ", 300)
        unknown.popen.wait(300)
        assert unknown.popen.returncode != 0
        assert "SuperNode ID: " not in unknown.output


def answers(requests: list[bytes]) -> list[tuple[int, int]]:
    """Return the bytes of each answer, and those of its requests' bodies alone.

    A request announces the names of an answer's objects, 64 hexadecimal digits each; each is sent under its name.
    """
    names = re.compile(rb"[0-9a-f]{64}")
    announced = [request for request in requests if request.startswith(b"POST /v1/fleet/push-messages")]
    objects = {names.search(body_of(push))[0]: push for push in requests if b"/push-object " in push[:40]}
    found = []
    for request in announced:
        pushes = [request, *(objects[name] for name in {*names.findall(body_of(request))} & {*objects})]
        found.append((sum(map(len, pushes)), sum(len(body_of(push)) for push in pushes)))
    return found


def body_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


def byte_runs(images: torch.Tensor, levels: int, length: int = 32) -> set[bytes]:
    """Return every run of so many bytes in the images, as floats and as grey levels, that is not mostly one byte."""
    runs = set()
    for image in images:
        for form in (image * scale for scale in {1, levels, 255}):
            for content in (form.numpy().tobytes(), form.round().to(torch.uint8).numpy().tobytes()):
                pieces = (content[i : i + length] for i in range(len(content) - length + 1))
                runs |= {piece for piece in pieces if len(set(piece)) >= 6}
    return runs


def holds_any(content: bytes, runs: set[bytes], length: int = 32) -> bool:
    return any(content[i : i + length] in runs for i in range(len(content) - length + 1))


@pytest.mark.slow
def test_one_leaves_another_comes_and_training_ends(planted, tmp_path):
    """Agent 1 is killed in round two, before it answers; agent 3 comes in round three; no round waits too long."""
    experiment = EXPERIMENT.replace(n_agents=4)
    seconds = 60  # which the round that agent 1 leaves takes; the others need a few
    changed, folder = planted("flower_app.py", "from silent import agent").parent, tmp_path / "class"
    folder.mkdir()
    result = folder / "federation.result"
    how = {"save": str(result), "round_seconds": seconds, "agents_to_wait_for": 3}
    flower_app.write_app(folder / "classroom", experiment, **how)
    with Classroom(folder) as classroom:
        classroom.superlink(block("flower-superlink --insecure --host"))
        classroom.warm_up()
        students = [
            classroom.student(0),
            classroom.changed_student(1, changed, Path(__file__).parent),
            classroom.student(2),
        ]
        start = block("gmfl_lite.flower_app classroom").split("\n", 1)[1]
        teacher = classroom.terminal("teacher", start)
        students[1].wait_for("(?s)Receiving: train.*Receiving: train", 900)
        students[1].kill()
        classroom.student(3)  # is connected when the round that waits for agent 1 is over
        teacher.wait_for("saved as", 900)
        assert teacher.popen.wait(300) == 0
    rounds = pd.read_csv(f"{result}.rounds.csv", dtype=str).set_index("round")
    assert rounds.loc["1"].tolist() == ["0 1 2", "0 1 2", "-", "-"]
    assert rounds.loc["2"].tolist() == ["0 1 2", "0 2", "1", "-"]
    assert rounds.loc["3"].tolist() == ["0 2 3", "0 2 3", "-", "-"]
    scores = gl.load_result(result)
    assert scores.history["round"].unique().tolist() == [0, 3]
    assert {0, 2, 3} == set(scores.agents["agent"])


@pytest.mark.slow
def test_one_who_lies_in_every_round_changes_nothing(post, planted, tmp_path, record_property):  # noqa: F811
    """Student 1 has changed the library. What the others give is what they give where student 1 never answers."""
    changed = planted("flower_app.py", "from lies import agent").parent
    rounds = range(1, len(IN_EVERY_ROUND) + 1)
    experiment = EXPERIMENT.replace(model="softmax", rounds=len(rounds), eval_every=len(rounds))
    seconds = 60
    (tmp_path / "class").mkdir()
    saved = tmp_path / "class" / "federation.result"
    flower_app.write_app(tmp_path / "class" / "classroom", experiment, save=str(saved), round_seconds=seconds)
    with Classroom(tmp_path / "class") as classroom:
        classroom.superlink(block("flower-superlink --insecure --host"))
        classroom.warm_up()  # for the others: what is forked has imported the library as it is
        classroom.changed_student(1, changed, Path(__file__).parent)
        for number in (0, 2):
            classroom.student(number)
        teacher = classroom.terminal("teacher", block("gmfl_lite.flower_app classroom").split("\n", 1)[1])
        teacher.wait_for("saved as", (len(rounds) + 4) * seconds)
        assert teacher.popen.wait(60) == 0
    table = pd.read_csv(f"{saved}.rounds.csv", dtype=str)
    for lie, took_part, left_out in zip(IN_EVERY_ROUND, table["took_part"], table["left_out"], strict=True):
        record_property(f"{lie} from a process of its own", f"left out: {left_out}")
        assert took_part == "0 2"
        assert left_out.startswith("1: ")
        assert LIES[lie][1] in left_out
    alone = federate(post(experiment, nodes={100: 0, 101: 1, 102: 2}, behave={(1, round): "error" for round in rounds}))
    found = gl.load_result(saved)
    others = (result.agents[result.agents["agent"] != 1].groupby("fine_tune_steps") for result in (found, alone))
    accuracies = [each["accuracy"].mean().round(3).to_dict() for each in others]
    record_property("accuracy of the others after so many steps, with and without the liar", accuracies)
    assert agrees(found, alone) < 1e-5
