"""Files from strangers: one ValueError that names the file, and no memory but a few times its size."""

import dataclasses
import io
import json
import os
import zipfile

import numpy as np
import pytest
from bounded import bounded
from hypothesis import given, settings
from hypothesis import strategies as st
from same_result import assert_same

import gmfl_lite as gl
from gmfl_lite.basics import storage

SMALL = gl.Experiment(
    model="softmax", rounds=2, eval_every=1, n_agents=6, n_new_agents=2, agents_per_round=2, eval_steps=(0, 1)
)
EXAMPLES = int(os.environ.get("GMFL_LITE_FUZZ", "200"))
"""Files that each of the fuzzers makes; some thousand make an evening."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    path = tmp_path_factory.mktemp("honest") / "result"
    gl.run(SMALL, progress=False).save(path)
    return path


@pytest.fixture(scope="module")
def members(honest):
    with zipfile.ZipFile(honest) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def record(honest):
    return storage.read(honest)[0]


def archive(members, compression=zipfile.ZIP_STORED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as made:
        for name, data in members if isinstance(members, list) else members.items():
            made.writestr(name, data)
    return body.getvalue()


def npy(array) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def promising(shape, descr="<f4", version=(1, 0), data=b"\0" * 8) -> bytes:
    """Return a .npy whose header promises what is not there."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2, "little") + text + data


def as_record(record) -> bytes:
    return npy(np.frombuffer(json.dumps({"format": storage.FORMAT, **record}).encode(), np.uint8))


def refused(path, content: bytes) -> str:
    """Read a stranger's file, as a result and as a checkpoint; return what is said."""
    path.write_bytes(content)
    for reads in (gl.load_result, lambda path: gl.run(SMALL, checkpoint=path, progress=False)):
        with pytest.raises(ValueError, match=r"result|has not ended") as said, bounded(path.parent, most=50e6):
            reads(path)
        assert str(path) in str(said.value)
        assert len(str(said.value)) < 700
    assert path.read_bytes() == content
    return str(said.value)


BOMB = npy(np.zeros(10**7))
ARCHIVES = {
    "packed": lambda m: archive({**m, "array/0.weight.npy": BOMB}, zipfile.ZIP_DEFLATED),
    "packed by bzip2": lambda m: archive({**m, "array/0.weight.npy": BOMB}, zipfile.ZIP_BZIP2),
    "two of one name": lambda m: twice(m),
    "no record": lambda m: archive({name: data for name, data in m.items() if "record" not in name}),
    "no parameters": lambda m: archive({"record.npy": m["record.npy"]}),
    "a member elsewhere": lambda m: archive({**m, "../elsewhere.npy": npy(np.zeros(2))}),
    "a member without a name": lambda m: archive({**m, "array/": b""}),
    "a promise of 4 TB": lambda m: archive({**m, "array/w.npy": promising((10**6, 10**6))}),
    "a promise that wraps around": lambda m: archive({**m, "array/w.npy": promising((2**62, 4))}),
    "less than nothing": lambda m: archive({**m, "array/w.npy": promising((-1, -2))}),
    "objects": lambda m: archive({**m, "array/w.npy": promising((1,), "|O")}),
    "text": lambda m: archive({**m, "array/w.npy": npy(np.array(["w" * 9]))}),
    "records": lambda m: archive({**m, "array/w.npy": npy(np.zeros(3, [("a", "f4")]))}),
    "a header of the future": lambda m: archive({**m, "array/w.npy": promising((2,), version=(9, 0))}),
    "a header that nests": lambda m: archive({**m, "array/w.npy": promising("(" * 4000)}),
    "whole numbers for a parameter": lambda m: archive({**m, "array/w.npy": npy(np.arange(3))}),
    "encrypted": lambda m: encrypted(m),
    "overlapping": lambda m: overlapping(m),
    "deep JSON": lambda m: archive({**m, "record.npy": npy(np.frombuffer(b"[" * 10**5, np.uint8))}),
    "a deep record": lambda m: archive({**m, "record.npy": npy(np.frombuffer(b'{"a":' * 10**5, np.uint8))}),
    "a list for a record": lambda m: archive({**m, "record.npy": npy(np.frombuffer(b"[1]", np.uint8))}),
    "no UTF-8": lambda m: archive({**m, "record.npy": npy(np.frombuffer(b"\xff\xfe{", np.uint8))}),
    "a huge number": lambda m: archive({**m, "record.npy": npy(np.frombuffer(b"9" * 10**4, np.uint8))}),
    "empty": lambda m: b"",
    "half": lambda m: archive(m)[: len(archive(m)) // 2],
}


def twice(members) -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return archive([*members.items(), next(iter(members.items()))])


def encrypted(members) -> bytes:
    content = bytearray(archive(members))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    return bytes(content)


def overlapping(members) -> bytes:
    """Return an archive whose second entry points into the first, larger than the file together."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as made:
        for name, data in members.items():
            made.writestr(name, data)
        large = max(made.filelist, key=lambda member: member.file_size)
        for number in range(50):
            other = zipfile.ZipInfo(f"array/w{number}.npy")
            other.file_size, other.compress_size, other.CRC = large.file_size, large.compress_size, large.CRC
            other.header_offset = large.header_offset
            made.filelist.append(other)
            made.NameToInfo[other.filename] = other
        made._didModify = True
    return body.getvalue()


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_of_a_stranger_is_refused(kind, members, tmp_path):
    said = refused(tmp_path / "stranger", ARCHIVES[kind](members))
    assert "not a gmfl_lite result" in said


@pytest.mark.parametrize("kind", ["objects", "text", "records", "less than nothing", "a promise of 4 TB", "packed"])
def test_arrays_are_numbers_before_anybody_looks_at_them(kind, members, tmp_path):
    (tmp_path / "stranger").write_bytes(ARCHIVES[kind](members))
    with pytest.raises(ValueError, match="not a gmfl_lite result"):
        storage.read(tmp_path / "stranger")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "fine"}, "status = 'fine': must be one of"),
        ({"round": -1}, "round = -1: must be"),
        ({"round": 3}, "round = 3: must be"),
        ({"round": 1.5}, "round = 1.5: must be"),
        ({"round": True}, "round = True"),
        ({"message": ["a"]}, "message = "),
        ({"engine": None}, "engine = None: must be text"),
        ({"loss": 3}, "loss = 3: must be text"),
        ({"fingerprint": {}}, "fingerprint"),
        ({"limit": "much"}, "limit = 'much'"),
        ({"limit": -1}, "limit = -1"),
        ({"experiment": {"nu": -1}}, "nu"),
        ({"experiment": []}, ""),
        ({"history": []}, "scores = []"),
        ({"history": {"round": 3}}, "scores"),
        ({"agents": {"agent": ["a"]}}, ""),
        ({"rows beside": {"bytes": 10**12}}, "history is missing"),
        ({"rows beside": 3}, "history is missing"),
    ],
    ids=str,
)
def test_a_record_of_a_stranger_is_refused(changes, said, members, record, tmp_path):
    content = archive({**members, "record.npy": as_record({**record, **changes})})
    assert said in refused(tmp_path / "stranger", content)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("loss", "NaN"), ("loss", "Infinity"), ("accuracy", 1.5), ("accuracy", -1), ("round", 7), ("round", 10**30),
        ("fine_tune_steps", -1), ("group", "nobody"), ("loss", []), ("loss", None),
    ],
)  # fmt: skip
def test_scores_that_cannot_be_are_refused(column, value, members, record, tmp_path):
    history = {name: list(values) for name, values in record["history"].items()}
    history[column][1] = "here" if value in ("NaN", "Infinity") else value
    text = json.dumps({"format": storage.FORMAT, **record, "history": history})
    if value in ("NaN", "Infinity"):
        text = text.replace('"here"', value)
    refused(tmp_path / "stranger", archive({**members, "record.npy": npy(np.frombuffer(text.encode(), np.uint8))}))


def test_a_federation_that_lost_a_round_is_read(honest, tmp_path):
    """There w has seen fewer rounds than were scored: of one, no answer could be used."""
    result = dataclasses.replace(gl.load_result(honest), round=1, status="stopped")
    result.save(tmp_path / "result")
    assert_same(gl.load_result(tmp_path / "result"), result)


def test_columns_of_different_lengths_are_refused(members, record, tmp_path):
    history = {**record["history"], "loss": record["history"]["loss"][:-1]}
    refused(tmp_path / "stranger", archive({**members, "record.npy": as_record({**record, "history": history})}))


@pytest.mark.parametrize(
    "rows", [{"bytes": "x"}, {"bytes": -3, "sha256": ""}, [], {"bytes": 5, "table": ["a"]}], ids=str
)
def test_a_stranger_does_not_point_beside_the_rows(rows, members, record, tmp_path):
    path = tmp_path / "stranger"
    storage.beside(path).write_bytes(b"[1]\n[2]\n")
    content = archive({**members, "record.npy": as_record({**record, storage.BESIDE: rows})})
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: its .* does not match its checksum"):
        gl.load_result(path)


@pytest.mark.parametrize("threads", [-1, 10**9])
def test_a_checkpoint_does_not_choose_a_million_threads(threads, honest, tmp_path):
    path = tmp_path / "run"
    gl.run(SMALL, checkpoint=path, progress=False)
    record, arrays = storage.read(path)
    storage.write(path, record, {**arrays, "engine/threads/": np.array(threads)})
    with pytest.raises(ValueError, match=f"threads = {threads}: must be"):
        gl.run(SMALL, checkpoint=path, progress=False)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
lists = st.lists(scalars | st.lists(scalars, max_size=2), max_size=4)
json_values = scalars | lists | st.dictionaries(st.text(max_size=6), scalars | lists, max_size=4)


def read_or_refuse(folder, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / "result"
    path.write_bytes(content)
    try:
        with bounded(folder):
            found = gl.load_result(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert found.params
        assert 0 <= found.round <= found.experiment.rounds
        with bounded(folder):
            found.save(path)
        assert_same(found, gl.load_result(path))
    assert [*folder.iterdir()] == [path]


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_record_is_read_or_refused(data, members, record, tmp_path_factory):
    changed = dict(record)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(record)))
        inner = changed[name]
        if isinstance(inner, dict) and inner and data.draw(st.booleans()):
            column = data.draw(st.sampled_from(sorted(inner)))
            values = inner[column]
            if isinstance(values, list) and values and data.draw(st.booleans()):
                place = data.draw(st.integers(0, len(values) - 1))
                new = [*values[:place], data.draw(json_values), *values[place + 1 :]]
            else:
                new = data.draw(json_values)
            changed[name] = {**inner, column: new}
        else:
            changed[name] = data.draw(json_values)
    content = archive({**members, "record.npy": as_record(changed)})
    read_or_refuse(tmp_path_factory.getbasetemp() / "fuzzed records", content)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(data, honest, tmp_path_factory):
    content = bytearray(honest.read_bytes())
    end = len(content) - 600  # the directory, where a flip does most
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(end, len(content) - 1) | st.integers(0, 400))
        place = min(place, len(content) - 1)
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        elif data.draw(st.booleans()):
            del content[place : place + data.draw(st.integers(1, 64))]
        else:
            content[place:place] = data.draw(st.binary(max_size=32))
    read_or_refuse(tmp_path_factory.getbasetemp() / "fuzzed bytes", bytes(content))


def test_what_is_no_file_is_not_waited_for(tmp_path, honest):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes in folders")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match="is not a file"):
            gl.load_result(path)
        with pytest.raises(ValueError, match="must be a file's, not that of a directory, a pipe"):
            gl.load_result(honest).save(path)


def test_a_file_larger_than_any_result_is_not_read(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(storage.LARGEST + 1)
    with pytest.raises(ValueError, match="is larger than 2147483648 bytes"):
        gl.load_result(path)


def test_a_link_is_followed_and_modes_are_kept(tmp_path, honest):
    target, link = tmp_path / "target", tmp_path / "link"
    result = gl.load_result(honest)
    result.save(target)
    target.chmod(0o640)
    link.symlink_to(target)
    result.save(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert_same(gl.load_result(link), result)
    link.unlink()
    link.symlink_to(tmp_path / "checkpoint")  # which is not there yet
    gl.run(SMALL, checkpoint=link, progress=False)
    assert link.is_symlink()
    assert gl.load_result(tmp_path / "checkpoint").status == "completed"


def test_what_a_crash_left_a_day_ago_is_taken_away(tmp_path):
    old, new, others = (tmp_path / name for name in (".run.1.2.part", ".run.3.4.part", ".other.5.6.part"))
    for left in (old, new, others):
        left.write_bytes(b"half")
    for left in (old, others):
        os.utime(left, (0, 0))
    gl.run(SMALL, checkpoint=tmp_path / "run", progress=False)
    assert not old.exists()
    assert new.exists(), "of a process that may be at work"
    assert others.exists(), "of another file"
    gl.sweep({"seed": [0]}, SMALL, cache=tmp_path, progress=False)
    assert not others.exists()
