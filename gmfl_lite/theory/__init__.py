"""The theory with every constant explicit: constants, bounds, quadratic agents, and constants of real models.

Everything is reachable from here, as `gl.theory.<name>`; each docstring states the formula and its lemma or theorem.
"""

from .alignment import alignment
from .bounds import (
    ConvergenceBound,
    Prescription,
    convergence_bound,
    covariance_bound,
    drift,
    drift_noise,
    full_participation_bound,
    prescription,
    rounds_to_reach,
    sampling_factor,
)
from .constants import (
    geometric_sum,
    growth,
    hessian_free_bias,
    largest_safe_fine_tune_lr,
    meta_heterogeneity,
    meta_smoothness,
    spectral_smoothness,
    truncated_smoothness,
    truncation_bias,
    truncation_factor,
)
from .cost import meta_gradient_cost
from .measured_constants import Advice, Constants, advice, estimate_constants
from .observed_runs import Observation, beside_bound, observe
from .quadratics import Quadratics
from .separation import separating_agents

__all__ = [
    "Advice",
    "Constants",
    "ConvergenceBound",
    "Observation",
    "Prescription",
    "Quadratics",
    "advice",
    "alignment",
    "beside_bound",
    "convergence_bound",
    "covariance_bound",
    "drift",
    "drift_noise",
    "estimate_constants",
    "full_participation_bound",
    "geometric_sum",
    "growth",
    "hessian_free_bias",
    "largest_safe_fine_tune_lr",
    "meta_gradient_cost",
    "meta_heterogeneity",
    "meta_smoothness",
    "observe",
    "prescription",
    "rounds_to_reach",
    "sampling_factor",
    "separating_agents",
    "spectral_smoothness",
    "truncated_smoothness",
    "truncation_bias",
    "truncation_factor",
]
