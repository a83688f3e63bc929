"""How local updates are computed fast: an agents axis, recordings, threads and memory. `Engine` is to be extended."""

from .agents_axis import agents_at_once, chunks, in_order, map_agents, most_kept, parts
from .base import Around, Engine
from .build import build_engine
from .cuda_graphs import Graphs
from .local_step import LocalStep, Stopped, estimate_settings, look_at, one_step, take_steps
from .loop import AgentError, Loop, naming
from .protected import Protected, clip_and_add_noise, protected
from .starts import Start, joined, side_by_side
from .threads_and_memory import computing_with, made_with, modestly, prepare_process, usable_cores
from .trial import try_gradients
from .vectorized import Vectorized
from .watching import Watch

__all__ = [
    "AgentError",
    "Around",
    "Engine",
    "Graphs",
    "LocalStep",
    "Loop",
    "Protected",
    "Start",
    "Stopped",
    "Vectorized",
    "Watch",
    "agents_at_once",
    "build_engine",
    "chunks",
    "clip_and_add_noise",
    "computing_with",
    "estimate_settings",
    "in_order",
    "joined",
    "look_at",
    "made_with",
    "map_agents",
    "modestly",
    "most_kept",
    "naming",
    "one_step",
    "parts",
    "prepare_process",
    "protected",
    "side_by_side",
    "take_steps",
    "try_gradients",
    "usable_cores",
]
