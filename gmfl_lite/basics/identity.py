"""What tells a function, a module or any other value from another: whose numbers they are."""

import functools
import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping, Set
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

SIMPLE = (str, int, float, complex, bool, bytes, type(None))
"""Types whose values are told apart by what they are written as."""

SETTINGS = (*SIMPLE, torch.Tensor, np.ndarray, torch.dtype, torch.device, FunctionType, BuiltinFunctionType)
"""Types of attributes that count as a layer's settings, alone or in lists, tuples and dicts."""


def identity(value: Any) -> str:
    """Return 16 hexadecimal digits that are the same for equal values in any process.

    Of a function counts its source, its defaults and what it has closed over, but not the globals that it reads; of a
    module its structure, the source of the classes that are not torch's, and all its tensors.

    >>> identity(lambda a: a) == identity(lambda a: a + 1), identity((1, "a")) == identity((1, "a"))
    (False, True)
    """
    return _digest(value, ()).hex()[:16]


def named(function: Any) -> str:
    """Return a function's name, and its identity: for people and for machines."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{name} ({identity(function)})"


def structure(module: nn.Module) -> str:
    """Return what tells a module from others, beside its parameters and buffers: classes, settings and hooks."""
    return _digest([*_layers(module)], (id(module),)).hex()


def _digest(value: Any, within: tuple[int, ...]) -> bytes:
    found = hashlib.sha256(type(value).__qualname__.encode())
    for part in _parts(value, within):
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()


def _parts(value: Any, within: tuple[int, ...]) -> Iterator[bytes]:
    if isinstance(value, SIMPLE):
        yield repr(value).encode()
        return
    if id(value) in within:  # it holds itself
        yield str(within[::-1].index(id(value))).encode()
        return
    digest = functools.partial(_digest, within=(*within, id(value)))
    if isinstance(value, torch.Tensor):
        yield from _numbers(value)
    elif isinstance(value, np.ndarray):
        yield str((value.dtype, value.shape)).encode()
        yield digest(value.tolist()) if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
    elif isinstance(value, nn.Module):
        yield digest([*_layers(value)])
        for name, tensor in (*value.named_parameters(), *value.named_buffers()):
            yield name.encode()
            yield digest(tensor)
    elif isinstance(value, functools.partial):
        yield digest((value.func, value.args, value.keywords))
    elif isinstance(value, MethodType):
        yield digest((value.__func__, value.__self__))
    elif isinstance(value, FunctionType):
        yield _source(value)
        closed = inspect.getclosurevars(value).nonlocals if value.__closure__ else {}
        yield digest((value.__defaults__, value.__kwdefaults__, closed))
    elif isinstance(value, Mapping):
        yield from sorted(digest(key) + digest(item) for key, item in value.items())
    elif isinstance(value, Set):
        yield from sorted(map(digest, value))
    elif isinstance(value, (list, tuple)):
        yield from map(digest, value)
    elif isinstance(value, type):
        yield from _class(value)
    elif hasattr(value, "__dict__"):
        yield from _class(type(value))
        yield digest(vars(value))
    else:
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode()


def _numbers(tensor: torch.Tensor) -> Iterator[bytes]:
    """Give a tensor's shape and its bytes, of types that NumPy does not have, too."""
    if is_lazy(tensor):  # it has no shape yet
        return
    yield str((tensor.dtype, tensor.layout, tuple(tensor.shape))).encode()
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    try:
        array = dense.numpy(force=True)
    except TypeError:  # of types narrower than those of NumPy
        array = dense.float().numpy(force=True)
    yield np.ascontiguousarray(array).tobytes()


def _layers(module: nn.Module) -> Iterator[tuple[Any, ...]]:
    for name, layer in module.named_modules():
        settings = {key: held for key, held in vars(layer).items() if key[0] != "_" and _is_setting(held)}
        hooks = [*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()]
        yield name, layer.extra_repr(), type(layer), settings, hooks


def _is_setting(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_setting, (*value.keys(), *value.values())))
    return all(map(_is_setting, value)) if isinstance(value, (list, tuple)) else isinstance(value, SETTINGS)


def _class(of: type) -> Iterator[bytes]:
    """Give the source of a class and of those that it inherits from, but for torch's and Python's own."""
    for kind in of.__mro__:
        yield kind.__qualname__.encode()
        if kind.__module__.partition(".")[0] in ("torch", "builtins", "abc", "typing", "collections"):
            continue
        try:
            yield inspect.getsource(kind).strip().encode()
        except (OSError, TypeError):  # typed where nothing keeps the source
            for name, held in vars(kind).items():
                held = getattr(held, "__func__", getattr(held, "fget", held))
                if isinstance(held, FunctionType) or (isinstance(held, SIMPLE) and not name.startswith("__")):
                    yield name.encode() + _digest(held, (id(kind),))


def _source(of: FunctionType) -> bytes:
    try:
        source = inspect.getsource(of).strip().encode()
    except (OSError, TypeError):  # typed where nothing keeps the source
        return _code(of.__code__)
    return source + _code(of.__code__) * (of.__name__ == "<lambda>")  # there may be several in a line


def _code(code: CodeType) -> bytes:
    constants = [_code(held) if isinstance(held, CodeType) else _digest(held, ()) for held in code.co_consts]
    return code.co_code + repr((code.co_names, code.co_freevars, constants)).encode()
