"""What tells a function, a module or any other value from another: whose numbers they are."""

import functools
import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping, Set
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

SIMPLE = (str, int, float, complex, bool, bytes, type(None))
"""Types whose values are told apart by what they are written as."""

TORCHS = {
    *vars(nn.Module()).keys() - {"training"},
    "_flat_weights",
    "_flat_weight_refs",
    "_flat_weights_names",
    "_all_weights",
}
"""Attributes in which torch keeps what is looked at apart, or what is not the layer's own."""

VALUES = (*SIMPLE, torch.Tensor, np.ndarray, np.generic, torch.dtype, torch.device, FunctionType, functools.partial)
"""Types of what counts of the globals that a function reads, alone or in lists, tuples and dicts."""

LIBRARIES = ("torch", "torchvision", "numpy", "pandas", "gmfl_lite", "builtins", "abc", "typing", "collections")
"""Whose functions and classes are known by their names."""


def identity(value: Any) -> str:
    """Return 16 hexadecimal digits that are the same for equal values in any process.

    Of a function counts its source, its defaults, what it has closed over, and of the globals that it reads numbers,
    texts, arrays, tensors and functions; of a module its structure, its attributes, the source of the classes that are
    not torch's, and all its tensors.

    >>> identity(lambda a: a) == identity(lambda a: a + 1), identity((1, "a")) == identity((1, "a"))
    (False, True)
    """
    return _digest(value, ()).hex()[:16]


def named(function: Any) -> str:
    """Return a function's name, and its identity: for people and for machines."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{name} ({identity(function)})"


def structure(module: nn.Module) -> str:
    """Return what tells a module from others, apart from its parameters and buffers: classes, settings and hooks."""
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
        yield digest((value.__defaults__, value.__kwdefaults__, _read_by(value)))
    elif isinstance(value, Mapping):
        yield from sorted(digest(key) + digest(item) for key, item in value.items())
    elif isinstance(value, Set):
        yield from sorted(map(digest, value))
    elif isinstance(value, (list, tuple)):
        yield from map(digest, value)
    elif isinstance(value, type):
        yield from _class(value)
    elif hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
        yield from _class(type(value))
        slots = [name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ())]
        yield digest([vars(value) if hasattr(value, "__dict__") else {}, {n: getattr(value, n, None) for n in slots}])
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
        settings = {key: held for key, held in vars(layer).items() if key not in TORCHS and not _computed(held)}
        hooks = [*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()]
        yield name, layer.extra_repr(), type(layer), settings, hooks


def _computed(value: Any) -> bool:
    """Whether this is what a hook has made of parameters (weight_norm, pruning), or a hook's number."""
    return isinstance(value, RemovableHandle) or (isinstance(value, torch.Tensor) and not value.is_leaf)


def _read_by(function: FunctionType) -> dict[str, Any]:
    """Return what a function reads besides its arguments: what it has closed over, and globals that are values."""
    try:
        read = inspect.getclosurevars(function)
    except ValueError:  # a cell that is still empty
        return {}
    known = {name: value for name, value in read.globals.items() if _is_value(value)}
    return {"nonlocals": dict(read.nonlocals), "globals": known}


def _is_value(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_value, (*value.keys(), *value.values())))
    if isinstance(value, (list, tuple)):
        return all(map(_is_value, value))
    return isinstance(value, VALUES) and not _is_a_librarys(value)


def _is_a_librarys(value: Any) -> bool:
    return isinstance(value, FunctionType) and (value.__module__ or "").partition(".")[0] in LIBRARIES


def _class(of: type) -> Iterator[bytes]:
    """Give the source of a class and of those that it inherits from, but for torch's and Python's own."""
    for kind in of.__mro__:
        yield kind.__qualname__.encode()
        if kind.__module__.partition(".")[0] in LIBRARIES:
            continue
        for held in vars(kind).values():
            if isinstance(held, FunctionType) and (read := _read_by(held).get("globals")):
                yield _digest(read, (id(kind), id(held)))
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
