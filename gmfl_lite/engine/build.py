"""Which engine an experiment asks for."""

from typing import TYPE_CHECKING, Any

from ..federation import Federation
from ..objective import LossFn, Params
from .base import Engine
from .loop import Loop
from .vectorized import Vectorized

if TYPE_CHECKING:
    from ..experiment import Experiment


def build_engine(
    experiment: "Experiment", federation: Federation, loss_fn: LossFn, params: Params, **options: Any
) -> Engine:
    """Return the engine that experiment.execution names; "auto" is the vectorised one.

    In our measurements (benchmarks/RESULTS.md) it is faster for every model: by far for small products, where a loop
    spends its time between them. Where products are large on a CPU it takes one agent at a time itself.

    Parameters
    ----------
    experiment, federation, loss_fn, params : what is run, the agents, f_i as a function of (params, batch), and w.
    options : local_step, server_step and compiled, as in `Vectorized` (`Loop` takes the first two), for example
        gmfl_lite.run(experiment, engine=functools.partial(build_engine, compiled=True)).

    Examples
    --------
    Agents that are pulled back to the server's w (FedProx):

    >>> from functools import partial
    >>> import gmfl_lite as gl
    >>> def fed_prox(w, gradient, start, own, meta_lr=0.05, pull=1.0):
    ...     return {name: w[name] - meta_lr * (gradient[name] + pull * (w[name] - start[name])) for name in w}
    >>> experiment = gl.Experiment(model="softmax", rounds=2)
    >>> gl.run(experiment, engine=partial(build_engine, local_step=fed_prox), progress=False).status
    'completed'
    """
    if experiment.execution == "loop":
        return Loop(experiment, federation, loss_fn, params, **options)
    return Vectorized(experiment, federation, loss_fn, params, **options)
