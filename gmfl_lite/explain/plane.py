"""Agents whose w is two numbers, and what the library makes of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..basics import checks
from ..objective import LossFn, fine_tune, meta_loss
from ..theory import Quadratics
from ..trainer import local_update

Samples = Mapping[str, tuple[ArrayLike, ArrayLike]]
Settings = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class PlaneAgent:
    """One agent in the plane.

    Attributes
    ----------
    numbers : what a script needs to compute the same loss, with the kind of loss.
    loss_fn, batch : the loss as the library takes it.
    optimum : [2]
    """

    name: str
    numbers: dict[str, Any]
    loss_fn: LossFn
    batch: tuple[torch.Tensor, torch.Tensor]
    optimum: np.ndarray

    def path(self, w: np.ndarray, nu: int, fine_tune_lr: float) -> np.ndarray:
        """Return w⁽⁰⁾, …, w⁽ᵛ⁾ [ν + 1, 2]."""
        visited = [{"w": torch.from_numpy(w)}]
        for _ in range(nu):
            visited.append(fine_tune(self.loss_fn, visited[-1], [self.batch], fine_tune_lr))
        return np.stack([params["w"].numpy() for params in visited])

    def loss(self, points: torch.Tensor, nu: int, fine_tune_lr: float) -> torch.Tensor:
        """Return F_i at points [N, 2]."""

        def one(w: torch.Tensor) -> torch.Tensor:
            return meta_loss(self.loss_fn, {"w": w}, [self.batch] * nu, self.batch, fine_tune_lr=fine_tune_lr)

        return torch.func.vmap(one)(points)


def mean_loss(agents: list[PlaneAgent], points: torch.Tensor, nu: int, fine_tune_lr: float) -> torch.Tensor:
    """Return F(w) at points [N, 2]."""
    return torch.stack([agent.loss(points, nu, fine_tune_lr) for agent in agents]).mean(0)


def one_round(agents: list[PlaneAgent], w: np.ndarray, nu: int, settings: Settings) -> np.ndarray:
    """Return the average of all agents' w after their local steps [2]."""
    steps = settings["local_steps"]
    options = {name: settings[name] for name in ("fine_tune_lr", "meta_lr", "method")}
    if settings["method"] == "truncated":
        options["backprop_steps"] = min(settings["backprop_steps"], nu)
    ends = [
        local_update(agent.loss_fn, {"w": torch.from_numpy(w)}, [([agent.batch] * nu, agent.batch)] * steps, **options)
        for agent in agents
    ]
    return np.mean([params["w"].numpy() for params, _ in ends], axis=0)


def plane_agents(agents: Quadratics | Samples) -> list[PlaneAgent]:
    """Return agents in the plane, or say what is wrong with them."""
    if isinstance(agents, Quadratics):
        if agents.c.shape[1] != 2:
            raise checks.refusal("agents", f"{agents.c.shape[1]} dimensions", "agents in two dimensions")
        found = [_quadratic(name, A, c) for name, A, c in zip("ABCDEF", agents.A, agents.c, strict=False)]
        number = len(agents.c)
    elif isinstance(agents, Mapping):
        found = [_neuron(str(name).removeprefix("agent "), samples) for name, samples in agents.items()]
        number = len(found)
    else:
        raise checks.refusal("agents", agents, "gl.theory.Quadratics, or a dict: name -> (x, y)")
    if not 2 <= number <= 6:
        raise checks.refusal("agents", number, "two to six agents")
    return found


def _quadratic(name: str, A: np.ndarray, c: np.ndarray) -> PlaneAgent:
    def loss_fn(params: dict[str, torch.Tensor], batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        apart = params["w"] - batch[1]
        return 0.5 * apart @ batch[0] @ apart

    numbers = {"kind": "quadratic", "A": A, "c": c}
    return PlaneAgent(name, numbers, loss_fn, (torch.from_numpy(A), torch.from_numpy(c)), c)


def _neuron(name: str, samples: Iterable[Any]) -> PlaneAgent:
    try:
        x, y = (np.atleast_1d(checks.numbers(f"agents[{name!r}]", one)) for one in samples)
    except (TypeError, ValueError):
        x = y = np.zeros(0)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise checks.refusal(f"agents[{name!r}]", samples, "a pair (x, y) of equally many finite numbers")

    def loss_fn(params: dict[str, torch.Tensor], batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return ((params["w"][0] * torch.tanh(params["w"][1] * batch[0]) - batch[1]) ** 2).mean()

    batch = (torch.from_numpy(x), torch.from_numpy(y))
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        descent.zero_grad()
        loss = loss_fn({"w": w}, batch)
        loss.backward()
        return loss

    descent.step(closure)
    return PlaneAgent(name, {"kind": "neuron", "x": x, "y": y}, loss_fn, batch, w.detach().numpy())
