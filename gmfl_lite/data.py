"""Datasets as two tensors: samples, and their labels or numbers; load one by name, or a folder of images."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .basics import checks
from .basics.storage import expanded
from .readers import DATASETS, DEBIAN_FASHION_MNIST, DatasetSource, add_dataset, images_in

__all__ = [
    "DATASETS", "DEBIAN_FASHION_MNIST", "Dataset", "DatasetSource", "add_dataset", "check_here", "load_dataset",
    "load_images", "loss_of_guessing", "make_agents", "outputs",
]  # fmt: skip


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with labels, or with numbers to predict, checked once so that the rest of the library can trust them.

    Parameters
    ----------
    name : its name in figures and messages.
    x : float32 tensor [N, …], or int64 for tokens; images are [N, C, H, W], the library's own with pixels in [0, 1].
    y : int64 tensor [N], labels from 0 to len(classes) - 1, or [N, …], one for each position of a sample (the next
        character); without classes floats [N, …], what to predict: numbers, or several labels with a loss of your own.
    classes : the classes' names, all different, in the order of the labels; None where y are numbers. Other types are
        converted to text: range(10) becomes "0" to "9".

    Raises
    ------
    ValueError : a wrong shape or dtype, a value that is not finite, a label without a class, two classes of one name.

    Examples
    --------
    >>> Dataset("two dots", torch.rand(2, 1, 1, 1), torch.tensor([0, 1]), ("dark", "light"))
    Dataset('two dots', 2 images of 1×1×1, 2 classes)
    >>> Dataset("a line", torch.rand(5, 1), torch.rand(5, 1))
    Dataset('a line', 5 samples of 1, 1 number to predict)
    """

    name: str
    x: torch.Tensor
    y: torch.Tensor
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", checks.class_names(self.classes))
        numbers = ("floating-point", FLOATS, "[N, outputs] where there are no classes", range(2, 10))
        labels = numbers if self.classes is None else ("torch.int64", (torch.int64,), "[N]", range(1, 10))
        samples = "torch.float32 or int64", (torch.float32, torch.int64), "[N, …], as images [N, C, H, W]", range(2, 10)
        for field, tensor, (kind, dtypes, shape, dims) in (("x", self.x, samples), ("y", self.y, labels)):
            if not isinstance(tensor, torch.Tensor) or tensor.dtype not in dtypes or tensor.ndim not in dims:
                is_tensor = isinstance(tensor, torch.Tensor)
                found = f"{tensor.dtype} {list(tensor.shape)}" if is_tensor else type(tensor).__name__
                raise ValueError(f"Dataset {field}: must be a {kind} tensor {shape}, got {found}")
        if len(self.x) != len(self.y) or len(self.x) == 0:
            raise ValueError(f"Dataset: x and y must be of one length above 0, got {len(self.x)} and {len(self.y)}")
        for field, tensor in (("x", self.x), ("y", self.y)):
            if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():  # without a copy as large as x
                raise ValueError(f"Dataset {field}: must be finite, but holds NaN or infinite values")
        if self.classes is None:
            if not self.y.numel():
                raise ValueError("Dataset y: must hold at least one number to predict for each sample, got none")
        elif not self.classes or self.y.min() < 0 or self.y.max() >= len(self.classes):
            found = f"{self.y.min()} to {self.y.max()} with {len(self.classes)} classes"
            raise ValueError(f"Dataset y: labels must be from 0 to the number of classes minus one, got {found}")

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.x.shape[1:]))
        samples = f"{len(self)} {'images' if self.x.ndim == 4 else 'samples'} of {size}"
        count = self.y[0].numel()
        numbers = f"{count} number{'s' * (count > 1)} to predict"
        asked = numbers if self.classes is None else f"{len(self.classes)} classes"
        return f"Dataset({self.name!r}, {samples}, {asked})"


def outputs(of: Any) -> int:
    """Return how many numbers a model gives for a sample of a Dataset or a Federation: one per class, or those of y.

    Raises
    ------
    ValueError : the library's own models do not fit: tokens, or y with more than one axis for a sample.
    """
    if not of.x.is_floating_point() or of.y.ndim != (2 if of.classes is None else 1):
        found = f"x {list(of.x.shape)} of {of.x.dtype} and y {list(of.y.shape)}"
        advice = "" if of.x.is_floating_point() else "; make x floats where it is no tokens"
        raise ValueError(f"model: give one of your own (model=…), the library's do not fit {found}{advice}")
    return of.y.shape[1] if of.classes is None else len(of.classes)


def loss_of_guessing(of: Any) -> float:
    """Return the loss of one who knows nothing of a sample: log of the number of classes, or the variance of y."""
    return math.log(len(of.classes)) if of.classes is not None else of.y.var(0, correction=0).mean().item()


def load_dataset(name: str, root: str | Path | None = None, split: str = "train", download: bool = True) -> Dataset:
    """Load a dataset by name, with pixels in [0, 1].

    Parameters
    ----------
    name : "digits" (1,797 images of 8×8, part of scikit-learn: no download), "fashion-mnist", "mnist",
        "emnist" (balanced, 47 classes), "cifar10" (these through torchvision, which checks what it downloads) or
        "sinusoids" (made: in an Experiment each agent has its own, here are those of 50).
    root : folder of downloaded files; by default the environment variable GMFL_LITE_DATA, else ~/.cache/gmfl_lite.
    split : "train" or "test". digits has "train" only: every agent splits its own data anyway.
    download : whether a missing dataset may be fetched.

    Raises
    ------
    ValueError : an unknown name or split.
    FileNotFoundError : the data are not here and could not be fetched; the message says where to put them.

    Examples
    --------
    >>> load_dataset("digits")
    Dataset('digits', 1797 images of 1×8×8, 10 classes)
    """
    checks.choice("dataset", name, DATASETS)
    checks.choice("split", split, ("train", "test"))
    if root is not None and not isinstance(root, (str, Path)):
        raise checks.refusal("root", root, "a folder's path")
    source, folder = DATASETS[name], _folder(root)
    try:
        x, y = source.read(folder, split, download)
    except (RuntimeError, OSError) as error:
        if not source.files:
            raise
        raise _not_here(source, folder, f"could not be fetched ({error})") from error
    return Dataset(name, x, y, source.classes)


def load_images(folder: str | Path, *, like: Dataset, invert: bool = False) -> Dataset:
    """Read a folder of images, in the size, colours and classes of a dataset; what is transparent becomes white paper.

    Parameters
    ----------
    folder : holds a folder for every class that the agent has images of, named as in `like.classes`.
    like : the dataset; images are scaled to its height and width, and made grey where it is.
    invert : whether to exchange dark and light: pencil on paper becomes light on dark, as in digits.

    Raises
    ------
    ValueError : no such folder, a folder that is not the name of a class, fewer than two images, one that is a flat
        colour, a link out of the folder, or a file that is no image or of a kind that cannot be read, such as HEIC.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in "37":
    ...         (Path(folder) / name).mkdir()
    ...         Image.linear_gradient("L").save(Path(folder) / name / "first.png")
    ...     load_images(folder, like=load_dataset("digits")).y.tolist()
    [3, 7]
    """
    if like.classes is None:
        raise checks.refusal("like", like, "a dataset of images with classes")
    folder = expanded(folder)
    x, y = images_in(folder, like.classes, tuple(like.x.shape[1:]))
    return Dataset(folder.name, 1 - x if invert else x, y, like.classes)


def make_agents(source: DatasetSource, n_agents: int, *, seed: int) -> tuple[Dataset, list[np.ndarray]]:
    """Make the samples of agents that have their own: the dataset of all, and who holds what."""
    own = [source.of_agent(seed, agent) for agent in range(n_agents)] if source.of_agent else []
    x, y = (torch.cat(tensors) for tensors in zip(*own, strict=True))
    parts = np.split(np.arange(len(y)), np.cumsum([len(numbers) for _, numbers in own])[:-1])
    return Dataset(source.name, x, y, source.classes), parts


def check_here(name: str) -> None:
    """Look whether `load_dataset(name)` would have to download, without loading anything.

    Raises
    ------
    FileNotFoundError : it would; the message says where to put the data.
    """
    if not DATASETS[name].is_here(_folder()):
        raise _not_here(DATASETS[name], _folder(), "is not downloaded here")


def _folder(root: str | Path | None = None) -> Path:
    return expanded(root or os.environ.get("GMFL_LITE_DATA") or "~/.cache/gmfl_lite")


def _not_here(source: DatasetSource, root: Path, why: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{source.name} is not in {root} and {why}. {source.hint} Set GMFL_LITE_DATA or root to where the files are, "
        "or use dataset='digits', which needs none."
    )
