"""The server's side of a round: whom it picks, the step it takes, what counts as divergence.

gl.train, the torchrun engine, Flower's strategy and theory's observations all go through these functions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .basics import checks, randomness, ways
from .objective import Params, step

EXPLOSION = 20.0
"""A mean meta-loss this many times that of guessing (or of the start, if that is larger) counts as diverged."""

Memory = dict[str, torch.Tensor]
"""What a server remembers from round to round, empty before the first; it is part of a checkpoint."""

Step = Callable[[Params, Params, Memory], tuple[Params, Memory]]
"""A server's step: (w, the agents' average, memory) -> (the next w, the next memory)."""


class Diverged(FloatingPointError):
    """A round after which there is no sense in going on: an exploded meta-loss, parameters that are not finite."""


def pick_agents(
    n_agents: int, how_many: int, seed: int, round: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Return `how_many` agents, drawn for a round uniformly without replacement; more of them begin with fewer.

    >>> few, all_in_order = pick_agents(50, 3, seed=0, round=7), pick_agents(50, 50, seed=0, round=7)
    >>> few.tolist() == all_in_order[:3].tolist()
    True
    """
    everybody = torch.full((), n_agents, device=device)
    key = randomness.keys(seed, "picks", round, torch.zeros_like(everybody))
    return randomness.choose(key, everybody, how_many, n_agents)


@dataclass(frozen=True, kw_only=True)
class ServerStep:
    """All there is to know of one way for a server to step; `add_server_step` makes it a choice everywhere.

    Attributes
    ----------
    name : what Experiment's `server` calls it.
    help : what it is, in a line.
    step : (w, average, memory, server_lr) -> (the next w, the next memory).
    on_quadratics : (w, average, server_lr) -> the next w, as NumPy arrays, where the step is linear and remembers
        nothing; "none" where theory has no formula for it.
    usual_lr : a server_lr that serves many a run, told where a larger one diverges.
    """

    name: str
    help: str
    step: Callable[[Params, Params, Memory, float], tuple[Params, Memory]]
    on_quadratics: Callable[[np.ndarray, np.ndarray, float], np.ndarray] | Literal["none"]
    usual_lr: float = 1.0

    def __post_init__(self) -> None:
        ways.check_functions(self, "server step", "step", "on_quadratics")


SERVER_STEPS: dict[str, ServerStep] = {}
"""Every way for a server to step, by name."""


def add_server_step(step: ServerStep) -> ServerStep:
    """Make a way for a server to step a choice everywhere: in Experiment, every engine, torchrun and Flower.

    Raises
    ------
    ValueError : not a ServerStep, or its name is taken.
    """
    return ways.added(step, SERVER_STEPS, ServerStep, "step", "a server step")


def server_step(
    w: Params, average: Params, memory: Memory | None = None, *, server: str = "average", server_lr: float = 1.0
) -> tuple[Params, Memory]:
    """Return the server's next w, and what it remembers, from its w and the average of what the agents sent back.

    Parameters
    ----------
    w, average : dicts of tensors.
    memory : what the last step returned; None or {} before the first.
    server : "average" goes the part server_lr of the way from w to the average: all of it (1.0) is FedAvg's, less of it
        is Reptile's outer step. "momentum" and "adam" take −Δ = w − average for a gradient, as
        torch.optim.SGD(momentum=0.9) and torch.optim.Adam(betas=(0.9, 0.99), eps=1e-3) would.
    server_lr : λ, the server's step size, above 0.

    Raises
    ------
    ValueError : an unknown name or a wrong step size.

    References
    ----------
    Reddi et al.: Adaptive federated optimization, ICLR 2021.

    Examples
    --------
    >>> server_step({"w": torch.zeros(1)}, {"w": torch.ones(1)}, server_lr=0.25)
    ({'w': tensor([0.2500])}, {})
    """
    checks.choice("server", server, SERVER_STEPS)
    server_lr = checks.number("server_lr", server_lr, 0, above=True)
    return SERVER_STEPS[server].step(w, average, memory or {}, server_lr)


def _towards_the_average(w: Params, average: Params, memory: Memory, server_lr: float) -> tuple[Params, Memory]:
    if server_lr == 1:  # to the bit
        return average, memory
    return {name: torch.lerp(tensor, average[name], server_lr) for name, tensor in w.items()}, memory


add_server_step(
    ServerStep(
        name="average",
        help="go the part server_lr of the way to the agents' average",
        step=_towards_the_average,
        on_quadratics=lambda w, average, server_lr: average if server_lr == 1 else w + server_lr * (average - w),
    )
)


MOMENTUM, BETAS, EPSILON = 0.9, (0.9, 0.99), 1e-3
"""Of the servers that take −Δ = w − average for a gradient, as Reddi et al. chose them."""


def _with_momentum(w: Params, average: Params, memory: Memory, server_lr: float) -> tuple[Params, Memory]:
    """Return w − λ m with m ← 0.9 m − Δ: FedAvgM."""
    m = {name: MOMENTUM * memory.get(name, 0.0) + (tensor - average[name]) for name, tensor in w.items()}
    return step(w, m, server_lr), m


def _adam(w: Params, average: Params, memory: Memory, server_lr: float) -> tuple[Params, Memory]:
    """Return w − λ m̂ / (√v̂ + 0.001), with m̂ and v̂ the corrected averages of −Δ and of Δ²: FedAdam."""
    done = int(memory.get("steps", 0)) + 1
    after, remembered = {}, {"steps": torch.tensor(done)}
    for name, tensor in w.items():
        gradient = tensor - average[name]
        moments = []
        for moment, beta, new in zip(("mean", "square"), BETAS, (gradient, gradient.square()), strict=True):
            old = memory.get(f"{moment}/{name}", torch.zeros_like(tensor))
            remembered[f"{moment}/{name}"] = now = beta * old + (1 - beta) * new
            moments.append(now / (1 - beta**done))
        after[name] = tensor - server_lr * moments[0] / (moments[1].sqrt() + EPSILON)
    return after, remembered


for _name, _help, _step, _usual_lr in (
    ("momentum", "momentum 0.9 on the way from w to the average (FedAvgM)", _with_momentum, 0.1),
    ("adam", "Adam on the way from w to the average (FedAdam)", _adam, 0.01),
):
    add_server_step(ServerStep(name=_name, help=_help, step=_step, on_quadratics="none", usual_lr=_usual_lr))


def loss_limit(guessing: float, loss_at_start: float) -> float:
    """Return the largest mean meta-loss that is no divergence: `EXPLOSION` times that of guessing, or of the start."""
    return EXPLOSION * max(guessing, loss_at_start)


def check_round(loss: float, params: Params, limit: float) -> None:
    """Look whether a round has diverged.

    Parameters
    ----------
    loss : the mean meta-loss that the round's agents met on their way.
    params : the server's next w.
    limit : of `loss_limit`.

    Raises
    ------
    Diverged : it has.
    """
    if not loss <= limit:
        raise Diverged(f"the meta-loss grew to {loss:.3g}")
    if not torch.stack([tensor.isfinite().all() for tensor in params.values()]).all():  # a GPU is waited for once
        raise Diverged("the averaged parameters are not finite")
