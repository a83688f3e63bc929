"""A dataset that is added from outside is a choice everywhere; a record that is wrong is refused when it is added."""

import dataclasses

import pytest
import torch

import gmfl_lite as gl
from gmfl_lite import data
from gmfl_lite.data import DATASETS, DatasetSource, add_dataset
from gmfl_lite.explorer.knobs import KNOBS

CORNERS = ("top left", "top right", "bottom left", "bottom right")


def corners(root, split, download):
    """Images of 4×4 pixels, bright in one of the corners; from a file, as a downloaded dataset would be."""
    seed = int((root / "corners.txt").read_text(encoding="utf-8"))
    y = torch.arange(400) % 4
    x = 0.2 * torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    for corner in range(4):
        top, left = 2 * (corner // 2), 2 * (corner % 2)
        x[corner::4, :, top : top + 2, left : left + 2] += 0.8
    return x, y


SOURCE = DatasetSource(
    name="corners",
    classes=CORNERS,
    read=corners,
    small=True,
    files=("corners.txt",),
    hint="Ask the author for the file.",
)
EXPERIMENT = gl.Experiment(n_agents=6, n_new_agents=2, agents_per_round=6, rounds=10, model="softmax", partition="iid")


@pytest.fixture(autouse=True)
def added(monkeypatch, tmp_path):
    monkeypatch.setenv("GMFL_LITE_DATA", str(tmp_path))
    (tmp_path / "corners.txt").write_text("0", encoding="utf-8")
    before = dict(DATASETS)
    add_dataset(SOURCE)
    yield
    DATASETS.clear()
    DATASETS.update(before)


def test_it_is_loaded_dealt_out_and_trained_on():
    dataset = gl.load_dataset("corners")
    assert (dataset.name, dataset.classes, len(dataset)) == ("corners", CORNERS, 400)
    federation = gl.build_federation(EXPERIMENT.replace(dataset="corners"))
    assert list(federation.label_counts.columns) == list(CORNERS)
    assert federation.label_counts.to_numpy().sum() == 400
    result = gl.run(EXPERIMENT.replace(dataset="corners", meta_lr=1.0, fine_tune_lr=1.0), progress=False)
    assert result.table().loc["new", 10] > 0.9


def test_the_explorer_offers_it_if_it_is_small():
    assert gl.build_federation(EXPERIMENT.replace(dataset="corners")).classes == CORNERS
    assert KNOBS["dataset"].values == ("digits", "fashion-mnist", "mnist", "corners")
    explorer = gl.Explorer(EXPERIMENT)
    try:
        explorer.set(dataset="corners")
        assert explorer.wait(60).experiment.dataset == "corners"
        assert explorer.state.federation.classes == CORNERS
    finally:
        explorer.close()
    DATASETS["corners"] = dataclasses.replace(SOURCE, small=False)
    assert "corners" not in KNOBS["dataset"].values


def test_its_classes_bound_the_settings():
    for name in ("permuted_classes", "classes_per_agent"):
        assert EXPERIMENT.replace(dataset="corners", **{name: 4})
        with pytest.raises(gl.ExperimentError, match=f"{name} = 5: must be at most 4, the classes of corners"):
            EXPERIMENT.replace(dataset="corners", **{name: 5})


def test_messages_name_it(tmp_path):
    with pytest.raises(gl.ExperimentError, match=r"'sinusoids', 'corners' \(did you mean 'corners'\?\)"):
        gl.Experiment(dataset="corner")
    (tmp_path / "corners.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"corners is not in .* is not downloaded here\. Ask the author for the"
    ):
        data.check_here("corners")
    with pytest.raises(FileNotFoundError, match=r"corners is not in .* could not be fetched"):
        gl.load_dataset("corners")


def test_another_one_of_the_same_name_is_not_mistaken_for_it():
    """build_federation keeps the last dataset that it loaded."""
    experiment = EXPERIMENT.replace(dataset="corners")
    before = gl.build_federation(experiment).x
    del DATASETS["corners"]
    add_dataset(
        dataclasses.replace(
            SOURCE, read=lambda root, split, download: (torch.ones(400, 1, 4, 4), torch.arange(400) % 4)
        )
    )
    assert not torch.equal(gl.build_federation(experiment).x, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "digits"}, "dataset 'digits': there is one of this name already"),
        ({"name": ""}, "dataset '': name must be a word"),
        ({"classes": ()}, "dataset 'mine': classes must be a tuple of names"),
        ({"classes": 4}, "dataset 'mine': classes must be a tuple of names"),
        ({"read": "corners.txt"}, r"dataset 'mine': read must be a function of \(root, split, download\)"),
        ({"read": lambda root: None}, r"dataset 'mine': read must be a function of \(root, split, download\)"),
        (
            {"small": "yes", "files": "corners.txt"},
            "'mine': small must be True or False; files must be a tuple of paths",
        ),
    ],
)
def test_a_wrong_record_is_refused_when_it_is_added(change, message):
    facts = {field.name: getattr(SOURCE, field.name) for field in dataclasses.fields(SOURCE)} | {"name": "mine"}
    before = dict(DATASETS)
    with pytest.raises(ValueError, match=message):
        add_dataset(DatasetSource(**{**facts, **change}))
    assert before == DATASETS


def test_a_record_with_a_missing_field_is_refused_when_it_is_added():
    with pytest.raises(TypeError, match="missing 2 required keyword-only arguments: 'read' and 'small'"):
        add_dataset(DatasetSource(name="mine", classes=CORNERS))
    with pytest.raises(ValueError, match="must be a DatasetSource"):
        add_dataset("mine")
    assert "mine" not in DATASETS
