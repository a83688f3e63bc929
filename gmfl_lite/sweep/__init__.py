"""Many what-ifs: grids of experiments on any executor, finished points kept on disk, and searches for step sizes."""

from .given import Given
from .grid import run_point, sweep
from .kept import prune
from .search import Tuned, tune

__all__ = ["Given", "Tuned", "prune", "run_point", "sweep", "tune"]
