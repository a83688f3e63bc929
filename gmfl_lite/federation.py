"""The agents of a run on one device: one dataset, and which of its samples each agent trains and is scored on."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from .basics import checks, randomness
from .basics.devices import PRECISIONS, checked_device
from .basics.shifts import rename_classes, rotate
from .basics.whole_numbers import stratified_split
from .data import Dataset

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Images, labels and weights; the weights of an agent's batch sum to one, padding has weight zero."""


@dataclass(frozen=True, eq=False)
class IndexTable:
    """Which rows of the dataset each agent holds: int64 [agents, width], padded, and how many of them count."""

    index: torch.Tensor
    sizes: torch.Tensor

    @classmethod
    def from_lists(cls, lists: Sequence[np.ndarray], device: torch.device) -> "IndexTable":
        sizes = np.array([len(rows) for rows in lists])
        index = np.zeros((len(lists), sizes.max()), np.int64)
        index[np.arange(index.shape[1]) < sizes[:, None]] = np.concatenate(lists)
        return cls(torch.from_numpy(index).to(device), torch.from_numpy(sizes).to(device))

    @property
    def width(self) -> int:
        return self.index.shape[1]


class Federation:
    """Agents with private data on one device; make one with `Federation.from_partition`.

    Attributes
    ----------
    n_agents, n_new_agents : agents that train, and agents that are only scored; they are numbered in this order.
    sizes : integers [n_agents + n_new_agents], each agent's samples, train and test together.
    label_counts : DataFrame agents × classes, what each agent holds under the names it uses itself.
    classes : the classes' names.
    groups : {"trained": agents, "new": agents}, int64 tensors; "new" only if there are any.
    rotations : degrees [n_agents + n_new_agents] by which each agent's images are turned.
    dtype : of the images that agents get; see `in_precision`.
    """

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        classes: tuple[str, ...],
        train: IndexTable,
        test: IndexTable,
        n_new_agents: int,
        rotations: np.ndarray,
    ) -> None:
        self.x, self.y, self.classes, self.dtype = x, y, classes, x.dtype
        self.rotations = rotations
        self._train, self._test = train, test
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
        seed : of the split and the shifts.
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
        parts = _checked_parts(parts, len(dataset))
        n_new_agents = checks.integer("n_new_agents", n_new_agents, 0, len(parts) - 1)
        test_fraction = checks.number("test_fraction", test_fraction, 0, 1, above=True)
        permuted_classes = checks.integer("permuted_classes", permuted_classes, 0, len(dataset.classes))
        if permuted_classes == 1:
            raise checks.refusal("permuted_classes", 1, "0 or at least 2: one class alone keeps its name")
        max_rotation = checks.number("max_rotation", max_rotation, 0, 180)
        seed = checks.integer("seed", seed, 0)
        device = checked_device(device)

        x, y = dataset.x, dataset.y.numpy(force=True)
        halves = [
            stratified_split(part, y[part], test_fraction, randomness.generator(seed, "test split", agent))
            for agent, part in enumerate(parts)
        ]
        train, test = (IndexTable.from_lists(lists, device) for lists in zip(*halves, strict=True))
        if permuted_classes:
            y = rename_classes(y, parts, permuted_classes, len(dataset.classes), seed)
        rotations = np.zeros(len(parts))
        if max_rotation:
            x = x.clone()
            for agent, part in enumerate(parts):
                rng = randomness.generator(seed, "rotation", agent)
                rotations[agent] = rng.uniform(-max_rotation, max_rotation)
                x[part] = rotate(x[part], rotations[agent])
        return cls(x.to(device), torch.from_numpy(y).to(device), dataset.classes, train, test, n_new_agents, rotations)

    def in_precision(self, precision: str) -> "Federation":
        """Return the same agents, whose images come as "float32" or "float64"; they are stored once, as they are."""
        converted = copy.copy(self)
        converted.dtype = PRECISIONS[checks.choice("precision", precision, PRECISIONS)]
        return converted

    @property
    def sizes(self) -> np.ndarray:
        return (self._train.sizes + self._test.sizes).numpy(force=True)

    @property
    def train_sizes(self) -> torch.Tensor:
        """How many samples each agent trains on: int64 [agents]."""
        return self._train.sizes

    @property
    def label_counts(self) -> pd.DataFrame:
        counts = [
            torch.bincount(torch.cat([self.train(i)[1], self.test(i)[1]]), minlength=len(self.classes)).tolist()
            for i in range(len(self._train.sizes))
        ]
        return pd.DataFrame(counts, columns=pd.Index(self.classes, name="class")).rename_axis("agent")

    @property
    def groups(self) -> dict[str, torch.Tensor]:
        agents = torch.arange(self.n_agents + self.n_new_agents, device=self.x.device)
        groups = {"trained": agents[: self.n_agents], "new": agents[self.n_agents :]}
        return {name: members for name, members in groups.items() if len(members)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all that makes up the agents, by name."""
        tables = {"train": self._train, "test": self._test}
        rows = {f"{half} {part}": getattr(table, part) for half, table in tables.items() for part in ("index", "sizes")}
        return {"x": self.x, "y": self.y, **rows}

    def train(self, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (x, y) of the samples that agent fine-tunes on: [samples, C, H, W] and [samples]."""
        return self._of(self._train, agent)

    def test(self, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (x, y) of the samples that agent is scored on, which it never fine-tunes on."""
        return self._of(self._test, agent)

    def train_sets(self, agents: torch.Tensor) -> Batch:
        """Return all training samples of several agents as one padded batch: [agents, width, …]."""
        return self._everything(self._train, agents)

    def test_sets(self, agents: torch.Tensor) -> Batch:
        """Return all scored samples of several agents as one padded batch: [agents, width, …]."""
        return self._everything(self._test, agents)

    def batches(
        self, agents: torch.Tensor, *, nu: int, local_steps: int, batch_size: int | None, seed: int, round: int
    ) -> list[tuple[list[Batch], Batch]]:
        """Return (support, query) for every local step: ν batches to fine-tune on, one to score after them.

        Every batch holds min(batch_size, samples) distinct samples of each agent, uniformly drawn and independent of
        the other batches: an agent with fewer samples than `batch_size` brings all it has. None is the full batch.
        Tensors are [agents, batch, …]. What is drawn is a function of (seed, round, agent, local step, batch number),
        and the query comes first: runs with another ν see the same query and share their first support batches.
        """
        width = self._train.width
        batch_size = min(batch_size or width, width)
        if batch_size == width:
            whole = self.train_sets(agents)
            return [([whole] * nu, whole)] * local_steps
        keys = randomness.keys(seed, "batches", round, agents)[:, None, None]
        steps, numbers = (torch.arange(n, device=agents.device) for n in (local_steps, nu + 1))
        keys = randomness.spawn(randomness.spawn(keys, steps[:, None]), numbers)
        sizes = self._train.sizes[agents][:, None, None]
        drawn = self._gather(self._train, agents, randomness.choose(keys, sizes, batch_size, width))
        dealt: list[tuple[list[Batch], Batch]] = []
        for step in zip(*(tensor.unbind(1) for tensor in drawn), strict=True):
            query, *support = zip(*(tensor.unbind(1) for tensor in step), strict=True)
            dealt.append((support, query))
        return dealt

    def _gather(self, table: IndexTable, agents: torch.Tensor, positions: torch.Tensor) -> Batch:
        """Return the batch of shape positions.shape = [agents, …]."""
        rows = table.index[agents].gather(1, positions.flatten(1)).reshape(positions.shape)
        sizes = table.sizes[agents].reshape(-1, *[1] * (positions.ndim - 1))
        counted = (positions < sizes).to(self.dtype)
        return self.x[rows].to(self.dtype), self.y[rows], counted / sizes.clamp(max=positions.shape[-1])

    def _everything(self, table: IndexTable, agents: torch.Tensor) -> Batch:
        return self._gather(table, agents, torch.arange(table.width, device=agents.device).expand(len(agents), -1))

    def _of(self, table: IndexTable, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        agent = checks.integer("agent", agent, 0, len(table.sizes) - 1)
        rows = table.index[agent, : table.sizes[agent]]
        return self.x[rows].to(self.dtype), self.y[rows]


def _checked_parts(parts: Sequence[np.ndarray], n_samples: int) -> list[np.ndarray]:
    if not isinstance(parts, (list, tuple, np.ndarray)) or not len(parts):
        raise checks.refusal("parts", parts, "a list that holds at least one agent's indices")
    parts = [checks.labels(f"parts[{agent}]", part) for agent, part in enumerate(parts)]
    for agent, part in enumerate(parts):
        if len(part) < 2:
            raise ValueError(f"parts[{agent}]: must hold at least 2 samples, one to train on and one to score")
        if part.max() >= n_samples:
            raise ValueError(f"parts[{agent}]: index {part.max()} is beyond the dataset's {n_samples} samples")
    times = np.bincount(np.concatenate(parts))
    if times.max() > 1:
        raise ValueError(f"parts: must be disjoint, but sample {times.argmax()} is held {times.max()} times")
    return parts
