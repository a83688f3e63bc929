"""The verbs compute what gl.run, gl.sweep and gl.tune do, print it and save it; in a shell, and in this process."""

import errno
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from functools import partial
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from quick_settings import BASE, QUICK

import gmfl_lite as gl
from gmfl_lite import gpu_check
from gmfl_lite.basics.plain_yaml import read_file
from gmfl_lite.command_line import VERBS, program
from gmfl_lite.command_line.processes import workers

pytestmark = pytest.mark.usefixtures("alone")

LONG = QUICK.replace("rounds: 4", "rounds: 900000")
# Before click 8.2 the two streams are one unless asked for apart; later they always are.
APART = CliRunner(**({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))
GRID = "grid:\n  nu: [0, 2]\n  seed: [0, 1]\n"


def shell(*arguments: str, **variables: str) -> subprocess.Popen:
    """Start the program as somebody at a terminal would, in the folder of the test: Ctrl-C is heard.

    A shell's jobs in the background, as this pytest may be one, do not hear it, and neither does what they start.
    """
    root = str(Path(gl.__file__).parents[1])
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    environment |= {"PYTHONPATH": root, "PYTHONIOENCODING": "utf-8", **variables}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "gmfl_lite", *arguments]
    hears = None if sys.platform == "win32" else partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", preexec_fn=hears
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()  # if it has not ended; others' time is measured
    assert "Traceback" not in f"{out}{err}"
    return process.returncode, out, err


def printed(table: str, after: str) -> pd.DataFrame:
    """Return the numbers that were printed below this line."""
    return pd.read_csv(StringIO(table.split(after, 1)[1].strip()), sep=r"\s+")


def per_cent(table: pd.DataFrame) -> list[list[float]]:
    return (100 * table).map(lambda value: float(f"{value:.1f}")).to_numpy().tolist()


@pytest.mark.slow
def test_run_in_a_shell(experiment):
    code, out, err = ended(shell("run", experiment(), "--set", "nu=1", "--save", "kept", "--figure", "adaptation.png"))
    result = gl.run(BASE.replace(nu=1), progress=False)
    assert code == 0
    assert out.startswith("nu = 1: completed\n")
    assert printed(out, "fine-tuning steps\n").iloc[:, 1:].to_numpy().tolist() == per_cent(result.table())
    assert "4/4" in err, "a progress bar"
    pd.testing.assert_frame_equal(gl.load_result("kept").history, result.history)
    assert Path("adaptation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_sweep_in_a_shell_on_two_processes(experiment):
    arguments = ["sweep", experiment(GRID), "--csv", "table.csv", "--processes", "2", "--cache", "finished", "--quiet"]
    code, out, err = ended(shell(*arguments))
    assert (code, err) == (0, "")
    assert Path("table.csv").read_text(encoding="utf-8") == gl.sweep(
        {"nu": [0, 2], "seed": [0, 1]}, BASE, progress=False
    ).to_csv(index=False)
    assert len(out.splitlines()) == 2 + 4 * 2
    assert len([*Path("finished").iterdir()]) == 4


@pytest.mark.slow
def test_tune_in_a_shell(experiment):
    options = ["--settings", "meta_lr", "--validation-seeds", "1000", "--steps", "1", "--trials", "9"]
    code, out, err = ended(
        shell("tune", experiment("meta_lr: 0.1\n"), *options, "--save", "best.yaml", "--csv", "trials.csv")
    )
    base = BASE.replace(meta_lr=0.1)
    tuned = gl.tune(base, settings=["meta_lr"], validation_seeds=[1000], steps=1, trials=9, progress=False)
    assert code == 0
    assert f"the best of {len(tuned.table)}: meta_lr = {tuned.best.meta_lr!r}" in out
    assert "run/s" in err
    assert Path("trials.csv").read_text(encoding="utf-8") == tuned.table.to_csv(index=False)
    (best,) = read_file("best.yaml")
    assert gl.Experiment.from_dict(best.values) == tuned.best != base


def test_run(experiment, command):
    code, out = command("run", experiment("nu: 2\n"), "--save", "kept")
    assert code == 0
    result = gl.run(BASE.replace(nu=2), progress=False)
    assert printed(out, "fine-tuning steps\n")["agents"].tolist() == ["trained", "new"]
    pd.testing.assert_frame_equal(gl.load_result("kept").history, result.history)


def test_several_experiments_are_named_by_what_differs(experiment, command):
    name = experiment(f"nu: 0\n---\n{QUICK}nu: 2\nweights_seed: 5\n")
    code, out = command("run", name, "--figure", "both.svg")
    assert code == 0
    federation = gl.build_federation(BASE)
    own = gl.build_model("softmax", federation, seed=5)
    other = gl.run(BASE.replace(nu=2), federation=federation, model=own, progress=False)
    first, second = re.split("(?=nu = 2)", out)
    for text, result in ((first, gl.run(BASE.replace(nu=0), progress=False)), (second, other)):
        assert printed(text, "fine-tuning steps\n").iloc[:, 1:].to_numpy().tolist() == per_cent(result.table())
    assert (first.splitlines()[0], second.splitlines()[0]) == (
        "nu = 0, weights_seed = 0: completed",
        "nu = 2, weights_seed = 5: completed",
    )
    assert b"<svg" in Path("both.svg").read_bytes()
    code, out = command("run", name, "--save", "kept")
    assert (code, "--save keeps one result" in out) == (2, True)


def test_numbers_to_predict_have_a_loss(experiment, command):
    settings = QUICK.replace("model: softmax", "model: mlp\ndataset: sinusoids\nfine_tune_lr: 1e-3\nmeta_lr: 1e-3")
    code, out = command("run", experiment(text=settings))
    assert code == 0
    assert "loss after so many" in out
    code, out = command("sweep", experiment("grid: {nu: [0, 1]}\n", text=settings))
    assert code == 0
    assert len(printed(out, "steps\n")) == 4


def test_sweep(experiment, command):
    code, out = command("sweep", experiment(GRID), "--set", "rounds=2", "--csv", "table.csv")
    table = gl.sweep({"nu": [0, 2], "seed": [0, 1]}, BASE.replace(rounds=2), progress=False)
    assert code == 0
    assert Path("table.csv").read_text(encoding="utf-8") == table.to_csv(index=False)
    shown = printed(out, "fine-tuning steps\n")
    expected = table.pivot(index=["nu", "seed", "group"], columns="fine_tune_steps", values="accuracy")
    order = [(row.nu, row.seed, row.agents) for row in shown.itertuples()]
    assert shown[["0", "1", "3"]].to_numpy().tolist() == per_cent(expected.loc[order])


def test_a_point_that_diverges_is_a_row_and_one_that_fails_is_said(experiment, command):
    code, out = command("sweep", experiment("grid: {meta_lr: [0.1, 1e30], nu: [1]}\n"))
    assert code == 0
    assert "diverged" in out
    assert "lower " in out
    code, out = command(
        "sweep",
        experiment("grid: {n_agents: [6, 2], nu: [1]}\n", text=QUICK.replace("n_agents: 6\n", "")),
        "--csv",
        "table.csv",
    )
    assert code == 1
    assert "Error: 1 of 2 points failed" in out
    assert "agents_per_round = 3: must be at most n_agents = 2" in out
    assert pd.read_csv("table.csv")["status"].tolist() == ["completed"] * 6 + ["failed"]


def test_a_run_that_diverges(experiment, command, monkeypatch):
    monkeypatch.setattr("gmfl_lite.theory.after_divergence.SECONDS", 60.0)  # so that both measure all there is
    code, out = command("run", experiment("meta_lr: 1e30\n"), "--save", "kept", "--figure", "f.png")
    assert code == 1
    result = gl.run(BASE.replace(meta_lr=1e30), progress=False)
    assert f"Error: nu = 3: {result.message}" in out
    assert gl.load_result("kept").status == "diverged"
    assert Path("f.png").exists()


def test_a_search_in_which_all_diverge(experiment, command):
    code, out = command("tune", experiment("meta_lr: 1e30\n"), "--trials", "5", "--csv", "trials.csv", "--save", "best")
    assert code == 1
    assert "Error: all 5 trials diverged: begin lower than" in out
    assert len(pd.read_csv("trials.csv")) == 5
    assert not Path("best").exists()


def test_data_that_are_not_here(experiment, command, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("fashion-mnist is not here: put it there")

    monkeypatch.setattr("gmfl_lite.command_line.files.run", missing)
    assert command("run", experiment()) == (1, "Error: fashion-mnist is not here: put it there\n")


@pytest.mark.usefixtures("one_by_one")
def test_ctrl_c_keeps_the_points_that_are_done(experiment, command, monkeypatch):
    grid = sys.modules["gmfl_lite.sweep.grid"]
    run, done = grid.run, []

    def second_is_stopped(*arguments, **options):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return run(*arguments, **options)

    monkeypatch.setattr(grid, "run", second_is_stopped)
    code, out = command("sweep", experiment(GRID), "--csv", "table.csv")
    assert code == 130
    assert "stopped after 1 points" in out
    assert len(pd.read_csv("table.csv")) == 6
    done.clear()
    options = ["--settings", "meta_lr", "--validation-seeds", "7", "--csv", "trials.csv", "--save", "best"]
    code, out = command("tune", experiment(), *options)
    assert (code, "stopped after 0 trials" in out) == (130, True)
    assert not Path("best").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_ctrl_c_in_a_shell(experiment):
    process = shell("run", experiment(text=LONG), "--save", "kept", "--figure", "f.png")
    while (seen := process.stderr.read(1)) != "→":  # the bar says what the first evaluation gave
        assert seen, "it ended by itself"
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130
    assert re.search(r"stopped after \d+ of 900000 rounds", err)
    assert out.startswith("nu = 3: stopped\naccuracy (%)")
    assert gl.load_result("kept").status == "stopped"
    assert Path("f.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_ctrl_c_ends_the_other_processes(experiment):
    file = experiment("grid: {rounds: [2, 900000, 800000]}\n", text=QUICK.replace("rounds: 4\n", ""))
    process = shell("sweep", file, "--processes", "2", "--csv", "table.csv")
    seen = ""
    while "1/3" not in seen:
        seen += (letter := process.stderr.read(1))
        assert letter, seen
    process.send_signal(signal.SIGINT)
    code, out, _ = ended(process)  # when nobody holds its pipes any more
    assert code == 130
    assert out.count("completed") == 2
    assert len(pd.read_csv("table.csv")) == 6


@pytest.mark.slow
def test_a_reader_who_leaves_and_a_poor_terminal(experiment):
    process = shell("run", experiment(), "--save", "kept")
    process.stdout.close()
    process.stdout = None
    code, _, err = ended(process)
    assert code == 1
    assert "Error" not in err
    assert gl.load_result("kept").status == "completed"
    poor = {"PYTHONIOENCODING": "ascii", "COLUMNS": "1", "LC_ALL": "C", "PYTHONUTF8": "0"}
    assert ended(shell("--help", **poor))[0] == 0
    code, out, err = ended(shell("run", experiment("meta_lr: 1e30\n"), **poor))
    assert code == 1
    assert (out + err).isascii()
    code = """
import sys
import click
from gmfl_lite.command_line import main, program
program.command("say")(lambda: click.echo(chr(957)))
sys.argv = ["gmfl_lite", "say"]
main()
"""
    environment = {**os.environ, **poor, "PYTHONIOENCODING": "latin-1"}  # of ASCII, click makes UTF-8
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "?\n"


def test_a_broken_pipe_is_no_failure_of_the_run(experiment, command, monkeypatch):
    def nobody_reads(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("gmfl_lite.command_line.files.run", nobody_reads)
    code, out = command("run", experiment())
    assert (code, out) == (1, "")


def test_workers_end_with_their_work():
    with workers(None) as executor:
        assert executor is None
    with workers(1) as executor:
        first = executor.submit(os.getpid).result()
    assert first != os.getpid()
    with suppress(KeyboardInterrupt), workers(1) as executor:
        assert executor.submit(os.getpid).result() != first
        endless = executor.submit(time.sleep, 3600)
        while not endless.running():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert isinstance(endless.exception(300), BrokenExecutor)


def test_help_says_what_a_student_needs(command):
    code, out = command("--help")
    assert code == 0
    assert all(f"\n  {verb.name} " in out for verb in VERBS)
    assert {verb.name for verb in VERBS} == program.commands.keys()
    defaults = inspect.signature(gl.tune).parameters
    code, out = command("tune", "--help")
    for name in ("settings", "steps", "validation_seeds", "trials"):
        default = defaults[name].default
        words = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert f"{words} unless given" in " ".join(out.split()), name


def test_a_gpu_is_checked(monkeypatch, tmp_path):
    asked = {}

    def check(device, *, say, **how):
        asked.update(how, device=device)
        say("equal: one")
        return device == "cpu", "## a card\n"

    monkeypatch.setattr(gpu_check, "check", check)
    page = tmp_path / "GPU.md"
    done = APART.invoke(program, ["gpu-check", "--device", "cpu", "--few", "--page", str(page)])
    assert (done.exit_code, done.stdout, page.read_text(encoding="utf-8")) == (0, "## a card\n", "## a card\n")
    assert asked == {"device": "cpu", "few": True, "minutes": 5.0}
    assert "equal: one" in done.stderr
    different = APART.invoke(program, ["gpu-check"])
    assert different.exit_code == 1
    assert "the GPU does not train as the CPU does" in different.stderr


def test_without_a_gpu_the_check_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = APART.invoke(program, ["gpu-check"])
    assert done.exit_code == 2
    assert "PyTorch finds no CUDA GPU here" in done.stderr
