"""What the explorer's knobs can be set to, and one setting of them: run it, name it, take it away as code."""

import dataclasses
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from ..basics import checks
from ..data import check_here
from ..experiment import Experiment, build_federation
from ..federation import Federation
from ..meta_gradients import METHODS
from ..models import MODELS, build_model
from ..result import Result
from ..runner import run

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
        if self.name == "seed":
            return "Of who holds what, the picks and the batches."
        if self.name == "backprop_steps":
            return "How many of the last Hessian factors 'truncated' keeps; 'exact' and 'hessian_free' keep all."
        return next(spec.metadata["help"] for spec in dataclasses.fields(Experiment) if spec.name == self.name)

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

_DATA = (
    *("dataset", "partition", "dirichlet_alpha", "size_spread", "classes_per_agent", "per_fedavg_a"),
    *("permuted_classes", "max_rotation", "n_agents", "n_new_agents", "test_fraction", "device", "seed"),
)
_LOOKS_ONLY = ("eval_every", "eval_steps", "execution", "device")
"""Settings that do not change what is trained."""


@lru_cache(maxsize=1)  # a large dataset with turned images is copied: more would fill a small machine
def _federation(data: Experiment) -> Federation:
    check_here(data.dataset)  # nobody can stop a download
    return build_federation(data)


@dataclass(frozen=True)
class Setting:
    """An experiment and a seed of its own for the initial weights, so that data and weights can be redrawn apart."""

    experiment: Experiment
    weights_seed: int

    @classmethod
    def from_values(cls, base: "Setting", values: Mapping[str, Any]) -> "Setting":
        """Change `base` to the knobs' values; a knob that needs another setting counts only with that.

        Raises
        ------
        ExperimentError : values that contradict each other.

        Examples
        --------
        >>> values = {"partition": "iid", "per_fedavg_a": 4, "rounds": 20, "weights_seed": 1}
        >>> setting = Setting.from_values(Setting(Experiment(), 0), values)
        >>> setting.experiment.per_fedavg_a, setting.experiment.eval_every, setting.weights_seed
        (None, 2, 1)
        """
        changes = {name: value for name, value in values.items() if name != "weights_seed"}
        for name in ("per_fedavg_a", "backprop_steps"):  # the two that an experiment must not have without need
            other, needed = KNOBS[name].needs
            chosen = changes.get(other, base.value(other))
            if chosen != needed:
                changes[name] = base.value(name) if chosen == base.value(other) else None
        rounds = changes.get("rounds", base.experiment.rounds)
        changes["eval_every"] = min(base.experiment.eval_every, max(1, rounds // 10))  # at least ten points
        return cls(base.experiment.replace(**changes), values.get("weights_seed", base.weights_seed))

    @property
    def fedavg(self) -> "Setting":
        """The same data, weights, picks and step sizes with ν = 0."""
        return dataclasses.replace(
            self, experiment=self.experiment.replace(nu=0, gradient="exact", backprop_steps=None)
        )

    @property
    def data(self) -> Experiment:
        """An experiment that says who holds what, and nothing else."""
        return Experiment(**{name: getattr(self.experiment, name) for name in _DATA}, agents_per_round=1)

    @property
    def federation(self) -> Federation:
        return _federation(self.data)

    def run(
        self,
        *,
        stop: threading.Event | None = None,
        on_round: Callable[[int, pd.DataFrame], None] | None = None,
        progress: bool = False,
    ) -> Result:
        """Run the experiment from the weights of `weights_seed`, as `gmfl_lite.run` does."""
        federation = self.federation
        model = build_model(self.experiment.model, federation, seed=self.weights_seed)
        return run(self.experiment, federation=federation, model=model, stop=stop, on_round=on_round, progress=progress)

    def value(self, name: str) -> Any:
        return self.weights_seed if name == "weights_seed" else getattr(self.experiment, name)


def labels(settings: Sequence[Setting]) -> list[str]:
    """Name settings by what differs between them, in the paper's symbols.

    >>> base = Experiment(nu=3)
    >>> labels([Setting(base, 0), Setting(base.replace(nu=1), 0)])
    ['ν = 3', 'ν = 1']
    """
    names = [spec.name for spec in dataclasses.fields(Experiment) if spec.name not in _LOOKS_ONLY] + ["weights_seed"]
    varying = [name for name in names if len({setting.value(name) for setting in settings}) > 1] or ["nu"]
    return [", ".join(in_words(name, setting.value(name)) for name in varying) for setting in settings]


def in_words(name: str, value: Any) -> str:
    """Return "ν = 3" for nu=3."""
    symbol = KNOBS[name].symbol if name in KNOBS else name
    return f"{symbol} = {readable(value)}"


def readable(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_python(settings: Sequence[Setting]) -> str:
    """Return a program that leaves in `results` what the explorer shows, bit for bit.

    >>> print(as_python([Setting(Experiment(nu=1), 0)]))
    import gmfl_lite as gl
    <BLANKLINE>
    experiment = gl.Experiment(nu=1)
    results = [gl.run(experiment)]
    """
    first = settings[0].experiment
    program = f"import gmfl_lite as gl\n\nexperiment = gl.Experiment({_arguments(_differences(first, Experiment()))})\n"
    call = "gl.run({})"
    if any(setting.weights_seed != setting.experiment.seed for setting in settings):
        program += _RUN_FROM_WEIGHTS
        call = "run({}, weights_seed={})"
    calls = []
    for setting in settings:
        changes = _arguments(_differences(setting.experiment, first))
        calls.append(call.format(f"experiment.replace({changes})" if changes else "experiment", setting.weights_seed))
    return program + "results = [" + (calls[0] if len(calls) == 1 else "\n    " + ",\n    ".join(calls) + ",\n") + "]"


_RUN_FROM_WEIGHTS = """

def run(experiment, weights_seed):
    dataset = gl.load_dataset(experiment.dataset)
    return gl.run(experiment, model=gl.build_model(experiment.model, dataset, seed=weights_seed))


"""

NOTEBOOK = "07-explorer.ipynb"
PARAMETERS = (
    *(name for name in KNOBS if name != "weights_seed"),
    "n_agents",
    "n_new_agents",
    "batch_size",
    "eval_every",
    "eval_steps",
    "device",
    "weights_seed",
)
"""What the playground notebook can be given."""


def as_papermill(settings: Sequence[Setting]) -> str:
    """Return shell commands that run the playground notebook at each setting, and FedAvg beside it."""
    lines = ["cd notebooks"]
    for number, setting in enumerate(settings, 1):
        values = {name: setting.value(name) for name in PARAMETERS}
        values["eval_steps"] = " ".join(map(str, values["eval_steps"]))
        given = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in values.items())
        lines.append(f"papermill {NOTEBOOK} explored-{number}.ipynb {given}")
        for name, value in _differences(setting.experiment, Experiment()).items():
            if name not in PARAMETERS:
                lines.append(f"# but {name} = {value!r}, which the notebook has no parameter for")
    return "\n".join(lines)


def _differences(experiment: Experiment, other: Experiment) -> dict[str, Any]:
    return {name: value for name, value in vars(experiment).items() if value != getattr(other, name)}


def _arguments(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in changes.items())
