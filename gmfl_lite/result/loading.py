"""A result read back from disk; nothing in a file is ever executed."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..basics import storage
from ..evaluation import AGENT_COLUMNS, those_of
from ..experiment import Experiment
from ..objective import Params
from .result import Result
from .storing import HISTORY_COLUMNS, STATE, frame


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
    owes to its engine, `state` what that keeps, and `limit` the loss beyond which it has diverged.
    """

    result: Result
    fingerprint: str = ""
    recipe: str = ""
    state: Params = field(default_factory=dict)
    limit: float | None = None


def load(path: str | Path, kind: type[Experiment] = Experiment) -> Checkpoint:
    """Read what `store` wrote.

    Raises
    ------
    FileNotFoundError, ValueError : as `load_result`.
    """
    record, arrays = storage.read(path)
    try:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        state = {name.removeprefix(STATE): tensor for name, tensor in tensors.items() if name.startswith(STATE)}
        result = Result(
            experiment=kind.from_dict(record["experiment"]),
            **{name: record[name] for name in ("status", "message", "engine", "round")},
            params={name: tensor for name, tensor in tensors.items() if not name.startswith(STATE)},
            history=frame(record["history"], those_of(HISTORY_COLUMNS, record["history"])),
            loss=str(record.get("loss", "")),
            agents=frame(record["agents"], those_of(AGENT_COLUMNS, record["agents"])),
        )
        limit = None if record.get("limit") is None else float(record["limit"])
        return Checkpoint(result, str(record["fingerprint"]), str(record.get("recipe", "")), state, limit)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a gmfl_lite result: {error}") from error
