"""Labels of any kind are drawn as words, and what is no image is refused in words."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import gmfl_lite as gl
from gmfl_lite.plots import picture

LABELS = {
    "numbers": {0: "0", 1: "1", 0.30000000001: "0.3", np.float32(0.1): "0.1", float("nan"): "nan", np.int64(7): "7"},
    "text": {
        "$5_a to $10^b": "$5_a to $10^b", "costs $5^": "costs $5^", "_baseline": "_baseline", "": "", "1": "'1'",
        1: "1", "FedAvg (ν = 0)": "FedAvg (ν = 0)",
    },
    "others": {
        None: "None", (0, 0.1): "(0, 0.1)", ("$a$",): "($a$)", True: "True", False: "False", b"bytes": "b'bytes'",
        frozenset({1}): "frozenset({1})",
    },
}  # fmt: skip
"""Labels of several kinds, and in which words they are drawn."""

ROW = {"measured": 0.1, "transient": 0.1, "drift": 0.05, "bias": 0.0, "noise": 0.0, "sampling": 0.1}
HEIGHTS = pd.DataFrame([[1.0, 4.0], [2.0, 3.0]])


@pytest.fixture(scope="module")
def results():
    base = gl.Experiment(model="softmax", n_agents=8, n_new_agents=2, agents_per_round=4, rounds=2, eval_every=2, nu=1)
    return [gl.run(base.replace(nu=nu), progress=False) for nu in (0, 1)]


def read(texts):
    """Return what matplotlib writes for these: without the hair space, and plain where it would draw no formula."""
    assert not any(text.get_parse_math() and text._preprocess_math(text.get_text())[1] is True for text in texts)
    return [text._preprocess_math(text.get_text())[0].lstrip("\u200a") for text in texts]


def legend(figure):
    figure._repr_mimebundle_()
    where = figure.legends or [figure.axes[-1].get_legend()]
    return read(where[0].get_texts())


def titles(figure):
    figure._repr_mimebundle_()
    return read([axes.title for axes in figure.axes if axes.get_visible()])


def swept(keys):
    names = ["setting", "nu", "seed", "status", "message", "round", "group", "fine_tune_steps", "loss", "accuracy"]
    rows = [
        (key, nu, seed, "completed", "", 3, group, 2, 1.0, 0.5 + seed / 10)
        for key in keys for nu in (0, 1) for seed in (0, 1) for group in ("trained", "new")
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=names)
    frame["setting"] = pd.Series([row[0] for row in rows], dtype=object)
    return frame


def bowl(w):
    return (w**2).sum(1)


def table(keys, rows):
    return pd.DataFrame(rows, pd.Index(keys, dtype=object, tupleize_cols=False))


def led(keys):
    frame = pd.DataFrame(
        {"rounds": 3, "nu": 1, "one": "$A$", "other": "_B", "lead": 2.0, "low": 1.0, "high": 3.0}, [*range(len(keys))]
    )
    return frame.assign(setting=pd.Series(list(keys), dtype=object))


FIGURES = {
    "accuracy_against_steps": lambda results: legend(gl.plots.accuracy_against_steps(results)),
    "accuracy_against_rounds": lambda results: legend(gl.plots.accuracy_against_rounds(results)),
    "exploration": lambda results: legend(
        gl.plots.exploration({key: result.history for key, result in results.items()}, None, fine_tune_steps=3)
    ),
    "curves": lambda keys: legend(
        gl.plots.curves({"": table(keys, [[1.0, 4.0]] * len(keys)).T}, xlabel="", ylabel="", alt="")
    ),
    "panels of curves": lambda keys: titles(
        gl.plots.curves(dict.fromkeys(keys, HEIGHTS), xlabel="", ylabel="", alt="")
    ),
    "images": lambda keys: titles(gl.plots.images(dict.fromkeys(keys, torch.zeros(1, 4, 4)), alt="")),
    "leads": lambda keys: titles(gl.plots.leads(led(keys), down="rounds", across="nu", panel="setting")),
    "mismatch": lambda keys: titles(gl.plots.mismatch(dict.fromkeys(keys, HEIGHTS), label="")),
    "bound_terms": lambda keys: read(gl.plots.bound_terms(table(keys, [ROW] * len(keys))).axes[0].get_yticklabels()),
    "landscapes": lambda keys: legend(
        gl.plots.landscapes(
            {"": gl.plots.Landscape(bowl, points=dict.fromkeys(keys, (0, 0)))}, x=(-1, 1), y=(-1, 1), alt=""
        )
    ),
    "panels of landscapes": lambda keys: titles(
        gl.plots.landscapes(
            dict.fromkeys(keys, gl.plots.Landscape(bowl, points={"": (0, 0)})), x=(-1, 1), y=(-1, 1), alt=""
        )
    ),
    "sweep's colours": lambda keys: legend(gl.plots.sweep(swept(keys), x="nu", hue="setting")),
    "sweep's axis": lambda keys: read(gl.plots.sweep(swept(keys), x="setting", hue="nu").axes[0].get_xticklabels()),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", FIGURES)
def test_labels_of_any_kind_are_drawn_as_words(name, kind, results):
    labels = dict(LABELS[kind])
    if name == "curves":  # a column has a name
        labels = {key: text for key, text in labels.items() if key == key}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = FIGURES[name](dict(zip(labels, itertools.cycle(results), strict=False)))
    if name == "bound_terms":  # bars in rows of their own need no other names
        labels = {key: picture.word(key) for key in labels}
    assert drawn == list(labels.values())


@pytest.mark.parametrize("kind", LABELS)
def test_federations_are_called_by_their_labels(kind, federation):
    figure = gl.plots.label_distances(dict.fromkeys(LABELS[kind], federation))
    figure._repr_mimebundle_()
    assert [text.rpartition(":")[0] for axes in figure.axes for text in read(axes.texts)] == [*LABELS[kind].values()]


@pytest.mark.parametrize("kind", LABELS)
def test_what_cannot_be_seen_is_told_with_the_same_words(kind, results, federation):
    for figure in (
        gl.plots.accuracy_against_steps(dict(zip(LABELS[kind], itertools.cycle(results), strict=False))),
        gl.plots.label_distances(dict.fromkeys(LABELS[kind], federation)),
        gl.plots.sweep(swept(LABELS[kind]), x="nu", hue="setting"),
        gl.plots.mismatch(dict.fromkeys(LABELS[kind], HEIGHTS), label=""),
    ):
        assert all(word in figure.alt for word in LABELS[kind].values())
        assert r"\$" not in figure.alt


def test_two_labels_never_have_one_word():
    keys = [1, "1", "'1'", np.float32(0.1), 0.1, 0.1000000001, (1,), ("1",), None, "None", "nan", float("nan")]
    assert len(set(picture.words(keys).values())) == len(keys)


def test_a_sweep_over_lists_and_over_nothing_is_drawn():
    base = gl.Experiment(model="softmax", n_agents=8, n_new_agents=2, agents_per_round=4, rounds=1)
    for values, words in (([None, 10], ["None", "10"]), ([[0, 1], [0, 3]], ["(0, 1)", "(0, 3)"])):
        setting = "batch_size" if None in values else "eval_steps"
        table = gl.sweep({setting: values, "nu": [0, 1]}, base, progress=False)
        assert legend(gl.plots.sweep(table, x="nu", hue=setting, fine_tune_steps=0)) == words
        axis = gl.plots.sweep(table, x=setting, hue="nu", fine_tune_steps=0).axes[0]
        assert read(axis.get_xticklabels()) == words


def test_a_table_that_was_written_and_read_again_is_drawn(tmp_path):
    swept([None, 10, 20]).to_csv(tmp_path / "table.csv", index=False)
    table = pd.read_csv(tmp_path / "table.csv")
    assert legend(gl.plots.sweep(table, x="nu", hue="setting")) == ["nan", "10", "20"]
    axis = gl.plots.sweep(table, x="setting", hue="nu").axes[0]
    assert read(axis.get_xticklabels()) == ["nan", "10", "20"]
    with pytest.raises(ValueError, match=r"only the seed varies, not .*note"):
        gl.plots.sweep(table.assign(note=table["setting"].isna() * table.index), x="nu", hue="setting")


def test_a_column_that_is_not_x_or_hue_may_hold_lists():
    table = swept((1, 2)).assign(note=[[number] for number in range(16)])
    with pytest.raises(ValueError, match="note"):
        gl.plots.sweep(table, x="nu", hue="setting")


def test_a_line_keeps_its_colour_where_others_are_missing(results):
    first, second = results
    alone = first.history[first.history["group"] == "trained"]
    one = gl.Result(**{**vars(first), "history": alone, "agents": first.agents[first.agents["group"] == "trained"]})
    figure = gl.plots.accuracy_against_steps({"one": one, "two": second})
    two = [axes.get_lines()[-1 if number else 1].get_color() for number, axes in enumerate(figure.axes)]
    there = figure.axes[-1].get_legend()
    handles = {text.get_text(): handle for text, handle in zip(there.texts, there.legend_handles, strict=True)}
    assert list(handles) == ["one", "two"]
    assert handles["two"].get_color() == two[0]


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (range(10), list("0123456789")),
        (np.arange(10) / 2, [str(number / 2) for number in range(10)]),
        (torch.arange(10), list("0123456789")),
        ([f"${n}_k to ${n}^k" for n in range(10)], [f"${n}_k to ${n}^k" for n in range(10)]),
        ([None, *"_bcdefghi"], ["None", *"_bcdefghi"]),
    ],
)
def test_classes_of_any_kind_are_drawn_by_name(classes, names, digits):
    data = gl.Dataset("mine", digits.x, digits.y, classes)
    assert data.classes == tuple(names)
    agents = gl.Federation.from_partition(data, gl.partition(digits.y, gl.IID(), 4, seed=0))
    counts, images = gl.plots.label_counts(agents), gl.plots.examples(agents, [0])
    for figure in (counts, images):
        figure._repr_mimebundle_()
    assert read(counts.axes[0].get_yticklabels()) == names
    assert titles(images) == [f"“{name}”" for name in names]


@pytest.mark.slow
def test_many_classes_fit_in_a_picture(digits):
    data = gl.Dataset("many", torch.zeros(6000, 2), torch.arange(6000) % 3000, range(3000))
    agents = gl.Federation.from_partition(data, [np.arange(3000), np.arange(3000, 6000)])
    figure = gl.plots.label_counts(agents)
    assert figure.get_figheight() * 100 < 2**16  # matplotlib draws no more pixels
    assert figure._repr_mimebundle_()[0]["image/png"]


NO_IMAGES = {
    "a table": ((1, 1, 6), "gl.plots.curves"),
    "a column": ((1, 6, 1), "gl.plots.curves"),
    "one pixel": ((1, 1, 1), "gl.plots.curves"),
    "rows": ((6,), "gl.plots.curves"),
    "a sequence": ((5, 4), "gl.plots.curves"),
    "a film": ((3, 4, 8, 8), "gl.plots.curves"),
    "two channels": ((2, 8, 8), "one at a time"),
    "twelve channels": ((12, 8, 8), "one at a time"),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image_is_refused_with_what_to_draw_instead(kind):
    shape, instead = NO_IMAGES[kind]
    y = torch.arange(40) % 2
    data = gl.Dataset(kind, torch.zeros(40, *shape), y, ("no", "yes"))
    agents = gl.Federation.from_partition(data, gl.partition(y, gl.IID(), 2, seed=0, min_samples=4))
    for draw in (
        lambda: gl.plots.examples(agents),
        lambda: gl.plots.images({"mine": torch.zeros(*shape)}, alt=""),
        lambda: gl.plots.rotations(agents, data),
    ):
        with pytest.raises(ValueError, match="must hold images") as refused:
            draw()
        assert "×".join(map(str, shape)) in str(refused.value)
        assert instead in str(refused.value)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_are_drawn_as_they_are(channels):
    image = torch.linspace(0, 1, channels * 14).reshape(channels, 2, 7)
    drawn = gl.plots.images({"": image}, alt="").axes[0].images[0].get_array()
    assert np.array_equal(np.atleast_3d(drawn), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "wrong", [{}, None, {"a": None}, {"a": np.zeros((1, 8, 8))}, {"a": torch.ones(1, 8, 8).byte()}]
)
def test_wrong_pictures_are_refused(wrong):
    with pytest.raises(ValueError, match="pictures"):
        gl.plots.images(wrong, alt="")


def test_numbers_to_predict_are_no_images():
    agents = gl.build_federation(gl.Experiment(dataset="sinusoids", n_agents=3, n_new_agents=0, agents_per_round=1))
    with pytest.raises(ValueError, match=r"must hold images of classes, .* not numbers"):
        gl.plots.examples(agents)


@pytest.mark.parametrize(
    "name", ["ν = 3", "dirichlet_alpha = 0.03", "a name as long as a sentence that goes on and on"]
)
@pytest.mark.parametrize("many", [1, 5, 10])
def test_no_legend_is_wider_than_its_picture(name, many, federation):
    names = [f"{name}, {number}" for number in range(many)]
    rows = pd.DataFrame({"round": [0, 2], "group": "new", "fine_tune_steps": 1, "loss": 1.0, "accuracy": 0.5})
    rows = rows.assign(worst_decile_accuracy=0.4, best_decile_accuracy=0.6)
    bowl = gl.plots.Landscape(lambda points: (points**2).sum(1), paths={each: [[0, 0], [1, 1]] for each in names})
    for figure in (
        gl.plots.exploration(dict.fromkeys(names, rows), federation, fine_tune_steps=1),
        gl.plots.landscapes({"a bowl": bowl}, x=(-2, 2), y=(-2, 2), alt="A bowl."),
    ):
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, strip = legend.get_window_extent(), figure.bbox
        assert [text.get_text() for text in legend.get_texts()] == names
        assert strip.x0 <= box.x0 < box.x1 <= strip.x1
        assert not any(box.y0 < axes.get_tightbbox().y1 and axes.get_tightbbox().y0 < box.y1 for axes in figure.axes)
