"""A module is tried on a few samples, so that what does not fit is reported before any work."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..basics import checks
from ..basics.identity import identity
from ..federation import Federation
from ..objective import Params
from .as_function import Function, Predict, as_functions
from .losses import Objective, PerSample, check_scores, loss_of

TIMES = 12
"""How often the same samples are tried: what is drawn with probability ½ is overlooked once in two thousand times."""

GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "Python": (random.getstate, random.setstate),
    "NumPy": (np.random.get_state, np.random.set_state),
}
"""Global random generators: how to look at their state, and to set it."""


def objective_of(
    model: nn.Module, federation: Federation, loss: str | PerSample | None = None
) -> tuple[Objective, Params]:
    """Return f_i and a module's parameters, after trying both out; raises as `as_functions` and `try_out`."""
    predict, params = as_functions(model, federation.x.device, federation.dtype)
    objective = loss_of(predict, loss)
    try_out(objective, params, federation)
    return objective, params


def try_out(objective: Objective, params: Params, federation: Federation) -> None:
    """Look whether a module and a loss do what the library relies on, on samples that agents hold.

    A prediction must be a function of parameters and of one sample: the same whenever it is asked for, whatever else
    is in the batch, with nothing changed or drawn on the way. Global random generators are left as they were.

    Raises
    ------
    ValueError : they do not; the message says what to change.
    """
    predict = objective.predict
    held = [torch.cat(both) for both in zip(*map(federation.train, (0, federation.n_agents - 1)), strict=True)]
    rows = torch.unique(torch.linspace(0, len(held[0]) - 1, 4, device=federation.x.device).long())
    _check_tokens(objective, params, federation)
    x, y = (tensor[rows] for tensor in held)
    with _generators_restored():
        with _nothing_drawn("model"):
            prediction = _tried(predict, params, x)
        if not isinstance(prediction, torch.Tensor) or prediction.dtype != federation.dtype:
            found = prediction.dtype if isinstance(prediction, torch.Tensor) else type(prediction).__name__
            raise ValueError(
                f"model: must give a tensor of {federation.dtype}, got {found}; wrap it in a module that gives one"
            )
        if prediction.ndim == 0 or len(prediction) != len(x):
            raise ValueError(
                f"model: must give a prediction for each of {len(x)} samples, got {list(prediction.shape)}"
            )
        with _nothing_drawn("loss or metric"):
            check_scores(objective, prediction, y, federation.classes)
        if isinstance(predict, Function):
            with _nothing_drawn("model"):
                _check_same_again(predict, params, x, prediction)
                _check_by_itself(predict, params, x, prediction)


def _check_tokens(objective: Objective, params: Params, federation: Federation) -> None:
    """Look whether a model takes all whole numbers that there are: an embedding ends with its last row."""
    if federation.x.is_floating_point() or not federation.x.numel():
        return
    flat = federation.x.flatten(1)
    rows = torch.stack([flat.amin(1).argmin(), flat.amax(1).argmax()])
    try:
        objective.predict(params, federation.samples(rows)[0])
    except IndexError as error:
        found = f"{flat.min()} to {flat.max()}"
        raise ValueError(f"model: does not take the tokens {found}: {checks.first_line(error)}") from error


@contextmanager
def _generators_restored() -> Iterator[None]:
    before = {name: state() for name, (state, _) in GENERATORS.items()}
    try:
        yield
    finally:
        for name, (_, restore) in GENERATORS.items():
            restore(before[name])


@contextmanager
def _nothing_drawn(who: str) -> Iterator[None]:
    before = {name: _compared(state()) for name, (state, _) in GENERATORS.items()}
    yield
    for name, (state, _) in GENERATORS.items():
        if _compared(state()) != before[name]:
            raise ValueError(f"{who}: draws from {name}'s global random generator, so that no run could be repeated")


def _compared(state: Any) -> list[Any]:
    """Give a generator's state, a tensor or a tuple that may hold an array, in a form that == compares."""
    parts = state if isinstance(state, tuple) else (state,)
    return [part.tolist() if hasattr(part, "tolist") else part for part in parts]


def _predicted(predict: Predict, params: Params, x: torch.Tensor) -> torch.Tensor:
    try:
        return predict(params, x)
    except Exception as error:  # whatever a module of one's own raises
        shape = f"{'samples' if x.ndim != 4 else 'images'} {list(x.shape)} of {x.dtype}"
        raise ValueError(f"model: does not take {shape}: {checks.first_line(error)}") from error


def _tried(predict: Predict, params: Params, x: torch.Tensor) -> torch.Tensor:
    def held() -> dict[str, dict[str, torch.Tensor]]:
        buffers = dict(predict.skeleton.named_buffers()) if isinstance(predict, Function) else {}
        return {"input": {"": x}, "parameters": params, "buffers": buffers}

    before = {name: identity(tensors) for name, tensors in held().items()}
    prediction = _predicted(predict, params, x)
    for name, tensors in held().items():
        if identity(tensors) != before[name]:
            hint = ", or call model.eval() where that ends it (spectral_norm)" if name == "buffers" else ""
            raise ValueError(
                f"model: changes its {name} when it is called, so that scores would depend on who was asked before. "
                f"Use a module that changes nothing{hint}."
            )
    return prediction


def _alike(one: torch.Tensor, other: torch.Tensor, rtol: float, atol: float) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True)


def _check_same_again(predict: Function, params: Params, x: torch.Tensor, prediction: torch.Tensor) -> None:
    for _ in range(TIMES):
        if not _alike(_predicted(predict, params, x), prediction, rtol=1e-4, atol=1e-6):
            raise ValueError(
                "model: gives another prediction for the same samples: it draws at random or remembers what it was "
                "asked before, so that no run could be repeated. Use a module that does neither."
            )


def _check_by_itself(predict: Function, params: Params, x: torch.Tensor, prediction: torch.Tensor) -> None:
    everyone = [*range(len(x))]
    for some in (everyone[::-1], [*everyone, everyone[-1], everyone[-1]], [0, 0], *([place] for place in everyone)):
        found = _predicted(predict, params, x[some])
        if len(some) == 1 and found.shape != prediction[some].shape:
            shape = list(prediction[some].shape)
            raise ValueError(f"model: of one sample alone must give {shape}, got {list(found.shape)} (a squeeze?)")
        if not _alike(found, prediction[some], rtol=1e-3, atol=1e-5):
            raise ValueError(
                "model: a sample's prediction depends on the others in its batch, so that an agent's score would "
                "depend on how many samples it brings. Use layers that look at one sample, such as torch.nn.GroupNorm "
                "or LayerNorm, and batch_first=True in recurrent layers and attention."
            )
