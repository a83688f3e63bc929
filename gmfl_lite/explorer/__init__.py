"""The panel of widgets behind which the what-ifs live: `gl.Explorer`."""

from .exploration import Exploration
from .explorer import Explorer
from .knobs import Knob, add_knob, add_preset

__all__ = ["Exploration", "Explorer", "Knob", "add_knob", "add_preset"]
