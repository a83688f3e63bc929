"""The landscape player holds the library's numbers, stands alone, and refuses what it cannot show."""

import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

import gmfl_lite as gl
from gmfl_lite.explain.landscape_player import DEFAULT
from gmfl_lite.explain.picture import MOST

TWO = gl.theory.Quadratics([np.eye(2), 0.1 * np.eye(2)], [[1, 0], [-1, 0]])


def frame(picture: gl.explain.Picture) -> str:
    return html.unescape(re.search(r'srcdoc="([^"]*)"', picture._repr_html_())[1])


def data(picture: gl.explain.Picture) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', frame(picture))[1])


def test_numbers_at_the_start_are_those_of_the_closed_forms():
    agents, w = gl.theory.Quadratics(*DEFAULT), [-0.5, 0.25]
    for gradient, kept in (("exact", None), ("first_order", None), ("truncated", 2)):
        options = {"fine_tune_lr": 0.3, "meta_lr": 0.7, "local_steps": 4}
        picture = gl.explain.landscape(nu=5, start=w, gradient=gradient, backprop_steps=kept, **options)
        found = data(picture)
        assert found["start"] == w
        for nu, loss in found["at_start"]["meta_loss"].items():
            np.testing.assert_allclose(loss, agents.meta_loss(w, int(nu), 0.3), rtol=1e-12)
        for (_, end), nu in zip(found["at_start"]["round"].items(), (0, 1, 5), strict=True):
            method = {"method": gradient, "backprop_steps": None if kept is None else min(kept, nu)}
            np.testing.assert_allclose(end, agents.round(w, nu, 0.3, 0.7, 4, **method), rtol=1e-12)


def test_agents_are_handed_over_with_all_their_digits():
    found = data(gl.explain.landscape(TWO, start=(0, 0.2)))["agents"]
    assert [agent["A"] for agent in found] == TWO.A.tolist()
    assert [agent["c"] for agent in found] == [agent["optimum"] for agent in found] == TWO.c.tolist()
    assert [agent["name"] for agent in found] == ["A", "B"]


def test_a_neuron_finds_what_it_wants():
    x = np.linspace(-3, 3, 9)
    agents = {"agent 0": (x, 1.6 * np.tanh(0.5 * x)), "Ada": (x, 0.5 * np.tanh(1.6 * x))}
    found = data(gl.explain.landscape(agents, start=(1, 1)))["agents"]
    assert [agent["name"] for agent in found] == ["0", "Ada"]
    np.testing.assert_allclose([agent["optimum"] for agent in found], [[1.6, 0.5], [0.5, 1.6]], rtol=1e-3)
    assert [agent["x"] for agent in found] == [x.tolist()] * 2


def test_every_method_has_the_colour_that_it_has_in_plots():
    from matplotlib.colors import to_hex

    from gmfl_lite.plots.looks import looks_of

    colours = [to_hex(look.colour) for look in looks_of(["FedAvg", "ν = 1", "ν = 3"]).values()]
    assert [method["colour"] for method in data(gl.explain.landscape())["methods"]] == colours


@pytest.mark.parametrize("nu", [0, 1, 3, 20])
def test_it_stands_alone(nu):
    picture = gl.explain.landscape(nu=nu)
    inner = frame(picture)
    assert set(re.findall(r"https?://[^\"' ]*", inner)) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"(?:src|href)=|@import|url\(|fetch\(|import\(", inner)
    assert len(picture._repr_html_().encode()) < min(MOST, 150_000)
    width, height = Image.open(io.BytesIO(picture.still)).size
    assert min(width, height) > 300
    assert f"ν = {nu}" in picture.alt


def test_window_is_as_wide_as_drawn_and_holds_all():
    found = data(gl.explain.landscape(TWO, start=(3, 4)))
    (left, right), (bottom, top) = found["window"]["x"], found["window"]["y"]
    np.testing.assert_allclose((right - left) / (top - bottom), found["aspect"])
    for w in [found["start"], *TWO.c]:
        assert left < w[0] < right
        assert bottom < w[1] < top
    assert data(gl.explain.landscape(TWO, start=(0, 0), x=(-2, 2), y=(-1, 3)))["window"] == {"x": [-2, 2], "y": [-1, 3]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nu": 21}, "nu = 21: must be an integer of at least 0 and at most 20"),
        ({"local_steps": 0}, "local_steps = 0"),
        ({"fine_tune_lr": 0}, "fine_tune_lr = 0: must be a finite number above 0"),
        ({"meta_lr": "much"}, "meta_lr = 'much'"),
        ({"gradient": "exakt"}, r"gradient = 'exakt': .*did you mean 'exact'"),
        ({"gradient": "truncated"}, "backprop_steps = None: must be given with the gradient 'truncated'"),
        ({"backprop_steps": 1}, "backprop_steps = 1: must be left out with the gradient 'exact'"),
        ({"start": (0, 0, 0)}, r"start = \(0, 0, 0\): must be two numbers"),
        ({"start": (9, 0), "x": (-1, 1)}, r"start = \(9, 0\): must be inside the window"),
        ({"x": (1, -1)}, r"x = \(1, -1\): must be two numbers, the lower one first"),
        ({"agents": [TWO]}, "gl.theory.Quadratics, or a dict"),
        ({"agents": gl.theory.Quadratics([[[1.0]]] * 2, [[0.0]] * 2)}, "agents in two dimensions"),
        ({"agents": gl.theory.Quadratics([np.eye(2)], [[0, 0]])}, "agents = 1: must be two to six agents"),
        ({"agents": {"Ada": ([1, 2], [1]), "Bo": ([1], [1])}}, r"agents\['Ada'\] = .*equally many finite numbers"),
        ({"agents": {"Ada": 3, "Bo": ([1], [1])}}, r"agents\['Ada'\] = 3"),
        ({"fine_tune_lr": 1e200}, "not finite: lower the step sizes"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        gl.explain.landscape(**wrong)


def test_the_picture_that_does_not_move_says_which_arrows_are_too_short_to_see(monkeypatch):
    """Agents that are alike: at their optimum no round moves w, and far from it every round does."""
    drawn, draw = [], gl.plots.landscapes
    monkeypatch.setattr(gl.plots, "landscapes", lambda panels, **how: drawn.append(panels) or draw(panels, **how))
    alike = gl.theory.Quadratics([np.eye(2)] * 2, [[0.5, 0.5]] * 2)
    at_rest, moved = (
        gl.explain.landscape(alike, nu=3, meta_lr=0.5, fine_tune_lr=0.1, start=start)
        for start in ((0.5, 0.5), (-0.8, 0.8))
    )
    ((title, panel),), ((other_title, other),) = (panels.items() for panels in drawn)
    assert title.endswith("\narrows too short to see: FedAvg, Per-FedAvg, ν = 3")
    assert at_rest.alt.endswith(" Too short to see: FedAvg, Per-FedAvg, ν = 3.")
    assert "too short" not in f"{other_title} {moved.alt}".lower()
    assert (list(panel.arrows), list(other.arrows)) == ([], ["FedAvg", "Per-FedAvg", "ν = 3"])
