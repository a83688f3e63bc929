"""The same numbers twice, nothing lost, nothing silent: hostile settings, full disks, kills, damaged files."""

import errno
import io
import json
import os
import pickle
import random
import time
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import house
import in_a_child
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from same_result import assert_same

import gmfl_lite as gl
from gmfl_lite.aggregation import AGGREGATIONS
from gmfl_lite.basics import storage
from gmfl_lite.basics.devices import PRECISIONS
from gmfl_lite.data import DATASETS
from gmfl_lite.federation import QUERIES
from gmfl_lite.meta_gradients import METHODS
from gmfl_lite.models import MODELS, PERSONAL
from gmfl_lite.partition import PARTITIONS
from gmfl_lite.server import SERVER_STEPS

ROOT = Path(__file__).parent.parent
EXPERIMENT = gl.Experiment(
    model="softmax", n_agents=12, n_new_agents=3, agents_per_round=4, rounds=30, eval_every=1, eval_steps=(0, 1)
)

hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 60),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["iid", "shards", "mlp", "exact", "truncated", "cpu", "per_fedavg", "loop", "samples"]),
    st.lists(st.one_of(st.integers(-1, 9), st.floats()), max_size=4),
    st.sampled_from(
        [np.int64(3), np.float32(0.5), np.bool_(True), np.float64("nan"), np.array(3), np.array([1, 2]), object()]
    ),
)
names = st.sampled_from([field.name for field in fields(gl.Experiment)])


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.dictionaries(names | st.text(max_size=4), hostile, max_size=4))
def test_hostile_settings_are_taken_as_they_are_or_refused_by_name(given_settings):
    try:
        experiment = gl.Experiment.from_dict(given_settings)
    except gl.ExperimentError as error:
        assert any(name in str(error) for name in given_settings)  # noqa: PT017
        return
    assert set(given_settings) <= {field.name for field in fields(gl.Experiment)}
    assert gl.Experiment.from_dict(json.loads(json.dumps(experiment.to_dict(), allow_nan=False))) == experiment
    assert hash(experiment) == hash(experiment.replace())
    for name, value in given_settings.items():
        kept = getattr(experiment, name)
        given = tuple(value) if isinstance(value, list) else value
        assert kept == (float(given) if isinstance(kept, float) else given)  # a float cannot hold every integer
        assert type(kept) in (int, float, str, tuple, type(None))


WORDS = {
    "aggregation": AGGREGATIONS,
    "dataset": DATASETS,
    "gradient": METHODS,
    "model": MODELS,
    "partition": PARTITIONS,
    "personal": PERSONAL,
    "precision": PRECISIONS,
    "query": QUERIES,
    "server": SERVER_STEPS,
}
CHOICES = [(name, word) for name, words in WORDS.items() for word in words]


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_a_choice_that_needs_another_setting_is_refused_by_its_own_name(name, choice):
    """Where nothing else was given, nothing else can be at fault."""
    try:
        assert getattr(gl.Experiment(**{name: choice}), name) == choice
    except gl.ExperimentError as error:
        assert name in str(error)  # noqa: PT017


@contextmanager
def child(context, path, shuffle=0):
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=in_a_child.run_in_a_child, args=(EXPERIMENT.to_dict(), path, shuffle, there))
    process.start()
    there.close()
    yield process, here
    process.join()


def finish(context, path, shuffle=0):
    with child(context, path, shuffle) as (process, scores):
        while True:
            try:
                scores.recv()
            except EOFError:
                break
    assert process.exitcode == 0
    return gl.load_result(path)


@pytest.fixture(scope="module")
def whole(processes, tmp_path_factory):
    return finish(processes, tmp_path_factory.mktemp("whole") / "checkpoint")


@pytest.mark.slow
def test_another_process_with_other_global_generators_gives_the_same_bits(whole, processes, tmp_path):
    assert_same(whole, finish(processes, tmp_path / "again", shuffle=7))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(whole, processes, tmp_path):
    path, moments, kills, left = tmp_path / "checkpoint", random.Random(0), 0, []
    while kills < 20:
        with child(processes, path) as (process, scores):
            scores.recv()
            time.sleep(moments.uniform(0, 0.3))
            kills += process.is_alive()
            process.kill()
        part = gl.load_result(path)  # whatever the moment, a whole and valid file
        left.append(part.round)
        if part.status == "completed":
            assert_same(whole, part)
            path.unlink()
    assert_same(whole, finish(processes, path))
    assert len(set(left)) > 3  # the kills met the run in the middle


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_or_forbidden_disk_leaves_the_last_checkpoint(failing, code, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    short = EXPERIMENT.replace(rounds=2)
    gl.run(short, checkpoint=path, progress=False).save(tmp_path / "other")
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(code, "the disk says no")

    if failing == "write":
        monkeypatch.setattr(storage, "open", lambda *a: FullFile(code, *a), raising=False)
    else:
        monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="the disk says no"):
        gl.load_result(path).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "other"]


class FullFile:
    """A file on a disk with room for a hundred bytes."""

    def __init__(self, code, path, mode):
        self.code = code
        self.file = open(path, mode)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(content[:100])
        raise OSError(self.code, "the disk says no")


class Planted:
    """What a pickle would do on being read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", ["whole file", "array inside"])
def test_a_planted_pickle_is_refused_and_not_run(where, tmp_path):
    path, mark = tmp_path / "result", tmp_path / "ran"
    if where == "whole file":
        path.write_bytes(pickle.dumps(Planted(mark)))
    else:
        body = io.BytesIO()
        np.savez(body, record=np.array([Planted(mark)], dtype=object), allow_pickle=True)
        path.write_bytes(body.getvalue())
    with pytest.raises(ValueError, match="is not a gmfl_lite result"):
        gl.load_result(path)
    with pytest.raises(ValueError, match="is not a gmfl_lite result"):
        gl.run(EXPERIMENT, checkpoint=path, progress=False)
    assert not mark.exists()


def test_an_exception_in_a_callback_leaves_a_checkpoint_to_go_on_from(tmp_path):
    path, short = tmp_path / "checkpoint", EXPERIMENT.replace(rounds=4)

    def breaks(round, rows):
        if round == 2:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        gl.run(short, checkpoint=path, on_round=breaks, progress=False)
    assert gl.load_result(path).round == 2
    assert_same(gl.run(short, checkpoint=path, progress=False), gl.run(short, progress=False))


def test_every_region_of_a_file_matters(tmp_path):
    """Flips and cuts all over the file: refused with a clear error, or not a difference at all."""
    path = tmp_path / "result"
    result = gl.run(EXPERIMENT.replace(rounds=1), progress=False)
    result.save(path)
    good, moments = path.read_bytes(), random.Random(0)
    places = [*range(120), *(moments.randrange(len(good)) for _ in range(200))]
    for place in places:
        flipped = good[:place] + bytes([good[place] ^ (1 << moments.randrange(8))]) + good[place + 1 :]
        for content in (flipped, good[:place]):
            path.write_bytes(content)
            try:
                found = gl.load_result(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017
            else:
                assert_same(result, found)


RECORDINGS = ["engine/recording.py calls exec"]  # runs what torch.fx writes of the operations that it recorded


def test_nothing_in_the_library_can_run_what_a_file_or_a_parameter_says():
    assert house.hazards() == RECORDINGS
    readers_own = ["pictures.py calls exec", "pictures.py calls compile"]  # runs README's example, as its reader does
    assert house.hazards(ROOT / "tools") == readers_own


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        'eval("1")',
        'os.system("true")',
        "subprocess.run(command, shell=True)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "from torch import load",
        "model.load_state_dict(state)",
    ],
)
def test_a_planted_hazard_is_found_in_a_package(line, planted):
    (fault,) = (found for found in house.hazards(planted("theory/bounds.py", line)) if found not in RECORDINGS)
    assert fault.startswith("theory/bounds.py")


def test_make_lab_keeps_jupyters_token_and_loopback():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (lab,) = [line for line in makefile.splitlines() if "jupyter lab" in line]
    assert not any(word in lab for word in ("--ip", "token", "password", "allow"))
