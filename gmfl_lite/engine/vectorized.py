"""A chunk of agents at once, each local step one batched computation, recorded if it is repeated often."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch
from torch.func import vmap
from torch.utils._pytree import tree_map

from ..federation import Federation
from ..meta_gradients import BUILT_IN, METHODS, factors_kept
from ..objective import LossFn, Params
from ..server import Step
from .agents_axis import a_gradient, agents_at_once
from .base import Engine
from .cuda_graphs import Graphs
from .local_step import LocalStep, Stopped, estimate_settings, look_at, one_step, take_steps
from .recording import capture, kinds, recorded_once
from .threads_and_memory import choose_threads, prepare_process

if TYPE_CHECKING:
    from ..experiment import Experiment

RECORDED_FROM = 100
"""Local steps of a whole run from which on they are recorded: see gmfl_lite.engine.recording, benchmarks/RESULTS.md."""

STEP_SIZES = ("fine_tune_lr", "meta_lr", "proximal")
"""Settings of a local step that a recording takes as tensors, and so is valid for any of them."""

MOST_RECORDINGS = 16
"""Each takes seconds and is valid for one number of agents and one width of batches: no more are made."""


@dataclass(frozen=True)
class _Way:
    """How agents whose batches have one width are computed: so many at once, and by what function."""

    at_once: int
    alone: bool
    recompute: bool
    step: Callable[..., Any]
    """(step sizes, w, start, own, support, query) -> w and losses; a size that is not given is the experiment's own."""


class Vectorized(Engine):
    """As many agents at once as suits memory and caches.

    Parameters
    ----------
    experiment, federation, loss_fn, params : what is run, the agents, f_i as a function of (params, batch), and w.
    local_step : what an agent does with a meta-gradient, instead of w − β g; see `gmfl_lite.engine.LocalStep`. It is
        part of the recording.
    server_step : as in Engine.
    compiled : hand the recording of the local step on to torch.compile, which takes half a minute or more. On a CPU it
        halves the time of a small step and leaves a large one as it is; benchmarks/GPU.md says what it does on a GPU.
    """

    execution = "vectorized"
    shared: int | None = None
    """The axis along which agents have their own start and step sizes; None where they share them."""

    def __init__(
        self,
        experiment: "Experiment",
        federation: Federation,
        loss_fn: LossFn,
        params: Params,
        *,
        local_step: LocalStep | None = None,
        server_step: Step | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(experiment, server_step=server_step)
        prepare_process()
        self.hooks["local_step"] = local_step
        kept = factors_kept(experiment.gradient, experiment.backprop_steps, experiment.nu)
        estimate = estimate_settings(experiment, params)
        one = partial(one_step, loss_fn, local_step, check_finite=False, **estimate)
        picked = experiment.agents_per_round

        @cache
        def way(width: int) -> _Way:
            most = partial(agents_at_once, loss_fn, params, federation.example(width))
            # Differentiating through a step keeps about three sets of an agent's numbers, recomputing it one, which
            # takes longer (benchmarks/RESULTS.md): only where not even one agent fits otherwise.
            recompute = most(3 * kept + 2) < 1
            at_once = max(1, most((1 if recompute else 3) * kept + 2))
            alone = math.ceil(picked / at_once) == picked

            def of_an_agent(sizes: Params, *args: Any) -> Any:
                return one(recompute=recompute, **sizes)(*args)

            axes = self.shared, 0, self.shared, 0, 0, 0
            return _Way(at_once, alone, recompute, partial(_alone, of_an_agent) if alone else vmap(of_an_agent, axes))

        groups = federation.alike(federation.groups["trained"], experiment.batch_size, experiment.query)
        by_itself = getattr(loss_fn, "alone", "")
        self.way, self.widest = way, max(width for width, _ in groups)
        widest = way(self.widest)
        self.agents_at_once = widest.at_once
        parts = math.ceil(picked / widest.at_once)
        # A recording merges what is recomputed to save memory. Whether to record is decided by the whole run's length,
        # so that a resumed run does what an uninterrupted one does.
        steps = experiment.rounds * experiment.local_steps * (parts if len(groups) == 1 else 1)
        shapes = _shapes([len(places) for _, places in groups], picked)
        repaid_from = RECORDED_FROM * shapes * (2 if by_itself else 1)  # one agent's step alone saves less
        self.records = not widest.recompute and steps >= repaid_from and shapes <= MOST_RECORDINGS
        self.compiled = compiled
        device, dtype = (getattr(next(iter(params.values())), name) for name in ("device", "dtype"))
        self.graphs = Graphs(device)
        self.agents_in_words = (
            f"one agent at a time, as {by_itself}" if by_itself
            else "picked agents of about the same size at once" if len(groups) > 1
            else "all picked agents at once" if parts == 1
            else f"at most {self.agents_at_once} agents at once, to stay within the memory budget" if not widest.alone
            else "one agent at a time, as each keeps more numbers than caches hold" if not widest.recompute
            else "one agent at a time and its steps recomputed, to stay within the memory budget"
        )  # fmt: skip
        repaid = "repay it" if self.records else "do not repay it"
        many = f" in {shapes} shapes" * (shapes > 1)
        self.recording_in_words = f"{'' if self.records else 'not '}recorded, as {steps} local steps{many} {repaid}"
        if self.graphs.in_words and not compiled:  # they save all that a recording would, and are made at once
            self.records, self.recording_in_words = False, ""
        self.recordings: dict[tuple[int, int], Callable[..., Any]] = {}
        estimated_by = METHODS[experiment.gradient].estimate
        plain = local_step is None and estimated_by in BUILT_IN and not _casts(device)
        known = getattr(loss_fn, "known", "") if plain else ""
        sizes = {name: estimate.pop(name) for name in STEP_SIZES if known and estimate[name]}
        self.step_sizes = {name: torch.tensor(size, dtype=dtype, device=device) for name, size in sizes.items()}
        self.known = (known, estimated_by, *estimate.values(), compiled) if known else ()
        if device.type == "cpu":
            at_once = min(picked, self.agents_at_once)
            self.count_threads(*choose_threads(a_gradient(loss_fn, params, federation.example(self.widest), at_once)))
        self._library = set(vars(self))

    def at_once(self, width: int) -> int:
        return self.agents_at_once if width == self.widest else self.way(width).at_once

    def update(
        self,
        params: Params,
        batches: Any,
        agents: torch.Tensor,
        stop: threading.Event | None,
        own: Params | None = None,
    ) -> tuple[Params, torch.Tensor]:
        """Return what Engine.update does; `own` [agents, …] is what `local_step` gets for each of the agents."""
        # Contiguous, as the parameters will be from the second step on: a recording is made for that layout.
        w = {name: tensor.expand(len(agents), *tensor.shape).contiguous() for name, tensor in params.items()}
        return self._steps(self.step_sizes, w, params, own or {}, batches, len(agents), stop)

    def _steps(
        self,
        sizes: Params,
        w: Params,
        start: Params,
        own: Params,
        batches: Any,
        agents: int,
        stop: threading.Event | None,
    ) -> tuple[Params, torch.Tensor]:
        """Take the local steps of a number of agents, w [agents, …], recorded where that repays itself."""
        to_come = iter(batches)
        first = list(islice(to_come, 1))  # an example of them all
        width = first[0][1][0].shape[1] if first else self.widest
        shape = agents, width
        if self.records and first and shape not in self.recordings and len(self.recordings) < MOST_RECORDINGS:
            self._record(shape, stop, sizes, w, start, own, *first[0])
        way = self.way(width)
        if shape in self.recordings:
            one = partial(self.recordings[shape], sizes)
        else:  # where memory is short, a step size as a number saves a copy of the parameters
            one = partial(way.step, {} if way.recompute else sizes)
        return take_steps(partial(self.graphs.call, "local step", one), w, start, own, chain(first, to_come), stop)

    def _record(self, shape: tuple[int, int], stop: threading.Event | None, *example: Any) -> None:
        look_up, way = partial(look_at, stop), self.way(shape[1])
        if way.recompute:
            return
        record = partial(capture, way.step, *example, look_up=look_up, compiled=self.compiled)
        key = *self.known, way.alone, kinds(example)
        try:
            self.recordings[shape] = recorded_once(key, record) if self.known else record()
        except Stopped:
            raise
        except Exception as error:  # whatever it is that cannot be recorded may run all the same
            self.records = False
            reason = str(error).strip().partition("\n")[0]
            self.recording_in_words = f"not recorded, as that failed ({type(error).__name__}: {reason:.100})"

    @property
    def recipe(self) -> str:
        return ", ".join(self.in_words()) if type(self) is Vectorized else super().recipe

    def __str__(self) -> str:
        compiled = "compiled" * (self.records and self.compiled)
        how = [self.recording_in_words, self.graphs.in_words, self.recipe, self.threads_in_words, compiled]
        return f"vectorized: {'; '.join(filter(None, [self.agents_in_words, *how]))}"


def _casts(device: torch.device) -> bool:
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def _shapes(sizes: list[int], picked: int) -> int:
    """Return how many kinds of batches may come where groups of agents have these sizes: so many of one width."""
    counts = [(max(1, picked - sum(sizes) + size), min(picked, size)) for size in sizes]
    return sum(most - fewest + 1 for fewest, most in counts)


def _alone(
    one: Callable[..., Any], sizes: Params, w: Params, start: Params, own: Params, support: Any, query: Any
) -> Any:
    """Do what vmap does, for a leading agents axis of length one, where it only costs time."""
    w, own, support, query = tree_map(lambda tensor: tensor[0], (w, own, support, query))
    return tree_map(lambda tensor: tensor.unsqueeze(0), one(sizes, w, start, own, support, query))
