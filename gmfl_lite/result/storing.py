"""How a result is kept on disk: one file, without pickle."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..basics import storage
from ..basics.growing_file import GrowingFile
from ..objective import Params

if TYPE_CHECKING:
    from .result import Result

HISTORY_COLUMNS = {
    "round": "int64", "group": "str", "fine_tune_steps": "int64", "loss": "float64", "accuracy": "float64",
    "worst_decile_accuracy": "float64", "best_decile_accuracy": "float64", "metric": "float64",
}  # fmt: skip


def store(
    result: "Result",
    into: str | Path | GrowingFile,
    fingerprint: str = "",
    recipe: str = "",
    state: Params | None = None,
    limit: float | None = None,
) -> None:
    """Write a result, or a checkpoint, to one file; one that grows has the history already."""
    record = {
        "fingerprint": fingerprint,
        "recipe": recipe,
        "limit": limit,
        "loss": result.loss,
        "experiment": result.experiment.to_dict(),
        **{name: getattr(result, name) for name in ("status", "message", "engine", "round")},
        "agents": result.agents.to_dict("list"),
    }
    tensors = {**result.params, **{f"{STATE}{name}": tensor for name, tensor in (state or {}).items()}}
    arrays = {name: tensor.numpy(force=True) for name, tensor in tensors.items()}
    if isinstance(into, GrowingFile):
        into.write(record, arrays)
    else:
        storage.write(into, {**record, "history": result.history.to_dict("list")}, arrays)


STATE = "engine/"
"""What the names of an engine's tensors begin with in a file; no parameter's name holds a slash."""


def frame(columns: Any, dtypes: dict[str, str]) -> pd.DataFrame:
    """Return a DataFrame with these columns and dtypes; None has no rows."""
    return pd.DataFrame(columns, columns=list(dtypes)).astype(dtypes)
