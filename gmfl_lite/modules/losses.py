"""What an agent's loss is made of: one loss per sample, from a prediction and the true value."""

from collections.abc import Callable, Collection

import torch

from ..basics import checks
from ..basics.identity import identity, named
from ..federation import Batch, Federation
from ..objective import Params
from .as_function import Function, Predict

PerSample = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A loss or a metric: (prediction [samples, …], y [samples, …]) -> one number per sample, [samples]."""


def _over_positions(values: torch.Tensor) -> torch.Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # F.cross_entropy also looks for labels to ignore; there are none here, and looking takes time.
    return _over_positions(-logits.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1))


def _squared_error(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (prediction - y).square().flatten(1).mean(1)


def _as_y_asks(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (_squared_error if y.is_floating_point() else _cross_entropy)(prediction, y)


def hits(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return which samples are classified rightly, or of several positions, which share of them."""
    return _over_positions((logits.argmax(-1) == y).to(logits.dtype))


def _mean(values: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    return values.mean() if weight is None else (values * weight).sum()


LOSSES: dict[str, PerSample] = {"cross_entropy": _cross_entropy, "squared_error": _squared_error}
"""Losses that can be asked for by name; the mean over a sample's positions or numbers."""
_KNOWN = (*LOSSES.values(), _as_y_asks)


class Objective:
    """f_i: the loss of a batch (x, y, weight) of an agent, whose weights sum to one: the weighted sum of its samples'.

    Without weights, of a batch (x, y), it is the mean.

    Attributes
    ----------
    predict, loss, per_sample : the model, the loss as it was asked for, and as a function.
    name : of the loss; "" is what y asks for.
    metric : what else is measured of a prediction, or None.
    names : of the loss and the metric, for checkpoints.
    """

    def __init__(self, predict: Predict, loss: str | PerSample | None = None, metric: PerSample | None = None) -> None:
        if loss is not None and not callable(loss):
            loss = checks.choice("loss", loss, LOSSES)
        if metric is not None and not callable(metric):
            raise checks.refusal("metric", metric, "a function of (prediction, y) that gives one number per sample")
        self.predict, self.loss, self.metric = predict, loss, metric
        self.per_sample = _as_y_asks if loss is None else LOSSES[loss] if isinstance(loss, str) else loss
        self.name = loss if isinstance(loss, str) else "" if loss is None else named(loss)
        self.names = self.name, "" if metric is None else named(metric)

    @property
    def known(self) -> str:
        """What tells this function from others, where it is the library's in all its parts; else ""."""
        plain = type(self) is Objective and self.per_sample in _KNOWN
        if not plain or not isinstance(self.predict, Function) or not self.predict.known:
            return ""
        return identity((self.predict.frozen(), self.per_sample.__name__))

    @property
    def alone(self) -> str:
        """Why agents have to be computed one after the other, or ""."""
        return getattr(self.predict, "alone", "")

    def __call__(self, params: Params, batch: Batch | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y, *weight = batch
        return _mean(self.per_sample(self.predict(params, x), y), *weight)

    def scores(
        self, params: Params, batch: Batch | tuple[torch.Tensor, torch.Tensor], accurate: bool
    ) -> dict[str, torch.Tensor]:
        """Return the batch's loss and, if asked for, its accuracy, and the metric if there is one."""
        x, y, *weight = batch
        prediction, functions = self.predict(params, x), {"loss": self.per_sample}
        functions |= {"accuracy": hits} if accurate else {}
        functions |= {"metric": self.metric} if self.metric is not None else {}
        return {name: _mean(function(prediction, y), *weight) for name, function in functions.items()}

    def accurate(self, params: Params, federation: Federation) -> bool:
        """Say whether predictions are logits of the federation's classes, so that they are right or wrong."""
        if federation.classes is None:
            return False
        x, y = federation.samples(torch.zeros(1, dtype=torch.int64, device=federation.x.device))
        return self.predict(params, x).shape == (*y.shape, len(federation.classes))


def loss_of(predict: Predict, loss: str | PerSample | None = None, metric: PerSample | None = None) -> Objective:
    """Return f_i: by default as y asks for it, the cross-entropy of labels or the squared error of numbers, their mean.

    Examples
    --------
    >>> x, y, weight = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [7.0]]), torch.full((2,), 0.5)
    >>> loss_of(lambda params, x: params["w"] * x)({"w": torch.tensor(2.0)}, (x, y, weight))
    tensor(4.5000)
    """
    return Objective(predict, loss, metric)


def cross_entropy(predict: Predict) -> Objective:
    """Return f_i: the cross-entropy of a batch (x, y), or weighted, of (x, y, weight) with weights that sum to one."""
    return Objective(predict, "cross_entropy")


def squared_error(predict: Predict) -> Objective:
    """Return f_i: the weighted squared error of an agent's batch (x, y, weight), the mean over a sample's numbers."""
    return Objective(predict, "squared_error")


def check_scores(
    objective: Objective, prediction: torch.Tensor, y: torch.Tensor, classes: Collection[str] | None
) -> None:
    """Look whether the loss and the metric of some samples' prediction are one number for each of them.

    Raises
    ------
    ValueError : they are not; the message says what to change.
    """
    for name, function in (("loss", objective.per_sample), ("metric", objective.metric)):
        if function is not None and function not in _KNOWN:
            _check_numbers(name, function, prediction, y)
    expected, given = tuple(prediction.shape), tuple(y.shape)
    if objective.per_sample is LOSSES["squared_error"] or (objective.name == "" and classes is None):
        if expected != given:
            hint = "" if classes is None else "; y are labels here: make them floats (numbers=True) to predict them"
            found = f"one for each to predict, got {list(expected)}{hint}"
            raise ValueError(f"model: must give {list(given)} numbers, {found}")
    elif objective.per_sample is LOSSES["cross_entropy"] or objective.name == "":
        if classes is None:
            raise ValueError("loss: 'cross_entropy' needs classes, and here y are numbers: use 'squared_error'")
        if expected != (*given, len(classes)):
            shape = [*given, len(classes)]
            raise ValueError(f"model: must give logits {shape}, one per class, got {list(expected)}")


def _check_numbers(name: str, function: PerSample, prediction: torch.Tensor, y: torch.Tensor) -> None:
    """Look whether a function gives each sample its number, which is of this sample alone."""
    if isinstance(function, type):
        raise ValueError(f"{name}: is a class; give one of it, such as {function.__name__}(reduction='none')")
    what = f"predictions {list(prediction.shape)} and y {list(y.shape)} of {y.dtype}"
    before = identity((prediction, y))
    others = [*range(len(y) - 1, min(1, len(y) - 1) - 1, -1)]  # but for the first sample, the last one first
    try:
        values, again = function(prediction, y), function(prediction, y)
        alone = function(prediction[others], y[others])
    except Exception as error:  # whatever a function of one's own raises
        raise ValueError(f"{name}: fails on {what}: {checks.first_line(error)}") from error
    if identity((prediction, y)) != before:
        raise ValueError(f"{name}: changes its arguments, which others look at, too; work on copies (.clone())")
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        found = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
        hint = "; call .to(prediction.dtype)" * isinstance(values, torch.Tensor)
        raise ValueError(f"{name}: must give a tensor of floating-point numbers, got {found}{hint}")
    if values.ndim == 0:
        raise ValueError(
            f"{name}: averages over the batch already; it must give one number per sample (in torch, "
            "reduction='none'), as padding must not count"
        )
    broadcast = y.is_floating_point() and prediction.shape != y.shape
    in_words = f"{what} broadcast against each other; let the model give {list(y.shape)}"
    if broadcast and values.numel() > max(prediction.numel(), y.numel()):
        raise ValueError(f"{name}: {in_words}")
    if values.shape != y.shape[:1]:
        raise ValueError(
            f"{name}: must give one number per sample, {[len(y)]}, got {list(values.shape)} of {what}; take the mean "
            "over what is left of a sample: .flatten(1).mean(1)"
        )
    if not torch.allclose(values, again, rtol=1e-4, atol=1e-6, equal_nan=True):
        raise ValueError(f"{name}: gives other numbers when it is asked again; it must not draw at random or remember")
    if alone.shape != values[others].shape or not torch.allclose(
        values[others], alone, rtol=1e-3, atol=1e-5, equal_nan=True
    ):
        hint = f" ({in_words})" * broadcast
        raise ValueError(f"{name}: a sample's number must not depend on the others in its batch{hint}")
