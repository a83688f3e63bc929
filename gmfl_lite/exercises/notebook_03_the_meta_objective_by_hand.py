"""One factor, the product of Jacobians, and what a first-order gradient forgets of it."""

from typing import Any

import numpy as np
import torch

from .exercise import exercise
from .marking import call, compare, number


def _mark_one_step_ahead(answer: Any) -> None:
    compare(
        number(answer),
        0.7 * 0.9**3,
        {
            "This is the first-order gradient: f′ after the step, without the factor.": 0.9**3,
            "The second derivative is wanted where the step *starts*, at w = 1.": (1 - 0.3 * 0.81) * 0.9**3,
            "The factor is 1 *minus* α times the second derivative.": 1.3 * 0.9**3,
            "The factor is right. The gradient is wanted after the step, not before it.": 0.7,
            "This is F(1), the loss after the step. The question asks for its derivative.": 0.9**4 / 4,
            "This is f′ at w = 1: with ν = 0 that would be it.": 1.0,
        },
    )


@exercise(
    mark=_mark_one_step_ahead,
    hint="Where does the step from w = 1 lead? Take f′ there. Then multiply by what the step does to a small change of "
    "its start.",
    why="Two derivatives of f at two places: the curvature where the step starts, the slope where it ends. With ν "
    "steps there is such a factor for each of them.",
)
def one_step_ahead():
    w, alpha = 1.0, 0.1
    after = w - alpha * w**3  # f′(w) = w³
    return (1 - alpha * 3 * w**2) * after**3


def _mark_jacobian_product(answer: Any) -> None:
    draws = np.random.default_rng(0)
    for nu in (0, 1, 3):
        halves = draws.normal(size=(nu, 2, 2))
        matrices, g = halves + halves.swapaxes(1, 2), draws.normal(size=2)
        chain = np.linalg.multi_dot([np.eye(2), np.eye(2), *matrices])
        elementwise = matrices.prod(axis=0)
        dtype = torch.get_default_dtype()
        given = f"with {nu or 'no'} factor{'s' * (nu > 1)} (ν = {nu})"
        tensors = [torch.tensor(matrix, dtype=dtype) for matrix in matrices]
        value = call(answer, tensors, torch.tensor(g, dtype=dtype), given=given)
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
    mark=_mark_jacobian_product,
    hint="`factors[0]` belongs to the first fine-tuning step and stands leftmost. Multiply from the right, so that "
    "you only ever hold a vector. What should come out when there is no factor at all?",
    why="Multiplying from the right keeps a vector: ν products of a matrix with a vector, which never need a whole "
    "Hessian. Backpropagation does the same, from the last step to the first.",
)
def jacobian_product(factors, gradient):
    v = gradient
    for factor in reversed(factors):  # the last factor is the one next to the gradient
        v = factor @ v
    return v


def _mark_first_order_length(answer: Any) -> None:
    compare(
        number(answer),
        8,
        {
            "Upside down: this is the length of the exact gradient divided by the first-order one's.": 1 / 8,
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
    mark=_mark_first_order_length,
    hint="Every fine-tuning step multiplies w − c by the same number. Which gradient do both start from, and what "
    "does the exact one still have to be multiplied by?",
    why="The more fine-tuning shrinks the distance, the more a first-order gradient exaggerates: by 1 / (1 − αa)^ν. A "
    "meta_lr that suits one kind of gradient need not suit the other.",
)
def first_order_length():
    a, fine_tune_lr, nu = 1.0, 0.5, 3
    factor = 1 - fine_tune_lr * a
    first_order = a * factor**nu  # times (w − c): the gradient at w⁽ᵛ⁾
    exact = factor**nu * first_order  # the same, and a factor for every step
    return first_order / exact
