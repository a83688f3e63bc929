"""Points of a sweep that take the same steps, each from a w of its own, computed as one.

They may differ in step sizes, in the seed and in what agents hold. Side by side, the local steps of them all are one
batched computation, as those of a round's agents are, and so is their scoring: what a small step spends between its
products is spent once.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import pandas as pd
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..aggregation import AGGREGATIONS, Gathered
from ..basics.setting_records import settings_that_change
from ..engine import Start, Vectorized, computing_with, parts
from ..evaluation import evaluate_all, start_of
from ..experiment import Experiment
from ..federation import Federation
from ..meta_gradients import BUILT_IN, METHODS
from ..objective import LossFn, Params
from ..result import Result
from ..runner import Ready, prepare
from ..server import Diverged, Memory, server_step
from ..trainer import batches_of, limit_of, picked_in
from .given import Given

AT_ONCE = 24
"""Points that are computed as one at most: more gain little, and all of them are lost where a sweep is stopped."""

NUMBERS = (24, 16, 12, 8, 6, 4, 3, 2, 1)
"""How many go together: few different numbers, as a step is recorded for each."""

LARGEST = 2**19
"""Numbers of the largest tensor of all points' agents together up to which they are computed as one.

Beyond, products take the time, and caches hold less of them: see benchmarks/RESULTS.md.
"""


def _sizes(point: Experiment) -> dict[str, float]:
    """Return the settings of a step that alike points may differ in."""
    return {name: getattr(point, name) for name in ("fine_tune_lr", "meta_lr", "proximal", "server_lr")}


def _agents(point: Experiment) -> dict[str, Any]:
    """Return what makes up a point's agents, and what they draw."""
    names = settings_that_change("holdings", "agents", "draws", of=type(point))
    return {name: getattr(point, name) for name in names}


def alike(experiment: Experiment) -> Hashable:
    """Return what points that may be computed as one have in common; None of one that is computed alone."""
    built_in = METHODS[experiment.gradient].estimate in BUILT_IN and AGGREGATIONS[experiment.aggregation].adds_up
    if not built_in or experiment.execution == "loop":
        return None
    sizes, own = _sizes(experiment), _agents(experiment).keys() - {"dataset"}
    others = {name: value for name, value in experiment.to_dict().items() if name not in sizes and name not in own}
    return type(experiment), repr(others), *(bool(size) for size in sizes.values())


def run_together(points: Sequence[Experiment], given: Given) -> list[Result | None]:
    """Return what `run` would of points that are `alike`; None where a point has to be run alone.

    Those that diverge are, and all where a step is so large that it takes no longer alone. Points go together whose
    agents are the same, or bring batches of one width.
    """
    ready: dict[str, Ready] = {}
    lanes: dict[tuple[Any, ...], _Lane] = {}
    for number, point in enumerate(points):
        agents, sizes = repr(_agents(point)), _sizes(point)
        if agents not in ready:
            ready[agents] = prepare(point, engine=_Together, **given.arguments)
        trained_with = [size for name, size in sizes.items() if point.nu or name != "fine_tune_lr"]
        lane = lanes.setdefault((agents, *trained_with), _Lane(ready[agents], sizes))
        lane.runs[number] = ready[agents].experiment.replace(**sizes)
    together: dict[Hashable, list[_Lane]] = defaultdict(list)
    places = {agents: place for place, agents in enumerate(ready)}
    for (agents, *_), lane in sorted(lanes.items(), key=lambda item: places[item[0][0]]):
        together[lane.engine.same_steps or agents].append(lane)
    found: dict[int, Result] = {}
    for several in together.values():
        found |= _some_at_once(several)
    return [found.get(number) for number in range(len(points))]


@dataclass(eq=False)
class _Lane:
    """A w that is trained, and the runs that it is scored for: several with ν = 0, where α is about scoring alone."""

    ready: Ready
    sizes: dict[str, float]
    runs: dict[int, Experiment] = field(default_factory=dict)

    @property
    def engine(self) -> "_Together":
        assert isinstance(self.ready.engine, _Together)
        return self.ready.engine


def _some_at_once(lanes: Sequence[_Lane]) -> dict[int, Result]:
    """Return the results of the runs that do not diverge, by number, of as many lanes at once as gain by it."""
    found: dict[int, Result] = {}
    most = min(lanes[0].engine.most, AT_ONCE) if lanes else 0
    while lanes and most:
        n = next(n for n in NUMBERS if n <= min(len(lanes), most))
        some, lanes = lanes[:n], lanes[n:]
        if sum(len(lane.runs) for lane in some) > 1:
            found |= _trained(some)
    return found


def _trained(lanes: Sequence[_Lane]) -> dict[int, Result]:
    """Return the results of the runs that do not diverge; where most lanes do, the others begin again without them."""
    engine, how, objective = lanes[0].engine, lanes[0].ready.experiment, lanes[0].ready.objective
    start = engine.begin(lanes)
    runs = [
        _Run(number, place, lane, run, engine) for place, lane in enumerate(lanes) for number, run in lane.runs.items()
    ]

    def look(round: int, w: Params) -> None:
        if not (going_on := [run for run in runs if run.place not in engine.diverged and not run.diverged]):
            return
        params = {run.place: {name: tensor[run.place].clone() for name, tensor in w.items()} for run in going_on}
        starts = [run.scored_from(params[run.place]) for run in going_on]
        scored = evaluate_all(
            starts, objective, steps=how.eval_steps, execution=engine.execution, personal=how.personal
        )
        for run, agents in zip(going_on, scored, strict=True):
            run.go_on(round, params[run.place], agents)

    try:
        with computing_with(engine.threads):
            look(0, start)
            for round, w in engine.rounds(start):
                if round % how.eval_every == 0 or round == how.rounds:
                    look(round, w)
    except Diverged:
        return _some_at_once([lane for place, lane in enumerate(lanes) if place not in engine.diverged])
    return {run.number: run.whole for run in runs if run.place not in engine.diverged and not run.diverged}


class _Run:
    """A point's run, and how far it is."""

    def __init__(self, number: int, place: int, lane: _Lane, experiment: Experiment, engine: Vectorized) -> None:
        self.number, self.place, self.experiment, self.federation = number, place, experiment, lane.ready.federation
        self.training = replace(lane.ready, experiment=experiment, engine=engine).training(None)
        self.result = replace(lane.ready.begun, experiment=experiment, objective=lane.ready.objective)
        self.history: list[pd.DataFrame] = []
        self.diverged = False

    def scored_from(self, params: Params) -> Start:
        how = self.experiment
        return start_of(self.federation, params, how.fine_tune_lr, how.eval_agents, how.seed)

    def go_on(self, round: int, params: Params, agents: pd.DataFrame | FloatingPointError) -> None:
        if isinstance(agents, FloatingPointError):
            self.diverged = True
            return
        self.result = self.training.so_far(self.result, round, params, agents)
        self.history.append(self.result.history)

    @property
    def whole(self) -> Result:
        return replace(self.result, history=pd.concat(self.history, ignore_index=True))


class _Together(Vectorized):
    """The picked agents of several federations, each of them once for every lane of its federation; w is [lanes, …].

    Attributes
    ----------
    most : how many lanes can be computed as one, and gain by it; 0 if none can.
    same_steps : what engines have in common that compute the same; None of one with batches of several widths.
    diverged : the lanes that are known to have diverged; what is computed of them means nothing.
    """

    shared = 0

    def __init__(self, experiment: Experiment, federation: Federation, loss_fn: LossFn, params: Params) -> None:
        super().__init__(experiment, federation, loss_fn, params)
        picked, largest = experiment.agents_per_round, max(tensor.numel() for tensor in params.values())
        way, cpu = self.way(self.widest), next(iter(params.values())).device.type == "cpu"
        possible = bool(self.step_sizes) and not (way.alone or way.recompute) and cpu
        self.most = min(self.agents_at_once // picked, LARGEST // (picked * largest)) if possible else 0
        widths = federation.alike(federation.groups["trained"], experiment.batch_size, experiment.query)
        self.same_steps = (self.records, self.widest) if len(widths) == 1 else None

    @property
    def recipe(self) -> str:
        return ""  # what it computes is what the points say

    def begin(self, lanes: Sequence[_Lane]) -> Params:
        """Compute these from now on, those of a federation side by side; return where they begin, w [lanes, …]."""
        w = _joined([lane.ready.params for lane in lanes], torch.stack)
        like = next(iter(w.values()))
        self.diverged = set[int]()
        self.step_sizes = {name: like.new_tensor([lane.sizes[name] for lane in lanes]) for name in self.step_sizes}
        several = [list(some) for _, some in groupby(lanes, key=lambda lane: lane.ready)]
        self.ready, self.counts = [some[0].ready for some in several], [len(some) for some in several]
        limits = [limit_of(each.experiment, each.federation, each.objective, each.params) for each in self.ready]
        self.limits = torch.tensor(limits, dtype=torch.float64).repeat_interleave(torch.tensor(self.counts))
        self.server_lrs, self.memories = [lane.sizes["server_lr"] for lane in lanes], [Memory() for _ in lanes]
        self.agents_in_words = f"all picked agents of {sum(len(lane.runs) for lane in lanes)} points at once"
        return w

    def rounds(self, w: Params) -> Iterator[tuple[int, Params]]:
        """Yield (rounds done, w [lanes, …]) after every round: for each lane what `train` does.

        Raises
        ------
        Diverged : most lanes have.
        """
        how = self.ready[0].experiment
        for round in range(how.rounds):
            picks = [picked_in(round, each.experiment, each.federation) for each in self.ready]
            gathered, losses = [Gathered() for _ in picks], [list[torch.Tensor]() for _ in picks]
            alike = (
                parts(each.federation.alike(picked, how.batch_size, each.experiment.query), self.at_once)
                for each, picked in zip(self.ready, picks, strict=True)
            )
            for places in zip(*alike, strict=True):  # one where there are several federations
                agents = [picked[some] for picked, some in zip(picks, places, strict=True)]
                for number, (updates, loss) in enumerate(self._updates(w, agents, round)):
                    sizes = self.ready[number].federation.train_sizes[agents[number]]
                    gathered[number].add(updates, sizes if how.weighting == "samples" else torch.ones_like(sizes))
                    losses[number].append(loss)
            w = self._stepped(w, _joined([each.value for each in gathered], torch.cat))
            self._look_at(torch.cat([torch.cat(each).mean((0, 2)) for each in losses]), w)
            yield round + 1, w

    def _updates(self, w: Params, agents: Sequence[torch.Tensor], round: int) -> list[tuple[Params, torch.Tensor]]:
        """Return of each federation its agents' w [agents, lanes, …], and meta-losses [agents, lanes, τ]."""
        batches, index, first = [], [], 0
        for each, some, count in zip(self.ready, agents, self.counts, strict=True):
            batches.append(batches_of(some, each.experiment, each.federation, round))
            index.append(torch.arange(first, first + count).repeat(len(some)))
            first += count
        lanes, shapes = torch.cat(index), [(len(some), count) for some, count in zip(agents, self.counts, strict=True)]
        start, sizes = ({name: each[lanes] for name, each in values.items()} for values in (w, self.step_sizes))
        side_by_side = (_side_by_side(pairs, self.counts) for pairs in zip(*batches, strict=True))
        updates, losses = self._steps(sizes, start, start, {}, side_by_side, len(lanes), None)
        widths = [math.prod(shape) for shape in shapes]
        split = {name: tensor.split(widths) for name, tensor in updates.items()}
        return [
            ({name: some[number].unflatten(0, shape) for name, some in split.items()}, loss.unflatten(0, shape))
            for number, (loss, shape) in enumerate(zip(losses.split(widths), shapes, strict=True))
        ]

    def _stepped(self, w: Params, average: Params) -> Params:
        """Return the server's next w of each lane."""
        server = self.ready[0].experiment.server
        if server == "average" and set(self.server_lrs) == {1.0}:
            return average
        after = []
        for place, lr in enumerate(self.server_lrs):
            one, theirs = ({name: tensor[place] for name, tensor in each.items()} for each in (w, average))
            stepped, self.memories[place] = server_step(one, theirs, self.memories[place], server=server, server_lr=lr)
            after.append(stepped)
        return _joined(after, torch.stack)

    def _look_at(self, losses: torch.Tensor, w: Params) -> None:
        """Note which lanes have diverged, by their mean meta-losses [lanes]; raise Diverged if most have."""
        sound = losses <= self.limits
        for tensor in w.values():
            sound &= tensor.isfinite().flatten(1).all(1)
        self.diverged.update((~sound).nonzero().flatten().tolist())
        if 2 * len(self.diverged) > len(self.limits):
            raise Diverged("most points have diverged")


def _joined(several: Sequence[Params], join: Callable[[list[torch.Tensor]], torch.Tensor]) -> Params:
    return {name: join([params[name] for params in several]) for name in several[0]}


def _side_by_side(pairs: Sequence[Any], counts: Sequence[int]) -> Any:
    """Return the (support, query) of several federations as one, each agent once for every lane of its federation."""
    leaves, structures = zip(*map(tree_flatten, pairs), strict=True)
    done: dict[tuple[int, ...], torch.Tensor] = {}  # a full batch comes ν + 1 times
    joined = []
    for tensors in zip(*leaves, strict=True):
        key = tuple(map(id, tensors))
        if key not in done:
            repeated = [tensor.repeat_interleave(n, 0) for tensor, n in zip(tensors, counts, strict=True)]
            done[key] = torch.cat(repeated)
        joined.append(done[key])
    return tree_unflatten(joined, structures[0])
