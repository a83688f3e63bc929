"""Results on disk: named arrays and JSON in one file, without pickle, written whole or not at all."""

import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 1

FORMAT_WITH_ROWS_BESIDE = 2
"""Of a file that cannot be read without the rows in another one: `gmfl_lite.basics.growing_file`."""

BESIDE = "rows beside"
"""What the record of such a file calls the rows: their table's name, how many bytes they are, and the digest."""


def expanded(path: str | Path) -> Path:
    """Return a path with ~, as shells write the home folder, spelled out; every path that a user gives goes through."""
    return Path(os.path.expanduser(path))


def beside(path: str | Path) -> Path:
    """Return where a file's rows lie while it grows."""
    return expanded(f"{path}.history")


def write(path: str | Path, record: dict[str, Any], arrays: dict[str, np.ndarray], version: int = FORMAT) -> None:
    """Write a JSON-able record and arrays to `path`, beside it first, so that a crash leaves the old file in place."""
    path = expanded(path)
    body = io.BytesIO()
    named: dict[str, Any] = {f"array/{name}": array for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:  # NumPy before 2.1 cannot be told not to pickle
            raise ValueError(f"{name} holds objects, which only pickle could write")
    np.savez(body, **named, record=np.frombuffer(line(record), np.uint8))
    content = body.getvalue()
    header = {"format": version, "sha256": hashlib.sha256(content).hexdigest()}
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(line(header) + content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write` wrote, and the rows beside it if it grows.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : the file is not one of ours, of another version, or damaged; nothing in it is ever executed.
    """
    record, arrays = _read_alone(path)
    for again in (True, False):
        if BESIDE not in record:
            break
        try:
            rows = beside(path).read_bytes()
        except FileNotFoundError as error:
            if not again:
                raise ValueError(f"{path} is of a run that has not ended, and its {beside(path)} is missing") from error
            record, arrays = _read_alone(path)  # the run may just have ended
        else:
            known = record.pop(BESIDE)
            record[known["table"]] = _table(rows, known, path)
    return record, arrays


def _read_alone(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    first, _, content = expanded(path).read_bytes().partition(b"\n")
    try:
        header = json.loads(first)
        version, checksum = header["format"], header["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a gmfl_lite result") from error
    if version not in (FORMAT, FORMAT_WITH_ROWS_BESIDE):
        known = f"{FORMAT} and {FORMAT_WITH_ROWS_BESIDE}"
        raise ValueError(f"{path} has format {version!r}; this version of gmfl_lite reads formats {known}")
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            record = json.loads(file["record"].tobytes())
            prefix = "array/"
            arrays = {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}
        if (version == FORMAT_WITH_ROWS_BESIDE) != (BESIDE in record):
            raise ValueError("its format is not the one it says")
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a gmfl_lite result") from error
    return record, arrays


def _table(content: bytes, known: dict[str, Any], path: str | Path) -> dict[str, list[Any]]:
    """Return the columns of the rows that count."""
    content = content[: known["bytes"]]
    if hashlib.sha256(content).hexdigest() != known["sha256"]:
        raise ValueError(f"{path} is damaged: its {beside(path)} does not match its checksum")
    columns, *rows = map(json.loads, content.splitlines())
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    return {name: list(column) for name, column in zip(columns, values, strict=True)}


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
