"""The agents of a run on one device: one dataset, and which of its samples each agent trains and is scored on."""

import copy
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .basics import checks, randomness
from .basics.devices import PRECISIONS, checked_device
from .basics.ragged import InBlocks, IndexTable, alike
from .basics.shifts import first_of_each_class, mislabel, rename_classes, rotate
from .basics.whole_numbers import stratified_split
from .data import Dataset

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Samples, labels or numbers, and weights; the weights of an agent's batch sum to one, padding has weight zero."""


QUERIES = ("independent", "disjoint")
"""How a query batch is drawn: from all that an agent trains on, or apart from the support batches."""

BLOCK_NUMBERS = 2**20
"""Numbers (8 MB) that are drawn at once for the mini-batches to come, or those of one local step if it takes more."""


class Federation:
    """Agents with private data on one device; make one with `Federation.from_partition`.

    Attributes
    ----------
    n_agents, n_new_agents : agents that train, and agents that are only scored; they are numbered in this order.
    sizes : integers [n_agents + n_new_agents], each agent's samples, train and test together.
    label_counts : DataFrame agents × classes, what each agent holds under the names it uses itself.
    classes : the classes' names; None where y are numbers to predict.
    groups : {"trained": agents, "new": agents}, int64 tensors; "new" only if there are any.
    rotations : degrees [n_agents + n_new_agents] by which each agent's images are turned.
    dtype : of the images that agents get; see `in_precision`.
    """

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
    ) -> None:
        self.x, self.y, self.classes, self.dtype = x, y, classes, x.dtype
        self.rotations = rotations
        self._train, self._test, self._fine_tune = train, test, train if fine_tune is None else fine_tune
        self._strata = y if strata is None else strata
        self.n_new_agents = n_new_agents
        self.n_agents = len(train.sizes) - n_new_agents

    @classmethod
    def from_partition(
        cls,
        dataset: Dataset,
        parts: Sequence[np.ndarray],
        *,
        n_new_agents: int = 0,
        test_fraction: float = 0.25,
        permuted_classes: int = 0,
        max_rotation: float = 0.0,
        shots: int | None = None,
        query: str = "independent",
        label_noise: float = 0.0,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> "Federation":
        """Give every part to an agent, shift it as asked, and split it into samples to train on and samples to score.

        Parameters
        ----------
        dataset : the samples.
        parts : one index array an agent, pairwise disjoint, at least two samples each; the agents that train come
            first, the last `n_new_agents` are never trained on.
        test_fraction : the part of every agent's samples that is scored and never fine-tuned on, in (0, 1), at least
            one sample. It is stratified: of every class a test_fraction, give or take at most one sample, and the
            last sample of a class goes to training where there is a choice.
        permuted_classes : each agent gives this many classes other names by its own permutation; 0 or at least 2
            (concept shift).
        max_rotation : each agent's images are turned by its own angle, drawn from ± max_rotation degrees (feature
            shift).
        shots : each agent trains, and fine-tunes, on at most so many samples of each class (of all, where y are
            numbers); None is all of them. The scored samples stay the same.
        query : "disjoint" lets agents that train hold twice the shots, so that each half of them has its shots (see
            `batches`). Every agent is scored after fine-tuning on as many as otherwise, and on the same ones.
        label_noise : the probability with which a training label is replaced by another class, any with equal chance;
            at least 0 and below 1. Scored labels are clean.
        seed : of the split, the shots and the shifts.
        device : where the tensors live.

        Raises
        ------
        ValueError : naming the argument, its value and what is allowed.

        Examples
        --------
        >>> import gmfl_lite as gl
        >>> digits = gl.load_dataset("digits")
        >>> parts = gl.partition(digits.y, gl.Dirichlet(0.3), 12, seed=0)
        >>> federation = gl.Federation.from_partition(digits, parts, n_new_agents=2)
        >>> federation.n_agents, [len(labels) for _, labels in (federation.train(0), federation.test(0))]
        (10, [112, 38])
        """
        if not isinstance(dataset, Dataset):
            raise checks.refusal("dataset", type(dataset).__name__, "a gmfl_lite.Dataset")
        parts = checks.disjoint(parts, len(dataset))
        n_new_agents = checks.integer("n_new_agents", n_new_agents, 0, len(parts) - 1)
        test_fraction = checks.number("test_fraction", test_fraction, 0, 1, above=True)
        n_classes = len(dataset.classes or ())
        permuted_classes = checks.integer("permuted_classes", permuted_classes, 0, n_classes)
        if permuted_classes == 1:
            raise checks.refusal("permuted_classes", 1, "0 or at least 2: one class alone keeps its name")
        max_rotation = checks.number("max_rotation", max_rotation, 0, 180)
        if max_rotation and dataset.x.ndim != 4:
            raise checks.refusal("max_rotation", max_rotation, f"0: {dataset.name} holds no images")
        shots = None if shots is None else checks.integer("shots", shots, 1)
        query = checks.choice("query", query, QUERIES)
        label_noise = checks.share("label_noise", label_noise)
        if label_noise and n_classes < 2:
            there_is = "there is one class, and no other to replace it" if n_classes else "there are no classes"
            raise checks.refusal("label_noise", label_noise, f"0: {there_is}")
        seed = checks.integer("seed", seed, 0)
        device = checked_device(device)
        x, y = dataset.x, dataset.y.numpy(force=True) if n_classes else np.zeros(len(dataset), np.int64)
        halves = [
            stratified_split(part, y[part], test_fraction, randomness.generator(seed, "test split", agent))
            for agent, part in enumerate(parts)
        ]
        training, scored = (list(lists) for lists in zip(*halves, strict=True))

        def held(of_a_class: int, of_a_newcomer: int) -> IndexTable:
            shots_of = [of_a_class] * (len(parts) - n_new_agents) + [of_a_newcomer] * n_new_agents
            some = [
                first_of_each_class(rows, y[rows], most, randomness.generator(seed, "shots", agent))
                for agent, (rows, most) in enumerate(zip(training, shots_of, strict=True))
            ]
            return IndexTable.from_lists(some, device)

        test = IndexTable.from_lists(scored, device)
        train = fine_tune = IndexTable.from_lists(training, device) if shots is None else held(shots, shots)
        if shots is not None and query == "disjoint":
            train = held(2 * shots, shots)
        strata = torch.from_numpy(y).to(device)
        if permuted_classes:
            y = rename_classes(y, parts, permuted_classes, n_classes, seed)
        if label_noise:
            y = mislabel(y, training, label_noise, n_classes, seed)
        rotations = np.zeros(len(parts))
        if max_rotation:
            x = x.clone()
            for agent, part in enumerate(parts):
                rng = randomness.generator(seed, "rotation", agent)
                rotations[agent] = rng.uniform(-max_rotation, max_rotation)
                x[part] = rotate(x[part], rotations[agent])
        agents = train, test, n_new_agents, rotations
        labels = torch.from_numpy(y).to(device) if n_classes else dataset.y.to(device)
        return cls(x.to(device), labels, dataset.classes, *agents, fine_tune=fine_tune, strata=strata)

    def in_precision(self, precision: str) -> "Federation":
        """Return the same agents, whose images come as "float32" or "float64"; they are stored once, as they are."""
        converted = copy.copy(self)
        converted.dtype = PRECISIONS[checks.choice("precision", precision, PRECISIONS)]
        return converted

    def only(self, agent: int, number: int | None = None) -> "Federation":
        """Return a federation that holds the samples of one agent and nobody else's, under its number or another."""
        number = agent if number is None else number
        tables = self._train, self._test, self._fine_tune
        rows = torch.cat([table.of(agent) for table in tables]).unique()
        train, test, fine_tune = (table.alone(agent, number, rows) for table in tables)
        samples, strata = (self.x[rows].to(self.dtype), self._targets(rows)), self._strata[rows]
        turned = np.append(np.zeros(number), self.rotations[agent])
        return Federation(*samples, self.classes, train, test, 0, turned, fine_tune=fine_tune, strata=strata)

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
            counts += torch.bincount(holder * classes + self.y[table.index], minlength=agents * classes)
        shown = counts.reshape(agents, classes).numpy(force=True)
        return pd.DataFrame(shown, columns=pd.Index(self.classes, name="class")).rename_axis("agent")

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
        return self._of(self._train, agent)

    def test(self, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (x, y) of the samples that agent is scored on, which it never fine-tunes on."""
        return self._of(self._test, agent)

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
            many = f"agent {alone[0]}" + f" and {len(alone) - 1} more" * (len(alone) > 1)
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
        With query="disjoint" an agent's samples are dealt anew in every local step into two halves, alike in their
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

    def _gather(self, table: IndexTable, agents: torch.Tensor, positions: torch.Tensor) -> Batch:
        """Return the batch of shape positions.shape = [agents, …]."""
        rows, counted = table.rows(agents, positions)
        return self.x[rows].to(self.dtype), self._targets(rows), counted.to(self.dtype) / counted.sum(-1, keepdim=True)

    def _everything(self, table: IndexTable, agents: torch.Tensor) -> Batch:
        width = max(width for width, _ in alike(agents, table.widths()))
        return self._gather(table, agents, torch.arange(width, device=agents.device).expand(len(agents), -1))

    def _of(self, table: IndexTable, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = table.of(checks.integer("agent", agent, 0, len(table.lengths) - 1))
        return self.x[rows].to(self.dtype), self._targets(rows)

    def _targets(self, rows: torch.Tensor) -> torch.Tensor:
        y = self.y[rows]
        return y.to(self.dtype) if y.is_floating_point() else y
