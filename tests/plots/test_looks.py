"""A method has one colour and one marker in every figure, whatever stands beside it."""

import itertools

import numpy as np
import pandas as pd
import pytest
import seaborn as sns

import gmfl_lite as gl
from gmfl_lite.plots.looks import looks_of, method_named, method_of

LABELS = ["FedAvg (ν = 0)", "Per-FedAvg", "ν = 2", "ν = 3", "ν = 5", "ν = 10", "FedProx", "FedAdam", "Reptile", "ANIL"]


def drawn(figure):
    """Return the colour and the marker of each line of a figure's legend, by its label."""
    legend = figure.legends[0] if figure.legends else figure.axes[-1].get_legend()
    texts = [text.get_text().lstrip("\u200a") for text in legend.get_texts()]
    return {
        text: (handle.get_color(), handle.get_marker())
        for text, handle in zip(texts, legend.legend_handles, strict=True)
    }


def test_a_method_looks_the_same_alone_and_in_any_company_and_order():
    alone = {label: looks_of([label])[label] for label in LABELS}
    for some in (*itertools.permutations(LABELS[:4]), LABELS, LABELS[::-1], ["something", *LABELS, "else"]):
        looks = looks_of(some)
        assert {label: looks[label] for label in some if label in alone} == {
            label: alone[label] for label in some if label in alone
        }


def test_methods_differ_in_colour_and_marker():
    looks = looks_of([*LABELS[:6], "ν = 4", "ν = 7"]).values()
    assert len({look.marker for look in looks}) == len({look.colour for look in looks}) == 8
    presets = looks_of(LABELS).values()
    assert len({look.marker for look in presets}) == len(LABELS)


def test_they_stay_apart_for_who_sees_no_red_or_no_green():
    """Viénot, Brettel, Mollon 1999, for protanopia and deuteranopia; neighbours also differ in their marker."""
    to_lms = [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    to_lms, seen = np.array(to_lms), {}
    without = {
        "red": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        "green": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
    }
    for who, missing in without.items():
        for label, look in looks_of(LABELS[:6]).items():
            linear = np.array(look.colour) ** 2.2
            seen[label] = np.linalg.inv(to_lms) @ np.array(missing) @ to_lms @ linear
        gaps = [np.abs(one - other).max() for one, other in itertools.combinations(seen.values(), 2)]
        assert min(gaps) > 0.02, who


def test_every_name_of_the_field_is_known():
    for name, settings in gl.methods.items():
        if name not in ("no training", "one model for all"):
            assert method_named(name) == method_of(settings)
            assert method_named(f"MLP, {name}, τ = 5") == method_of(settings)
    assert method_named("ν = 3, first-order") == method_of(vars(gl.Experiment(gradient="first_order")))
    assert {name: method_named(name) for name in ("τ = 5", "one", "measured", "your ν")} == dict.fromkeys(
        ("τ = 5", "one", "measured", "your ν")
    )


def test_curves_of_one_method_are_shades_of_its_colour_whatever_their_order():
    labels = [f"ν = 3, dirichlet_alpha = {alpha:g}" for alpha in (0.1, 1, 10, 100)]
    looks, again = looks_of(labels), looks_of(labels[::-1])
    assert looks == again
    assert {look.marker for look in looks.values()} == {looks_of(["ν = 3"])["ν = 3"].marker}
    brightness = [sum(look.colour) for look in looks.values()]
    assert brightness == sorted(brightness, reverse=True)
    assert len({look.dashes for look in looks.values()}) == 4
    two = looks_of(["ν = 3, partition = dirichlet", "ν = 3, partition = iid"]).values()
    assert len({look.dashes for look in two}) == len({look.colour for look in two}) == 2


@pytest.fixture(scope="module")
def results():
    base = gl.Experiment(model="softmax", n_agents=8, n_new_agents=2, agents_per_round=4, rounds=2, eval_every=2)
    return {nu: gl.run(base.replace(nu=nu), progress=False) for nu in (0, 1, 3)}


def test_figures_of_every_kind_agree(results):
    runs = {"ν = 3": results[3], "FedAvg": results[0]}
    table = pd.DataFrame({"ν = 3": [1.0, 2.0], "FedAvg": [2.0, 3.0]})
    swept = gl.sweep({"nu": [1, 3], "seed": [0, 1]}, results[3].experiment, progress=False)
    swept = swept.assign(method=swept["nu"].map({1: "Per-FedAvg", 3: "ν = 3"}))
    figures = [
        gl.plots.accuracy_against_rounds(runs),
        gl.plots.accuracy_against_steps({"FedAvg": results[0], "mine": results[3]}),
        gl.plots.exploration({label: run.history for label, run in runs.items()}, None, fine_tune_steps=3),
        gl.plots.curves({"": table}, xlabel="", ylabel="", alt=""),
        gl.plots.sweep(swept, x="fine_tune_steps", hue="nu"),
        gl.plots.sweep(swept, x="fine_tune_steps", hue="method"),
    ]
    palette = sns.color_palette("colorblind")
    expected = {"FedAvg": (palette[0], "o"), "ν = 3": (palette[3], "^"), "mine": (palette[3], "^")}
    expected |= {"3": expected["ν = 3"], "Per-FedAvg": (palette[1], "s"), "1": (palette[1], "s")}
    for figure in figures:
        assert drawn(figure) == {label: expected[label] for label in drawn(figure)}
        assert len(drawn(figure)) == 2
