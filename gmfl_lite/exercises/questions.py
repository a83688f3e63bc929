"""The exercises of the notebooks 00 to 05: what is checked, how mistakes are told, hints, and why it matters."""

from typing import Any

import numpy as np
import torch

from .. import theory
from . import solutions
from .exercise import exercise
from .marking import Wrong, call, compare, keys, number


@exercise(
    "00-start-here",
    solution=solutions.look_ahead,
    hint="Write down the gradient of f first. Then take the steps one by one on paper, and only put the *last* "
    "point of each walk into f. With ν = 0 there is no walk.",
    why="Every step halves the distance to 3 and divides the loss by four. This is what a meta-loss knows and a "
    "loss does not: how much fine-tuning will mend by itself.",
)
def look_ahead(answer: Any) -> None:
    f = [2.0, 0.5, 0.125]
    compare(
        answer,
        f,
        {
            "These are the points w⁽ᵛ⁾. Asked is the loss f at them.": [1, 2, 2.5],
            "The walk goes uphill: a fine-tuning step is w *minus* α times the gradient.": [2, 4.5, 10.125],
            "You began with ν = 1. ν = 0 takes no step: F(w) = f(w).": [0.5, 0.125, 0.03125],
            "The ½ in front of the square is missing.": [4, 1, 0.25],
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
    "00-start-here",
    solution=solutions.which_nu,
    hint="ν is how many fine-tuning steps the *objective* looks ahead. What an agent does during training, τ local "
    "steps, is another number.",
    why="One code path, three methods: `gl.run(gl.Experiment(nu=0))` is FedAvg. When two methods differ by one "
    "number, a comparison of them can be fair.",
)
def which_nu(answer: Any) -> None:
    truth = {"FedAvg": 0, "FedAvg with five local steps": 0, "Per-FedAvg": 1, "agents will take four steps": 4}
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
    "01-who-holds-what",
    solution=solutions.effective_classes,
    hint="Three steps: make a mix of the counts, so that it sums to one; leave out the classes that are not held; "
    "take the exponential of the entropy. Try it on [5, 5, 0]: two equally common classes.",
    why="An agent with counts [98, 1, 1] *holds* three classes, but it behaves like an agent with one. Counting "
    "classes hides that, and so does the knob α.",
)
def effective_classes(answer: Any) -> None:
    for counts in ([7, 7, 0, 0], [4, 2, 2, 0], [30, 5, 4, 1], [3, 3, 3, 3]):
        held = np.array([count for count in counts if count])
        mix = held / sum(counts)
        truth = np.prod(mix**-mix)  # exp of the entropy, without a logarithm
        given = f"for counts {counts}"
        shown = f"your result {given}"
        with np.errstate(all="ignore"):
            value = number(call(answer, np.array(counts), given=given), shown)
        compare(
            value,
            truth,
            {
                "This is the entropy itself. Its exponential is asked for.": np.log(truth),
                "This is the number of classes that are held. A class with one image counts less than one with "
                "thirty.": (len(held)),
                "The sign of the entropy is missing: it is *minus* the sum.": 1 / truth,
                "The counts have to become a mix, which sums to one, before the logarithm.": np.prod(
                    held.astype(float) ** -held
                ),
                "The logarithm has base 2 and the exponential base e. Take the same base in both.": np.exp(
                    np.log2(truth)
                ),
                "This is 1 / Σq², another measure of the same thing (inverse Simpson). Asked is exp of the entropy.": (
                    1 / (mix**2).sum()
                ),
            },
            what=shown,
        )


@exercise(
    "02-one-model-for-all",
    solution=solutions.two_averages,
    hint="Uniform: every agent has one vote. By samples: every *image* has one vote, so agent i has n_i / Σn of them.",
    why="The two averages belong to two different goals: that all *agents* are served well, or all *images*. The "
    "library minimises the mean over agents and so takes `weighting='uniform'`, unless you ask for `'samples'`.",
)
def two_averages(answer: Any) -> None:
    truth = {"uniform": 3.0, "samples": 4.3}
    keys(answer, truth)
    given = {name: number(value, f"the average {name!r}") for name, value in answer.items()}
    if np.allclose([given["uniform"], given["samples"]], [4.3, 3.0], rtol=5e-3):
        raise Wrong("The two are the other way round: uniform means one vote for every agent.")
    messages = {
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
    "02-one-model-for-all",
    solution=solutions.where_fedavg_ends,
    hint="One local step takes agent i from w to c_i + (1 − βa_i)(w − c_i). Do that τ times. FedAvg has ended where "
    "a whole round, walks and average, brings w back to w: solve that for w.",
    why="With τ = 1 this is the minimiser of the average loss; with τ → ∞ it is the plain mean of the optima, "
    "whatever the curvatures. More rounds do not repair this: the drift is in *where* FedAvg ends.",
)
def where_fedavg_ends(answer: Any) -> None:
    for a, c, beta, tau in (
        ([1.0, 0.1], [1.0, -1.0], 0.5, 4),
        ([1.0, 0.4, 0.2], [0.0, 2.0, -3.0], 0.3, 6),
        ([0.8, 0.3], [1.0, 5.0], 0.2, 1),
    ):
        a, c, w = np.array(a), np.array(c), 0.0
        for _ in range(2000):  # FedAvg itself, no formula
            walks = np.full_like(c, w)
            for _ in range(tau):
                walks = walks - beta * a * (walks - c)
            w = walks.mean()
        shrunk = (1 - beta * a) ** tau
        given = f"for a = {a.tolist()}, c = {c.tolist()}, β = {beta}, τ = {tau}"
        shown = f"your result {given}"
        compare(
            number(call(answer, a, c, beta, tau, given=given), shown),
            w,
            {
                "This is the minimiser of the average loss. FedAvg ends there with τ = 1 only.": (a * c).sum()
                / a.sum(),
                "This is the mean of the optima: where FedAvg ends when τ goes to infinity.": c.mean(),
                "You weighted with (1 − βa)^τ, the part of the way that is *left* after τ steps. What pulls at w is "
                "the part that an agent has *gone*.": (shrunk * c).sum() / shrunk.sum(),
                "This is where one round from w = 0 leads. Asked is where the rounds end.": (c - shrunk * c).mean(),
            },
            what=shown,
        )


@exercise(
    "03-the-meta-objective-by-hand",
    solution=solutions.jacobian_product,
    hint="`factors[0]` belongs to the first fine-tuning step and stands leftmost. Multiply from the right, so that "
    "you only ever hold a vector. What should come out when there is no factor at all?",
    why="Multiplying from the right keeps a vector: ν products of a matrix with a vector, which never need a whole "
    "Hessian. Backpropagation does the same, from the last step to the first.",
)
def jacobian_product(answer: Any) -> None:
    draws = np.random.default_rng(0)
    for nu in (0, 1, 3):
        halves = draws.normal(size=(nu, 2, 2))
        matrices, g = halves + halves.swapaxes(1, 2), draws.normal(size=2)
        chain = np.linalg.multi_dot([np.eye(2), np.eye(2), *matrices])
        elementwise = matrices.prod(axis=0)
        kind = {"dtype": torch.get_default_dtype()}
        given = f"with {nu or 'no'} factor{'s' * (nu > 1)} (ν = {nu})"
        tensors = [torch.tensor(matrix, **kind) for matrix in matrices]
        value = call(answer, tensors, torch.tensor(g, **kind), given=given)
        mistakes = {
            "This is the product of the factors alone; the gradient is missing.": chain,
            "The gradient alone: no factor was multiplied.": g,
        }
        if nu > 1:
            mistakes |= {
                "The factors are in the reverse order. The first step's factor stands on the left, so it is applied "
                "*last*.": np.linalg.multi_dot(matrices[::-1]) @ g,
                "`*` multiplies entry by entry. A matrix product is `@`.": elementwise @ g,
                "The last factor is missing.": np.linalg.multi_dot([np.eye(2), *matrices[:-1]]) @ g,
                "The first factor is missing.": np.linalg.multi_dot([np.eye(2), *matrices[1:]]) @ g,
                "The factors were added. The chain rule multiplies.": matrices.sum(axis=0) @ g,
            }
        compare(value, chain @ g, mistakes, what=f"your result {given}")


@exercise(
    "03-the-meta-objective-by-hand",
    solution=solutions.first_order_length,
    hint="Every fine-tuning step multiplies w − c by the same number. Which gradient do both start from, and what "
    "does the exact one still have to be multiplied by?",
    why="The flatter the loss after fine-tuning, the more a first-order gradient exaggerates: by 1 / (1 − αa)^ν. A "
    "meta_lr that suits one kind of gradient need not suit the other.",
)
def first_order_length(answer: Any) -> None:
    compare(
        number(answer),
        8,
        {
            "Upside down: this is how long the exact gradient is beside the first-order one.": 1 / 8,
            "The first-order gradient is taken at w⁽ᵛ⁾, after the steps, so it has become shorter, too.": 64,
            "One factor is missing: there is one for each of the ν steps.": 4,
            "One factor too many: there is one for each of the ν steps.": 16,
            "The factors are multiplied, not added.": 6,
            "This is one factor. How many are there?": 2,
            "Not the same length: only without curvature, or with α = 0.": 1,
        },
        rtol=5e-3,
    )


@exercise(
    "04-how-it-converges",
    solution=solutions.enough_agents,
    hint="φ for one picked agent is 1. For how many does the formula of the lemma first give a tenth or less?",
    why="Eight, not ten: without replacement, the picked agents also say something about those that are not picked. "
    "And in a federation of a million agents ten would be needed: what counts is the number picked, hardly the "
    "share.",
)
def enough_agents(answer: Any) -> None:
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


FLOORS = {
    "transient": "the transient is there because the start was not the end, and shrinks with the number of rounds",
    "drift": "drift is there because agents walk apart between two averages",
    "sampling": "sampling is there because a few agents are not all agents",
    "noise": "noise is there because a mini-batch is not all of an agent's data, and shrinks with β",
    "bias": "bias is there because the gradient is approximated, and has nothing to do with β or with who is picked",
}


@exercise(
    "04-how-it-converges",
    solution=solutions.which_floor,
    hint="Go through the first table of this notebook, column *zero if*. One term is not a floor at all. One is the "
    "only one without β in it.",
    why="This is how to read a training curve that has stopped: change one thing at a time, and the thing that "
    "helps names the floor.",
)
def which_floor(answer: Any) -> None:
    truth = solutions.which_floor()
    keys(answer, truth)
    for situation, term in answer.items():
        if term not in FLOORS:
            raise Wrong(f"{term!r} is no term of the bound. They are {', '.join(map(repr, FLOORS))}.")
        if term != truth[situation]:
            raise Wrong(f"“{situation}” is not {term}: {FLOORS[term]}.")


@exercise(
    "05-when-nu-helps-and-when-it-hurts",
    solution=solutions.tipping_nu,
    hint="The start is on B's side as soon as B's weight p_B is larger than A's. Set the two equal, take "
    "logarithms, and mind the exponent. Or try ν = 0, 1, 2, … in a loop.",
    why="With α = 0.5 two steps were enough. What counts is how far fine-tuning gets, about α times ν: a smaller "
    "step size means looking further ahead for the same effect.",
)
def tipping_nu(answer: Any) -> None:
    pair = theory.Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]])
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
    "05-when-nu-helps-and-when-it-hurts",
    solution=solutions.undo_truncation,
    hint="A gradient for ν steps that keeps m factors is the exact one for how many steps? Turn this round: the "
    "number of steps is given, ν is asked.",
    why="Truncation trains for fewer steps than it says. Who knows this can have the start for ν steps at a lower "
    "price. For losses that are not quadratic it is a rule of thumb.",
)
def undo_truncation(answer: Any) -> None:
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
