"""Figures of who holds what: label counts, images, rotations, distances between mixes of classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes

from ..basics import checks
from ..basics.shifts import rotate
from ..data import Dataset
from ..federation import Federation
from ..theory.heterogeneity import label_heterogeneity
from .picture import AXES, Picture, literal, seaborn, words


def label_counts(federation: Federation) -> Picture:
    """Draw who holds what: a heat map, agents across and classes down, coloured by the share of an agent's samples.

    The colours mean the same in every figure, 0 to 1, so that agents who hold nearly the same look alike. A line parts
    the agents that train from the new ones.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> figure = label_counts(gl.build_federation(gl.Experiment(n_agents=20)))
    """
    counts = federation.label_counts
    n_agents, n_classes = counts.shape
    with seaborn() as sns:
        figure = Picture(figsize=(min(4 + 0.12 * n_agents, 11), min(1.4 + 0.24 * n_classes, 60)), layout="constrained")
        axes = figure.subplots()
        sns.heatmap(
            shares_held(federation).rename(index=lambda agent: literal(str(agent)), columns=literal).T,
            ax=axes,
            **SHARES,
            xticklabels=-(-n_agents // 20),
            cbar_kws={"label": "share of an agent's samples"},
        )
    axes.set(xlabel=f"agent ({_range(counts.sum(axis=1))} samples each)", ylabel="class")
    axes.tick_params(axis="both", rotation=0, length=0)
    if federation.names is not None:
        axes.tick_params(axis="x", rotation=90)
    if federation.n_new_agents:
        axes.axvline(federation.n_agents, color="tab:blue", linewidth=2)
        axes.annotate(
            "new agents →",
            (federation.n_agents, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 3),
            textcoords="offset points",
            color="tab:blue",
        )
    shown = (counts > 0).sum(axis=1)
    figure.alt = (
        f"Heat map of {n_agents} agents by {n_classes} classes: an agent holds {_range(counts.sum(axis=1))} samples "
        f"of {_range(shown)} classes."
    )
    return figure


SHARES: dict[str, Any] = {"cmap": "rocket_r", "vmin": 0.0, "vmax": 1.0}
"""How a share of an agent's samples is coloured, in every figure."""


def shares_held(federation: Federation) -> pd.DataFrame:
    """Return which share of an agent's samples is of each class: agents × classes, rows that sum to one."""
    counts = federation.label_counts
    return counts.div(counts.sum(axis=1), axis=0)


def examples(federation: Federation, agents: Sequence[int] | None = None) -> Picture:
    """Draw what each agent files under each class: one training image per agent (down) and class (across).

    Renamed classes show as different images in one column, turned images as turned, missing classes as gaps.

    Parameters
    ----------
    federation : the agents and their images.
    agents : which agents to show; by default the first four.

    Raises
    ------
    ValueError : the agents hold no images, or have no classes.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> figure = examples(gl.build_federation(gl.Experiment(permuted_classes=10)), agents=range(3))
    """
    agents = list(range(min(4, len(federation.sizes))) if agents is None else agents)
    if federation.classes is None:
        raise ValueError(f"federation: must hold images of classes, to draw one of each, not numbers; {_CURVES}")
    _check_image("federation", federation.x.shape[1:])
    shape = (len(agents), len(federation.classes))
    figure = Picture(figsize=(0.8 + 0.7 * shape[1], 0.5 + 0.72 * shape[0]), layout="constrained")
    grid = figure.subplots(*shape, squeeze=False)
    for row, agent in zip(grid, agents, strict=True):
        x, y = federation.train(agent)
        for label, axes in enumerate(row):
            _draw_image(axes, x[y == label][0] if (y == label).any() else None)
        row[0].set_ylabel(literal(federation.name_of(agent)), rotation=0, ha="right", va="center")
    for axes, name in zip(grid[0], federation.classes, strict=True):
        axes.set_title(f"“{literal(name)}”", fontsize="medium")
    figure.alt = f"One training image of every class, by the names that agents {agents} use themselves."
    return figure


def images(pictures: Mapping[str, torch.Tensor], *, alt: str) -> Picture:
    """Draw images [C, H, W] side by side, each below its name; what is not finite or beyond [0, 1] is cut off.

    Raises
    ------
    ValueError : no images, or what is none: a table, a sequence, other channels than 1, 3 or 4, pixels as integers.

    Examples
    --------
    >>> shades = {"all 0.2": torch.full((1, 8, 8), 0.2), "all 1": torch.ones(1, 8, 8)}
    >>> figure = images(shades, alt="A light square and a dark one.")
    """
    if not isinstance(pictures, Mapping) or not pictures:
        raise checks.refusal("pictures", pictures, "a non-empty dict of name -> tensor [C, H, W]")
    for key, image in pictures.items():
        where = f"pictures[{checks.shown(key)}]"
        if not isinstance(image, torch.Tensor) or not image.is_floating_point():
            raise checks.refusal(where, image, "a floating-point tensor [C, H, W] of pixels in [0, 1]")
        _check_image(where, image.shape)
    figure = Picture(figsize=(1.55 * len(pictures), 1.75), layout="constrained")
    names = words(pictures)
    for axes, (key, image) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True):
        _draw_image(axes, image.nan_to_num(0.0).clamp(0, 1))
        axes.set_title(literal(names[key]), fontsize="small")
    figure.alt = alt
    return figure


def rotations(
    federation: Federation, dataset: Dataset, agents: Sequence[int] | None = None, n_images: int = 3
) -> Picture:
    """Draw the same images (down) as each agent sees them (across), turned by the agent's own angle.

    Parameters
    ----------
    federation, dataset : the agents, and the images before they were dealt out.
    agents : which agents to show; by default the first eight.
    n_images : how many images, the first ones of different classes.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> experiment = gl.Experiment(max_rotation=60)
    >>> figure = rotations(gl.build_federation(experiment), gl.load_dataset(experiment.dataset))
    """
    _check_image("dataset", dataset.x.shape[1:])
    agents = list(range(min(8, len(federation.sizes))) if agents is None else agents)
    rows = [int((dataset.y == label).nonzero()[0]) for label in dataset.y.unique()[:n_images]]
    figure = Picture(figsize=(0.3 + 0.9 * len(agents), 0.4 + 0.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(agents), squeeze=False)
    for column, agent in zip(grid.T, agents, strict=True):
        degrees = float(federation.rotations[agent])
        column[0].set_title(f"{literal(federation.name_of(agent))}\n{degrees:+.0f}°", fontsize="medium")
        for axes, image in zip(column, rotate(dataset.x[rows], degrees), strict=True):
            _draw_image(axes, image)
    angles = federation.rotations[agents]
    figure.alt = (
        f"The same {len(rows)} images at {len(agents)} agents, turned by {min(angles):.0f}° to {max(angles):.0f}°."
    )
    return figure


def label_distances(federations: Mapping[str, Federation]) -> Picture:
    """Draw how far agents' mixes of classes are from the average: a histogram of total variation per federation.

    Parameters
    ----------
    federations : label -> Federation, drawn one below the other on one scale.

    Raises
    ------
    ValueError : no federations.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> base = gl.Experiment()
    >>> federations = {f"α = {a}": gl.build_federation(base.replace(dirichlet_alpha=a)) for a in (0.1, 1, 10)}
    >>> figure = label_distances(federations)
    """
    if not isinstance(federations, Mapping) or not federations:
        raise checks.refusal("federations", federations, "a non-empty dict of label -> Federation")
    names = words(federations)
    distances = {names[label]: label_heterogeneity(f)["total_variation"] for label, f in federations.items()}
    with seaborn(AXES) as sns:
        figure = Picture(figsize=(6.5, 0.8 + 0.75 * len(distances)), layout="constrained")
        grid = figure.subplots(len(distances), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    colours = sns.color_palette("colorblind", len(distances))
    for axes, (label, values), colour in zip(grid, distances.items(), colours, strict=True):
        sns.histplot(values, ax=axes, binrange=(0, 1), bins=40, stat="percent", color=colour)
        axes.axvline(values.mean(), color="black", linestyle="--", linewidth=1)
        axes.set(ylabel="", xlim=(0, 1))
        axes.annotate(
            f"{literal(label)}: mean {values.mean():.2f}",
            (0.99, 0.85),
            xycoords="axes fraction",
            ha="right",
            va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # the line at the mean may pass below it
        )
    grid[-1].set_xlabel("total variation between an agent's mix of classes and the average")
    figure.supylabel("agents (%)", fontsize="medium")
    means = ", ".join(f"{label} {values.mean():.2f}" for label, values in distances.items())
    figure.alt = f"Histograms of the total variation between agents' mixes of classes and the average; means: {means}."
    return figure


_CURVES = "gl.plots.curves draws the columns of a table, gl.plots.label_counts who holds what"


def _check_image(name: str, shape: Sequence[int]) -> None:
    """Refuse what is not [C, H, W] with colours for the eye, with what to draw in its place."""
    found = "×".join(map(str, shape)) or "one number"
    if len(shape) != 3 or min(shape[1:]) < 2:
        raise ValueError(f"{name}: must hold images [C, H, W] from 2×2 pixels on, got samples of {found}; {_CURVES}")
    if shape[0] not in (1, 3, 4):
        instead = "draw one at a time: gl.plots.images({'channel 0': x[:1], 'channel 1': x[1:2]}, alt='…')"
        raise ValueError(f"{name}: must hold images of 1, 3 or 4 channels, got {found}; {instead}")


def _draw_image(axes: Axes, image: torch.Tensor | None) -> None:
    axes.set(xticks=[], yticks=[], frame_on=False)
    if image is not None:
        axes.imshow(image.float().permute(1, 2, 0).squeeze(-1).numpy(force=True), cmap="gray_r", vmin=0, vmax=1)


def _range(numbers: pd.Series) -> str:
    lowest, highest = numbers.min(), numbers.max()
    return f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
