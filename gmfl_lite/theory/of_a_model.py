"""f_i of a module, for what is measured on all agents at once."""

from torch import nn

from ..engine import try_gradients
from ..experiment import Experiment
from ..federation import Federation
from ..models import kind_of
from ..modules import Objective
from ..modules import objective_of as tried
from ..objective import Params


def objective_of(model: nn.Module, federation: Federation, params: Params | None = None) -> tuple[Objective, Params]:
    """Return f_i, and the module's parameters or the given ones where the federation's samples are.

    Raises
    ------
    ValueError : a module that cannot be used, or not for many agents at once; parameters of another one.
    """
    device = federation.x.device
    objective, own = tried(model, federation)
    if params is None:
        params = own
    elif {name: tensor.shape for name, tensor in params.items()} != {name: t.shape for name, t in own.items()}:
        raise ValueError("params: must have the names and shapes of the model's parameters")
    params = {name: tensor.detach().to(device, federation.dtype) for name, tensor in params.items()}
    if kind_of(model) == "own":
        try_gradients(Experiment(nu=1), federation, objective, params)
        if objective.alone:
            raise ValueError(
                f"model: {objective.alone}, and this is measured on all agents at once; it can only be trained"
            )
    return objective, params
