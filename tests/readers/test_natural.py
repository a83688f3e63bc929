"""Natural federations: what is cut is what was recorded, nothing twice, and a missing package says its command."""

import importlib.util
import math
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from gmfl_lite.readers import NATURAL, Natural, read_natural

ROOT = Path(__file__).parent.parent.parent
INSTALLED = [pytest.param(name, marks=pytest.mark.skipif(
    source.package is not None and importlib.util.find_spec(source.package) is None,
    reason="needs the extra: pip install 'gmfl_lite[people]'",
)) for name, source in NATURAL.items()]  # fmt: skip


@pytest.fixture(scope="module")
def recorded():
    """Return seglearn's own file as its authors describe it: a dictionary of lists, one entry for each recording."""
    spec = importlib.util.find_spec("seglearn")
    if spec is None:
        pytest.skip("needs the extra: pip install 'gmfl_lite[people]'")
    path = Path(spec.origin).parent / "data" / "watch_dataset.npy"
    return np.load(path, allow_pickle=True).item()


@pytest.mark.parametrize("name", INSTALLED)
def test_agents_hold_windows_of_one_shape_and_classes(name):
    natural = read_natural(name)
    assert natural.name == name
    assert natural.recordings.keys() == natural.agents.keys()
    (shape,) = {(x.shape[1:], x.dtype, y.shape[1:], y.dtype) for x, y in natural.agents.values()}
    kind = {"watch": ((6, 100), np.float32, (), np.int64), "plays": ((20,), np.int64, (20,), np.int64)}
    assert shape == kind[name]
    for agent, (x, y) in natural.agents.items():
        assert len(x) == len(y) == len(natural.recordings[agent]) > 1
        assert x.flags.c_contiguous
        assert np.isfinite(x).all()
        assert 0 <= y.min() <= y.max() < len(natural.classes)
        assert len(np.unique(y)) >= 2


@pytest.mark.parametrize("name", INSTALLED)
def test_what_the_record_says_is_so(name):
    natural = read_natural(name)
    said = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", NATURAL[name].holds)]
    sizes = [len(x) for x, _ in natural.agents.values()]
    assert said[0] == len(sizes)
    assert said[-3:] == [min(sizes), max(sizes), sum(sizes)]
    assert len(natural.classes) in said
    assert set(next(iter(natural.agents.values()))[0].shape[1:]) <= set(said)


def test_windows_of_the_watch_rebuild_what_was_recorded(recorded):
    """In g and rad/s, each stretch once and none twice: only the end of a recording, below 2 s, is left out."""
    natural = read_natural("watch")
    assert list(natural.agents) == [f"person {number}" for number in range(1, 11)]
    assert recorded["X_labels"] == ["ax", "ay", "az", "wx", "wy", "wz"]
    seen = []
    for agent, (x, y) in natural.agents.items():
        for recording in dict.fromkeys(natural.recordings[agent].tolist()):
            own = natural.recordings[agent] == recording
            rebuilt = x[own].transpose(0, 2, 1).reshape(-1, 6)
            rebuilt[:, 3:] *= math.pi
            series = recorded["X"][recording]
            assert 0 <= len(series) - len(rebuilt) < 100
            np.testing.assert_allclose(rebuilt, series[: len(rebuilt)], rtol=1e-6, atol=1e-6)
            assert set(y[own].tolist()) == {recorded["y"][recording]}
            assert agent == f"person {recorded['subject'][recording]}"
            seen.append(recording)
    assert sorted(seen) == list(range(140))


def test_every_person_does_every_exercise_with_each_arm(recorded):
    natural = read_natural("watch")
    assert [name[:3] for name in natural.classes] == ["pen", "abd", "for", "int", "ext", "low", "ben"]
    assert [name[:3].lower() for name in recorded["y_labels"]] == ["pen", "abd", "fel", "ir", "er", "tra", "row"]
    for agent, (_, y) in natural.agents.items():
        recordings, first = np.unique(natural.recordings[agent], return_index=True)
        done = {(y[row], recorded["side"][recording]) for recording, row in zip(recordings, first, strict=True)}
        assert done == {(exercise, side) for exercise in range(7) for side in (0.0, 1.0)}


def test_reading_the_watch_imports_nothing_of_the_package(recorded):
    """seglearn's other modules need a scikit-learn of their time, which may not be the one that is installed."""
    read_natural("watch")
    assert not [name for name in sys.modules if name == "seglearn" or name.startswith("seglearn.")]


def as_printed() -> list[tuple[str, str]]:
    """Return (role, speech) of the file, found by its headings."""
    text = (ROOT / "gmfl_lite" / "readers" / "plays.txt").read_text(encoding="utf-8")
    found = re.findall(r"^# ([^:\n]+): .*\n((?:(?!#).*\n)+)", text, flags=re.MULTILINE)
    return [(role, " ".join(lines.split()).lower()) for role, lines in found]


def test_windows_of_the_plays_are_the_text_and_what_comes_next():
    natural = read_natural("plays")
    symbols = natural.classes
    assert len(set(symbols)) == len(symbols) <= 40
    printed = as_printed()
    assert list(natural.agents) == list(dict.fromkeys(role for role, _ in printed))
    for number, (role, speech) in enumerate(printed):
        own = natural.recordings[role] == number
        said, next_said = ("".join(symbols[s] for s in part[own].flatten()) for part in natural.agents[role])
        speech = speech.replace(" ", "␣")
        assert 0 < len(speech) - len(said) <= 20, "what is left is less than a window and its next symbol"
        assert said == speech[: len(said)]
        assert next_said == speech[1 : len(said) + 1]


def test_roles_say_enough_to_learn_from():
    said: dict[str, int] = {}
    for role, speech in as_printed():
        said[role] = said.get(role, 0) + len(speech)
    assert len(said) == 13
    assert 500 <= min(said.values()) <= max(said.values()) <= 1500


@pytest.mark.parametrize("test_fraction", [0.1, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_scored_is_the_end_of_each_recording(name, test_fraction):
    natural = read_natural(name)
    train, test = natural.in_time(test_fraction)
    assert list(train) == list(test) == list(natural.agents)
    for agent, (x, y) in natural.agents.items():
        rows = {pair: row for row, pair in enumerate(pairs(x, y))}
        assert len(rows) == len(x), "no two windows are alike, so that nothing is both trained on and scored"
        trained, scored = (np.array([rows[pair] for pair in pairs(*part[agent])]) for part in (train, test))
        assert sorted([*trained, *scored]) == list(range(len(x)))
        for recording in set(natural.recordings[agent].tolist()):
            before, after = (part[natural.recordings[agent][part] == recording] for part in (trained, scored))
            assert before.max() < after.min()
            wanted = test_fraction * (len(before) + len(after))
            assert abs(len(after) - wanted) <= 0.5 or min(len(before), len(after)) == 1


def pairs(x: np.ndarray, y: np.ndarray) -> list[tuple[bytes, bytes]]:
    return [(x[row].tobytes(), y[row].tobytes()) for row in range(len(x))]


def test_recordings_of_one_and_two_windows_are_split():
    x = np.arange(3)[:, None].astype(np.float32)
    short = Natural("short", {"a": (x, np.array([0, 1, 1]))}, ("no", "yes"), {"a": np.array([4, 7, 7])})
    train, test = short.in_time(0.25)
    assert train["a"][0].tolist() == [[0], [1]]
    assert test["a"][0].tolist() == [[2]]


@pytest.mark.parametrize("test_fraction", [0, 1, -0.5, math.nan, "half", None])
def test_a_share_that_leaves_nothing_is_refused(test_fraction):
    with pytest.raises(ValueError, match=r"test_fraction = .*must be a finite number above 0 and below 1"):
        read_natural("plays").in_time(test_fraction)


@pytest.mark.parametrize("name", [name for name, source in NATURAL.items() if source.package])
def test_a_missing_package_says_its_command(name, monkeypatch):
    source = NATURAL[name]
    monkeypatch.setitem(sys.modules, source.package, None)
    with pytest.raises(ImportError, match=rf"pip install 'gmfl_lite\[{source.extra}\]'") as raised:
        read_natural(name)
    assert raised.value.name == source.package
    assert read_natural("plays").agents


def test_a_folder_that_is_only_called_like_the_package_is_not_it(tmp_path, monkeypatch):
    (tmp_path / "seglearn").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match="people"):
        read_natural("watch")


@pytest.mark.parametrize("name", [name for name, source in NATURAL.items() if source.package])
def test_the_extra_brings_the_package(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = project["optional-dependencies"][NATURAL[name].extra]
    assert any(line.startswith(NATURAL[name].package) for line in brought)


@pytest.mark.parametrize(("name", "nearest"), [("wacth", "watch"), ("play", "plays"), ("Plays", "plays")])
def test_an_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"natural = '{name}'.*did you mean '{nearest}'"):
        read_natural(name)


@pytest.mark.parametrize("name", [None, 3, ["watch"]])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="must be one of 'watch', 'plays'"):
        read_natural(name)
