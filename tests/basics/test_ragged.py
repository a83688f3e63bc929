"""Lists of different lengths: what they are padded to, what is drawn from them, and items made in blocks."""

import numpy as np
import pytest
import torch

from gmfl_lite.basics import randomness
from gmfl_lite.basics.ragged import ROWS_OF_A_GROUP, InBlocks, IndexTable, alike, padded


@pytest.mark.parametrize("seed", range(40))
def test_padding_is_at_most_as_much_again_and_what_a_group_costs(seed):
    rng = np.random.default_rng(seed)
    sizes = (rng.pareto(rng.uniform(0.2, 2), rng.integers(1, 300)) * 10 + rng.integers(0, 5)).clip(max=10**7)
    sizes = sizes.astype(np.int64)
    widths = padded(sizes)
    assert (widths >= sizes).all()
    assert set(widths) <= set(sizes)
    groups = len(set(widths))
    halvings = len({int(np.log2(sizes.max() / max(size, 1))) for size in sizes})
    cost = widths.sum() + groups * ROWS_OF_A_GROUP
    assert cost <= 2 * sizes.sum() + halvings * ROWS_OF_A_GROUP
    assert cost <= len(sizes) * sizes.max() + ROWS_OF_A_GROUP
    for small, large in ((a, b) for a in set(widths) for b in set(widths) if a < b):
        assert sizes[widths == small].max() < sizes[widths == large].min()


@pytest.mark.parametrize("sizes", [[7], [30, 31, 29], [60, 31, 31, 31], [0, 0, 22], [200, 10, 10, 10]])
def test_lists_that_are_about_equal_or_small_have_one_width(sizes):
    assert padded(np.array(sizes)).tolist() == [max(sizes)] * len(sizes)


def test_a_giant_is_on_its_own():
    assert padded(np.array([12] * 50 + [20_000])).tolist() == [12] * 50 + [20_000]


LISTS = [np.arange(3), np.arange(100, 5100), np.array([7]), np.arange(50, 60)]


@pytest.fixture
def table():
    return IndexTable.from_lists(LISTS, torch.device("cpu"))


def test_each_agents_rows_and_its_own_first_one_beyond_them(table):
    for agent, rows in enumerate(LISTS):
        assert table.of(agent).tolist() == rows.tolist()
    agents, positions = torch.tensor([2, 0, 3]), torch.tensor([[0, 1], [2, 3], [9, 10]])
    rows, counted = table.rows(agents, positions)
    assert rows.tolist() == [[7, 7], [2, 0], [59, 50]]
    assert counted.tolist() == [[True, False], [True, False], [True, False]]
    rows, _ = table.rows(agents, positions.reshape(3, 1, 2).expand(3, 4, 2))
    assert rows.shape == (3, 4, 2)


def test_what_is_drawn_does_not_depend_on_how_lists_are_grouped(table):
    """The oracle draws for one agent at a time, from as many positions as the largest agent has."""
    agents = torch.tensor([3, 1, 0])
    keys = randomness.spawn(randomness.keys(5, "batches", 2, agents)[:, None], torch.arange(4))
    drawn = table.choose(keys, agents, alike(agents, table.widths()), 6)
    assert len(alike(agents, table.widths())) == 2
    for place, agent in enumerate(agents.tolist()):
        size = len(LISTS[agent])
        alone = randomness.choose(keys[place], torch.tensor(size), 6, table.width)
        assert torch.equal(drawn[place][:, :size], alone[:, :size])
        assert (drawn[place][:, size:] >= size).all()


def test_agents_are_put_together_by_all_their_widths():
    agents = torch.tensor([4, 2, 0, 1, 3])
    first, second = np.array([9, 9, 2, 2, 2]), np.array([1, 1, 1, 5, 1])
    found = [(width, agents[places].tolist()) for width, places in alike(agents, first, second)]
    assert found == [(9, [0, 1]), (2, [3]), (2, [4, 2])]


def test_agents_with_one_width_are_not_looked_at():
    found = alike(torch.zeros(3, dtype=torch.int64, device="meta"), np.full(5, 7))
    assert [(width, places.shape, places.device.type) for width, places in found] == [(7, (3,), "meta")]


def test_items_are_made_in_blocks_when_one_comes_to_them():
    made = []

    def make(first, end):
        made.append((first, end))
        return [number**2 for number in range(first, end)]

    squares = InBlocks(7, 3, make)
    assert (len(squares), made) == (7, [])
    assert next(iter(squares)) == 0
    assert made == [(0, 3)]
    assert list(squares) == [0, 1, 4, 9, 16, 25, 36]
    assert made[1:] == [(0, 3), (3, 6), (6, 7)]
    assert (squares[2], squares[-1], squares[1:3]) == (4, 36, [1, 4])
    with pytest.raises(IndexError):
        squares[7]
