"""One agent after the other: the engine that a student reads, and that names the agent which fails."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from ..federation import Federation
from ..objective import LossFn, Params
from ..server import Step
from .agents_axis import a_gradient
from .base import Engine
from .local_step import LocalStep, Stopped, estimate_settings, one_step, take_steps
from .threads_and_memory import choose_threads, prepare_process

if TYPE_CHECKING:
    from ..experiment import Experiment


class AgentError(RuntimeError):
    """What went wrong in one agent's local steps, and which agent that is."""


@contextmanager
def naming(agents: torch.Tensor) -> Iterator[None]:
    """Let what goes wrong inside name the agent, where one is computed alone."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if len(agents) != 1:
            raise
        raise AgentError(f"agent {int(agents[0])}: {type(error).__name__}: {error}") from error


class Loop(Engine):
    """One agent after the other.

    Parameters
    ----------
    experiment, federation, loss_fn, params : what is run, the agents, f_i as a function of (params, batch), and w.
    local_step : what an agent does with a meta-gradient, instead of w − β g; see `gmfl_lite.engine.LocalStep`.
    server_step : as in Engine.

    Raises
    ------
    AgentError : in `update`; names the agent that failed.
    """

    def __init__(
        self,
        experiment: "Experiment",
        federation: Federation,
        loss_fn: LossFn,
        params: Params,
        *,
        local_step: LocalStep | None = None,
        server_step: Step | None = None,
    ) -> None:
        super().__init__(experiment, server_step=server_step)
        prepare_process()
        self.hooks["local_step"] = local_step
        self.one = one_step(loss_fn, local_step, check_finite=False, **estimate_settings(experiment, params))
        if next(iter(params.values())).device.type == "cpu":
            widths = federation.alike(federation.groups["trained"], experiment.batch_size, experiment.query)
            example = federation.example(max(width for width, _ in widths))
            self.count_threads(*choose_threads(a_gradient(loss_fn, params, example, 1)))
        self._library = set(vars(self))

    def update(
        self,
        params: Params,
        batches: Any,
        agents: torch.Tensor,
        stop: threading.Event | None,
        own: Params | None = None,
    ) -> tuple[Params, torch.Tensor]:
        """Return what Engine.update does; `own` [agents, …] is what `local_step` gets for each of the agents."""
        results = []
        batches = batches if len(agents) == 1 else list(batches)  # every agent goes through them
        for place in range(len(agents)):
            mine = (tree_map(lambda tensor: tensor[place], pair) for pair in batches)  # noqa: B023
            kept = {name: tensor[place] for name, tensor in (own or {}).items()}
            with naming(agents[place : place + 1]):
                results.append(take_steps(self.one, params, params, kept, mine, stop))
        return tree_map(lambda *tensors: torch.stack(tensors), *results)

    @property
    def recipe(self) -> str:
        return ", ".join(self.in_words()) if type(self) is Loop else super().recipe

    def __str__(self) -> str:
        words = ["loop: one agent after the other, as execution asks", self.recipe, self.threads_in_words]
        return "; ".join(filter(None, words))
