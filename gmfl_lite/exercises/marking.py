"""What markers are made of: a marker takes an answer, and raises `Wrong` with what is wrong with it."""

import dis
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..basics.checks import shown


class NotAttempted(Exception):
    """There is no answer yet; says what is still open."""


class Wrong(Exception):
    """What is wrong with an answer, in words for the student."""


def require_an_answer(answer: Any) -> None:
    """Raise NotAttempted where a placeholder is left: None, `...`, a collection that holds one, an empty function."""
    if answer is None or answer is ...:
        raise NotAttempted("Replace the `...` by your answer and run the cell again.")
    if isinstance(answer, (dict, list, tuple)):
        parts = answer.items() if isinstance(answer, dict) else enumerate(answer, 1)
        left = [str(name) for name, part in parts if _is_open(part, (id(answer),))]
        if left:
            raise NotAttempted(f"Still to be filled in: {', '.join(left)}.")
    if inspect.isfunction(answer) and _is_empty(answer):
        raise NotAttempted(f"Write the body of `{answer.__name__}` in place of the `...` and run the cell again.")


def _is_open(part: Any, within: tuple[int, ...]) -> bool:
    if part is None or part is ...:
        return True
    if not isinstance(part, (list, tuple)):
        return False
    if id(part) in within or len(within) > DEEPEST:
        raise Wrong("Your answer holds itself, or lists in lists without end.")
    return any(_is_open(inner, (*within, id(part))) for inner in part)


def _is_empty(function: Callable[..., Any]) -> bool:
    """Say whether a function does nothing but return None or `...`."""
    does = [step for step in dis.get_instructions(function) if step.opname not in ("RESUME", "NOP", "COPY_FREE_VARS")]
    return all(step.opname.startswith(("LOAD_CONST", "RETURN")) for step in does) and all(
        step.argval is None or step.argval is ... for step in does if "CONST" in step.opname
    )


DEEPEST = 20
"""How deep lists in lists may lie in an answer."""


def call(function: Any, *arguments: Any, given: str) -> Any:
    """Call a student's function; whatever goes wrong in it is told as `Wrong`, with the line and what was `given`.

    So is an exit, which would end the kernel, and the interrupt with which a student ends an endless loop.
    """
    if not callable(function):
        raise Wrong("Give `check` the function itself, without calling it: its name, and no parentheses after it.")
    try:
        result = function(*arguments)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        step, line = error.__traceback__, None
        while step is not None:
            if step.tb_frame.f_code is getattr(function, "__code__", None):
                line = step.tb_lineno - function.__code__.co_firstlineno + 1
            step = step.tb_next
        where = f" in its line {line}" if line else ""
        if isinstance(error, KeyboardInterrupt):
            advice = "Does every loop in it come to an end?"
            raise Wrong(f"Your function was interrupted{where} {given}. {advice}") from None
        if isinstance(error, SystemExit):
            raise Wrong(f"Your function exits{where} {given}, and gives no answer: use `return`.") from None
        raise Wrong(f"Your function stopped{where} {given}: `{type(error).__name__}: {_said(error)}`.") from error
    if result is None:
        raise Wrong("Your function returns nothing. Is there a `return` at its end?")
    if result is ...:
        raise NotAttempted(f"`{function.__name__}` returns the `...` of the question still.")
    return result


def number(value: Any, what: str = "the answer") -> float:
    """Return one number as a float."""
    array = numbers(value, what)
    if array.size != 1:
        raise Wrong(f"One number is asked for: {what} has shape {array.shape}.")
    return array.item()


def numbers(value: Any, what: str = "the answer") -> np.ndarray:
    """Return numbers, a list of them, an array or a tensor as float64."""
    try:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError
        array = array.astype(float)
    except Exception:  # an object of the student's own may raise anything
        raise Wrong(f"Numbers are asked for. You gave {_short(value)} for {what}.") from None
    if not np.isfinite(array).all():
        raise Wrong(f"There is a NaN or an infinity in {what}. Is something divided by zero, or the logarithm of zero?")
    return array


def keys(value: Any, wanted: Mapping[str, Any]) -> None:
    """Check that an answer is a dict with the keys that the question gave it."""
    if not isinstance(value, dict):
        raise Wrong(f"Keep the dict of the question: this is {_short(value)}.")
    if set(value) != set(wanted):
        raise Wrong(f"Keep the names on the left of the colons: {', '.join(map(repr, wanted))}.")


def compare(
    value: Any,
    truth: ArrayLike,
    mistakes: Mapping[str, ArrayLike] | None = None,
    *,
    what: str = "your result",
    entries: Sequence[str] = (),
    rtol: float = 2e-3,
) -> None:
    """Raise Wrong unless `value` is the truth.

    Parameters
    ----------
    mistakes : what to say -> the value that would come of it.
    what : what the value is called in messages.
    entries : names for the entries of a list whose parts are answers of their own.
    rtol : how far off a value may be, as a share of the truth's length.

    Examples
    --------
    >>> compare(6, 9, {"Squared, not doubled.": 6})
    Traceback (most recent call last):
    gmfl_lite.exercises.marking.Wrong: Squared, not doubled.
    """
    truth, value = np.asarray(truth, float), numbers(value, what)
    if value.size == truth.size == 1:  # a tensor of shape [1] is a number, too
        value, truth = value.reshape(()), truth.reshape(())
    if _close(value, truth, rtol):
        return
    for message, wrong in (mistakes or {}).items():
        if _close(value, np.asarray(wrong, float), rtol):
            raise Wrong(message)
    if entries and value.shape == truth.shape:
        for name, one, other in zip(entries, value, truth, strict=False):
            compare(one, other, what=name, rtol=rtol)
    raise Wrong(f"{what[0].upper()}{what[1:]} {_describe(value, truth, rtol)}")


def _close(value: np.ndarray, truth: np.ndarray, rtol: float) -> bool:
    return value.shape == truth.shape and bool(np.linalg.norm(value - truth) <= rtol * np.linalg.norm(truth) + 1e-12)


def _describe(value: np.ndarray, truth: np.ndarray, rtol: float) -> str:
    """Say how a value differs from the truth, without giving the truth away."""
    if value.shape != truth.shape:
        return f"has shape {value.shape}, but {truth.shape} is needed."
    if value.ndim == 2 and _close(value.T, truth, rtol):
        return "is transposed."
    if _close(-value, truth, rtol):
        return "has the right size, but the opposite sign."
    if truth.ndim == 0:
        return f"({value:.4g}) is too {'large' if value > truth else 'small'}."
    if value.any() and truth.any():
        length = np.linalg.norm(value) / np.linalg.norm(truth)
        cosine = (value * truth).sum() / np.linalg.norm(value) / np.linalg.norm(truth)
        if math.isclose(cosine, 1, abs_tol=1e-5):
            return f"points the right way, but is {length:.3g} times as long as it should be."
        angle = math.degrees(math.acos(max(min(cosine, 1), -1)))
        return f"is off: {length:.3g} times as long as it should be, and turned by {angle:.0f}°."
    return "is off."


def _short(value: Any) -> str:
    return f"`{shown(value, 40)}`"


def _said(error: BaseException) -> str:
    try:
        return f"{error!s:.300}"
    except Exception:  # an error of the student's own
        return "…"
