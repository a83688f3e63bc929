"""A what-if from its description to its result: train, score on the way, stop, resume, store."""

import dataclasses
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from .basics import checks
from .basics.growing_file import GrowingFile
from .basics.identity import identity
from .basics.progress import progress_hidden
from .basics.storage import expanded
from .engine import Engine, Stopped, build_engine, made_with, try_gradients
from .evaluation import AGENT_COLUMNS, evaluate, measured, summarise, those_of
from .experiment import Experiment, as_run, build_federation
from .federation import Federation
from .models import as_functions, build_model, kind_of, loss_of
from .modules import Function, Objective, PerSample, try_out
from .objective import LossFn, Params
from .result import HISTORY_COLUMNS, Checkpoint, Result, frame, load, store
from .theory.after_divergence import what_to_lower
from .trainer import limit_of, train


def run(
    experiment: Experiment,
    *,
    federation: Federation | None = None,
    model: nn.Module | None = None,
    loss: str | PerSample | None = None,
    metric: PerSample | None = None,
    start: Result | None = None,
    on_round: Callable[[int, pd.DataFrame], None] | None = None,
    stop: threading.Event | None = None,
    checkpoint: str | Path | None = None,
    engine: Callable[[Experiment, Federation, LossFn, Params], Engine] = build_engine,
    progress: bool = True,
) -> Result:
    """Train one shared initial model and score it on every agent, before and after fine-tuning.

    Parameters
    ----------
    experiment : the what-if.
    federation, model : replace what the experiment would build: your own data, your own module, whose current
        parameters are the start and which is not changed. Both are computed with in experiment.precision; the result's
        experiment says "own" for them.
    loss : "cross_entropy", "squared_error" or a function of (prediction, y) that gives one loss per sample; by default
        what y asks for. The mean over an agent's samples is its f_i.
    metric : another such function; its mean is reported in a column `metric`, next to the loss.
    start : a result from which to take `experiment.rounds` more rounds: they begin at its w and continue its count, so
        that two runs in a row are one long run (except for the memory of a server that has one). Settings may differ.
    on_round : called as on_round(round, rows) after every evaluation, with that round's rows of the history.
    stop : an event looked at before every local step; Ctrl-C does the same. The run returns the result so far.
    checkpoint : a path, written after every evaluation; a run that finds one continues from its w, whatever the model's
        parameters are now, and ends as if it had never been interrupted. Until it ends, the history is in a second
        file, whose name ends in .history. Where it cannot be written, one warning says so and the run goes on.
    engine : builds what computes the agents' updates, an Engine: a class of your own, `build_engine` with a
        `local_step` or a `server_step` of your own, or `gmfl_lite.distributed.build_engine`, which shares the agents
        among the processes that torchrun has started.
    progress : whether to show a progress bar.

    Raises
    ------
    ValueError : a federation too small for agents_per_round, an unsuitable module, a foreign or damaged checkpoint, or
        one of another engine.

    Examples
    --------
    >>> result = run(Experiment(nu=1, rounds=20), progress=False)
    >>> result.status, len(result.history)  # 3 evaluated rounds × 2 groups × 5 numbers of steps
    ('completed', 30)
    """
    _check_arguments(experiment, federation, model, start, on_round, stop, checkpoint)
    ready = prepare(experiment, federation, model, loss, metric, start, engine)
    experiment, federation, objective, w = ready.experiment, ready.federation, ready.objective, ready.params
    computes, columns = ready.engine, ready.columns
    fingerprint = "" if checkpoint is None else _fingerprint(federation, objective)
    found = _resume(checkpoint, experiment, fingerprint, w, computes)
    result, limit = (ready.begun, None) if found is None else (found.result, found.limit)
    training = ready.training(limit, stop, progress)
    history = list(result.history.itertuples(index=False, name=None))  # a new row costs the same however many there are
    growing = GrowingFile(checkpoint if computes.writes else None, "history", columns, history)
    hidden, not_kept = progress_hidden(progress), ""
    with growing, tqdm(total=experiment.rounds, initial=result.round, unit="round", disable=hidden) as bar:
        try:
            for later in made_with(computes.threads, training.results(result)):
                result, rows = later, later.history
                if len(rows):  # asking an empty table for its rows takes as long as a small local step
                    history.extend(rows.itertuples(index=False, name=None))
                bar.update(result.round - bar.n)
                if checkpoint is not None and (len(rows) or result.status != "stopped"):
                    try:
                        store(result, growing, fingerprint, computes.recipe, computes.state(), training.limit)
                    except OSError as error:  # what is computed counts for more than where it is kept
                        not_kept = not_kept or str(error)
                if len(rows):
                    bar.set_postfix_str(_postfix(rows))
                    if on_round is not None:
                        on_round(result.round, rows)
        except (Stopped, KeyboardInterrupt):
            pass
    if not_kept:
        advice = "the result is whole: result.save(…) keeps it elsewhere"
        warnings.warn(f"checkpoint {checkpoint} could not be written ({not_kept}); {advice}", stacklevel=2)
    params = {name: tensor.cpu() for name, tensor in result.params.items()}
    return dataclasses.replace(result, params=params, history=frame(history, columns), objective=objective)


@dataclass(eq=False)
class Ready:
    """What a run begins with: its settings as it will report them, agents, f_i, w, what computes, and no rounds."""

    experiment: Experiment
    federation: Federation
    objective: Objective
    params: Params
    engine: Engine
    columns: dict[str, str]
    begun: Result

    def training(self, limit: float | None, stop: threading.Event | None = None, progress: bool = False) -> "_Training":
        """Return what takes the rounds; `limit` is measured where it is None."""
        what = self.experiment, self.federation, self.objective, self.params, self.engine, self.columns
        return _Training(*what, limit, stop, progress)


def prepare(
    experiment: Experiment,
    federation: Federation | None = None,
    model: nn.Module | None = None,
    loss: str | PerSample | None = None,
    metric: PerSample | None = None,
    start: Result | None = None,
    engine: Callable[[Experiment, Federation, LossFn, Params], Engine] = build_engine,
) -> Ready:
    """Build what `run` needs; arguments and errors as there."""
    federation = build_federation(experiment) if federation is None else federation.in_precision(experiment.precision)
    federation.check_query(experiment.query)
    own = model is not None or loss is not None or metric is not None
    if model is None:
        model = build_model(experiment.model, federation, seed=experiment.seed)
    experiment = as_run(experiment, federation, kind_of(model))
    device = federation.x.device
    predict, w = as_functions(model, device, federation.dtype)
    objective = loss_of(predict, loss, metric)
    if start is not None:
        w = start.starting(w)
        if start.loss != objective.name:
            theirs, ours = start.loss or "what y asks for", objective.name or "what y asks for"
            raise ValueError(f"loss: start's was {theirs}, and here it is {ours}; hand over the same (loss=…)")
        experiment = experiment.replace(rounds=experiment.rounds + start.round)
    if own:
        try_out(objective, w, federation)
        try_gradients(experiment, federation, objective, w)
    computes = engine(experiment, federation, objective, w)
    if not isinstance(computes, Engine):
        raise checks.refusal("engine", engine, f"what builds a gmfl_lite.Engine, not a {type(computes).__name__}")
    optional = measured(federation, objective, w)
    columns, agents = those_of(HISTORY_COLUMNS, optional), frame(None, those_of(AGENT_COLUMNS, optional))
    if start is None:
        so_far = "stopped", "stopped before training", str(computes), 0
        begun = Result(experiment, *so_far, w, frame(None, columns), agents, loss=objective.name)
    else:
        rows = start.history.reindex(columns=list(columns))
        begun = dataclasses.replace(start, experiment=experiment, status="stopped", params=w, history=rows)
    return Ready(experiment, federation, objective, w, computes, columns, begun)


def _check_arguments(
    experiment: Experiment,
    federation: Federation | None,
    model: nn.Module | None,
    start: Result | None,
    on_round: Callable[..., None] | None,
    stop: threading.Event | None,
    checkpoint: str | Path | None,
) -> None:
    for name, fits, value, allowed in (
        ("experiment", isinstance(experiment, Experiment), experiment, "an Experiment"),
        ("federation", isinstance(federation, Federation | None), federation, "a Federation or None"),
        ("model", isinstance(model, nn.Module | None), model, "a torch.nn.Module or None"),
        ("start", isinstance(start, Result | None), start, "a Result or None"),
        ("on_round", on_round is None or callable(on_round), on_round, "a function or None"),
        ("checkpoint", isinstance(checkpoint, str | Path | None), checkpoint, "a path or None"),
    ):
        if not fits:
            raise checks.refusal(name, value, allowed)
    if stop is not None and not callable(getattr(stop, "is_set", None)):
        raise checks.refusal("stop", stop, "a threading.Event")
    if federation is not None and federation.n_agents < experiment.agents_per_round:
        allowed = f"at most the federation's n_agents = {federation.n_agents}"
        raise checks.refusal("agents_per_round", experiment.agents_per_round, allowed)
    if checkpoint is not None and not expanded(checkpoint).absolute().parent.is_dir():
        raise checks.refusal("checkpoint", str(checkpoint), "a path in a folder that exists")


def _fingerprint(federation: Federation, objective: Objective) -> str:
    """Return what tells what else makes a run, apart from its experiment, from others."""
    assert isinstance(objective.predict, Function)
    return identity([federation.tensors(), federation.names, objective.predict.frozen(), objective.names])


def _resume(
    path: str | Path | None, experiment: Experiment, fingerprint: str, like: Params, engine: Engine
) -> Checkpoint | None:
    """Return what to continue from, if anything, and give the engine what it kept."""
    if path is None or not expanded(path).exists():
        return None
    found = load(path, type(experiment))
    ours, theirs = experiment.to_dict(), found.result.experiment.to_dict()
    changed = [
        f"{name} = {theirs[name]!r} there and {ours[name]!r} here" for name in ours if ours[name] != theirs[name]
    ]
    if changed:
        raise ValueError(f"checkpoint {path} is of another experiment: " + "; ".join(changed))
    if found.fingerprint != fingerprint:
        other = "of other agents' data, another model's structure or another loss or metric"
        what = other if found.fingerprint else "a result, not a checkpoint"
        raise ValueError(f"checkpoint {path} is {what}: use another path, or delete it to start again")
    if found.recipe != engine.recipe:
        plain = "the experiment's own engine"
        made, here = found.recipe or plain, engine.recipe or plain
        raise ValueError(f"checkpoint {path} was made by {made}, and here is {here}: use the same, or another path")
    device = next(iter(like.values())).device
    engine.load_state({name: tensor.to(device) for name, tensor in found.state.items()})
    return dataclasses.replace(found, result=dataclasses.replace(found.result, params=found.result.starting(like)))


@dataclass(eq=False)
class _Training:
    """What stays the same while a run goes on; `limit` is the loss beyond which it has diverged, measured at first."""

    experiment: Experiment
    federation: Federation
    objective: Objective
    start: Params
    engine: Engine
    columns: dict[str, str]
    limit: float | None
    stop: threading.Event | None
    progress: bool

    def results(self, result: Result) -> Iterator[Result]:
        """Yield the result so far after the first evaluation and every round; its history is the new rows alone."""
        if result.status != "stopped":
            return
        scored = len(result.history) > 0
        result = dataclasses.replace(result, history=_NO_ROWS)
        try:
            if not scored:
                result, scored = self.so_far(result, 0, self.start), True
                yield result
            if self.limit is None:
                self.limit = limit_of(self.experiment, self.federation, self.objective, self.start, self.stop)
            trained = train(
                self.experiment,
                self.federation,
                self.objective,
                result.params,
                engine=self.engine,
                start=result.round,
                limit=self.limit,
                stop=self.stop,
            )
            for round, params, _ in trained:
                result = self.so_far(result, round, params)
                yield result
        except FloatingPointError as error:
            when = f"in round {result.round + 1}" if scored else "before training"
            message = f"diverged {when}: {error}; {self.advice(result.params)}"
            yield dataclasses.replace(result, status="diverged", message=message, history=_NO_ROWS)

    def so_far(self, result: Result, round: int, params: Params, agents: pd.DataFrame | None = None) -> Result:
        """Return the result after another round, evaluated if that is due; `agents`: their scores, if there are any."""
        experiment = self.experiment
        done = f"stopped after {round} of {experiment.rounds} rounds"
        how = str(self.engine)
        later = dataclasses.replace(result, round=round, params=params, message=done, engine=how, history=_NO_ROWS)
        if round % experiment.eval_every and round < experiment.rounds:
            return later
        agents = self.scores(params) if agents is None else agents
        rows = frame(summarise(agents).assign(round=round), self.columns)
        later = dataclasses.replace(later, agents=agents, history=rows)
        if round < experiment.rounds:
            return later
        return dataclasses.replace(later, status="completed", message=f"all {round} rounds")

    def scores(self, params: Params) -> pd.DataFrame:
        return evaluate(
            self.federation,
            self.objective,
            params,
            steps=self.experiment.eval_steps,
            fine_tune_lr=self.experiment.fine_tune_lr,
            execution=self.engine.execution,
            personal=self.experiment.personal,
            most=self.experiment.eval_agents,
            seed=self.experiment.seed,
            stop=self.stop,
            graphs=self.engine.graphs,
            progress=self.progress,
        )

    def advice(self, params: Params) -> str:
        return what_to_lower(self.experiment, self.federation, self.objective, self.start, params, self.stop)


_NO_ROWS = frame(None, HISTORY_COLUMNS)


def _postfix(rows: pd.DataFrame) -> str:
    group = rows["group"].iloc[-1]
    after = rows[rows["group"] == group]
    if "accuracy" not in after:
        return f"{group} agents' loss {after['loss'].iloc[0]:.3g} → {after['loss'].min():.3g}"
    first, best = after["accuracy"].iloc[0], after["accuracy"].max()
    return f"{group} agents {first:.0%} → {best:.0%}"
