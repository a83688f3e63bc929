"""What the explorer's knobs can be set to, and presets that set several at once."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..basics import checks
from ..experiment import Experiment
from ..meta_gradients import METHODS
from ..models import MODELS
from ..setting_records import settings

STEP_SIZES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SEEDS = tuple(range(10))


@dataclass(frozen=True)
class Knob:
    """A setting that the explorer offers, with values to choose from.

    `needs` says with which other setting it counts, `start` where it stands if nobody has set it.
    """

    name: str
    values: tuple[Any, ...]
    needs: tuple[str, str] | None = None
    start: Any = None

    @property
    def ordered(self) -> bool:
        return not isinstance(self.values[0], str)

    @property
    def symbol(self) -> str:
        return {"nu": "ν", "fine_tune_lr": "α", "meta_lr": "β", "local_steps": "τ"}.get(self.name, self.name)

    @property
    def help(self) -> str:
        if self.name == "weights_seed":
            return "Of the initial weights alone; everything else that is drawn depends on seed."
        return settings(Experiment)[self.name].about

    def counts(self, values: Mapping[str, Any]) -> bool:
        """Whether this knob changes anything while the others have these values."""
        return self.needs is None or values[self.needs[0]] == self.needs[1]

    def check(self, value: Any) -> None:
        if value not in self.values:
            raise checks.refusal(self.name, value, f"one of {', '.join(map(readable, self.values))}")

    def with_value(self, value: Any) -> "Knob":
        """Return this knob with one more value to choose from, if it has not got it."""
        if value is None or value in self.values:
            return self
        return dataclasses.replace(self, values=tuple(sorted((*self.values, value))))


FIRST_LOOK = (
    Knob("nu", (0, 1, 2, 3, 5, 10)),
    Knob("fine_tune_lr", STEP_SIZES),
    Knob("meta_lr", (*STEP_SIZES, 10.0)),
    Knob("dirichlet_alpha", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0), needs=("partition", "dirichlet")),
    Knob("permuted_classes", (0, 2, 3, 5, 10)),
)
MORE = {
    "Who holds what": (
        Knob("dataset", ("digits", "fashion-mnist", "mnist")),  # the others do not fit a small machine
        Knob("partition", ("iid", "dirichlet", "shards", "per_fedavg")),
        Knob("classes_per_agent", (1, 2, 3, 5, 10), needs=("partition", "shards")),
        Knob("per_fedavg_a", (2, 4, 8, 16, 32, 64, 128), needs=("partition", "per_fedavg"), start=8),
        Knob("max_rotation", (0.0, 15.0, 30.0, 60.0, 90.0, 180.0)),
    ),
    "Training": (
        Knob("model", tuple(MODELS)),
        Knob("gradient", tuple(METHODS)),
        Knob("backprop_steps", (0, 1, 2, 3, 5), needs=("gradient", "truncated"), start=1),
        Knob("rounds", (10, 20, 50, 100, 200, 500)),
        Knob("local_steps", (1, 2, 5, 10, 20)),
        Knob("agents_per_round", (1, 2, 5, 10, 20, 50)),
    ),
    "Seeds": (Knob("seed", SEEDS), Knob("weights_seed", SEEDS)),
}
KNOBS = {knob.name: knob for knobs in (FIRST_LOOK, *MORE.values()) for knob in knobs}

PRESETS = {
    "IID": {"partition": "iid", "permuted_classes": 0, "max_rotation": 0.0},
    "one class per agent": {"partition": "shards", "classes_per_agent": 1, "permuted_classes": 0, "max_rotation": 0.0},
    "permuted labels": {"partition": "iid", "permuted_classes": 10, "max_rotation": 0.0},
    "ν = 0": {"nu": 0},
    "ν = 1": {"nu": 1},
    "ν = 5": {"nu": 5},
    "a step size that diverges": {"model": "mlp", "meta_lr": 10.0},
}


def readable(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
