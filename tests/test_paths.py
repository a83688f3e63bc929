"""Paths: ~ is the home folder wherever a path enters, and no folder of that name is made."""

import re
from pathlib import Path

import numpy as np
import pytest
from idx_files import write_dataset
from PIL import Image

import gmfl_lite as gl
from gmfl_lite import data
from gmfl_lite.basics import storage
from gmfl_lite.basics.growing_file import GrowingFile
from gmfl_lite.data import load_images

BASE = gl.Experiment(
    model="softmax", n_agents=8, n_new_agents=0, agents_per_round=2, rounds=2, eval_every=2, eval_steps=(0, 3)
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another one to work in, which stays empty."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for name in ("HOME", "USERPROFILE"):  # of Windows
        monkeypatch.setenv(name, str(folder))
    monkeypatch.delenv("GMFL_LITE_DATA", raising=False)
    monkeypatch.chdir(elsewhere)
    yield folder
    assert list(elsewhere.iterdir()) == []


def write_mnist(folder):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(30, 28, 28), dtype=np.uint8), (np.arange(30) % 10).astype(np.uint8)
    write_dataset(folder / "MNIST" / "raw", ("train", "t10k"), images, labels)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_result_is_saved_and_read(kind, home):
    result = gl.run(BASE, progress=False)
    result.save(kind("~/digits.result"))
    assert (home / "digits.result").is_file()
    assert gl.load_result(kind("~/digits.result")).experiment == BASE


def test_a_checkpoint_is_gone_on_from(home):
    gl.run(BASE, checkpoint="~/run", progress=False)
    assert [path.name for path in home.iterdir()] == ["run"]
    seen = []
    again = gl.run(BASE, checkpoint="~/run", progress=False, on_round=lambda number, rows: seen.append(number))
    assert (again.status, seen) == ("completed", [])
    with pytest.raises(ValueError, match="a path in a folder that exists"):
        gl.run(BASE, checkpoint="~/nowhere/run", progress=False)


def test_a_file_that_grows_lies_with_its_rows(home):
    file = GrowingFile("~/run", "history", ["round", "loss"], [(0, 1.0)])
    file.write({"done": 0}, {})
    assert sorted(path.name for path in home.iterdir()) == ["run", "run.history"]
    assert storage.read("~/run")[0] == {"done": 0, "history": {"round": [0], "loss": [1.0]}}


@pytest.mark.parametrize("compute", ["sweep", "tune"])
def test_finished_points_are_kept(compute, home):
    if compute == "sweep":
        gl.sweep({"nu": [0, 1]}, BASE, cache="~/caches/mine", progress=False)
    else:
        gl.tune(BASE, settings=["meta_lr"], validation_seeds=[1], trials=3, cache="~/caches/mine", progress=False)
    assert len(list((home / "caches" / "mine").glob("*.result"))) >= 2


@pytest.mark.parametrize("entrance", ["root", "a Path as root", "variable", "default"])
def test_a_dataset_is_found(entrance, home, monkeypatch):
    folder = home / (".cache/gmfl_lite" if entrance == "default" else "data")
    write_mnist(folder)
    root = {"root": "~/data", "a Path as root": Path("~/data")}.get(entrance)
    if entrance == "variable":
        monkeypatch.setenv("GMFL_LITE_DATA", "~/data")
    if root is None:
        data.check_here("mnist")
    assert len(gl.load_dataset("mnist", root=root, download=False)) == 30


def test_files_that_are_not_there_are_asked_for_where_they_belong(home):
    with pytest.raises(FileNotFoundError, match=re.escape(str(home / "data"))):
        gl.load_dataset("mnist", root="~/data", download=False)


def test_a_datasets_own_files_are_found(home):
    source = gl.data.DatasetSource(name="mine", classes=("a",), read=lambda root, split, download: None, small=True,
                                   files=("~/mine/x.bin",))  # fmt: skip
    assert not source.is_here(home)
    (home / "mine").mkdir()
    (home / "mine" / "x.bin").touch()
    assert source.is_here(Path("/somewhere"))


def test_own_images_are_found(home, digits):
    for name in "37":
        (home / "images" / name).mkdir(parents=True)
        Image.linear_gradient("L").save(home / "images" / name / "first.png")
    assert load_images("~/images", like=digits).y.tolist() == [3, 7]


def test_a_folder_that_merely_holds_the_sign_is_left_alone(tmp_path):
    assert storage.expanded(tmp_path / "~" / "x~") == tmp_path / "~" / "x~"
    assert storage.expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
