"""Two gradients, two halves, and how far Adam goes."""

from typing import Any

import numpy as np

from .exercise import exercise
from .marking import Wrong, call, compare, keys, number, numbers


def _mark_two_gradients(answer: Any) -> None:
    truth = {"same sample": -1 / 16, "another sample": -9 / 16}
    keys(answer, truth)
    mistakes: dict[str, dict[str, float]] = {
        "same sample": {
            "Two fine-tuning steps come first: this is the gradient at w = 0 itself.": -1.0,
            "This is the gradient at the point after fine-tuning. How much does that point move when w does?": -1 / 4,
            "The sign: w has to grow, so its gradient is negative.": 1 / 16,
        },
        "another sample": {
            "This is the gradient at the point after fine-tuning. How much does that point move when w does?": -9 / 4,
            "You scored on the sample that was fine-tuned on. Here another one is the query.": -1 / 16,
            "Fine-tuning goes towards the support's sample, y = 1; only the score is about the query's.": -3 / 16,
            "Two fine-tuning steps come first: this is the gradient at w = 0 itself.": -3.0,
            "The sign: w has to grow, so its gradient is negative.": 9 / 16,
        },
    }
    for name, value in answer.items():
        compare(number(value, f"the gradient with the {name}"), truth[name], mistakes[name], what=f"with the {name}")


@exercise(
    mark=_mark_two_gradients,
    hint="Each step halves the distance to y = 1, wherever w began. So write the point after two steps as a formula in "
    "w, put it into the query's loss, and differentiate with the chain rule.",
    why="With the same sample the gradient is small wherever fine-tuning fits that sample, which it soon does from "
    "anywhere: there is little left to learn from. A query of its own asks what fine-tuning does to what it has not "
    "seen, and here its gradient is nine times as long.",
)
def two_gradients():
    def after_two_steps(w):
        return 1 + (1 / 2) ** 2 * (w - 1)  # each step halves the distance to 1

    moves = (1 / 2) ** 2  # d after_two_steps / d w
    return {
        "same sample": moves * (after_two_steps(0) - 1),
        "another sample": moves * (after_two_steps(0) - 3),
    }


def _mark_two_halves(answer: Any) -> None:
    for labels in ([0, 0, 1, 1, 2, 2], [2, 0, 1, 0, 1, 0, 2, 0], [1, 0, 1, 1, 0, 2, 0, 1, 0], [0] * 7, [3, 1]):
        y, given = np.array(labels), f"for labels {labels}"
        result = call(answer, y.copy(), given=given)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Wrong(f"Return a pair, the support's positions and the query's ({given}).")
        support, query = (
            numbers(half, name).astype(int) for half, name in zip(result, ("support", "query"), strict=True)
        )
        if set(support) & set(query):
            raise Wrong(f"Position {min(set(support) & set(query))} is in both halves {given}: they must be apart.")
        if sorted([*support, *query]) != list(range(len(y))):
            raise Wrong(f"Every position from 0 to {len(y) - 1} belongs to one of the halves {given}.")
        if not 0 <= len(support) - len(query) <= 1:
            raise Wrong(f"The support has {len(support)} and the query {len(query)} {given}: as many, or one more.")
        counts = np.array([np.bincount(y[half], minlength=y.max() + 1) for half in (support, query)])
        if np.abs(counts[0] - counts[1]).max() > 1:
            label = int(np.abs(counts[0] - counts[1]).argmax())
            raise Wrong(
                f"Of class {label} the support has {counts[0][label]} and the query {counts[1][label]} {given}. "
                "Cut the classes in half, not the list."
            )


@exercise(
    mark=_mark_two_halves,
    hint="Put the positions in the order of their labels (`np.argsort`, with `kind='stable'`). How do you deal cards "
    "to two players so that each gets as many of every suit, give or take one?",
    why="The library shuffles again before every local step, so that each sample takes its turn in either half.",
)
def two_halves(labels):
    in_order = np.argsort(labels, kind="stable")  # one class after the other
    return in_order[0::2], in_order[1::2]  # dealt out by turns


def _mark_first_step_of_adam(answer: Any) -> None:
    keys(answer, {"0.2 away": 0, "0.004 away": 0})
    lr, eps = 0.01, 1e-3
    for name, delta in (("0.2 away", 0.2), ("0.004 away", 0.004)):
        compare(
            number(answer[name], name),
            lr * delta / (delta + eps),
            {
                "This is the way of a server that averages with this step size.": lr * delta,
                "Almost: what ε does cannot be left out where the way is as short as ε.": lr,
                "The two averages begin at zero, and Adam corrects for that: divide by 1 − 0.9 and by 1 − 0.99.": lr
                * 0.1
                * delta
                / (0.1 * delta + eps),
                "The server steps from w: this goes all the way to the average.": delta,
            },
            what=f"the step where the average is {name}",
        )


@exercise(
    mark=_mark_first_step_of_adam,
    hint="In the first round m is 0.1 Δ and v is 0.01 Δ². After the correction, what are m̂ and v̂?",
    why="A coordinate that wants to go fifty times as far goes hardly farther: Adam looks at which way, not how far. "
    "So step sizes of the agents matter less, and rare classes' weights move as well.",
)
def first_step_of_adam():
    lr, epsilon, ways = 0.01, 0.001, {"0.2 away": 0.2, "0.004 away": 0.004}
    # m̂ = 0.1 Δ / (1 − 0.9) = Δ, and v̂ = 0.01 Δ² / (1 − 0.99) = Δ²
    return {name: lr * delta / (abs(delta) + epsilon) for name, delta in ways.items()}
