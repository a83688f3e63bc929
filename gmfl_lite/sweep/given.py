"""What is handed over to many runs alike: agents, a module, a loss, a metric; and what tells them from others."""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..basics import checks
from ..basics.identity import identity
from ..basics.setting_records import settings_that_change
from ..experiment import Experiment, as_run
from ..federation import Federation
from ..models import kind_of
from ..modules import PerSample


@dataclass(frozen=True, eq=False)
class Given:
    """Arguments of `gmfl_lite.run` that are the same for many experiments; equal if they are the same objects.

    Raises
    ------
    ValueError : a federation that is none.
    """

    federation: Federation | None = None
    model: nn.Module | None = None
    loss: str | PerSample | None = None
    metric: PerSample | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.federation, Federation | None):
            raise checks.refusal("federation", type(self.federation).__name__, "a Federation or None")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and self._objects == other._objects

    def __hash__(self) -> int:
        return hash(self._objects)

    @property
    def _objects(self) -> tuple[int, ...]:
        return tuple(id(getattr(self, name)) for name in _NAMES)

    @property
    def arguments(self) -> dict[str, Any]:
        """What to call `gmfl_lite.run` with; the loss alone if that is all."""
        return {name: value for name, value in vars(self).items() if name in _NAMES and value is not None}

    def decides(self, kind: type[Experiment]) -> tuple[str, ...]:
        """Return the settings that the objects given decide, so that changing them would change nothing."""
        dealt = settings_that_change("holdings", "agents", of=kind) if self.federation is not None else ()
        return (*(name for name in dealt if name != "query"), *(("model",) if self.model is not None else ()))

    def check(self, varied: list[str], kind: type[Experiment]) -> None:
        """Refuse to vary what is decided already.

        Raises
        ------
        ValueError : naming the setting.
        """
        for name in varied:
            if name in self.decides(kind):
                by = "model=…" if name == "model" else "federation=…"
                raise ValueError(f"{name}: changes nothing, as {by} is handed over; leave it out, or hand over another")

    def as_run(self, experiment: Experiment) -> Experiment:
        """Return what the result of a run will say that it was of."""
        if self.federation is None:
            return experiment if self.model is None else experiment.replace(model=kind_of(self.model))
        return as_run(experiment, self.federation, experiment.model if self.model is None else kind_of(self.model))

    @cached_property
    def key(self) -> str:
        """What tells these agents, this module and these functions from others; "" if there is nothing."""
        if not self.arguments:
            return ""
        federation = self.federation
        agents = None if federation is None else (federation.tensors(), federation.n_new_agents, federation.names)
        return identity((agents, self.model, self.loss, self.metric))


_NAMES = ("federation", "model", "loss", "metric")


@cache
def library() -> str:
    """Return what tells this version of the library and of torch from others: their code."""
    root = Path(__file__).parents[1]
    sources = [(str(path.relative_to(root)), path.read_bytes()) for path in sorted(root.rglob("*.py"))]
    return identity((torch.__version__, sources))
