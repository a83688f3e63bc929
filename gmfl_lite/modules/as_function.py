"""A torch.nn.Module split into a pure function and a dict of parameters."""

import copy
from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from ..basics import checks
from ..basics.devices import cudnn_without
from ..basics.identity import structure
from ..objective import Params

Predict = Callable[[Params, torch.Tensor], torch.Tensor]
"""What a model gives for samples [samples, …]: logits [samples, …, classes], or numbers [samples, …]."""

_PLAIN = (nn.Sequential, nn.Flatten, nn.Linear, nn.ELU, nn.Conv2d, nn.GroupNorm, nn.AvgPool2d)
"""Layers of the library's own models: in these no operation has to be exchanged for another."""


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


class Function:
    """A module as a function of its parameters and of samples; the caller's module is not changed.

    Attributes
    ----------
    skeleton : a copy of the module, for its structure, its frozen parameters and its buffers.
    alone : why agents have to be computed one after the other, or "".
    """

    def __init__(self, skeleton: nn.Module, trained: Collection[str]) -> None:
        self.skeleton, self.alone, self._trained = skeleton, "", tuple(trained)
        self._structure = structure(skeleton)  # now, as some modules count in an attribute how often they are asked
        self._plain = all(type(layer) in _PLAIN for layer in skeleton.modules())
        self._places = _places(skeleton, self._trained)
        self._recurrent = any(isinstance(layer, nn.RNNBase) for layer in skeleton.modules())

    def __call__(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        with (
            nullcontext() if self._plain else _Differentiable(),
            # On a GPU cuDNN's recurrent layers have a first derivative only, and look where weights lie in memory.
            cudnn_without("enabled") if self._recurrent else nullcontext(),
        ):
            # Torch's own tying leaves what it was given in a layer that is registered twice.
            placed = {place: params[name] for place, name in self._places.items()}
            return functional_call(self.skeleton, placed, (x,), tie_weights=False)

    @property
    def known(self) -> bool:
        """Whether its layers' classes, and the parameters that it is given, say all of what it computes.

        It does not if something is frozen, hooked, put in place of a method, or in two places.
        """
        layers = [layer for _, layer in self.skeleton.named_modules(remove_duplicate=False)]
        alone = len(layers) == len({id(layer) for layer in layers}) and len(self._places) == len(self._trained)
        hooked = any(vars(layer).get("forward") or any(vars(layer)[name] for name in _HOOKS) for layer in layers)
        globally = any(vars(nn.modules.module)[name] for name in _GLOBAL_HOOKS)
        plain = type(self) is Function and self._plain and alone
        return plain and not hooked and not globally and not self.frozen()[-1]

    def frozen(self) -> tuple[Any, ...]:
        """Return what the function is, apart from the values of its parameters: structure, what is frozen, buffers."""
        fixed = {**dict(self.skeleton.named_buffers()), **dict(self.skeleton.named_parameters())}
        shapes = {name: list(fixed.pop(name).shape) for name in self._trained}
        return self._structure, shapes, fixed

    def state_dict(self, params: Params) -> Params:
        """Return the whole module's state with these parameters: frozen ones and buffers, too."""
        whole = copy.deepcopy(self.skeleton)
        with torch.no_grad():
            for name, parameter in whole.named_parameters():
                if name in params:
                    parameter.copy_(params[name])
        return {name: tensor.detach().cpu() for name, tensor in whole.state_dict().items()}


def _places(skeleton: nn.Module, trained: Collection[str]) -> dict[str, str]:
    """Return {where a parameter stands: its name}: a tied one has several places."""
    names: dict[int, str] = {}
    places = {}
    for path, layer in skeleton.named_modules():
        for attribute, parameter in layer.named_parameters(path, recurse=False, remove_duplicate=False):
            name = names.setdefault(id(parameter), attribute)
            if name in trained:
                places[attribute] = name
    return places


class _Differentiable(TorchFunctionMode):
    """Exchange fast operations whose derivative has no derivative for slower ones that have all, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
        if func is multi_head_attention_forward and not kwargs.get("need_weights", True):
            return func(*args, **{**kwargs, "need_weights": True})[0], None  # then it multiplies matrices
        return func(*args, **kwargs)


def as_functions(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Function, Params]:
    """Split a module into a pure function and a copy of its parameters; the module itself is not changed.

    Parameters that do not require a gradient are frozen: they stay inside the function, as do buffers. All live on
    `device`, and floating-point ones compute in `dtype` if one is given (a federation's). Attention is computed by
    kernels whose gradients can be differentiated again.

    Raises
    ------
    ValueError : the module keeps running statistics or draws random numbers, has no parameters to train, or cannot be
        copied.
    """
    if not isinstance(model, nn.Module):
        raise checks.refusal("model", type(model).__name__, "a torch.nn.Module")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(f"model: is wrapped by {type(model).__name__}; give the module inside, model.module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "model: is compiled by torch.jit, which cannot be taken apart; give the module that was compiled"
        )
    for name, layer in model.named_modules():
        where = f"model: layer {name!r} ({type(layer).__name__})"
        if getattr(layer, "running_mean", None) is not None or getattr(layer, "track_running_stats", False):
            raise ValueError(
                f"{where} keeps running statistics, which agents cannot share: they would be averaged wrongly, changed "
                "by evaluation, and undone after every fine-tuning step. Use torch.nn.GroupNorm or LayerNorm instead."
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{where} computes a sample's output from the others in its batch, so that an agent's score would "
                "depend on how many samples it brings. Use torch.nn.GroupNorm or LayerNorm instead."
            )
        dropped = getattr(layer, "p" if isinstance(layer, nn.modules.dropout._DropoutNd) else "dropout", 0.0)
        if isinstance(dropped, float) and dropped > 0 and layer.training:
            raise ValueError(
                f"{where} draws from torch's global generator, so that no run could be repeated, and agents "
                "would score with other weights than they train. Set its dropout to 0, or call model.eval()."
            )
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.sparse:
            raise ValueError(f"{where} has sparse gradients, which torch.func does not get right. Set sparse=False.")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "model: is on the meta device, where weights have no values; move it with to_empty, and fill it"
        )
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise ValueError("model: has lazy layers without weights yet; call it once on a batch before you hand it over")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.is_floating_point():
            raise ValueError(
                f"model: parameter {name!r} is of {parameter.dtype}, which cannot be trained here; keep real and "
                "imaginary parts in a real one, and use torch.view_as_complex"
            )
    skeleton = _copied(model)._apply(lambda tensor: tensor.to(device, _as_dtype(tensor, dtype)))
    params = {name: p.detach().clone() for name, p in skeleton.named_parameters() if p.requires_grad}
    if not params:
        raise ValueError("model: has no parameters to train (that require a gradient)")
    skeleton.requires_grad_(False)
    for layer in skeleton.modules():
        if isinstance(layer, (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)):
            layer.training = True  # without dropout that only keeps it from kernels that have no derivative at all
            if isinstance(layer, nn.MultiheadAttention):
                layer.dropout = 0.0
    return Function(skeleton, params), params


def _as_dtype(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype | None:
    """Return what a tensor is to be computed in: complex numbers, as of rotary embeddings, stay complex."""
    if dtype is None or not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    return dtype.to_complex() if tensor.is_complex() else dtype


def _copied(model: nn.Module) -> nn.Module:
    """Return a deep copy; what hooks have computed from parameters (weight_norm, pruning) is copied as a value."""
    held = [value for layer in model.modules() for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    computed = {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}
    try:
        return copy.deepcopy(model, computed)
    except Exception as error:  # whatever a module of one's own may hold
        raise ValueError(
            f"model: cannot be copied by copy.deepcopy; keep out of it what hinders that ({checks.first_line(error)})"
        ) from error
