"""What README and CONTRIBUTING show works as it stands there: every block is run, or says what it needs instead."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import clean_machine
import doors
import pytest
from PIL import Image

ROOT = clean_machine.ROOT
DOCUMENTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
BLOCK = re.compile(r"(?:<!-- needs: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PERCENT = r"\d+ %"
SHOWN = {"text"}
"""Languages of blocks that nobody would run."""
UNTESTABLE = {"conda", "uv", "github.com", "pytorch.org", "Docker"}
"""What a test machine need not have."""
ELSEWHERE = {"make lab", "make docs", "make release"}
"""Commands with tests of their own: below, in test_docs.py and in test_release.py."""


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (document, code) of every block that is to be run."""
    found = [(name, *block) for name, text in DOCUMENTS.items() for block in BLOCK.findall(text)]
    return [(name, code) for name, needs, of, code in found if of == language and not needs]


COMMANDS = sorted(
    {
        command
        for _, code in blocks("bash")
        for command in (re.sub(r"\s{2,}#.*", "", line) for line in code.splitlines())
        if command
    }
)


MADE = {command.rpartition("> ")[2]: command for command in COMMANDS if command.startswith("printf")}
"""Files that a command of README makes, and by which one: others take them, perhaps in another process here."""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_is_run_or_says_what_it_needs(name):
    found = BLOCK.findall(DOCUMENTS[name])
    assert DOCUMENTS[name].count("\n```") == 2 * len(found)
    for needs, language, code in found:
        assert language in SHOWN | {"python", "bash"}, code
        assert not needs or needs in UNTESTABLE, needs
    outside = BLOCK.sub("", DOCUMENTS[name])
    assert not re.search(r"^(?: {4,}|\t)\S", outside, flags=re.MULTILINE), "an indented block would not be run"
    assert "<!-- needs:" not in outside, "a mark with no block below it"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Return a copy of the repository whose first notebook is a short one; the others are run elsewhere."""
    copy = clean_machine.checkout(tmp_path_factory.mktemp("checkout"))
    notebook = copy / "notebooks" / "00-start-here.ipynb"
    text = re.sub(r'"rounds: int = \d+', '"rounds: int = 2', notebook.read_text(encoding="utf-8"))
    notebook.write_text(text, encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def variables(checkout) -> dict[str, str]:
    """Return the environment of a newcomer; the copy is what is imported."""
    return clean_machine.empty_home(checkout.parent) | {"PYTHONPATH": str(checkout)}


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ELSEWHERE])
def test_command(command, checkout, variables, tmp_path):
    if command.startswith("python -m pip"):  # for somebody's own environment, so: one of its own
        binaries = clean_machine.new_environment(tmp_path)
        variables = clean_machine.empty_home(tmp_path, binaries)
    if command.startswith("python -m gmfl_lite"):
        variables = variables | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])}
    if command.startswith("make test"):  # which is running already: here on one file, without more processes
        variables = variables | {"PYTEST_ARGS": "tests/basics/test_randomness.py", "WORKERS": "0"}
    before = [made for file, made in MADE.items() if file in command.split() and made != command]
    printed = clean_machine.run(["bash", "-euc", "\n".join([*before, command])], checkout, variables)
    if command == "make demo":
        assert "ν" in printed
        assert re.search(r"\d\d", printed)


def test_commands_tested_elsewhere_are():
    assert set(COMMANDS) >= ELSEWHERE
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("*.py"))
    for command in ELSEWHERE:
        assert str(command.split()).replace("'", '"') in tests, command


@pytest.mark.slow
def test_lab_opens_the_first_notebook(checkout, variables, tmp_path):
    """Start `make lab` without a browser, ask the server for the notebook, and end it as Ctrl-C would."""
    settings = {"open_browser": False, "port": 0, "allow_root": True, "ip": "127.0.0.1"}
    (tmp_path / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": settings, "ExtensionApp": settings}), encoding="utf-8"
    )
    own = {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        lab = subprocess.Popen(
            ["make", "lab"], cwd=checkout, env=variables | own, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(3000):
            running = [
                json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "runtime").glob("jpserver-*.json")
            ]
            opened = list((tmp_path / "runtime").glob("jpserver-file-to-run-*-open.html"))
            if running and opened and (page := opened[0].read_text(encoding="utf-8")):
                break
            assert lab.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
            time.sleep(0.1)
        path = re.search(r"lab/tree/([^?]*00-start-here\.ipynb)", page)[1]
        request = f"{running[0]['url']}api/contents/{path}?content=0"
        headers = {"Authorization": f"token {running[0]['token']}"}
        with urllib.request.urlopen(urllib.request.Request(request, headers=headers), timeout=60) as answer:
            assert json.load(answer)["type"] == "notebook"
    finally:
        os.killpg(lab.pid, signal.SIGKILL)
        lab.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("document", "code"), [b for b in blocks("python") if b[0] != "README.md"])
def test_python_block(document, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, document, "exec"), {"__name__": "block"})


@pytest.mark.slow
def test_readme_example_makes_the_picture_that_readme_shows(checkout, variables):
    """`make pictures` runs README's Python and puts its picture, and a description of it, into README."""
    (code,) = [code for document, code in blocks("python") if document == "README.md"]
    assert len(code.splitlines()) <= 12
    assert 'savefig("adaptation.png")' in code
    clean_machine.run(["make", "pictures"], checkout, variables)
    made, kept = (Image.open(root / "docs" / "adaptation.png").text["Description"] for root in (checkout, ROOT))
    assert re.split(PERCENT, made) == re.split(PERCENT, kept), "run `make pictures`"
    assert numbers(made) == pytest.approx(numbers(kept), abs=3), "run `make pictures`"  # on another machine
    assert f"![{kept}](docs/adaptation.png)" in DOCUMENTS["README.md"]


def numbers(text: str) -> list[int]:
    """Return the percentages that a description names."""
    return [int(number.split()[0]) for number in re.findall(PERCENT, text)]


def test_links_exist():
    for name, text in DOCUMENTS.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text):
            assert (ROOT / target).exists(), (name, target)
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, (name, anchor)


def test_badge_opens_the_first_notebook():
    (address,) = re.findall(r"\[!\[Binder\]\(.*?\)\]\((.*?)\)", DOCUMENTS["README.md"])
    first = sorted((ROOT / "notebooks").glob("*.ipynb"))[0]
    assert address == doors.addresses(first.name)["Binder"]
