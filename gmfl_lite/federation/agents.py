"""Agents on one device: one dataset, which of its samples each trains and is scored on, and the batches they draw."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from ..basics import checks, randomness
from ..basics.devices import PRECISIONS
from ..basics.ragged import InBlocks, IndexTable, alike

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Samples, labels or numbers, and weights; the weights of an agent's batch sum to one, padding has weight zero."""


QUERIES = ("independent", "disjoint")
"""How a query batch is drawn: from all that an agent trains on, or apart from the support batches."""

BLOCK_NUMBERS = 2**20
"""Numbers (8 MB) that are drawn at once for the mini-batches to come, or those of one local step if it takes more."""


class Agents:
    """Who holds which samples, on one device, and the batches that they draw: what `Federation` is made of."""

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        classes: tuple[str, ...] | None,
        train: IndexTable,
        test: IndexTable,
        n_new_agents: int,
        rotations: np.ndarray,
        *,
        fine_tune: IndexTable | None = None,
        strata: torch.Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.x, self.y, self.classes = x, y, classes
        self.dtype = x.dtype if x.is_floating_point() else torch.float32
        self.rotations = rotations
        self._train, self._test, self._fine_tune = train, test, train if fine_tune is None else fine_tune
        self._strata = y if strata is None else strata
        self.names = None if names is None else tuple(map(str, names))
        self.name = "agents"
        self.made_for: dict[str, Any] | None = None
        self.n_new_agents = n_new_agents
        self.n_agents = len(train.sizes) - n_new_agents

    def in_precision(self, precision: str) -> Self:
        """Return the same agents, whose images come as "float32" or "float64"; they are stored once, as they are."""
        converted = copy.copy(self)
        converted.dtype = PRECISIONS[checks.choice("precision", precision, PRECISIONS)]
        return converted

    def only(self, agent: int, number: int | None = None) -> Self:
        """Return a federation that holds the samples of one agent and nobody else's, under its number or another."""
        number = agent if number is None else number
        tables = self._train, self._test, self._fine_tune
        rows = torch.cat([table.of(agent) for table in tables]).unique()
        train, test, fine_tune = (table.alone(agent, number, rows) for table in tables)
        samples, strata = self.samples(rows), self._strata[rows]
        turned = np.append(np.zeros(number), self.rotations[agent])
        return type(self)(*samples, self.classes, train, test, 0, turned, fine_tune=fine_tune, strata=strata)

    def __repr__(self) -> str:
        samples = f"{self.sizes.sum()} samples of {'×'.join(map(str, self.x.shape[1:]))}"
        return f"Federation({self.name!r}, {self.n_agents} agents and {self.n_new_agents} new ones, {samples})"

    def name_of(self, agent: int) -> str:
        """Return an agent's name, or "agent 3"."""
        return f"agent {agent}" if self.names is None else self.names[agent]

    @property
    def sizes(self) -> np.ndarray:
        return (self._train.sizes + self._test.sizes).numpy(force=True)

    @property
    def train_sizes(self) -> torch.Tensor:
        """How many samples each agent trains on: int64 [agents]."""
        return self._train.sizes

    @property
    def label_counts(self) -> pd.DataFrame:
        if self.classes is None:
            raise ValueError("label_counts: there are no classes, as y are numbers to predict")
        agents, classes = self.n_agents + self.n_new_agents, len(self.classes)
        counts = torch.zeros(agents * classes, dtype=torch.int64, device=self.y.device)
        for table in (self._train, self._test):
            holder = torch.arange(agents, device=self.y.device).repeat_interleave(table.sizes)
            labels = self.y[table.index].flatten(1) if self.y.ndim > 1 else self.y[table.index][:, None]
            counts += torch.bincount((holder[:, None] * classes + labels).flatten(), minlength=agents * classes)
        shown = counts.reshape(agents, classes).numpy(force=True)
        index = pd.Index(range(agents) if self.names is None else self.names, name="agent")
        return pd.DataFrame(shown, index, columns=pd.Index(self.classes, name="class"))

    @property
    def groups(self) -> dict[str, torch.Tensor]:
        agents = torch.arange(self.n_agents + self.n_new_agents, device=self.x.device)
        groups = {"trained": agents[: self.n_agents], "new": agents[self.n_agents :]}
        return {name: members for name, members in groups.items() if len(members)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all that makes up the agents, by name."""
        tables = {"train": self._train, "test": self._test}
        if self._fine_tune is not self._train:
            tables["fine-tune"] = self._fine_tune
        rows = {f"{half} {part}": getattr(table, part) for half, table in tables.items() for part in ("index", "sizes")}
        return {"x": self.x, "y": self.y, **rows}

    def train(self, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (x, y) of the samples that agent trains on: [samples, C, H, W] and [samples].

        It fine-tunes on all of them when it is scored or, with shots and query="disjoint", on half of them.
        """
        return self._held(self._train, agent)

    def test(self, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (x, y) of the samples that agent is scored on, which it never fine-tunes on."""
        return self._held(self._test, agent)

    def train_sets(self, agents: torch.Tensor) -> Batch:
        """Return all training samples of several agents as one padded batch: [agents, width, …]."""
        return self._everything(self._train, agents)

    def fine_tune_sets(self, agents: torch.Tensor) -> Batch:
        """Return the samples that several agents fine-tune on when they are scored, as one padded batch."""
        return self._everything(self._fine_tune, agents)

    def test_sets(self, agents: torch.Tensor) -> Batch:
        """Return all scored samples of several agents as one padded batch: [agents, width, …]."""
        return self._everything(self._test, agents)

    def alike(
        self, agents: torch.Tensor, batch_size: int | None = None, query: str = "independent"
    ) -> list[tuple[int, torch.Tensor]]:
        """Put agents together that train on about as many samples, so that their batches are at most half padding.

        Return (the width of their batches, places in `agents`) of each group: one group where all sizes are about
        equal. batch_size: how many samples a batch holds at most; query: as in `batches`.
        """
        return alike(agents, self._train.widths(batch_size, halves=query == "disjoint"))

    def scored_alike(self, agents: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Put agents together that fine-tune and are scored on about as many samples; see `alike`."""
        return alike(agents, self._fine_tune.widths(), self._test.widths())

    def check_query(self, query: str) -> None:
        """Look whether every agent that trains can have query batches of this kind.

        Raises
        ------
        ValueError : some agent has a single sample, and a disjoint query asks for two.
        """
        alone = np.flatnonzero(self._train.lengths[: self.n_agents] == 1)
        if query == "disjoint" and len(alone):
            many = self.name_of(int(alone[0])) + f" and {len(alone) - 1} more" * (len(alone) > 1)
            must = "'independent', or every agent must train on at least 2 samples"
            raise checks.refusal("query", query, f"{must}: {many} has a single one")

    def example(self, width: int) -> Batch:
        """Return a batch of one agent, [1, width, …], for its shapes: one sample, repeated."""
        agent = torch.zeros(1, dtype=torch.int64, device=self.x.device)
        x, y, weight = self._gather(self._train, agent, agent[:, None])
        return x.expand(1, width, *x.shape[2:]), y.expand(1, width, *y.shape[2:]), weight.expand(1, width) / width

    def batches(
        self,
        agents: torch.Tensor,
        *,
        nu: int,
        local_steps: int,
        batch_size: int | None,
        seed: int,
        round: int,
        query: str = "independent",
    ) -> Sequence[tuple[list[Batch], Batch]]:
        """Return (support, query) for every local step: ν batches to fine-tune on, one to score after them.

        Every batch holds min(batch_size, samples) distinct samples of each agent, uniformly drawn and independent of
        the other batches: an agent with fewer samples than `batch_size` brings all it has. None is the full batch.
        With query="disjoint" an agent's samples are dealt into two halves again in every local step, alike in their
        classes and the first at most one sample larger: support batches are drawn from the first, the query from the
        second. Tensors are [agents, batch, …]. What is drawn is a function of (seed, round, agent, local step, batch
        number), and the query comes first: runs with another ν see the same query and share their first support
        batches.

        Mini-batches are drawn when they are asked for, some local steps at once, and not kept: go through them once.

        Raises
        ------
        ValueError : see `check_query`.
        """
        self.check_query(query)
        disjoint = query == "disjoint"
        longest = (self._train.width + disjoint) // (1 + disjoint)
        whole = batch_size is None or batch_size >= longest
        if whole and not disjoint:
            everything = self.train_sets(agents)
            return [([everything] * nu, everything)] * local_steps
        batch = max(width for width, _ in self.alike(agents, batch_size, query))
        groups, keys = self.alike(agents), randomness.keys(seed, "batches", round, agents)[:, None, None]
        deals = randomness.keys(seed, "halves", round, agents)[:, None, None] if disjoint else None
        drawn_batches = 2 if whole else nu + 1  # every support batch is the whole half
        numbers = torch.arange(drawn_batches, device=agents.device)

        def draw(first: int, end: int) -> list[tuple[list[Batch], Batch]]:
            steps = torch.arange(first, end, device=agents.device)[:, None]
            named = randomness.spawn(randomness.spawn(keys, steps), numbers)
            if deals is None:
                positions = self._train.choose(named, agents, groups, batch)
            else:
                deal, strata = randomness.spawn(deals, steps), (self._strata, len(self.classes or "1"))
                positions = self._train.choose_apart(named, deal, agents, groups, batch, *strata)
            drawn = self._gather(self._train, agents, positions)
            dealt: list[tuple[list[Batch], Batch]] = []
            for step in zip(*(tensor.unbind(1) for tensor in drawn), strict=True):
                query_batch, *support = zip(*(tensor.unbind(1) for tensor in step), strict=True)
                dealt.append((support * nu if whole else support, query_batch))
            return dealt

        drawn_from = sum(width * len(places) for width, places in groups)
        numbers_a_step = drawn_batches * (drawn_from + len(agents) * batch * self.x[0].numel())
        return InBlocks(local_steps, max(1, BLOCK_NUMBERS // numbers_a_step), draw)

    def samples(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (x, y) of some rows of all samples, as the agents get them; whole numbers stay what they are."""
        both = self.x[rows], self.y[rows]
        x, y = (tensor.to(self.dtype) if tensor.is_floating_point() else tensor for tensor in both)
        return x, y

    def _gather(self, table: IndexTable, agents: torch.Tensor, positions: torch.Tensor) -> Batch:
        """Return the batch of shape positions.shape = [agents, …]."""
        rows, counted = table.rows(agents, positions)
        return *self.samples(rows), counted.to(self.dtype) / counted.sum(-1, keepdim=True)

    def _everything(self, table: IndexTable, agents: torch.Tensor) -> Batch:
        width = max(width for width, _ in alike(agents, table.widths()))
        return self._gather(table, agents, torch.arange(width, device=agents.device).expand(len(agents), -1))

    def _held(self, table: IndexTable, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.samples(table.of(checks.integer("agent", agent, 0, len(table.lengths) - 1)))
