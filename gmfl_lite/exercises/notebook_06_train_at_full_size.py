"""How much traffic a run makes."""

from typing import Any

from .exercise import exercise
from .marking import compare, keys, number


def _mark_traffic(answer: Any) -> None:
    size = 784 * 100 + 100 + 100 * 10 + 10
    truth = {"parameters": size, "megabytes": 2 * 10 * 50 * 4 * size / 1e6}
    keys(answer, truth)
    given = {name: number(value, f"the number of {name}") for name, value in answer.items()}
    compare(
        given["parameters"],
        size,
        {
            "The biases are missing: one for each unit of the two layers.": 784 * 100 + 100 * 10,
            "This is the first layer alone.": 784 * 100 + 100,
            "This is the model of the notebook. Here there is one hidden layer.": 68270,
        },
        what="the number of parameters",
        rtol=1e-4,
    )
    megabytes = truth["megabytes"]
    compare(
        given["megabytes"],
        megabytes,
        {
            "This is one way only: w travels there *and* back.": megabytes / 2,
            "These are millions of numbers: each takes four bytes.": megabytes / 4,
            "This is what one round costs. There are 50.": megabytes / 50,
            "This is what one agent sends and gets. Ten are picked in a round.": megabytes / 10,
            "Only the agents picked get w: 10, not 60.": 6 * megabytes,
            "These are bytes. A megabyte is a million of them.": 1e6 * megabytes,
            "This is for float64: a float32 takes four bytes.": 2 * megabytes,
        },
        what="the number of megabytes",
    )


@exercise(
    mark=_mark_traffic,
    hint="A layer from a to b units has a·b + b numbers, and here are two layers. A float32 takes four bytes. Who gets "
    "w in a round, and who sends one back?",
    why="Only the model's size, the agents picked and the rounds count: not ν, not the number of images, and not the "
    "fifty agents who are not picked.",
)
def traffic():
    parameters = (28 * 28 * 100 + 100) + (100 * 10 + 10)
    times = 50 * 10 * 2  # rounds, agents picked, there and back
    return {"parameters": parameters, "megabytes": times * 4 * parameters / 1e6}
