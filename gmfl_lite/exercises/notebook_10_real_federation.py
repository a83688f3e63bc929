"""How large a crowd hides noise."""

from typing import Any

from .exercise import exercise
from .marking import compare, number


def _mark_crowd(answer: Any) -> None:
    compare(
        number(answer),
        300,
        {
            "The average of m numbers has 1/√m of their standard deviation, not 1/m.": 30,
            "A hundred times as many, yes, but as many as what? The class has three students.": 100,
            "This is how many times as strong the noise is.": 10,
            "The root goes the other way: much more noise needs a much larger crowd.": 3 * 10**0.5,
        },
        what="the number of students",
    )


@exercise(
    mark=_mark_crowd,
    hint="What is the standard deviation of the mean of m independent numbers, if each has the same one?",
    why="Noise is averaged away only as 1/√m, so noise that is ten times as strong needs a hundred times the crowd.",
)
def crowd():
    students, noise, more_noise = 3, 0.03, 0.3
    return round(students * (more_noise / noise) ** 2)  # the noise of an average of m is z·C/√m
