"""The agents of a run, made of a dataset that is dealt out, of what each of them holds, or of a table."""

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..basics import checks, randomness
from ..basics.dealing import few_shots, split
from ..basics.devices import checked_device
from ..basics.ragged import IndexTable
from ..basics.shifts import mislabel, rename_classes, rotate
from ..data import Dataset
from ..readers import NATURAL, Gathered, from_agents, from_frame, read_natural
from .agents import QUERIES, Agents


class Federation(Agents):
    """Agents with private data on one device; make one with `from_partition`, `from_agents` or `from_frame`.

    Attributes
    ----------
    n_agents, n_new_agents : agents that train, and agents that are only scored; they are numbered in this order.
    sizes : integers [n_agents + n_new_agents], each agent's samples, train and test together.
    label_counts : DataFrame agents × classes, what each agent holds under the names it uses itself.
    classes : the classes' names; None where y are numbers to predict.
    name : of the data.
    names : the agents' names, where they have any; `name_of` gives each its name or its number.
    groups : {"trained": agents, "new": agents}, int64 tensors; "new" only if there are any.
    rotations : degrees [n_agents + n_new_agents] by which each agent's images are turned.
    dtype : of the images that agents get; see `in_precision`.
    made_for : the settings of the experiment that it was built for, if any (`build_federation`).
    """

    @classmethod
    def from_partition(
        cls,
        dataset: Dataset,
        parts: Sequence[np.ndarray],
        *,
        n_new_agents: int = 0,
        test_fraction: float = 0.25,
        scored: Sequence[np.ndarray] | None = None,
        names: Sequence[str] | None = None,
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
        scored : the samples that each agent is scored on, one index array an agent, instead of a test_fraction of its
            part: an agent that comes with a split of its own keeps it.
        names : the agents', to be shown; without any, they are numbered.
        permuted_classes : each agent gives this many classes other names by its own permutation; 0 or at least 2
            (concept shift).
        max_rotation : each agent's images are turned by its own angle, drawn from ± max_rotation degrees (feature
            shift).
        shots : each agent trains, and fine-tunes, on at most this many samples of each class (of all, where y are
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
        given = None if scored is None else checks.disjoint(scored, len(dataset), least=1, name="scored")
        parts = checks.disjoint(parts, len(dataset), least=2 if given is None else 1)
        if given is not None:
            if len(given) != len(parts):
                raise checks.refusal("scored", f"{len(given)} lists", f"one for each of {len(parts)} agents")
            checks.disjoint([*parts, *given], len(dataset), least=1, name="parts and scored")
        if names is not None:
            names = tuple(map(str, names))
            if len(names) != len(parts):
                raise checks.refusal("names", f"{len(names)} names", f"one for each of {len(parts)} agents")
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise ValueError(f"names: {twice[0]!r} is the name of two agents; give each one of its own")
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
        x, y = dataset.x, dataset.y.numpy(force=True)
        in_classes = n_classes > 0 and y.ndim == 1  # of one label a sample, not of one for each of its positions
        for name, value in (("permuted_classes", permuted_classes), ("label_noise", label_noise)):
            if value and not in_classes:
                raise checks.refusal(name, value, "0: samples have no class of their own")
        strata_of = y if in_classes else np.zeros(len(dataset), np.int64)
        if given is None:
            training, tested = split(parts, strata_of, test_fraction, seed)
        else:
            training, tested = parts, given
            parts = [np.concatenate(both) for both in zip(parts, given, strict=True)]
        trained, tuned = few_shots(training, strata_of, shots, n_new_agents, query == "disjoint", seed)
        test, train = (IndexTable.from_lists(rows, device) for rows in (tested, trained))
        fine_tune = train if tuned is trained else IndexTable.from_lists(tuned, device)
        strata = torch.from_numpy(strata_of).to(device)
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
        labels = torch.from_numpy(y).to(device)
        made = cls(x.to(device), labels, dataset.classes, *agents, fine_tune=fine_tune, strata=strata, names=names)
        made.name = dataset.name
        return made

    @classmethod
    def from_agents(
        cls, agents: Any, *, test: Any = None, classes: Sequence[Any] | None = None, name: str = "own", **how: Any
    ) -> "Federation":
        """Make every (x, y) an agent; samples may have any shape, and labels any type.

        Parameters
        ----------
        agents : {name: (x, y)}, or a list of pairs; arrays or tensors with a first axis of samples. Whole numbers in x
            are tokens and stay so. Floats in y are numbers to predict, [n] or [n, …]; all else are labels, one for each
            sample or each of its positions.
        test : what the agents are scored on, in the same form, kept as it is; without, a part of each agent's samples.
        classes : the labels in the order that is wanted, or the names of labels 0, 1, …; by default those that occur.
        name : what figures and messages call the data.
        how : n_new_agents (the last ones), test_fraction, shots, query, label_noise, permuted_classes, max_rotation,
            seed and device, as in `from_partition`.

        Raises
        ------
        ValueError : naming the agent or the argument, what is wrong, and what to change.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> days = {name: (rng.normal(size=(20, 3)), ["sun", "rain"] * 10) for name in ("Ada", "Ben", "Cleo")}
        >>> federation = Federation.from_agents(days, n_new_agents=1)
        >>> federation.names, federation.classes, federation.train(0)[0].shape
        (('Ada', 'Ben', 'Cleo'), ('rain', 'sun'), torch.Size([15, 3]))
        """
        return cls._of(from_agents(agents, test, classes), name, how)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        agent: Any,
        label: Any,
        features: Sequence[Any] | None = None,
        numbers: bool = False,
        classes: Sequence[Any] | None = None,
        name: str = "own",
        **how: Any,
    ) -> "Federation":
        """Make agents of a table with one row for each sample, as `pandas.read_csv` gives it.

        Parameters
        ----------
        frame : the table; agents come in the order in which they first appear.
        agent, label : the columns that say whose a sample is, and what is to be predicted. Labels of any type are
            classes; with `numbers` they are floats to predict, of one column or a list of columns.
        features : the columns to predict from, numbers; by default all others.
        classes, name, how : as in `from_agents`.

        Raises
        ------
        ValueError : naming the column or the argument, what is wrong, and what to change.

        Examples
        --------
        >>> table = pd.DataFrame({"who": ["a", "b"] * 8, "cm": range(16), "kg": range(16), "plays": ["yes", "no"] * 8})
        >>> Federation.from_frame(table, agent="who", label="plays", features=["cm", "kg"]).names
        ('a', 'b')

        From a CSV file to the panel:

        >>> import io, gmfl_lite as gl
        >>> file = io.StringIO("who,cm,kg,plays\\n" + "Ada,170,60,yes\\nBen,180,80,no\\nAda,171,61,no\\n" * 8)
        >>> people = gl.Federation.from_frame(pd.read_csv(file), agent="who", label="plays")
        >>> panel = gl.Explorer(gl.Experiment(rounds=5), federation=people)
        >>> panel.set(nu=1)
        >>> panel.wait().agents["name"].unique().tolist()
        ['Ada', 'Ben']
        >>> panel.close()
        """
        return cls._of(from_frame(frame, agent, label, features, numbers, classes), name, how)

    @classmethod
    def _of(cls, found: Gathered, name: str, how: dict[str, Any]) -> "Federation":
        few = [len(rows) for rows in found.train].index(1) if any(len(rows) == 1 for rows in found.train) else None
        if few is not None and found.test is None:
            who = few if found.names is None else repr(found.names[few])
            raise ValueError(f"agent {who}: holds one sample, and needs two, one to train on and one to be scored on")
        taken = inspect.signature(cls.from_partition).parameters.keys() - {"dataset", "parts", "scored", "names"}
        for argument in how:
            if argument not in taken:
                raise TypeError(f"{argument} is not an argument here{checks.nearest(argument, taken)}")
        dataset = Dataset(name, found.x, found.y, found.classes)
        return cls.from_partition(dataset, found.train, scored=found.test, names=found.names, **how)

    @classmethod
    def of_one(cls, x: torch.Tensor, y: torch.Tensor, n_classes: int | None) -> "Federation":
        """Return a federation of a single agent, which fine-tunes, and is scored, on all of its samples."""
        classes = None if n_classes is None else tuple(map(str, range(n_classes)))
        dataset = Dataset("own", x, y, classes)
        all_rows = IndexTable.from_lists([np.arange(len(dataset))], dataset.x.device)
        return cls(dataset.x, dataset.y, classes, all_rows, all_rows, 0, np.zeros(1))


def load_federation(name: str, *, test_fraction: float = 0.25, **how: Any) -> Federation:
    """Load a natural federation: people, or roles, each with samples of its own.

    Parameters
    ----------
    name : "watch": seven exercises of the shoulder, done by ten people who wear a watch, windows of two seconds of six
        signals [6, 100] (Burns et al., 2018; needs `pip install 'gmfl_lite[people]'`). "plays": thirteen of
        Shakespeare's characters, windows of 20 characters and the next character at each place; a model of your own
        (tokens) is needed.
    test_fraction : the part of each recording, or speech, that is scored: its end.
    how : n_new_agents (the last ones), shots, query, seed and device, as in `Federation.from_partition`.

    Raises
    ------
    ValueError : an unknown name, or a value that is not allowed.
    ImportError : the package that holds the data is not installed; the message says how to install it.

    Examples
    --------
    >>> federation = load_federation("plays", n_new_agents=3)
    >>> federation.names[:3], federation.n_agents
    (('Antony', 'Hamlet', 'Henry V'), 10)
    """
    found = read_natural(checks.choice("name", name, NATURAL))
    train, test = found.in_time(test_fraction)
    return Federation.from_agents(train, test=test, classes=found.classes, name=name, **how)
