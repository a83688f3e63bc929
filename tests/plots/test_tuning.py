"""The picture of a search: each trial where it belongs, what diverged crossed, the best framed."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

import gmfl_lite as gl


def tuned(rows, settings=("fine_tune_lr", "meta_lr"), at_edge=False, what="accuracy"):
    table = pd.DataFrame(rows, columns=[*settings, what])
    table["status"] = np.where(table[what].isna(), "diverged", "completed")
    best = table.loc[table[what].idxmax() if what == "accuracy" else table[what].idxmin()]
    return gl.Tuned(gl.Experiment(**best[list(settings)]), table, at_edge, settings)


def drawn(axes):
    """What stands where: {(label across, label down): text}, and where the frame is."""
    names = [[label.get_text() for label in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)]
    x, y = (lambda at: names[0][int(at)]), (lambda at: names[1][int(at)])
    texts = {(x(text.get_position()[0]), y(text.get_position()[1])): text.get_text() for text in axes.texts}
    (frame,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return texts, (x(frame.get_x()), y(frame.get_y()))


CROSS = [(0.1, 0.2, 0.5), (0.2, 0.2, 0.75), (0.4, 0.2, None), (0.2, 0.1, 0.25)]


def test_a_pair_of_settings():
    figure = gl.plots.tried(tuned(CROSS))
    axes = figure.axes[0]
    expected = {("0.1", "0.2"): "50", ("0.2", "0.2"): "75", ("0.4", "0.2"): "×", ("0.2", "0.1"): "25"}
    assert drawn(axes) == (expected, ("0.2", "0.2"))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("fine_tune_lr", "meta_lr")
    assert axes.get_ylim()[0] < axes.get_ylim()[1]  # larger is higher up
    assert figure.alt == (
        "Heat map of the accuracy (%) of 4 trials, 1 of which diverged: fine_tune_lr from 0.1 to 0.4; meta_lr from 0.1 "
        "to 0.2. Best, with 75: fine_tune_lr = 0.2, meta_lr = 0.2; none of its neighbours is better."
    )
    assert gl.plots.tried(tuned(CROSS, at_edge=True)).alt.endswith("it may lie further out.")


def test_losses_and_a_single_setting():
    figure = gl.plots.tried(tuned([(0.1, 2.5), (0.2, 1.5), (0.4, None)], ("meta_lr",), what="loss"))
    assert drawn(figure.axes[0]) == ({("0.1", ""): "2.5", ("0.2", ""): "1.5", ("0.4", ""): "×"}, ("0.2", ""))
    assert "of the loss of 3 trials" in figure.alt


def test_more_settings_show_the_best_that_share_two():
    settings = ("fine_tune_lr", "meta_lr", "server_lr")
    rows = [(0.1, 0.2, 1.0, 0.5), (0.1, 0.2, 2.0, 0.75), (0.1, 0.4, 1.0, 0.25), (0.1, 0.4, 2.0, None)]
    first, second, third, *_ = gl.plots.tried(tuned(rows, settings)).axes
    assert drawn(first)[0] == {("0.1", "0.2"): "75", ("0.1", "0.4"): "25"}
    assert drawn(second)[0] == {("0.1", "1"): "50", ("0.1", "2"): "75"}
    assert drawn(third)[0] == {("0.2", "1"): "50", ("0.2", "2"): "75", ("0.4", "1"): "25", ("0.4", "2"): "×"}
    assert (third.get_xlabel(), third.get_ylabel()) == ("meta_lr", "server_lr")


@pytest.mark.parametrize("wrong", [None, "tuned", pd.DataFrame(CROSS)])
def test_what_is_no_search_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be what gmfl_lite\.tune gave"):
        gl.plots.tried(wrong)
