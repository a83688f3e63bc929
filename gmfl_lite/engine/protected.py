"""Agents that clip their updates and add noise to them before the server sees them."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..basics import checks, randomness
from ..federation import Federation
from ..objective import LossFn, Params
from ..server import Memory
from .base import Around, Engine
from .build import build_engine

if TYPE_CHECKING:
    from ..experiment import Experiment


def clip_and_add_noise(
    before: Params, after: Params, *, clip_norm: float, noise: float, generator: torch.Generator | np.random.Generator
) -> Params:
    """Return an agent's parameters with its update Δ clipped and blurred: w + Δ·min(1, C/‖Δ‖) + N(0, (zC)²).

    Parameters
    ----------
    before, after : w, and the agent's w_i.
    clip_norm : C, the largest length that an update may have, above 0.
    noise : z, the standard deviation of the noise on every number, in units of C; 0 is none.
    generator : of the noise. Whoever knows its seed can take the noise away again: on real data, use
        np.random.default_rng(secrets.randbits(128)). torch's own keeps 32 bits of a seed, which can all be tried.

    What that promises after so many rounds is `gmfl_lite.privacy.epsilon`.

    Examples
    --------
    >>> w, w_i = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}
    >>> clip_and_add_noise(w, w_i, clip_norm=1.0, noise=0.0, generator=torch.Generator())
    {'w': tensor([0.6000, 0.8000])}

    References
    ----------
    McMahan, Ramage, Talwar, Zhang: Learning differentially private recurrent language models, ICLR 2018.
    """
    clip_norm, noise = checks.number("clip_norm", clip_norm, 0, above=True), checks.number("noise", noise, 0)
    updates = {name: after[name] - tensor for name, tensor in before.items()}
    length = torch.cat([update.flatten() for update in updates.values()]).norm()
    share = (clip_norm / length).clamp(max=1)

    def blur(like: torch.Tensor) -> torch.Tensor:
        if isinstance(generator, np.random.Generator):
            drawn = torch.from_numpy(generator.standard_normal(tuple(like.shape)))
        else:
            drawn = torch.empty(like.shape, dtype=torch.float64).normal_(0, 1, generator=generator)
        return drawn.to(like) * (noise * clip_norm)

    return {name: before[name] + share * update + blur(update) for name, update in updates.items()}


class Protected(Around):
    """An engine whose agents clip their updates and add noise to them before the server sees them.

    The noise is a function of (seed, round, agent); which round it is, is part of the engine's state.
    """

    def __init__(self, inner: Engine, seed: int, clip_norm: float, noise: float) -> None:
        super().__init__(inner)
        self.seed, self.clip_norm, self.noise, self.round = seed, clip_norm, noise, 0

    def update(
        self, params: Params, batches: Any, agents: torch.Tensor, stop: threading.Event | None
    ) -> tuple[Params, torch.Tensor]:
        updates, losses = self.inner.update(params, batches, agents, stop)
        rows = [
            clip_and_add_noise(
                params,
                {name: tensor[place] for name, tensor in updates.items()},
                clip_norm=self.clip_norm,
                noise=self.noise,
                generator=randomness.generator(self.seed, "noise", self.round, agent),
            )
            for place, agent in enumerate(agents.tolist())
        ]
        return {name: torch.stack([row[name] for row in rows]) for name in params}, losses

    def server_step(self, w: Params, average: Params) -> Params:
        self.round += 1
        return self.inner.server_step(w, average)

    def state(self) -> Memory:
        return {**self.inner.state(), "noise/round": torch.tensor(self.round)}

    def load_state(self, state: Memory) -> None:
        inner = dict(state)
        self.round = int(inner.pop("noise/round"))
        self.inner.load_state(inner)

    @property
    def recipe(self) -> str:
        return ", ".join(filter(None, [self.inner.recipe, self._in_words]))

    @property
    def _in_words(self) -> str:
        return f"updates clipped at {self.clip_norm:g} with noise {self.noise:g}"

    def __str__(self) -> str:
        return f"{self.inner}, {self._in_words}"


def protected(
    clip_norm: float, noise: float, **options: Any
) -> Callable[["Experiment", Federation, LossFn, Params], Protected]:
    """Return what builds such an engine, for gl.run(experiment, engine=protected(clip_norm, noise)).

    `options` as in `gmfl_lite.build_engine`: hooks of your own.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(model="softmax", rounds=2)
    >>> gl.run(experiment, engine=gl.privacy.protected(clip_norm=1.0, noise=0.01), progress=False).status
    'completed'
    """

    def build(experiment: "Experiment", federation: Federation, loss_fn: LossFn, params: Params) -> Protected:
        inner = build_engine(experiment, federation, loss_fn, params, **options)
        return Protected(inner, experiment.seed, clip_norm, noise)

    return build
