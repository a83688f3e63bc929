"""Many what-ifs: grids of experiments, on any executor, finished points kept on disk."""

from .grid import run_point, sweep

__all__ = ["run_point", "sweep"]
