"""Files of settings that are quick to run."""

import pytest
from click.testing import CliRunner
from quick_settings import QUICK

from gmfl_lite.command_line import program


@pytest.fixture(autouse=True)
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
