"""One way to refuse a wrong value: an error that names the field, the value and what is allowed."""

import difflib
import math
from collections.abc import Iterable, Mapping
from itertools import islice
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
"""Arrays, or NumPy's scalars for single numbers: these do what is asked of arrays, but do not have their type."""


ROOM = 100
"""How many characters of a message a value may take."""


def refusal(name: str, value: Any, allowed: str) -> ValueError:
    """Return (not raise) the error that every check raises, so that special checks read alike.

    A value that takes much room is shortened and comes last: what is allowed stays in sight.

    >>> refusal("params", [np.zeros((80, 64))], "a non-empty dict of tensors")
    ValueError('params: must be a non-empty dict of tensors, got a list of 1: ndarray float64 [80, 64]')
    """
    text, whole = _shown(value, ROOM)
    return ValueError(f"{name} = {text}: must be {allowed}" if whole else f"{name}: must be {allowed}, got {text}")


def shown(value: Any, room: int = ROOM) -> str:
    """Return a value as a message shows it: as Python writes it if that is short, else what it is and how it begins.

    >>> shown([0, 1]), shown(list(range(1000))), shown(np.zeros((80, 64)))
    ('[0, 1]', 'a list of 1000: 0, 1, 2, …', 'ndarray float64 [80, 64]')
    """
    return _shown(value, room)[0]


def _shown(value: Any, room: int) -> tuple[str, bool]:
    """Return the text, and whether it is the whole value."""
    value = value.item() if isinstance(value, np.generic) else value
    kind, shape = type(value).__name__, getattr(value, "shape", None)
    if isinstance(shape, tuple) and (len(shape) > 1 or shape > (8,)):  # an array, a tensor, a table
        dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
        return " ".join(filter(None, (kind, dtype, str(list(shape))))), False
    holds = isinstance(value, (list, tuple, set, frozenset, Mapping))
    if holds and room < 4:  # lists in lists, of which one may hold itself
        return "…", False
    if not holds or len(value) <= 20:
        try:
            text = " ".join(repr(value).split())
        except Exception:  # somebody else's
            return f"<{kind}>", False
        room = 2 * room if isinstance(value, str) else room  # such as a path, of which both ends count
        if len(text) <= room:
            return text, True
        if not holds:
            end = room // 2 if isinstance(value, str) else 0
            return f"{text[: room - end - 1]}…{text[len(text) - end :]}", False
    article = "an" if kind[0] in "AEIOUaeiou" else "a"
    begins, text = [], f"{article} {kind} of {len(value)}"
    for key in islice(value, 3):
        each = shown(key, room // 3)
        begins.append(f"{each}: {shown(value[key], room // 3)}" if isinstance(value, Mapping) else each)
        if len(text) + sum(map(len, begins)) > room:
            return f"{text}: {', '.join(begins[:-1])}, …" if begins[:-1] else text, False
    return f"{text}: {', '.join(begins)}" + ", …" * (len(value) > 3), False


def first(texts: Iterable[Any], most: int = 8) -> list[str]:
    """Return texts, of many the first and how many more there are.

    >>> first("abc"), first("abc", most=1)
    (['a', 'b', 'c'], ['a', 'and 2 more'])
    """
    listed = [str(text) for text in texts]
    return listed[:most] + [f"and {len(listed) - most} more"] * (len(listed) > most)


def few(names: Iterable[Any], most: int = 8) -> str:
    """Return names in a row, of many the first."""
    short = (name if isinstance(name, str) and len(name) <= 40 else shown(name, 20) for name in names)
    return ", ".join(first(short, most))


def first_line(error: BaseException) -> str:
    """Return what an error of somebody else's says, to be quoted in a message of one's own."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int in [low, high].

    >>> integer("nu", np.int64(3), 0)
    3
    >>> integer("nu", -1, 0)
    Traceback (most recent call last):
    ValueError: nu = -1: must be an integer of at least 0
    """
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        raise refusal(
            name, value, f"an integer of at least {low}" + (f" and at most {high}" if high is not None else "")
        )
    return int(value)


def number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Return `value` as a finite float in [low, high], or in (low, high) if `above`.

    >>> number("fine_tune_lr", 1, 0)
    1.0
    >>> number("alpha", 0, 0, above=True)
    Traceback (most recent call last):
    ValueError: alpha = 0: must be a finite number above 0
    """
    exact = value if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    try:
        found = float(exact)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or not (low < found < high if above else low <= found <= high):
        lower, upper = ("above", "below") if above else ("of at least", "at most")
        bound = f" and {upper} {high:g}" if high < math.inf else ""
        raise refusal(name, value, f"a finite number {lower} {low:g}{bound}")
    return found


def share(name: str, value: Any) -> float:
    """Return `value` as a float in [0, 1).

    >>> share("label_noise", 1)
    Traceback (most recent call last):
    ValueError: label_noise = 1: must be a finite number of at least 0, and below 1
    """
    if number(name, value, 0) >= 1:
        raise refusal(name, value, "a finite number of at least 0, and below 1")
    return float(value)


def numbers(name: str, value: Any, low: float = -math.inf, *, above: bool = False) -> Floats:
    """Return `value`, a number or an array of numbers, as finite float64 of at least (or above) `low`.

    >>> numbers("fine_tune_lr", [0.1, 1], 0)
    array([0.1, 1. ])
    """
    array = _array(value)
    if array.ndim == 0 and low > -math.inf:
        return np.float64(number(name, array.item() if array.dtype.kind in "fiu" else value, low, above=above))  # type: ignore[return-value]
    allowed = np.isfinite(array) if array.dtype.kind in "fiu" else np.zeros(1, bool)
    if not allowed.all() or not (array > low if above else array >= low).all():
        bound = "" if low == -math.inf else f" {'above' if above else 'of at least'} {low:g}"
        raise refusal(name, value, f"finite numbers{bound}")
    return array.astype(np.float64)


def integers(name: str, value: Any, low: int) -> Integers:
    """Return `value`, an integer or an array of integers, as int64 of at least `low`.

    >>> integers("nu", range(3), 0)
    array([0, 1, 2])
    """
    array = _array(value)
    if array.ndim == 0:
        return np.int64(integer(name, array.item() if array.dtype.kind in "iu" else value, low))  # type: ignore[return-value]
    if array.dtype.kind not in "iu" or not (array >= low).all():
        raise refusal(name, value, f"integers of at least {low}")
    return array.astype(np.int64)


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError):  # rows of different lengths, tensors on another device
        return np.asarray(None)


def choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of the `allowed` words; otherwise name them and the nearest.

    >>> choice("gradient", "exakt", ["exact", "first_order"])
    Traceback (most recent call last):
    ValueError: gradient = 'exakt': must be one of 'exact', 'first_order' (did you mean 'exact'?)
    """
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise refusal(name, value, "one of " + ", ".join(map(repr, allowed)) + nearest(value, allowed))
    return str(value)


def nearest(word: Any, words: Iterable[str]) -> str:
    """Return " (did you mean …?)" for a misspelled word, or nothing."""
    match = difflib.get_close_matches(word, list(words), n=1) if isinstance(word, str) else []
    return f" (did you mean {match[0]!r}?)" if match else ""


def class_names(value: Any) -> tuple[str, ...]:
    """Return the names of classes as text.

    >>> class_names(range(3)), class_names(np.array(["cat", "dog"]))
    (('0', '1', '2'), ('cat', 'dog'))
    >>> class_names(["cat", "dog", "cat"])
    Traceback (most recent call last):
    ValueError: classes: must have different names, but labels 0 and 2 are both 'cat'
    """
    if not isinstance(value, Iterable) or isinstance(value, Mapping | set | frozenset):
        raise refusal("classes", value, "the names of the classes in the order of their labels, such as range(10)")
    found = tuple(map(str, value.tolist() if hasattr(value, "tolist") else value))
    places: dict[str, int] = {}
    for label, name in enumerate(found):
        if places.setdefault(name, label) != label:
            both = f"labels {places[name]} and {label} are both {shown(name)}"
            raise ValueError(f"classes: must have different names, but {both}")
    return found


def labels(name: str, value: Any) -> Integers:
    """Return `value` as a one-dimensional array of non-negative integers, without touching the original."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu" or array.min() < 0:
        found = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"{name}: must be a non-empty one-dimensional array of integers from 0, got {found}")
    return array.astype(np.int64)


def disjoint(parts: Any, n_samples: int, *, least: int = 2, name: str = "parts") -> list[Integers]:
    """Return the indices of each agent's samples, at least two (or `least`) each and none twice, as int64 arrays.

    >>> disjoint([[0, 1], [1, 2]], 3)
    Traceback (most recent call last):
    ValueError: parts: must be disjoint, but sample 1 is held 2 times
    """
    if not isinstance(parts, (list, tuple, np.ndarray)) or not len(parts):
        raise refusal(name, parts, "a list that holds at least one agent's indices")
    found = [labels(f"{name}[{agent}]", part) for agent, part in enumerate(parts)]
    everything = np.concatenate(found)
    sizes = np.array([len(part) for part in found])
    if sizes.min() < least:
        raise ValueError(f"{name}[{sizes.argmin()}]: must hold at least 2 samples, one to train on and one to score")
    if everything.max() >= n_samples:
        agent = np.repeat(np.arange(len(found)), sizes)[everything.argmax()]
        raise ValueError(f"{name}[{agent}]: index {everything.max()} is beyond the dataset's {n_samples} samples")
    times = np.bincount(everything)
    if times.max() > 1:
        raise ValueError(f"{name}: must be disjoint, but sample {times.argmax()} is held {times.max()} times")
    return found
