"""Agents that come with samples of their own: they hold what was given, in its place; what does not fit is named."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gmfl_lite as gl

SHAPES = {"features": (3,), "signals": (2, 7), "images": (1, 4, 4), "tokens": (5,)}


def samples(n, shape=(3,), first=0, tokens=False):
    """n samples that differ from one another: the first number is first, first + 1, …"""
    x = np.zeros((n, *shape), np.int64 if tokens else np.float64)
    x.reshape(n, -1)[:, 0] = np.arange(first, first + n)
    return x


def hospitals(**changes):
    """Three agents of 8, 12 and 20 samples that are numbered through."""
    sizes, first = {"Ada": 8, "Ben": 12, "Cleo": 20}, 0
    agents = {}
    for name, n in sizes.items():
        agents[name] = samples(n, first=first), (["well", "ill", "ill", "well"] * n)[:n]
        first += n
    return {**agents, **changes}


def made(agents=None, **how):
    return gl.Federation.from_agents(hospitals() if agents is None else agents, **how)


def numbers_of(x):
    return x.flatten(1)[:, 0].tolist()


def labels_of(federation, y):
    return [federation.classes[number] for number in y]


def assert_holds(federation, agents):
    """Each agent's samples are those it was given, with their labels, each in one half."""
    pairs = list(agents.values()) if isinstance(agents, dict) else agents
    for agent, (x, y) in enumerate(pairs):
        halves = federation.train(agent), federation.test(agent)
        held = [(number, label) for half in halves for number, label in zip(
            numbers_of(half[0]), labels_of(federation, half[1]), strict=True)]  # fmt: skip
        given = zip(np.asarray(x).reshape(len(x), -1)[:, 0].tolist(), map(str, np.asarray(y).tolist()), strict=True)
        assert sorted(held) == sorted(given)
        assert len(halves[0][0]) >= 1
        assert len(halves[1][0]) >= 1
        assert federation.sizes[agent] == len(x)


@pytest.mark.parametrize("form", [dict, list, tuple])
def test_agents_hold_what_they_were_given(form):
    agents = hospitals() if form is dict else form(hospitals().values())
    federation = made(agents, n_new_agents=1, test_fraction=0.25)
    assert_holds(federation, agents)
    assert (federation.n_agents, federation.n_new_agents) == (2, 1)
    assert federation.classes == ("ill", "well")
    assert [len(federation.test(agent)[0]) for agent in range(3)] == [2, 3, 5]
    assert federation.names == (("Ada", "Ben", "Cleo") if form is dict else None)
    assert federation.name_of(1) == ("Ben" if form is dict else "agent 1")


@pytest.mark.parametrize("named", [True, False])
def test_names_are_shown_wherever_agents_are(named):
    agents = hospitals() if named else list(hospitals().values())
    federation = made(agents, n_new_agents=1)
    shown = list(hospitals()) if named else [0, 1, 2]
    assert list(federation.label_counts.index) == shown
    counts = [[list(y).count(name) for name in ("ill", "well")] for _, y in hospitals().values()]
    assert federation.label_counts.to_numpy().tolist() == counts
    result = gl.run(gl.Experiment(model="softmax", rounds=1, agents_per_round=2), federation=federation, progress=False)
    assert ("name" in result.agents) == named
    if named:
        assert dict(zip(result.agents["agent"], result.agents["name"], strict=True)) == dict(enumerate(hospitals()))
        assert federation.only(2, 0).n_agents == 1


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_samples_of_any_shape_stay_what_they_are(kind, as_tensor):
    tokens = kind == "tokens"
    agents = {name: (samples(n, SHAPES[kind], first, tokens), ["a", "b"] * (n // 2)) for name, n, first in
              (("Ada", 6, 0), ("Ben", 10, 6))}  # fmt: skip
    if as_tensor:
        given = {name: (torch.from_numpy(x), torch.arange(len(x)) % 2) for name, (x, _) in agents.items()}
        federation = made(given, classes=["a", "b"])
    else:
        federation = made(agents)
    assert_holds(federation, agents)
    x, _ = federation.train(0)
    assert x.shape[1:] == SHAPES[kind]
    assert x.dtype == (torch.int64 if tokens else torch.float32)
    assert federation.in_precision("float64").train(0)[0].dtype == (torch.int64 if tokens else torch.float64)


def test_one_number_a_sample_is_one_feature():
    assert made([(range(4), [0, 1] * 2)]).train(0)[0].shape == (3, 1)
    assert made([(np.arange(4.0), [0, 1] * 2)]).train(0)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ((list("abca"), list("ddaa")), "a b c d"),
        (([True, False] * 2, [True] * 4), "False True"),
        (([7, -3, 100, 7], [3, 3, 20, 20]), "-3 3 7 20 100"),
        ((np.array([2, 1, 2, 1], np.uint8), torch.tensor([5, 1, 1, 5], dtype=torch.int16)), "1 2 5"),
        ((np.array(["x", "y"] * 2), pd.Series(list("zzxy"), dtype="category")), "x y z"),
        ((pd.Series([2, 1] * 2, dtype="Int64"), pd.Series([True, False] * 2, dtype="boolean")), "0 1 2"),
        ((["cat", "dog"] * 2, [1, 2, 1, 2]), "1 2 cat dog"),
        (([1, "cat", 1, "dog"], ["dog"] * 4), "1 cat dog"),
        (([10**12, 5] * 2, [5] * 4), "5 1000000000000"),
        ((np.array(["2020-01-01", "2021-06-01"] * 2, "M8[D]"), np.array(["2022-01-01"] * 4, "M8[D]")),
         "2020-01-01 2021-06-01 2022-01-01"),
    ],
    ids=str,
)  # fmt: skip
def test_labels_of_any_type_become_classes(labels, classes):
    agents = [(samples(4, first=4 * agent), y) for agent, y in enumerate(labels)]
    federation = made(agents)
    assert federation.classes == tuple(classes.split())
    if "0" not in classes.split():  # where it is, True stands for 1
        assert_holds(federation, agents)


def test_labels_of_each_position_of_a_sample():
    y = np.array([["e", "h"], ["l", "e"], ["h", "l"], ["e", "e"]])
    federation = made([(samples(4, (2,), tokens=True), y)])
    assert federation.classes == ("e", "h", "l")
    rows = [*map(int, numbers_of(federation.train(0)[0])), *map(int, numbers_of(federation.test(0)[0]))]
    found = torch.cat([federation.train(0)[1], federation.test(0)[1]])
    assert [[federation.classes[number] for number in row] for row in found] == y[rows].tolist()
    assert federation.label_counts.to_numpy().tolist() == [[4, 2, 2]]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, "torch.bfloat16", object])
def test_floats_are_numbers_to_predict(kind):
    y = [np.arange(4) / 4, np.arange(4, 8) / 4]
    kept = [torch.tensor(each).bfloat16() if kind == "torch.bfloat16" else each.astype(kind) for each in y]
    federation = made([(samples(4, first=4 * agent), each) for agent, each in enumerate(kept)])
    assert federation.classes is None
    for agent in (0, 1):
        x = torch.cat([federation.train(agent)[0], federation.test(agent)[0]])
        found = torch.cat([federation.train(agent)[1], federation.test(agent)[1]])
        assert found.tolist() == [[number / 4] for number in numbers_of(x)]
    several = made([(samples(4), np.arange(8.0).reshape(4, 2))])
    assert several.train(0)[1].shape == (3, 2)


def test_classes_are_given_as_values_or_as_names_of_numbers():
    agents = [(samples(4), [2, 0, 1, 2])]
    for classes, expected in (([2, 1, 0], "210"), (["zero", "one", "two", "more"], None), (None, "012")):
        federation = made(agents, classes=classes)
        y = dict(zip(numbers_of(torch.cat([federation.train(0)[0], federation.test(0)[0]])),
                     torch.cat([federation.train(0)[1], federation.test(0)[1]]).tolist(), strict=True))  # fmt: skip
        place = [2, 0, 1, 2] if expected is None else [expected.index(label) for label in "2012"]
        assert [y[number] for number in range(4)] == place
        assert federation.classes == tuple(map(str, classes or (0, 1, 2)))
    assert made([(samples(4), [True, False] * 2)], classes=["no", "yes"]).classes == ("no", "yes")
    assert made([(samples(4), np.array([1, 0] * 2, object))], classes=["no", "yes"]).classes == ("no", "yes")
    for classes, message in (
        (["a", "b"], "classes: label 0 is none of 'a', 'b'"),
        ([1, 2, 3], "classes: label 0 is none of 1"),
        ([0, 1, 2, 1], "classes: two have the name '1'"),
    ):
        with pytest.raises(ValueError, match=message):
            made(agents, classes=classes)
    with pytest.raises(ValueError, match="classes: y are numbers to predict"):
        made([(samples(4), np.zeros(4))], classes=["a", "b"])


TESTS = {"Cleo": (samples(3, first=300), ["well", "ill", "dead"]), "Ada": (samples(1, first=100), ["ill"]),
         "Ben": (samples(2, first=200), ["ill", "ill"])}  # fmt: skip


def test_a_split_that_is_given_is_kept_row_for_row():
    federation = made(test=TESTS, n_new_agents=1, test_fraction=0.9)
    assert federation.names == ("Ada", "Ben", "Cleo")  # in the agents' order, not in the tests'
    assert federation.classes == ("dead", "ill", "well")  # one of them is in a test alone
    for agent, name in enumerate(federation.names):
        for (x, y), (given_x, given_y) in (
            (federation.train(agent), hospitals()[name]), (federation.test(agent), TESTS[name])
        ):  # fmt: skip
            assert x.tolist() == given_x.tolist()
            assert labels_of(federation, y) == list(given_y)
    alone = made([(samples(1), ["a"]), (samples(1, first=1), ["b"])], test=[(samples(1, first=2), ["b"])] * 2)
    assert [len(alone.train(agent)[0]) for agent in (0, 1)] == [1, 1]


def test_shots_and_noise_leave_a_given_test_as_it_is():
    plain = made(test=TESTS, n_new_agents=1)
    few = made(test=TESTS, n_new_agents=1, shots=2, query="disjoint")
    noisy = made(test=TESTS, n_new_agents=1, label_noise=0.5, seed=1)
    for agent in range(3):
        for other in (few, noisy):
            for mine, theirs in zip(plain.test(agent), other.test(agent), strict=True):
                assert torch.equal(mine, theirs)
        x, y = few.train(agent)
        assert set(numbers_of(x)) <= set(numbers_of(plain.train(agent)[0]))
        assert torch.bincount(y, minlength=3).tolist() == ([0, 4, 4] if agent < 2 else [0, 2, 2])
        tuned = few.fine_tune_sets(torch.tensor([agent]))
        assert torch.bincount(tuned[1][0], minlength=3).tolist() == [0, 2, 2]
        assert torch.equal(noisy.train(agent)[0], plain.train(agent)[0])
    wrong = [(noisy.train(agent)[1] != plain.train(agent)[1]).float().mean().item() for agent in range(3)]
    assert 0.2 < np.mean(wrong) < 0.8
    for support, query in few.batches(torch.tensor([0, 1]), nu=2, local_steps=2, batch_size=None, seed=0, round=0,
                                      query="disjoint"):  # fmt: skip
        for agent in (0, 1):
            halves = [set(numbers_of(x[agent][weight[agent] > 0])) for x, _, weight in (support[0], query)]
            assert not halves[0] & halves[1]
            assert len(halves[0] | halves[1]) == 8


X = samples(4)
Y = ["a", "b"] * 2


@pytest.mark.parametrize(
    ("agents", "how", "message"),
    [
        (hospitals(Ben=(samples(5), ["ill"] * 4)), {}, r"agents\['Ben'\]: x and y must have as many samples, got 5"),
        (hospitals(Ben=(samples(5), "ill")), {}, r"agents\['Ben'\]: x and y must have as many samples, got 5 and no"),
        (hospitals(Ben=(np.zeros((0, 3)), [])), {}, r"agents\['Ben'\]: holds no samples; leave it out"),
        (hospitals(Ben=(samples(1), ["ill"])), {}, "agent 'Ben': holds one sample, and needs two"),
        ([(X, Y), (X[:1], ["a"])], {}, "agent 1: holds one sample, and needs two"),
        (hospitals(Ben=(samples(4) / [np.nan, 1, 1], ["ill"] * 4)), {}, r"agents\['Ben'\]: x holds NaN"),
        (hospitals(Ben=(samples(4) + np.inf, ["ill"] * 4)), {}, r"agents\['Ben'\]: x holds NaN or infinite"),
        (hospitals(Ben=(samples(4) + 1e300, ["ill"] * 4)), {}, r"agents\['Ben'\]: x holds NaN or infinite"),
        ([(X, np.zeros(4)), (X, [0, 1, np.nan, 2])], {}, r"agents\[1\]: y holds NaN or infinite"),
        ([(X, np.zeros(4)), (X, [0, 1, 1e300, 2])], {}, r"agents\[1\]: y holds NaN or infinite"),
        (hospitals(Ben=(X, ["ill", None, "ill", "ill"])), {}, r"agents\['Ben'\]: y holds nothing .* in 1 places"),
        (hospitals(Ben=(X, ["ill", np.nan, "ill", np.nan])), {}, r"agents\['Ben'\]: y holds nothing .* in 2 places"),
        (hospitals(Ben=(X, pd.Series([1, None] * 2, dtype="Int64"))), {}, r"agents\['Ben'\]: y holds (nothing|NaN)"),
        (hospitals(Ben=(X, ["ill", 1.5, "ill", "ill"])), {}, r"agents\['Ben'\]: y holds words and numbers"),
        (hospitals(Ben=(X, [["ill"], ["well", "ill"]] * 2)), {}, r"agents\['Ben'\]: y holds samples of different sh"),
        (hospitals(Ben=(X, np.arange(4.0))), {}, r"agents\['Ben'\]: y are numbers to predict \(floats\), and those of "
                                                r"agents\['Ada'\] labels; they must be alike"),
        ([(X, np.arange(4.0)), (X, Y)], {}, r"agents\[1\]: y are labels, and those of agents\[0\] numbers to predict"),
        (hospitals(Ben=(samples(4, (2,)), ["ill"] * 4)), {}, r"agents\['Ben'\]: a sample's x has the shape \[2\], and "
                                                             r"those of agents\['Ada'\] \[3\]"),
        ([(X, Y), (X, [["a", "b"]] * 4)], {}, r"agents\[1\]: a sample's y has the shape \[2\], and"),
        ([(np.zeros((4, 1, 2, 2), np.uint8), Y)], {}, r"agents\[0\]: x is of uint8.* divide pixels by 255"),
        ([(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), Y)], {}, "divide pixels by 255"),
        ([(np.array(Y), Y)], {}, r"agents\[0\]: x is of <U1.*; give numbers"),
        ([(X + 1j, Y)], {}, r"agents\[0\]: x is of complex128"),
        ([(np.zeros((4, 0)), Y)], {}, r"agents\[0\]: x is of float64, \[4, 0\]"),
        ([([[1, 2], [3]] * 2, Y)], {}, r"agents\[0\]: x holds samples of different shapes"),
        (hospitals(Ben=X), {}, r"agents\['Ben'\]: must be a pair \(x, y\), got ndarray"),
        (hospitals(Ben=(X, Y, Y)), {}, r"agents\['Ben'\]: must be a pair \(x, y\), got tuple"),
        ({"Ada": (X, ["a"] * 4), "Ben": (X, ["a"] * 4)}, {}, "y: all samples are of one class, 'a'"),
        ({}, {}, r"agents = 'dict': must be a dict \{name: \(x, y\)\} or a list"),
        (iter([(X, Y)]), {}, "agents = 'list_iterator': must be a dict"),
        ({1: (X, Y), "1": (X, Y)}, {}, "names: '1' is the name of two agents"),
        (None, {"test": {**TESTS, "Dan": (X, Y)}}, "test: must hold one .* for each of the 3 agents"),
        (None, {"test": {"Ada": (X, Y), "Ben": (X, Y), "Dan": (X, Y)}}, "test: holds nothing of agent 'Cleo'"),
        (None, {"test": list(TESTS.values())}, "in the form of `agents`"),
        (None, {"test": {**TESTS, "Ben": (samples(2, (2,)), ["ill"] * 2)}}, r"test\['Ben'\]: a sample's x has"),
        (None, {"test": {**TESTS, "Ben": (X, np.zeros(4))}}, r"test\['Ben'\]: y are numbers to predict"),
        (None, {"test": {**TESTS, "Ben": (np.zeros((0, 3)), [])}}, r"test\['Ben'\]: holds no samples"),
        (None, {"n_new_agents": 3}, "n_new_agents = 3: must be an integer of at least 0 and at most 2"),
        (None, {"max_rotation": 10}, "max_rotation = 10.0: must be 0: own holds no images"),
        ([(X, [["a", "b"]] * 4)], {"label_noise": 0.1}, "label_noise = 0.1: must be 0: samples have no class"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_agents_name(agents, how, message):
    with pytest.raises(ValueError, match=message):
        made(agents, **how)


def test_names_and_splits_of_parts_are_checked(digits):
    parts = [np.arange(0, 10), np.arange(10, 20)]
    make = gl.Federation.from_partition
    assert make(digits, parts, names=["a", 7]).names == ("a", "7")
    for how, message in (
        ({"names": ["a"]}, "names = '1 names': must be one for each of 2 agents"),
        ({"names": ["a", "a", "b"]}, "names = '3 names': must be one for each of 2 agents"),
        ({"names": ["7", 7]}, "names: '7' is the name of two agents"),
        ({"scored": [[20]]}, "scored = '1 lists': must be one for each of 2 agents"),
        ({"scored": [[20], [9]]}, "parts and scored: must be disjoint, but sample 9 is held 2 times"),
        ({"scored": [[20], []]}, r"scored\[1\]: must be a non-empty"),
        ({"scored": [[20], [1797]]}, r"scored\[1\]: index 1797 is beyond"),
    ):
        with pytest.raises(ValueError, match=message):
            make(digits, parts, **how)
    federation = make(digits, parts, scored=[[20, 30], [25]])
    assert torch.equal(federation.test(0)[0], digits.x[[20, 30]])
    assert torch.equal(federation.train(1)[0], digits.x[10:20])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_agents_hold_is_dealt_to_them_and_to_nobody_else(data):
    labels = st.sampled_from([0, 3, "a", "b c", "é"])
    sizes = data.draw(st.lists(st.integers(2, 12), min_size=1, max_size=6))
    firsts = np.cumsum([0, *sizes])
    agents = {}
    for number, n in enumerate(sizes):
        y = data.draw(st.lists(labels, min_size=n, max_size=n))
        agents[f"agent {number}"] = samples(n, first=int(firsts[number])), y
    shown = {str(label) for _, y in agents.values() for label in y}
    assume(len(shown) > 1)
    test = {name: (samples(1, first=1000 + number), y[:1]) for number, (name, (_, y)) in enumerate(agents.items())}
    new = data.draw(st.integers(0, len(sizes) - 1))
    federation = made(agents, n_new_agents=new, seed=data.draw(st.integers(0, 99)))
    assert set(federation.classes) == shown
    assert_holds(federation, agents)
    dealt = [number for agent in range(len(sizes)) for half in (federation.train, federation.test)
             for number in numbers_of(half(agent)[0])]  # fmt: skip
    assert sorted(dealt) == list(range(int(firsts[-1])))
    kept = made(agents, test=test, n_new_agents=new)
    for agent, (x, _) in enumerate(agents.values()):
        assert numbers_of(kept.train(agent)[0]) == x[:, 0].tolist()
        assert numbers_of(kept.test(agent)[0]) == [1000 + agent]
