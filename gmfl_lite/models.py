"""Models as pure functions of a dict of parameters: softmax regression, MLP, CNN, any module without running state."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import nn
from torch.func import functional_call

from .basics import checks, randomness
from .data import Dataset, outputs
from .federation import Batch, Federation
from .objective import LossFn, Params

Predict = Callable[[Params, torch.Tensor], torch.Tensor]
"""What a model gives for samples [samples, …]: logits [samples, classes], or numbers [samples, outputs]."""


def softmax_regression(shape: Sequence[int], outputs: int) -> nn.Module:
    """Return a linear map of the pixels: the convex model of the theory."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))


def mlp(shape: Sequence[int], outputs: int) -> nn.Module:
    """Return two hidden layers of 80 and 60 ELU units, as in the Per-FedAvg experiments."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 80), nn.ELU(), nn.Linear(80, 60), nn.ELU(), nn.Linear(60, outputs)
    )


def cnn(shape: Sequence[int], outputs: int) -> nn.Module:
    """Return two 3×3 convolutions (16 and 32 channels, GroupNorm, ELU, 2×2 mean pooling) and a linear layer."""
    if len(shape) != 3 or min(shape[1:]) < 4:
        found = f"samples of {'×'.join(map(str, shape))}"
        raise ValueError(f"model = 'cnn': needs images [C, H, W] of at least 4×4 pixels, got {found}")
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ELU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * (height // 4) * (width // 4), outputs)),
    )


MODELS = {"softmax": softmax_regression, "mlp": mlp, "cnn": cnn}


def build_model(name: str, dataset: Dataset | Federation, *, seed: int = 0) -> nn.Module:
    """Build a model that fits a dataset, with initial weights that depend on `seed` alone.

    Parameters
    ----------
    name : "softmax", "mlp" (hidden layers of 80 and 60 ELU units) or "cnn" (two convolutions, GroupNorm).
    dataset : a Dataset or a Federation; gives the samples' shape and type, and the number of outputs.
    seed : of the initial weights; no global random generator is read or written.

    Raises
    ------
    ValueError : an unknown name, a negative seed, images too small for the CNN.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> model = build_model("mlp", gl.load_dataset("digits"))
    >>> sum(p.numel() for p in model.parameters())
    10670
    """
    checks.choice("model", name, MODELS)
    if not isinstance(dataset, (Dataset, Federation)):
        raise checks.refusal("dataset", dataset, "a Dataset or a Federation")
    seed = checks.integer("seed", seed, 0)
    shape = tuple(dataset.x.shape[1:])
    with torch.device("meta"):  # so that the layers' constructors draw nothing
        model = MODELS[name](shape, outputs(dataset))
    draws = torch.Generator().manual_seed(int(randomness.generator(seed, "weights").integers(2**62)))
    for layer in model.modules():
        for parameter_name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, parameter_name, nn.Parameter(torch.empty(parameter.shape, dtype=torch.float32)))
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                # Scaled in float64: processors differ in how they round where they scale in float32.
                share = torch.rand(parameter.shape, generator=draws, dtype=torch.float32).double()
                parameter.data = (2 * bound * share - bound).float()
        elif isinstance(layer, nn.GroupNorm):
            layer.reset_parameters()
    return model.to(dataset.dtype if isinstance(dataset, Federation) else dataset.x.dtype)


def as_functions(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Predict, Params]:
    """Split a module into a pure function and a copy of its parameters; the module itself is not changed.

    Parameters that do not require a gradient are frozen: they stay inside the function. Both live on `device`, and
    compute in `dtype` if one is given (a federation's).

    Raises
    ------
    ValueError : the module keeps running statistics or draws random numbers, or has no parameters to train.
    """
    if not isinstance(model, nn.Module):
        raise checks.refusal("model", model, "a torch.nn.Module")
    for name, layer in model.named_modules():
        where = f"model: layer {name!r} ({type(layer).__name__})"
        if getattr(layer, "running_mean", None) is not None or getattr(layer, "track_running_stats", False):
            raise ValueError(
                f"{where} keeps running statistics, which agents cannot share: they would be averaged "
                "wrongly, changed by evaluation, and undone after every fine-tuning step. Use torch.nn.GroupNorm "
                "instead, or track_running_stats=False."
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ValueError(
                f"{where} draws from torch's global generator, so that no run could be repeated, and agents "
                "would score with other weights than they train. Set its p to 0, or use torch.nn.Identity."
            )
    skeleton = copy.deepcopy(model).to(device, dtype)
    params = {name: p.detach().clone() for name, p in skeleton.named_parameters() if p.requires_grad}
    if not params:
        raise ValueError("model: has no parameters to train (that require a gradient)")
    skeleton.requires_grad_(False)

    def predict(params: Params, x: torch.Tensor) -> torch.Tensor:
        return functional_call(skeleton, params, (x,))

    return predict, params


def parameters_of(name: str, shape: tuple[int, ...] = (1, 8, 8)) -> Params:
    """Return a model's parameters by name, without values: to look at its layers, and whether it takes such samples."""
    return _without_values(MODELS[name], shape)


@cache
def _without_values(build: Callable[[Sequence[int], int], nn.Module], shape: tuple[int, ...]) -> Params:
    with torch.device("meta"):
        return dict(build(shape, 2).named_parameters())


PERSONAL = ("all", "head", "body")
"""Which parameters fine-tuning moves: all, those of the last layer, or all but them."""


def moving(params: Params, personal: str) -> tuple[str, ...] | None:
    """Return the names of the parameters that fine-tuning moves, None if it is all of them.

    The head is the layer that a module registers last.

    Raises
    ------
    ValueError : a part is to move, and there is one layer.

    Examples
    --------
    >>> moving({"1.weight": torch.ones(2, 2), "3.weight": torch.ones(1, 2), "3.bias": torch.ones(1)}, "head")
    ('3.weight', '3.bias')
    """
    if personal == "all":
        return None
    layer = [*params][-1].rpartition(".")[0]
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name in params:
        parts[name.rpartition(".")[0] == layer].append(name)
    if not parts[False]:
        raise checks.refusal("personal", personal, "'all' with a model of one layer")
    return tuple(parts[personal == "head"])


def check_prediction(predict: Predict, params: Params, federation: Federation) -> None:
    """Try a module on two samples, so that what does not fit is said before any work.

    Raises
    ------
    ValueError : the module does not take the samples, gives another shape than one output for each class or number to
        predict, or draws from torch's global random generator.
    """
    what = "samples" if federation.x.ndim != 4 else "images"
    images, state = federation.x[:2].to(federation.dtype), torch.get_rng_state()
    try:
        logits = predict(params, images)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"model: does not take {what} {list(images.shape)} of {images.dtype}: {error}") from error
    if not torch.equal(state, torch.get_rng_state()):
        torch.set_rng_state(state)
        raise ValueError("model: draws from torch's global random generator, so that no run could be repeated")
    expected, kind = (len(images), outputs(federation)), "numbers" if federation.classes is None else "logits"
    if not isinstance(logits, torch.Tensor) or logits.shape != expected or logits.dtype != images.dtype:
        found = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        each = "one for each to predict" if federation.classes is None else "one per class"
        raise ValueError(f"model: must give {kind} {list(expected)} of {images.dtype}, {each}, got {found}")


def loss_of(predict: Predict) -> LossFn:
    """Return f_i, as y asks for it: the cross-entropy of labels, or the squared error of numbers, their mean.

    The loss of a batch (x, y, weight) of an agent, whose weights sum to one, is the weighted sum of its samples'.

    Examples
    --------
    >>> x, y, weight = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [7.0]]), torch.full((2,), 0.5)
    >>> loss_of(lambda params, x: params["w"] * x)({"w": torch.tensor(2.0)}, (x, y, weight))
    tensor(4.5000)
    """
    of_labels, of_numbers = cross_entropy(predict), squared_error(predict)
    return lambda params, batch: (of_numbers if batch[1].is_floating_point() else of_labels)(params, batch)


def cross_entropy(predict: Predict) -> LossFn:
    """Return f_i: the weighted cross-entropy of an agent's batch (x, y, weight), whose weights sum to one."""

    def loss(params: Params, batch: Batch) -> torch.Tensor:
        x, y, weight = batch
        # F.cross_entropy also looks for labels to ignore; there are none here, and looking takes time.
        log_probability = predict(params, x).log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        return -(log_probability * weight).sum()

    return loss


def squared_error(predict: Predict) -> LossFn:
    """Return f_i: the weighted squared error of an agent's batch (x, y, weight), the mean over a sample's numbers."""

    def loss(params: Params, batch: Batch) -> torch.Tensor:
        x, y, weight = batch
        return ((predict(params, x) - y).square().mean(-1) * weight).sum()

    return loss
