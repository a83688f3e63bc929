"""f_i of a module, for what is measured on all agents at once."""

from torch import nn

from ..engine import try_gradients
from ..experiment import Experiment
from ..federation import Federation
from ..models import as_functions, kind_of, loss_of
from ..modules import Objective, try_out
from ..objective import Params


def objective_of(model: nn.Module, federation: Federation, params: Params | None = None) -> tuple[Objective, Params]:
    """Return f_i, and the module's parameters or the given ones where the federation's samples are.

    Raises
    ------
    ValueError : a module that cannot be used, or not for many agents at once; parameters of another one.
    """
    device = federation.x.device
    predict, own = as_functions(model, device, federation.dtype)
    if params is None:
        params = own
    elif {name: tensor.shape for name, tensor in params.items()} != {name: t.shape for name, t in own.items()}:
        raise ValueError("params: must have the names and shapes of the model's parameters")
    params = {name: tensor.detach().to(device, federation.dtype) for name, tensor in params.items()}
    objective = loss_of(predict)
    if kind_of(model) == "own":
        try_out(objective, params, federation)
        try_gradients(Experiment(nu=1), federation, objective, params)
        if predict.alone:
            raise ValueError(
                f"model: {predict.alone}, and this is measured on all agents at once; it can only be trained"
            )
    return objective, params
