"""Points of a sweep that take the same steps, each with a w of its own, computed as one.

They may differ in step sizes, and in their agents: the seed, and what agents hold. Side by side, the local steps of them
all are one batched computation, as those of a round's agents are, and so is their scoring: what a small step spends
between its products is spent once.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch.utils._pytree import tree_map

from ..aggregation import AGGREGATIONS, Gathered
from ..basics.setting_records import settings_that_change
from ..engine import Vectorized, computing_with, parts
from ..evaluation import Start, evaluate_all
from ..experiment import Experiment
from ..meta_gradients import BUILT_IN, METHODS
from ..objective import Params
from ..result import Result
from ..runner import Ready, prepare
from ..server import Memory, server_step
from ..trainer import batches_of, limit_of, picked_in
from .given import Given

AT_ONCE = 24
"""Points that are computed as one at most: more gain little, and all of them are lost where a sweep is stopped."""

NUMBERS = (24, 16, 12, 8, 6, 4, 3, 2)
"""How many go together: few different ones, for each of which a step is recorded."""

LARGEST = 2**20
"""Numbers of the largest tensor of all points' agents together up to which they are computed as one.

Beyond, products take the time, and caches hold less of them: see benchmarks/RESULTS.md.
"""


def _sizes(point: Experiment) -> dict[str, float]:
    """Return the settings of a step that alike points may differ in."""
    return {name: getattr(point, name) for name in ("fine_tune_lr", "meta_lr", "proximal", "server_lr")}


def _agents(point: Experiment) -> dict[str, Any]:
    """Return the settings that alike points may differ in and that make up their agents, and what these draw."""
    names = settings_that_change("holdings", "agents", "draws", of=type(point))
    return {name: getattr(point, name) for name in names if name != "dataset"}


def alike(experiment: Experiment) -> Hashable:
    """Return what points that may be computed as one have in common; None of one that is computed alone."""
    built_in = METHODS[experiment.gradient].estimate in BUILT_IN and AGGREGATIONS[experiment.aggregation].adds_up
    if not built_in or experiment.execution == "loop":
        return None
    sizes = _sizes(experiment)
    others = {name: value for name, value in experiment.to_dict().items() if name not in sizes | _agents(experiment)}
    # Of ν = 0, α is about scoring alone: one point is trained, and the others take its w from a cache.
    scoring = experiment.fine_tune_lr if experiment.nu == 0 else None
    return type(experiment), repr(others), scoring, *(bool(size) for size in sizes.values())


def run_together(points: Sequence[Experiment], given: Given) -> list[Result | None]:
    """Return what `run` would of points that are `alike`; None where a point has to be run alone.

    Those that diverge are, and all where a step is so large that it takes no longer alone. Points whose agents bring
    batches of different widths are not computed as one.
    """
    found: list[Result | None] = [None] * len(points)
    ready: dict[Hashable, Ready] = {}
    joined: dict[Hashable, list[int]] = {}
    for number, point in enumerate(points):
        agents = repr(_agents(point))
        if agents not in ready:
            ready[agents] = prepare(point, engine=_Together, **given.arguments)
        engine = ready[agents].engine
        assert isinstance(engine, _Together)
        joined.setdefault(engine.steps or agents, []).append(number)
    for numbers in joined.values():
        runs = [_Run(points[number], ready[repr(_agents(points[number]))]) for number in numbers]
        for number, result in zip(numbers, _computed(runs), strict=True):
            found[number] = result
    return found


@dataclass(eq=False)
class _Run:
    """A point, what it begins with, and how far it is."""

    point: Experiment
    ready: Ready
    limit: float = field(init=False)
    ...
