"""Datasets: real images of both kinds, and refusals in the user's words."""

import dataclasses
import gzip
import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision
from idx_files import write_dataset
from sklearn.datasets import load_digits

import gmfl_lite as gl
from gmfl_lite import data

needs_fashion = pytest.mark.skipif(
    not data.DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def test_digits_are_scikit_learns_images_scaled_to_one(digits):
    """scikit-learn itself, whose import takes seconds, reads the same file."""
    assert digits.x.shape == (1797, 1, 8, 8)
    assert torch.equal(digits.x[:, 0], torch.from_numpy(load_digits().images / 16).float())
    assert digits.y.tolist() == load_digits().target.tolist()


@needs_fashion
@pytest.mark.parametrize(("split", "stem", "n"), [("train", "train", 60_000), ("test", "t10k", 10_000)])
def test_fashion_mnist_is_debians_bytes(split, stem, n, monkeypatch, tmp_path):
    dataset = gl.load_dataset("fashion-mnist", root=tmp_path, split=split)
    assert dataset.x.shape == (n, 1, 28, 28)
    assert torch.bincount(dataset.y).tolist() == [n // 10] * 10
    with gzip.open(data.DEBIAN_FASHION_MNIST / f"{stem}-images-idx3-ubyte.gz") as file:
        file.seek(16 + 784 * 77)
        picture = np.frombuffer(file.read(784), np.uint8)
    assert torch.equal((dataset.x[77] * 255).round().flatten(), torch.from_numpy(picture.astype(np.float32)))


@pytest.mark.parametrize(("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_torchvisions_files_are_read_where_root_says(name, folder, tmp_path, rng, monkeypatch):
    images = rng.integers(256, size=(30, 28, 28), dtype=np.uint8)
    labels = (np.arange(30) % 10).astype(np.uint8)
    write_dataset(tmp_path / folder / "raw", ("train", "t10k"), images, labels)
    monkeypatch.setenv("GMFL_LITE_DATA", str(tmp_path))
    dataset = gl.load_dataset(name, download=False)
    assert torch.equal(dataset.x[:, 0], torch.from_numpy(images).float() / 255)
    assert dataset.y.tolist() == labels.tolist()
    assert len(dataset.classes) == 10


@needs_fashion
def test_a_download_that_failed_does_not_hide_debians_package(tmp_path):
    (tmp_path / "FashionMNIST" / "raw").mkdir(parents=True)
    assert len(gl.load_dataset("fashion-mnist", root=tmp_path, download=False)) == 60_000


def test_debians_files_are_read_where_torchvisions_are_not(tmp_path, rng, monkeypatch):
    images = rng.integers(256, size=(20, 28, 28), dtype=np.uint8)
    write_dataset(tmp_path / "debian", ("train", "t10k"), images, np.arange(20, dtype=np.uint8) % 10)
    for path in (tmp_path / "debian").iterdir():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    source = data.DATASETS["fashion-mnist"]
    files = (source.files[0], str(tmp_path / "debian" / "train-images-idx3-ubyte.gz"))
    monkeypatch.setitem(data.DATASETS, "fashion-mnist", dataclasses.replace(source, files=files))
    monkeypatch.setenv("GMFL_LITE_DATA", str(tmp_path))
    data.check_here("fashion-mnist")
    dataset = gl.load_dataset("fashion-mnist", download=False)
    assert torch.equal(dataset.x[:, 0], torch.from_numpy(images).float() / 255)
    assert (dataset.y.tolist(), dataset.classes[9]) == ([*range(10)] * 2, "boot")


def test_emnist_is_read_upright(tmp_path, rng):
    """EMNIST's files hold every image transposed."""
    images = rng.integers(256, size=(47, 28, 28), dtype=np.uint8)
    halves = ("emnist-balanced-train", "emnist-balanced-test")
    write_dataset(tmp_path / "EMNIST" / "raw", halves, images, np.arange(47, dtype=np.uint8))
    dataset = gl.load_dataset("emnist", root=tmp_path, download=False)
    assert torch.equal(dataset.x[:, 0], torch.from_numpy(images.swapaxes(1, 2).copy()).float() / 255)
    assert dataset.classes == tuple(torchvision.datasets.EMNIST.classes_split_dict["balanced"])


def test_cifar10_is_read_from_its_archives_files(tmp_path, rng, monkeypatch):
    """The real format: pickled batches of rows of 3 × 1024 bytes; torchvision checks their checksums, here ours."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = rng.integers(256, size=(6, 20, 3, 32, 32), dtype=np.uint8)

    def store(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    sums = [
        store(name, {"data": part.reshape(20, -1), "labels": list(range(10)) * 2})
        for name, part in zip(names, images, strict=True)
    ]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = store("batches.meta", {"label_names": classes})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    where = {"root": tmp_path, "download": False}
    train, test = (gl.load_dataset("cifar10", split=split, **where) for split in ("train", "test"))
    assert torch.equal(train.x, torch.from_numpy(images[:5].reshape(-1, 3, 32, 32)).float() / 255)
    assert torch.equal(test.x, torch.from_numpy(images[5]).float() / 255)
    assert train.classes == tuple(classes)
    assert train.y.tolist() == list(range(10)) * 10
    (folder / "data_batch_3").write_bytes(b"spoiled")
    with pytest.raises(FileNotFoundError, match="corrupted"):
        gl.load_dataset("cifar10", **where)


def test_missing_data_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mnist is not in .*GMFL_LITE_DATA.*digits"):
        gl.load_dataset("mnist", root=tmp_path, download=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digit"}, r"dataset = 'digit'.*did you mean 'digits'"),
        ({"name": "digits", "split": "tets"}, r"split = 'tets'.*'train', 'test'"),
        ({"name": "digits", "split": "test"}, "'train' for digits"),
        ({"name": None}, "dataset = None"),
        ({"name": "mnist", "root": 5}, "root = 5"),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        gl.load_dataset(**arguments)


X, Y = torch.rand(4, 1, 2, 2, generator=torch.Generator()), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("x", "y", "classes", "message"),
    [
        (X.double(), Y, "ab", "x: must be a torch.float32"),
        (X[:, 0, 0, 0], Y, "ab", r"\[N, …\], as images \[N, C, H, W\]"),
        (X.numpy(), Y, "ab", "ndarray"),
        (X, Y.int(), "ab", "y: must be a torch.int64"),
        (X[:3], Y, "ab", "3 and 4"),
        (X / 0, Y, "ab", "finite"),
        (X, Y + 1, "ab", "1 to 2 with 2 classes"),
        (X, Y - 1, "ab", "-1 to 0"),
        (X, Y, "", "0 classes"),
    ],
)
def test_datasets_own_checks(x, y, classes, message):
    with pytest.raises(ValueError, match=message):
        gl.Dataset("mine", x, y, tuple(classes))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "cat"), "labels 0 and 1 are both 'cat'"),
        (("cat", "dog", "cat"), "labels 0 and 2 are both 'cat'"),
        ((1, "1"), "labels 0 and 1 are both '1'"),
        ((None, "None"), "labels 0 and 1 are both 'None'"),
        (2, r"classes = 2: must be the names of the classes in the order of their labels, such as range\(10\)"),
        ({"cat", "dog"}, "in the order of their labels"),
        ({0: "cat", 1: "dog"}, "in the order of their labels"),
    ],
)
def test_classes_have_different_names_in_an_order(classes, message):
    with pytest.raises(ValueError, match=message):
        gl.Dataset("mine", X, Y, classes)
