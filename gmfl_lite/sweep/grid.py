"""Grids of experiments, on any executor, finished points kept on disk."""

import itertools
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from ..basics import checks
from ..basics.progress import progress_hidden
from ..basics.setting_records import settings
from ..engine import prepare_process, usable_cores
from ..experiment import Experiment, ExperimentError
from ..federation import Federation
from ..modules import PerSample
from ..result import HISTORY_COLUMNS, Result
from ..runner import run
from .given import Given
from .kept import entry, folder_of, kept, may_be_there, of_other_versions, trained_alike
from .together import AT_ONCE, alike, run_together


def sweep(
    grid: Mapping[str, Iterable[Any]] | Sequence[Experiment],
    base: Experiment = Experiment(),  # noqa: B008  (frozen)
    *,
    federation: Federation | None = None,
    model: nn.Module | None = None,
    loss: str | PerSample | None = None,
    metric: PerSample | None = None,
    executor: Executor | None = None,
    cache: str | Path | None = None,
    on_point: Callable[[int, pd.DataFrame], None] | None = None,
    progress: bool = True,
    history: bool = False,
) -> pd.DataFrame:
    """Run every point of a grid of experiments and gather the last evaluations in one table.

    Points that differ in step sizes, the seed or what agents hold are computed as one, up to 24 at a time, where their
    steps are small.

    Parameters
    ----------
    grid : {setting: values}, of which every combination is a point, or a list of experiments.
    base : the other settings, where `grid` is a dict.
    federation, model, loss, metric : as in `run`, the same for every point; what they decide cannot vary. For processes
        they must be such that pickle takes them: no lambda.
    executor : any concurrent.futures.Executor; by default the points run one after the other in this process. With
        Dask, client.get_executor() does the points of a lost worker again, on others; with workers that were started
        with `--resources GPU=1`, client.get_executor(resources={"GPU": 1}) gives each GPU one point at a time.
    cache : a folder; a finished point is kept there and never computed again, unless its settings, the library's or
        torch's code, the dataset, or the objects given have changed. A point that differs from one there only in how
        it is scored (of ν = 0, by its α too) is scored and not trained again. A point that cannot be kept is still
        computed, with a warning; another one counts points of other versions, which `gmfl_lite.sweep.prune` deletes.
        Several processes may share it; workers on other computers write to it if they see it under this path.
    on_point : called as on_point(number, rows) as soon as a point is done, in whatever order they finish.
    progress : whether to show a progress bar.
    history : whether to gather the evaluations of all rounds instead of the last ones.

    Returns
    -------
    DataFrame in the order of the points, with one row per point, group and number of fine-tuning steps: the settings
    that vary, status, message, round, group, fine_tune_steps, loss, accuracy, worst_decile_accuracy and
    best_decile_accuracy; `round` is the one that the row's numbers were measured in. A point that failed is one row
    with status "failed" and its error as the message; the other points go on. Where the executor is shut down
    meanwhile, `shutdown(cancel_futures=True)`, a point that was not begun is one row with status "stopped". Ctrl-C ends
    the sweep; with a cache, the next call continues from there.

    Raises
    ------
    ExperimentError : a setting that does not exist.
    ValueError : an empty grid.

    Examples
    --------
    >>> table = sweep({"nu": [0, 1], "seed": range(2)}, Experiment(model="softmax", rounds=2), progress=False)
    >>> len(table)  # 4 points × 2 groups × 5 numbers of steps
    40
    """
    given = Given(federation, model, loss, metric)
    table, problems = swept(grid, base, given, executor, cache, on_point, progress=progress, history=history)
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return table


def swept(
    grid: Mapping[str, Iterable[Any]] | Sequence[Experiment],
    base: Experiment,
    given: Given,
    executor: Executor | None,
    cache: str | Path | None,
    on_point: Callable[[int, pd.DataFrame], None] | None,
    *,
    progress: bool,
    history: bool = False,
) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of `sweep`, and what is to be said of its cache."""
    points, varied = _points(grid, base)
    given.check(varied, type(base))
    folder, not_kept = folder_of(cache)
    tables: list[pd.DataFrame | None] = [None] * len(points)
    bar = tqdm(total=len(points), unit="point", disable=progress_hidden(progress))
    with warnings.catch_warnings(), bar:  # filters are the process's, and one thread's pandas may restore another's
        for number, answer in _answers(points, executor, (given, folder, history)):
            not_kept = not_kept or answer.attrs.pop("not kept", "")
            columns = {name: [points[number][1].get(name)] * len(answer) for name in varied}
            tables[number] = rows = pd.concat([pd.DataFrame(columns), answer], axis=1)
            if on_point is not None:
                on_point(number, rows)
            bar.update()  # what is seen to be done has been handed out: Ctrl-C may come now
    problems = []
    if not_kept:
        problems.append(f"cache: points could not be kept there, and will be computed again ({not_kept})")
    if others := of_other_versions(folder):
        count = f"{len(others)} point{'s' * (len(others) > 1)} there"
        problems.append(
            f"cache: {count} of other versions of gmfl_lite or torch are not used; gmfl_lite.sweep.prune deletes them"
        )
    return pd.concat(tables, ignore_index=True), problems


Point = tuple[type[Experiment], Mapping[str, Any]]
"""The kind of experiment and its settings, which may contradict each other: not yet an Experiment."""


def run_points(points: Sequence[Point], given: Given, cache: Path | None, history: bool) -> list[pd.DataFrame]:
    """Do what `run_point` does for points that are `alike`: those that are not in the cache are computed as one."""
    results: dict[int, Result | None] = {}
    if len(points) > 1:
        try:
            experiments = {number: kind.from_dict(values) for number, (kind, values) in enumerate(points)}
            paths = {} if cache is None else {n: cache / entry(each, given) for n, each in experiments.items()}
            new = {n: each for n, each in experiments.items() if n not in paths or not may_be_there(paths[n])}
            if len(new) > 1:
                results = dict(zip(new, run_together(list(new.values()), given), strict=True))
        except Exception:  # whatever is wrong, each of them says so
            results = {}
    return [run_point(point, given, cache, history, results.get(number)) for number, point in enumerate(points)]


def run_point(
    point: Point,
    given: Given = Given(),  # noqa: B008
    cache: Path | None = None,
    history: bool = False,
    result: Result | None = None,
) -> pd.DataFrame:
    """Run one point, or read it from the cache, and return its rows; what goes wrong becomes a row, too.

    result : the point's, if it has been computed.
    """
    try:
        kind, values = point
        experiment = kind.from_dict(values)
        path, not_kept = None if cache is None else cache / entry(experiment, given), ""
        computed = result is not None
        if not computed:
            result = kept(path, given.as_run(experiment))
        if result is None and path is not None and not history:
            result = trained_alike(path, experiment, given)
        if result is None:
            result = run(experiment, progress=False, **given.arguments)
            if result.status == "stopped":  # by Ctrl-C, which is meant for the whole sweep
                raise KeyboardInterrupt
            computed = True
        if computed and path is not None:
            try:
                result.save(path)
            except (OSError, ValueError) as error:
                not_kept = str(error)
    except Exception as error:  # a failing point must not end the others
        return _failed(error)
    rows = result.history
    if not history:
        rows = rows[rows["round"] == rows["round"].max()]
    rows = rows.assign(status=result.status, message=result.message)
    rows = rows[[name for name in _ORDER if name in rows]].reset_index(drop=True)
    if rows.empty:
        rows = pd.DataFrame([{"status": result.status, "message": result.message, "round": result.round}])
    rows.attrs["not kept"] = not_kept
    return rows


_HOW_IT_ENDED = ("status", "message")
_ORDER = [*_HOW_IT_ENDED, *HISTORY_COLUMNS]


def _answers(
    points: Sequence[Point], executor: Executor | None, how: tuple[Given, Path | None, bool]
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield every point's number and rows, as they come."""
    if executor is None:
        for numbers in _jobs(points, AT_ONCE):
            yield from zip(numbers, run_points([points[number] for number in numbers], *how), strict=True)
        return
    prepare_process()  # before workers are forked from this process
    waiting: dict[Future[list[pd.DataFrame]], list[int]] = {}
    done: SimpleQueue[Future[list[pd.DataFrame]]] = SimpleQueue()  # as_completed waits for what `shutdown` cancels
    try:
        for numbers in _jobs(points, min(AT_ONCE, max(1, len(points) // usable_cores()))):
            try:
                waiting[future := executor.submit(run_points, [points[number] for number in numbers], *how)] = numbers
            except BrokenExecutor as error:  # a worker died while the rest was being handed out
                yield from ((number, _failed(error)) for number in numbers)
            except RuntimeError:  # it has been shut down
                yield from ((number, _stopped()) for number in numbers)
            else:
                future.add_done_callback(done.put)
        for _ in range(len(waiting)):
            future = done.get()
            failure = None if future.cancelled() else future.exception()
            for place, number in enumerate(waiting[future]):
                if future.cancelled():
                    yield number, _stopped()
                else:
                    yield number, future.result()[place] if failure is None else _failed(failure)
    finally:  # after Ctrl-C, do not begin what nobody waits for
        for future in waiting:
            future.cancel()


def _jobs(points: Sequence[Point], most: int) -> list[list[int]]:
    """Return the numbers of the points that are one job: alike, and at most so many."""
    jobs: list[list[int]] = []
    filling: dict[Hashable, list[int]] = {}
    for number, (kind, values) in enumerate(points):
        try:
            what = alike(kind.from_dict(values))
        except (TypeError, ValueError):  # settings that contradict each other
            what = None
        job = filling.get(what, [])
        if what is None or not 0 < len(job) < most:
            jobs.append(job := [])
            filling[what] = job
        job.append(number)
    return jobs


def _points(
    grid: Mapping[str, Iterable[Any]] | Sequence[Experiment], base: Experiment
) -> tuple[list[Point], list[str]]:
    if not isinstance(base, Experiment):
        raise checks.refusal("base", base, "an Experiment")
    points: list[Point]
    if isinstance(grid, Mapping):
        known = settings(type(base))
        for name, values in grid.items():
            if name not in known:
                raise ExperimentError(f"{name} is not a setting{checks.nearest(name, known)}")
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise checks.refusal(f"grid[{name!r}]", values, "a list of values")
        combinations = itertools.product(*(list(values) for values in grid.values()))
        points = [(type(base), {**base.to_dict(), **dict(zip(grid, values, strict=True))}) for values in combinations]
        varied = list(grid)
    elif isinstance(grid, (list, tuple)) and all(isinstance(point, Experiment) for point in grid):
        points = [(type(point), point.to_dict()) for point in grid]
        names = dict.fromkeys(name for _, point in points for name in point)
        varied = [name for name in names if any(point.get(name) != points[0][1].get(name) for _, point in points)]
    else:
        raise checks.refusal("grid", grid, "a dict of setting -> values, or a list of Experiments")
    if not points:
        raise ValueError("grid: holds no point")
    return points, varied


def _stopped() -> pd.DataFrame:
    return pd.DataFrame([{"status": "stopped", "message": "the executor was shut down before this point was begun"}])


def _failed(error: BaseException) -> pd.DataFrame:
    return pd.DataFrame([{"status": "failed", "message": f"{type(error).__name__}: {error}"}])
