"""The panel of widgets behind which the what-ifs live: `gl.Explorer`."""

from .explorer import Exploration, Explorer

__all__ = ["Exploration", "Explorer"]
