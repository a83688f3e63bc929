"""The notebooks run at the cost they state, and their committed outputs are what they give."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import doors
import guards
import kernels_by_files
import nbformat
import pytest
from clean_machine import ROOT
from guards import Cost
from other_arithmetic import ANOTHER_PROCESSOR, PRODUCTS, nudged_kernels

import gmfl_lite as gl
import notebooks as tools

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BADGES, FIRST = (f"the {what} not what `link` writes" for what in ("badges below the title are", "first code cell is"))
LONG = 15  # seconds
SLOWER = 2
"""How many times as long the other processor's arithmetic may take; products take 1.3 to 1.7 times as long."""


def compare(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """Run nbval in its strict form: every committed output must come out again, on any processor.

    The outputs were made with this processor's own arithmetic; here they are compared with another's (sums in another
    order, products in other blocks), and every model starts one unit in the last place away.
    """
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "kernels_by_files", "-W", "default", *options, str(folder)]
    another = {**ANOTHER_PROCESSOR, **nudged_kernels(folder / "ipython")}
    environment = {**os.environ, **another, "TQDM_DISABLE": "1", **environment}
    path = filter(None, (environment.get("PYTHONPATH"), str(Path(kernels_by_files.__file__).parent)))
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def needs(parameters: dict, path: Path) -> None:
    """Skip a notebook whose images, or whose optional extra, are not on this machine."""
    extra, package = doors.EXTRAS.get(path.stem, ("", "gmfl_lite"))
    if find_spec(package) is None:
        pytest.skip(f"needs the extra: pip install 'gmfl_lite[{extra}]'")
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    default = re.search(r'^dataset: str = "(.*?)"', source, flags=re.MULTILINE)
    name = parameters.get("dataset", default[1] if default else "digits")
    if name != "digits":
        try:
            gl.load_dataset(name, download=False)
        except FileNotFoundError:
            pytest.skip(f"{name} is not on this machine")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_what_the_notebook_gives_at_the_cost_it_states(path, tmp_path, record_property):
    needs({}, path)
    stated = guards.stated_cost(nbformat.read(tools.measured_copy(path, tmp_path), as_version=4))
    # Products of another maker take a long notebook half as long again; its sums and its start are others all the same.
    own_products = {} if stated.seconds <= LONG else dict.fromkeys(PRODUCTS, "")
    ran = compare(tmp_path, **own_products)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert re.search(r"\d+ passed", ran.stdout)
    measured = tools.cost(tmp_path)
    slow = f"on a machine {measured.slowness:.1f} times as slow"
    record_property(path.stem, f"{measured.seconds:.0f} s {slow}, {measured.gigabytes:.2f} GB; states {stated}")
    assert not guards.overruns(stated._replace(seconds=SLOWER * stated.seconds), measured)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_fit_to_be_read_and_compared(path):
    assert guards.faults(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    assert guards.broken_links(nbformat.read(path, as_version=4), path.parent) == []


def test_notebooks_point_to_their_neighbours_and_to_the_index():
    assert tools.linked(tools.read(NOTEBOOKS)) == tools.read(NOTEBOOKS)


def test_the_table_in_the_readme_is_in_step_with_the_notebooks():
    assert tools.index(tools.read(NOTEBOOKS)) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_whole_series_states_less_than_ten_minutes():
    assert sum(guards.stated_cost(notebook).seconds for notebook in tools.read(NOTEBOOKS).values()) < 600


def test_pages_have_the_alternative_texts_of_their_pictures():
    page = tools.as_page(NOTEBOOKS[0])
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]
    assert re.findall(r'<img alt="(.*?)"', page) == [f"Open in {door}" for door in doors.addresses("")] + texts
    assert f'href="{NOTEBOOKS[1].stem}.html"' in page


def without_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def with_widget_view(notebook):
    notebook.cells[3].outputs = [
        nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
    ]


def with_widget_state(notebook):
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}


def with_error(notebook):
    notebook.cells[3].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])]


def with_warning(notebook):
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", name="stderr", text="deprecated")]


def with_local_path(notebook):
    notebook.cells[4].source += "\nIt is in /home/somebody/data."


def without_alternative_texts(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.metadata = {}


def with_injected_parameters(notebook):
    notebook.cells[3].metadata.tags = ["injected-parameters"]


def without_cost(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("Time: ", "Time: about ")


def too_large(notebook):
    notebook.cells[4].source += "x" * 500_000


def run_out_of_order(notebook):
    notebook.cells[3].execution_count = 99


def without_a_comment(notebook):
    notebook.cells[2].source = re.sub("(seed.*)  #.*", r"\1", notebook.cells[2].source)


def without_a_type(notebook):
    notebook.cells[2].source = notebook.cells[2].source.replace("rounds: int", "rounds")


def with_a_derived_parameter(notebook):
    notebook.cells[2].source += "\nhalf: int = rounds // 2  # of the rounds"


def with_tags_that_hide(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.tags = [*cell.metadata.get("tags", []), "nbval-ignore-output"]


def with_comments_that_hide(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = f"# NBVAL_IGNORE_OUTPUT\n{cell.source}"


def without_badges(notebook):
    notebook.cells[0].source = re.sub(r"^\[!\[.*\n", "", notebook.cells[0].source, flags=re.MULTILINE)


def with_badges_of_another_version(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace(doors.TAG, "v0.0.1")


def without_the_first_cell(notebook):
    """As it was before it had one."""
    del notebook.cells[1]
    for part in (part for cell in notebook.cells for part in (cell, *cell.get("outputs", []))):
        if "execution_count" in part:
            part.execution_count -= 1


def with_an_edited_first_cell(notebook):
    notebook.cells[1].source = notebook.cells[1].source.replace(f"@{doors.TAG}", "")


def with_the_first_cell_below(notebook):
    notebook.cells[1:3] = reversed(notebook.cells[1:3])


def with_a_relative_path(notebook):
    notebook.cells[3].source += '\npd.read_csv("../studies/evidence/results.csv")'


def with_a_path_from_the_root(notebook):
    notebook.cells[3].source += '\npd.read_csv(Path("studies") / "evidence" / "results.csv")'


def with_a_relative_link(notebook):
    notebook.cells[4].source += "\nSee [the teachers' page](for-teachers.md)."


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (without_outputs, ["cells were not run once, in order", "no table is checked", "no picture"]),
        (with_widget_view, ["widget state was stored"]),
        (with_widget_state, ["widget state was stored"]),
        (with_error, ["an error is among the outputs"]),
        (with_warning, ["warnings are among the outputs"]),
        (with_local_path, ["a path of one machine"]),
        (without_alternative_texts, ["a picture has no alternative text"]),
        (with_injected_parameters, ["parameters were injected"]),
        (without_cost, ["the first cell does not state time and memory"]),
        (too_large, ["500 kB or more"]),
        (run_out_of_order, ["cells were not run once, in order"]),
        (without_a_comment, ["a parameter is not a constant with a type and a comment"]),
        (without_a_type, ["a parameter is not a constant with a type and a comment"]),
        (with_a_derived_parameter, ["a parameter is not a constant with a type and a comment"]),
        (with_tags_that_hide, ["no table is checked"]),
        (with_comments_that_hide, ["no table is checked", FIRST]),
        (without_badges, [BADGES]),
        (with_badges_of_another_version, [BADGES]),
        (without_the_first_cell, [FIRST]),
        (with_an_edited_first_cell, [FIRST]),
        (with_the_first_cell_below, ["cells were not run once, in order", FIRST]),
        (with_a_relative_path, ["a path is in the repository"]),
        (with_a_path_from_the_root, ["a path is in the repository"]),
        (with_a_relative_link, ["a link works in the repository only"]),
    ],
)
def test_a_doctored_notebook_is_not_fit(change, wrong, tmp_path):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    change(notebook)
    nbformat.write(notebook, tmp_path / NOTEBOOKS[0].name)
    assert sorted(guards.faults(tmp_path / NOTEBOOKS[0].name)) == sorted(wrong)


@pytest.mark.parametrize(
    "change",
    [
        without_badges,
        with_badges_of_another_version,
        without_the_first_cell,
        with_an_edited_first_cell,
        with_the_first_cell_below,
    ],
)
def test_link_mends_a_notebook_whose_doors_are_shut(change):
    notebooks = tools.read(NOTEBOOKS)
    change(notebooks[NOTEBOOKS[0].name])
    assert tools.linked(notebooks) == tools.read(NOTEBOOKS)


def test_link_lets_relative_links_lead_into_the_repository():
    cell = nbformat.v4.new_markdown_cell(
        "# T\n\n[a](../docs/own-data.md#x), [b](for-teachers.md), [c](#d), [e](01-f.ipynb)"
    )
    doors.open_doors("00-t.ipynb", nbformat.v4.new_notebook(cells=[cell]))
    there = f"[a]({doors.HERE}docs/own-data.md#x), [b]({doors.HERE}notebooks/for-teachers.md), [c](#d), [e](01-f.ipynb)"
    assert cell.source.endswith(there)


@pytest.mark.parametrize(
    "broken",
    ["09-not-there.ipynb", "picture.png", "../README.md#not-a-heading", "#not-here"]
    + [f"{doors.HERE}{there}" for there in ("README.md#not-a-heading", "docs/not-there.md")],
)
def test_a_broken_link_is_found(broken):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    assert guards.broken_links(notebook, NOTEBOOKS[0].parent) == []
    notebook.cells[4].source += f"\n\n![what is to be seen]({broken})"
    assert guards.broken_links(notebook, NOTEBOOKS[0].parent) == [broken]


@pytest.mark.parametrize(
    ("measured", "wrong"),
    [
        (Cost(47.0, 0.9), []),
        (Cost(47.1, 0.9), ["took 47 s, states 30 s"]),
        (Cost(94.0, 0.9, slowness=2.0), []),
        (Cost(94.4, 0.9, slowness=2.0), ["took 47 s, states 30 s"]),
        (Cost(5.0, 1.0), ["took 1.00 GB, must stay under 1 GB"]),
    ],
)
def test_a_notebook_that_takes_more_than_it_states_is_found(measured, wrong):
    assert guards.overruns(Cost(30, 0.9), measured) == wrong


@pytest.mark.parametrize(
    ("measured", "stated"),
    [
        (Cost(20.0, 0.9), "30 seconds on two cores, and then some. Memory: 0.95 GB"),
        (Cost(31.0, 0.9), "45 seconds on two cores, and then some. Memory: 0.95 GB"),
        (Cost(11.0, 0.3), "15 seconds on two cores, and then some. Memory: 0.30 GB"),
    ],
)
def test_what_is_stated_follows_what_is_measured(measured, stated):
    cell = nbformat.v4.new_markdown_cell("*Time: 30 seconds on two cores, and then some. Memory: 0.95 GB. All here.*")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    tools.restate(notebook, measured)
    assert cell.source == f"*Time: {stated}. All here.*"


def test_memory_is_measured_at_its_peak(tmp_path):
    """Half a gigabyte that is filled and given back is seen; a kernel does not inherit its parent's peak."""
    cell = nbformat.v4.new_code_cell("for size in (5 * 10**8, 1):\n    filled = bytearray(b'x') * size")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "large.ipynb")
    assert compare(tools.measured_copy(tmp_path / "large.ipynb", tmp_path).parent).returncode == 0
    measured = tools.cost(tmp_path)
    assert 0.5 < measured.gigabytes < 0.75
    assert 0 < measured.seconds < 60


@pytest.mark.slow
def test_what_other_processes_compute_is_measured(tmp_path):
    """Half of six seconds of work, for two cores, of a child that has ended, and of one that lives."""
    work = "import time\nwhile time.process_time() < 6: pass\nprint(flush=True)\n"
    run = f"import subprocess, sys\nargs = [sys.executable, '-c', {work!r}]\nsubprocess.run(args, stdout=-3)"
    stay = "child = subprocess.Popen([*args[:2], args[2] + 'input()'], stdin=-1, stdout=-1); child.stdout.readline()"
    costs = []
    for number, lines in enumerate(("", run, f"{run}\n{stay}")):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / f"{number}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(lines)]), path)
        assert compare(tools.measured_copy(path, tmp_path / str(number)).parent).returncode == 0
        costs.append(tools.cost(tmp_path / str(number)).seconds)
    assert costs[1] > costs[0] + 2.5
    assert costs[2] > costs[1] + 2.5


def test_misspelled_parameters_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no parameter \['round'\]"):
        tools.execute(NOTEBOOKS[0], tmp_path / "x.ipynb", {"round": 3})


@pytest.mark.slow
def test_nbval_sees_a_changed_number(tmp_path):
    """The comparison can fail: change one number in a committed table and it does."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("6 * 7", execution_count=1)])
    for result, passes in (("42", True), ("43", False)):
        notebook.cells[0].outputs = [
            nbformat.v4.new_output("execute_result", {"text/plain": result}, execution_count=1)
        ]
        nbformat.write(notebook, tmp_path / "small.ipynb")
        assert (compare(tmp_path).returncode == 0) == passes


@pytest.mark.slow
def test_nbval_sees_a_changed_constant_of_the_library(tmp_path):
    """With differences of gradients over a long way, Hessian-free is not exact any more."""
    shutil.copytree(ROOT / "gmfl_lite", tmp_path / "gmfl_lite", ignore=shutil.ignore_patterns("__pycache__"))
    gradients = tmp_path / "gmfl_lite" / "meta_gradients.py"
    text = gradients.read_text(encoding="utf-8")
    assert text.count("DELTA = 1e-5") == 1
    gradients.write_text(text.replace("DELTA = 1e-5", "DELTA = 0.3"), encoding="utf-8")
    [notebook] = (path for path in NOTEBOOKS if path.stem == "03-the-meta-objective-by-hand")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(notebook, tmp_path / "notebooks")
    ran = compare(tmp_path / "notebooks", "-x", PYTHONPATH=str(tmp_path))
    assert ran.returncode == 1
    assert "1 failed" in ran.stdout
    assert "Cell outputs differ" in ran.stdout


TRAINED = """
import gmfl_lite as gl

experiment = gl.Experiment(rounds=10, eval_every=10, local_steps=3, fine_tune_lr=0.3, meta_lr=0.3, precision="{}")
print(gl.run(experiment, progress=False).history.loss.round(8).tolist())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "passes"), [("float64", True), ("float32", False)])
def test_a_notebook_in_float32_does_not_pass(precision, passes, tmp_path):
    cell = nbformat.v4.new_code_cell(TRAINED.format(precision))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "small.ipynb")
    tools.execute(tmp_path / "small.ipynb", tmp_path / "small.ipynb")
    assert (compare(tmp_path).returncode == 0) == passes
