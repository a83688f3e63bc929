"""A module is tried on a few samples, so that what does not fit is said before any work."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..basics import checks
from ..basics.identity import identity
from ..federation import Federation
from ..objective import Params
from .as_function import Function, Predict
from .losses import Objective, check_scores

TIMES = 12
"""How often the same samples are tried: what is drawn with probability ½ is overlooked once in two thousand times."""

GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "Python": (random.getstate, random.setstate),
    "NumPy": (np.random.get_state, np.random.set_state),
}
"""Global random generators: how to look at their state, and to set it."""


def try_out(objective: Objective, params: Params, federation: Federation) -> None:
    """Look whether a module and a loss do what the library relies on, on samples of a federation.

    A prediction must be a function of parameters and of one sample: the same whenever it is asked for, whatever else
    is in the batch, with nothing changed or drawn on the way.

    Raises
    ------
    ValueError : they do not; the message says what to change.
    """
    predict = objective.predict
    rows = torch.unique(torch.linspace(0, len(federation.x) - 1, 4, device=federation.x.device).long())
    x, y = federation.samples(rows)
    prediction = _tried(predict, params, x)
    if not isinstance(prediction, torch.Tensor) or prediction.dtype != federation.dtype:
        found = prediction.dtype if isinstance(prediction, torch.Tensor) else type(prediction).__name__
        raise ValueError(f"model: must give a tensor of {federation.dtype}, got {found}")
    if prediction.ndim == 0 or len(prediction) != len(x):
        raise ValueError(f"model: must give a prediction for each of {len(x)} samples, got {list(prediction.shape)}")
    check_scores(objective, prediction, y, federation.classes)
    if isinstance(predict, Function):
        _check_same_again(predict, params, x, prediction)
        _check_by_itself(predict, params, x, prediction)


def _tried(predict: Predict, params: Params, x: torch.Tensor) -> torch.Tensor:
    held = {"input": [x], "parameters": [*params.values()]}
    if isinstance(predict, Function):
        held["buffers"] = [*predict.skeleton.buffers()]
    before = {name: [tensor.clone() for tensor in tensors] for name, tensors in held.items()}
    drawn = {name: state() for name, (state, _) in GENERATORS.items()}
    try:
        prediction = predict(params, x)
    except Exception as error:  # whatever a module of one's own raises
        shape = f"{'samples' if x.ndim != 4 else 'images'} {list(x.shape)} of {x.dtype}"
        raise ValueError(f"model: does not take {shape}: {checks.first_line(error)}") from error
    for name, (state, restore) in GENERATORS.items():
        if identity(state()) != identity(drawn[name]):
            restore(drawn[name])
            raise ValueError(f"model: draws from {name}'s global random generator, so that no run could be repeated")
    for name, tensors in held.items():
        if identity(tensors) != identity(before[name]):
            hint = ", or call model.eval() where that ends it (spectral_norm)" if name == "buffers" else ""
            raise ValueError(
                f"model: changes its {name} when it is called, so that scores would depend on who was asked before. "
                f"Use a module that changes nothing{hint}."
            )
    return prediction


def _check_same_again(predict: Function, params: Params, x: torch.Tensor, prediction: torch.Tensor) -> None:
    for _ in range(TIMES):
        if not torch.allclose(predict(params, x), prediction, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ValueError(
                "model: gives another prediction for the same samples: it draws at random or remembers what it was "
                "asked before, so that no run could be repeated. Use a module that does neither."
            )


def _check_by_itself(predict: Function, params: Params, x: torch.Tensor, prediction: torch.Tensor) -> None:
    for others in (x[[0, *range(len(x) - 1, 0, -1)]], torch.cat([x, x[-1:], x[-1:]]), x[:1].expand(2, *x.shape[1:])):
        if not torch.allclose(predict(params, others)[0], prediction[0], rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ValueError(
                "model: a sample's prediction depends on the others in its batch, so that an agent's score would "
                "depend on how many samples it brings. Use layers that look at one sample, such as torch.nn.GroupNorm "
                "or LayerNorm."
            )
