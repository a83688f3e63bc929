"""What the computers of a federation send each other, and how an answer is read that may come from anybody."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message

from ..basics import checks
from ..basics.devices import PRECISIONS
from ..experiment import Experiment
from ..objective import NonFiniteLoss, Params

MOST_SAMPLES = 10**9
"""More samples than this no agent has."""

HEADER = 512
"""Bytes that may stand before the numbers of an array."""


def pack(params: Params) -> ArrayRecord:
    """Return parameters as what is sent: one vector, as every array on its own costs Flower several requests."""
    flat = torch.cat([tensor.detach().cpu().flatten() for tensor in params.values()])
    return ArrayRecord({"w": Array(flat.numpy())})


def vector(arrays: Any) -> torch.Tensor:
    """Return the vector in what should be an ArrayRecord: whoever sent it may have sent something else."""
    return torch.from_numpy(arrays["w"].numpy().copy())


def unpack(arrays: Any, like: Params) -> Params:
    """Return the parameters that were sent, with the names, shapes and device of others."""
    return named(vector(arrays), like)


def named(flat: torch.Tensor, like: Params) -> Params:
    """Return the parameters in one vector, with the names, shapes and device of others."""
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(like[name].shape).to(like[name]) for name, part in zip(like, parts, strict=True)}


def read_answer(reply: Message, experiment: Experiment, length: int = 0) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the metrics in an answer, which may come from anybody, and its update [length] if one was asked for.

    Names, types, shapes and bytes are compared with what was asked for before anything is decoded.

    Raises
    ------
    ValueError : an error, or what is no answer to the question.
    FloatingPointError : numbers that are not finite.
    """
    if reply.has_error():
        reason = reply.error.reason or "an error without a reason"
        raise FloatingPointError(f"{reason:.300}") if NonFiniteLoss.__name__ in reason else ValueError(f"{reason:.300}")
    scored = () if length else (len(experiment.eval_steps),)
    names = ("loss",) if length else ("loss", "accuracy")
    try:
        _same_names("an answer", reply.content, ("arrays", "metrics") if length else ("metrics",))
        metrics = reply.content["metrics"]
        _same_names("metrics", metrics, ("agent", "samples", *names))
        numbers = {name: _few_numbers(name, metrics[name], scored) for name in names}
        update = _update(reply.content["arrays"], length, experiment.precision) if length else torch.empty(0)
    except Exception as error:  # whatever the bytes of strangers lead to
        why = f"{error!s:.200}" if isinstance(error, ValueError) else checks.first_line(error)
        raise ValueError(f"its answer cannot be read: {why}") from error
    checks.integer("agent", metrics["agent"], 0, experiment.n_agents + experiment.n_new_agents - 1)
    checks.integer("samples", metrics["samples"], 1, MOST_SAMPLES)
    if not all(np.isfinite(values).all() for values in numbers.values()):
        raise FloatingPointError("its loss or accuracy is not finite")
    if not update.isfinite().all():
        raise FloatingPointError("its parameters are not finite")
    if (numbers["loss"] < 0).any():
        raise ValueError("loss: must be numbers of at least 0")
    if (abs(numbers.get("accuracy", np.zeros(1)) - 0.5) > 0.5).any():
        raise ValueError("accuracy: must be numbers from 0 to 1")
    return {name: metrics[name] for name in ("agent", "samples", *names)}, update


def _same_names(what: str, found: Iterable[str], expected: tuple[str, ...]) -> None:
    if {*found} != {*expected}:
        raise ValueError(f"{what} must hold {', '.join(expected)}, not {checks.few(sorted(found)) or 'nothing'}")


def _few_numbers(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    found = (len(value),) if isinstance(value, list) else ()
    if found != shape:
        raise ValueError(f"{name}: must be of shape {list(shape)}, got {list(found)}")
    return np.asarray(value, np.float64)


def _update(arrays: Any, length: int, precision: str) -> torch.Tensor:
    _same_names("arrays", arrays, ("w",))
    array, expected = arrays["w"], np.dtype(str(PRECISIONS[precision]).removeprefix("torch."))
    size = length * expected.itemsize
    announced = array.stype, array.dtype, tuple(array.shape)
    if announced != ("numpy.ndarray", str(expected), (length,)) or not size <= len(array.data) <= size + HEADER:
        found = f"{len(array.data)} bytes of {array.dtype:.20} {checks.shown(list(array.shape))}"
        raise ValueError(f"must be {length} {precision} numbers, got {found}")
    content = io.BytesIO(array.data)
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError("must be a NumPy array of format 1.0")
    shape, _, kind = np.lib.format.read_array_header_1_0(content)  # reads a literal, and runs nothing
    numbers = array.data[content.tell() :]
    if (shape, kind, len(numbers)) != ((length,), expected, size):
        raise ValueError(f"must be {length} {precision} numbers, but its header says {checks.shown(shape)} {kind}")
    return torch.from_numpy(np.frombuffer(numbers, kind).copy())
