"""All agents' rows dealt at once are each agent's own dealt by itself, one class after the other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gmfl_lite.basics import dealing, shifts
from gmfl_lite.basics.randomness import generator

SEED = 3


@st.composite
def agents(draw):
    """Labels of all rows, and some agents' rows, in any order: at least two each, and some rows of nobody's."""
    sizes = draw(st.lists(st.integers(2, 20), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = rng.integers(0, draw(st.integers(2, 5)), sum(sizes) + 3)
    return labels, np.split(rng.permutation(len(labels))[:-3], np.cumsum(sizes)[:-1])


def one_agents_split(rows, labels, test_fraction, rng):
    """Score round(test_fraction · n) of n rows: of each class its share rounded down, then one more of some classes.

    Those are the classes with the largest remainder, and before them all that keep a sample to train on.
    """
    classes = sorted(set(labels[rows]))
    n_test = min(max(round(test_fraction * len(rows)), 1), len(rows) - 1)
    held = {c: int((labels[rows] == c).sum()) for c in classes}
    share = {c: held[c] * n_test / len(rows) for c in classes}
    to_test = {c: int(share[c]) for c in classes}
    chance = dict(zip(classes, rng.random(len(classes)), strict=True))
    claims = sorted(classes, key=lambda c: (to_test[c] + 1 >= held[c], to_test[c] - share[c], chance[c]))
    for c in claims[: n_test - sum(to_test.values())]:
        to_test[c] += 1
    scored = set()
    for row in rows[rng.permutation(len(rows))]:
        if to_test[labels[row]]:
            scored.add(int(row))
            to_test[labels[row]] -= 1
    return [int(row) for row in rows if int(row) not in scored], [int(row) for row in rows if int(row) in scored]


@given(agents(), st.sampled_from([0.1, 0.25, 0.5, 0.9]))
def test_each_agents_split_is_its_own(dealt, test_fraction):
    labels, parts = dealt
    trained, scored = dealing.split(parts, labels, test_fraction, SEED)
    assert len(trained) == len(scored) == len(parts)
    for agent, part in enumerate(parts):
        expected = one_agents_split(part, labels, test_fraction, generator(SEED, "test split", agent))
        assert (trained[agent].tolist(), scored[agent].tolist()) == expected


@given(agents(), st.integers(1, 6), st.booleans(), st.data())
def test_each_agents_shots_are_its_own(dealt, shots, twice, data):
    labels, parts = dealt
    new = data.draw(st.integers(0, len(parts) - 1))
    trains, tunes = dealing.few_shots(parts, labels, shots, new, twice, SEED)
    for agent, part in enumerate(parts):
        shuffled = part[generator(SEED, "shots", agent).permutation(len(part))]

        def first(most, shuffled=shuffled, part=part):
            kept = {int(row) for c in set(labels) for row in shuffled[labels[shuffled] == c][:most]}
            return [int(row) for row in part if int(row) in kept]

        assert tunes[agent].tolist() == first(shots)
        assert trains[agent].tolist() == first(2 * shots if twice and agent < len(parts) - new else shots)


@given(agents())
def test_each_agent_renames_by_its_own_cycle(dealt):
    labels, parts = dealt
    n_classes = int(labels.max()) + 1
    k = max(2, n_classes - 1) if n_classes > 1 else 0
    if not k:
        return
    renamed = shifts.rename_classes(labels, parts, k, n_classes, SEED)
    for agent, part in enumerate(parts):
        chosen = generator(SEED, "permuted classes", agent).permutation(n_classes)[:k].tolist()
        name = {c: c for c in range(n_classes)} | dict(zip(chosen, [chosen[-1], *chosen[:-1]], strict=True))
        assert renamed[part].tolist() == [name[c] for c in labels[part].tolist()]
    nobodys = np.setdiff1d(np.arange(len(labels)), np.concatenate(parts))
    assert (renamed[nobodys] == labels[nobodys]).all()


@given(agents(), st.sampled_from([0.0, 0.4, 0.99]))
def test_each_agents_wrong_labels_are_its_own(dealt, share):
    labels, parts = dealt
    n_classes = int(labels.max()) + 2
    noisy = shifts.mislabel(labels, parts, share, n_classes, SEED)
    for agent, part in enumerate(parts):
        rng = generator(SEED, "label noise", agent)
        wrong, further = rng.random(len(part)) < share, rng.integers(1, n_classes, len(part))
        expected = [(c + f) % n_classes if w else c for c, f, w in zip(labels[part], further, wrong, strict=True)]
        assert noisy[part].tolist() == expected


def test_lists_that_lie_one_after_the_other_may_be_empty():
    assert [each.tolist() for each in dealing.lists(np.arange(3), np.array([0, 2, 0, 1]))] == [[], [0, 1], [], [2]]
    assert dealing.within(np.array([0, 2, 0, 1])).tolist() == [0, 1, 0]
