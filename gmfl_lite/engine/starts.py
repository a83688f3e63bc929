"""Agents of several starts at once: whoever holds as many samples fine-tunes side by side, whatever w it begins at."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch.func import vmap
from torch.utils._pytree import tree_map

from ..federation import Batch, Federation
from ..objective import Params
from .agents_axis import map_agents, parts
from .cuda_graphs import Graphs


@dataclass(frozen=True, eq=False)
class Start:
    """Where the agents of a federation begin to fine-tune, and with what step size: w and α.

    groups : the agents that do, by the name of their group.
    """

    federation: Federation
    params: Params
    fine_tune_lr: float
    groups: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))


class Part(NamedTuple):
    """Some agents of one start, who have about as many samples: their places in a group, and what they hold."""

    start: Start
    group: str
    places: torch.Tensor
    agents: torch.Tensor
    data: tuple[Batch, Batch]


def joined(starts: Sequence[Start], at_once: Callable[[int], int]) -> Iterator[list[Part]]:
    """Yield the parts that are computed together: equally wide, and not more agents than that."""
    waiting: dict[tuple[int, ...], list[Part]] = defaultdict(list)
    for start in starts:
        federation = start.federation
        for group, members in start.groups.items():
            alike = federation.scored_alike(members)
            for places in parts(alike, at_once):
                agents = members[places]
                together = sum(len(each.agents) for several in waiting.values() for each in several) + len(agents)
                if together > min(at_once(width) for width, _ in alike):
                    yield from waiting.values()
                    waiting.clear()
                data = federation.fine_tune_sets(agents), federation.test_sets(agents)
                waiting[tuple(batch[0].shape[1] for batch in data)].append(Part(start, group, places, agents, data))
    yield from waiting.values()


def side_by_side(
    curve: Callable[..., dict[str, torch.Tensor]], several: Sequence[Part], alone: bool, graphs: Graphs | None
) -> dict[str, torch.Tensor]:
    """Return the scores of several parts' agents [agents, S], one part after the other."""
    starts = [(part.start.params, part.start.fine_tune_lr, len(part.agents)) for part in several]
    if alone:
        (params, lr, _), one = starts[0], several[0]
        return map_agents(partial(curve, lr=lr), params, one.data, execution="loop")
    # Each agent with a w and an α of its own from the beginning: then nothing depends on who else is scored.
    w = {
        name: torch.cat([params[name].expand(n, *tensor.shape) for params, _, n in starts])
        for name, tensor in starts[0][0].items()
    }
    lrs = next(iter(w.values())).new_tensor([lr for _, lr, n in starts for _ in range(n)])
    data = tree_map(lambda *tensors: torch.cat(tensors), *(part.data for part in several))
    vectorized = vmap(curve)
    return vectorized(w, data, lrs) if graphs is None else graphs.call("agents", vectorized, w, data, lrs)
