"""Code, table and picture to take away give what the panel shows."""

import html
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pandas as pd
import papermill
import pytest
from click.testing import CliRunner
from panel_helpers import LONG, QUICK, painted, press, same, table, taken_away, unfold, until

from gmfl_lite.command_line import program
from gmfl_lite.command_line.files import read_experiments
from gmfl_lite.explorer import as_html
from gmfl_lite.explorer.take_away import NOTEBOOK, as_papermill, as_python, as_yaml
from gmfl_lite.explorer.what_if import WhatIf


def what_ifs_to_take_away() -> dict[str, list[WhatIf]]:
    other = QUICK.replace(partition="iid", permuted_classes=5, eval_every=2, nu=1)
    return {
        "as it is": [WhatIf(QUICK, 0)],
        "other weights": [WhatIf(other, 3)],
        "a family": [WhatIf(QUICK.replace(nu=nu, rounds=5 * nu + 5), 0) for nu in (0, 1, 2)],
        "a family of weights": [WhatIf(other.replace(seed=2), seed) for seed in (1, 2)],
    }


@pytest.mark.parametrize("kind", what_ifs_to_take_away())
def test_python_to_take_away_gives_the_same_bit_for_bit(kind, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    taken = what_ifs_to_take_away()[kind]
    namespace = {}
    exec(as_python(taken), namespace)  # our own text
    assert len(namespace["results"]) == len(taken)
    for what_if, result in zip(taken, namespace["results"], strict=True):
        assert same(result, what_if.run())


@pytest.mark.parametrize("kind", what_ifs_to_take_away())
def test_yaml_to_take_away_gives_the_same_bit_for_bit(kind, tmp_path):
    taken = what_ifs_to_take_away()[kind]
    (tmp_path / "explored.yaml").write_text(as_yaml(taken), encoding="utf-8")
    asked = read_experiments(tmp_path / "explored.yaml", {})
    assert [one.experiment for one in asked] == [what_if.experiment for what_if in taken]
    for what_if, one in zip(taken, asked, strict=True):
        assert same(one.run(progress=False), what_if.run())


def test_the_command_that_the_panel_gives_prints_what_it_shows(panel, tmp_path, monkeypatch):
    explorer = panel(QUICK, weights_seed=1)
    explorer.set(nu=2)
    result = explorer.wait(60)
    fedavg = explorer.run(result.experiment, weights_seed=1, progress=False).fedavg
    settings = html.unescape(re.findall("<pre.*?>(.*?)</pre>", taken_away(explorer), re.DOTALL)[2])
    monkeypatch.chdir(tmp_path)
    Path("explored.yaml").write_text(settings, encoding="utf-8")
    _, command = settings.splitlines()[0].split("python -m gmfl_lite ")
    ran = CliRunner().invoke(program, [*command.split(), "--quiet"])
    assert ran.exit_code == 0, ran.output
    numbers = [float(number) for number in re.findall(r"\d+\.\d", ran.output)]
    shown = pd.concat([result.table(), fedavg.table()])
    assert numbers == [float(f"{100 * value:.1f}") for value in shown.to_numpy().flatten()]
    assert Path("explored.png").exists()


def test_papermill_to_take_away_is_understood_by_the_notebook():
    path = Path(__file__).parents[2] / "notebooks" / NOTEBOOK
    known = papermill.inspect_notebook(str(path))
    what_if = WhatIf(QUICK.replace(gradient="truncated", backprop_steps=1, batch_size=None, test_fraction=0.5), 4)
    folder, command, remark = as_papermill([what_if]).splitlines()
    assert folder == "cd notebooks"
    words = shlex.split(command)
    given = {name: value for flag, name, value in zip(words, words[1:], words[2:], strict=False) if flag == "-p"}
    assert set(given) == set(known)
    from papermill.cli import _resolve_type

    assert given.pop("eval_steps") == "0 1 3 5 10"
    assert {name: _resolve_type(value) for name, value in given.items()} == {
        name: what_if.value(name) for name in given
    }
    assert remark == "# but test_fraction = 0.5, which the notebook has no parameter for"


def test_take_away_offers_the_table_and_escapes(panel):
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    assert 'download="explored.csv"' in taken_away(explorer)
    assert "gl.Experiment(" in taken_away(explorer)
    assert "experiment = gl.Experiment(dataset=&#x27;" not in taken_away(explorer)
    assert "model=&#x27;softmax&#x27;" in taken_away(explorer)


def test_what_is_taken_away_waits_for_the_end(panel):
    explorer = panel(LONG)
    press(explorer, "Run")
    until(lambda: re.search(r"round \d+ of", painted(explorer, "progress")))
    unfold(explorer, "Take it away")
    until(lambda: painted(explorer, "take-away") == "Here when the run is over.")
    press(explorer, "Stop")
    explorer.wait(60)
    assert "gl.Experiment(" in taken_away(explorer)


def test_fedavg_is_taken_away_with_the_rest(panel, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    explorer = panel(QUICK.replace(gradient="truncated", backprop_steps=1), weights_seed=2)
    press(explorer, "Run")
    result = explorer.wait(60)
    fedavg = explorer.run(result.experiment, weights_seed=2, progress=False).fedavg
    assert table(explorer)["run"] == ["ν = 3", "FedAvg (ν = 0)"]
    assert unquote(re.search('csv;charset=utf-8,(.*?)"', taken_away(explorer))[1]).count("\n") == 3
    python, commands, settings = re.findall("<pre.*?>(.*?)</pre>", taken_away(explorer), re.DOTALL)
    namespace = {}
    exec(html.unescape(python), namespace)  # our own text
    for taken, shown in zip(namespace["results"], (result, fedavg), strict=True):
        assert same(taken, shown)
    assert commands.count("papermill ") == 1
    assert html.unescape(settings) == explorer.state.yaml()


@pytest.mark.slow
def test_the_papermill_command_gives_what_the_panel_shows(panel, tmp_path):
    explorer = panel(QUICK.replace(eval_steps=(0, 2), permuted_classes=3), weights_seed=1)
    explorer.set(nu=2)
    result = explorer.wait(60)
    fedavg = explorer.run(result.experiment, weights_seed=1, progress=False).fedavg
    command = html.unescape(re.findall("<pre.*?>(.*?)</pre>", taken_away(explorer), re.DOTALL)[1])
    root = Path(__file__).parents[2]
    papermill = "import kernels_by_files, runpy; runpy.run_module('papermill', run_name='__main__')"
    command = command.replace("papermill ", f'{sys.executable} -c "{papermill}" ')
    command = command.replace("explored-1", f"{tmp_path}/out")
    path = os.pathsep.join(filter(None, [str(root / "tests"), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path}
    subprocess.run(command, shell=True, cwd=root, env=variables, check=True, capture_output=True, timeout=900)
    outputs = [out for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for out in cell.get("outputs", ())]
    tables = [out.data["text/html"] for out in outputs if "<table" in out.get("data", {}).get("text/html", "")]
    numbers = [int(number) for number in re.findall(r"<td>(\d+)</td>", tables[0])]
    shown = pd.concat([result.table(), fedavg.table()])
    assert numbers == (100 * shown).round().astype(int).to_numpy().flatten().tolist()


def test_it_is_drawn_for_those_only_who_look_for_it_and_never_old(panel, monkeypatch):
    drawn = []
    monkeypatch.setattr(as_html, "take_away", lambda state, frame: drawn.append(state) or f"of {len(frame)} runs")
    explorer = panel()
    explorer.set(nu=1)
    explorer.wait(60)
    assert drawn == []
    assert taken_away(explorer) == "of 2 runs"
    unfold(explorer, "Take it away")  # it is
    explorer.wait(60)
    assert len(drawn) == 1
    unfold(explorer, "Take it away", folded=True)
    explorer.set(nu=0)
    explorer.wait(60)
    assert len(drawn) == 1
    assert painted(explorer, "take-away") == "In a moment."
    assert taken_away(explorer) == "of 1 runs"
