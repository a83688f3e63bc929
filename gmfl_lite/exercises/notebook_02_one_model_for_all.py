"""Two ways to average, one round on paper, and where FedAvg ends."""

from typing import Any

import numpy as np

from .exercise import exercise
from .marking import Wrong, call, compare, keys, number


def _mark_two_averages(answer: Any) -> None:
    truth = {"uniform": 3.0, "samples": 4.3}
    keys(answer, truth)
    given = {name: number(value, f"the average {name!r}") for name, value in answer.items()}
    if np.allclose([given["uniform"], given["samples"]], [4.3, 3.0], rtol=5e-3):
        raise Wrong("The two are the other way round: uniform means one vote for every agent.")
    messages: dict[str, dict[str, float]] = {
        "uniform": {"This is the sum; divide by the number of agents.": 9, "This is the median.": 2},
        "samples": {
            "Divide by the number of all images: the weights have to sum to one.": 430,
            "Divide by the sum of the weights, not by the number of agents.": 430 / 3,
            "The agent with the *most* images gets the most weight, not the least.": (1 / 10 + 2 / 30 + 6 / 60)
            / (1 / 10 + 1 / 30 + 1 / 60),
        },
    }
    for name, value in given.items():
        compare(value, truth[name], messages[name], what=f"the average {name!r}", rtol=5e-3)


@exercise(
    mark=_mark_two_averages,
    hint="Uniform: every agent has one vote. By samples: every *image* has one vote, so agent i has n_i / Σn of them.",
    why="The two averages belong to two different goals: that all *agents* are served well, or all *images*. The "
    "library minimises the mean over agents and so takes `weighting='uniform'`, unless you ask for `'samples'`.",
)
def two_averages():
    w, samples = np.array([1.0, 2.0, 6.0]), np.array([10, 30, 60])
    return {"uniform": w.mean(), "samples": (samples * w).sum() / samples.sum()}


def _mark_two_walks(answer: Any) -> None:
    truth = {"τ = 1": 0.5, "τ = 2": 0.625}
    keys(answer, truth)
    given = {name: number(value, f"your w for {name!r}") for name, value in answer.items()}
    messages: dict[str, dict[str, float]] = {
        "τ = 1": {
            "This is the sum of the two ends. The server takes their mean.": 1.0,
            "B is half as steep as A: its gradient is ½(w + 4).": 0.0,
            "This is A's end alone.": 2.0,
            "The derivative of ¼(w + 4)² is ½(w + 4), not ¼(w + 4).": 0.75,
        },
        "τ = 2": {
            "The second step needs the gradient at the point that the agent has reached, not at 0.": 1.0,
            "You averaged after each step. With τ = 2 the agents walk twice before the server averages.": 0.8125,
            "This is the sum of the two ends. The server takes their mean.": 1.25,
            "The derivative of ¼(w + 4)² is ½(w + 4), not ¼(w + 4).": 1.03125,
            "B is half as steep as A: its gradient is ½(w + 4).": 0.0,
        },
    }
    for name, value in given.items():
        compare(value, truth[name], messages[name], what=f"your w for {name!r}")


@exercise(
    mark=_mark_two_walks,
    hint="Write each agent's walk on a line of its own: point, gradient there, next point. Average the ends only.",
    why="Twice the steps do not take the server twice as far: A is already close to home and slows down, B still has "
    "most of its way to go. What the average means changes with τ. That is drift.",
)
def two_walks():
    ends = {}
    for tau in (1, 2):
        a = b = 0.0
        for _ in range(tau):
            a -= 0.5 * (a - 4)
            b -= 0.5 * 0.5 * (b + 4)
        ends[f"τ = {tau}"] = (a + b) / 2
    return ends


def _mark_where_fedavg_ends(answer: Any) -> None:
    for curvatures, optima, beta, tau in (
        ([1.0, 0.1], [1.0, -1.0], 0.5, 4),
        ([1.0, 0.4, 0.2], [0.0, 2.0, -3.0], 0.3, 6),
        ([0.8, 0.3], [1.0, 5.0], 0.2, 1),
    ):
        a, c, visited = np.array(curvatures), np.array(optima), [0.0]
        for _ in range(2000):  # FedAvg itself, no formula
            walks = np.full_like(c, visited[-1])
            for _ in range(tau):
                walks = walks - beta * a * (walks - c)
            visited.append(walks.mean())
        shrunk = (1 - beta * a) ** tau
        given = f"for a = {a.tolist()}, c = {c.tolist()}, β = {beta}, τ = {tau}"
        shown = f"your result {given}"
        compare(
            number(call(answer, a, c, beta, tau, given=given), shown),
            visited[-1],
            {
                "This is the minimiser of the average loss. FedAvg ends there with τ = 1 only.": (a * c).sum()
                / a.sum(),
                "This is the mean of the optima: where FedAvg ends when τ goes to infinity.": c.mean(),
                "You weighted with (1 − βa)^τ, the part of the way that is *left* after τ steps. What pulls at w is "
                "the part that an agent has *gone*.": (shrunk * c).sum() / shrunk.sum(),
                "This is where one round from w = 0 leads. The question asks where they end.": visited[1],
                **{
                    f"This is where about {many} rounds from w = 0 lead. There w still moves: have the loop end when "
                    "it does not any more, or do without a loop.": visited[many]
                    for many in range(2, 1000)
                },
            },
            what=shown,
        )


@exercise(
    mark=_mark_where_fedavg_ends,
    hint="One local step takes agent i from w to c_i + (1 − βa_i)(w − c_i). Do that τ times. FedAvg has ended where "
    "a whole round, walks and average, brings w back to w: solve that for w.",
    why="With τ = 1 this is the minimiser of the average loss; with τ → ∞ it is the plain mean of the optima, "
    "whatever the curvatures. More rounds do not repair this: the drift is in *where* FedAvg ends.",
)
def where_fedavg_ends(a, c, meta_lr, local_steps):
    # After τ steps agent i is at c_i + (1 − βa_i)^τ (w − c_i). The average of these is w again where
    # Σ_i s_i (w − c_i) = 0, with s_i the share of its way home that agent i goes in a round:
    share = 1 - (1 - meta_lr * a) ** local_steps
    return (share * c).sum() / share.sum()
