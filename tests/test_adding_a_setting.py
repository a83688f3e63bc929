"""A subclass of Experiment with one setting more has that setting everywhere, without a change in the library."""

import dataclasses
import inspect
import json
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import gmfl_lite as gl
from gmfl_lite.basics.setting_records import number, one_of, or_none, setting, settings, settings_that_change
from gmfl_lite.partition import PARTITIONS, Dealing

MOODS = {"calm": 0, "wild": 1}


@dataclass(frozen=True, kw_only=True)
class Mine(gl.Experiment):
    """A what-if of mine."""

    mood: str = setting("calm", one_of(MOODS), "How the agents feel.", "holdings")
    blur: float | None = setting(
        None,
        or_none(number(0, 1)),
        "Blur of the images.",
        "holdings",
        needs=("mood", ("wild",)),
        refused_otherwise=True,
    )
    remark: str | None = setting(None, lambda name, value: value, "Words to go with it.", "looks", symbol="ρ")


QUICK = Mine(n_agents=6, n_new_agents=2, agents_per_round=2, rounds=2, eval_every=2, model="softmax", eval_steps=(0, 2))
WILD = QUICK.replace(mood="wild", blur=1, remark="[0, 1]")


def test_it_is_checked_with_the_others_and_every_problem_is_listed():
    assert (WILD.blur, type(WILD.blur), type(WILD)) == (1.0, float, Mine)
    with pytest.raises(gl.ExperimentError) as refused:
        Mine(blurr=1, blur=2, mood="mild", nu=-1)
    for part in ("4 problems", "did you mean 'blur'", "blur = 2: must be", "did you mean 'wild'", "nu = -1"):
        assert part in str(refused.value)
    with pytest.raises(gl.ExperimentError, match="blur is not a setting"):
        gl.Experiment(blur=0.5)


def test_what_it_needs_is_checked():
    with pytest.raises(gl.ExperimentError, match=r"blur = 0\.5: must be left out with mood='calm'"):
        Mine(blur=0.5)
    with pytest.raises(gl.ExperimentError, match="blur = None: must be given with mood='wild'"):
        Mine(mood="wild")
    with pytest.raises(gl.ExperimentError, match=r"blur = None.*\n.*agents_per_round = 60"):
        Mine(mood="wild", agents_per_round=60)


def test_it_is_a_value():
    assert Mine.from_dict(json.loads(json.dumps(WILD.to_dict()))) == WILD
    assert pickle.loads(pickle.dumps(WILD)) == WILD
    assert len({WILD, WILD.replace(), WILD.replace(remark="x"), QUICK}) == 3
    assert gl.Experiment(nu=3) != Mine(nu=3)


def test_editors_and_help_see_it():
    assert list(inspect.signature(Mine).parameters) == [
        *inspect.signature(gl.Experiment).parameters,
        "mood",
        "blur",
        "remark",
    ]
    assert inspect.getdoc(Mine).startswith("A what-if of mine.\n\nSettings\n--------\ndataset = 'digits'")
    for line in (
        "\n    mood = 'calm': How the agents feel.",
        "\n    blur = None: With mood='wild': blur of the images.",
    ):
        assert line in Mine.__doc__
        assert line not in gl.Experiment.__doc__
    assert Mine.__doc__.endswith("\n    remark = None: ρ, words to go with it.")


def test_it_says_what_it_changes():
    holdings = settings_that_change("holdings", of=gl.Experiment)
    assert holdings == (
        *("partition", "dirichlet_alpha", "size_spread", "classes_per_agent", "per_fedavg_a"),
        *("permuted_classes", "max_rotation", "shots", "query", "label_noise"),
    )
    assert settings_that_change("holdings", of=Mine) == (*holdings, "mood", "blur")
    with pytest.raises(ValueError, match=r"what = 'holding'.*did you mean 'holdings'"):
        settings_that_change("holding", of=Mine)


def test_it_is_run_saved_and_resumed(tmp_path):
    result = gl.run(WILD, progress=False, checkpoint=tmp_path / "run")
    assert gl.load_result(tmp_path / "run", Mine).experiment == WILD
    assert gl.run(WILD, progress=False, checkpoint=tmp_path / "run").history.equals(result.history)
    with pytest.raises(ValueError, match="mood = 'wild' there and 'calm' here"):
        gl.run(QUICK, progress=False, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="blur is not a setting"):
        gl.load_result(tmp_path / "run")


def test_sweeps_take_it_and_keep_it_apart_in_their_cache(tmp_path):
    table = gl.sweep({"remark": [None, "x"]}, WILD, cache=tmp_path, progress=False)
    assert table["remark"].tolist() == [None] * 4 + ["x"] * 4
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 1, "a remark changes no training, so the second point is scored alone"
    before = [path.stat().st_mtime_ns for path in kept]
    points = [WILD.replace(remark=None), WILD.replace(remark="x"), gl.Experiment.from_dict(_without_mine(WILD))]
    again = gl.sweep(points, cache=tmp_path, progress=False)
    assert [path.stat().st_mtime_ns for path in kept] == before, "a finished point was computed again"
    assert len(list(tmp_path.iterdir())) == 2
    assert again["remark"].tolist() == [None] * 4 + ["x"] * 4 + [None] * 4
    failed = gl.sweep({"blur": [7]}, WILD, progress=False)
    assert "blur = 7: must be" in failed["message"].item()
    with pytest.raises(gl.ExperimentError, match="blur is not a setting"):
        gl.sweep({"blur": [0.5]}, progress=False)


def _without_mine(experiment):
    return {name: value for name, value in experiment.to_dict().items() if name in settings(gl.Experiment)}


def test_flowers_run_config_holds_it():
    app = pytest.importorskip("gmfl_lite.flower.app", reason="flwr is not installed", exc_type=ImportError)
    for experiment in (WILD, QUICK, WILD.replace(remark="null")):
        config = app.to_config(experiment)
        assert all(isinstance(value, int | float | str) for value in config.values())
        assert app.from_config(config, Mine) == experiment


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: setting(1, number(0), "Help."), TypeError, "missing 1 required positional argument: 'changes'"),
        (lambda: setting(1, number(0), "Help.", "all"), ValueError, "changes = 'all': must be one of 'holdings'"),
        (lambda: setting(1, number(0), "Help.", "looks", symbl="x"), TypeError, "symbl"),
    ],
)
def test_a_wrong_record_is_refused_when_it_is_declared(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


def test_a_field_without_a_record_is_refused_when_it_is_declared():
    with pytest.raises(
        TypeError, match=r"Bare\.extra must be declared with gmfl_lite\.basics\.setting_records\.setting"
    ):

        @dataclass(frozen=True, kw_only=True)
        class Bare(gl.Experiment):
            extra: int = 1


def test_a_way_to_deal_out_that_is_added_is_a_choice_and_says_which_settings_count_with_it(monkeypatch):
    @dataclass(frozen=True)
    class Halves:
        """Every agent holds the same two classes, and a share of their samples."""

        classes: int

        def counts(self, available, n_agents, min_samples, rng):
            counts = [[count // n_agents if c < self.classes else 0 for c, count in enumerate(available)]]
            return np.array(counts * n_agents)

    monkeypatch.setitem(PARTITIONS, "halves", Dealing(Halves, {"classes": "classes_per_agent"}, min_samples=4))
    experiment = gl.Experiment(partition="halves", classes_per_agent=3, n_agents=8, n_new_agents=2, agents_per_round=2)
    assert (gl.build_federation(experiment).label_counts.to_numpy() > 0).sum(axis=1).tolist() == [3] * 10
    assert settings(gl.Experiment)["classes_per_agent"].counts_with == ("partition", ("shards", "halves"))
    assert settings(gl.Experiment)["classes_per_agent"].counts(experiment.to_dict())
    with pytest.raises(gl.ExperimentError, match=r"size_spread = 1\.0: must be left out with partition='halves'"):
        experiment.replace(size_spread=1.0)
    with pytest.raises(gl.ExperimentError, match="'per_fedavg', 'halves'"):
        gl.Experiment(partition="halve")


def test_a_model_that_is_added_is_a_choice(monkeypatch):
    from gmfl_lite.models import MODELS, softmax_regression

    monkeypatch.setitem(MODELS, "linear", softmax_regression)
    experiment = gl.Experiment(model="linear", rounds=1)
    assert (
        gl.run(experiment, progress=False)
        .table()
        .equals(gl.run(experiment.replace(model="softmax"), progress=False).table())
    )


def test_every_setting_of_the_library_is_declared():
    assert list(settings(gl.Experiment)) == [field.name for field in dataclasses.fields(gl.Experiment)]
    assert {record.changes for record in settings(gl.Experiment).values()} == {
        *("holdings", "agents", "draws", "training", "looks", "machine")
    }
