"""The landscape player: agents in the plane, a w to drag, and what ν does to the loss that training goes down."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_hex

from .. import plots
from ..basics import checks
from ..meta_gradients import factors_kept
from ..plots.looks import looks_of
from ..plots.picture import steps_in_words
from ..theory import Quadratics
from .picture import Picture, png, shipped
from .plane import PlaneAgent, Samples, mean_loss, one_round, plane_agents

ASPECT = 560 / 440
"""Width of the drawing over its height."""

MOST_STEPS = 20
"""Of ν and of τ: what the sliders reach."""

METHODS = ("FedAvg", "Per-FedAvg", "your ν")
COLOURED_AS = ("FedAvg", "Per-FedAvg", "ν = 3")
DEFAULT = ([[[1.2, 0], [0, 1.0]], [[0.08, 0], [0, 0.12]], [[0.5, 0.3], [0.3, 0.4]]], [[1, 0.7], [-1, -0.5], [0.4, -1]])
"""A and c of a steep agent, a flat one, and one with a valley across."""
START = (-0.8, 0.8)
SHORTEST = 0.03
"""Arrows below this share of the window are left out of the picture that does not move, and named."""


def landscape(
    agents: Quadratics | Samples | None = None,
    nu: int = 3,
    *,
    fine_tune_lr: float = 0.4,
    meta_lr: float = 0.8,
    local_steps: int = 5,
    gradient: str = "exact",
    backprop_steps: int | None = None,
    start: Sequence[float] | None = None,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
) -> Picture:
    """Return the landscape of the ν-step meta-loss as a picture to play with: w is dragged, ν is a slider.

    It shows F(w) = (1/n) Σ_i f_i(w_i⁽ᵛ⁾) as contours, every agent's fine-tuning path from w, and where a round of
    FedAvg, of ν = 1 and of the chosen ν takes w. Play and Step go through rounds, Clear takes
    them away, and Reset puts everything where it was at first.

    Parameters
    ----------
    agents : two to six of them. `gl.theory.Quadratics` of two dimensions; or name -> (x, y), the samples of a neuron
        w₁ tanh(w₂ x) whose loss is the mean squared error. None is three quadratics, a steep and a flat one among them.
    nu, fine_tune_lr, meta_lr, local_steps, gradient, backprop_steps : ν, α, β, τ and the gradient at first; "exact",
        "first_order" or "truncated", with the number of Hessian factors that are kept.
    start : w at first.
    x, y : the window; None is chosen so that w and all optima are in it.

    Raises
    ------
    ValueError : another number of agents or dimensions, ν or τ beyond 20, a start outside the window, step sizes
        that diverge.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> picture = gl.explain.landscape(nu=5)
    >>> picture  # doctest: +ELLIPSIS
    The mean loss of agents A, B and C over two parameters after 5 fine-tuning steps, as contours. ...
    >>> agents = gl.theory.Quadratics([[[1, 0], [0, 1]], [[0.1, 0], [0, 0.1]]], [[1, 0], [-1, 0]])
    >>> two = gl.explain.landscape(agents, start=(0, 0.5))
    """
    nu = checks.integer("nu", nu, 0, MOST_STEPS)
    settings = {
        "fine_tune_lr": checks.number("fine_tune_lr", fine_tune_lr, 0, above=True),
        "meta_lr": checks.number("meta_lr", meta_lr, 0, above=True),
        "local_steps": checks.integer("local_steps", local_steps, 1, MOST_STEPS),
        "method": checks.choice("gradient", gradient, ("exact", "first_order", "truncated")),
        "backprop_steps": backprop_steps,
    }
    factors_kept(gradient, backprop_steps, nu)
    start = START if start is None else start
    found = plane_agents(Quadratics(*DEFAULT) if agents is None else agents)
    w = np.asarray(checks.numbers("start", start))
    if w.shape != (2,):
        raise checks.refusal("start", start, "two numbers")
    window = _window(x, y, np.array([w, *(agent.optimum for agent in found)]))
    if not all(low < at < high for at, (low, high) in zip(w, window.values(), strict=True)):
        raise checks.refusal("start", start, f"inside the window, x = {window['x']} and y = {window['y']}")
    colours = dict(zip(METHODS, (to_hex(look.colour) for look in looks_of(COLOURED_AS).values()), strict=True))
    rounds = {name: one_round(found, w, steps, settings) for name, steps in zip(METHODS, (0, 1, nu), strict=True)}
    data = {
        "agents": [{"name": agent.name, "optimum": agent.optimum, **agent.numbers} for agent in found],
        "methods": [{"name": name, "colour": colours[name]} for name in METHODS],
        "window": window,
        "start": w,
        "nu": nu,
        "settings": settings | {"backprop_steps": 1 if backprop_steps is None else backprop_steps},
        "aspect": ASPECT,
        "most_steps": MOST_STEPS,
        # What the library finds at the start, for whoever wants to compare: the script computes the same.
        "at_start": {"meta_loss": _losses(found, w, nu, settings), "round": rounds},
    }
    names = " and ".join(", ".join(agent.name for agent in found).rsplit(", ", 1))
    alt = (
        f"The mean loss of agents {names} over two parameters after {steps_in_words(nu)}, as contours. From w each "
        "agent fine-tunes towards its own optimum. Arrows show where one round of FedAvg, of ν = 1 and of "
        f"ν = {nu} takes w."
    )
    unseen = _too_short(w, nu, window, rounds)
    alt += f" Too short to see: {', '.join(unseen)}." * bool(unseen)
    still = _still(found, w, nu, settings, window, rounds, unseen, colours, alt)
    script = shipped("meta_objective.js") + shipped("landscape.js")
    return Picture(
        script,
        data,
        title="The landscape of the meta-loss",
        alt=alt,
        still=png(still),
        height=640,
        style=shipped("landscape.css"),
    )


def _window(x: Any, y: Any, inside: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the ends of both axes; where none are given, so that points [N, 2] are inside and angles true."""
    low, high = inside.min(0), inside.max(0)
    width = 1.5 * ((high - low) * [1, ASPECT]).max() or 1.0
    half = np.array([width, width / ASPECT]) / 2
    window = {}
    for name, given, centre, apart in zip("xy", (x, y), (low + high) / 2, half, strict=True):
        ends = np.array([centre - apart, centre + apart]) if given is None else checks.numbers(name, given)
        if ends.shape != (2,) or not ends[0] < ends[1]:
            raise checks.refusal(name, given, "two numbers, the lower one first")
        window[name] = (float(ends[0]), float(ends[1]))
    return window


def _losses(agents: list[PlaneAgent], w: np.ndarray, nu: int, settings: dict[str, Any]) -> dict[int, float]:
    points = torch.from_numpy(w)[None]
    return {steps: mean_loss(agents, points, steps, settings["fine_tune_lr"]).item() for steps in (0, 1, nu)}


def _too_short(
    w: np.ndarray, nu: int, window: dict[str, tuple[float, float]], rounds: dict[str, np.ndarray]
) -> list[str]:
    """Return the methods whose arrow in the picture that does not move is too short to see."""
    sides = np.array([window[axis][1] - window[axis][0] for axis in "xy"])
    return [_named(name, nu) for name, end in rounds.items() if np.linalg.norm((end - w) / sides) < SHORTEST]


def _named(method: str, nu: int) -> str:
    return method.replace("your ν", f"ν = {nu}")


def _still(
    agents: list[PlaneAgent],
    w: np.ndarray,
    nu: int,
    settings: dict[str, Any],
    window: dict[str, tuple[float, float]],
    rounds: dict[str, np.ndarray],
    unseen: list[str],
    colours: dict[str, str],
    alt: str,
) -> plots.Picture:
    alpha = settings["fine_tune_lr"]
    title = f"mean loss after {steps_in_words(nu)}" + f"\narrows too short to see: {', '.join(unseen)}" * bool(unseen)
    paths = {f"agent {agent.name}": agent.path(w, nu, alpha) for agent in agents}
    named = {_named(name, nu): name for name in rounds}
    arrows = {label: (w, rounds[name] - w) for label, name in named.items() if label not in unseen}
    panel = plots.Landscape(
        lambda points: mean_loss(agents, points, nu, alpha),
        paths=paths,
        arrows=arrows,
        points={"w": w} | {label: agent.optimum for label, agent in zip(paths, agents, strict=True)},
    )
    looks = {label: colours[name] for label, name in named.items()} | dict.fromkeys(paths, "0.3")
    return plots.landscapes({title: panel}, x=window["x"], y=window["y"], colours=looks, alt=alt)
