"""Any torch.nn.Module as a pure function, and any loss of it as f_i; what cannot be one is refused before any work."""

from .as_function import Function, Predict, as_functions
from .losses import LOSSES, Objective, PerSample, check_scores, cross_entropy, loss_of, squared_error
from .trial import objective_of, try_out

__all__ = [
    "LOSSES", "Function", "Objective", "PerSample", "Predict", "as_functions", "check_scores", "cross_entropy",
    "loss_of", "objective_of", "squared_error", "try_out",
]  # fmt: skip
