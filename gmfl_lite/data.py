"""Datasets as two tensors: images and labels."""

import gzip
import os
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .basics import checks

DATASETS = ("digits", "fashion-mnist", "mnist", "emnist", "cifar10")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_FIRST_FILE = {
    "fashion-mnist": "FashionMNIST/raw/train-images-idx3-ubyte",
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
    "emnist": "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte",
    "cifar10": "cifar-10-batches-py/data_batch_1",
}
"""Of torchvision's files below the folder of data, one that is there once a dataset is."""
CLUTTER = ("Thumbs.db", "desktop.ini")
"""What Windows leaves in folders of images; other systems' clutter begins with a dot."""
FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


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
                found = (
                    f"{tensor.dtype} {list(tensor.shape)}"
                    if isinstance(tensor, torch.Tensor)
                    else type(tensor).__name__
                )
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
    if name == "digits":
        return _digits(split)
    if root is not None and not isinstance(root, (str, Path)):
        raise checks.refusal("root", root, "a folder's path")
    root = _folder(root)
    if name == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir() and not (root / _FIRST_FILE[name]).exists():
        return _debian_fashion_mnist(split)
    return _torchvision(name, root, split, download)


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
                    image = upright.convert("L" if channels == 1 else "RGB").resize((width, height))
            except OSError as error:
                advice = "save it as PNG or JPEG, or take it out of the folder"
                raise ValueError(f"{path} is not an image that can be read: {advice} ({error})") from error
            pixels.append(np.asarray(image, np.float32).reshape(height, width, channels) / 255)
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
    debian = name == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir()
    if name != "digits" and not debian and not (_folder() / _FIRST_FILE[name]).exists():
        raise _not_here(name, _folder(), "is not downloaded here")


def _folder(root: str | Path | None = None) -> Path:
    return Path(root or os.environ.get("GMFL_LITE_DATA") or Path.home() / ".cache" / "gmfl_lite")


def _not_here(name: str, root: Path, why: str) -> FileNotFoundError:
    hint = "; on Debian, `apt-get install dataset-fashion-mnist` brings it" if name == "fashion-mnist" else ""
    return FileNotFoundError(
        f"{name} is not in {root} and {why}. Put torchvision's files there, set "
        f"GMFL_LITE_DATA or root to where they are, or use dataset='digits', which needs none{hint}."
    )


def _digits(split: str) -> Dataset:
    from sklearn.datasets import load_digits

    if split != "train":
        raise checks.refusal("split", split, "'train' for digits, which comes in one piece")
    bunch = load_digits()
    x = torch.from_numpy(bunch.images.astype(np.float32) / 16).unsqueeze(1)
    return Dataset("digits", x, torch.from_numpy(bunch.target.astype(np.int64)), tuple("0123456789"))


def _debian_fashion_mnist(split: str) -> Dataset:
    stem = {"train": "train", "test": "t10k"}[split]
    images = _read_idx(DEBIAN_FASHION_MNIST / f"{stem}-images-idx3-ubyte.gz", header=16)
    labels = _read_idx(DEBIAN_FASHION_MNIST / f"{stem}-labels-idx1-ubyte.gz", header=8)
    return _from_bytes("fashion-mnist", images.reshape(-1, 1, 28, 28), labels, FASHION_CLASSES)


def _read_idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _torchvision(name: str, root: Path, split: str, download: bool) -> Dataset:
    # Imported here because it takes a second or two, and digits does not need it.
    import torchvision.datasets as tv

    train = split == "train"
    loaders = {
        "fashion-mnist": lambda fetch: tv.FashionMNIST(root, train, download=fetch),
        "mnist": lambda fetch: tv.MNIST(root, train, download=fetch),
        "emnist": lambda fetch: tv.EMNIST(root, "balanced", train=train, download=fetch),
        "cifar10": lambda fetch: tv.CIFAR10(root, train, download=fetch),
    }
    try:
        try:
            source = loaders[name](False)
        except RuntimeError:  # torchvision's word for "not found or corrupted"
            if not download:
                raise
            source = loaders[name](True)
    except (RuntimeError, urllib.error.URLError, OSError) as error:
        raise _not_here(name, root, f"could not be fetched ({error})") from error
    images = np.asarray(source.data)
    if name == "emnist":  # stored transposed
        images = images.swapaxes(1, 2)
    images = images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
    classes = FASHION_CLASSES if name == "fashion-mnist" else tuple(map(str, source.classes))
    if name == "mnist":
        classes = tuple("0123456789")
    return _from_bytes(name, images, np.asarray(source.targets), classes)


def _from_bytes(name: str, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Dataset:
    x = torch.from_numpy(images.astype(np.float32)).div_(255)
    return Dataset(name, x, torch.from_numpy(labels.astype(np.int64)), classes)
