"""The notebooks run, with their defaults and with other parameters, and their committed outputs are what they give."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "00-start-here": [
        {"rounds": 10, "n_agents": 12, "n_new_agents": 3, "nu": 5},
        {"rounds": 3, "n_agents": 2, "n_new_agents": 1, "nu": 1, "fine_tune_lr": 0.05, "seed": 4},
    ],
    "01-who-holds-what": [
        {"n_agents": 15, "n_new_agents": 3, "seed": 1},
        {"n_agents": 30, "n_new_agents": 30, "fine_tune_lr": 0.1},
    ],
    "02-one-model-for-all": [
        {"rounds": 5, "n_agents": 9, "n_new_agents": 2, "seed": 3},
        {"rounds": 3, "n_agents": 10, "n_new_agents": 1, "dirichlet_alpha": 10.0, "meta_lr": 0.05},
    ],
    "03-the-meta-objective-by-hand": [{"nu": 1, "seed": 1}, {"nu": 10, "fine_tune_lr": 0.1, "start_x": 1.2}],
    "07-explorer": [
        {"nu": 0, "rounds": 3, "weights_seed": 2},
        {"nu": 2, "rounds": 5, "gradient": "truncated", "backprop_steps": 1, "partition": "iid", "fine_tune_lr": 0.01},
    ],
    "09-evidence": [{"deployed": 10, "quadratic_seed": 1}, {"deployed": 1, "group": "trained"}],
    "04-how-it-converges": [
        {"n_agents": 5, "nu": 5, "rounds": 5, "local_steps": 2, "seed": 1},
        {"n_agents": 6, "agents_per_round": 3, "nu": 0, "rounds": 3, "fine_tune_lr": 0.5, "step_share": 0.1},
        {"n_agents": 4, "agents_per_round": 1, "nu": 1, "rounds": 4, "fine_tune_lr": 0.01, "seed": 2},
    ],
    "05-when-nu-helps-and-when-it-hurts": [
        {"nu": 5, "largest_nu": 2, "rounds": 2, "n_agents": 4, "seed": 1},
        {"nu": 0, "largest_nu": 1, "rounds": 3, "n_agents": 5, "fine_tune_lr": 0.9, "real_lr": 0.01},
        {"nu": 1, "largest_nu": 4, "rounds": 1, "n_agents": 3, "fine_tune_lr": 0.1, "real_lr": 1.0, "seed": 2},
    ],
}


@pytest.fixture(scope="module")
def tools():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(folder: Path) -> subprocess.CompletedProcess:
    """Run nbval in its strict form: every committed output must come out again."""
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-p", "no:cacheprovider"]
    command += ["-W", "default", str(folder)]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "TQDM_DISABLE": "1"}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_what_the_notebook_gives(path, tmp_path):
    shutil.copy(path, tmp_path)
    ran = compare(tmp_path)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert re.search(r"\d+ passed", ran.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        pytest.param(path, small, id=f"{path.stem}-{i}")
        for path in NOTEBOOKS
        for i, small in enumerate(SMALL[path.stem])
    ],
)
def test_other_parameters(tools, path, parameters, tmp_path):
    notebook = tools.execute(path, tmp_path / path.name, parameters)
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]


def test_misspelled_parameters_are_refused(tools, tmp_path):
    with pytest.raises(ValueError, match=r"has no parameter \['round'\]"):
        tools.execute(NOTEBOOKS[0], tmp_path / "x.ipynb", {"round": 3})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_fit_to_be_read_and_compared(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "demonstrates" in notebook.cells[0].source
    assert "*Time:" in notebook.cells[0].source
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert all(
        parameter["help"] for parameter in papermill.inspect_notebook(str(path)).values() if parameter["name"] != "seed"
    )
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("text/html" in output.get("data", {}) for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert all(output.metadata["image/png"]["alt"] for output in pictures)
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in code)
    text = path.read_text(encoding="utf-8")
    assert "widget-view" not in text
    assert not re.search(r"/(home|root|Users|tmp|work)/", text)
    assert path.stat().st_size < 500_000


def test_notebooks_point_to_their_neighbours_and_to_nothing_that_is_not_there(tools):
    read = {path.name: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    before = {name: [cell.source for cell in notebook.cells] for name, notebook in read.items()}
    assert before == {name: [cell.source for cell in nb.cells] for name, nb in tools.linked(read).items()}
    for name, cells in before.items():
        for target in re.findall(r"\]\((?!https?:|attachment:)([^)#\s]+)\)", "\n".join(cells)):
            assert (ROOT / "notebooks" / target).exists(), (name, target)


def test_nbval_sees_a_changed_number(tmp_path):
    """The comparison can fail: change one number in a committed table and it does."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("6 * 7", execution_count=1)])
    for result, passes in (("42", True), ("43", False)):
        notebook.cells[0].outputs = [
            nbformat.v4.new_output("execute_result", {"text/plain": result}, execution_count=1)
        ]
        nbformat.write(notebook, tmp_path / "small.ipynb")
        assert (compare(tmp_path).returncode == 0) == passes
