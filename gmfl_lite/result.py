"""What a run gave, and how it is kept on disk: one file, without pickle."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .basics import storage
from .basics.growing_file import GrowingFile
from .evaluation import AGENT_COLUMNS, those_of
from .experiment import Experiment
from .objective import Params

HISTORY_COLUMNS = {
    "round": "int64", "group": "str", "fine_tune_steps": "int64", "loss": "float64", "accuracy": "float64",
    "worst_decile_accuracy": "float64",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gave.

    Attributes
    ----------
    experiment : what was run.
    status : "completed", "stopped" or "diverged".
    message : what happened and, if it diverged, in which round and which step size to lower.
    engine : what computed the agents' updates: "loop", or "vectorized", how many agents at once, and whether from a
        recording of the local step.
    round : rounds that `params` have seen.
    params : dict of CPU tensors, the shared initial model w.
    history : DataFrame, one row per evaluated round, group ("trained" or "new") and number of fine-tuning steps, with
        loss and, of classes, accuracy (0 to 1, mean over the group's agents) and worst_decile_accuracy.
    agents : DataFrame, one row per agent and number of fine-tuning steps at the last evaluation.
    """

    experiment: Experiment
    status: str
    message: str
    engine: str
    round: int
    params: Params
    history: pd.DataFrame
    agents: pd.DataFrame

    def save(self, path: str | Path) -> None:
        """Write everything to one file, without pickle; `load_result` reads it back, bit by bit the same."""
        store(self, path)

    def table(self) -> pd.DataFrame:
        """Return the last evaluation's accuracy, or loss of numbers: groups down, fine-tuning steps across."""
        last = self.history[self.history["round"] == self.history["round"].max()]
        score = "accuracy" if "accuracy" in last else "loss"
        return last.pivot(index="group", columns="fine_tune_steps", values=score).sort_index(ascending=False)

    def __repr__(self) -> str:
        return f"Result({self.status} after {self.round} rounds: {self.message})"


def load_result(path: str | Path, kind: type[Experiment] = Experiment) -> Result:
    """Read a result that `Result.save` wrote; a file from a stranger cannot run code.

    Parameters
    ----------
    path : the file.
    kind : the class of its experiment.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : not a result, of another version, or damaged.
    """
    return load(path, kind).result


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A result on disk, with all that a run needs to go on from it.

    `fingerprint` is a digest of the agents' samples and of the initial w ("" of a mere result), `recipe` what the run
    owes to its engine, and `state` what that keeps.
    """

    result: Result
    fingerprint: str = ""
    recipe: str = ""
    state: Params = field(default_factory=dict)


def store(
    result: Result, into: str | Path | GrowingFile, fingerprint: str = "", recipe: str = "", state: Params | None = None
) -> None:
    """Write a result, or a checkpoint, to one file; one that grows has the history already."""
    record = {
        "fingerprint": fingerprint,
        "recipe": recipe,
        "experiment": result.experiment.to_dict(),
        **{name: getattr(result, name) for name in ("status", "message", "engine", "round")},
        "agents": result.agents.to_dict("list"),
    }
    tensors = {**result.params, **{f"{_STATE}{name}": tensor for name, tensor in (state or {}).items()}}
    arrays = {name: tensor.numpy(force=True) for name, tensor in tensors.items()}
    if isinstance(into, GrowingFile):
        into.write(record, arrays)
    else:
        storage.write(into, {**record, "history": result.history.to_dict("list")}, arrays)


_STATE = "engine/"
"""What the names of an engine's tensors begin with in a file; no parameter's name holds a slash."""


def load(path: str | Path, kind: type[Experiment] = Experiment) -> Checkpoint:
    """Read what `store` wrote.

    Raises
    ------
    FileNotFoundError, ValueError : as `load_result`.
    """
    record, arrays = storage.read(path)
    try:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        state = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items() if name.startswith(_STATE)}
        result = Result(
            experiment=kind.from_dict(record["experiment"]),
            **{name: record[name] for name in ("status", "message", "engine", "round")},
            params={name: tensor for name, tensor in tensors.items() if not name.startswith(_STATE)},
            history=frame(record["history"], those_of(HISTORY_COLUMNS, record["history"].get("accuracy"))),
            agents=frame(record["agents"], those_of(AGENT_COLUMNS, record["agents"].get("accuracy"))),
        )
        return Checkpoint(result, str(record["fingerprint"]), str(record.get("recipe", "")), state)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a gmfl_lite result: {error}") from error


def frame(columns: Any, dtypes: dict[str, str]) -> pd.DataFrame:
    """Return a DataFrame with these columns and dtypes; None has no rows."""
    return pd.DataFrame(columns, columns=list(dtypes)).astype(dtypes)
