"""How many agents to pick, and which floor a curve has reached."""

from typing import Any

from .exercise import exercise
from .marking import Wrong, compare, keys, number


def _mark_enough_agents(answer: Any) -> None:
    compare(
        number(answer),
        8,
        {
            "This is the answer for picking *with* replacement, φ = 1/m. Agents are picked without.": 10,
            "Almost: with 7 agents φ is still a little more than a tenth.": 7,
            "A number of agents is an integer: round up.": 24 / 3.3,
            "With half of the agents φ is far below a tenth already.": 12,
            "A tenth of the agents is not what is asked: φ should be a tenth of what it is for one agent.": 2.4,
        },
    )


@exercise(
    mark=_mark_enough_agents,
    hint="φ for one picked agent is 1. For how many does the formula of the lemma first give a tenth or less?",
    why="Eight, not ten: without replacement, the picked agents also say something about those that are not picked. "
    "And in a federation of a million agents ten would be needed: what counts is the number picked, hardly the "
    "share.",
)
def enough_agents():
    n = 24
    return next(m for m in range(1, n + 1) if (n - m) / (m * (n - 1)) <= 0.1)


FLOORS = {
    "transient": "the transient is there because the start was not the end, and shrinks with the number of rounds",
    "drift": "drift is there because agents walk apart between two averages",
    "sampling": "sampling is there because a few agents are not all agents",
    "noise": "noise is there because a mini-batch is not all of an agent's data, and shrinks with β",
    "bias": "bias is there because the gradient is approximated, and has nothing to do with β or with who is picked",
}


def _mark_which_floor(answer: Any) -> None:
    truth = which_floor.solve()
    keys(answer, truth)
    for situation, term in answer.items():
        if term not in FLOORS:
            raise Wrong(f"{term!r} is no term of the bound. They are {', '.join(map(repr, FLOORS))}.")
        if term != truth[situation]:
            raise Wrong(f"“{situation}” is not {term}: {FLOORS[term]}.")


@exercise(
    mark=_mark_which_floor,
    hint="Go through the first table of this notebook, column *zero if*. One term is not a floor at all. One is the "
    "only one without β in it.",
    why="This is how to read a training curve that has stopped: change one thing at a time, and the thing that "
    "helps names the floor.",
)
def which_floor():
    return {
        "ten times the rounds make it ten times lower": "transient",
        "gone with one local step in place of five": "drift",
        "gone when all agents are picked": "sampling",
        "gone when every step uses all of an agent's data": "noise",
        "a smaller step size does not lower it": "bias",
    }
