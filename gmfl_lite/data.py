"""Datasets as two tensors: images and labels. All that is known of one before it is loaded is one record."""

import gzip
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .basics import checks

Samples = tuple[torch.Tensor, torch.Tensor]
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLUTTER = ("Thumbs.db", "desktop.ini")
"""What Windows leaves in folders of images; other systems' clutter begins with a dot."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, checked once so that the rest of the library can trust them.

    Parameters
    ----------
    name : what figures and messages call it.
    x : float32 tensor [N, C, H, W]; the library's own datasets have pixels in [0, 1].
    y : int64 tensor [N], labels from 0 to len(classes) - 1.
    classes : the classes' names, in the order of the labels.

    Raises
    ------
    ValueError : a wrong shape or dtype, a value that is not finite, a label without a class.

    Examples
    --------
    >>> Dataset("two dots", torch.rand(2, 1, 1, 1), torch.tensor([0, 1]), ("dark", "light"))
    Dataset('two dots', 2 images of 1×1×1, 2 classes)
    """

    name: str
    x: torch.Tensor
    y: torch.Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        for field, tensor, dtype, dims in (("x", self.x, torch.float32, 4), ("y", self.y, torch.int64, 1)):
            if not isinstance(tensor, torch.Tensor) or tensor.dtype != dtype or tensor.ndim != dims:
                is_tensor = isinstance(tensor, torch.Tensor)
                found = f"{tensor.dtype} {list(tensor.shape)}" if is_tensor else type(tensor).__name__
                shape = {4: "[N, C, H, W]", 1: "[N]"}[dims]
                raise ValueError(f"Dataset {field}: must be a {dtype} tensor {shape}, got {found}")
        if len(self.x) != len(self.y) or len(self.x) == 0:
            raise ValueError(f"Dataset: x and y must be of one length above 0, got {len(self.x)} and {len(self.y)}")
        if self.x.numel() and not torch.stack(self.x.aminmax()).isfinite().all():  # without a copy as large as x
            raise ValueError("Dataset x: must be finite, but holds NaN or infinite values")
        if not self.classes or self.y.min() < 0 or self.y.max() >= len(self.classes):
            found = f"{self.y.min()} to {self.y.max()} with {len(self.classes)} classes"
            raise ValueError(f"Dataset y: labels must be from 0 to the number of classes less one, got {found}")

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.x.shape[1:]))
        return f"Dataset({self.name!r}, {len(self)} images of {size}, {len(self.classes)} classes)"


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """All there is to know of a dataset before it is loaded; `add_dataset` makes it a choice everywhere.

    Attributes
    ----------
    name : what load_dataset and Experiment's `dataset` call it.
    classes : the classes' names, in the order of the labels.
    read : (root, split, download) -> (x, y), as a Dataset holds them. `root` is the folder of downloaded files, `split`
        "train" or "test". A RuntimeError or an OSError means that the `files` are not there.
    small : whether it fits a small machine, such as Binder's; the explorer offers only those that do.
    files : paths below `root`, or absolute ones; any of them is there once the dataset is. Empty: it needs none.
    hint : a sentence that says how to get the files.
    """

    name: str
    classes: tuple[str, ...]
    read: Callable[[Path, str, bool], Samples]
    small: bool
    files: tuple[str, ...] = ()
    hint: str = "Put its files there."

    def __post_init__(self) -> None:
        right = {
            "name must be a word": self.name and _are_words((self.name,)),
            "classes must be a tuple of names": self.classes and _are_words(self.classes),
            "read must be a function of (root, split, download)": _takes_three(self.read),
            "small must be True or False": isinstance(self.small, bool),
            "files must be a tuple of paths": _are_words(self.files),
        }
        if not all(right.values()):
            raise ValueError(f"dataset {self.name!r}: " + "; ".join(what for what, holds in right.items() if not holds))

    def is_here(self, root: Path) -> bool:
        """Whether nothing needs to be downloaded."""
        return not self.files or any((root / file).exists() for file in self.files)


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


def load_dataset(name: str, root: str | Path | None = None, split: str = "train", download: bool = True) -> Dataset:
    """Load a dataset by name, with pixels in [0, 1].

    Parameters
    ----------
    name : "digits" (1,797 images of 8×8, part of scikit-learn: no download), "fashion-mnist", "mnist",
        "emnist" (balanced, 47 classes) or "cifar10" (these through torchvision, which checks what it downloads).
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
    """Read a folder of images, in the size, colours and classes of a dataset.

    Parameters
    ----------
    folder : holds a folder for every class that the agent has images of, named as in `like.classes`.
    like : the dataset; images are scaled to its height and width, and made grey where it is.
    invert : whether to exchange dark and light: pencil on paper becomes light on dark, as in digits.

    Raises
    ------
    ValueError : no such folder, a folder that is not the name of a class, fewer than two images, or a file that is no
        image or of a kind that cannot be read, such as HEIC.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in "37":
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("L", (20, 30), 255).save(Path(folder) / name / "first.png")
    ...     load_images(folder, like=load_dataset("digits")).y.tolist()
    [3, 7]
    """
    from PIL import Image, ImageOps  # as late as sklearn and torchvision

    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"images = {str(folder)!r}: must be a folder with a folder of images for every class")
    unknown = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in like.classes)
    if unknown:
        raise ValueError(f"{folder}: {', '.join(unknown)} must be among the classes, {', '.join(like.classes)}")
    channels, height, width = like.x.shape[1:]
    pixels, labels = [], []
    for label, name in enumerate(like.classes):
        for path in sorted((folder / name).glob("[!.]*")):
            if path.name in CLUTTER:
                continue
            try:
                with Image.open(path) as image:
                    upright = ImageOps.exif_transpose(image)  # telephones note how they were held
                    like_the_others = upright.convert("L" if channels == 1 else "RGB").resize((width, height))
            except OSError as error:
                advice = "save it as PNG or JPEG, or take it out of the folder"
                raise ValueError(f"{path} is not an image that can be read: {advice} ({error})") from error
            pixels.append(np.asarray(like_the_others, np.float32).reshape(height, width, channels) / 255)
            labels.append(label)
    if len(pixels) < 2:
        raise ValueError(f"{folder}: must hold at least 2 images, one to train on and one to score")
    x = torch.from_numpy(np.stack(pixels)).movedim(-1, 1).contiguous()
    return Dataset(folder.name, 1 - x if invert else x, torch.tensor(labels), like.classes)


def check_here(name: str) -> None:
    """Look whether `load_dataset(name)` would have to download, without loading anything.

    Raises
    ------
    FileNotFoundError : it would; the message says where to put the data.
    """
    if not DATASETS[name].is_here(_folder()):
        raise _not_here(DATASETS[name], _folder(), "is not downloaded here")


def _folder(root: str | Path | None = None) -> Path:
    return Path(root or os.environ.get("GMFL_LITE_DATA") or Path.home() / ".cache" / "gmfl_lite")


def _not_here(source: DatasetSource, root: Path, why: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{source.name} is not in {root} and {why}. {source.hint} Set GMFL_LITE_DATA or root to where the files are, "
        "or use dataset='digits', which needs none."
    )


def _digits(root: Path, split: str, download: bool) -> Samples:
    from sklearn.datasets import load_digits

    if split != "train":
        raise checks.refusal("split", split, "'train' for digits, which comes in one piece")
    bunch = load_digits()
    x = torch.from_numpy(bunch.images.astype(np.float32) / 16).unsqueeze(1)
    return x, torch.from_numpy(bunch.target.astype(np.int64))


def _from_torchvision(kind: str, **options: str) -> Callable[[Path, str, bool], Samples]:
    def load(root: Path, split: str, download: bool) -> Samples:
        # Imported here because it takes a second or two, and digits does not need it.
        from torchvision import datasets

        fetch = partial(getattr(datasets, kind), root, train=split == "train", **options)
        try:
            source = fetch()
        except RuntimeError:  # torchvision's word for "not found or corrupted"
            if not download:
                raise
            source = fetch(download=True)
        images = np.asarray(source.data)
        return _from_bytes(images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None], source.targets)

    return load


def _emnist(root: Path, split: str, download: bool) -> Samples:
    x, y = _from_torchvision("EMNIST", split="balanced")(root, split, download)
    return x.transpose(2, 3), y  # EMNIST's files hold every image transposed


def _fashion_mnist(root: Path, split: str, download: bool) -> Samples:
    downloaded, debian = (root / file for file in DATASETS["fashion-mnist"].files)
    if downloaded.exists() or not debian.exists():
        return _from_torchvision("FashionMNIST")(root, split, download)
    stem = {"train": "train", "test": "t10k"}[split]
    images = _read_idx(debian.with_name(f"{stem}-images-idx3-ubyte.gz"), header=16)
    labels = _read_idx(debian.with_name(f"{stem}-labels-idx1-ubyte.gz"), header=8)
    return _from_bytes(images.reshape(-1, 1, 28, 28), labels)


def _read_idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _from_bytes(images: np.ndarray, labels: Any) -> Samples:
    x = torch.from_numpy(images.astype(np.float32)).div_(255)
    return x, torch.from_numpy(np.asarray(labels).astype(np.int64))


_TORCHVISION = "Put torchvision's files there."
for _source in (
    DatasetSource(name="digits", classes=tuple("0123456789"), read=_digits, small=True),
    DatasetSource(
        name="fashion-mnist",
        classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
        read=_fashion_mnist,
        small=True,
        files=("FashionMNIST/raw/train-images-idx3-ubyte", f"{DEBIAN_FASHION_MNIST}/train-images-idx3-ubyte.gz"),
        hint=f"{_TORCHVISION} On Debian, `apt-get install dataset-fashion-mnist` brings it, too.",
    ),
    DatasetSource(
        name="mnist",
        classes=tuple("0123456789"),
        read=_from_torchvision("MNIST"),
        small=True,
        files=("MNIST/raw/train-images-idx3-ubyte",),
        hint=_TORCHVISION,
    ),
    DatasetSource(
        name="emnist",
        classes=tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
        read=_emnist,
        small=False,
        files=("EMNIST/raw/emnist-balanced-train-images-idx3-ubyte",),
        hint=_TORCHVISION,
    ),
    DatasetSource(
        name="cifar10",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        read=_from_torchvision("CIFAR10"),
        small=False,
        files=("cifar-10-batches-py/data_batch_1",),
        hint=_TORCHVISION,
    ),
):
    add_dataset(_source)
