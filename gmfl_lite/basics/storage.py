"""Results on disk: named arrays and JSON in one file, without pickle, written whole or not at all."""

import hashlib
import io
import json
import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1


def write(path: str | Path, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a JSON-able record and arrays to `path`, beside it first, so that a crash leaves the old file in place."""
    path = Path(path)
    body = io.BytesIO()
    named = {f"array/{name}": array for name, array in arrays.items()}
    np.savez(body, allow_pickle=False, **named, record=np.frombuffer(_json(record), np.uint8))
    content = body.getvalue()
    header = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest()}
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(_json(header) + b"\n" + content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write` wrote.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : the file is not one of ours, of another version, or damaged; nothing in it is ever executed.
    """
    first, _, content = Path(path).read_bytes().partition(b"\n")
    try:
        header = json.loads(first)
        version, digest = header["format"], header["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a gmfl_lite result") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}; this version of gmfl_lite reads format {FORMAT}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            record = json.loads(file["record"].tobytes())
            prefix = "array/"
            arrays = {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a gmfl_lite result") from error
    return record, arrays


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
