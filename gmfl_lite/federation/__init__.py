"""The agents of a run: who holds what, and the batches that they draw."""

from .agents import QUERIES, Agents, Batch
from .federation import Federation, load_federation

__all__ = ["QUERIES", "Agents", "Batch", "Federation", "load_federation"]
