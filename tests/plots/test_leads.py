"""The map of who leads: each comparison in its cell, coloured where it is sure."""

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

import gmfl_lite as gl
from gmfl_lite.plots.lead_map import FIRST, SECOND

ROWS = [
    ("averaging", "few", 1, "ν = 1", "FedAvg", 14.2, 10.0, 18.0),
    ("averaging", "many", 1, "ν = 3", "FedAvg", -7.5, -9.0, -6.0),
    ("averaging", "many", 10, "ν = 3", "FedAvg", 2.0, -1.0, 5.0),
    ("ν = 1", "few", 1, "ν = 3", "ν = 1", 5.0, 0.5, 9.5),
]
WHERE = {"down": "agents hold", "across": "deployed", "panel": "against"}


@pytest.fixture
def table():
    return pd.DataFrame(ROWS, columns=["against", "agents hold", "deployed", "one", "other", "lead", "low", "high"])


def drawn(axes):
    """What stands where: {(label across, label down): (colour, texts)}."""
    first = axes.figure.axes[0]  # which has the names of the rows
    names = [[label.get_text() for label in axis.get_ticklabels()] for axis in (axes.xaxis, first.yaxis)]
    at = lambda x, y: (names[0][int(x)], names[1][int(y)])  # noqa: E731
    cells = {at(*patch.get_xy()): (to_hex(patch.get_facecolor()), []) for patch in axes.patches}
    assert all(isinstance(patch, Rectangle) for patch in axes.patches)
    for text in axes.texts:
        cells[at(*text.get_position())][1].append(text.get_text())
    return cells


def test_each_comparison_is_in_its_cell(table):
    figure = gl.plots.leads(table, **WHERE)
    first, second = figure.axes
    assert drawn(first) == {
        ("1", "few"): (FIRST, ["ν = 1", "+14.2 over\nFedAvg", "10.0 to 18.0"]),
        ("1", "many"): (SECOND, ["FedAvg", "+7.5 over ν = 3", "−9.0 to −6.0"]),
        ("10", "many"): ("#ffffff", ["ν = 3 or\nFedAvg", "−1.0 to 5.0"]),
    }
    assert drawn(second) == {("1", "few"): (FIRST, ["ν = 3", "+5.0 over ν = 1", "0.5 to 9.5"])}
    assert [axes.get_title() for axes in figure.axes] == ["averaging", "ν = 1"]
    assert first.get_ylim() == (2, 0), "in the order of the table, from above"
    assert figure.alt == (
        "Map of leads in points. averaging, agents hold few, deployed 1: ν = 1 leads FedAvg by 14.2; agents hold many, "
        "deployed 1: FedAvg leads ν = 3 by 7.5; agents hold many, deployed 10: ν = 3 or FedAvg, not sure; "
        "ν = 1, agents hold few, deployed 1: ν = 3 leads ν = 1 by 5.0."
    )


def test_no_text_leaves_its_cell_or_hides_another(table):
    long = table.replace({"FedAvg": "FedAvg, τ = 5, own server step", "ν = 3": "FedAvg, τ = 20, 30 rounds"})
    figure = gl.plots.leads(pd.concat([long, long[:1].assign(deployed=5)]), **WHERE)
    figure.canvas.draw()
    for axes in figure.axes:
        cell = axes.get_window_extent().width / 3, axes.get_window_extent().height / 2
        boxes = [text.get_window_extent() for text in axes.texts]
        assert all(box.width < cell[0] and box.height < cell[1] for box in boxes)
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:number])


@pytest.mark.parametrize("sure", [(0.0, 4.0), (-4.0, 0.0)])
def test_an_interval_that_ends_at_zero_is_not_sure(table, sure):
    figure = gl.plots.leads(table[:1].assign(low=sure[0], high=sure[1]), **WHERE)
    assert "not sure" in figure.alt


def test_wrong_tables_are_refused(table):
    with pytest.raises(ValueError, match="must be a DataFrame with a row for each comparison"):
        gl.plots.leads([], **WHERE)
    with pytest.raises(ValueError, match="must be one with the columns low, high"):
        gl.plots.leads(table.drop(columns=["low", "high"]), **WHERE)
    for wrong in (table[:0], pd.concat([table, table])):
        with pytest.raises(ValueError, match="one comparison, and not two"):
            gl.plots.leads(wrong, **WHERE)
