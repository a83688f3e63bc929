"""What is known of a dataset before it is loaded, as one record; and all that can be asked for by name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..basics import checks
from ..basics.storage import expanded
from .files import Samples, digits, emnist, fashion_mnist, from_torchvision
from .made import sinusoid, sinusoids

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """All there is to know of a dataset before it is loaded; `add_dataset` makes it a choice everywhere.

    Attributes
    ----------
    name : what load_dataset and Experiment's `dataset` call it.
    classes : the classes' names, in the order of the labels; None where y are numbers.
    read : (root, split, download) -> (x, y), as a Dataset holds them. `root` is the folder of downloaded files, `split`
        "train" or "test". A RuntimeError or an OSError means that the `files` are not there.
    small : whether it fits a small machine, such as Binder's; the explorer offers only those that do.
    files : paths below `root`, or absolute ones; any of them is there once the dataset is. Empty: it needs none.
    hint : a sentence that says how to get the files.
    shape : of a sample, where that is known before it is loaded.
    of_agent : (seed, agent) -> that agent's own (x, y), where nothing is dealt out.
    """

    name: str
    classes: tuple[str, ...] | None
    read: Callable[[Path, str, bool], Samples]
    small: bool
    files: tuple[str, ...] = ()
    hint: str = "Put its files there."
    shape: tuple[int, ...] | None = None
    of_agent: Callable[[int, int], Samples] | None = None

    def __post_init__(self) -> None:
        right = {
            "name must be a word": self.name and _are_words((self.name,)),
            "classes must be a tuple of names": self.classes is None or (self.classes and _are_words(self.classes)),
            "read must be a function of (root, split, download)": _takes_three(self.read),
            "small must be True or False": isinstance(self.small, bool),
            "files must be a tuple of paths": _are_words(self.files),
        }
        if not all(right.values()):
            wrong = "; ".join(what for what, holds in right.items() if not holds)
            raise ValueError(f"dataset {checks.shown(self.name)}: {wrong}")

    def misfits(self, settings: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with settings that ask for classes or images, where a dataset has none."""
        problems = []
        if self.classes is not None:
            for name in ("permuted_classes", "classes_per_agent"):
                if settings[name] > (most := len(self.classes)):
                    problems.append(f"{name} = {settings[name]}: must be at most {most}, the classes of {self.name}")
        unfit = dict.fromkeys(("permuted_classes", "label_noise"), "has no classes") if self.classes is None else {}
        if self.shape is not None and len(self.shape) != 3:
            unfit["max_rotation"] = "holds no images"
        wrong = {name: why for name, why in unfit.items() if settings[name]}
        return problems + [f"{name} = {settings[name]}: must be 0, as {self.name} {why}" for name, why in wrong.items()]

    def is_here(self, root: Path) -> bool:
        """Whether nothing needs to be downloaded."""
        return not self.files or any((root / expanded(file)).exists() for file in self.files)


def _are_words(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(word, str) for word in value)


def _takes_three(read: Callable[..., Any]) -> bool:
    try:
        return bool(inspect.signature(read).bind("root", "split", "download"))
    except (TypeError, ValueError):
        return False


DATASETS: dict[str, DatasetSource] = {}
"""Every dataset that can be asked for by name."""


def add_dataset(source: DatasetSource) -> None:
    """Make a dataset a choice in load_dataset, in Experiment and, if it is small, in the explorer.

    Processes that a sweep starts know it if they import the module that adds it.

    Raises
    ------
    ValueError : the name is taken, or `source` is not a DatasetSource.

    Examples
    --------
    >>> import torch
    >>> from gmfl_lite.data import load_dataset
    >>> two_dots = lambda root, split, download: (torch.tensor([[[[0.0]]], [[[1.0]]]]), torch.tensor([0, 1]))
    >>> add_dataset(DatasetSource(name="two dots", classes=("dark", "light"), read=two_dots, small=True))
    >>> load_dataset("two dots")
    Dataset('two dots', 2 images of 1×1×1, 2 classes)
    >>> del DATASETS["two dots"]
    """
    if not isinstance(source, DatasetSource):
        raise checks.refusal("source", source, "a DatasetSource")
    if source.name in DATASETS:
        raise ValueError(f"dataset {source.name!r}: there is one of this name already")
    DATASETS[source.name] = source


_TORCHVISION = "Put torchvision's files there."
for _source in (
    DatasetSource(name="digits", classes=tuple("0123456789"), read=digits, small=True),
    DatasetSource(
        name="fashion-mnist",
        classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
        read=lambda *asked: fashion_mnist(DATASETS["fashion-mnist"].files, *asked),
        small=True,
        files=("FashionMNIST/raw/train-images-idx3-ubyte", f"{DEBIAN_FASHION_MNIST}/train-images-idx3-ubyte.gz"),
        hint=f"{_TORCHVISION} On Debian, `apt-get install dataset-fashion-mnist` brings it, too.",
    ),
    DatasetSource(
        name="mnist",
        classes=tuple("0123456789"),
        read=from_torchvision("MNIST"),
        small=True,
        files=("MNIST/raw/train-images-idx3-ubyte",),
        hint=_TORCHVISION,
    ),
    DatasetSource(
        name="emnist",
        classes=tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
        read=emnist,
        small=False,
        files=("EMNIST/raw/emnist-balanced-train-images-idx3-ubyte",),
        hint=_TORCHVISION,
    ),
    DatasetSource(
        name="cifar10",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        read=from_torchvision("CIFAR10"),
        small=False,
        files=("cifar-10-batches-py/data_batch_1",),
        hint=_TORCHVISION,
    ),
    DatasetSource(name="sinusoids", classes=None, read=sinusoids, small=True, shape=(1,), of_agent=sinusoid),
):
    add_dataset(_source)
