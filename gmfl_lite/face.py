"""All that `import gmfl_lite as gl` offers, as gl.<name>; it is loaded when the first name is asked for."""

from typing import TYPE_CHECKING

from . import theory
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
from .server import aggregate, server_step
from .sweep import Tuned, sweep, tune
from .theory.heterogeneity import label_heterogeneity, model_heterogeneity
from .trainer import local_update, train

if TYPE_CHECKING:  # what draws comes later still: an agent's or a worker's process need not wait for seaborn
    from types import ModuleType

    from . import plots
    from .explorer import Explorer

    exercises: ModuleType  # it stands on this face, which therefore does not import it

__all__ = [
    "IID", "Dataset", "Dirichlet", "Engine", "Experiment", "ExperimentError", "Explorer", "Federation", "Loop",
    "PerFedAvgSplit", "Result", "Shards", "Tuned", "Vectorized", "aggregate", "build_engine", "build_federation",
    "build_model", "by_hand", "exercises", "fine_tune", "label_heterogeneity", "load_dataset", "load_federation",
    "load_result", "local_update", "meta_gradient", "meta_loss", "methods", "model_heterogeneity", "partition", "plots",
    "run", "server_step", "sweep", "theory", "train", "tune",
]  # fmt: skip
