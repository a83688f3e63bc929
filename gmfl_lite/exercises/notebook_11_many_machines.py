"""What a sweep that grows computes again."""

from typing import Any

from .exercise import exercise
from .marking import compare, keys, number


def _mark_resumed_sweep(answer: Any) -> None:
    truth = {"points": 24, "computed": 12, "seconds": 30}
    keys(answer, truth)
    messages = {
        "points": {
            "The lengths of the lists are multiplied, not added.": 9,
            "This is the first sweep. The second has one more ν and one more seed.": 12,
            "This counts rows. The question asks for points, which have several rows each.": 72,
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


@exercise(
    mark=_mark_resumed_sweep,
    hint="Multiply the lengths of the grid's lists. A point is in the cache if all of its settings are those of one "
    "that is done. And a worker takes whole points only.",
    why="A sweep can grow without paying twice. In the last round of points some workers have nothing to do: with few "
    "points, more workers stop helping soon.",
)
def resumed_sweep():
    points, before = 4 * 2 * 3, 3 * 2 * 2  # all of the first sweep's are in the second
    left, workers, seconds_a_point = points - before, 5, 10
    return {
        "points": points,
        "computed": left,
        "seconds": -(-left // workers) * seconds_a_point,
    }  # rounded up
