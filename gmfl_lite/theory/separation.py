"""Agents for which averaging fails and looking ahead does not."""

import numpy as np

from ..basics import checks
from .quadratics import Quadratics


def separating_agents(
    ratio: float, *, nu: int, fine_tune_lr: float, meta_lr: float, local_steps: int = 1
) -> Quadratics:
    """Return two agents for which FedAvg's fixed point w̄ has F_ν(w̄) > ratio · F_ν(w*_ν): the ratio has no bound.

    On the line, a steep agent with its optimum at 1 and a flat one with its at 0, of curvatures a and ta. FedAvg weighs
    them by 1 − (1 − βa)^τ, which for the flat one goes to 0 with t, so that w̄ is near 1. After ν steps there is left
    of the steep agent's loss its (1 − αa)^(2ν)th part, next to nothing where a is close to 1/α: the meta-objective is
    that of the flat agent, whose optimum is 0. Then

        F_ν(w̄) / F_ν(w*_ν)  ≥  w̄² t (1 − αta)^(2ν) / (1 − αa)^(2ν),

    and a is chosen so that the right side, with w̄ = 0.9, is `ratio`; t is halved until w̄ is large enough.

    Parameters
    ----------
    ratio : above 0.
    nu : ν ≥ 1, the fine-tuning steps after which both are compared.
    fine_tune_lr, meta_lr, local_steps : α, and FedAvg's β < 2α and τ.

    Raises
    ------
    ValueError : naming the number to change.

    Examples
    --------
    >>> agents = separating_agents(100, nu=3, fine_tune_lr=0.5, meta_lr=0.1, local_steps=5)
    >>> averaged = agents.meta_loss(agents.fixed_point(0, 0.5, 0.1, 5), 3, 0.5)
    >>> averaged > 100 * agents.meta_loss(agents.minimiser(3, 0.5), 3, 0.5)
    True
    """
    ratio = checks.number("ratio", ratio, 0, 1e12, above=True)
    nu, local_steps = checks.integer("nu", nu, 1), checks.integer("local_steps", local_steps, 1)
    alpha = checks.number("fine_tune_lr", fine_tune_lr, 0, above=True)
    beta = checks.number("meta_lr", meta_lr, 0, above=True)
    if beta >= 2 * alpha:
        allowed = f"below 2 · fine_tune_lr = {2 * alpha:g}: the steep agent's curvature is close to 1/fine_tune_lr"
        raise checks.refusal("meta_lr", beta, allowed)
    share = 0.1  # t, the flat agent's curvature over the steep one's
    while True:
        left = min(0.5, (0.81 * share * (1 - share) ** (2 * nu) / ratio) ** (1 / (2 * nu)))  # 1 − αa
        steep = (1 - left) / alpha
        agents = Quadratics(np.array([steep, share * steep]).reshape(2, 1, 1), [[1.0], [0.0]])
        averaged, best = agents.fixed_point(0, alpha, beta, local_steps), agents.minimiser(nu, alpha)
        if agents.meta_loss(averaged, nu, alpha) > ratio * agents.meta_loss(best, nu, alpha):
            return agents
        share /= 2
