"""What tells a function, a module or any other value from another: whose numbers they are."""

import functools
import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn


def identity(value: Any) -> str:
    """Return 16 hexadecimal digits that are the same for equal values in any process.

    Of a function counts its source, its defaults and what it has closed over, but not the globals that it reads; of a
    module its structure, the source of the classes that are not torch's, and all its tensors.

    >>> identity(lambda a: a) == identity(lambda a: a + 1), identity((1, "a")) == identity((1, "a"))
    (False, True)
    """
    found = hashlib.sha256()
    for part in _parts(value, ()):
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:16]


def named(function: Any) -> str:
    """Return a function's name, and its identity: for people and for machines."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{name} ({identity(function)})"


def _parts(value: Any, within: tuple[int, ...]) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if isinstance(value, (str, int, float, complex, bool, bytes, type(None))):
        yield repr(value).encode()
        return
    if id(value) in within:  # it holds itself
        return
    within = (*within, id(value))
    if isinstance(value, torch.Tensor):
        yield from _parts(value.detach().cpu().numpy(force=True), within)
    elif isinstance(value, np.ndarray):
        yield str((value.dtype, value.shape)).encode()
        yield np.ascontiguousarray(value).tobytes() if value.dtype != object else repr(value.tolist()).encode()
    elif isinstance(value, nn.Module):
        yield repr(value).encode()
        for kind in sorted({type(layer) for layer in value.modules()}, key=lambda kind: kind.__qualname__):
            if not kind.__module__.startswith("torch."):
                yield _source(kind)
        for name, tensor in value.state_dict().items():
            yield name.encode()
            yield from _parts(tensor, within)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords), within)
    elif isinstance(value, MethodType):
        yield from _parts((value.__func__, value.__self__), within)
    elif isinstance(value, FunctionType):
        yield _source(value)
        closed = inspect.getclosurevars(value).nonlocals if value.__closure__ else {}
        yield from _parts((value.__defaults__, value.__kwdefaults__, closed), within)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(key, within)
            yield from _parts(item, within)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item, within)
    elif isinstance(value, type):
        yield _source(value)
    elif hasattr(value, "__dict__"):
        yield _source(type(value))
        yield from _parts(vars(value), within)
    else:
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode()


def _source(of: Any) -> bytes:
    try:
        return inspect.getsource(of).strip().encode()
    except (OSError, TypeError):  # built in, or typed where nothing keeps the source
        code = getattr(of, "__code__", None)
        return getattr(of, "__qualname__", "").encode() if code is None else code.co_code + repr(code.co_names).encode()
