"""The exercises of notebooks 06, 07 and 09 to 11, on many agents, runs and machines: checks, hints, and why."""

from typing import Any

from ..experiment import Experiment
from . import solutions
from .exercise import exercise
from .marking import Wrong, compare, keys, number


@exercise(
    "06-train-at-full-size",
    solution=solutions.traffic,
    hint="A layer from a to b units has a·b + b numbers, and here are two layers. A float32 takes four bytes. Who gets "
    "w in a round, and who sends one back?",
    why="Only the model's size, the agents picked and the rounds count: not ν, not the number of images, and not the "
    "fifty agents who are not picked.",
)
def traffic(answer: Any) -> None:
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
    "07-explorer",
    solution=solutions.fair_comparison,
    hint="`base.replace(nu=…, seed=…)` in a list comprehension with two `for`. Which values does ν need, and which "
    "the seed?",
    why="Runs with the same seed share partition, weights and picks, so each pair differs by ν alone, and the three "
    "pairs show how large luck is. Give the list to `gl.sweep` and you have the table.",
)
def fair_comparison(answer: Any) -> None:
    if not isinstance(answer, (list, tuple)) or not answer or not all(isinstance(one, Experiment) for one in answer):
        raise Wrong("A list of `gl.Experiment`s is asked for, such as `[base.replace(nu=0), …]`.")
    settings = [one.to_dict() for one in answer]
    varied = [name for name in settings[0] if any(one[name] != settings[0][name] for one in settings)]
    others = [name for name in varied if name not in ("nu", "seed")]
    if others:
        raise Wrong(f"Not only ν and the seed differ, but also {', '.join(others)}: nobody could tell which did it.")
    seeds = {nu: {one["seed"] for one in settings if one["nu"] == nu} for nu in (0, 3)}
    if not seeds[0]:
        raise Wrong("FedAvg is missing: something to compare with.")
    if not seeds[3]:
        raise Wrong("ν = 3 is missing.")
    extra = {one["nu"] for one in settings} - {0, 3}
    if extra:
        raise Wrong(f"Asked are ν = 0 and ν = 3 only; here is also ν = {min(extra)}.")
    if seeds[0] != seeds[3]:
        raise Wrong(
            "FedAvg and ν = 3 have different seeds, so they differ by their agents and weights as well. Pair them: "
            "the same seeds for both."
        )
    if len(seeds[0]) < 3:
        raise Wrong(f"With {len(seeds[0])} seed(s) there is no telling a difference from luck. Take three.")
    if len(answer) != 6:
        raise Wrong("Some experiment is there twice. The same experiment gives the same result again.")


@exercise(
    "09-evidence",
    solution=solutions.price_of_sending,
    hint="A round with sending costs its gradients + s. Write down what each method pays until it is at the target, "
    "and set the two equal.",
    why="“Better” needs a currency. Where sending is dear, as between telephones, fewer rounds win; within one "
    "computer they need not.",
)
def price_of_sending(answer: Any) -> None:
    fewer = 40 - 20
    more = 20 * 11.5 - 40 * 4.5
    compare(
        number(answer),
        more / fewer,
        {
            "This is how many gradients more ν = 3 takes in all. How many rounds of sending does it save?": more,
            "Upside down: the gradients that are spent go above the rounds that are saved.": fewer / more,
            "This is how much dearer *one* round of ν = 3 is. It also takes fewer rounds.": 11.5 - 4.5,
            "This is how much dearer a round of ν = 3 is, as a ratio. Asked is the price of sending.": 11.5 / 4.5,
            "The sign is wrong: ν = 3 spends more gradients, and saves rounds.": -more / fewer,
            "If sending were free ν = 1 would be cheaper: 180 gradients against 230.": 0,
        },
        what="the price of sending",
    )


@exercise(
    "10-real-federation",
    solution=solutions.crowd,
    hint="What is the standard deviation of the mean of m independent numbers, if each has the same one?",
    why="Noise is averaged away only as 1/√m, so noise that is ten times as strong needs a hundred times the crowd.",
)
def crowd(answer: Any) -> None:
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
    "11-many-machines",
    solution=solutions.resumed_sweep,
    hint="Multiply the lengths of the grid's lists. A point is in the cache if all of its settings are those of one "
    "that is done. And a worker takes whole points only.",
    why="A sweep can grow without paying twice. In the last round of points some workers have nothing to do: with few "
    "points, more workers stop helping soon.",
)
def resumed_sweep(answer: Any) -> None:
    truth = {"points": 24, "computed": 12, "seconds": 30}
    keys(answer, truth)
    messages = {
        "points": {
            "The lengths of the lists are multiplied, not added.": 9,
            "This is the first sweep. The second has one more ν and one more seed.": 12,
            "These are the rows that a point has, too. Asked are points.": 72,
        },
        "computed": {
            "This is as if there were no cache.": 24,
            "A new ν needs *every* seed, and a new seed *every* ν.": 10,
            "Only half of them: the new ν needs every seed, *and* the old ones need the new seed.": 6,
            "The points with a new ν and the new seed are counted twice.": 14,
        },
        "seconds": {
            "This is one worker. There are five.": 120,
            "A worker computes whole points: how many does the busiest one take?": 24,
            "Round up: the points that are left over need time, too.": 20,
            "This is as if there were no cache.": 50,
        },
    }
    for name, value in answer.items():
        compare(number(value, f"the number of {name}"), truth[name], messages[name], what=f"the number of {name}")
