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
    arrays = [(of, *arrays_of(of, x, y)) for pairs in both for of, (x, y) in pairs]
    first = arrays[0]
    for of, x, y in arrays:
        if (y.dtype.kind == "f") != (first[2].dtype.kind == "f"):
            kinds = ["labels", "numbers to predict (floats)"][:: -1 if y.dtype.kind == "f" else 1]
            raise ValueError(f"{of}: y are {kinds[0]}, and those of {first[0]} {kinds[1]}; they must be alike")
        for what, mine, other in (("x", x, first[1]), ("y", y, first[2])):
            if mine.shape[1:] != other.shape[1:]:
                shapes = f"{list(mine.shape[1:])}, and those of {first[0]} {list(other.shape[1:])}"
                raise ValueError(f"{of}: a sample's {what} has the shape {shapes}; all must have the same")
    samples = torch.cat([torch.from_numpy(x) for _, x, _ in arrays])
    y = np.concatenate([y if y.dtype.kind in "biuf" else y.astype(object) for _, _, y in arrays])
    targets, names_of_classes = _numbers(y, classes) if y.dtype.kind == "f" else _labels(y, classes)
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
    if frame.empty:
        raise ValueError("frame: is empty; it must have a row for each sample")
    labels = list(label) if isinstance(label, list) else [label]
    if len(labels) > 1 and not numbers:
        raise checks.refusal("label", labels, "one column, or several with numbers=True")
    chosen = [features] if isinstance(features, str) else list(frame.columns if features is None else features)
    if features is None:
        chosen = [column for column in chosen if column != agent and column not in labels]
    if not chosen or not labels:
        raise ValueError(
            f"{'features' if labels else 'label'}: there is no column left to predict{' from' * bool(labels)}"
        )
    named = [("agent", agent), *(("label", each) for each in labels), *(("features", each) for each in chosen)]
    for name, column in named:
        _column(name, column, frame)
    for name, column in named[1:]:
        if column == agent or (name == "features" and column in labels):
            also = "agent" if column == agent else "label"
            raise checks.refusal(name, column, f"another column than {also}={column!r}")
    used = frame[list(dict.fromkeys(column for _, column in named))].infer_objects()
    if empty := {column: int(n) for column, n in used.isna().sum().items() if n}:
        column, n = next(iter(empty.items()))
        advice = "drop them (frame.dropna(subset=[…])) or fill them"
        raise ValueError(f"frame: {n} rows have nothing in column {column!r}; {advice}")
    x = torch.from_numpy(_as_numbers("features", used[chosen], "leave it out (features=[…]) or code it"))
    if numbers:
        y, names_of_classes = _numbers(
            _as_numbers("label", used[labels], "leave out numbers=True, or code it"), classes
        )
    else:
        column = used[labels[0]]
        n_found = column.nunique() if column.dtype.kind in "iuf" else 0
        parts = column.dtype.kind == "f" and (column % 1 != 0).any()
        if classes is None and n_found > 20 and (parts or 2 * n_found > len(column)):
            advice = "give numbers=True, or classes=… if they are classes"
            raise ValueError(f"label: column {labels[0]!r} holds {n_found} different numbers; {advice}")
        y, names_of_classes = _labels(_typed(f"label: column {labels[0]!r}", _words(column)), classes)
    whose = _words(used[agent])
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


def arrays_of(of: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return one agent's samples as float32 or int64, and its y as float32 or as labels of any type.

    Raises
    ------
    ValueError : beginning with `of`, what is wrong with them.
    """
    x, y = _array(f"{of}: x", x), _typed(f"{of}: y", y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        counts = [len(part) if part.ndim else "no" for part in (x, y)]
        raise ValueError(f"{of}: x and y must have as many samples, got {counts[0]} and {counts[1]}")
    if not len(x):
        raise ValueError(f"{of}: holds no samples; leave it out")
    if x.dtype.kind not in "fiub" or x.dtype == np.uint8 or not x.size:
        hint = "divide pixels by 255, or make tokens int64" if x.dtype == np.uint8 else "give numbers"
        raise ValueError(f"{of}: x is of {x.dtype}, {list(x.shape)}; {hint}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        x = x.astype(np.int64 if x.dtype.kind in "iu" else np.float32)
        y = y.astype(np.float32) if y.dtype.kind == "f" else y
    for what, part in (("x", x), ("y", y)):
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise ValueError(f"{of}: {what} holds NaN or infinite values; drop these samples or fill them")
    return x.reshape(len(x), -1) if x.ndim == 1 else x, y


def one_agent(x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return somebody's samples as tensors: x, and the numbers of their classes or floats to predict.

    Raises
    ------
    ValueError : what is wrong with them.
    """
    x, y = arrays_of("samples", x, y)
    if y.dtype.kind not in "fiub":
        raise ValueError("samples: y holds words; give the numbers of their classes, from 0")
    return torch.from_numpy(x), _numbers(y, None)[0] if y.dtype.kind == "f" else torch.from_numpy(y.astype(np.int64))


def _array(of: str, part: Any) -> np.ndarray:
    if isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part):
        raise ValueError(f"{of} holds masked values; drop these samples or fill them")
    if isinstance(part, torch.Tensor):  # NumPy has no bfloat16
        return (part.float() if part.dtype == torch.bfloat16 else part).numpy(force=True)
    try:
        return np.asarray(part)
    except ValueError as error:
        raise ValueError(f"{of} holds samples of different shapes; all must have the same") from error


def _typed(of: str, y: Any) -> np.ndarray:
    """Return y as floats, or as labels of any type; among words NumPy would make a word of None and of a number."""
    found = _array(of, y)
    if found.dtype.kind in "mM" and not np.isnat(found).any():
        return found.astype(str)
    if found.dtype.kind in "biuf":
        return found
    found = np.asarray(y, object)
    if missing := int(pd.isna(found).sum()):
        raise ValueError(f"{of} holds nothing (None or NaN) in {missing} places; drop these samples or fill them")
    kinds = {type(value) for value in found.flat}
    if any(issubclass(kind, (float, np.floating)) for kind in kinds):
        if not all(issubclass(kind, (int, float, np.number)) for kind in kinds):
            raise ValueError(f"{of} holds words and numbers; give words alone, or numbers alone")
        return found.astype(np.float64)
    if wrong := [
        kind.__name__ for kind in kinds if kind.__hash__ is None or issubclass(kind, (complex, np.complexfloating))
    ]:
        raise ValueError(f"{of} holds {wrong[0]}; labels are words, whole numbers or True and False")
    return found


def _numbers(y: np.ndarray, classes: Iterable[Any] | None) -> tuple[torch.Tensor, None]:
    if classes is not None:
        raise ValueError("classes: y are numbers to predict, which have none; leave it out, or give labels")
    return torch.from_numpy(y).reshape(len(y), *(y.shape[1:] or (1,))), None


def _labels(y: np.ndarray, classes: Iterable[Any] | None) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return labels of any type as numbers from 0, and the classes' names."""
    plain = y.reshape(-1)
    if classes is None and y.ndim == 1 and y.dtype.kind in "iu" and (n := len(np.unique(y))) > 20 and 2 * n > len(y):
        raise ValueError(f"y: holds {n} different whole numbers; make them floats to predict them, or give classes=…")
    found = sorted(set(plain.tolist()), key=lambda label: (type(label).__name__, label))
    given = found if classes is None else list(classes)
    names = tuple(map(str, given))
    place = {label: number for number, label in enumerate(given)}
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"classes: two have the name {twice!r}; give each one of its own")
    unknown = [label for label in found if label not in place]
    counts = all(isinstance(label, (int, np.integer)) and 0 <= label < len(given) for label in found)
    if unknown and counts and all(isinstance(label, str) for label in given):  # these are the names of 0, 1, …
        numbers = plain.astype(np.int64)
    elif unknown:
        raise ValueError(f"classes: label {unknown[0]!r} is none of {', '.join(map(repr, given[:10]))}")
    else:
        numbers = np.array([place[label] for label in plain.tolist()], np.int64)
    if len(given) < 2:
        raise ValueError(f"y: all samples are of one class, {given[0]!r}; there is nothing to tell apart")
    return torch.from_numpy(numbers.reshape(y.shape)), names


def _column(name: str, column: Any, frame: pd.DataFrame) -> None:
    if isinstance(column, (list, dict, set)):
        raise checks.refusal(name, column, "the name of one column")
    if column not in frame.columns:
        columns = [str(each) for each in frame.columns]
        near = checks.nearest(column, columns)
        raise ValueError(f"{name} = {column!r}: is no column of {', '.join(columns[:20])}{near}")
    if isinstance(frame[column], pd.DataFrame):
        raise ValueError(f"{name} = {column!r}: several columns have this name; give each one of its own")


def _as_numbers(name: str, columns: pd.DataFrame, hint: str) -> np.ndarray:
    for column, dtype in columns.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
            raise ValueError(f"{name}: column {column!r} holds {dtype} and no numbers; {hint} as numbers")
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        found = columns.to_numpy(np.float32, copy=True)  # the table stays its owner's
    if not np.isfinite(found).all():
        column = columns.columns[int((~np.isfinite(found)).any(0).argmax())]
        raise ValueError(f"{name}: column {column!r} holds infinite values; drop these rows or fill them")
    return found


def _words(column: "pd.Series[Any]") -> np.ndarray:
    """Return a column's values without spaces and carriage returns around words, and 3 for 3.0 if all are whole."""
    if column.dtype.kind == "f" and (column % 1 == 0).all():
        column = column.astype("int64")
    values = [value.strip() if isinstance(value, str) else value for value in column.tolist()]
    words = np.empty(len(values), object)
    words[:] = values
    return words
