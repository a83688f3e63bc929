"""A wrong file is refused before anything runs: one message, exit code 2, the line of each setting that is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gmfl_lite as gl
from gmfl_lite.basics.plain_yaml import read, written
from gmfl_lite.command_line.files import Refused, read_experiments, read_sweep

pytestmark = pytest.mark.usefixtures("alone")

NUMBERS = st.floats(1e-300, 1e300)
EXPERIMENTS = st.builds(
    gl.Experiment,
    dataset=st.sampled_from(["digits", "own"]), dirichlet_alpha=NUMBERS, fine_tune_lr=NUMBERS, meta_lr=NUMBERS,
    n_agents=st.integers(10, 10**6), shots=st.none() | st.integers(1, 100), batch_size=st.none() | st.integers(1, 100),
    eval_steps=st.sets(st.integers(0, 10**4), min_size=1).map(sorted), seed=st.integers(0, 2**63 - 1),
    label_noise=st.floats(0, 1, exclude_max=True), nu=st.integers(0, 1000), server=st.sampled_from(["adam", "average"]),
    precision=st.sampled_from(["float32", "float64"]), device=st.just("cpu"),
)  # fmt: skip


@given(EXPERIMENTS)
def test_an_experiment_is_read_back_exactly(experiment):
    (document,) = read(written(experiment.to_dict()))
    assert gl.Experiment.from_dict(document.values) == experiment


WRONG = {
    "nuu: 3": ["line 10: nuu is not a setting (did you mean 'nu'?)"],
    "nu: -1": ["line 10: nu = -1: must be an integer of at least 0"],
    "nu: 1.5": ["line 10: nu = 1.5: must be an integer"],
    "nu: on": ["line 10: nu = 'on': must be an integer"],
    "seed: 1:30": ["line 10: seed = '1:30': must be an integer"],
    "seed: 2026-01-01": ["line 10: seed = '2026-01-01': must be an integer"],
    "gradient: exakt": ["line 10: gradient = 'exakt'", "did you mean 'exact'?"],
    "meta_lr: .nan": ["line 10: meta_lr = nan"],
    "nu: {a: 1}": ["line 10: nu = {'a': 1}"],
    "nu: 1\n\nfine_tune_lr: no\nbatchsize: 3": [
        "2 problems",
        "line 12: fine_tune_lr = 'no'",
        "line 13: batchsize is not",
    ],
    "gradient: truncated": ["line 10: ", "backprop_steps"],
    "per_fedavg_a: 4": ["line 10: per_fedavg_a = 4: must be left out with partition='dirichlet'"],
    "partition: per_fedavg\nper_fedavg_a: 4\nnu: 1\nn_new_agents: 3": ["line 13: n_new_agents is given twice"],
    "weights_seed: -1": ["line 10: weights_seed = -1"],
    "dataset: own": ["line 10: dataset = 'own'"],
    "test_fraction: 0.25\nmin: !!python/name:os.system": ["line 11: tags"],
    "server: adam\nserver_lr: 0": ["line 11: server_lr = 0"],
    "grid: {nu: [1]}": ["line 10: grid is not a setting"],
    "size_spread: 1\nn_agents: 2": ["line 11: n_agents is given twice, first in line 2"],
}


@pytest.mark.parametrize("more", WRONG)
def test_what_is_wrong_is_said_with_its_line(more, experiment, command):
    code, printed = command("run", experiment(more), "--quiet", "--save", "result")
    assert code == 2
    assert "experiment.yaml, line" in printed
    for said in WRONG[more]:
        assert said in printed
    assert "Traceback" not in printed


def test_a_contradiction_stands_where_its_setting_was_given(experiment, command):
    """agents_per_round is left out: what it contradicts is in the file."""
    code, printed = command("run", experiment(text="nu: 1\nn_agents: 5\n"))
    assert code == 2
    assert printed.startswith("Error: experiment.yaml, line 2: agents_per_round = 10: must be at most n_agents = 5")


def test_a_setting_is_not_taken_for_another_that_begins_like_it():
    assert Refused(["server_lr = 0: must be more"], {"server": "line 3"}).message == "server_lr = 0: must be more"


def test_what_only_the_data_show_has_its_line_too(experiment, command):
    code, printed = command("run", experiment(text="model: softmax\nn_agents: 5000\n"))
    assert code == 2
    assert "experiment.yaml, line 2: digits cannot be dealt out to n_agents + n_new_agents = 5010" in printed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nu=-1", "Error: --set: nu = -1: must be"),
        ("nuu=1", "Error: --set: nuu is not a setting (did you mean 'nu'?)"),
        ("nu", "must be a setting and its value, such as nu=1"),
        ("=1", "must be a setting and its value, such as nu=1"),
        ("nu=[1", "Error: --set nu=[1: not YAML"),
        ("nu=&a 1", "Error: --set nu=&a 1: anchors"),
        ("nu=", "Error: --set: nu = None"),
    ],
)
def test_a_wrong_change(change, said, experiment, command):
    code, printed = command("run", experiment(), "--set", change)
    assert code == 2
    assert said in printed


def test_changes_are_read_like_the_file(experiment, tmp_path):
    changes = {"nu": "1", "meta_lr": "1e-1", "eval_steps": "[0, 2]", "batch_size": "null", "gradient": "first_order"}
    (asked,) = read_experiments(tmp_path / experiment(), changes)
    assert (asked.experiment.nu, asked.experiment.meta_lr, asked.experiment.eval_steps) == (1, 0.1, (0, 2))
    assert (asked.experiment.batch_size, asked.experiment.gradient) == (None, "first_order")


def test_files_that_hold_nothing_or_are_none(experiment, command, tmp_path):
    assert (
        command("run", experiment(text="# nothing\n"))[1]
        == "Error: experiment.yaml: holds no settings; {} are the defaults\n"
    )
    assert read_experiments(tmp_path / experiment(text="{}"), {})[0].experiment == gl.Experiment()
    assert command("run", "nowhere.yaml")[0] == 2
    assert command("run", ".")[0] == 2
    for verb in ("sweep", "tune"):
        code, printed = command(verb, experiment("---\nnu: 1\n" + ("grid: {nu: [1]}\n" * (verb == "sweep"))))
        assert code == 2
        assert "2 " in printed
    assert "weights_seed counts with `run` alone" in command("tune", experiment("weights_seed: 3\n"))[1]


GRIDS = {
    "nu: 1": ["grid: must hold the values to go through"],
    "grid: [1]": ["line 10: grid: must hold the values"],
    "grid: {nuu: [1]}": ["line 10: nuu is not a setting (did you mean 'nu'?)"],
    "grid:\n  nu:\n  - 0\n  - -1": ["line 13: nu = -1"],
    "grid: {nu: 1}": ["line 10: nu = 1: must be a list of values here"],
    "grid: {nu: []}": ["line 10: nu = []: must be a list of values here"],
    "grid: {shots: [0, 1]}": ["line 10: shots = 0: must be an integer"],
    "grid: {eval_steps: [0, 1]}": ["line 10: eval_steps is given outside of the grid, too"],
    "nu: 1\ngrid:\n  nu: [0]": ["line 12: nu is given outside of the grid, too"],
    "nu: -1\ngrid: {sed: [0]}": ["2 problems", "line 10: nu = -1", "line 11: sed is not a setting"],
    "gradient: truncated\ngrid:\n  seed: [1, 2]": ["line 10: ", "backprop_steps"],
    "gradient: truncated\ngrid:\n  nu: [0, 1]\n  backprop_steps: [5]": ["line 13: backprop_steps = 5"],
    f"grid: {{seed: {[*range(400)]}, nu: {[*range(400)]}}}": ["line 10: grid: must have at most 100000 points"],
}


@pytest.mark.parametrize("more", GRIDS)
def test_what_is_wrong_with_a_sweep_is_said_with_its_line(more, experiment, command):
    code, printed = command("sweep", experiment(more))
    assert code == 2, printed
    for said in GRIDS[more]:
        assert said in printed


def test_a_sweep_varies_what_its_base_lacks(experiment, tmp_path):
    more = "gradient: truncated\ngrid: {backprop_steps: [9, 1], per_fedavg_a: [null]}\n"
    grid, base, _ = read_sweep(tmp_path / experiment(more), {"rounds": "2"})
    assert grid == {"backprop_steps": [9, 1], "per_fedavg_a": [None]}
    assert (base.backprop_steps, base.rounds) == (1, 2)
    with pytest.raises(Refused, match=r"line 11: backprop_steps is given outside"):
        read_sweep(tmp_path / experiment(more), {"backprop_steps": "2"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--save", "no/folder"), "'no' is not a folder"),
        (("run", "--save", "."), "is a directory"),
        (("run", "--figure", "f.gif"), "must end in .png or .svg or .pdf"),
        (("sweep", "--csv", "no/folder"), "'no' is not a folder"),
        (("sweep", "--processes", "0"), "0 is not in the range"),
        (("tune", "--steps", "-1"), "-1 is not in the range"),
        (("tune", "--settings", "nu"), "Error: --settings: settings = 'nu': must be one of"),
        (("tune", "--validation-seeds", "x"), "Error: --validation-seeds: validation_seeds"),
        (("tune", "--validation-seeds", "0"), "different seeds other than base.seed = 0"),
        (("tune", "--trials", "2"), "Error: --trials: trials = 2: must be an integer of at least 5"),
        (("walk",), "No such command 'walk'"),
    ],
)
def test_a_wrong_option_is_refused_before_the_work(arguments, said, experiment, command, monkeypatch):
    monkeypatch.setattr("gmfl_lite.command_line.files.run", None)
    verb, *options = arguments
    code, printed = command(verb, experiment("grid: {nu: [1]}\n" if verb == "sweep" else ""), *options)
    assert code == 2
    assert said in " ".join(printed.split())
