"""Curves: what is known of each what-if so far, and which of them are shown together."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from ..evaluation import ACCURACIES
from .what_if import WhatIf, labels

FEDAVG = "FedAvg (ν = 0)"


@dataclass(frozen=True, eq=False)
class Curve:
    """What is known of a what-if so far.

    Attributes
    ----------
    what_if : the experiment, and the seed of its initial weights.
    history : as a Result's, or its beginning.
    status : "untrained", "running", or that of a Result.
    megabytes_per_round : what a round sends: w to each picked agent, and each agent's w_i back.
    """

    what_if: WhatIf
    history: pd.DataFrame
    status: str
    megabytes_per_round: float

    def reached(self, steps: int) -> float:
        """Return the last accuracy (%) of new agents, or of those trained on where none are new; nan before any."""
        return self._last("accuracy", steps)

    def deciles(self, steps: int) -> list[float]:
        """Return the last accuracy (%) that one in ten of those agents stays below, and that one in ten exceeds."""
        return [self._last(name, steps) for name in ACCURACIES[1:]]

    @property
    def sent(self) -> float:
        """The megabytes that were sent until its last point."""
        return self.megabytes_per_round * self.history["round"].iloc[-1] if len(self.history) else 0.0

    def _last(self, name: str, steps: int) -> float:
        if not len(self.history):
            return math.nan
        last = self.history[self.history["round"] == self.history["round"].iloc[-1]]
        return 100 * last.loc[last["fine_tune_steps"] == steps, name].iloc[-1]


def together(pins: Sequence[Curve], curves: Sequence[Curve]) -> tuple[Curve, ...]:
    """Return the pinned curves and then the others, each what-if once."""
    now = {curve.what_if for curve in curves}
    return (*(pin for pin in pins if pin.what_if not in now), *curves)


def holdings(curves: Iterable[Curve]) -> list[WhatIf]:
    """Return who holds what, as what-ifs that differ in nothing else, each once."""
    return list(dict.fromkeys(WhatIf(curve.what_if.data, 0) for curve in curves))


def by_name(pins: Sequence[Curve], curves: Sequence[Curve], fedavg: Curve | None) -> dict[str, Curve]:
    """Return all that is to be seen, by name: pinned curves, the others, and FedAvg unless it is one of them.

    Among curves of several federations FedAvg's name says which one is its own.
    """
    every = together(pins, curves)
    named = dict(zip(labels([curve.what_if for curve in every]), every, strict=True))
    if fedavg is not None and fedavg.what_if not in {curve.what_if for curve in every}:
        held = holdings((*every, fedavg))
        mine = labels(held)[held.index(holdings([fedavg])[0])]
        named[FEDAVG if len(held) == 1 else f"{FEDAVG}, {mine}"] = fedavg
    return named


def brought_up_to_date(pins: Sequence[Curve], curves: Sequence[Curve]) -> tuple[Curve, ...]:
    """Return each pin as the newer curve of its what-if, where that is no shorter, or as stopped if it does not run."""
    now = {curve.what_if: curve for curve in curves}
    newer = []
    for pin in pins:
        curve = now.get(pin.what_if)
        if curve is not None and len(curve.history) >= len(pin.history):
            pin = curve
        elif curve is None and pin.status == "running":
            pin = dataclasses.replace(pin, status="stopped")
        newer.append(pin)
    return tuple(newer)


def at_rest(curves: Sequence[Curve]) -> tuple[Curve, ...]:
    """Return curves of which none runs any longer."""
    return tuple(dataclasses.replace(c, status="stopped") if c.status == "running" else c for c in curves)
