"""What several test files share: small real data, small federations, and models in float64."""

import http.server
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each process that runs tests side by side, and for its kernels
    os.environ.update(OMP_NUM_THREADS="1", CPU_LIMIT="1")

import clean_machine
import house
import hypothesis
import numpy as np
import pytest
import torch
import warm_kernels
from click.testing import CliRunner
from quick_settings import QUICK

import gmfl_lite as gl
from gmfl_lite.command_line import program
from gmfl_lite.engine import recording

if find_spec("rich"):  # of Flower and scikit-learn; its import draws from Python's global generator, so not in a test
    import rich.style  # noqa: F401
if find_spec("jupyter_client"):  # the core of the suite runs without
    import kernels_by_files  # noqa: F401  no kernel of ours dies because another process took its port

hypothesis.settings.register_profile("any machine", deadline=None)  # what is slow for a moment is not wrong
hypothesis.settings.load_profile("any machine")

LONGEST = (
    "tests/flower/test_app.py",
    "tests/browser/",
    "tests/test_docs.py",
    "tests/test_readme.py",
    "tests/test_evidence.py",
    "tests/explorer/test_background_runs.py",
    "tests/notebooks/",
    "tests/command_line/",
    "tests/explorer/",
)
"""What begins first: what comes last is done by one process while the others are idle.

Files that take minutes and that one process runs from beginning to end; then notebooks, which all processes share.
"""


APART = (
    "tests/flower/test_app.py",
    "tests/notebooks/test_doors.py",
    "tests/notebooks/test_notebooks.py",
    "tests/notebooks/test_parameters.py",
)
"""Files whose slow tests take minutes and share nothing: a process that is free takes the next of them."""


TOGETHER = dict.fromkeys(
    ("tests/browser/test_accessibility.py", "tests/browser/test_documentation.py"), "tests/test_docs.py"
)
"""Files that one process runs after another, as they share what takes long to make."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        alone = item.nodeid.startswith(APART) and item.get_closest_marker("slow")
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(item.nodeid if alone else TOGETHER.get(file, file)))
    items.sort(
        key=lambda item: next((i for i, long in enumerate(LONGEST) if item.nodeid.startswith(long)), len(LONGEST))
    )


@pytest.fixture(autouse=True)
def _no_recordings_of_other_tests():
    recording.forget()


@pytest.fixture(scope="session")
def digits() -> gl.Dataset:
    return gl.load_dataset("digits")


@pytest.fixture(scope="session")
def federation(digits: gl.Dataset) -> gl.Federation:
    """Twelve trained-on and three new agents of unequal sizes."""
    parts = gl.partition(digits.y, gl.Dirichlet(0.5), 15, seed=1)
    parts = [part[: max(4, len(part) - 7 * agent)] for agent, part in enumerate(parts)]
    return gl.Federation.from_partition(digits, parts, n_new_agents=3, seed=1)


@pytest.fixture(scope="session")
def one_giant() -> gl.Federation:
    """Ten agents that train and two new ones: the eighth has 1,500 samples, the others 8 to 14."""
    sizes = [8, 9, 10, 11, 12, 13, 14, 1500, 8, 9, 10, 14]
    generator, total = torch.Generator().manual_seed(0), sum(sizes)
    images = torch.rand(total, 1, 4, 4, generator=generator)
    labels = (4 * images[:, 0, 0, :3]).int().sum(1).clamp(max=9).long()
    dataset = gl.Dataset("one giant", images, labels, tuple("0123456789"))
    return gl.Federation.from_partition(dataset, np.split(np.arange(total), np.cumsum(sizes)[:-1]), n_new_agents=2)


@pytest.fixture
def one_by_one(monkeypatch):
    """Let every point of a sweep reach gl.run, alike or not."""
    monkeypatch.setattr(sys.modules["gmfl_lite.sweep.grid"], "AT_ONCE", 1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def untouched_global_generators():
    """No code of ours may read or write the global random generators: every test checks that they stand still."""
    import random

    random.seed(123)
    np.random.seed(123)  # noqa: NPY002
    torch.manual_seed(123)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    yield
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert before == after, "a global random generator was used"


@pytest.fixture(scope="module")
def processes():
    """Return how new processes start: where that can be, from one that has imported everything, as it takes seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        yield multiprocessing.get_context("spawn")
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loaded"])
    with pytest.MonkeyPatch.context() as patch:  # Python 3.11's server has not got our path
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield context


@pytest.fixture
def forked_kernels(processes, monkeypatch):
    """Fork the notebook kernels that this test starts, where processes can be forked."""
    if processes.get_start_method() == "forkserver":
        function = "jupyter_client.provisioning.local_provisioner.launch_kernel"
        monkeypatch.setattr(function, partial(warm_kernels.launch_kernel, processes))


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """Build the documentation as `make docs` does, without a network."""
    folder = tmp_path_factory.mktemp("docs")
    repository = clean_machine.checkout(folder)
    no_network = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    variables = clean_machine.empty_home(folder) | no_network | {"PYTHONPATH": str(repository)}
    clean_machine.run(["make", "docs"], repository, variables)
    return repository / "site"


@pytest.fixture(scope="session")
def served(site) -> Iterator[str]:
    """Serve the documentation on this computer, as GitHub Pages would; give its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def planted(tmp_path):
    """Plant a line in a module of a copy of the library and return the copy."""

    def plant(module: str, line: str) -> Path:
        copy = shutil.copytree(house.PACKAGE, tmp_path / "gmfl_lite", ignore=shutil.ignore_patterns("__pycache__"))
        (copy / module).parent.mkdir(exist_ok=True)
        with open(copy / module, "a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
        return copy

    return plant


def pytest_terminal_summary(terminalreporter):
    """Print what tests measured and recorded with `record_property`."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    measured = [pair for report in reports for pair in getattr(report, "user_properties", [])]
    if measured:
        terminalreporter.section("measured")
        for what, value in measured:
            terminalreporter.write_line(f"{what}: {value}")


# Of the command line.


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Work in a folder of the test's own, without bars."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def experiment(tmp_path):
    """Return what writes a file of settings, quick ones unless told otherwise, and returns its name."""

    def write(more: str = "", text: str = QUICK, name: str = "experiment.yaml") -> str:
        (tmp_path / name).write_text(text + more, encoding="utf-8")
        return name

    return write


@pytest.fixture
def command():
    """Return what runs a command in this process: (exit code, all that it printed)."""

    def run(*arguments: str) -> tuple[int, str]:
        ran = CliRunner().invoke(program, list(arguments), prog_name="gmfl_lite")
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        return ran.exit_code, ran.output

    return run


@pytest.fixture(scope="module")
def browser():
    """Chromium, for tests that look at pages; screenshots are left in artefacts/."""
    import chromium

    (clean_machine.ROOT / "artefacts").mkdir(exist_ok=True)
    with chromium.started() as browser:
        yield browser
