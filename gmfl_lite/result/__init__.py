"""What a run gave, in memory and on disk."""

from .loading import Checkpoint, load, load_result
from .result import Result
from .storing import HISTORY_COLUMNS, frame, store

__all__ = ["HISTORY_COLUMNS", "Checkpoint", "Result", "frame", "load", "load_result", "store"]
