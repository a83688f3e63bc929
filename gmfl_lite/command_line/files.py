"""What a file of settings asks for; a mistake is reported with its line."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..basics import checks
from ..basics.plain_yaml import Document, YamlError, read_file, read_value
from ..basics.setting_records import settings
from ..basics.storage import put
from ..experiment import Experiment, build_federation, checked
from ..models import build_model
from ..result import Result
from ..runner import run

MOST_POINTS = 10**5
"""Points of a sweep from a file: its table has ten times as many rows."""

Places = Mapping[str, str]
"""Where what is called like this was given: "experiment.yaml, line 3", "--set". "=adam" is whatever has that value."""


class Refused(click.ClickException):
    """A wrong file or option: one message, a line for each problem, and exit code 2."""

    exit_code = 2

    def __init__(self, problems: list[str], places: Places) -> None:
        located = [f"{_place(problem, places)}{problem}" for problem in problems]
        super().__init__(located[0] if len(located) == 1 else "\n- ".join([f"{len(located)} problems:", *located]))


class Failed(click.ClickException):
    """What ended in another way than it should have, and exit code 1."""

    exit_code = 1


def _place(problem: str, places: Places) -> str:
    """Return where the setting was given that a problem speaks of: the one it begins with, else one that it names."""
    begins = [name for name in places if re.match(rf"{re.escape(name[:60])}(?!\w)", problem)]
    words = re.findall(r"\w+", problem)
    named = [*re.findall(r"(\w+) ?=", problem), *words, *(f"={word}" for word in words)]
    found = max(begins, key=len) if begins else next((name for name in named if name in places), None)
    return "" if found is None else f"{places[found]}: "


@contextmanager
def in_words(places: Places) -> Iterator[None]:
    """Say what a run refuses in one message, without a traceback."""
    try:
        yield
    except ValueError as error:
        raise Refused([str(error)], places) from error
    except BrokenPipeError:  # whoever read the output has gone
        raise
    except (OSError, RuntimeError) as error:
        raise Failed(str(error)) from error


def keep(path: Path | None, content: bytes | Callable[[Path], None]) -> str:
    """Write a file whole, if one is asked for, with these bytes or by this function; return why it is not there, or "".

    Before anything is printed, as the reader may have left; and nothing is raised, as a disk may be full: what was
    computed can be printed all the same.
    """
    try:
        if path is not None:
            content(path) if callable(content) else put(path, content)
    except (OSError, ValueError) as error:
        return f"{path} could not be written ({getattr(error, 'strerror', None) or error})"
    return ""


@dataclass(frozen=True)
class Asked:
    """An experiment from a file; `values` are the settings that the file and --set give, `places` where."""

    experiment: Experiment
    weights_seed: int
    values: dict[str, Any]
    places: Places

    def run(self, progress: bool) -> Result:
        if self.weights_seed == self.experiment.seed:
            return run(self.experiment, progress=progress)
        federation = build_federation(self.experiment)
        model = build_model(self.experiment.model, federation, seed=self.weights_seed)
        return run(self.experiment, federation=federation, model=model, progress=progress)


def read_experiments(path: Path, changes: Mapping[str, str]) -> list[Asked]:
    """Return the experiments of a file's documents, with these changes.

    Raises
    ------
    Refused : naming the line of every setting that is wrong.
    """
    found = []
    for document in _documents(path):
        values, places = _given(path, document, changes)
        plain = {name: value for name, value in values.items() if name != WEIGHTS_SEED}
        kept, problems = checked(Experiment, plain)
        weights_seed = values.get(WEIGHTS_SEED, kept.get("seed", 0))
        try:
            checks.integer(WEIGHTS_SEED, weights_seed, 0, 2**63 - 1)
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise Refused(problems, places)
        found.append(Asked(Experiment(**plain), weights_seed, values, places))
    return found


WEIGHTS_SEED = "weights_seed"
"""What `run` takes apart from an Experiment's settings: the panel has a knob for it."""


def read_experiment(path: Path, changes: Mapping[str, str]) -> Asked:
    """Return the only experiment of a file.

    Raises
    ------
    Refused : as of `read_experiments`, or several of them, or weights of another seed.
    """
    first, *others = read_experiments(path, changes)
    if others:
        raise Refused([f"{path.name}: holds {1 + len(others)} experiments; leave one of them"], {})
    if WEIGHTS_SEED in first.values:
        raise Refused([f"{WEIGHTS_SEED} counts with `run` alone; leave it out"], first.places)
    return first


def read_sweep(path: Path, changes: Mapping[str, str]) -> tuple[dict[str, list[Any]], Experiment, Places]:
    """Return the grid of a file, and its base, whose settings fit those of a point of the grid.

    Raises
    ------
    Refused : naming the line of every setting or value that is wrong.
    """
    document, *others = _documents(path)
    if others:
        raise Refused([f"{path.name}: must hold one sweep, but holds {1 + len(others)} documents"], {})
    values, places = _given(path, document, changes)
    grid = values.pop("grid", None)
    if not isinstance(grid, dict):
        example = "the values to go through, such as `grid: {nu: [0, 1, 5], seed: [0, 1, 2]}`"
        where = {"grid": places.get("grid", str(path.name))}
        raise Refused([f"grid: must hold {example}"], where)
    problems = [*_wrong_in(grid, values, path, document), *_wrong_outside(values, set(grid), places)]
    if problems:
        raise Refused(problems, {})
    if (points := math.prod(map(len, grid.values()))) > MOST_POINTS:
        raise Refused([f"grid: must have at most {MOST_POINTS} points, and has {points}"], places)
    first: list[str] = []
    for point in itertools.product(*grid.values()):
        found = {**values, **dict(zip(grid, point, strict=True))}
        _, problems = checked(Experiment, found)
        if not problems:
            return grid, Experiment(**found), places
        first = first or problems
    raise Refused(first, places | {name: _line(path, document, "grid", name) for name in grid})


def _wrong_in(grid: dict[str, Any], outside: Mapping[str, Any], path: Path, document: Document) -> Iterator[str]:
    records = settings(Experiment)
    for name, listed in grid.items():
        where = _line(path, document, "grid", name)
        if name not in records:
            yield f"{where}: {name:.60} is not a setting{checks.nearest(name, records)}"
        elif name in outside:
            yield f"{where}: {name} is given outside of the grid, too; leave it out there or here"
        elif not isinstance(listed, list) or not listed:
            yield f"{where}: {name} = {checks.shown(listed)}: must be a list of values here, such as [0, 1]"
        else:
            for position, value in enumerate(listed):
                try:
                    records[name].check(name, value)
                except ValueError as error:
                    yield f"{_line(path, document, 'grid', name, position)}: {error}"


def _wrong_outside(values: Mapping[str, Any], varied: set[str], places: Places) -> Iterator[str]:
    """Yield what is wrong with single settings; what contradicts each other is asked of whole points."""
    records = settings(Experiment)
    for name, value in values.items():
        try:
            if name not in records:
                raise ValueError(f"{name:.60} is not a setting{checks.nearest(name, records)}")
            records[name].check(name, value)
        except ValueError as error:
            if name not in varied:
                yield f"{places[name]}: {error}"


def _documents(path: Path) -> list[Document]:
    try:
        found = read_file(path)
    except YamlError as error:
        raise Refused([f"{path.name}, {error}"], {}) from error
    except OSError as error:
        raise Refused([str(error)], {}) from error
    if not found:
        raise Refused([f"{path.name}: holds no settings; {{}} are the defaults"], {})
    return found


def _given(path: Path, document: Document, changes: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    values, places = dict(document.values), {name: _line(path, document, name) for name in document.values}
    for name, text in changes.items():
        try:
            values[name] = read_value(text)
        except ValueError as error:
            raise Refused([f"--set {name}={text}: {str(error).removeprefix('line 1: ')}"], {}) from error
        places[name] = "--set"
    valued = {f"={value}": places[name] for name, value in values.items() if isinstance(value, str)}
    return values, {**valued, **places}


def _line(path: Path, document: Document, *where: str | int) -> str:
    return f"{path.name}, line {document.lines[where]}"
