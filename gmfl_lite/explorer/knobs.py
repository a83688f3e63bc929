"""What the explorer's knobs can be set to, and presets that set several at once; both take more from outside."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..aggregation import AGGREGATIONS
from ..basics import checks
from ..basics.setting_records import Setting, integer, settings
from ..data import DATASETS
from ..experiment import Experiment
from ..federation import QUERIES
from ..meta_gradients import METHODS
from ..methods import methods
from ..models import MODELS, PERSONAL
from ..partition import PARTITIONS
from ..server import SERVER_STEPS

STEP_SIZES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SEEDS = tuple(range(10))
WEIGHTS_SEED = Setting(
    name="weights_seed",
    default=0,
    check=integer(0),
    help="Seeds the initial weights alone; everything else that is drawn depends on seed.",
    changes="draws",
)
"""The one knob that sets no field of an Experiment."""


@dataclass(frozen=True)
class Knob:
    """A setting that the explorer offers, with values to choose from.

    Parameters
    ----------
    name : of the setting.
    choices : the values, or a registry of them, or a function that returns them: looked up when a panel is built. None
        is a value where it means all there is.
    start : where the knob stands if nobody has set it.
    group : the title that it is folded under; none: it is always seen.
    of : the class of experiments that have this setting; other panels leave the knob out.

    Raises
    ------
    ValueError : there is no such setting, or it does not take one of the values.
    """

    name: str
    choices: Collection[Any] | Callable[[], Iterable[Any]]
    start: Any = None
    group: str = ""
    of: type[Experiment] = Experiment

    def __post_init__(self) -> None:
        known = {**settings(self.of), WEIGHTS_SEED.name: WEIGHTS_SEED}
        if self.name not in known:
            raise ValueError(f"{self.name} is not a setting{checks.nearest(self.name, known)}")
        if not self.values:
            raise ValueError(f"{self.name}: a knob needs values to choose from")
        for value in self.values if self.start is None else (*self.values, self.start):
            self.setting.check(self.name, value)

    @property
    def setting(self) -> Setting:
        return WEIGHTS_SEED if self.name == WEIGHTS_SEED.name else settings(self.of)[self.name]

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(self.choices() if callable(self.choices) else self.choices)

    @property
    def ordered(self) -> bool:
        return not isinstance(self.values[0], str)

    @property
    def symbol(self) -> str:
        return self.setting.symbol or self.name

    @property
    def condition(self) -> str:
        """What this knob counts with, in words; empty if it always does."""
        needs = self.setting.counts_with
        return f"{needs[0]} = {' or '.join(map(readable, needs[1]))}" if needs else ""

    def counts(self, values: Mapping[str, Any]) -> bool:
        """Whether this knob changes anything while the others have these values."""
        needs = self.setting.counts_with
        return needs is None or needs[0] not in values or self.setting.counts(values)

    def check(self, value: Any) -> None:
        if value not in self.values:
            raise checks.refusal(self.name, value, f"one of {', '.join(map(readable, self.values))}")

    def at_most(self, most: int) -> "Knob":
        """Return this knob with the values up to `most`, and that one."""
        return dataclasses.replace(self, choices=(*(value for value in self.values if value < most), most))

    def with_value(self, value: Any) -> "Knob":
        """Return this knob with its choices as they are now, and one more if it has not got this value."""
        more = () if value is None or value in self.values else (value,)
        return dataclasses.replace(
            self, choices=tuple(sorted((*self.values, *more), key=_in_order)) if more else self.values
        )


def _in_order(value: Any) -> tuple[bool, Any]:
    return value is not None, value


KNOBS: dict[str, Knob] = {}
"""Every knob, in the order of the panel."""
PRESETS: dict[str, Mapping[str, Any]] = {}
"""What each of the buttons after "Try" sets."""


def add_knob(knob: Knob) -> None:
    """Have the panels that are built from now on offer a knob.

    Raises
    ------
    ValueError : there is a knob for this setting already.

    Examples
    --------
    >>> add_knob(Knob("test_fraction", (0.25, 0.5), group="Who holds what"))
    >>> KNOBS.pop("test_fraction").setting.help
    "Part of each agent's samples that is scored and never fine-tuned on."
    """
    if knob.name in KNOBS:
        raise ValueError(f"{knob.name}: there is a knob for this setting already")
    KNOBS[knob.name] = knob


def add_preset(name: str, **values: Any) -> None:
    """Have the panels that are built from now on offer a button that sets several knobs.

    Raises
    ------
    ValueError : the name is taken, or a setting has no knob, or its knob not this value.
    """
    if name in PRESETS:
        raise ValueError(f"preset {name!r}: there is one of this name already")
    for knob, value in values.items():
        if knob not in KNOBS:
            raise ValueError(f"preset {name!r}: {knob} is not a knob{checks.nearest(knob, KNOBS)}")
        KNOBS[knob].check(value)
    PRESETS[name] = values


def readable(value: Any) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _small_datasets() -> list[str]:
    return [name for name, source in DATASETS.items() if source.small and source.classes is not None]


for _knob in (
    Knob("nu", (0, 1, 2, 3, 5, 10)),
    Knob("fine_tune_lr", STEP_SIZES),
    Knob("meta_lr", (*STEP_SIZES, 10.0)),
    Knob("dirichlet_alpha", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)),
    Knob("permuted_classes", (0, 2, 3, 5, 10)),
    Knob("dataset", _small_datasets, group="Who holds what"),
    Knob("partition", PARTITIONS, group="Who holds what"),
    Knob("classes_per_agent", (1, 2, 3, 5, 10), group="Who holds what"),
    Knob("per_fedavg_a", (2, 4, 8, 16, 32, 64, 128), start=8, group="Who holds what"),
    Knob("max_rotation", (0.0, 15.0, 30.0, 60.0, 90.0, 180.0), group="Who holds what"),
    Knob("shots", (None, 1, 2, 5, 10, 20), group="Few shots"),
    Knob("query", QUERIES, group="Few shots"),
    Knob("label_noise", (0.0, 0.1, 0.2, 0.3, 0.5), group="Few shots"),
    Knob("model", MODELS, group="Training"),
    Knob("gradient", METHODS, group="Training"),
    Knob("backprop_steps", (0, 1, 2, 3, 5), start=1, group="Training"),
    Knob("rounds", (10, 20, 50, 100, 200, 500), group="Training"),
    Knob("local_steps", (1, 2, 5, 10, 20), group="Training"),
    Knob("agents_per_round", (1, 2, 5, 10, 20, 50), group="Training"),
    Knob("proximal", (0.0, 0.01, 0.1, 1.0), group="Training"),
    Knob("personal", PERSONAL, group="Training"),
    Knob("server", SERVER_STEPS, group="Server"),
    Knob("aggregation", AGGREGATIONS, group="Server"),
    Knob("server_lr", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), group="Server"),
    Knob("seed", SEEDS, group="Seeds"),
    Knob("weights_seed", SEEDS, group="Seeds"),
):
    add_knob(_knob)

_whole = {"max_rotation": 0.0, "shots": None, "query": "independent"}
add_preset("IID", partition="iid", permuted_classes=0, **_whole)
add_preset("one class per agent", partition="shards", classes_per_agent=1, permuted_classes=0, **_whole)
add_preset("permuted labels", partition="iid", permuted_classes=10, **_whole)
add_preset("one shot", partition="iid", permuted_classes=10, max_rotation=0.0, shots=1, query="disjoint")
for _name in ("FedAvg", "FedProx", "FedAdam", "Reptile", "Per-FedAvg", "ANIL"):
    _more = {"model": "mlp"} if _name == "ANIL" else {}  # softmax regression has no layer before its head
    _known = {name: value for name, value in methods[_name].items() if name in KNOBS and value is not None}
    add_preset(_name, **_known, **_more)
add_preset("ν = 5", nu=5)
add_preset("a step size that diverges", model="mlp", meta_lr=10.0)
