"""One loss per sample, and whose rows are trained on."""

from typing import Any

import torch

from .exercise import exercise
from .marking import Wrong, call, compare, keys, number


def _mark_one_loss_a_sample(answer: Any) -> None:
    for n in (4, 1):
        prediction, y = torch.arange(3.0 * n).reshape(n, 3), torch.tensor([[1.0, -2.0, 4.0]]).expand(n, 3)
        given = f"for {n} sample{'s' * (n > 1)} of three numbers"
        found, truth = call(answer, prediction, y.clone(), given=given), (prediction - y).abs().mean(1)
        if not isinstance(found, torch.Tensor):
            raise Wrong(f"Return a tensor ({given}), not {type(found).__name__}.")
        if found.ndim == 0:
            raise Wrong(f"This is one number for the whole batch ({given}): the mean is to be taken over one axis.")
        if found.shape != truth.shape:
            raise Wrong(
                f"Return one number per sample ({given}): a shape of {list(truth.shape)}, not {list(found.shape)}."
            )
        for right, wrong in (
            ((prediction - y).abs().sum(1), "This is the sum over a sample's numbers, three times their mean."),
            ((prediction - y).square().mean(1), "These are squares. What was wanted is the absolute error."),
            ((prediction - y).mean(1), "Errors up and down cancel here: take absolute values first."),
        ):
            if torch.allclose(found, right) and not torch.allclose(found, truth):
                raise Wrong(wrong)
        if not torch.allclose(found, truth):
            raise Wrong(f"Not the mean absolute error ({given}): {truth[0]:g} for the first sample, not {found[0]:g}.")


@exercise(
    mark=_mark_one_loss_a_sample,
    hint="`(prediction - y).abs()` has the shape [n, 3]. Which axis is the samples', and which is to be averaged?",
    why="Agents hold different numbers of samples, and are computed side by side with padding. Only one number per "
    "sample lets the library leave the padding out and weigh all others alike.",
)
def one_loss_a_sample(prediction, y):
    return (prediction - y).abs().mean(dim=1)


def _mark_whose_rows(answer: Any) -> None:
    truth = {"trained on": 240, "a new person fine-tunes on": 30, "new people are scored on": 40}
    keys(answer, truth)
    mistakes: dict[str, dict[str, float]] = {
        "trained on": {
            "A quarter of each person's rows is scored, and never trained on.": 320,
            "New people are never trained on.": 360,
            "That is everybody's, scored rows and all.": 480,
        },
        "a new person fine-tunes on": {
            "A quarter of the 40 is kept apart for the score.": 40,
            "Those rows are scored. Fine-tuning takes the others.": 10,
            "New people are not trained on, but they do fine-tune before they are scored.": 0,
        },
        "new people are scored on": {
            "That is one of them. There are four.": 10,
            "Only what nobody has fine-tuned on is scored.": 160,
            "These are everybody's; only four people are new.": 120,
        },
    }
    for name, value in answer.items():
        compare(number(value, name), truth[name], mistakes[name], what=f"the rows that {name}")


@exercise(
    mark=_mark_whose_rows,
    hint="Split the people first, 8 and 4. Then split each person's 40 rows, three quarters and one quarter.",
    why="Two things are kept apart: people, so that the score says what happens to somebody unseen, and each person's "
    "rows, so that nobody is scored on what was fine-tuned on.",
)
def whose_rows():
    people, new, rows = 12, 4, 40
    scored = rows // 4
    return {
        "trained on": (people - new) * (rows - scored),
        "a new person fine-tunes on": rows - scored,
        "new people are scored on": new * scored,
    }
