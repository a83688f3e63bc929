"""One what-if of the explorer: an experiment with a seed of its own for the initial weights; run it, name it."""

import dataclasses
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..basics import checks
from ..basics.setting_records import settings, settings_that_change
from ..data import check_here
from ..experiment import Experiment, build_federation
from ..federation import Federation
from ..methods import methods
from ..models import build_model
from ..result import Result
from ..runner import run
from ..sweep import Given
from .knobs import KNOBS, readable


@lru_cache(maxsize=1)  # a large dataset with turned images is copied: more would fill a small machine
def _federation(data: Experiment) -> Federation:
    check_here(data.dataset)  # nobody can stop a download
    return build_federation(data)


@dataclass(frozen=True)
class WhatIf:
    """An experiment and a seed of its own for the initial weights, so that data and weights can be redrawn apart.

    `given` is what was handed over: agents, a module, a loss.
    """

    experiment: Experiment
    weights_seed: int
    given: Given = Given()  # noqa: RUF009  (frozen)

    @classmethod
    def from_values(cls, base: "WhatIf", values: Mapping[str, Any]) -> "WhatIf":
        """Change `base` to the knobs' values; a knob that needs another setting counts only with that.

        Raises
        ------
        ExperimentError : values that contradict each other.

        Examples
        --------
        >>> values = {"partition": "iid", "per_fedavg_a": 4, "rounds": 20, "weights_seed": 1}
        >>> what_if = WhatIf.from_values(WhatIf(Experiment(), 0), values)
        >>> what_if.experiment.per_fedavg_a, what_if.experiment.eval_every, what_if.weights_seed
        (None, 2, 1)
        """
        changes = {name: value for name, value in values.items() if name != "weights_seed"}
        now = {**vars(base.experiment), **changes}
        for name, record in settings(type(base.experiment)).items():
            if record.needs and not record.counts(now):  # left out, unless it was like that
                other = record.needs[0]
                changes[name] = base.value(name) if now[other] == base.value(other) else record.default
        rounds = changes.get("rounds", base.experiment.rounds)
        changes["eval_every"] = min(base.experiment.eval_every, max(1, rounds // 10))  # at least ten points
        weights_seed = values.get("weights_seed", base.weights_seed)
        return cls(base.experiment.replace(**changes), weights_seed, base.given)

    @property
    def fedavg(self) -> "WhatIf":
        """FedAvg on the same data, from the same weights, with the same picks and step sizes of the agents."""
        return dataclasses.replace(self, experiment=self.experiment.replace(**methods["FedAvg"]))

    @property
    def data(self) -> Experiment:
        """An experiment that says who holds what, and nothing else."""
        kind = type(self.experiment)
        names = settings_that_change("holdings", "agents", "draws", "machine", of=kind)
        return kind(**{name: getattr(self.experiment, name) for name in names}, agents_per_round=1)

    @property
    def federation(self) -> Federation:
        return _federation(self.data) if self.given.federation is None else self.given.federation

    @property
    def model(self) -> nn.Module:
        """The module, with the weights that training starts from."""
        if self.given.model is not None:
            return self.given.model
        return build_model(self.experiment.model, self.federation, seed=self.weights_seed)

    @cached_property
    def megabytes_per_round(self) -> float:
        """What a round sends: w to each picked agent, and each agent's w_i back."""
        numbers = sum(tensor.numel() for tensor in self.model.parameters() if tensor.requires_grad)
        bits = torch.finfo(getattr(torch, self.experiment.precision)).bits
        return 2 * self.experiment.agents_per_round * numbers * bits / 8e6

    def run(
        self,
        *,
        stop: threading.Event | None = None,
        on_round: Callable[[int, pd.DataFrame], None] | None = None,
        progress: bool = False,
    ) -> Result:
        """Run the experiment from the weights of `weights_seed`, as `gmfl_lite.run` does."""
        given = {**self.given.arguments, "federation": self.federation, "model": self.model}
        return run(self.experiment, stop=stop, on_round=on_round, progress=progress, **given)

    def value(self, name: str) -> Any:
        return self.weights_seed if name == "weights_seed" else getattr(self.experiment, name)

    def counting(self, names: Collection[str]) -> dict[str, Any]:
        """Return those of some settings that change anything, given the others, with their values."""
        records, values = settings(type(self.experiment)), vars(self.experiment)
        return {name: self.value(name) for name in names if name not in records or records[name].counts(values)}


def what_if_of(name: str, experiment: Experiment, weights_seed: int | None, given: Given) -> WhatIf:
    """Return the what-if of an experiment, called `name`, with what was handed over.

    Raises
    ------
    ValueError : no Experiment, or a seed that is none.
    """
    if not isinstance(experiment, Experiment):
        raise checks.refusal(name, experiment, "an Experiment")
    seed = experiment.seed if weights_seed is None else checks.integer("weights_seed", weights_seed, 0)
    if given.federation is not None:
        picked = min(experiment.agents_per_round, given.federation.n_agents)
        experiment = given.as_run(experiment.replace(agents_per_round=picked))
    return WhatIf(experiment, seed, given)


def labels(what_ifs: Sequence[WhatIf]) -> list[str]:
    """Name what-ifs by what differs between them, in the paper's symbols; what does not count is not said.

    >>> base = Experiment(nu=3)
    >>> labels([WhatIf(base, 0), WhatIf(base.replace(nu=1), 0)])
    ['ν = 3', 'ν = 1']
    >>> labels([WhatIf(base, 0), WhatIf(base.replace(partition="iid", dirichlet_alpha=1), 0)])
    ['partition = dirichlet', 'partition = iid']
    """
    kind = type(what_ifs[0].experiment) if what_ifs else Experiment
    names = [*settings_that_change("holdings", "agents", "draws", "training", of=kind), "weights_seed"]
    counting = [what_if.counting(names) for what_if in what_ifs]
    varying = [name for name in names if len({own[name] for own in counting if name in own}) > 1] or ["nu"]
    return [", ".join(in_words(name, own[name]) for name in varying if name in own) for own in counting]


def in_words(name: str, value: Any) -> str:
    """Return "ν = 3" for nu=3."""
    symbol = KNOBS[name].symbol if name in KNOBS else name
    return f"{symbol} = {readable(value)}"
