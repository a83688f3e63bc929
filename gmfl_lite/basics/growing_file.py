"""A file that is written again and again while one of its tables grows, at the same cost from beginning to end."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from . import storage
from .checks import refusal


class GrowingFile:
    """A file of `storage.write` whose table is in a second file next to it, to which only new rows are appended.

    The first one holds how many bytes of the second count, and their digest: what a crash leaves behind them does not
    matter. Leaving the `with` block joins the two, unless an exception does.

    Parameters
    ----------
    path : the file; the rows go to `path`.history. None keeps nothing.
    table : its name in the record.
    columns : of the table.
    rows : a list of tuples of plain values, to which the caller appends.

    Raises
    ------
    ValueError : what lies in the place of the second file is no such table.

    Examples
    --------
    >>> import tempfile
    >>> folder, rows = tempfile.TemporaryDirectory(), []
    >>> with folder, GrowingFile(f"{folder.name}/run", "history", ["round", "loss"], rows) as file:
    ...     for round in range(3):
    ...         rows.append((round, 1 / 2**round))
    ...         file.write({"done": round}, {})
    ...     storage.read(f"{folder.name}/run")[0]
    {'done': 2, 'history': {'round': [0, 1, 2], 'loss': [1.0, 0.5, 0.25]}}
    """

    def __init__(
        self, path: str | Path | None, table: str, columns: Iterable[str], rows: list[tuple[Any, ...]]
    ) -> None:
        self._table, self._rows = table, rows
        self._first = storage.line(list(columns))
        self._begin()
        self.path = None if path is None else storage.expanded(path)
        if self.path is None:
            return
        self.beside = storage.beside(self.path)
        storage.tidy(self.path.parent, self.path.name)
        if self.beside.exists():
            with open(self.beside, "rb") as file:
                found = file.read(len(self._first))
            if not self._first.startswith(found):
                raise refusal("checkpoint", str(path), f"another path: {self.beside} is a file of something else")

    def _begin(self) -> None:
        self._written, self._bytes, self._digest = 0, 0, hashlib.sha256()

    def write(self, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Write a JSON-able record and arrays, and the rows that are new."""
        if self.path is None:
            return
        if not self.beside.exists() or self.beside.stat().st_size < self._bytes:
            self._begin()  # another run with the same path has come to its end
        rows = self._rows[self._written :]
        lines = b"".join([*[self._first] * (self._bytes == 0), *map(storage.line, rows)])
        # What counts already stays as it is. A run that goes on writes the rows that it has found over the same bytes.
        with open(self.beside, "r+b" if self.beside.exists() else "wb") as file:
            file.seek(self._bytes)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._digest.update(lines)
        self._written, self._bytes = self._written + len(rows), self._bytes + len(lines)
        known = {"table": self._table, "bytes": self._bytes, "sha256": self._digest.hexdigest()}
        storage.write(self.path, {**record, storage.BESIDE: known}, arrays)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None or self.path is None or not (self.path.exists() and self.beside.exists()):
            return
        with suppress(OSError, KeyboardInterrupt):  # then there are two files, which are as good
            storage.write(self.path, *storage.read(self.path))
            self.beside.unlink()
