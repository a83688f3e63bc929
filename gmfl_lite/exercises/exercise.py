"""What every exercise does: check an answer, give a hint, show a solution that runs.

The question itself stands in a notebook, where a student sees it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .marking import NotAttempted, Wrong, require_an_answer

NOT_ATTEMPTED, INCORRECT, CORRECT = "not attempted", "incorrect", "correct"
REGISTRY: dict[str, "Exercise"] = {}
"""All exercises by name."""


@dataclass(frozen=True)
class Note:
    """A text that a notebook shows as Markdown and a terminal as it is."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class Verdict(Note):
    """What became of an answer: a status ("not attempted", "incorrect" or "correct"), and a text that says why."""

    status: str


class Exercise:
    """One exercise: `check` an answer, get a `hint`, see the `solution`.

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

    def __init__(
        self, mark: Callable[[Any], None], notebook: str, solution: Callable[..., Any], hint: str, why: str
    ) -> None:
        self.name, self.notebook, self.solve = mark.__name__, notebook, solution
        self._mark, self._hint, self._why = mark, hint, why
        self.wants_function = bool(inspect.signature(solution).parameters)
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
        return Note(f"```python\n{inspect.getsource(self.solve)}```")

    def answer(self) -> Any:
        """Return the student's answer if it has been found correct, else that of the worked solution."""
        if self._accepted is not None:
            return self._accepted
        return self.solve if self.wants_function else self.solve()


def exercise(
    notebook: str, *, solution: Callable[..., Any], hint: str, why: str
) -> Callable[[Callable[[Any], None]], Exercise]:
    """Make an exercise of a marker, and register it."""

    def register(mark: Callable[[Any], None]) -> Exercise:
        return REGISTRY.setdefault(mark.__name__, Exercise(mark, notebook, solution, hint, why))

    return register
