"""Results on disk: arrays and JSON in one .npz, without pickle, written whole or not at all, read within bounds."""

import hashlib
import io
import json
import os
import stat
import struct
import threading
import time
import tokenize
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import checks

FORMAT = 4

LARGEST = 2**31
"""Bytes of a file that is read; a result of this library's models is a thousandth of that."""

BESIDE = "rows beside"
"""What the record of a file that grows calls the rows: their table's name, how many bytes they are, and the digest."""

LEFT_OVER = 24 * 3600
"""Seconds after which what a crash has left half-written is taken away."""

_NOT_OURS = (
    ValueError, KeyError, TypeError, AttributeError, ArithmeticError, EOFError, OSError, NotImplementedError,
    RecursionError, MemoryError, struct.error, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip
"""What reading a file raises that is not one of ours, or was made to do harm."""


def expanded(path: str | Path) -> Path:
    """Return a path with ~, as shells write the home folder, spelled out; every path that a user gives goes through."""
    return Path(os.path.expanduser(path))


def beside(path: str | Path) -> Path:
    """Return where a file's rows lie while it grows."""
    return expanded(f"{path}.history")


def write(path: str | Path, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a JSON-able record and arrays to `path`, as `put` does.

    Raises
    ------
    ValueError, OSError : an array holds objects, or as `put`.
    """
    named: dict[str, Any] = {f"array/{name}": array for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:  # NumPy before 2.1 cannot be told not to pickle
            raise ValueError(f"{name} holds objects, which only pickle could write")
    body = io.BytesIO()
    np.savez(body, **named, record=np.frombuffer(line({"format": FORMAT, **record}), np.uint8))
    put(path, body.getvalue())


def put(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all: next to it first, so that a crash or a full disk leaves the old one in place.

    A symbolic link is followed, and a file that is there keeps its mode.

    Raises
    ------
    ValueError : the path is not a file.
    OSError : the disk is full, or does not let us.
    """
    path = Path(os.path.realpath(expanded(path)))
    there = path.stat() if path.exists() else None
    if there is not None and not stat.S_ISREG(there.st_mode):
        raise checks.refusal("path", str(path), "a file's, not that of a directory, a pipe or a device")
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if there is not None:
            os.chmod(aside, stat.S_IMODE(there.st_mode))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def tidy(folder: Path, name: str = "*") -> None:
    """Take away what a crash has left of writing files of this name: all that is a day old."""
    for left in folder.glob(f".{name}.*.part"):
        try:
            if time.time() - left.lstat().st_mtime > LEFT_OVER:
                left.unlink()
        except OSError:  # another process was faster, or it is another's
            continue


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write` wrote, and the rows in the file next to it if it grows.

    Nothing in a file is ever executed, and no more memory is taken than a few times the file's size.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : the file is not one of ours, of another version, or damaged.
    """
    record, arrays = _read_alone(path)
    for again in (True, False):
        if BESIDE not in record:
            break
        try:
            rows = _content(beside(path))
        except FileNotFoundError as error:
            if not again:
                raise ValueError(f"{path} is of a run that has not ended, and its {beside(path)} is missing") from error
            record, arrays = _read_alone(path)  # the run may just have ended
        else:
            record = {**record, **_rows(rows, record[BESIDE], path)}
            del record[BESIDE]
    return record, arrays


def _content(path: Path) -> bytes:
    """Return what a file holds; a pipe would wait forever, and a device never ends."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a file")
    if found.st_size > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST} bytes, larger than any result")
    return path.read_bytes()


def _read_alone(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    content = _content(expanded(path))
    try:
        members = _members(content)
        record = _json(_array(members.pop("record.npy")).tobytes())
        version = record.pop("format")
    except _NOT_OURS as error:
        raise ValueError(f"{path} is not a gmfl_lite result, or damaged: {checks.first_line(error)}") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {checks.shown(version)}; this version of gmfl_lite reads format {FORMAT}")
    try:
        arrays = {_name(name): _array(data) for name, data in members.items()}
    except _NOT_OURS as error:
        raise ValueError(f"{path} is not a gmfl_lite result, or damaged: {checks.first_line(error)}") from error
    return record, arrays


def _members(content: bytes) -> dict[str, bytes]:
    """Return an archive's members by name: each once, and together no larger than the file, so no packed bomb."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) < len(members):
            raise ValueError("two members have one name")
        if any(member.flag_bits & 1 for member in members):
            raise ValueError("a member is encrypted")
        if sum(member.file_size for member in members) > len(content):
            raise ValueError("members are larger than the file")
        return {member.filename: archive.read(member) for member in members}


def _name(member: str) -> str:
    if not (member.startswith("array/") and member.endswith(".npy")):
        raise ValueError(f"a member {checks.shown(member)} is not expected")
    return member.removeprefix("array/").removesuffix(".npy")


def _array(data: bytes) -> np.ndarray:
    """Return the array of a .npy: what is there, if it is what its header promises."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array is of version {version}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if dtype.kind not in "biufc":
        raise ValueError(f"an array holds {dtype}, not numbers")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def _json(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("its record is not a mapping")
    return found


def _rows(content: bytes, known: Any, path: str | Path) -> dict[str, dict[str, list[Any]]]:
    """Return the table of the rows that count."""
    try:
        content = content[: checks.integer("bytes", known["bytes"], 0, len(content))]
        whole = hashlib.sha256(content).hexdigest() == known["sha256"]
        columns, *rows = (json.loads(each) for each in content.splitlines() if whole)
        values = zip(*rows, strict=True) if rows else [()] * len(columns)
        return {str(known["table"]): {name: list(column) for name, column in zip(columns, values, strict=True)}}
    except _NOT_OURS as error:
        raise ValueError(f"{path} is damaged: its {beside(path)} does not match its checksum") from error


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return a digest of named tensors: of their names, types, shapes and numbers.

    >>> digest([("w", torch.zeros(2))]) == digest([("w", torch.zeros(2))]) != digest([("w", torch.zeros(2, 1))])
    True
    """
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy(force=True).data)
    return found.hexdigest()


def line(value: Any) -> bytes:
    """Return a line of JSON."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"
