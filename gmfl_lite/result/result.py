"""What a run gave, and what can be done with it."""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..basics import checks
from ..basics.setting_records import OWN
from ..engine import modestly
from ..evaluation import evaluate
from ..experiment import Experiment
from ..federation import Federation
from ..models import as_functions, build_model, loss_of, moving
from ..modules import LOSSES, Function, Objective, PerSample, try_out
from ..objective import Params, fine_tune
from ..readers import one_agent
from .storing import store


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a run.

    Attributes
    ----------
    experiment : what was run.
    status : "completed", "stopped" or "diverged".
    message : what happened and, if it diverged, in which round and which step size to lower.
    engine : what computed the agents' updates: "loop", or "vectorized", how many agents at once, and whether from a
        recording of the local step.
    round : rounds that `params` have seen.
    params : dict of CPU tensors, the shared initial model w.
    history : DataFrame, one row per evaluated round, group ("trained" or "new") and number of fine-tuning steps, with
        loss and, of classes, accuracy (0 to 1, mean over the group's agents), and what one agent in ten stays below
        and one in ten exceeds: worst_decile_accuracy and best_decile_accuracy.
    agents : DataFrame, one row per agent and number of fine-tuning steps at the last evaluation.
    loss : what the loss is called; "" is what y asks for.
    objective : the model and the loss as functions, of a run in this process; no file holds them.
    """

    experiment: Experiment
    status: str
    message: str
    engine: str
    round: int
    params: Params
    history: pd.DataFrame
    agents: pd.DataFrame
    loss: str = field(default="", kw_only=True)
    objective: Objective | None = field(default=None, repr=False, kw_only=True)

    @modestly
    def personalise(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        steps: int,
        *,
        model: nn.Module | None = None,
        loss: str | PerSample | None = None,
    ) -> Params:
        """Fine-tune w on somebody's samples, and return the parameters that it comes to.

        Parameters
        ----------
        x, y : the samples, as the run's agents hold them: [n, …] and [n, …].
        steps : how many steps of size experiment.fine_tune_lr, each on all samples.
        model, loss : where the run's were its own and this result comes from a file.

        Raises
        ------
        ValueError : samples that do not fit, or a model of its own that is not given.

        Examples
        --------
        >>> import gmfl_lite as gl
        >>> digits = gl.load_dataset("digits")
        >>> result = gl.run(gl.Experiment(rounds=5), progress=False)
        >>> mine = result.personalise(digits.x[:20], digits.y[:20], steps=3)
        >>> mine.keys() == result.params.keys()
        True
        """
        checks.integer("steps", steps, 0)
        x, y = one_agent(x, y)
        held = Federation.of_one(x, y, self._n_classes(x, y, model, loss)).in_precision(self.experiment.precision)
        objective, w = self.functions(held, model, loss)
        try_out(objective, w, held)
        batch = tuple(tensor[0] for tensor in held.fine_tune_sets(torch.tensor([0])))
        part = moving(w, self.experiment.personal)
        return fine_tune(objective, w, [batch] * steps, self.experiment.fine_tune_lr, moving=part)

    @modestly
    def evaluate(
        self,
        federation: Federation,
        *,
        model: nn.Module | None = None,
        loss: str | PerSample | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Score w on every agent of a federation, before and after fine-tuning: rows as those of `agents`.

        federation : any agents whose samples the model takes, with the same classes in the same order (give
            `classes=` where they are made, as not all labels may occur).
        model, loss : as in `personalise`.
        progress : whether to show a bar where scoring takes more than some seconds.

        Raises
        ------
        ValueError : samples that do not fit, or a model of its own that is not given.
        """
        if not isinstance(federation, Federation):
            raise checks.refusal("federation", type(federation).__name__, "a Federation")
        federation = federation.in_precision(self.experiment.precision)
        objective, w = self.functions(federation, model, loss)
        try_out(objective, w, federation)
        return evaluate(
            federation,
            objective,
            w,
            steps=self.experiment.eval_steps,
            fine_tune_lr=self.experiment.fine_tune_lr,
            execution="loop" if self.engine.startswith("loop") else "vectorized",
            personal=self.experiment.personal,
            progress=progress,
        )

    def state_dict(self, model: nn.Module | None = None) -> Params:
        """Return what model.load_state_dict takes: w, and frozen layers and buffers as they were in the run.

        model : the module, where it was the run's own and this result comes from a file.

        Raises
        ------
        ValueError : a model of its own that is not given, or another one.
        """
        predict = None if self.objective is None else self.objective.predict
        if model is not None:
            predict, like = as_functions(model, torch.device("cpu"), next(iter(self.params.values())).dtype)
            self.starting(like)
        elif predict is None and self.experiment.model == OWN:
            raise ValueError("model = 'own': this module was the caller's; pass it again (model=…)")
        return predict.state_dict(self.params) if isinstance(predict, Function) else dict(self.params)

    def starting(self, like: Params) -> Params:
        """Return w where, and as precise as, a model's parameters are.

        Raises
        ------
        ValueError : these are another model's.
        """
        ours, theirs = ({name: tuple(t.shape) for name, t in params.items()} for params in (self.params, like))
        if ours != theirs:
            differs = next(name for name in (*theirs, *ours) if ours.get(name) != theirs.get(name))
            there, here = (found.get(differs, "none") for found in (ours, theirs))
            raise ValueError(f"model: is another than the result's: {differs} is {there} there and {here} here")
        return {name: self.params[name].to(tensor) for name, tensor in like.items()}

    def _n_classes(
        self, x: torch.Tensor, y: torch.Tensor, model: nn.Module | None, loss: str | PerSample | None
    ) -> int | None:
        """Return how many classes there are: as many as the model gives logits. None where y are numbers."""
        if y.is_floating_point():
            return None
        if model is None and self.experiment.model != OWN:
            return len([*self.params.values()][-1])
        name = loss or ("" if self.objective is None else self.objective.name)
        predict = None if self.objective is None else self.objective.predict
        kind = next(iter(self.params.values())).dtype
        if model is not None:
            predict, _ = as_functions(model, torch.device("cpu"), kind)
        if predict is not None and name in ("", *LOSSES):  # with a loss of one's own, a prediction may be anything
            with contextlib.suppress(Exception):  # what does not fit is said by `try_out`
                return predict(self.params, x[:2].to(kind) if x.is_floating_point() else x[:2]).shape[-1]
        return max(2, int(y.max()) + 1)

    def functions(
        self, federation: Federation, model: nn.Module | None = None, loss: str | PerSample | None = None
    ) -> tuple[Objective, Params]:
        """Return f_i and w for these agents; the model and the loss are the run's, or handed over again.

        Raises
        ------
        ValueError : a model or a loss of its own, of a result from a file, that is not given.
        """
        metric = None if self.objective is None else self.objective.metric
        if loss is None and self.objective is not None:
            loss = self.objective.loss
        elif loss is None and self.loss not in ("", *LOSSES):
            raise ValueError(f"loss: the run had {self.loss}, a loss of the caller; pass it again (loss=…)")
        elif loss is None:
            loss = self.loss or None
        if model is None and self.objective is not None:
            objective = loss_of(self.objective.predict, loss, metric)
            device = federation.x.device
            return objective, {name: t.to(device, federation.dtype) for name, t in self.params.items()}
        model = build_model(self.experiment.model, federation) if model is None else model
        predict, like = as_functions(model, federation.x.device, federation.dtype)
        return loss_of(predict, loss, metric), self.starting(like)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "objective": None}  # a function of one's own may be none that can be copied elsewhere

    def __copy__(self) -> "Result":
        return replace(self)  # in this process the functions are at hand

    def save(self, path: str | Path) -> None:
        """Write everything to one file, without pickle; `load_result` reads it back, bit by bit the same."""
        store(self, path)

    def table(self) -> pd.DataFrame:
        """Return the last evaluation's accuracy, or loss of numbers: groups down, fine-tuning steps across."""
        last = self.history[self.history["round"] == self.history["round"].max()]
        score = "accuracy" if "accuracy" in last else "loss"
        return last.pivot(index="group", columns="fine_tune_steps", values=score).sort_index(ascending=False)

    def __repr__(self) -> str:
        return f"Result({self.status} after {self.round} rounds: {self.message})"
