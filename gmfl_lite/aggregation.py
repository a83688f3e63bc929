"""How the server makes one w of the many that agents send back, and which of strangers' it leaves out.

gl.train, the torchrun engine, Flower's strategy and gl.by_hand all go through `aggregate`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .basics import checks, ways
from .objective import Params

TRIMMED = 0.2
"""The share of the agents that a trimmed mean leaves out at each end: two of ten."""


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """All there is to know of one way to make one w of many; `add_aggregation` makes it a choice everywhere.

    Attributes
    ----------
    name : what Experiment's `aggregation` calls it.
    help : what it is, in a few words.
    plain : a tensor [agents, …] -> […].
    weighted : (a tensor [agents, …], shares [agents] that sum to one) -> […]; "none" if weights make no sense.
    adds_up : whether it is the mean, Σ_i p_i w_i: what can be summed up over chunks of agents and over processes, and
        what theory's bounds speak of.
    """

    name: str
    help: str
    plain: Callable[[torch.Tensor], torch.Tensor]
    weighted: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | Literal["none"]
    adds_up: bool = False

    def __post_init__(self) -> None:
        ways.check_functions(self, "aggregation", "plain", "weighted", none="weights make no sense")


AGGREGATIONS: dict[str, Aggregation] = {}
"""Every way to make one w of many, by name."""


def add_aggregation(aggregation: Aggregation) -> Aggregation:
    """Make a way to make one w of many a choice everywhere: in Experiment, every engine and Flower.

    Raises
    ------
    ValueError : not an Aggregation, or its name is taken.
    """
    return ways.added(aggregation, AGGREGATIONS, Aggregation, "aggregation", "an aggregation")


def _middle(tensor: torch.Tensor, cut: int) -> torch.Tensor:
    """Return the mean of what is left when the `cut` smallest and largest along the first axis are away."""
    in_order, _ = tensor.sort(0)
    return in_order[cut : len(tensor) - cut].mean(0)


def _median(tensor: torch.Tensor) -> torch.Tensor:
    return _middle(tensor, (len(tensor) - 1) // 2)


def _trimmed(tensor: torch.Tensor) -> torch.Tensor:
    n = len(tensor)
    return _middle(tensor, max(int(TRIMMED * n), min(1, (n - 1) // 2)))


for _aggregation in (
    Aggregation(
        name="average",
        help="the mean",
        plain=lambda tensor: tensor.mean(0),
        weighted=lambda tensor, shares: torch.tensordot(shares, tensor, dims=1),
        adds_up=True,
    ),
    Aggregation(name="median", help="the median of every number by itself", plain=_median, weighted="none"),
    Aggregation(
        name="trimmed",
        help=f"the mean without the {TRIMMED:.0%} largest and smallest of every number",
        plain=_trimmed,
        weighted="none",
    ),
):
    add_aggregation(_aggregation)


def aggregate(
    updates: Params,
    weights: torch.Tensor | None = None,
    *,
    aggregation: str = "average",
    check_weights: bool = True,
) -> Params:
    """Combine what the agents sent back into one w: the average Σ_i p_i w_i, or something that outvotes a few liars.

    A median and a trimmed mean leave out agents that send a number that is not finite. Each other liar may move them by
    a rank in every number: little where agents are alike, much where they differ.

    Parameters
    ----------
    updates : dict of tensors [agents, …].
    weights : non-negative [agents], scaled here to sum to one; None is the uniform average, as in the objective
        (1/n) Σ_i F_i.
    check_weights : whether to check the weights' values; on a GPU this means waiting for it.

    Raises
    ------
    ValueError : no tensors or agents, different numbers of agents, an unknown aggregation, weights where it takes none,
        of another length, negative, or all zero.

    References
    ----------
    Yin, Chen, Kannan, Ramchandran, Bartlett: Byzantine-robust distributed learning, ICML 2018.

    Examples
    --------
    >>> aggregate({"w": torch.tensor([[0.0], [1.0], [-1e9]])}, aggregation="median")
    {'w': tensor([0.])}
    >>> aggregate({"w": torch.tensor([[0.0], [1.0]])}, torch.tensor([1.0, 3.0]))
    {'w': tensor([0.7500])}
    """
    if not isinstance(updates, dict) or not updates:
        raise checks.refusal("updates", updates, "a non-empty dict of tensors [agents, …]")
    counts = {name: tensor.shape[:1] for name, tensor in updates.items()}
    n_agents = next(iter(counts.values()))
    if set(counts.values()) != {n_agents} or not n_agents or not n_agents[0]:
        found = checks.shown({name: list(tensor.shape) for name, tensor in updates.items()})
        raise ValueError(f"updates: must have one leading axis of at least one agent in common, got shapes {found}")
    how = AGGREGATIONS[checks.choice("aggregation", aggregation, AGGREGATIONS)]
    if weights is None:
        ranked = None if how.adds_up else _some(~_lengths(updates).isnan())
        return {name: how.plain(_of(tensor, ranked)) for name, tensor in updates.items()}
    if how.weighted == "none":
        raise checks.refusal("weights", weights, f"None with aggregation={aggregation!r}: {how.help} knows none")
    weights = torch.as_tensor(weights)
    if weights.shape != n_agents:
        raise ValueError(f"weights: must be one for each of the {n_agents[0]} agents, got shape {tuple(weights.shape)}")
    if check_weights and not (bool((weights >= 0).all()) and 0 < float(weights.sum()) < float("inf")):
        found = checks.shown(weights.tolist())
        raise ValueError(f"weights: must be non-negative with a finite sum above 0, got {found}")
    together = {}
    for name, tensor in updates.items():
        share = weights.to(tensor)
        together[name] = how.weighted(tensor, share / share.sum())
    return together


def _lengths(updates: Params, w: Params | None = None) -> torch.Tensor:
    """Return ‖w_i − w‖ of every agent [agents], NaN for one that sent a number that is not finite; w is 0 if None."""
    squares = torch.zeros((), dtype=torch.float64)
    for name, tensor in updates.items():
        moved = (tensor if w is None else tensor - w[name]).double().reshape(len(tensor), -1)
        squares = squares + torch.where(moved.isfinite(), moved, math.nan).square().sum(1)
    return squares.sqrt()


def _some(counts: torch.Tensor) -> torch.Tensor:
    """Return which agents count; if none does, all: that is divergence, which is told elsewhere."""
    return counts | ~counts.any()


def _of(tensor: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    """Return the rows of those who count; on the device without values all are there."""
    return tensor if counts is None or counts.is_meta else tensor[counts]


def plausible(lengths: torch.Tensor, w: Params) -> torch.Tensor:
    """Return whose updates of these lengths [agents] a median or a trimmed mean ranks: finite ones, and no outliers.

    NaN and huge numbers lie at one end. Ranked with the others, two of ten would shift a trimmed mean by 0.38 standard
    deviations of the honest, and a median by 0.31, in every number and every round to the same side.

    >>> plausible(torch.tensor([1.0, 2.0, 1.5, math.nan, 1e9]), {"w": torch.zeros(3)})
    tensor([ True,  True,  True, False, False])
    """
    counts = _some(lengths.isfinite())
    if lengths.is_meta or not lengths.isfinite().any():
        return counts
    found = lengths[counts].cpu().numpy()
    size = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in w.values()))
    far = outliers(found, max(float(np.median(found)), ALIKE * size))
    counts[counts.clone()] = torch.from_numpy(~far).to(counts.device)
    return _some(counts)


class Gathered:
    """What agents sent back, in chunks, made one: where that adds up, no more than a chunk of agents is in memory.

    Attributes
    ----------
    aggregation : as in `aggregate`.
    w : where the agents started from; with it, what does not add up is made of the `plausible` alone.
    value : what is made of the agents so far, a dict of tensors, empty before the first chunk.
    weight : of all agents so far, where it counts.

    >>> average = Gathered()
    >>> average.add({"w": torch.tensor([[0.0], [3.0]])}, torch.tensor([1, 2]))
    >>> average.add({"w": torch.tensor([[6.0]])}, torch.tensor([1]))
    >>> average.value, average.weight
    ({'w': tensor([3.])}, tensor(4))
    """

    def __init__(self, aggregation: str = "average", w: Params | None = None) -> None:
        self.aggregation, self.adds_up, self.w = aggregation, AGGREGATIONS[aggregation].adds_up, w
        self.weight: torch.Tensor = torch.zeros(())
        self._sum: Params = {}
        self._kept: list[Params] = []

    def add(self, updates: Params, weights: torch.Tensor) -> None:
        """Take in more agents: their w [agents, …] and their weights [agents]."""
        if not self.adds_up:
            self._kept.append(updates)
            return
        mean, weight = aggregate(updates, weights, check_weights=False), weights.sum()
        if not self._sum:
            self._sum, self.weight = mean, weight
            return
        self.weight = self.weight + weight
        share = {name: weight.to(tensor) / self.weight.to(tensor) for name, tensor in mean.items()}
        self._sum = {name: torch.lerp(self._sum[name], mean[name], share[name]) for name in mean}

    @property
    def value(self) -> Params:
        found = dict(self._sum)
        lengths = torch.cat([_lengths(some, self.w) for some in self._kept]) if self._kept else torch.empty(0)
        counts = _some(~lengths.isnan()) if self.w is None else plausible(lengths, self.w)
        for name in self._kept[0] if self._kept else ():  # one tensor after the other, as each is copied and sorted
            whole = {name: _of(torch.cat([some[name] for some in self._kept]), counts)}
            found |= aggregate(whole, aggregation=self.aggregation)
        return found


OUTLIER = 25.0
"""How many spreads above a round's median a value must lie to be an outlier.

Measured over 200 rounds of ten agents (tests/test_aggregation.py), an honest agent's update is up to 8.5 above with the
default step sizes, and up to 21 on the edge of divergence, with β = 0.3 and α = 0.1.
"""


ALIKE = 1e-3
"""Updates shorter than this share of ‖w‖ are all alike: there the spread is rounding's."""


def outliers(values: Sequence[float] | np.ndarray, floor: float) -> np.ndarray:
    """Return which of a round's values [agents] lie far above the others: above median + 25 max(1.48 MAD, floor).

    Of fewer than three values none can be outvoted: they are compared with what is known without them, 25 floor.

    >>> outliers([1.0, 1.1, 0.9, 300.0], floor=1.0).tolist()
    [False, False, False, True]
    """
    found = np.asarray(values, np.float64)
    if len(found) < 3:
        return found > OUTLIER * floor if floor else np.zeros(len(found), bool)
    median = np.median(found)
    spread = 1.4826 * np.median(np.abs(found - median))
    return found > median + OUTLIER * max(spread, floor)


def judge(
    lengths: Sequence[float],
    losses: Sequence[float],
    samples: Sequence[int] | None = None,
    *,
    usual_length: float,
    guessing: float,
) -> list[str]:
    """Return, for every agent of a round, why it is left out: "" for those that are not.

    Only what is too large is left out. Agents differ by nature, and late in training a few move while most have almost
    come to rest; so an update is an outlier only if it is also long compared with what was usual in earlier rounds.

    A liar below the bound takes part. One of ten agents (Dirichlet 1, 60 rounds) that sends 24 usual lengths against
    the others' way takes the average from 96 % to guessing; two of them take a trimmed mean or a median 2 points
    down. A lower bound would leave out honest agents (`OUTLIER`): where not all are trusted, do not take the average.

    Parameters
    ----------
    lengths, losses : ‖w_i − w‖ and the mean meta-loss of every agent, finite.
    samples : their numbers of samples, where they weigh.
    usual_length : the largest median of the lengths in earlier rounds; 0 in the first.
    guessing : the loss of guessing, ln(classes): losses that differ by less are alike.

    Examples
    --------
    >>> judge([0.1, 0.2, 30.0], [2.0, 2.1, 2.2], usual_length=0.1, guessing=2.3)
    ['', '', 'its update is 150 times as long as usual']
    """
    usual = max(usual_length, float(np.median(lengths)) if len(lengths) > 2 else 0.0)
    reasons = [""] * len(lengths)

    def refuse(which: np.ndarray, reason: Callable[[int], str]) -> None:
        for agent in np.flatnonzero(which).tolist():
            reasons[agent] = reasons[agent] or reason(agent)

    refuse(outliers(lengths, usual), lambda agent: f"its update is {lengths[agent] / usual:.3g} times as long as usual")
    refuse(outliers(losses, guessing), lambda agent: f"its loss is {losses[agent]:.3g}")
    if samples is not None and len(samples) > 2:
        typical = float(np.median(samples))
        refuse(
            outliers(samples, typical),
            lambda agent: f"it says it has {samples[agent]} samples, {typical:.0f} are usual",
        )
    return reasons if not all(reasons) else [""] * len(reasons)  # all at once is divergence, not a liar
