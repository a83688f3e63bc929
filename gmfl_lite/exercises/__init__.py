"""Exercises for the notebooks: `.check(answer)`, `.hint()` and `.solution()` of each, and `progress()` of all.

>>> import gmfl_lite as gl
>>> gl.exercises.look_ahead.check([..., ..., ...])
**Not attempted yet.** Still to be filled in: 1, 2, 3.
>>> gl.exercises.look_ahead.check([1, 2, 2.5])
**Incorrect.** These are the points w⁽ᵛ⁾. The question asks for the loss f at them.
"""

from ..basics.checks import nearest
from .exercise import REGISTRY, Exercise, Note, Verdict, every, progress
from .notebook_00_start_here import look_ahead, read_the_curve, which_nu
from .notebook_01_who_holds_what import effective_classes
from .notebook_02_one_model_for_all import two_averages, two_walks, where_fedavg_ends
from .notebook_03_the_meta_objective_by_hand import first_order_length, jacobian_product, one_step_ahead
from .notebook_04_how_it_converges import enough_agents, which_floor
from .notebook_05_when_nu_helps_and_when_it_hurts import fair_beta, tipping_nu, undo_truncation
from .notebook_06_train_at_full_size import traffic
from .notebook_07_explorer import fair_comparison
from .notebook_08_exercises import (
    CONTEST,
    cost_of_a_step,
    largest_nu,
    one_beats_ten,
    proximal_update,
    server_step,
    truncated_gradient,
)
from .notebook_09_evidence import price_of_sending
from .notebook_10_real_federation import crowd
from .notebook_11_many_machines import resumed_sweep
from .notebook_12_few_shots import first_step_of_adam, two_gradients, two_halves
from .notebook_13_your_own_data import one_loss_a_sample, whose_rows

__all__ = [
    "CONTEST",
    "Exercise",
    "Note",
    "Verdict",
    "cost_of_a_step",
    "crowd",
    "effective_classes",
    "enough_agents",
    "every",
    "fair_beta",
    "fair_comparison",
    "first_order_length",
    "first_step_of_adam",
    "jacobian_product",
    "largest_nu",
    "look_ahead",
    "one_beats_ten",
    "one_loss_a_sample",
    "one_step_ahead",
    "price_of_sending",
    "progress",
    "proximal_update",
    "read_the_curve",
    "resumed_sweep",
    "server_step",
    "tipping_nu",
    "traffic",
    "truncated_gradient",
    "two_averages",
    "two_gradients",
    "two_halves",
    "two_walks",
    "undo_truncation",
    "where_fedavg_ends",
    "which_floor",
    "which_nu",
    "whose_rows",
]


def __getattr__(name: str) -> Exercise:
    """Return an exercise that is none of the library's own."""
    if name not in REGISTRY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{nearest(name, __dir__())}")
    return REGISTRY[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *REGISTRY})
