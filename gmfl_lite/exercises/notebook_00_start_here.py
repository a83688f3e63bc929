"""Look ahead by hand, and tell which ν a method has."""

from typing import Any

from .exercise import exercise
from .marking import Wrong, compare, keys, number


def _mark_look_ahead(answer: Any) -> None:
    f = [2.0, 0.5, 0.125]
    compare(
        answer,
        f,
        {
            "These are the points w⁽ᵛ⁾. The question asks for the loss f at them.": [1, 2, 2.5],
            "The walk goes uphill: a fine-tuning step is w *minus* α times the gradient.": [2, 4.5, 10.125],
            "You began with ν = 1. ν = 0 takes no step: F(w) = f(w).": [0.5, 0.125, 0.03125],
            "The ½ in front of the square is missing.": [4, 1, 0.25],
            "A step halves the *distance* to 3. What does that make of its square?": [2, 1, 0.5],
            "The first step landed on 3, which is twice too far: it is α times the gradient, α = ½, and the "
            "gradient of ½(w − 3)² is w − 3. And the second step starts from the new point.": [2, 0, 0],
            "The second step uses the gradient of the first point. Every step needs the gradient where it starts.": [
                *f[:2],
                0,
            ],
        },
        what="your list",
        entries=("F for ν = 0", "F for ν = 1", "F for ν = 2"),
        rtol=5e-3,
    )


@exercise(
    mark=_mark_look_ahead,
    hint="Write down the gradient of f first. Then take the steps one by one on paper, and only put the *last* "
    "point of each walk into f. With ν = 0 there is no walk.",
    why="Every step halves the distance to 3 and divides the loss by four. This is what a meta-loss knows and a "
    "loss does not: how much fine-tuning will mend by itself.",
)
def look_ahead():
    w, losses = 1.0, []
    for _ in range(3):
        losses.append(0.5 * (w - 3) ** 2)
        w = w - 0.5 * (w - 3)  # the gradient of ½(w − 3)² is w − 3
    return losses


def _mark_which_nu(answer: Any) -> None:
    truth = {
        "FedAvg": 0,
        "FedAvg with five local steps": 0,
        "Per-FedAvg": 1,
        "trained for users who take four steps": 4,
    }
    keys(answer, truth)
    given = {name: number(value, f"ν of {name!r}") for name, value in answer.items()}
    if given["FedAvg"] == 1 and given["Per-FedAvg"] != 1:
        raise Wrong("FedAvg minimises the loss at w itself: it does not look ahead at all, not even one step.")
    if given["FedAvg with five local steps"] == 5:
        raise Wrong(
            "Five local steps are τ = 5: steps of training, whose ends are averaged. ν counts the steps that the "
            "objective looks ahead, and FedAvg's objective is still f."
        )
    wrong = [name for name, nu in truth.items() if given[name] != nu]
    if wrong:
        raise Wrong(f"Look again at {', '.join(map(repr, wrong))}: how many steps ahead is the loss taken there?")


@exercise(
    mark=_mark_which_nu,
    hint="ν is how many fine-tuning steps the *objective* looks ahead. What an agent does during training, τ local "
    "steps, is another number.",
    why="One code path, three methods: `gl.run(gl.Experiment(nu=0))` is FedAvg. When two methods differ by one "
    "number, a comparison of them can be fair.",
)
def which_nu():
    return {
        "FedAvg": 0,
        "FedAvg with five local steps": 0,  # τ = 5: what training does, not what it looks ahead
        "Per-FedAvg": 1,
        "trained for users who take four steps": 4,
    }


def _mark_read_the_curve(answer: Any) -> None:
    truth = {"nobody fine-tunes": "P", "everybody takes two steps": "Q", "Q is ahead from step": 1}
    keys(answer, truth)
    for situation in ("nobody fine-tunes", "everybody takes two steps"):
        if answer[situation] not in ("P", "Q"):
            raise Wrong(f'Write "P" or "Q" for {situation!r}.')
        if answer[situation] != truth[situation]:
            raise Wrong(
                f"“{situation}”: go to that number of steps on the horizontal axis. Which curve is higher there?"
            )
    compare(
        number(answer["Q is ahead from step"], "the step"),
        1,
        {
            "Before fine-tuning P is ahead: step 0 is the left end of the curves.": 0,
            "Already one step earlier.": 2,
            "There both have stopped rising. The curves cross much earlier.": 5,
        },
        what="the step",
    )


@exercise(
    mark=_mark_read_the_curve,
    hint="Each column is a number of fine-tuning steps. Compare the two rows in that column, and in no other.",
    why="Neither is the better model. Which one to ship depends on how many steps its users will take, and an accuracy "
    "without that number says little.",
)
def read_the_curve():
    p, q = {0: 60, 1: 62, 2: 63, 5: 64}, {0: 15, 1: 70, 2: 80, 5: 85}
    best = {steps: "P" if p[steps] > q[steps] else "Q" for steps in p}
    crossing = min(steps for steps in best if best[steps] == "Q")
    return {"nobody fine-tunes": best[0], "everybody takes two steps": best[2], "Q is ahead from step": crossing}
