"""Generalized meta federated learning, to learn from and to explore.

Agents with private data train one shared initial model w so that each does well after ν gradient steps on its own data:

    min_w (1/n) Σ_i f_i(w_i⁽ᵛ⁾),   w_i⁽⁰⁾ = w,   w_i⁽ʲ⁾ = w_i⁽ʲ⁻¹⁾ − α ∇f_i(w_i⁽ʲ⁻¹⁾)

(Jamali, Saber, Bae, arXiv 2504.21327, 2025). ν = 0 is FedAvg, ν = 1 is Per-FedAvg.

>>> import gmfl_lite as gl
>>> result = gl.run(gl.Experiment(nu=3, rounds=10), progress=False)
>>> result.status
'completed'
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import theory
from .aggregation import aggregate
from .basics import __version__ as __version__
from .by_hand import by_hand
from .data import Dataset, load_dataset
from .engine import Engine, Loop, Vectorized, build_engine
from .experiment import Experiment, ExperimentError, build_federation
from .federation import Federation, load_federation
from .meta_gradients import meta_gradient
from .methods import methods
from .models import build_model
from .objective import fine_tune, meta_loss
from .partition import IID, Dirichlet, PerFedAvgSplit, Shards, partition
from .result import Result, load_result
from .runner import run
from .server import server_step
from .sweep import Tuned, sweep, tune
from .theory.heterogeneity import label_heterogeneity, model_heterogeneity
from .trainer import local_update, train

_LATE = {
    "plots": ".plots",
    "explain": ".explain",
    "exercises": ".exercises",
    "Explorer": ".explorer",
    "predict": ".exercises.prediction",
}

if TYPE_CHECKING:  # for editors and type checkers, which complete these names and refuse misspelled ones
    from types import ModuleType

    from . import explain, plots
    from .exercises.prediction import predict
    from .explorer import Explorer

    exercises: ModuleType  # it stands on this face, which therefore does not import it
else:

    def __getattr__(name: str) -> object:
        """Import what draws when it is first asked for: an agent's or a worker's process need not wait for seaborn."""
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(_LATE[name], __name__)
        except ModuleNotFoundError as error:
            if error.name not in ("IPython", "ipywidgets"):
                raise
            raise ImportError(f"gl.{name} needs {error.name}: pip install 'gmfl_lite[notebooks]'") from error
        return globals().setdefault(name, getattr(module, name, module))


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})


__all__ = [
    "IID", "Dataset", "Dirichlet", "Engine", "Experiment", "ExperimentError", "Explorer", "Federation", "Loop",
    "PerFedAvgSplit", "Result", "Shards", "Tuned", "Vectorized", "aggregate", "build_engine", "build_federation",
    "build_model", "by_hand", "exercises", "explain", "fine_tune", "label_heterogeneity", "load_dataset",
    "load_federation", "load_result", "local_update", "meta_gradient", "meta_loss", "methods", "model_heterogeneity",
    "partition", "plots", "predict", "run", "server_step", "sweep", "theory", "train", "tune",
]  # fmt: skip
