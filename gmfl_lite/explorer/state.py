"""What an explorer shows at one moment, as a value: where the knobs stand, curves, words, table, picture, code."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..experiment import Experiment
from ..federation import Federation
from ..plots.looks import Look, looks_of
from ..plots.picture import Picture
from ..plots.training import exploration, sent_in_words
from . import sentences
from .best_step_sizes import SETTINGS
from .curves import FEDAVG, Curve, at_rest, by_name, holdings
from .take_away import as_papermill, as_python, as_yaml
from .what_if import in_words, labels

Sweep = tuple[str, tuple[Any, ...]]
"""A knob's name, and the values that it goes through."""


@dataclass(frozen=True, eq=False)
class State:
    """What an explorer shows; replaced, never changed. The panel is painted from it and from nothing else.

    Attributes
    ----------
    steps : after how many fine-tuning steps accuracy is drawn against rounds, and said in words.
    knobs : name -> where that knob stands.
    swept : the knob that is swept, with the values it goes through, if one is.
    curves : of what was asked for last: one, or one for each value of a sweep.
    family : the knob that `curves` are a sweep of, if they are.
    fedavg : the curve of ν = 0 on the same data, from the same weights.
    federation : the agents of the last of `curves`.
    pins : the curves that are kept, to compare with.
    best_first : whether the table is sorted by final accuracy.
    spread : whether the worst and the best agents are drawn, too: one in ten of each.
    traffic : whether accuracy is drawn against what was sent, not against rounds.
    message : what to do next.
    problem : what went wrong, a line each.
    progress : how far the run at work is, in words; empty if none is.
    part_done : the same as a number from 0 to 1.
    fair : whether each of the curves is of its method's best step sizes.
    elsewhere : whether another cell of the notebook is at work, for which whatever is pressed has to wait.
    """

    steps: int
    knobs: Mapping[str, Any]
    swept: Sweep | None = None
    curves: tuple[Curve, ...] = ()
    family: str | None = None
    fedavg: Curve | None = None
    federation: Federation | None = None
    pins: tuple[Curve, ...] = ()
    best_first: bool = False
    spread: bool = False
    traffic: bool = False
    message: str = ""
    problem: str = ""
    progress: str = ""
    part_done: float = 0.0
    fair: bool = False
    elsewhere: bool = False

    @property
    def busy(self) -> bool:
        return bool(self.progress)

    @property
    def runs(self) -> dict[str, Curve]:
        """All that is to be seen, by name: pinned curves, those asked for last, FedAvg."""
        return by_name(self.pins, self.curves, self.fedavg)

    @property
    def words(self) -> str:
        """The one line on top: what to do, what is to be seen."""
        if self.family is not None:
            seen = sentences.of_a_sweep(self.family, self.curves, self.steps)
        elif self.curves and not self.problem:
            how = sentences.BEST if self.fair else sentences.SAME
            seen = sentences.of_a_curve(self.curves[-1], self.fedavg, self.steps, how)
        else:
            seen = ""
        waits = f"{_ELSEWHERE} {_BEFORE if self.curves and not self.busy else ''}".strip() if self.elsewhere else ""
        return " ".join(filter(None, (waits, self.message, seen)))

    @property
    def legend(self) -> dict[str, tuple[Look, str]]:
        """How each of the curves looks, by name, and what is to be said: accuracy, step sizes, how it ended, a pin."""
        runs = self.runs
        looks = looks_of(runs, _experiments(runs))
        pinned = {pin.what_if for pin in self.pins}
        said = {}
        for name, curve in runs.items():
            sizes = [in_words(name, curve.what_if.value(name)) for name in SETTINGS] if self.fair else []
            last = "pinned" if curve.what_if in pinned else ""
            ended = curve.status if curve.status in ("diverged", "stopped") else ""
            scores = self._scores(curve)
            if ended == "diverged" and len(curve.history):  # what is drawn is no result
                scores, ended = [], f"diverged; drawn to round {curve.history['round'].iloc[-1]}"
            said[name] = (looks[name], ", ".join(filter(None, (*scores, *sizes, ended, last))))
        return said

    def _scores(self, curve: Curve) -> list[str]:
        mean = curve.reached(self.steps)
        if math.isnan(mean):
            return []
        middle = " (worst {:.0f} %, best {:.0f} %)".format(*curve.deciles(self.steps)) if self.spread else ""
        return [f"{mean:.0f} %{middle}", sent_in_words(curve.sent) if self.traffic else ""]

    def picture(self, *, legend: bool = True) -> Picture:
        """Draw all curves, FedAvg's thin unless it is one of them, and who holds what in the last of `curves`."""
        runs = self.runs
        held = holdings((*runs.values(), *self.curves[-1:]))
        last = held.index(holdings(self.curves[-1:])[0]) if self.curves else 0
        return exploration(
            {name: curve.history for name, curve in runs.items()},
            self.federation,
            fine_tune_steps=self.steps,
            rounds=max((curve.what_if.experiment.rounds for curve in runs.values()), default=None),
            reference=next(filter(_is_reference, runs), None),
            holder=labels(held)[last] if len(held) > 1 else None,
            experiments=_experiments(runs),
            legend=legend,
            spread=self.spread,
            megabytes_per_round={name: c.megabytes_per_round for name, c in runs.items()} if self.traffic else None,
        )

    def table(self) -> pd.DataFrame:
        """Return one row per run: its name, how it ended, and the accuracy (%) of new agents after 0, 1, … steps."""
        pinned = {pin.what_if for pin in self.pins}
        rows = [
            {
                "run": name,
                "pinned": "yes" if curve.what_if in pinned else "",
                "status": curve.status,
                "rounds": curve.history["round"].max() if len(curve.history) else 0,
                **{f"after {steps}": curve.reached(steps) for steps in curve.what_if.experiment.eval_steps},
            }
            for name, curve in self.runs.items()
        ]
        if self.best_first:
            rows.sort(key=lambda row: np.nan_to_num(row[f"after {self.steps}"], nan=-1.0), reverse=True)
        return pd.DataFrame(rows)

    def python(self) -> str:
        """Return a program that makes all runs again."""
        return as_python([curve.what_if for curve in self.runs.values()])

    def yaml(self) -> str:
        """Return a file with which the command line makes all runs again."""
        return as_yaml([curve.what_if for curve in self.runs.values()])

    def papermill(self) -> str:
        """Return the commands that do; the notebook runs FedAvg by itself."""
        return as_papermill([curve.what_if for name, curve in self.runs.items() if not _is_reference(name)])


def _is_reference(name: str) -> bool:
    """Whether a curve has the name of the FedAvg that others are compared with."""
    return name.startswith(FEDAVG)


_ELSEWHERE = "Another cell of this notebook is at work: what you press here waits until it is done."
_BEFORE = "The picture is the one from before."


def as_left(state: State) -> State:
    """Return what the panel of a cell that is run again begins with: nothing is at work, all else is as it was."""
    message = "All is as you left it; Reset starts afresh." if state.curves else ""
    curves, pins, fedavg = map(at_rest, (state.curves, state.pins, [state.fedavg] if state.fedavg else []))
    return replace(
        state,
        curves=curves,
        pins=pins,
        fedavg=next(iter(fedavg), None),
        message=message,
        problem="",
        progress="",
        part_done=0.0,
        elsewhere=False,
    )


def _experiments(runs: Mapping[str, Curve]) -> dict[str, Experiment]:
    return {name: curve.what_if.experiment for name, curve in runs.items()}


def steps_to_show(experiment: Experiment) -> int:
    """Return ν where that is scored (and not 0), else the middle one of the numbers of steps."""
    steps = experiment.eval_steps
    return experiment.nu if experiment.nu and experiment.nu in steps else steps[len(steps) // 2]
