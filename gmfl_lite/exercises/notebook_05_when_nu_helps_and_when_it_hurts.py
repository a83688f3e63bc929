"""From which ν on the start changes sides, how to make up for truncation, and a fair step size."""

from typing import Any

import numpy as np

from ..theory import Quadratics
from .exercise import exercise
from .marking import compare, keys, number


def _mark_tipping_nu(answer: Any) -> None:
    pair = Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]])
    truth = next(nu for nu in range(100) if pair.minimiser(nu, 0.1).item() < 0)
    compare(
        number(answer),
        truth,
        {
            "Almost: there the start is still a little on A's side.": truth - 1,
            "The start is on B's side there, but already one step earlier.": truth + 1,
            "Mind the exponent: the distance shrinks by (1 − αa)^ν and the loss is its square, so it is 2ν.": 2 * truth
            - 1,
            "Mind the exponent. The distance shrinks by (1 − αa)^ν; the loss is its square.": 2 * truth - 2,
            "That is the answer for α = 0.5. Here α = 0.1.": 2,
            "ν counts steps: round up to an integer.": np.log(10) / np.log(0.99 / 0.9) / 2,
        },
    )


@exercise(
    mark=_mark_tipping_nu,
    hint="The start is on B's side as soon as B's weight p_B is larger than A's. Set the two equal, take "
    "logarithms, and mind the exponent. Or try ν = 0, 1, 2, … in a loop.",
    why="With α = 0.5 two steps were enough. What counts is how far fine-tuning gets, about α times ν: a smaller "
    "step size means looking further ahead for the same effect.",
)
def tipping_nu():
    a, c, fine_tune_lr, nu = np.array([1.0, 0.1]), np.array([1.0, -1.0]), 0.1, 0
    while True:
        weights = a * (1 - fine_tune_lr * a) ** (2 * nu)
        if (weights * c).sum() / weights.sum() < 0:
            return nu
        nu += 1


def _mark_undo_truncation(answer: Any) -> None:
    truth = {"first-order": 8, "two factors kept": 6}
    keys(answer, truth)
    messages = {
        "first-order": {
            "This goes the wrong way: ask for *more* steps than you want, not for fewer.": 2,
            "Asked for 4, first-order gradients train for 2.": 4,
        },
        "two factors kept": {
            "This trains for (4 + 2)/2 = 3 steps.": 4,
            "This is the answer without any factor kept. The two factors count.": 8,
            "This goes the wrong way: it trains for (ν + m)/2 steps, fewer than ν.": 3,
        },
    }
    for name, value in answer.items():
        compare(number(value, f"the ν for {name!r}"), truth[name], messages[name], what=f"the ν for {name!r}")


@exercise(
    mark=_mark_undo_truncation,
    hint="A gradient for ν steps that keeps m factors is the exact one for how many steps? Turn this round: the "
    "number of steps is given, ν is asked.",
    why="Truncation trains for fewer steps than it says. Who knows this can have the start for ν steps at a lower "
    "price. For losses that are not quadratic it is a rule of thumb.",
)
def undo_truncation():
    wanted = 4  # = (ν + m) / 2
    return {"first-order": 2 * wanted - 0, "two factors kept": 2 * wanted - 2}


def _mark_fair_beta(answer: Any) -> None:
    compare(
        number(answer),
        10,
        {
            "Upside down: a flatter loss allows a *larger* step.": 0.025,
            "This is FedAvg's step size. On a loss that is 20 times as flat it is 20 times too short.": 0.5,
            "This is 1 / L_F itself. FedAvg takes only a part of its own 1 / L_F: the same part is asked for.": 12.5,
            "This is FedAvg's 1 / L_F. Which part of it is 0.5, and how much is that part of the other 1 / L_F?": 0.625,
            "This is the fraction. How much is it of the 1 / L_F of ν = 10?": 0.8,
            "These are how many times flatter the meta-loss is. What follows for β?": 20,
        },
    )


@exercise(
    mark=_mark_fair_beta,
    hint="What part of the safe step size 1 / L_F does FedAvg take? Give the other one the same part of its own.",
    why="Who compares both at the β of one of them measures step sizes, not methods.",
)
def fair_beta():
    part = 0.5 * 1.6  # β L_F of FedAvg
    return part / 0.08
