"""Tables as people have them become the samples that they hold; what cannot is refused by its column."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite.readers import from_frame

VISITS = pd.DataFrame(
    {
        "who": list("baccabcab"),
        "age": [30, 41, 52, 50, 40, 31, 51, 42, 32],
        "dose": [0.5, 0.25, 1.0, 2.0, 0.125, 1.5, 3.0, 0.75, 2.5],
        "ill": ["yes", "no", "no", "yes", "no", "yes", "no", "yes", "no"],
    }
)


def read(frame=VISITS, agent="who", label="ill", features=None, numbers=False, classes=None):
    return from_frame(frame, agent, label, features, numbers, classes)


def federation(frame=VISITS, **how):
    return gl.Federation.from_frame(frame, **{"agent": "who", "label": "ill", **how})


def assert_holds(found, frame, agent, label, features):
    """What each agent holds, looked up in the table row by row."""
    columns = {str(name): [] for name in frame[agent]}
    for row in frame.to_dict("records"):
        columns[str(row[agent])].append(([float(row[name]) for name in features], str(row[label])))
    assert found.names == tuple(columns)
    for name, rows in zip(found.names, found.train, strict=True):
        held = list(zip(found.x[rows].tolist(), [found.classes[label] for label in found.y[rows]], strict=True))
        assert held == columns[name]


def test_agents_hold_their_rows_in_the_order_of_the_table():
    found = read()
    assert (found.names, found.classes, found.test) == (("b", "a", "c"), ("no", "yes"), None)
    assert_holds(found, VISITS, "who", "ill", ["age", "dose"])
    assert sorted(np.concatenate(found.train).tolist()) == list(range(9))
    assert found.x.dtype == torch.float32


def test_the_federation_splits_these_rows():
    agents = federation(n_new_agents=1, name="visits")
    assert (agents.n_agents, agents.n_new_agents, agents.names) == (2, 1, ("b", "a", "c"))
    counts = VISITS.groupby(["who", "ill"]).size().unstack(fill_value=0).loc[["b", "a", "c"]]
    pd.testing.assert_frame_equal(agents.label_counts, counts, check_names=False, check_column_type=False)
    assert agents.sizes.tolist() == [3, 3, 3]


@pytest.mark.parametrize("features", [["dose"], "dose", ["dose", "age"], None])
def test_features_are_the_columns_that_are_asked_for(features):
    names = ["age", "dose"] if features is None else ["dose"] if features == "dose" else features
    assert_holds(read(features=features), VISITS, "who", "ill", names)


def test_a_csv_file_of_windows_with_spaces_around_words():
    text = "who,age,dose,ill\r\n" + "".join(
        f" {row.who}\t, {row.age} ,{row.dose}, {row.ill} \r\n" for row in VISITS.itertuples()
    )
    for options in ({}, {"lineterminator": "\n"}):
        frame = pd.read_csv(io.StringIO(text, newline=""), **options)
        if options:
            with pytest.raises(ValueError, match=r"label = 'ill': is no column .* .did you mean 'ill\\r'"):
                read(frame)
        assert_holds(read(frame.rename(columns=str.strip)), VISITS, "who", "ill", ["age", "dose"])


@pytest.mark.parametrize(
    "types",
    [
        {"who": "category", "ill": "category"},
        {"who": "string", "ill": "string"},
        {"who": object, "ill": object, "age": object, "dose": object},
        {"age": "Int64", "dose": "Float64"},
        {"age": "float32", "dose": "float32"},
        {"age": "Int8"},
    ],
    ids=str,
)
def test_any_type_of_column_gives_the_same(types):
    expected = read()
    found = read(VISITS.astype(types))
    assert torch.equal(found.x, expected.x)
    assert torch.equal(found.y, expected.y)
    assert (found.names, found.classes) == (expected.names, expected.classes)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (pd.array([7, 3, 3, 7, 3, 7, 3, 7, 100], "Int64"), ("3", "7", "100")),
        (pd.array([True, False, False] * 3, "boolean"), ("False", "True")),
        (np.array([True, False, False] * 3), ("False", "True")),
        (np.array([1.0, 2.0, 10.0] * 3), ("1", "2", "10")),  # pandas made floats of them, as others were missing
        (np.array([0.5, 1.5, 2.5] * 3), ("0.5", "1.5", "2.5")),
        (pd.Categorical(["mild", "none", "severe"] * 3), ("mild", "none", "severe")),
        (np.array(["b", 2, 1] * 3, object), ("1", "2", "b")),
    ],
    ids=str,
)
def test_labels_of_any_type_become_classes_in_their_order(labels, classes):
    found = read(VISITS.assign(ill=labels))
    assert found.classes == classes
    whole = [str(int(label)) if isinstance(label, float) and label.is_integer() else str(label) for label in labels]
    assert [found.classes[number] for number in found.y] == whole


def test_agents_may_be_numbers():
    for ids in ([12, 7, 7, 12] * 2 + [7], [12.0, 7.0, 7.0, 12.0] * 2 + [7.0]):
        assert read(VISITS.assign(who=ids)).names == ("12", "7")


def test_numbers_to_predict_of_one_column_and_of_several():
    one = read(label="dose", features=["age"], numbers=True)
    both = read(VISITS.assign(n=1.0), label=["dose", "age"], features=["n"], numbers=True)
    assert one.y.tolist() == [[dose] for dose in VISITS["dose"]]
    assert both.y.tolist() == VISITS[["dose", "age"]].astype(float).to_numpy().tolist()
    assert one.classes is both.classes is None
    assert both.x.tolist() == [[1.0]] * 9
    assert read(label=["ill"]).classes == ("no", "yes")


def test_a_measurement_is_no_label():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"who": ["a", "b"] * 500, "u": 1.0, "y": rng.normal(size=1000)})
    for column in (frame["y"], frame["y"].astype(object), frame["y"].astype("Float64")):
        with pytest.raises(ValueError, match="label: column 'y' holds 1000 different numbers; give numbers=True"):
            read(frame.assign(y=column), label="y")
    for numbers in (np.arange(1000.0), np.arange(1000)):
        with pytest.raises(ValueError, match=r"holds 1000 different numbers; give numbers=True, or classes=…"):
            read(frame.assign(y=numbers), label="y")
    assert len(read(frame.assign(y=np.arange(1000) // 10), label="y").classes) == 100
    assert read(frame, label="y", numbers=True).y.shape == (1000, 1)


def test_classes_are_given_as_values_or_as_names_of_numbers():
    assert read(classes=["yes", "no", "dead"]).y.tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 1]
    numbered = VISITS.assign(ill=[1, 0, 0] * 3)
    assert read(numbered, classes=["well", "ill", "dead"]).y.tolist() == [1, 0, 0] * 3
    assert read(numbered, classes=[1, 0]).y.tolist() == [0, 1, 1] * 3
    with pytest.raises(ValueError, match="classes: label 'no' is none of 'yes', 'dead'"):
        read(classes=["yes", "dead"])
    with pytest.raises(ValueError, match="classes: label 0 is none of 1, 2"):  # these are values, not names
        read(numbered, classes=[1, 2])
    with pytest.raises(ValueError, match="classes: two have the name 'yes'"):
        read(classes=["yes", "no", "yes"])
    with pytest.raises(ValueError, match="classes: y are numbers to predict"):
        read(label="dose", features=["age"], numbers=True, classes=["low", "high"])


def renamed(*names):
    frame = VISITS.copy()
    frame.columns = names
    return frame


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"frame": VISITS.to_dict("list")}, "frame = 'dict': must be a pandas.DataFrame"),
        ({"frame": VISITS.iloc[:0]}, "frame: is empty"),
        ({"agent": "woh"}, r"agent = 'woh': is no column of who, age, dose, ill .did you mean 'who'"),
        ({"label": "sick"}, "label = 'sick': is no column of who, age"),
        ({"features": ["age", "doze"]}, r"features = 'doze': is no column .* .did you mean 'dose'"),
        ({"frame": VISITS.set_index("who")}, "agent = 'who': is no column"),
        ({"label": "who"}, "label = 'who': must be another column than agent='who'"),
        ({"label": "age", "features": ["age", "dose"]}, "features = 'age': must be another column than label='age'"),
        ({"agent": "age", "features": ["age", "dose"]}, "features = 'age': must be another column than agent='age'"),
        ({"features": []}, "features: there is no column left to predict from"),
        ({"label": []}, "label: there is no column left to predict"),
        ({"frame": VISITS[["who", "ill"]]}, "features: there is no column left to predict from"),
        ({"label": ["ill", "dose"]}, "must be one column, or several with numbers=True"),
        ({"label": "dose"}, "features: column 'ill' holds .* and no numbers; leave it out"),
        ({"frame": VISITS.assign(day=pd.Timestamp("2020-01-01"))}, "features: column 'day' holds datetime64"),
        ({"frame": VISITS.assign(z=1j)}, "features: column 'z' holds complex128 and no numbers"),
        ({"numbers": True}, "label: column 'ill' holds .* and no numbers; leave out numbers=True"),
        ({"frame": VISITS.assign(dose=np.inf)}, "features: column 'dose' holds infinite values"),
        ({"frame": VISITS.assign(dose=1e300)}, "features: column 'dose' holds infinite values"),
        ({"label": "dose", "features": ["age"], "numbers": True, "frame": VISITS.assign(dose=-np.inf)},
         "label: column 'dose' holds infinite values"),
        ({"frame": renamed("who", "age", "age", "ill")}, "features = 'age': several columns have this name"),
        ({"frame": renamed("who", "age", "ill", "ill")}, "label = 'ill': several columns have this name"),
        ({"frame": renamed("who", "who", "age", "ill")}, "agent = 'who': several columns have this name"),
        ({"frame": VISITS.assign(ill="no")}, "y: all samples are of one class, 'no'"),
        ({"frame": VISITS.assign(ill=[["no"]] * 9)}, "label: column 'ill' holds list; labels are"),
        ({"frame": VISITS.assign(ill=np.array(["1", 1, "a"] * 3, object))}, "two have the name '1'"),
        ({"frame": VISITS.assign(ill=np.array(["a", 1.5, "b"] * 3, object))}, "'ill' holds words and numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_column(how, message):
    with pytest.raises(ValueError, match=message):
        read(**how)


@pytest.mark.parametrize("column", list(VISITS))
@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA])
def test_a_row_without_a_value_is_refused(column, nothing):
    frame = VISITS.astype(object)
    frame.loc[4, column] = nothing
    with pytest.raises(ValueError, match=f"1 rows have nothing in column '{column}'; drop them"):
        read(frame)
    assert len(read(frame.dropna()).x) == 8
    kind = {"who": "string", "ill": "string", "age": "Int64", "dose": "Float64"}[column]
    with pytest.raises(ValueError, match=f"1 rows have nothing in column '{column}'"):
        read(frame.astype({column: kind}))


def test_agents_that_cannot_be_told_apart_or_split_are_named():
    with pytest.raises(ValueError, match="names: '1' is the name of two agents"):
        federation(VISITS.assign(who=np.array([1, "1", " 1 "] * 3, object)))
    with pytest.raises(ValueError, match="agent 'd': holds one sample, and needs two"):
        federation(VISITS.assign(who=list("bacdabcab")))


def test_the_table_stays_as_it_is():
    frame = VISITS[["who", "ill", "dose"]].astype({"dose": np.float32})
    before = frame.copy(deep=True)
    found = read(frame)
    found.x.zero_()
    read(frame.assign(n=1), label="dose", features=["n"], numbers=True).y.zero_()
    pd.testing.assert_frame_equal(frame, before)


GIANT = """
import resource, sys, time
import numpy as np, pandas as pd
import gmfl_lite as gl
rng, small = np.random.default_rng(0), 10_000
who = np.concatenate([np.repeat(np.arange(small), 3), np.full(100_000, small)])
frame = pd.DataFrame(rng.normal(size=(len(who), 4)).astype(np.float32), columns=list("abcd"))
frame = frame.assign(who=who, y=rng.integers(0, 3, len(who))).sample(frac=1, random_state=0)
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
federation = gl.Federation.from_frame(frame, agent="who", label="y")
assert sorted(federation.sizes.tolist()) == [3] * small + [100_000]
print(time.process_time() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_time_and_memory_follow_the_samples_however_unequal_agents_are(record_property):
    """Agents × the largest would be 10⁹ rows, 16 GB."""
    pytest.importorskip("resource", reason="Windows counts memory in another way")
    done = subprocess.run([sys.executable, "-c", GIANT], capture_output=True, text=True, check=True, timeout=900)
    seconds, megabytes = map(float, done.stdout.split())
    record_property("10,000 agents of 3 samples and one of 100,000", f"{seconds:.1f} s, {megabytes:.0f} MB")
    assert megabytes < 1000
    assert seconds < 30
