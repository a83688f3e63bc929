"""Many what-ifs: grids of experiments on any executor, finished points kept on disk, and searches for step sizes."""

from .grid import run_point, sweep
from .search import Tuned, tune

__all__ = ["Tuned", "run_point", "sweep", "tune"]
