"""Agents: who holds what after shifts and splits, and which batches they draw."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gmfl_lite as gl
from gmfl_lite.basics import randomness
from gmfl_lite.federation import agents as agents_module


def rows_of(dataset, x):
    """The dataset's row of each image; digits has no two images alike."""
    where = {row.numpy().tobytes(): i for i, row in enumerate(dataset.x)}
    return [where[image.numpy().tobytes()] for image in x]


SCHEMES = [gl.IID(), gl.IID(1.0), gl.Dirichlet(0.2), gl.Dirichlet(0.2, 1.0), gl.Shards(2), gl.PerFedAvgSplit(10)]
SHIFTS = [{}, {"permuted_classes": 4}, {"max_rotation": 45}, {"permuted_classes": 10, "max_rotation": 90}]


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_sample_is_one_agents_and_either_trained_on_or_scored(digits, scheme, shift):
    parts = gl.partition(digits.y, scheme, 20, seed=0)
    options = {"n_new_agents": 5, "test_fraction": 0.3, "seed": 3}
    federation = gl.Federation.from_partition(digits, parts, **options, **shift)
    plain = gl.Federation.from_partition(digits, parts, **options)
    assert (federation.n_agents, federation.n_new_agents) == (15, 5)
    for agent, part in enumerate(parts):
        trained, scored = rows_of(digits, plain.train(agent)[0]), rows_of(digits, plain.test(agent)[0])
        assert sorted(trained + scored) == part.tolist()
        assert len(scored) == round(0.3 * len(part))
        assert federation.sizes[agent] == len(part)
        labels = torch.cat([federation.train(agent)[1], federation.test(agent)[1]])
        assert federation.label_counts.loc[agent].tolist() == torch.bincount(labels, minlength=10).tolist()
        if not shift:
            assert digits.y[trained].tolist() == federation.train(agent)[1].tolist()
            assert digits.y[scored].tolist() == federation.test(agent)[1].tolist()
        # The halves' mixes are closer than two random halves would be: each class is off by one sample at most.
        held = federation.label_counts.loc[agent].to_numpy()
        shown = torch.bincount(federation.test(agent)[1], minlength=10).numpy()
        assert (abs(shown - held * len(scored) / len(part)) <= 1 + 1e-9).all()
    assert list(federation.label_counts.columns) == list("0123456789")


def test_a_shift_leaves_the_split_as_it_is(digits):
    parts = gl.partition(digits.y, gl.Dirichlet(0.3), 10, seed=0)
    shifts = ({}, {"permuted_classes": 10}, {"max_rotation": 60})
    plain, renamed, turned = (gl.Federation.from_partition(digits, parts, seed=1, **shift) for shift in shifts)
    for agent in range(10):
        assert torch.equal(plain.train(agent)[0], renamed.train(agent)[0])
        assert torch.equal(plain.train(agent)[1], turned.train(agent)[1])
        assert not torch.equal(plain.train(agent)[0], turned.train(agent)[0])


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("scheme", [gl.IID(), gl.Dirichlet(0.1), gl.Shards(2)])
def test_both_halves_show_the_agents_own_mix(digits, scheme, fraction):
    parts = gl.partition(digits.y, scheme, 30, seed=2)
    federation = gl.Federation.from_partition(digits, parts, test_fraction=fraction)
    for agent in range(30):
        held = federation.label_counts.loc[agent].to_numpy()
        scored = torch.bincount(federation.test(agent)[1], minlength=10).numpy()
        expected = held * len(federation.test(agent)[1]) / held.sum()
        assert (abs(scored - expected) <= 1 + 1e-9).all()


def test_the_last_sample_of_a_class_goes_to_training_where_there_is_a_choice(digits):
    of_class = [np.flatnonzero(digits.y.numpy() == c) for c in range(10)]
    part = np.concatenate([of_class[0][:9], of_class[1][:1], of_class[2][:1], of_class[3][:1]])
    federation = gl.Federation.from_partition(digits, [part])
    assert federation.test(0)[1].tolist() == [0, 0, 0]


def test_permuted_classes_rename_each_agents_labels_by_one_permutation_of_its_own(digits):
    parts = gl.partition(digits.y, gl.IID(), 12, seed=0)
    for k in (0, 3, 10):
        federation = gl.Federation.from_partition(digits, parts, permuted_classes=k, seed=5)
        renamings = []
        for agent in range(12):
            renaming = {}
            for x, y in (federation.train(agent), federation.test(agent)):
                for row, label in zip(rows_of(digits, x), y.tolist(), strict=True):
                    assert renaming.setdefault(digits.y[row].item(), label) == label
            assert sorted(renaming.values()) == list(range(10))
            assert sum(true != name for true, name in renaming.items()) == k
            renamings.append(tuple(sorted(renaming.items())))
        assert len(set(renamings)) == (1 if k == 0 else 12)
    assert digits.y[parts[0]].tolist() == gl.load_dataset("digits").y[parts[0]].tolist()  # the input is not changed


def test_rotation_turns_each_agents_images_by_one_angle(digits):
    """torchvision's rotation is the oracle: for some angle in range it gives the agent's images."""
    parts = gl.partition(digits.y, gl.IID(), 6, seed=0)
    plain = gl.Federation.from_partition(digits, parts, seed=5)
    turned = gl.Federation.from_partition(digits, parts, max_rotation=60, seed=5)
    angles = np.linspace(-60, 60, 481)
    best = []
    for agent in range(6):
        x = plain.train(agent)[0]
        errors = [
            (tvf.rotate(x, a, interpolation=tvf.InterpolationMode.BILINEAR) - turned.train(agent)[0])
            .abs()
            .mean()
            .item()
            for a in angles
        ]
        assert min(errors) < 2e-3
        best.append(angles[np.argmin(errors)])
    np.testing.assert_allclose(best, turned.rotations, atol=0.5)
    assert len(set(best)) == 6
    assert not plain.rotations.any()


def test_an_agents_shift_and_split_do_not_depend_on_how_many_others_there_are(digits):
    parts = gl.partition(digits.y, gl.IID(), 10, seed=0)
    many, few = (
        gl.Federation.from_partition(digits, p, permuted_classes=5, max_rotation=30, seed=3) for p in (parts, parts[:4])
    )
    for one, other in zip(many.train(2) + many.test(2), few.train(2) + few.test(2), strict=True):
        assert torch.equal(one, other)


def drawn(federation, agents, **changes):
    settings = {"nu": 2, "local_steps": 3, "batch_size": 6, "seed": 4, "round": 1} | changes
    return federation.batches(torch.tensor(agents), **settings)


def test_batches_are_distinct_training_samples_of_the_agent(federation):
    for support, query in drawn(federation, [0, 5, 11]):
        assert len(support) == 2
        for x, y, weight in [*support, query]:
            for i, agent in enumerate((0, 5, 11)):
                own = {row.numpy().tobytes(): label for row, label in zip(*federation.train(agent), strict=True)}
                counted = weight[i] > 0
                images = [row.numpy().tobytes() for row in x[i][counted]]
                assert len(set(images)) == len(images) == min(6, len(own))
                assert [own[image] for image in images] == y[i][counted].tolist()
                assert weight[i].sum() == pytest.approx(1)
                assert set(weight[i][counted].tolist()) == {weight[i].max().item()}


def test_an_agent_smaller_than_the_batch_brings_all_it_has(federation):
    smallest = int(federation.train_sizes.argmin())
    size = int(federation.train_sizes[smallest])
    (_, (_, _, weight)), *_ = drawn(federation, [0, smallest], batch_size=size + 3)
    assert (weight[1] > 0).sum() == size
    assert weight[1].max() == pytest.approx(1 / size)


def test_full_batch_is_everything(federation):
    (support, (x, y, weight)), *_ = drawn(federation, [3], batch_size=None)
    own_x, own_y = federation.train(3)
    assert torch.equal(x[0][weight[0] > 0], own_x)
    assert torch.equal(y[0][weight[0] > 0], own_y)
    assert len(support) == 2


def test_batches_depend_on_seed_round_agent_step_and_number_only(federation):
    reference = drawn(federation, [2, 7])
    for (support, query), (support_2, query_2) in zip(reference, drawn(federation, [7, 4, 2], nu=5), strict=True):
        for mine, theirs in zip((query, *support), (query_2, *support_2[:2]), strict=True):
            assert torch.equal(mine[0][0], theirs[0][2])
            assert torch.equal(mine[0][1], theirs[0][0])
    everything = [batch[1][0].flatten().tolist() for s, q in reference for batch in (*s, q)]
    everything += [drawn(federation, [2, 7], **c)[0][1][1][0].flatten().tolist() for c in ({"seed": 5}, {"round": 2})]
    assert len({tuple(labels) for labels in everything}) > 0.8 * len(everything)


@pytest.mark.parametrize("which", ["federation", "one_giant"])
@pytest.mark.parametrize("block_numbers", [1, 10**4, 10**9])
def test_draws_are_those_of_each_agent_alone(request, monkeypatch, which, block_numbers):
    """The oracle names the same keys for one agent, one step and one batch at a time, and draws from all positions."""
    federation = request.getfixturevalue(which)
    monkeypatch.setattr(agents_module, "BLOCK_NUMBERS", block_numbers)
    agents, widest = [7, 3, 0], int(federation.train_sizes.max())
    steps = drawn(federation, agents, local_steps=5)
    assert len(steps) == 5
    for t, (support, query) in enumerate(steps):
        for number, (x, y, weight) in enumerate([query, *support]):
            for place, agent in enumerate(agents):
                own_x, own_y = federation.train(agent)
                key = randomness.keys(4, "batches", 1, torch.tensor(agent))
                key = randomness.spawn(randomness.spawn(key, torch.tensor(t)), torch.tensor(number))
                positions = randomness.choose(key, torch.tensor(len(own_y)), 6, widest)
                assert torch.equal(x[place], own_x[positions])
                assert torch.equal(y[place], own_y[positions])
                assert torch.equal(weight[place], torch.full((6,), 1 / 6))
    assert torch.equal(steps[3][1][0], list(steps)[3][1][0])


class Made(TorchDispatchMode):
    """Adds up how many numbers tensor operations make."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.total += sum(t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        return result


def test_batches_are_drawn_when_their_step_is_due(federation):
    with Made() as at_first:
        steps = drawn(federation, [0, 5], local_steps=20_000)
    assert at_first.total < 1000
    with Made() as in_ten_steps:
        assert len(list(itertools.islice(steps, 10))) == 10
    assert in_ten_steps.total < 40 * agents_module.BLOCK_NUMBERS


def test_a_full_batch_is_gathered_once_for_all_steps(federation):
    with Made() as once:
        (first, _), *_ = drawn(federation, [3], batch_size=None, local_steps=1)
    with Made() as often:
        steps = list(drawn(federation, [3], batch_size=None, local_steps=1000))
    assert once.total == often.total
    assert all(query is steps[0][1] and support[0] is query for support, query in steps)
    assert torch.equal(first[0][0], steps[0][1][0])


def test_an_agents_padding_is_its_own(one_giant):
    """Whatever others hold, an agent's batches are the same."""
    changed = copy.copy(one_giant)
    changed.x = torch.full_like(one_giant.x, float("nan"))
    for table in (one_giant._train, one_giant._test):
        changed.x[table.of(2)] = one_giant.x[table.of(2)]
    for batch_size in (11, None):
        ((support, query),) = drawn(changed, [2], batch_size=batch_size, local_steps=1)
        assert all(batch[0].isfinite().all() for batch in (*support, query))
    assert changed.test_sets(torch.tensor([2]))[0].isfinite().all()


@pytest.mark.parametrize("small", [20, 200])
def test_work_is_that_of_the_samples_whoever_holds_them(small):
    """One agent of 4,000 samples among small ones: what is gathered to score all of them."""
    sizes = [4000] + [12] * small
    total = sum(sizes)
    dataset = gl.Dataset("random", torch.zeros(total, 1, 4, 4), torch.arange(total) % 10, tuple("0123456789"))
    ends = np.cumsum(sizes)[:-1]
    unequal = gl.Federation.from_partition(dataset, np.split(np.arange(total), ends))
    equal = gl.Federation.from_partition(dataset, np.array_split(np.arange(total), small + 1))
    made = []
    for federation in (equal, unequal):
        with Made() as numbers:
            for _, places in federation.scored_alike(federation.groups["trained"]):
                federation.train_sets(places), federation.test_sets(places)
        made.append(numbers.total)
    assert made[1] < 2 * made[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_new_agents": 3}, "n_new_agents = 3: must be an integer of at least 0 and at most 2"),
        ({"test_fraction": 0}, "test_fraction = 0: must be a finite number above 0 and below 1"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"permuted_classes": 11}, "permuted_classes = 11"),
        ({"max_rotation": float("nan")}, "max_rotation = nan"),
        ({"max_rotation": -5}, "max_rotation = -5"),
        ({"seed": 0.5}, "seed = 0.5"),
        ({"parts": []}, r"parts = \[\]: must be a list that holds at least one"),
        ({"parts": None}, "parts = None"),
        ({"permuted_classes": 1}, "permuted_classes = 1: must be 0 or at least 2"),
        ({"device": "gpu"}, "device = 'gpu'"),
        ({"parts": [[0, 1], [1, 2]]}, "disjoint, but sample 1 is held 2 times"),
        ({"parts": [[0, 1], [2]]}, r"parts\[1\]: must hold at least 2"),
        ({"parts": [[0, 1797]]}, "index 1797 is beyond"),
        ({"parts": [[0, -1]]}, r"parts\[0\]"),
        ({"dataset": "digits"}, "dataset"),
    ],
)
def test_refusals(digits, changes, message):
    arguments = {"dataset": digits, "parts": [[0, 1], [2, 3], [4, 5]], **changes}
    with pytest.raises(ValueError, match=message):
        gl.Federation.from_partition(arguments.pop("dataset"), arguments.pop("parts"), **arguments)


@pytest.mark.parametrize("agent", [-1, 15, 0.5])
def test_agents_that_do_not_exist(federation, agent):
    with pytest.raises(ValueError, match="agent = "):
        federation.train(agent)
