"""What every exercise does: check an answer, give a hint, show a solution that runs.

The question itself is in a notebook, where a student sees it.
"""

import ast
import inspect
import sys
import textwrap
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .marking import NotAttempted, Wrong, require_an_answer

NOT_ATTEMPTED, INCORRECT, CORRECT = "not attempted", "incorrect", "correct"
REGISTRY: dict[str, "Exercise"] = {}
"""All exercises by name."""


def printable(text: str, encoding: str | None = None) -> str:
    """Return text as a terminal can print it: where it knows ASCII alone, ν is nu and ½ is 1/2.

    >>> printable("α = ½, not ∇²f…", "ascii")
    'alpha = 1/2, not nabla^2f...'
    """
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    return "".join(sign if _encodes(sign, encoding) else _in_ascii(sign) for sign in text)


def _encodes(sign: str, encoding: str) -> bool:
    try:
        return bool(sign.encode(encoding))
    except UnicodeEncodeError:
        return False


def _in_ascii(sign: str) -> str:
    power = "^" * unicodedata.decomposition(sign).startswith("<super>")
    plain = unicodedata.normalize("NFKD", sign).replace("\N{FRACTION SLASH}", "/").encode("ascii", "ignore").decode()
    return SIGNS.get(sign) or (power + plain if plain else unicodedata.name(sign, "?").split()[-1].lower())


SIGNS = {"−": "-", "–": "-", "—": "-", "·": "*", "×": "x", "≤": "<=", "≥": ">=", "≠": "!=", "‖": "||", "→": "->"}
"""What is written otherwise than its name."""


@dataclass(frozen=True)
class Note:
    """A text that a notebook shows as Markdown and a terminal as it is."""

    text: str

    def __repr__(self) -> str:
        return printable(self.text)

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class Verdict(Note):
    """What became of an answer: a status ("not attempted", "incorrect" or "correct"), and a text that says why."""

    status: str


class Exercise:
    """One exercise: `check` an answer, get a `hint`, see the `solution`. `exercise` makes one of its solution.

    Attributes
    ----------
    name, notebook : what it is called, and where the question stands.
    status : "not attempted", "incorrect", or "correct" once it has been.
    checks : how many answers have been checked.
    saw_hint, saw_solution : whether they have been looked at.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> gl.exercises.first_order_length.check(...)
    **Not attempted yet.** Replace the `...` by your answer and run the cell again.
    >>> gl.exercises.first_order_length.check(1 / 8).status
    'incorrect'
    >>> gl.exercises.first_order_length.check(8).status
    'correct'
    """

    def __init__(self, solve: Callable[..., Any], mark: Callable[[Any], None], hint: str, why: str) -> None:
        self.name, self.solve = solve.__name__, solve
        self.notebook = solve.__module__.rpartition(".")[2].removeprefix("notebook_").strip("_").replace("_", "-")
        self._mark, self._hint, self._why = mark, hint, why
        self.wants_function = bool(inspect.signature(solve).parameters)
        self.forget()

    def __repr__(self) -> str:
        return f"Exercise {self.name} of notebook {self.notebook}: .check(answer), .hint(), .solution()"

    def forget(self) -> None:
        """Set back what `gl.exercises.progress` shows."""
        self.status, self.checks, self.saw_hint, self.saw_solution = NOT_ATTEMPTED, 0, False, False
        self._accepted = None

    def check(self, answer: Any) -> Verdict:
        """Say whether an answer is correct, and if not, what is wrong with it; "not attempted" costs nothing."""
        try:
            require_an_answer(answer)
            self._mark(answer)
        except NotAttempted as open_part:
            return Verdict(f"**Not attempted yet.** {open_part}", NOT_ATTEMPTED)
        except Wrong as wrong:
            verdict = Verdict(f"**Incorrect.** {wrong}", INCORRECT)
        else:
            verdict = Verdict(f"**Correct.** {self._why}", CORRECT)
            self._accepted = answer
        self.checks += 1
        if self.status != CORRECT:  # once solved it stays solved, whatever is tried afterwards
            self.status = verdict.status
        return verdict

    def hint(self) -> Note:
        """Return a push in the right direction."""
        self.saw_hint = True
        return Note(self._hint)

    def solution(self) -> Note:
        """Return the source of a function that solves the exercise; `answer` runs it."""
        self.saw_solution = True
        return Note(f"```python\n{_undecorated_source(self.solve)}```")

    def answer(self) -> Any:
        """Return the student's answer if it has been found correct, else that of the worked solution."""
        if self._accepted is not None:
            return self._accepted
        return self.solve if self.wants_function else self.solve()


def exercise(*, mark: Callable[[Any], None], hint: str, why: str) -> Callable[[Callable[..., Any]], Exercise]:
    """Make an exercise of its worked solution, and register it.

    A solution without parameters returns the answer; one with parameters is the answer. The exercise has the name of
    the solution, and belongs to the notebook that its module is named after.

    Parameters
    ----------
    mark : takes an answer, and raises `Wrong` with what is wrong with it.
    hint : a push in the right direction.
    why : why it matters; said when an answer is correct.

    Raises
    ------
    ValueError : the marker, the hint or the why is missing, or the name is taken in `gl.exercises`.

    Examples
    --------
    >>> from gmfl_lite.exercises.marking import compare
    >>> @exercise(mark=lambda answer: compare(answer, 9, {"Twice three is 6.": 6}), hint="3 · 3", why="3² = 9.")
    ... def three_squared():
    ...     return 3**2
    >>> three_squared.check(6)
    **Incorrect.** Twice three is 6.
    >>> del REGISTRY["three_squared"]  # only an example
    """

    def register(solve: Callable[..., Any]) -> Exercise:
        name = solve.__name__
        has = {"marker": callable(mark), "hint": bool(hint), "why": bool(why)}
        problems = [f"it has no {what}" for what, there in has.items() if not there]
        if name in REGISTRY or hasattr(sys.modules[__package__], name):
            problems.append(f"gl.exercises.{name} is there already, choose another name")
        if problems:
            raise ValueError(f"Exercise {name}: {'; '.join(problems)}.")
        REGISTRY[name] = Exercise(solve, mark, hint, why)
        return REGISTRY[name]

    return register


def every() -> list[Exercise]:
    """Return all exercises, in the order of the notebooks.

    >>> [one.name for one in every()][:3]
    ['look_ahead', 'which_nu', 'read_the_curve']
    """
    return sorted(REGISTRY.values(), key=lambda one: one.notebook)


def progress() -> pd.DataFrame:
    """Return what has been tried and solved in this kernel: a row for each exercise.

    Columns: notebook, status ("correct" once it has been), checks (answers that were not placeholders), and whether the
    hint and the solution have been looked at. Every kernel starts from zero.

    >>> progress().columns.to_list()
    ['notebook', 'status', 'checks', 'hint', 'solution']
    """
    columns = ["notebook", "status", "checks", "hint", "solution"]
    rows = {one.name: (one.notebook, one.status, one.checks, one.saw_hint, one.saw_solution) for one in every()}
    table = pd.DataFrame.from_dict(rows, "index", columns=columns)
    return table.replace({"hint": {True: "seen", False: ""}, "solution": {True: "seen", False: ""}})


def _undecorated_source(function: Callable[..., Any]) -> str:
    """Return a function's source from its `def` on."""
    source = textwrap.dedent(inspect.getsource(function))
    first_line = ast.parse(source).body[0].lineno  # of the `def`, not of the decorators
    return "".join(source.splitlines(keepends=True)[first_line - 1 :])
