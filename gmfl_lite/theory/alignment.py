"""How much of what a round does is what new agents need."""

import torch
from torch import nn
from torch.utils._pytree import tree_map

from ..basics import checks
from ..engine import estimate_settings, modestly
from ..experiment import Experiment
from ..federation import Federation
from ..meta_gradients import meta_gradient
from ..models import moving
from ..objective import Params
from ..trainer import batches_of, local_update
from .of_a_model import objective_of


@modestly
def alignment(
    experiment: Experiment, federation: Federation, model: nn.Module, params: Params | None = None, *, steps: int = 1
) -> float:
    """Return the cosine of the angle between where a round leads and where new agents would like w to go.

    cos(w̄ − w, −∇F(w)),   w̄ = (1/n) Σ_i w_{i,τ},   F(w) = (1/m) Σ_j f_j(w_j^(ν′)),

    where w_{i,τ} is what each of the n agents that train sends back if all of them take part, and the m new agents
    fine-tune ν′ times on all that they train on, and are scored on their test samples. 1 is straight down, 0 is no
    help, below 0 is harm. Where labels are permuted, one local step is next to no help, several are some, and looking
    ahead is more: the first is joint training, the second has a part of the meta-gradient (Nichol et al., 2018).

    Parameters
    ----------
    experiment : the method: ν, α, β, τ, gradient, proximal, personal, batch_size, query and seed.
    federation, model : the agents, and a module whose parameters are w.
    params : another w.
    steps : ν′, at least 1.

    Raises
    ------
    ValueError : no new agents, or a module that cannot be used.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> what_if = gl.Experiment(partition="iid", permuted_classes=10, n_agents=20, shots=1, batch_size=None)
    >>> federation = gl.build_federation(what_if)
    >>> model = gl.build_model("mlp", federation)
    >>> for name, method in {"FedAvg": {"nu": 0, "local_steps": 1}, "ν = 1": {"nu": 1, "local_steps": 1}}.items():
    ...     one_round = what_if.replace(fine_tune_lr=1.0, meta_lr=0.1, **method)
    ...     print(name, round(alignment(one_round, federation, model), 1))
    FedAvg 0.1
    ν = 1 0.5
    """
    steps = checks.integer("steps", steps, 1)
    if not federation.n_new_agents:
        raise checks.refusal("federation", federation, "one with new agents (n_new_agents)")
    federation = federation.in_precision(experiment.precision)
    objective, w = objective_of(model, federation, params)
    how, part = estimate_settings(experiment, w), moving(w, experiment.personal)
    gone, needed = [], []
    for agent in federation.groups["trained"].tolist():
        sent, _ = local_update(objective, w, batches_of(agent, experiment, federation, 0), **how)
        gone.append(torch.cat([(w[name] - tensor).flatten() for name, tensor in sent.items()]))
    for agents in federation.groups["new"].split(1):
        sets = federation.fine_tune_sets(agents), federation.test_sets(agents)
        train, test = tree_map(lambda tensor: tensor[0], sets)
        lr = experiment.fine_tune_lr
        gradient, _ = meta_gradient(objective, w, [train] * steps, test, fine_tune_lr=lr, moving=part)
        needed.append(torch.cat([gradient[name].flatten() for name in w]))
    led, wanted = torch.stack(gone).mean(0), torch.stack(needed).mean(0)
    return float(torch.nn.functional.cosine_similarity(led, wanted, dim=0))
