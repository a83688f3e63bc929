"""Pictures of functions of two parameters show what they are given, where it is."""

import io

import numpy as np
import pytest
import torch

from gmfl_lite.plots import Landscape, landscapes


def bowl(w: torch.Tensor) -> torch.Tensor:
    return (w * w).sum(1)


def test_paths_arrows_and_points_are_drawn_where_they_are():
    panel = Landscape(
        bowl,
        paths={"descent": [[1, 1], [0.5, 0.5], [0.25, 0.25]]},
        arrows={"downhill": ([1, 0], [-0.5, 0.0])},
        points={"minimum": torch.zeros(2)},
    )
    figure = landscapes(
        {"a": panel, "b": Landscape(bowl, points={"minimum": [1, 1], "two": [[1, 0], [-1, 2]]})},
        x=(-2, 2),
        y=(-1, 3),
        alt="Two bowls.",
    )
    first, second = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["a", "b"]
    assert first.get_xlim() == second.get_xlim() == (-2, 2)
    assert first.get_ylim() == (-1, 3)
    assert np.array_equal(first.lines[0].get_xydata(), [[1, 1], [0.5, 0.5], [0.25, 0.25]])
    (arrow,) = (item for item in first.collections if hasattr(item, "U"))
    assert (arrow.X[0], arrow.Y[0], arrow.U[0], arrow.V[0]) == (1, 0, -0.5, 0)
    one, other = (next(item for item in axes.collections if item.get_label() == "minimum") for axes in (first, second))
    assert one.get_offsets().tolist() == [[0, 0]]
    assert other.get_offsets().tolist() == [[1, 1]]
    assert second.collections[-1].get_offsets().tolist() == [[1, 0], [-1, 2]]
    assert one.get_facecolor().tolist() == other.get_facecolor().tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["descent", "downhill", "minimum", "two"]
    assert figure.alt == "Two bowls."
    figure.savefig(io.BytesIO())


def test_a_short_arrow_is_longer_than_its_head_and_thinner_than_the_one_below_it():
    arrows = {name: ([0, 0], [0.25, 0]) for name in "abcd"}
    axes = landscapes({"": Landscape(bowl, arrows=arrows)}, x=(-2, 2), y=(-2, 2), alt="").axes[0]
    drawn = [item for item in axes.collections if hasattr(item, "U")]
    widths = [arrow.width for arrow in drawn]
    assert widths == sorted(set(widths), reverse=True)
    assert all(arrow.headlength * arrow.width < 0.25 / 4 for arrow in drawn)


def test_a_point_with_the_label_of_a_path_looks_like_it_and_is_named_once():
    panel = Landscape(bowl, paths={"a": [[1, 1], [0, 1]], "b": [[1, 0], [0, 1]]}, points={"b": [1, 1]})
    figure = landscapes({"": panel}, x=(-2, 2), y=(-2, 2), alt="")
    axes, legend = figure.axes[0], figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert legend.legend_handles[1].get_color() == axes.lines[1].get_color()
    assert axes.collections[-1].get_facecolor()[0, :3].tolist() == list(axes.lines[1].get_color())


@pytest.mark.parametrize("function", [lambda w: 0 * w[:, 0], lambda w: 1e30 * bowl(w), lambda w: -bowl(w)])
def test_flat_steep_and_upside_down_functions_are_drawn_without_a_warning(function):
    landscapes({"": Landscape(function, points={"here": [0, 0]})}, x=(-1, 1), y=(-1, 1), alt="").savefig(io.BytesIO())
