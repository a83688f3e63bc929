"""From which price of sending on fewer rounds win."""

from typing import Any

from .exercise import exercise
from .marking import compare, number


def _mark_price_of_sending(answer: Any) -> None:
    fewer = 40 - 20
    more = 20 * 11.5 - 40 * 4.5
    compare(
        number(answer),
        more / fewer,
        {
            "This is how many gradients more ν = 3 takes in all. How many rounds of sending does it save?": more,
            "Upside down: the gradients that are spent go above the rounds that are saved.": fewer / more,
            "This is how much dearer *one* round of ν = 3 is. It also takes fewer rounds.": 11.5 - 4.5,
            "This is how much dearer a round of ν = 3 is, as a ratio. The question asks for the price of sending.": 11.5
            / 4.5,
            "The sign is wrong: ν = 3 spends more gradients, and saves rounds.": -more / fewer,
            "If sending were free ν = 1 would be cheaper: 180 gradients against 230.": 0,
        },
        what="the price of sending",
    )


@exercise(
    mark=_mark_price_of_sending,
    hint="A round with sending costs its gradients + s. Write down what each method pays until it is at the target, "
    "and set the two equal.",
    why="“Better” needs a currency. Where sending is dear, as between telephones, fewer rounds win; within one "
    "computer they need not.",
)
def price_of_sending():
    # 20 rounds of ν = 3 cost as much as 40 of ν = 1 where 20 · (11.5 + s) = 40 · (4.5 + s).
    return (20 * 11.5 - 40 * 4.5) / (40 - 20)
