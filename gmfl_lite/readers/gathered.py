"""Agents as people have them, a dict of arrays or a table with a row for each sample, as tensors and lists of rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..basics import checks


@dataclass(frozen=True, eq=False)
class Gathered:
    """All agents' samples in two tensors, and whose they are.

    Attributes
    ----------
    x, y, classes : as in a Dataset.
    names : the agents', or None.
    train : the rows of each agent, to be split into those it trains on and those it is scored on.
    test : the rows that each agent is scored on, where these were given: then `train` are the others.
    """

    x: torch.Tensor
    y: torch.Tensor
    classes: tuple[str, ...] | None
    names: tuple[str, ...] | None
    train: list[np.ndarray]
    test: list[np.ndarray] | None


def from_agents(agents: Any, test: Any, classes: Iterable[Any] | None) -> Gathered:
    """Put together what each agent holds, {name: (x, y)} or a list of pairs; `test` in the same form.

    Raises
    ------
    ValueError : naming the agent, and what is wrong with its samples.
    """
    held = _pairs("agents", agents)
    names = tuple(map(str, agents)) if isinstance(agents, Mapping) else None
    both = [held]
    if test is not None:
        if isinstance(test, Mapping) != isinstance(agents, Mapping) or len(test) != len(agents):
            raise ValueError(f"test: must hold one (x, y) for each of the {len(held)} agents, in the form of `agents`")
        if isinstance(test, Mapping):
            if missing := [name for name in agents if name not in test]:
                raise ValueError(f"test: holds nothing of agent {missing[0]!r}")
            test = {name: test[name] for name in agents}
        both.append(_pairs("test", test))
    arrays = [(of, *_arrays(of, x, y)) for pairs in both for of, (x, y) in pairs]
    first = arrays[0]
    for of, x, y in arrays:
        for what, mine, other in (("x", x, first[1]), ("y", y, first[2])):
            if mine.shape[1:] != other.shape[1:]:
                shapes = f"{list(mine.shape[1:])}, and those of {first[0]} {list(other.shape[1:])}"
                raise ValueError(f"{of}: a sample's {what} has the shape {shapes}; all must have the same")
    samples = torch.cat([torch.from_numpy(x) for _, x, _ in arrays])
    kinds = {_is_numbers(y) for _, _, y in arrays}
    if len(kinds) > 1:
        raise ValueError("agents: some y are numbers to predict (floats) and others are labels; they must be alike")
    y = np.concatenate([y if y.dtype.kind in "biuf" else y.astype(object) for _, _, y in arrays])
    targets, names_of_classes = _numbers(y) if kinds == {True} else _labels(y, classes)
    ends = np.cumsum([len(x) for _, x, _ in arrays])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    return Gathered(samples, targets, names_of_classes, names, rows[: len(held)], rows[len(held) :] or None)


def from_frame(
    frame: Any, agent: Any, label: Any, features: Sequence[Any] | None, numbers: bool, classes: Iterable[Any] | None
) -> Gathered:
    """Put together a table with a row for each sample: whose it is, what is to be predicted, and the features.

    Raises
    ------
    ValueError : naming the column, and what is wrong with it.
    """
    if not isinstance(frame, pd.DataFrame):
        raise checks.refusal("frame", type(frame).__name__, "a pandas.DataFrame, as pd.read_csv gives")
    labels = list(label) if isinstance(label, list) else [label]
    for name, column in (("agent", agent), *(("label", column) for column in labels)):
        _column(name, column, frame)
    chosen = [c for c in frame.columns if c != agent and c not in labels] if features is None else list(features)
    if not chosen:
        raise ValueError("features: there is no column left to predict from")
    for column in chosen:
        _column("features", column, frame)
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise ValueError(
                f"features: column {column!r} holds {frame[column].dtype} and no numbers; leave it out (features=[…]) "
                f"or code it as numbers (pd.get_dummies)"
            )
    used = frame[[agent, *labels, *chosen]]
    if empty := {str(column): int(n) for column, n in used.isna().sum().items() if n}:
        column, n = next(iter(empty.items()))
        raise ValueError(f"frame: {n} rows have nothing in column {column!r}; drop them (frame.dropna()) or fill them")
    x = torch.from_numpy(frame[chosen].to_numpy(np.float32))
    if not x.isfinite().all():
        column = chosen[int((~x.isfinite()).any(0).nonzero()[0, 0])]
        raise ValueError(f"features: column {column!r} holds infinite values")
    if numbers:
        y, names_of_classes = _numbers(frame[labels].to_numpy(np.float64))
    elif len(labels) > 1:
        raise checks.refusal("label", labels, "one column, or several with numbers=True")
    else:
        column = frame[label]
        if column.dtype.kind == "f" and column.nunique() > 20 and (column % 1 != 0).any():
            raise ValueError(f"label: column {label!r} holds {column.nunique()} different numbers; give numbers=True")
        y, names_of_classes = _labels(_words(column), classes)
    whose = _words(frame[agent])
    codes, found = pd.factorize(whose)
    order = np.argsort(codes, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return Gathered(x, y, names_of_classes, tuple(map(str, found)), rows, None)


def _pairs(what: str, agents: Any) -> list[tuple[str, tuple[Any, Any]]]:
    if not isinstance(agents, (Mapping, list, tuple)) or not len(agents):
        raise checks.refusal(what, type(agents).__name__, "a dict {name: (x, y)} or a list of pairs, not empty")
    named = agents.items() if isinstance(agents, Mapping) else enumerate(agents)
    found = []
    for name, pair in named:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"{what}[{name!r}]: must be a pair (x, y), got {type(pair).__name__}")
        found.append((f"{what}[{name!r}]", (pair[0], pair[1])))
    return found


def _arrays(of: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return one agent's samples as float32 or int64, and its y as it is."""
    x, y = (part.numpy(force=True) if isinstance(part, torch.Tensor) else np.asarray(part) for part in (x, y))
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        counts = [len(part) if part.ndim else "no" for part in (x, y)]
        raise ValueError(f"{of}: x and y must have as many samples, got {counts[0]} and {counts[1]}")
    if not len(x):
        raise ValueError(f"{of}: holds no samples; leave it out")
    if x.dtype.kind not in "fiub" or x.dtype == np.uint8:
        hint = "divide pixels by 255, or make tokens int64" if x.dtype == np.uint8 else "give numbers"
        raise ValueError(f"{of}: x is of {x.dtype}; {hint}")
    x = x.astype(np.int64 if x.dtype.kind in "iu" else np.float32)
    for what, part in (("x", x), ("y", y)):
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise ValueError(f"{of}: {what} holds NaN or infinite values; drop these samples or fill them")
    return x.reshape(len(x), -1) if x.ndim == 1 else x, y


def _is_numbers(y: np.ndarray) -> bool:
    return y.dtype.kind == "f"


def _numbers(y: np.ndarray) -> tuple[torch.Tensor, None]:
    if not np.isfinite(y).all():
        raise ValueError("y: holds NaN or infinite values; drop these samples or fill them")
    return torch.from_numpy(y.astype(np.float32)).reshape(len(y), *(y.shape[1:] or (1,))), None


def _labels(y: np.ndarray, classes: Iterable[Any] | None) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return labels of any type as numbers from 0, and the classes' names."""
    plain = y.reshape(-1)
    given = None if classes is None else list(classes)
    found = sorted(set(plain.tolist()), key=lambda label: (type(label).__name__, label))
    if given is None:
        given = found
    unknown = [label for label in found if label not in given]
    if unknown and all(isinstance(label, int) and 0 <= label < len(given) for label in found):  # they count the classes
        numbers = plain.astype(np.int64)
    elif unknown:
        raise ValueError(f"classes: label {unknown[0]!r} is none of {', '.join(map(repr, given[:10]))}")
    else:
        place = {label: number for number, label in enumerate(given)}
        numbers = np.array([place[label] for label in plain.tolist()], np.int64)
    if len(given) < 2:
        raise ValueError(f"y: all samples are of one class, {given[0]!r}; there is nothing to tell apart")
    return torch.from_numpy(numbers.reshape(y.shape)), tuple(map(str, given))


def _column(name: str, column: Any, frame: pd.DataFrame) -> None:
    if column not in frame.columns:
        columns = [str(each) for each in frame.columns]
        near = checks.nearest(column, columns)
        raise ValueError(f"{name} = {column!r}: is no column of {', '.join(columns[:20])}{near}")


def _words(column: "pd.Series[Any]") -> np.ndarray:
    """Return a column's values without spaces and carriage returns around words."""
    values = [value.strip() if isinstance(value, str) else value for value in column.tolist()]
    words = np.empty(len(values), object)
    words[:] = values
    return words
