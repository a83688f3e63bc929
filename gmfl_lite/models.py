"""The library's own models, softmax regression, MLP and CNN; any module of your own takes their place."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import nn

from .basics import checks, randomness
from .basics.setting_records import OWN
from .data import Dataset, outputs
from .federation import Federation
from .modules import Predict, as_functions, cross_entropy, loss_of, squared_error
from .objective import Params

__all__ = [
    "MODELS", "PERSONAL", "Predict", "as_functions", "build_model", "cross_entropy", "kind_of", "loss_of", "moving",
    "parameters_of", "squared_error",
]  # fmt: skip


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
    if name == OWN:
        raise ValueError("model = 'own': this module was the caller's; pass it again (model=…)")
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
    vars(model)["built_as"] = name
    return model.to(dataset.dtype if isinstance(dataset, Federation) else dataset.x.dtype)


def kind_of(model: nn.Module) -> str:
    """Return a module's name if `build_model` built it, or "own"."""
    return getattr(model, "built_as", OWN)


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
