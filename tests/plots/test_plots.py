"""Figures: what they draw, read off their axes."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import seaborn as sns
from PIL import Image

import gmfl_lite as gl


@pytest.fixture(scope="module")
def results():
    base = gl.Experiment(model="softmax", n_agents=8, n_new_agents=2, agents_per_round=4, rounds=4, eval_every=2, nu=1)
    return {"one": gl.run(base, progress=False), "none": gl.run(base.replace(nu=0), progress=False)}


def lines(axes):
    return {tuple(np.round(line.get_ydata(), 6)) for line in axes.get_lines() if len(line.get_ydata()) > 1}


def curve(result, group, query, by):
    rows = result.history.query(f"group == '{group}' and {query}").sort_values(by)
    return tuple(np.round(100 * rows["accuracy"], 6))


def test_accuracy_against_rounds_draws_the_history(results):
    figure = gl.plots.accuracy_against_rounds(results, fine_tune_steps=3)
    for axes, group in zip(figure.axes, ("trained", "new"), strict=True):
        assert lines(axes) == {curve(r, group, "fine_tune_steps == 3", "round") for r in results.values()}
        assert axes.get_xlabel() == "communication rounds"
    assert figure.axes[0].get_ylabel() == "accuracy after 3 fine-tuning steps (%)"
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["one", "none"]


def test_each_methods_own_nu_by_default(results):
    figure = gl.plots.accuracy_against_rounds(results)
    own = {curve(r, "new", f"fine_tune_steps == {r.experiment.nu}", "round") for r in results.values()}
    assert lines(figure.axes[1]) == own


def test_a_nu_that_was_not_evaluated_is_not_claimed(results):
    experiment = results["one"].experiment.replace(nu=2)
    figure = gl.plots.accuracy_against_rounds({"two": gl.run(experiment, progress=False), **results})
    assert figure.axes[0].get_ylabel() == "accuracy after 10 fine-tuning steps (%)"


def test_adaptation_curve_draws_the_last_evaluation(results):
    figure = gl.plots.accuracy_against_steps(results)
    for axes, group in zip(figure.axes, ("trained", "new"), strict=True):
        assert lines(axes) == {curve(r, group, "round == 4", "fine_tune_steps") for r in results.values()}
    assert "new agents: one" in figure.alt


def test_adaptation_curve_has_the_middle_of_the_agents_as_a_band(results):
    figure = gl.plots.accuracy_against_steps(results)
    for axes, group in zip(figure.axes, ("trained", "new"), strict=True):
        for band, line, result in zip(axes.collections, axes.get_lines(), results.values(), strict=False):
            assert band.get_facecolor()[0, :3].tolist() == list(line.get_color())
            lower_and_upper = band.get_paths()[0].vertices
            for steps in (0, 1, 3, 5, 10):
                drawn = np.unique(lower_and_upper[lower_and_upper[:, 0] == steps, 1])
                accuracies = result.agents.query(f"group == '{group}' and fine_tune_steps == {steps}")["accuracy"]
                expected = np.unique(100 * np.quantile(accuracies, (0.1, 0.9)))
                np.testing.assert_allclose(drawn[[0, -1]], expected[[0, -1]])
    assert "band: middle 80 % of them" in figure.axes[-1].get_legend().get_title().get_text()
    assert figure.alt.endswith("Bands hold the middle 80 % of the agents.")
    many = gl.plots.accuracy_against_steps({str(i): results["one"] for i in range(5)})
    assert not many.axes[0].collections
    assert "Bands" not in many.alt


def test_fedavg_has_one_colour_wherever_it_stands(results):
    for labels in (("FedAvg (ν = 0)", "ν = 1"), ("ν = 1", "FedAvg (ν = 0)")):
        axes = gl.plots.accuracy_against_steps(dict(zip(labels, results.values(), strict=True))).axes[0]
        drawn = {handle.get_label(): handle.get_color() for handle in axes.figure.axes[-1].get_legend().legend_handles}
        assert drawn["FedAvg (ν = 0)"] == sns.color_palette("colorblind")[0]


def test_heat_map_draws_what_share_each_class_has(federation):
    figure = gl.plots.label_counts(federation)
    drawn = figure.axes[0].collections[0]
    counts = federation.label_counts.to_numpy().T
    np.testing.assert_allclose(np.asarray(drawn.get_array()).reshape(10, 15), counts / counts.sum(0))
    assert drawn.get_clim() == (0, 1)
    assert figure.axes[1].get_ylabel() == "share of an agent's samples"
    assert figure.axes[0].get_xlabel() == f"agent ({min(federation.sizes)} to {max(federation.sizes)} samples each)"
    assert f"an agent holds {min(federation.sizes)} to {max(federation.sizes)} samples" in figure.alt


def test_equal_numbers_are_not_a_range(digits):
    equal = gl.Federation.from_partition(digits, [range(20), range(20, 40)])
    assert "an agent holds 20 samples of" in gl.plots.label_counts(equal).alt


def test_examples_draws_each_agents_own_images(federation):
    figure = gl.plots.examples(federation, agents=[3])
    x, y = federation.train(3)
    for label, axes in enumerate(figure.axes):
        assert len(axes.images) == int((y == label).any())
        for image in axes.images:
            assert any(np.array_equal(image.get_array(), candidate[0]) for candidate in x[y == label])


def test_pictures_show_themselves_with_a_text_and_leave_pyplot_alone(results):
    data, metadata = gl.plots.accuracy_against_steps(results)._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == data["text/plain"] != ""
    assert plt.get_fignums() == []


def test_fewer_colours_in_a_notebook_look_the_same(results, federation):
    for figure in (gl.plots.accuracy_against_steps(results), gl.plots.label_counts(federation)):
        for _ in range(3):  # the layout comes to rest with the first drawings
            figure.savefig(io.BytesIO(), format="png", dpi=100)
        data, _ = figure._repr_mimebundle_()
        figure.savefig(full := io.BytesIO(), format="png", dpi=100)
        pictures = (Image.open(png).convert("RGB") for png in (io.BytesIO(data["image/png"]), full))
        ours, theirs = (np.asarray(picture, float) for picture in pictures)
        assert len(data["image/png"]) < len(full.getvalue()) / 2
        assert np.abs(ours - theirs).mean() < 1
        assert np.quantile(np.abs(ours - theirs).max(axis=-1), 0.999) < 16


@pytest.mark.parametrize("plot", [gl.plots.accuracy_against_rounds, gl.plots.accuracy_against_steps])
def test_refusals(plot, results):
    for wrong in ({}, None, {"a": 1}):
        with pytest.raises(ValueError, match="results"):
            plot(wrong)


def test_steps_that_were_not_evaluated(results):
    with pytest.raises(ValueError, match=r"fine_tune_steps = 4: .*'one' evaluated: \[0, 1, 3, 5, 10\]"):
        gl.plots.accuracy_against_rounds(results, fine_tune_steps=4)


def test_rotations_shows_the_same_images_turned(digits):
    parts = gl.partition(digits.y, gl.IID(), 4, seed=0)
    federation = gl.Federation.from_partition(digits, parts, max_rotation=90, seed=2)
    figure = gl.plots.rotations(federation, digits, agents=range(4), n_images=2)
    assert len(figure.axes) == 8
    for agent in range(4):
        axes = figure.axes[agent]  # the first row: the first zero
        angle = float(federation.rotations[agent])
        assert axes.get_title() == f"agent {agent}\n{angle:+.0f}°"
        turned = scipy.ndimage.rotate(digits.x[0, 0].numpy(), angle, reshape=False, order=1)
        inside = slice(2, 6)  # at the edge the two fade to the background differently
        np.testing.assert_allclose(axes.images[0].get_array()[inside, inside], turned[inside, inside], atol=1e-5)


def test_label_distances_draws_every_agent(federation):
    figure = gl.plots.label_distances({"mine": federation})
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert sum(heights) == pytest.approx(100)
    mean = gl.label_heterogeneity(federation)["total_variation"].mean()
    assert figure.axes[0].lines[0].get_xdata()[0] == pytest.approx(mean)
    with pytest.raises(ValueError, match="federations"):
        gl.plots.label_distances({})


def test_exploration_draws_the_rows_it_is_given(federation):
    base = gl.Experiment(n_agents=12, n_new_agents=3, rounds=4, eval_every=2, model="softmax")
    histories = {f"ν = {nu}": gl.run(base.replace(nu=nu), progress=False).history for nu in (0, 1)}
    figure = gl.plots.exploration(histories, federation, fine_tune_steps=3, rounds=10, reference="ν = 0")
    against_rounds, against_steps, strip, bar = figure.axes
    assert against_rounds.get_xlim() == (0, 10)
    for line, history in zip(against_rounds.lines, histories.values(), strict=True):
        rows = history.query("group == 'new' and fine_tune_steps == 3")
        assert line.get_xdata().tolist() == [0, 2, 4]
        assert line.get_ydata().tolist() == (100 * rows["accuracy"]).tolist()
    last = histories["ν = 1"].query("group == 'new' and round == 4")
    assert against_steps.lines[1].get_ydata().tolist() == (100 * last["accuracy"]).tolist()
    assert (
        against_rounds.lines[0].get_color() == sns.color_palette("colorblind")[0]
    )  # FedAvg's, thin where it is beside
    assert against_rounds.lines[0].get_linewidth() < against_rounds.lines[1].get_linewidth()
    assert against_rounds.lines[0].get_marker() != against_rounds.lines[1].get_marker()
    assert strip.images[0].get_clim() == (0, 1)
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0.0", "0.5", "1.0"]


def test_what_is_sent_is_counted_curve_by_curve():
    """A long one that sends little, and a short one that sends much: the axis ends where the second one does."""
    scores = {"group": "new", "fine_tune_steps": 1, "accuracy": 0.5}
    histories = {"long": pd.DataFrame([{"round": r, **scores} for r in (0, 500)])}
    histories["short"] = pd.DataFrame([{"round": r, **scores} for r in (0, 10)])
    sent = {"long": 0.001, "short": 500.0}
    how = {"fine_tune_steps": 1, "rounds": 500, "megabytes_per_round": sent}
    experiments = {"long": gl.Experiment(rounds=500), "short": gl.Experiment(rounds=10)}
    figure = gl.plots.exploration(histories, None, experiments=experiments, **how)
    assert figure.axes[0].get_xlim() == (0, 5000)
    assert [line.get_xdata().tolist() for line in figure.axes[0].lines] == [[0, 0.5], [0, 5000]]
    assert "long 50 % after round 500, 0.5 MB sent; short 50 % after round 10, 5,000 MB sent" in figure.alt
    with pytest.raises(ValueError, match=r"megabytes_per_round = \['long'\]: must be of every curve: \['short'\], too"):
        gl.plots.exploration(histories, None, **how | {"megabytes_per_round": {"long": 1.0}})


def test_the_strip_leaves_the_style_of_others_alone(federation, monkeypatch):
    """It is drawn in a thread of its own, and matplotlib's style is the whole process's."""
    monkeypatch.delattr(sns, "axes_style")
    assert gl.plots.exploration({}, federation, fine_tune_steps=3).axes[2].images


@pytest.mark.parametrize("alpha", [0.01, 1e5])
def test_agents_who_hold_nearly_the_same_look_alike(alpha):
    """The strip's colours mean the same whoever is shown: all of one class is the darkest, a tenth of it is light."""
    federation = gl.build_federation(gl.Experiment(dirichlet_alpha=alpha))
    image = gl.plots.exploration({}, federation, fine_tune_steps=3).axes[2].images[0]
    brightness = image.to_rgba(image.get_array())[..., :3].mean(axis=-1)
    assert (np.ptp(brightness) > 0.5) == (alpha < 1)


def test_an_empty_exploration_has_no_scale(federation):
    figure = gl.plots.exploration({}, federation, fine_tune_steps=3)
    assert "nothing yet" in figure.alt
    assert [len(axes.get_xticks()) for axes in figure.axes[:2]] == [0, 0]


def test_explorations_without_a_legend_are_of_one_size(federation):
    base = gl.Experiment(n_agents=12, n_new_agents=3, rounds=2, eval_every=2, model="softmax")
    histories = {f"ν = {nu}": gl.run(base.replace(nu=nu), progress=False).history for nu in (0, 1, 2, 3)}
    sizes = [
        tuple(gl.plots.exploration(some, federation, fine_tune_steps=3, legend=False).get_size_inches())
        for some in ({}, histories)
    ]
    assert sizes[0] == sizes[1]


def test_curves_draws_every_column():
    one = pd.DataFrame({"a": [1.0, 2.0, 0.5], "b": [3.0, 1.0, 2.0]}, index=[1, 10, 100])
    figure = gl.plots.curves(
        {"left": one, "right": one[["b"]]}, xlabel="x", ylabel="y", log="xy", ylim=(0.1, None), mark_lowest=True,
        alt="what is seen",
    )  # fmt: skip
    left, right = figure.axes
    assert figure.alt == "what is seen"
    assert [list(line.get_ydata()) for line in left.get_lines()] == [list(one["a"]), list(one["b"])]
    assert [line.get_markevery() for line in left.get_lines()] == [[2], [1]]
    assert right.get_lines()[0].get_color() == left.get_lines()[1].get_color()
    assert (left.get_xscale(), left.get_yscale(), left.get_ylim()[0]) == ("log", "log", 0.1)
    assert left.get_ylim()[1] > 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("x", "y")
    with pytest.raises(ValueError, match="panels"):
        gl.plots.curves({}, xlabel="x", ylabel="y", alt="nothing")


def test_curves_wraps_panels_and_shows_all_values():
    frames = {str(i): pd.DataFrame({"a": np.full(30, 10.0**i)}) for i in range(5)}
    figure = gl.plots.curves(frames, xlabel="x", ylabel="y", columns=2, log="y", alt="…")
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]
    assert figure.axes[0].get_ylim()[0] <= 1
    assert figure.axes[0].get_ylim()[1] >= 1e4
    assert not figure.legends


@pytest.mark.parametrize("log", ["", "x"])
@pytest.mark.parametrize("rows", [16, 21, 161, 2000])
def test_long_lines_are_told_apart_without_colour(rows, log):
    """In print: each has few markers of its own, spread along the axis, and no two have one at the same place."""
    table = pd.DataFrame({f"ν = {nu}": np.arange(rows) + nu for nu in (0, 1, 10)}, index=range(1, rows + 1))
    lines = gl.plots.curves({"": table}, xlabel="x", ylabel="y", alt="…", log=log).axes[0].get_lines()
    marked = [line.get_markevery() for line in lines]
    assert len({line.get_marker() for line in lines}) == 3
    assert all(3 <= len(places) <= 8 for places in marked)
    assert sum(map(len, marked)) == len(set().union(*marked))
    if rows == 2000:
        across = (np.log if log else np.asarray)(table.index) / (np.log if log else np.asarray)(rows)
        assert max(np.diff(across[places]).max() for places in marked) < 0.25


def test_the_framed_value_of_a_mismatch_looks_like_no_other():
    table = pd.DataFrame([[1.0, 9.536e-7], [1.004, 9.537e-7], [1.0, 5.0]], index=[0, 1, 2], columns=[0, 1])
    figure = gl.plots.mismatch({"mine": table}, label="loss")
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["1", "9.536e-07", "1.004", "9.537e-07", "1", "5"]


def test_mismatch_draws_the_table():
    table = pd.DataFrame([[1.0, 4.0], [2.0, 3.0]], pd.Index([0, 5]), pd.Index([0, 5]))
    figure = gl.plots.mismatch({"mine": table}, label="loss")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "4", "2", "3"]
    assert [patch.get_xy() for patch in axes.patches] == [(0, 0), (1, 1)]
    assert "mine: in 2 of 2 columns" in figure.alt
    with pytest.raises(ValueError, match="tables"):
        gl.plots.mismatch({}, label="loss")


def test_bound_terms_stacks_what_is_there():
    row = {"measured": 0.1, "transient": 0.2, "drift": 0.05, "bias": 0.0, "noise": 0.0, "sampling": 0.1}
    axes = gl.plots.bound_terms(pd.DataFrame([row, row], index=["a", "b"])).axes[0]
    bars = [(round(bar.get_x(), 9), round(bar.get_width(), 9)) for bar in axes.patches]
    assert bars == [(0, 0.2)] * 2 + [(0.2, 0.05)] * 2 + [(0.25, 0.1)] * 2
    assert list(axes.get_lines()[0].get_xdata()) == [0.1, 0.1]


@pytest.fixture(scope="module")
def swept():
    """A table with known means, as a sweep gives it, with one run that diverged."""
    rows = [
        (nu, tau, seed, "completed", "", 9, group, steps, 1.0, nu / 10 + tau / 100 + seed / 1000 + steps / 10, 0.1)
        for nu in (0, 1, 5)
        for tau in (1, 5)
        for seed in range(3)
        for group in ("trained", "new")
        for steps in (0, 2)
    ]
    names = ["nu", "local_steps", "seed", "status", "message", "round", "group", "fine_tune_steps", "loss", "accuracy"]
    frame = pd.DataFrame(rows, columns=[*names, "worst_decile_accuracy"])
    frame.loc[(frame["nu"] == 5) & (frame["seed"] == 2) & (frame["local_steps"] == 5), "status"] = "diverged"
    return frame


def test_sweep_draws_means_over_seeds_and_their_intervals(swept):
    figure = gl.plots.sweep(swept, x="nu", hue="local_steps")
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("agents trained on", "new agents")
    assert left.get_ylabel() == "accuracy after 2 fine-tuning steps (%)"
    drawn = [line.get_ydata() for line in right.get_lines() if line.get_label().startswith("_child")]
    for line, tau in zip(drawn, (1, 5), strict=True):
        diverged = [0, 0, 0.05 if tau == 5 else 0]  # of seeds 0 and 1 only: the mean is lower
        np.testing.assert_allclose(line, 20 + tau + 0.1 + 10 * np.array([0, 1, 5]) - diverged)
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["1", "5"]
    bars = [segment for bar in right.collections for segment in bar.get_segments()]
    lows, highs = np.array([segment[:, 1] for segment in bars]).T
    assert len(bars) == 6
    assert (highs - lows <= 0.2 + 1e-9).all()  # within the seeds' range: 0, 0.1, 0.2 %
    assert (highs > lows).all()
    assert "1 run failed or diverged" in figure.get_suptitle()
    assert "1 at 5 71.1, 5 at 5 75" in figure.alt


def test_sweep_against_steps_and_words(swept):
    figure = gl.plots.sweep(swept[swept["local_steps"] == 1], x="fine_tune_steps", hue="nu")
    assert figure.axes[0].get_ylabel() == "accuracy (%)"
    assert figure.get_suptitle() == ""
    words = swept[swept["local_steps"] == 1].assign(method=swept["nu"].map("ν = {}".format))
    figure = gl.plots.sweep(words, x="method", y="loss", fine_tune_steps=0)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["ν = 0", "ν = 1", "ν = 5"]
    assert {line.get_linestyle() for line in figure.axes[0].get_lines()} == {"None"}
    assert figure.axes[1].get_ylabel() == "loss after 0 fine-tuning steps"
    both = swept.assign(method=swept["nu"].map("ν = {}".format))
    figure = gl.plots.sweep(both, x="method", hue="local_steps")
    lines = [line.get_xdata() for line in figure.axes[0].get_lines() if line.get_label().startswith("_child")]
    np.testing.assert_allclose(lines, [[-0.125, 0.875, 1.875], [0.125, 1.125, 2.125]])  # side by side
    assert "ν = 5 at 1" in figure.alt or "1 at ν = 5" in figure.alt


def test_sweep_refuses_to_average_over_settings(swept):
    with pytest.raises(ValueError, match=r"only the seed varies, not \['local_steps'\]"):
        gl.plots.sweep(swept, x="nu")
    with pytest.raises(ValueError, match="nuu"):
        gl.plots.sweep(swept, x="nuu")
    with pytest.raises(ValueError, match=r"fine_tune_steps = 7: .*\[0, 2\]"):
        gl.plots.sweep(swept, x="nu", hue="local_steps", fine_tune_steps=7)
    with pytest.raises(ValueError, match="no completed run"):
        gl.plots.sweep(swept[swept["status"] == "diverged"], x="nu")
