"""How the gradients of a model and a loss of one's own can be computed: many agents at once, one by one, or not."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from ..basics import checks
from ..federation import Federation
from ..meta_gradients import meta_gradient
from ..modules import Function, Objective
from ..objective import Params
from .local_step import estimate_settings

if TYPE_CHECKING:
    from ..experiment import Experiment

SAMPLES = 3

_LOCK = Lock()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let threads wait: filters of warnings are the process's, and one thread would restore another's "error"."""
    with _LOCK:
        yield


@_one_at_a_time()
def try_gradients(experiment: "Experiment", federation: Federation, objective: Objective, params: Params) -> None:
    """Take a meta-gradient of two agents, each by itself and both at once; note if only the former is possible.

    Layers without a batching rule, and control flow that depends on the data, can be differentiated for one agent at a
    time alone: then `alone` of the model's function says so.

    Raises
    ------
    ValueError : the model cannot be differentiated, or not twice, where the experiment asks for that.
    """
    function = objective.predict
    settings = estimate_settings(experiment, params)
    estimate = {name: settings[name] for name in ("fine_tune_lr", "method", "backprop_steps", "moving")}
    nu = min(experiment.nu, 1)
    if estimate["backprop_steps"] is not None:
        estimate["backprop_steps"] = min(estimate["backprop_steps"], nu)
    agents = torch.tensor([0, federation.n_agents - 1], device=federation.x.device)
    drawn = federation.batches(agents, nu=nu, local_steps=1, batch_size=SAMPLES, seed=0, round=0)
    ((support, query),) = drawn

    def gradient(support: Any, query: Any, **other: Any) -> Params:
        how = {**estimate, **other, "check_finite": False}
        return meta_gradient(objective, params, support, query, **how)[0]

    one = tree_map(lambda tensor: tensor[0], (support, query))
    try:
        expected = gradient(*one)
    except Exception as error:  # whatever torch says where there is no derivative
        raise ValueError(_not_differentiable(error, gradient, one, nu, experiment.gradient)) from error
    with torch.enable_grad():
        trained = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        if not objective(trained, tree_map(lambda tensor: tensor[0], query)).requires_grad:
            raise ValueError(
                "model: its loss does not depend on its parameters, so that nothing can be trained; look for "
                "torch.no_grad(), .detach(), .data, argmax or rounding on the way"
            )
    if not isinstance(function, Function):
        return
    scores = partial(objective.scores, accurate=objective.accurate(params, federation))
    try:
        with warnings.catch_warnings():
            # Where torch has no batching rule, it says so and loops by itself; whatever else is said has been said.
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="There is a performance drop")
            both = torch.func.vmap(gradient)(support, query)
            torch.func.vmap(scores)({name: tensor.expand(2, *tensor.shape) for name, tensor in params.items()}, query)
    except Exception as error:  # whatever torch says where it has no batching rule
        function.alone = f"torch has no batching rule for {_what_of(error)}"
        return
    pairs = zip(tree_leaves(expected), tree_leaves(both), strict=True)
    if not all(torch.allclose(mine, found[0], rtol=1e-3, atol=1e-5, equal_nan=True) for mine, found in pairs):
        function.alone = "many at once would come out different"


def _what_of(error: Exception) -> str:
    """Return the operation that torch names, or what it says, short."""
    operation = re.search(r"aten::\w+", str(error))
    return operation[0] if operation else f"a layer of this model ({checks.first_line(error):.90})"


def _not_differentiable(error: Exception, gradient: Any, one: Any, nu: int, method: str) -> str:
    said = checks.first_line(error)
    if nu:
        for other in ("first_order", "hessian_free"):
            try:
                gradient(*one, method=other, backprop_steps=None)
            except Exception:
                continue
            return (
                f"model: its gradient cannot be differentiated again, which gradient={method!r} needs: use "
                f"gradient={other!r}, or nu=0 ({said})"
            )
    return (
        "model: cannot be differentiated by torch.func, on which everything here rests; keep to torch's operations, "
        "without NumPy, checkpointing, packed sequences or an autograd.Function that has no setup_context "
        f"({said})"
    )
