"""How many classes an agent holds in earnest."""

from typing import Any

import numpy as np

from .exercise import exercise
from .marking import call, compare, number


def _mark_effective_classes(answer: Any) -> None:
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
                "This is 1 / Σq², another measure of it (inverse Simpson). The question asks for exp of the entropy.": (
                    1 / (mix**2).sum()
                ),
            },
            what=shown,
        )


@exercise(
    mark=_mark_effective_classes,
    hint="Three steps: make a mix of the counts, so that it sums to one; leave out the classes that are not held; "
    "take the exponential of the entropy. Try it on [5, 5, 0]: two equally common classes.",
    why="An agent with counts [98, 1, 1] *holds* three classes, but it behaves like an agent with one. Counting "
    "classes hides that, and so does the knob `dirichlet_alpha`.",
)
def effective_classes(counts):
    mix = counts / counts.sum()
    mix = mix[mix > 0]  # 0 · ln 0 counts as 0
    return np.exp(-(mix * np.log(mix)).sum())
