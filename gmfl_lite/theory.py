"""Constants and bounds of the theory, each with every constant explicit."""

from . import checks


def largest_safe_fine_tune_lr(nu: int, smoothness: float) -> float:
    """Return the largest α for which ν fine-tuning steps cannot more than double a vector: (2^(1/ν) − 1) / L.

    With ‖I − αH‖ ≤ 1 + αL, the product of ν factors stays below (1 + αL)^ν ≤ 2 (corollary C1). Without fine-tuning
    steps (ν = 0) it is the α of one step, 1 / L.

    Parameters
    ----------
    nu : number of fine-tuning steps.
    smoothness : L, the largest absolute curvature, above 0.

    Examples
    --------
    >>> [round(largest_safe_fine_tune_lr(nu, 1.0), 4) for nu in (1, 2, 5, 10)]
    [1.0, 0.4142, 0.1487, 0.0718]
    """
    nu = checks.integer("nu", nu, 0)
    smoothness = checks.number("smoothness", smoothness, 0, above=True)
    return (2 ** (1 / max(nu, 1)) - 1) / smoothness
