"""The panel of widgets behind which the what-ifs live: `gl.Explorer`."""

from .panel import Exploration, Explorer

__all__ = ["Exploration", "Explorer"]
