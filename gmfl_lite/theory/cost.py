"""What a meta-gradient costs, in gradient evaluations."""

import numpy as np
from numpy.typing import ArrayLike

from ..basics import checks
from ..meta_gradients import METHODS, factors_kept, methods_with
from .constants import Value, formula


@formula
def meta_gradient_cost(
    nu: ArrayLike, method: str = "exact", backprop_steps: ArrayLike | None = None, hvp_cost: ArrayLike = 2.5
) -> Value:
    """Return the cost of one meta-gradient on one agent, in gradient evaluations (C2).

    ν + 1 gradients, and for each of the m factors kept one Hessian-vector product, of `hvp_cost` gradients, or two
    gradients with "hessian_free"; ν gradients with "reptile". Methods and `backprop_steps` as in
    `gmfl_lite.meta_gradient`.

    Raises
    ------
    ValueError : a method whose cost is not known.

    Examples
    --------
    >>> [meta_gradient_cost(5, method) for method in ("exact", "first_order", "hessian_free")]
    [18.5, 6.0, 16.0]
    """
    nu, hvp_cost = checks.integers("nu", nu, 0), checks.numbers("hvp_cost", hvp_cost, 0)
    m = None if backprop_steps is None else checks.integers("backprop_steps", backprop_steps, 0)
    kept = np.frompyfunc(lambda m, nu: factors_kept(method, m, nu), 2, 1)(m, nu)
    cost = METHODS[method].cost
    if cost == "none":
        raise checks.refusal("method", method, f"one whose cost is known: {methods_with('cost')}")
    return cost(nu, kept, hvp_cost)
