"""Exercises for the notebooks: `.check(answer)`, `.hint()` and `.solution()` of each, and `progress()` of all.

>>> import gmfl_lite as gl
>>> gl.exercises.look_ahead.check([..., ..., ...])
**Not attempted yet.** Still to be filled in: 1, 2, 3.
>>> gl.exercises.look_ahead.check([1, 2, 2.5])
**Incorrect.** These are the points w⁽ᵛ⁾. Asked is the loss f at them.
"""

import pandas as pd

from .exercise import REGISTRY, Exercise, Note, Verdict
from .practice import crowd, fair_comparison, price_of_sending, resumed_sweep, traffic
from .questions import (
    effective_classes,
    enough_agents,
    first_order_length,
    jacobian_product,
    look_ahead,
    tipping_nu,
    two_averages,
    undo_truncation,
    where_fedavg_ends,
    which_floor,
    which_nu,
)
from .variants import (
    CONTEST,
    cost_of_a_step,
    largest_nu,
    one_beats_ten,
    proximal_update,
    server_step,
    truncated_gradient,
)

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
    "fair_comparison",
    "first_order_length",
    "jacobian_product",
    "largest_nu",
    "look_ahead",
    "one_beats_ten",
    "price_of_sending",
    "progress",
    "proximal_update",
    "resumed_sweep",
    "server_step",
    "tipping_nu",
    "traffic",
    "truncated_gradient",
    "two_averages",
    "undo_truncation",
    "where_fedavg_ends",
    "which_floor",
    "which_nu",
]


def every() -> list[Exercise]:
    """Return all exercises, in the order of the notebooks.

    >>> len(every())
    22
    """
    return sorted(REGISTRY.values(), key=lambda one: one.notebook)


def progress() -> pd.DataFrame:
    """Return what has been tried and solved in this kernel: a row for each exercise.

    Columns: notebook, status ("correct" once it has been), checks (answers that were not placeholders), and whether the
    hint and the solution have been looked at. Every kernel starts anew.

    >>> progress().columns.to_list()
    ['notebook', 'status', 'checks', 'hint', 'solution']
    """
    columns = ["notebook", "status", "checks", "hint", "solution"]
    rows = {one.name: (one.notebook, one.status, one.checks, one.saw_hint, one.saw_solution) for one in every()}
    table = pd.DataFrame.from_dict(rows, "index", columns=columns)
    return table.replace({"hint": {True: "seen", False: ""}, "solution": {True: "seen", False: ""}})
