"""The notebooks open elsewhere: their first cell installs the library where it is not, and they need nothing else."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import clean_machine
import doors
import kernels_by_files
import nbformat
import pytest
from jupyter_client import KernelManager
from jupyter_client.provisioning.local_provisioner import LocalPortCache
from nbclient import NotebookClient
from packaging.requirements import Requirement
from test_notebooks import NOTEBOOKS, needs
from test_parameters import PARAMETERS

import gmfl_lite as gl

WITHOUT_THE_LIBRARY = """
import sys
from pathlib import Path

sys.path[:] = [folder for folder in sys.path if not (Path(folder) / "gmfl_lite").exists()]
"""
PIP = """
import json, sys

with open({!r}, "a", encoding="utf-8") as file:
    print(json.dumps(sys.argv[1:]), file=file)
"""


def run_first_cells(*before: str) -> list[nbformat.NotebookNode]:
    """Run the first cell of every notebook in one real kernel, after other code, and return them."""
    sources = [*before, *(doors.install(path.name) for path in NOTEBOOKS)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    return NotebookClient(notebook, kernel_name="python3", timeout=600).execute().cells[len(before) :]


@pytest.mark.skipif(not kernels_by_files.POSSIBLE, reason="no sockets in files here, or no short path for them")
def test_a_kernel_starts_although_every_port_that_was_free_is_taken_meanwhile(forked_kernels, monkeypatch):
    """As beside tests that open many ports: the kernel dies where it was told one of them."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(LocalPortCache, "find_available_port", lambda self, ip: port)
        cell = nbformat.v4.new_code_cell("6 * 7")
        ran = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3", timeout=60).execute()
    assert ran.cells[0].outputs[0].data["text/plain"] == "42"


@pytest.mark.skipif(not kernels_by_files.POSSIBLE, reason="no sockets in files here, or no short path for them")
def test_kernels_that_start_together_have_files_of_their_own(forked_kernels, tmp_path):
    """Also where a kernel works in another folder than who speaks to it; nothing is left in either."""
    before, kernels = set(os.listdir()), []
    for number in range(2):
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(cwd=str(tmp_path))
        client = manager.client()
        client.start_channels()
        kernels.append((number, manager, client))
    for number, _, client in kernels:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(f"import pathlib; pathlib.Path('{number}').touch()", timeout=60)
    for _, manager, client in kernels:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]
    assert set(os.listdir()) == before


def test_the_first_cell_does_nothing_where_the_library_is(forked_kernels):
    assert [cell.outputs for cell in run_first_cells()] == [[]] * len(NOTEBOOKS)


def test_elsewhere_the_first_cell_asks_pip_for_this_version_and_what_the_notebook_needs(tmp_path, monkeypatch):
    """As on Colab, whose own package is not looked at: in a kernel without the library, with a pip that takes notes."""
    for package, source in (("pip", PIP.format(str(tmp_path / "asked"))), ("google/colab", "raise AssertionError")):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text(source * (package != "pip"), encoding="utf-8")
        (tmp_path / package / "__main__.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run_first_cells(WITHOUT_THE_LIBRARY)
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text(encoding="utf-8").splitlines()]
    assert [arguments[:-1] for arguments in asked] == [["install", "-q"]] * len(NOTEBOOKS)
    wanted = {path.stem: Requirement(package) for path, (*_, package) in zip(NOTEBOOKS, asked, strict=True)}
    reference = f"git+https://github.com/gmfl-lite/gmfl_lite@v{gl.__version__}"
    assert {(package.name, package.url) for package in wanted.values()} == {("gmfl_lite", reference)}
    extras = {stem: [*package.extras] for stem, package in wanted.items() if package.extras}
    assert extras == {"10-real-federation": ["flower"], "11-many-machines": ["dask"], "13-your-own-data": ["people"]}
    assert {extra for (extra,) in extras.values()} <= doors.PROJECT["optional-dependencies"].keys()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy of the repository, and leave nothing of the copy."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = clean_machine.copy_of_the_repository(folder)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder), str(copy)]
    clean_machine.run(command, folder, clean_machine.empty_home(folder))
    shutil.rmtree(copy)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_alone_in_a_folder_it_runs_from_the_wheel(path, wheel, tmp_path):
    """Without the repository, and without what other notebooks need."""
    parameters = PARAMETERS[path.stem][0]
    needs(parameters, path)
    without = {package for stem, (_, package) in doors.EXTRAS.items() if stem != path.stem}
    variables = clean_machine.empty_home(tmp_path, clean_machine.new_environment(tmp_path, without))
    # The kernel takes no port that another process may have taken meanwhile.
    shutil.copy(kernels_by_files.__file__, tmp_path / "packages" / "sitecustomize.py")
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(path, folder)
    clean_machine.run(["python", "-m", "pip", "install", "--no-deps", "-q", str(wheel)], folder, variables)
    command = ["python", "-I", "-m", "papermill", path.name, str(tmp_path / "ran.ipynb"), "--no-progress-bar"]
    command += ["--kernel", "python3", "--parameters_yaml", json.dumps(parameters)]
    clean_machine.run(command, folder, variables)
    assert [left.name for left in folder.iterdir()] == [path.name]
