"""Figures of who holds what, how training goes, what fine-tuning gains, of landscapes, tables, functions and searches.

Everything is reachable from here, as `gl.plots.<name>`. Every function returns a Picture: a matplotlib Figure that no
global state knows of, so that it can be made in any thread, with a text that says what is to be seen, for those who
cannot see it.
"""

from .fits import fit
from .holdings import examples, images, label_counts, label_distances, rotations
from .landscape import Landscape, landscapes
from .lead_map import leads
from .picture import Picture
from .tables import bound_terms, curves, mismatch, sweep
from .training import accuracy_against_rounds, accuracy_against_steps, exploration
from .tuning import tried

__all__ = [
    "Landscape",
    "Picture",
    "accuracy_against_rounds",
    "accuracy_against_steps",
    "bound_terms",
    "curves",
    "examples",
    "exploration",
    "fit",
    "images",
    "label_counts",
    "label_distances",
    "landscapes",
    "leads",
    "mismatch",
    "rotations",
    "sweep",
    "tried",
]
