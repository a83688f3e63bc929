"""Equal values have one identity, in any process; whatever differs in anything has another."""

import fractions
import functools
import math
import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gmfl_lite.basics.identity import identity, named, structure

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
ARRAYS = st.builds(
    lambda values, kind: np.array(values, kind),
    st.lists(st.integers(-9, 9), max_size=4),
    st.sampled_from(["int8", "int64", "float32", "float64"]),
)
NESTED = st.recursive(
    st.one_of(PLAIN, ARRAYS, ARRAYS.map(torch.from_numpy)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=4),
    ),
    max_leaves=12,
)


def copied(value):
    """Return an equal value that shares nothing which can be written to."""
    if isinstance(value, dict):
        return {key: copied(value[key]) for key in reversed(value)}
    if isinstance(value, (list, tuple)):
        return type(value)(map(copied, value))
    if isinstance(value, torch.Tensor):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def places(value, path=()):
    """Return the paths to all that a value holds, itself included."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


def others(value):
    """Return values that are near, and not equal."""
    if isinstance(value, dict):
        return [{**value, "another": 0}, [*value.items()], {key: (item,) for key, item in value.items()} or None]
    if isinstance(value, (list, tuple)):
        return [[*value, None], [*value, *value, 0], (list if isinstance(value, tuple) else tuple)(value), [value]]
    if isinstance(value, torch.Tensor):
        return [*map(torch.from_numpy, others(value.numpy())), value.numpy()]
    if isinstance(value, np.ndarray):
        flipped = [value[::-1].copy()] * (value.tolist() != value.tolist()[::-1])
        wider = value.astype("float16")
        return [
            np.append(value, value.dtype.type(1)),
            value[None],
            wider,
            *flipped,
            *([value + value.dtype.type(1)] * (value.size > 0)),
        ]
    if isinstance(value, bool) or value is None:
        return [not value, 0 if value is None else int(value)]
    if isinstance(value, float):
        near = math.nextafter(value, -math.inf if value == math.inf else math.inf)
        return [str(value), *([0.0] if math.isnan(value) else [near, -value])]
    return [value + 1, -value - 1, str(value)] if isinstance(value, int) else [value + value[:0].ljust(1), [value]]


def replaced(value, path, by):
    if not path:
        return by
    first, *rest = path
    if isinstance(value, dict):
        return {key: replaced(item, rest, by) if key == first else item for key, item in value.items()}
    return type(value)(replaced(item, rest, by) if place == first else item for place, item in enumerate(value))


def at(value, path):
    return at(value[path[0]], path[1:]) if path else value


@settings(deadline=None, max_examples=300)
@given(NESTED)
def test_equal_values_are_equal(value):
    assert identity(value) == identity(copied(value))


@settings(deadline=None, max_examples=300)
@given(NESTED, st.data())
def test_one_changed_element_is_another_value(value, data):
    path = data.draw(st.sampled_from(places(value)))
    for other in others(at(value, path)):
        assert identity(replaced(value, path, other)) != identity(value), (path, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1], 2], [[1, 2]]),
        ([[], []], [[[]]]),
        ({1: {2: 3}, 4: 5}, {1: {2: 3, 4: 5}}),
        ("ab", ["a", "b"]),
        (1, True),
        (0.0, -0.0),
        ({1, 2}, frozenset({1, 2})),
        (torch.ones(2), torch.ones(2, dtype=torch.bfloat16)),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor([1.0, 3.0], dtype=torch.bfloat16)),
        (torch.tensor(1j), torch.tensor(1j).conj()),
        (torch.eye(2).to_sparse(), torch.ones(2, 2).to_sparse()),
        (np.array([1, "a"], object), np.array([1, "b"], object)),
        (torch.float32, torch.float64),
        (int, float),
    ],
)
def test_what_looks_alike_is_another_value(one, other):
    assert identity(one) != identity(other)
    assert identity(one) == identity(one)


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (functools.partial(max, 1, key=abs, default=2), functools.partial(max, 1, default=2, key=abs)),
        (torch.arange(6).reshape(2, 3).T, torch.tensor([[0, 3], [1, 4], [2, 5]])),
        (torch.ones(2, requires_grad=True), torch.ones(2)),
        (np.arange(6)[::2], np.array([0, 2, 4])),
        (torch.tensor(1j).conj(), torch.tensor(1j).conj().resolve_conj()),
        (torch.ones(1).expand(3), torch.ones(3)),
    ],
)
def test_where_values_lie_does_not_count(one, same):
    assert identity(one) == identity(same)


def test_values_that_hold_themselves_come_to_an_end():
    one, other = [1], [1]
    one.append(one)
    other.append([other])
    assert identity(one) == identity(one) != identity(other)


# Functions.


def made(code, name="f", **known):
    """Return what some code defines, whose source nothing keeps."""
    exec(code, known)
    return known[name]


def scaled(by):
    return lambda a: by * a


def plain(a, b=1, *, c=2):
    return a + b + c


def other_default(a, b=1, *, c=3):
    return a + b + c


def with_default(value):
    def f(a, b=value):
        return a + b

    return f


def with_named_default(value):
    def f(a, *, b=value):
        return a + b

    return f


FUNCTIONS = [
    with_default(1), with_default(2), with_named_default(1), with_named_default(2),
    lambda a: a, lambda a: a + 1, lambda a: a + 2, lambda a: a - 1,
    scaled(1), scaled(2), scaled([1]), scaled(torch.ones(2)), scaled(torch.zeros(2)), scaled(scaled(1)),
    plain, other_default, functools.partial(plain, 1), functools.partial(plain, 2), functools.partial(plain, b=1),
    Counter("a").update, Counter("b").update,
    made("def f(a):\n    return 2 * a"), made("def f(a):\n    return 3 * a"), made("def f(a):\n    return a.x"),
    made("def f(a):\n    return a.y"), made("f = lambda a: a in {1, 2}"), made("f = lambda a: a in {1, 3}"),
    made("f = lambda a: lambda: 1"), made("f = lambda a: lambda: 2"), torch.tanh, torch.sin,
]  # fmt: skip


def test_functions_with_other_source_defaults_or_closures_are_others():
    assert len(set(map(identity, FUNCTIONS))) == len(FUNCTIONS)
    assert identity(scaled(1)) == identity(scaled(1))
    assert identity(made("def f(a):\n    return 2 * a")) == identity(made("def f(a):\n    return 2 * a"))


def test_a_name_is_for_people_and_machines():
    assert named(plain) == f"plain ({identity(plain)})"
    assert named(nn.L1Loss()) == f"L1Loss ({identity(nn.L1Loss())})"


# Modules and other objects.


class Twice(nn.Module):
    def __init__(self, by=2.0, call=torch.tanh):
        super().__init__()
        self.layer, self.by, self.call = nn.Linear(2, 2), by, call
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("lost", torch.ones(2), persistent=False)

    def forward(self, x):
        return self.by * self.call(self.layer(x))


class Thrice(Twice):
    def forward(self, x):
        return 3 * super().forward(x)


def changed(change, model=None):
    model = model or Twice()
    change(model)
    return model


def without_source(factor, base="nn.Module"):
    return made(f"class f({base}):\n    def forward(self, x):\n        return {factor} * x\n", nn=nn, __name__="typed")


MODULES = {
    "itself": Twice,
    "a weight": lambda: changed(lambda model: model.layer.weight.data[0, 0].add_(1e-6)),
    "a buffer that is not stored": lambda: changed(lambda model: model.lost.add_(1)),
    "a number": lambda: Twice(by=2.5),
    "a function": lambda: Twice(call=torch.sin),
    "its mode": lambda: Twice().eval(),
    "a hook": lambda: changed(lambda model: model.layer.register_forward_hook(lambda layer, x, y: 2 * y)),
    "another hook": lambda: changed(lambda model: model.layer.register_forward_hook(lambda layer, x, y: 3 * y)),
    "another layer": lambda: changed(lambda model: setattr(model, "more", nn.Tanh())),
    "a class": Thrice,
    "an alias": lambda: nn.Sequential(Twice()),
    "a typed class": lambda: without_source(2)(),
    "another typed class": lambda: without_source(3)(),
    "Huber": nn.HuberLoss,
    "Huber with a delta": lambda: nn.HuberLoss(delta=2.0),
    "Huber of single losses": lambda: nn.HuberLoss(reduction="none"),
    "cross-entropy": nn.CrossEntropyLoss,
    "smoothed cross-entropy": lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighed cross-entropy": lambda: nn.CrossEntropyLoss(torch.ones(3)),
    "cross-entropy weighed otherwise": lambda: nn.CrossEntropyLoss(torch.tensor([1.0, 1.0, 2.0])),
    "lazy": lambda: nn.LazyLinear(3),
}  # fmt: skip


def module(name):
    with torch.random.fork_rng():
        return MODULES[name]()


def test_modules_with_other_weights_settings_hooks_or_classes_are_others():
    found = {name: identity(module(name)) for name in MODULES}
    assert len(set(found.values())) == len(found), Counter(found.values())
    assert found == {name: identity(module(name)) for name in MODULES}


def test_the_structure_of_a_module_is_all_but_its_weights():
    same, setting = structure(module("itself")), structure(module("a number"))
    assert same == structure(module("a weight")) == structure(module("a buffer that is not stored"))
    assert same not in {setting, structure(module("a class")), structure(module("a hook"))}


def test_what_cannot_be_told_apart_does_no_harm():
    models = [module("itself"), module("itself")]
    for model in models:
        model.generator, model.me = torch.Generator(), [model]
    assert identity(models[0]) == identity(models[1])


@pytest.mark.parametrize(
    "held",
    [
        lambda k: SimpleNamespace(k=k),
        lambda k: np.float32(k),
        lambda k: functools.partial(pow, k),
        lambda k: {k},
        lambda k: range(int(k)),
        lambda k: slice(k),
        lambda k: fractions.Fraction(int(k)),
    ],
)
def test_attributes_of_any_kind_and_private_ones_count(held):
    """As a Hugging Face module's config: the same code and weights, and another function."""
    found = []
    for k in (1.0, 50.0, 1.0):
        model = module("itself")
        model._config = held(k)
        found.append(identity(model))
    assert found[0] == found[2] != found[1]


def test_globals_that_a_function_reads_count():
    names = {"torch": torch}
    exec("def loss(p, y):\n    return torch.sum(WEIGHT * (p - y))", names)
    found = []
    for weight in (torch.ones(2), torch.tensor([1.0, 30.0]), torch.ones(2)):
        names["WEIGHT"] = weight
        found.append(identity(names["loss"]))
    assert found[0] == found[2] != found[1]


def test_a_class_whose_parent_changes_is_another():
    bases = [without_source(2), without_source(3)]
    assert identity(bases[0]) != identity(bases[1])
    one, other = (type("Heir", (base,), {"__module__": "typed"}) for base in bases)
    assert identity(one()) != identity(other())


SAID = """
import functools, numpy as np, torch
import test_identity as t
values = [{"x", "y", "z"}, {"b": 1, "a": [2.5, None]}, torch.arange(3), np.float32(2), t.plain, t.scaled(2),
    functools.partial(t.plain, c=4), t.Twice, t.FUNCTIONS[0], t.FUNCTIONS[-4], torch.tanh, slice(1, 2), range(3),
    *(t.module(name) for name in t.MODULES if name != "lazy")]
print(" ".join(map(t.identity, values)))
"""


@pytest.mark.slow
def test_identities_are_the_same_in_other_processes():
    path = os.pathsep.join([*sys.path, os.path.dirname(__file__)])
    said = [
        subprocess.Popen(
            [sys.executable, "-c", SAID],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        )
        for seed in "12"
    ]
    one, other = (process.communicate(timeout=900)[0].split() for process in said)
    assert one == other
    assert len(one) > 30
    assert identity({"x", "y", "z"}) == one[0]
