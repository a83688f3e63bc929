"""Points of a sweep that differ in step sizes alone, computed as one.

They have the agents, the picks and the batches of every round in common; each has a w and step sizes of its own. Side
by side, the local steps of them all are one batched computation, as those of a round's agents are: what a small step
spends between its products, and on drawing and scoring, is spent once.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch.utils._pytree import tree_map

from ..aggregation import AGGREGATIONS
from ..engine import Vectorized, computing_with
from ..experiment import Experiment
from ..meta_gradients import BUILT_IN, METHODS
from ..objective import Params
from ..result import Result
from ..runner import Ready, prepare
from ..server import Diverged, Memory, server_step
from ..trainer import limit_of, train
from .given import Given

AT_ONCE = 8
"""Points that are computed as one at most: more gain little, and all of them are lost where a sweep is stopped."""

LARGEST = 2**20
"""Numbers of the largest tensor of all points' agents together up to which they are computed as one.

Beyond, products take the time, and caches hold less of them: see benchmarks/RESULTS.md.
"""


def _sizes(point: Experiment) -> dict[str, float]:
    """Return the settings that alike points may differ in."""
    return {name: getattr(point, name) for name in ("fine_tune_lr", "meta_lr", "proximal", "server_lr")}


def alike(experiment: Experiment) -> Hashable:
    """Return what points that may be computed as one have in common; None of one that is computed alone."""
    built_in = METHODS[experiment.gradient].estimate in BUILT_IN and AGGREGATIONS[experiment.aggregation].adds_up
    if not built_in or experiment.execution == "loop":
        return None
    sizes = _sizes(experiment)
    others = {name: value for name, value in experiment.to_dict().items() if name not in sizes}
    # Of ν = 0, α is about scoring alone: one point is trained, and the others take its w from a cache.
    scoring = experiment.fine_tune_lr if experiment.nu == 0 else None
    return type(experiment), repr(others), scoring, *(bool(size) for size in sizes.values())


def run_together(points: Sequence[Experiment], given: Given) -> list[Result | None]:
    """Return what `run` would of points that are `alike`; None where a point has to be run alone.

    Those that diverge are, the others with them if these are fewer, and all where a step is so large that it takes no
    longer alone. Two, four or eight go together, for which there are few recordings of a step.
    """
    alone: list[Result | None] = [None] * len(points)
    if len(points) < 2:
        return alone
    if (first := 1 << (len(points).bit_length() - 1)) < len(points):
        return run_together(points[:first], given) + run_together(points[first:], given)
    ready = prepare(points[0], engine=partial(_Together, points), **given.arguments)
    engine = ready.engine
    assert isinstance(engine, _Together)
    if not engine.fits:
        return alone
    try:
        with computing_with(engine.threads):
            return _trained(points, ready, engine)
    except FloatingPointError:  # most of them
        return alone


def _trained(points: Sequence[Experiment], ready: Ready, engine: "_Together") -> list[Result | None]:
    common, data = ready.experiment, (ready.federation, ready.objective)
    limit = limit_of(common, *data, ready.params)
    alone = [replace(ready, experiment=common.replace(**_sizes(point))).training(limit) for point in points]
    results = [replace(ready.begun, experiment=each.experiment, objective=ready.objective) for each in alone]
    histories: list[list[pd.DataFrame]] = [[] for _ in points]

    def look(round: int, w: Params) -> None:
        for place in set(range(len(points))) - engine.diverged:
            params = {name: tensor[place].clone() for name, tensor in w.items()}
            try:
                results[place] = alone[place].so_far(results[place], round, params)
            except FloatingPointError:
                engine.diverged.add(place)
            else:
                histories[place].append(results[place].history)

    start = {name: tensor.expand(len(points), *tensor.shape).contiguous() for name, tensor in ready.params.items()}
    look(0, start)
    for round, w, _ in train(common, *data, start, engine=engine, limit=limit):
        if round % common.eval_every == 0 or round == common.rounds:
            look(round, w)
    return [
        None if place in engine.diverged else replace(result, history=pd.concat(histories[place], ignore_index=True))
        for place, result in enumerate(results)
    ]


class _Together(Vectorized):
    """Picked agents, each of them once for every point: tensors [agents, points, …], w [points, …].

    Attributes
    ----------
    fits : whether they can be computed as one, and gain by it.
    diverged : the points that are known to have diverged; what is computed of them means nothing.
    """

    shared = 0

    def __init__(self, points: Sequence[Experiment], *of_a_run: Any) -> None:
        super().__init__(*of_a_run)
        experiment, _, _, params = of_a_run
        self.points, self.diverged = points, set[int]()
        self.memories: list[Memory] = [{} for _ in points]
        like = next(iter(params.values()))
        self.step_sizes = {
            name: like.new_tensor([getattr(point, name) for point in points]) for name in self.step_sizes
        }
        lanes, largest = len(points) * experiment.agents_per_round, max(tensor.numel() for tensor in params.values())
        way = self.way(self.widest)
        possible = bool(self.step_sizes) and not (way.alone or way.recompute) and like.device.type == "cpu"
        self.fits = possible and lanes <= self.agents_at_once and lanes * largest <= LARGEST
        self.agents_in_words = f"all picked agents of {len(points)} points at once"

    @property
    def recipe(self) -> str:
        return ""  # what it computes is what the points say

    def at_once(self, width: int) -> int:
        return super().at_once(width) // len(self.points)

    def update(
        self, params: Params, batches: Any, agents: torch.Tensor, stop: Any, own: Params | None = None
    ) -> tuple[Params, torch.Tensor]:
        """Return every agent's w of every point [agents, points, …], and the meta-losses [agents, points, τ]."""
        shape = len(agents), len(self.points)
        w = tree_map(lambda tensor: tensor.repeat(len(agents), *[1] * (tensor.ndim - 1)), params)
        sizes = tree_map(lambda tensor: tensor.repeat(len(agents)), self.step_sizes)
        repeated = (tree_map(lambda tensor: tensor.repeat_interleave(shape[1], 0), pair) for pair in batches)
        taken = self._steps(sizes, w, w, own or {}, repeated, math.prod(shape), stop)
        return tree_map(lambda tensor: tensor.unflatten(0, shape), taken)

    def server_step(self, w: Params, average: Params) -> Params:
        after = []
        for place, point in enumerate(self.points):
            one, theirs = ({name: tensor[place] for name, tensor in each.items()} for each in (w, average))
            kept, server, lr = self.memories[place], point.server, point.server_lr
            stepped, self.memories[place] = server_step(one, theirs, kept, server=server, server_lr=lr)
            after.append(stepped)
        return {name: torch.stack([one[name] for one in after]) for name in w}

    def check(self, losses: torch.Tensor, w: Params, limit: float) -> None:
        """Note which points have diverged; raise Diverged if most have."""
        sound = losses.mean((0, 2)) <= limit
        for tensor in w.values():
            sound &= tensor.isfinite().flatten(1).all(1)
        self.diverged.update((~sound).nonzero().flatten().tolist())
        if 2 * len(self.diverged) > len(self.points):
            raise Diverged("most points have diverged")
