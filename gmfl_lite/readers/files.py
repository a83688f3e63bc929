"""Datasets in files: scikit-learn's digits, torchvision's, and Debian's Fashion-MNIST."""

import gzip
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..basics import checks

Samples = tuple[torch.Tensor, torch.Tensor]
"""(x, y), as a Dataset holds them."""


def folder_of(package: str) -> Path | None:
    """Return where a package is installed, without importing it; None where it is not."""
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def digits(root: Path, split: str, download: bool) -> Samples:
    """Read the file of `sklearn.datasets.load_digits`: to import scikit-learn takes longer than a short run."""
    if split != "train":
        raise checks.refusal("split", split, "'train' for digits, which comes in one piece")
    folder = folder_of("sklearn")
    assert folder is not None  # it is always installed with the library
    table = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=np.float32)
    x = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8) / 16)
    return x, torch.from_numpy(table[:, -1].astype(np.int64))


def from_torchvision(kind: str, **options: str) -> Callable[[Path, str, bool], Samples]:
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
        return from_bytes(images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None], source.targets)

    return load


def emnist(root: Path, split: str, download: bool) -> Samples:
    x, y = from_torchvision("EMNIST", split="balanced")(root, split, download)
    return x.transpose(2, 3), y  # EMNIST's files hold every image transposed


def fashion_mnist(files: tuple[str, ...], root: Path, split: str, download: bool) -> Samples:
    """Read torchvision's or else Debian's files: the paths of the training images, below `root` or absolute."""
    downloaded, debian = (root / file for file in files)
    if downloaded.exists() or not debian.exists():
        return from_torchvision("FashionMNIST")(root, split, download)
    stem = {"train": "train", "test": "t10k"}[split]
    images = _read_idx(debian.with_name(f"{stem}-images-idx3-ubyte.gz"), header=16)
    labels = _read_idx(debian.with_name(f"{stem}-labels-idx1-ubyte.gz"), header=8)
    return from_bytes(images.reshape(-1, 1, 28, 28), labels)


def _read_idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def from_bytes(images: np.ndarray, labels: Any) -> Samples:
    x = torch.from_numpy(images.astype(np.float32)).div_(255)
    return x, torch.from_numpy(np.asarray(labels).astype(np.int64))
