"""What an engine is: it computes the local updates of a round's agents, and remembers what a run needs to go on."""

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .. import server
from ..aggregation import Gathered
from ..basics import checks
from ..objective import Params
from ..server import Memory, Step
from .cuda_graphs import Graphs
from .threads_and_memory import choose_threads

if TYPE_CHECKING:
    from ..experiment import Experiment


MOST_THREADS = 2**10
"""That a checkpoint may ask for."""


class Engine(ABC):
    """Computes local updates; a new engine must have only `update`.

    Parameters
    ----------
    experiment : what is run; says how the server steps.
    server_step : takes the server's step instead: (w, average, memory) -> (the next w, the next memory).

    Attributes
    ----------
    execution : "vectorized" or "loop": how evaluation computes, too.
    agents_at_once : how many agents `update` is given at most; `at_once` says it for batches of another width.
    threads : how many of torch's threads compute (0: as many as it has now); in checkpoints, as sums depend on it.
    own : the tensors that agents keep from round to round, a dict of tensors; saved in checkpoints.
    memory : the tensors that the server's step keeps, saved likewise.
    graphs : repeats functions of tensors as CUDA graphs, where an engine has set one for a GPU.

    Examples
    --------
    An engine whose agents send their w rounded to two digits:

    >>> import gmfl_lite as gl
    >>> class Rounded(gl.Vectorized):
    ...     def update(self, params, batches, agents, stop, own=None):
    ...         updates, losses = super().update(params, batches, agents, stop, own)
    ...         return {name: tensor.round(decimals=2) for name, tensor in updates.items()}, losses
    >>> gl.run(gl.Experiment(model="softmax", rounds=2), engine=Rounded, progress=False).status
    'completed'
    """

    execution: str = "loop"
    agents_at_once: int = 1
    threads: int = 1
    threads_in_words: str = ""
    writes: bool = True
    """Whether this process, if a run is shared among several, writes the checkpoints."""

    def __init__(self, experiment: "Experiment", *, server_step: Step | None = None) -> None:
        self.own: Memory = {}
        self.memory: Memory = {}
        self.graphs = Graphs()
        self.hooks: dict[str, Callable[..., Any] | None] = {"server_step": server_step}
        plain = partial(server.server_step, server=experiment.server, server_lr=experiment.server_lr)
        self._step: Step = plain if server_step is None else server_step
        self.count_threads(*choose_threads())
        self._library = set(vars(self))

    @abstractmethod
    def update(
        self, params: Params, batches: Any, agents: torch.Tensor, stop: threading.Event | None
    ) -> tuple[Params, torch.Tensor]:
        """Return the agents' w after their local steps, and the meta-losses before each of these.

        Parameters
        ----------
        params : the server's w.
        batches : τ pairs (support, query), tensors with a leading agents axis; to go through once, as each is drawn
            when it is its turn.
        agents : their numbers [agents], `agents_at_once` of them at most.
        stop : to look at before every local step.

        Returns
        -------
        (updates, losses) : dict of tensors [agents, …], and [agents, τ].

        Raises
        ------
        Stopped : `stop` was set.
        """

    def count_threads(self, threads: int, why: str) -> None:
        """Compute with so many threads from now on, and say why."""
        self.threads = threads
        self.threads_in_words = f"{threads} thread{'s' * (threads != 1)}, {why}" if threads else ""

    def at_once(self, width: int) -> int:
        """Return how many agents `update` is given at most where each batch holds `width` samples of an agent."""
        return self.agents_at_once

    def server_step(self, w: Params, average: Params) -> Params:
        """Return the server's next w; what the step remembers is kept in `memory`."""
        after, self.memory = self._step(w, average, self.memory)
        return after

    def check(self, losses: torch.Tensor, w: Params, limit: float) -> None:
        """Raise Diverged if a round has: its meta-losses [agents, τ], the server's next w, the largest sound loss."""
        server.check_round(losses.mean().item(), w, limit)

    def state(self) -> Memory:
        """Return all that a run needs to continue, apart from w and the number of rounds: a dict of tensors."""
        parts = {"own": self.own, "memory": self.memory, "threads": {"": torch.tensor(self.threads)}}
        return {f"{part}/{name}": tensor for part, kept in parts.items() for name, tensor in kept.items()}

    def load_state(self, state: Memory) -> None:
        """Continue from what `state` returned.

        Raises
        ------
        ValueError : not what an engine returns.
        """
        for name, tensor in state.items():
            part, _, rest = name.partition("/")
            if part == "threads":
                self.count_threads(checks.integer("threads", tensor.item(), 0, MOST_THREADS), "as in the checkpoint")
                continue
            if part not in ("own", "memory"):
                raise ValueError(f"state: {name!r} is not what an engine keeps")
            getattr(self, part)[rest] = tensor

    @property
    def recipe(self) -> str:
        """What a run owes to this engine and its hooks, in words; "" if it is what the experiment says.

        A checkpoint holds it, and is refused by an engine with another.
        """
        own = {name: value for name, value in vars(self).items() if name not in {*self._library, "_library"}}
        return ", ".join([f"{type(self).__qualname__}{_values(own)}", *self.in_words()])

    def in_words(self) -> list[str]:
        """Name the hooks that are set, with the plain values that they hold."""
        return [f"{name} {_named(hook)}" for name, hook in self.hooks.items() if hook is not None]

    # How the agents are shared among processes (gmfl_lite.distributed); here one has them all.

    def share(self, agents: torch.Tensor) -> torch.Tensor:
        """Return those of the agents that this process computes, at least one."""
        return agents

    def combine(self, gathered: Gathered) -> Params:
        """Return what is made of the agents of all processes, of which this one has gathered its share."""
        return gathered.value

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all agents, of which this process has those of its share."""
        return rows

    def __str__(self) -> str:
        return self.recipe


class Around(Engine):
    """An engine around another one, which does all that the outer one does not do itself."""

    def __init__(self, inner: Engine) -> None:
        self.inner, self.execution, self.agents_at_once = inner, inner.execution, inner.agents_at_once
        self.threads = inner.threads

    def __getattr__(self, name: str) -> Any:
        """Return the inner engine's `own`, `memory`, `hooks` and whatever else it has."""
        if name == "inner":  # which is not there while a copy is made
            raise AttributeError(name)
        return getattr(self.inner, name)

    def update(
        self, params: Params, batches: Any, agents: torch.Tensor, stop: threading.Event | None
    ) -> tuple[Params, torch.Tensor]:
        return self.inner.update(params, batches, agents, stop)

    def at_once(self, width: int) -> int:
        return self.inner.at_once(width)

    def server_step(self, w: Params, average: Params) -> Params:
        return self.inner.server_step(w, average)

    def check(self, losses: torch.Tensor, w: Params, limit: float) -> None:
        self.inner.check(losses, w, limit)

    def state(self) -> Memory:
        return self.inner.state()

    def load_state(self, state: Memory) -> None:
        self.inner.load_state(state)
        self.threads = self.inner.threads

    @property
    def recipe(self) -> str:
        return self.inner.recipe

    def share(self, agents: torch.Tensor) -> torch.Tensor:
        return self.inner.share(agents)

    def combine(self, gathered: Gathered) -> Params:
        return self.inner.combine(gathered)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        return self.inner.gather(rows)

    def __str__(self) -> str:
        return str(self.inner)


def _named(hook: Any) -> str:
    """Return the name of a function or of an object's class, with the plain values that it was made with."""
    if isinstance(hook, partial):
        given = dict(enumerate(hook.args)) | hook.keywords
        return f"{_named(hook.func)}{_values({str(name): value for name, value in given.items()})}"
    if not hasattr(hook, "__qualname__"):
        return f"{type(hook).__module__}.{type(hook).__qualname__}{_values(getattr(hook, '__dict__', {}))}"
    held = inspect.getclosurevars(hook).nonlocals if inspect.isfunction(hook) else {}
    return f"{hook.__module__}.{hook.__qualname__}{_values(held)}"


def _values(values: Mapping[str, Any]) -> str:
    plain = [f"{name}={value!r}" for name, value in values.items() if isinstance(value, bool | int | float | str)]
    return f"({', '.join(plain)})" if plain else ""
