"""A checkpoint of a run that goes on: the same cost from beginning to end, and nothing lost on the way."""

import os
import pickle
import random
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import torch
from same_result import assert_same

import gmfl_lite as gl
from gmfl_lite import runner
from gmfl_lite.basics import growing_file, storage

SMALL = gl.Experiment(
    model="softmax", n_agents=12, n_new_agents=3, agents_per_round=4, rounds=6, eval_every=1, eval_steps=(0, 1)
)


class Crash(Exception):
    """What ends a process in the middle, as far as files are concerned."""


def crash_after(last):
    def crashes(round, rows):
        if round == last:
            raise Crash

    return crashes


@pytest.fixture(scope="module")
def whole():
    return gl.run(SMALL, progress=False)


@pytest.fixture
def path(tmp_path):
    """A checkpoint of a run that has crashed after three rounds."""
    path = tmp_path / "run"
    with pytest.raises(Crash):
        gl.run(SMALL, checkpoint=path, on_round=crash_after(3), progress=False)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["run", "run.history"]
    return path


def test_every_evaluation_costs_the_same(tmp_path, monkeypatch):
    """Counted: bytes written, lines of JSON made, rows put into tables."""
    counts, sizes = {"lines": 0, "rows": 0}, []

    def counted(function, what, amount):
        def counting(*args, **kwargs):
            counts[what] += amount(*args)
            return function(*args, **kwargs)

        return counting

    monkeypatch.setattr(storage, "line", counted(storage.line, "lines", lambda value: 1))
    monkeypatch.setattr(pd, "concat", counted(pd.concat, "rows", lambda tables, **_: sum(map(len, tables))))
    monkeypatch.setattr(
        runner, "frame", counted(runner.frame, "rows", lambda table, _: 0 if table is None else len(table))
    )

    def look(round, rows):
        file = tmp_path / "run"
        sizes.append((file.stat().st_size, storage.beside(file).stat().st_size, *counts.values()))

    gl.run(SMALL.replace(rounds=60), checkpoint=tmp_path / "run", on_round=look, progress=False)
    work = [
        (size, after - before, *(now - then for then, now in zip(earlier, later, strict=True)))
        for (_, before, *earlier), (size, after, *later) in pairwise(sizes)
    ]
    assert len({work_of_one[2:] for work_of_one in work[1:]}) == 1, "lines and rows"
    for begin, end in zip(work[1][:2], work[-1][:2], strict=True):  # bytes; a number has a digit more or less
        assert abs(end - begin) < 0.05 * begin


def test_a_run_that_has_crashed_is_read_and_goes_on_to_the_same_end(path, whole):
    part = gl.load_result(path)
    assert (part.status, part.round) == ("stopped", 3)
    assert part.history.equals(whole.history.query("round <= 3"))
    for _ in range(2):
        assert_same(whole, gl.run(SMALL, checkpoint=path, progress=False))
        assert [found.name for found in path.parent.iterdir()] == ["run"], "one file, once the run has ended"
        assert_same(whole, gl.load_result(path))


def test_a_run_that_is_stopped_leaves_one_file(tmp_path, whole):
    def interrupt(round, rows):
        if round == 2:
            raise KeyboardInterrupt

    gl.run(SMALL, checkpoint=tmp_path / "run", on_round=interrupt, progress=False)
    assert [found.name for found in tmp_path.iterdir()] == ["run"]
    assert_same(whole, gl.run(SMALL, checkpoint=tmp_path / "run", progress=False))


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("call", [0, 1])
def test_a_crash_between_any_two_steps_of_writing_leaves_what_was_there(failing, call, path, whole, monkeypatch):
    """The rows are synced, then the file that counts them is, and takes its place."""
    plain, calls = getattr(os, failing), []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) > call:
            raise OSError("the disk says no")
        return plain(*arguments)

    monkeypatch.setattr(os, failing, fails)
    with pytest.warns(UserWarning, match=r"could not be written \(the disk says no\); the result is whole") as said:
        assert_same(whole, gl.run(SMALL, checkpoint=path, progress=False))
    assert (len(said), said[0].filename) == (1, __file__)
    monkeypatch.undo()
    assert gl.load_result(path).round == 3 + (failing == "replace") * call
    assert_same(whole, gl.run(SMALL, checkpoint=path, progress=False))


def test_what_a_crash_leaves_behind_the_rows_that_count_does_not_matter(path, whole):
    with storage.beside(path).open("ab") as file:
        file.write(b'[4, "trained", 0, 9.9')
    assert gl.load_result(path).round == 3
    assert_same(whole, gl.run(SMALL, checkpoint=path, progress=False))


def test_damage_to_the_rows_is_refused_everywhere(path):
    rows, moments = storage.beside(path), random.Random(0)
    good, mark = rows.read_bytes(), path.parent / "ran"
    spoiled = [good[:-1], b"", pickle.dumps(Planted(mark)) + good]
    for place in (0, len(good) - 1, *(moments.randrange(len(good)) for _ in range(100))):
        spoiled.append(good[:place] + bytes([good[place] ^ (1 << moments.randrange(8))]) + good[place + 1 :])
    for content in spoiled:
        rows.write_bytes(content)
        for reads in (gl.load_result, lambda path: gl.run(SMALL, checkpoint=path, progress=False)):
            with pytest.raises(ValueError, match=r"run is damaged: its .*run\.history does not match its checksum"):
                reads(path)
        assert rows.read_bytes() == content, "refused, and kept"
    assert not mark.exists()
    rows.unlink()
    with pytest.raises(ValueError, match=r"run is of a run that has not ended, and its .*run\.history is missing"):
        gl.load_result(path)


class Planted:
    """What a pickle would do on being read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_damage_to_the_file_that_counts_the_rows_is_refused_or_no_difference(path):
    good, moments, part = path.read_bytes(), random.Random(0), gl.load_result(path)
    for place in [*range(100), *(moments.randrange(len(good)) for _ in range(100))]:
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << moments.randrange(8))]) + good[place + 1 :])
        try:
            found = gl.load_result(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert_same(part, found)


def test_a_reader_who_comes_while_the_run_ends_reads_on(path, whole, monkeypatch):
    """Between reading the one file and the other, the run ends and there is but one."""
    plain, ended = storage.beside, []

    def ends_first(of):
        monkeypatch.setattr(storage, "beside", plain)
        ended.append(gl.run(SMALL, checkpoint=path, progress=False))
        return plain(of)

    monkeypatch.setattr(storage, "beside", ends_first)
    assert_same(whole, gl.load_result(path))
    assert_same(whole, ended[0])


def test_a_second_run_with_the_same_path_that_ends_first_does_not_matter(tmp_path, whole):
    path = tmp_path / "run"

    def second(round, rows):
        if round == 2:
            assert_same(whole, gl.run(SMALL, checkpoint=path, progress=False))

    assert_same(whole, gl.run(SMALL, checkpoint=path, on_round=second, progress=False))
    assert_same(whole, gl.load_result(path))


def test_a_checkpoint_in_one_file_goes_on_as_well(path, whole):
    """It holds the history, and nothing lies beside it."""
    storage.write(path, *storage.read(path))
    storage.beside(path).unlink()
    assert_same(whole, gl.run(SMALL, checkpoint=path, progress=False))


def test_rows_that_are_left_without_their_checkpoint_are_written_over(path, whole):
    path.unlink()
    assert_same(whole, gl.run(SMALL, checkpoint=path, progress=False))
    assert not storage.beside(path).exists()


def test_a_file_of_somebody_else_in_the_place_of_the_rows_is_kept(tmp_path):
    mine = tmp_path / "run.history"
    mine.write_text("my notes")
    with pytest.raises(ValueError, match=r"checkpoint = .*run\.history is a file of something else"):
        gl.run(SMALL, checkpoint=tmp_path / "run", progress=False)
    assert mine.read_text() == "my notes"
    assert not (tmp_path / "run").exists()


def test_a_process_that_does_not_write_goes_on_from_what_another_has_written(path, whole):
    class Second(gl.Vectorized):
        @property
        def recipe(self):
            return ""

        writes = False

    before = path.read_bytes(), storage.beside(path).read_bytes()
    assert_same(whole, gl.run(SMALL, checkpoint=path, engine=Second, progress=False))
    assert (path.read_bytes(), storage.beside(path).read_bytes()) == before


def test_numbers_of_double_precision_are_kept_exactly(tmp_path, whole):
    precise = {"w": torch.linspace(0, 1, 7, dtype=torch.float64) / 3, "b": torch.tensor([0.1 + 0.2]).double()}
    losses = whole.history.assign(loss=whole.history["loss"] / 3 + 1e-16)
    result = replace(whole, params=precise, history=losses)
    result.save(tmp_path / "saved")
    with growing_file.GrowingFile(tmp_path / "grown", "history", losses, list(losses.itertuples(False, None))) as file:
        gl.result.store(result, file)
    for name in ("saved", "grown"):
        found = gl.load_result(tmp_path / name)
        assert_same(result, found)
        assert {tensor.dtype for tensor in found.params.values()} == {torch.float64}
