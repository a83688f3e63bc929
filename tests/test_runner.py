"""Experiments are run, stopped, resumed, and their results stored."""

import gc
import json
import math
import re
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite import data
from gmfl_lite.basics import storage
from gmfl_lite.models import as_functions, cross_entropy
from gmfl_lite.runner import HISTORY_COLUMNS
from gmfl_lite.theory.after_divergence import what_to_lower

needs_fashion = pytest.mark.skipif(
    not data.DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)

SMALL = gl.Experiment(
    model="softmax", n_agents=12, n_new_agents=3, agents_per_round=4, local_steps=2, rounds=6, eval_every=2
)


def same(one: gl.Result, other: gl.Result) -> bool:
    return (
        one.history.equals(other.history)
        and one.agents.equals(other.agents)
        and all(torch.equal(tensor, other.params[name]) for name, tensor in one.params.items())
        and (one.status, one.message, one.round, one.experiment)
        == (other.status, other.message, other.round, other.experiment)
    )


def test_a_run_on_digits_learns_to_be_fine_tuned(capsys):
    result = gl.run(gl.Experiment(nu=3, rounds=30))
    assert result.status == "completed"
    new = result.table().loc["new"]
    assert new[0] > 0.3  # three times guessing
    assert new[3] > new[0] + 0.15
    assert "30/30" in capsys.readouterr().err
    assert list(result.history.columns) == [name for name in HISTORY_COLUMNS if name != "metric"]
    assert sorted(set(result.history["round"])) == [0, 10, 20, 30]
    assert len(result.agents) == 60 * 5
    last = result.history.query("round == 30 and group == 'new' and fine_tune_steps == 3")["accuracy"].item()
    assert last == result.agents.query("group == 'new' and fine_tune_steps == 3")["accuracy"].mean()


def test_the_same_experiment_gives_the_same_bits_and_what_nu_changes_is_only_nu():
    one, again = (gl.run(SMALL, progress=False) for _ in range(2))
    assert same(one, again)
    looking_ahead, fedavg = (gl.run(SMALL.replace(nu=nu), progress=False).history.query("round == 0") for nu in (5, 0))
    pd.testing.assert_frame_equal(looking_ahead, fedavg)
    assert not same(one, gl.run(SMALL.replace(seed=1), progress=False))


def test_own_federation_and_own_module(federation):
    torch_module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10, dtype=torch.float32, device="meta"))
    torch_module.to_empty(device="cpu")
    for parameter in torch_module.parameters():
        torch.nn.init.zeros_(parameter)
    result = gl.run(SMALL, federation=federation, model=torch_module, progress=False)
    assert all((parameter == 0).all() for parameter in torch_module.parameters())
    start = result.history.query("round == 0 and fine_tune_steps == 0")["loss"]
    assert start.tolist() == pytest.approx([math.log(10)] * 2)
    assert result.history["loss"].iloc[-1] < 2


def test_a_federation_without_new_agents_and_one_too_small(digits):
    parts = gl.partition(digits.y, gl.IID(), 5, seed=0)
    federation = gl.Federation.from_partition(digits, parts)
    result = gl.run(SMALL, federation=federation, progress=False)
    assert set(result.history["group"]) == {"trained"}
    with pytest.raises(ValueError, match="agents_per_round = 6: must be at most the federation's n_agents = 5"):
        gl.run(SMALL.replace(agents_per_round=6), federation=federation)


@pytest.mark.parametrize("partition", ["iid", "shards", "per_fedavg", "dirichlet"])
def test_every_partition_and_shift_runs(partition):
    options = {"per_fedavg_a": 8, "n_agents": 9} if partition == "per_fedavg" else {}
    experiment = SMALL.replace(partition=partition, rounds=1, permuted_classes=3, max_rotation=20, **options)
    assert gl.run(experiment, progress=False).status == "completed"


def test_on_round_sees_every_evaluation():
    seen = []
    result = gl.run(SMALL, on_round=lambda round, rows: seen.append((round, rows)), progress=False)
    assert [round for round, _ in seen] == [0, 2, 4, 6]
    pd.testing.assert_frame_equal(pd.concat([rows for _, rows in seen], ignore_index=True), result.history)


def test_a_run_leaves_no_tensors_behind():
    def tensors() -> int:
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    experiment = gl.Experiment(n_agents=5, n_new_agents=2, agents_per_round=2, rounds=1, model="softmax")
    gl.run(experiment, progress=False)
    before = tensors()
    gl.run(experiment, progress=False)
    assert tensors() == before


def test_stopping_returns_what_there_is():
    stop = threading.Event()
    result = gl.run(SMALL, on_round=lambda round, rows: round == 2 and stop.set(), stop=stop, progress=False)
    assert (result.status, result.round, result.message) == ("stopped", 2, "stopped after 2 of 6 rounds")
    assert all(
        torch.equal(result.params[k], v) for k, v in gl.run(SMALL.replace(rounds=2), progress=False).params.items()
    )


def test_ctrl_c_returns_what_there_is():
    def interrupt(round, rows):
        if round == 4:
            raise KeyboardInterrupt

    result = gl.run(SMALL, on_round=interrupt, progress=False)
    assert (result.status, result.round) == ("stopped", 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"fine_tune_lr": 10.0, "nu": 20}, "fine_tune_lr"),
        ({"fine_tune_lr": 1e5, "nu": 0}, "fine_tune_lr"),
        ({"meta_lr": 100.0}, "meta_lr"),
        ({"meta_lr": 3.0}, "meta_lr"),
    ],
)
def test_divergence_stops_and_names_the_step_size_to_lower(settings, field):
    experiment = gl.Experiment(rounds=50, n_agents=20, **settings)
    result = gl.run(experiment, progress=False)
    assert result.status == "diverged"
    assert f"lower {field} (now {settings[field]:g}), for example to" in result.message
    smaller = float(re.search(r"for example to (\S+)$", result.message)[1])
    assert smaller < settings[field]
    assert gl.run(experiment.replace(**{field: smaller}), progress=False).status == "completed"
    assert np.isfinite(result.history[["loss", "accuracy"]]).all().all()
    assert all(tensor.isfinite().all() for tensor in result.params.values())


def test_blame_falls_on_the_meta_step_where_w_itself_has_gone_astray(federation):
    predict, start = as_functions(gl.build_model("mlp", federation), torch.device("cpu"))
    experiment = SMALL.replace(fine_tune_lr=20.0)
    told = partial(what_to_lower, experiment, federation, cross_entropy(predict), start)
    assert told(start).startswith("lower fine_tune_lr ")
    assert told({name: 30 * tensor for name, tensor in start.items()}).startswith("lower meta_lr ")


def test_a_server_that_goes_too_far_is_blamed():
    result = gl.run(SMALL.replace(server_lr=300.0, rounds=20), progress=False)
    assert result.status == "diverged"
    assert result.message.endswith("; lower server_lr (now 300), for example to 1")
    assert gl.run(SMALL.replace(server_lr=1.0), progress=False).status == "completed"


def test_what_is_evaluated_does_not_decide_what_diverges():
    wild = SMALL.replace(nu=0, meta_lr=200, batch_size=5, rounds=20, eval_every=20, fine_tune_lr=1.0)
    results = [gl.run(wild.replace(eval_steps=steps), progress=False) for steps in ((0,), (0, 5), (5,))]
    assert {result.status for result in results} == {"diverged"}
    assert len({result.round for result in results}) == 1


def test_parameters_that_blow_up_in_the_first_step_are_not_kept():
    result = gl.run(SMALL.replace(meta_lr=1e39, local_steps=1), progress=False)
    assert (result.status, result.round) == ("diverged", 0)
    assert "diverged in round 1" in result.message
    assert all(tensor.isfinite().all() for tensor in result.params.values())


@pytest.mark.parametrize("change", ["data", "architecture", "loss"])
def test_a_checkpoint_of_other_data_or_another_model_is_refused(change, federation, digits, tmp_path):
    path = tmp_path / "checkpoint"
    gl.run(SMALL, federation=federation, checkpoint=path, progress=False)
    other = gl.Federation.from_partition(digits, gl.partition(digits.y, gl.IID(), 15, seed=0), n_new_agents=3)
    changed = {
        "data": {"federation": other},
        "architecture": {"federation": federation, "model": gl.build_model("mlp", digits)},
        "loss": {"federation": federation, "loss": torch.nn.CrossEntropyLoss(reduction="none")},
    }[change]
    what = "another experiment: model" if change == "architecture" else "other agents' data, another model's structure"
    with pytest.raises(ValueError, match=what):
        gl.run(SMALL, checkpoint=path, progress=False, **changed)
    gl.run(SMALL, federation=federation, progress=False).save(path)
    with pytest.raises(ValueError, match="a result, not a checkpoint"):
        gl.run(SMALL, federation=federation, checkpoint=path, progress=False)


class Noise(torch.nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def linear(inputs, outputs, *more):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs), *more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"federation": "digits"}, "federation = 'digits'"),
        ({"model": "mlp"}, "model = 'mlp'"),
        ({"stop": "now"}, "stop = 'now': must be a threading.Event"),
        ({"on_round": 5}, "on_round = 5"),
        ({"checkpoint": 5}, "checkpoint = 5"),
        ({"checkpoint": "no/such/folder/file"}, "a path in a folder that exists"),
        ({"model": linear(64, 5)}, r"logits \[4, 10\].*got .*\[4, 5\]"),
        ({"model": linear(60, 10)}, "does not take images"),
        ({"model": linear(64, 10).requires_grad_(False)}, "no parameters to train"),
        ({"model": linear(64, 10, Noise())}, "global random generator"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        gl.run(SMALL, progress=False, **arguments)


def test_frozen_layers_stay_as_they_are(federation):
    model = gl.build_model("mlp", federation)
    model[1].requires_grad_(False)
    result = gl.run(SMALL, federation=federation, model=model, progress=False)
    assert list(result.params) == ["3.weight", "3.bias", "5.weight", "5.bias"]
    assert result.history["accuracy"].iloc[-1] > 0.2


def test_a_forged_file_is_no_result(tmp_path):
    path = tmp_path / "forged"
    storage.write(path, {}, {})
    with pytest.raises(ValueError, match="is not a gmfl_lite result"):
        gl.load_result(path)
    for body in (b"", b"PK", b"\x93NUMPY\x01\x00"):
        path.write_bytes(body)
        with pytest.raises(ValueError, match="is not a gmfl_lite result"):
            gl.load_result(path)


def test_what_only_pickle_could_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="words holds objects, which only pickle could write"):
        storage.write(tmp_path / "result", {}, {"words": np.array(["w", None], dtype=object)})
    assert not list(tmp_path.iterdir())


def test_results_come_back_bit_by_bit(tmp_path):
    result = gl.run(SMALL, progress=False)
    result.save(tmp_path / "result")
    back = gl.load_result(tmp_path / "result")
    assert same(result, back)
    assert (back.history.dtypes == result.history.dtypes).all()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("stop_at", [0, 2, 4, 6])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path, stop_at):
    whole, path, stop = gl.run(SMALL, progress=False), tmp_path / "checkpoint", threading.Event()

    def interrupt(round, rows):
        if round == stop_at:
            stop.set()

    part = gl.run(SMALL, checkpoint=path, stop=stop, on_round=interrupt, progress=False)
    assert part.round == stop_at
    for _ in range(2):  # the second time nothing is left to do
        assert same(whole, gl.run(SMALL, checkpoint=path, progress=False))


def test_a_checkpoint_of_another_experiment_is_refused_and_kept(tmp_path):
    path = tmp_path / "checkpoint"
    gl.run(SMALL.replace(rounds=2), checkpoint=path, progress=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="nu = 3 there and 1 here; rounds = 2 there and 6 here"):
        gl.run(SMALL.replace(nu=1), checkpoint=path, progress=False)
    assert path.read_bytes() == before


def test_every_flipped_bit_of_a_number_is_damage(tmp_path):
    path = tmp_path / "result"
    result = gl.run(SMALL.replace(rounds=1), progress=False)
    result.save(path)
    good = path.read_bytes()
    for tensor in result.params.values():
        place = good.index(tensor.numpy().tobytes())
        for position in range(place, place + 4 * tensor.numel(), 37):
            path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            with pytest.raises(ValueError, match="or damaged: BadZipFile: Bad CRC-32"):
                gl.load_result(path)


def test_a_result_is_a_plain_npz(tmp_path):
    result = gl.run(SMALL.replace(rounds=1), progress=False)
    result.save(tmp_path / "result")
    with np.load(tmp_path / "result", allow_pickle=False) as file:
        for name, tensor in result.params.items():
            assert file[f"array/{name}"].tobytes() == tensor.numpy().tobytes()
        assert json.loads(file["record"].tobytes())["status"] == "completed"


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "result"
    gl.run(SMALL.replace(rounds=1), progress=False).save(path)
    good = path.read_bytes()
    made = path.rename(tmp_path / "made")
    spoiled = bytearray(good)
    spoiled[len(good) // 2] ^= 1
    for content in (
        b"",
        b"hello",
        good[:-1],
        bytes(spoiled),
        good[100:],
        b"\x80\x04K\x01.",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a gmfl_lite result, or damaged"):
            gl.load_result(path)
    record, arrays = storage.read(made)
    storage.write(path, {**record, "format": 3}, arrays)
    with pytest.raises(ValueError, match="has format 3; this version of gmfl_lite reads format 4"):
        gl.load_result(path)
    with pytest.raises(FileNotFoundError):
        gl.load_result(tmp_path / "nothing")


@pytest.mark.slow
@needs_fashion
def test_looking_ahead_pays_on_real_fashion_images_that_agents_name_differently():
    base = gl.Experiment(
        dataset="fashion-mnist", partition="iid", permuted_classes=10, n_agents=200, n_new_agents=40, local_steps=1,
        rounds=60, eval_every=60, fine_tune_lr=0.1, meta_lr=0.1, eval_steps=(0, 5),
    )  # fmt: skip
    federation = gl.build_federation(base)
    after = {}
    for nu in (0, 1, 3):
        table = gl.run(base.replace(nu=nu), federation=federation, progress=False).table()
        assert table.loc["new", 0] < 0.15  # nobody can know a newcomer's names
        after[nu] = table.loc["new", 5]
    assert after[0] + 0.04 < after[1]
    assert after[1] + 0.04 < after[3]
