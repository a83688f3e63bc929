"""The house is in order: who imports whom, where the repository lives, workflows, hooks, citation."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import CycleError

import clean_machine
import house
import pictures
import pytest
import yaml

ROOT = clean_machine.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOME = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MAKE_TARGETS = set(re.findall(r"^(\w+):", MAKEFILE, flags=re.MULTILINE))


def test_imports_only_point_down():
    assert house.wrong_arrows() == []


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        (
            "theory/bounds.py",
            "from ..flower import app",
            "theory.bounds imports flower.app, which is not below",
        ),
        (
            "theory/bounds.py",
            "def late():\n    import gmfl_lite.explorer.panel",
            "theory.bounds imports explorer.panel,",
        ),
        ("plots/tables.py", "import gmfl_lite as gl", "plots.tables imports gmfl_lite, which"),
        ("engine/inner/deep.py", "from ...trainer import train", "engine.inner.deep imports trainer, which"),
        ("partition.py", "from . import data", "partition imports data, which"),
        ("objective.py", "from .basics import randomness", "objective imports basics.randomness: it knows nothing"),
        ("theory/constants.py", "from .bounds import drift", "a circle: theory."),
        ("plots/picture.py", "from . import curves", "a circle: plots"),
        ("novelty.py", "", "novelty is in the plan or in the package alone"),
    ],
)
def test_a_planted_import_that_does_not_point_down_is_found(module, line, fault, planted):
    found = house.wrong_arrows(planted(module, line))
    assert any(one.startswith(fault) for one in found), found


def test_the_first_page_stays_small_and_no_module_is_long():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in house.PACKAGE.rglob("*.py")}
    assert sum(length for path, length in lines.items() if path.parent == house.PACKAGE) < 3200
    assert {str(path): length for path, length in lines.items() if length > 350} == {}


def test_an_import_for_types_alone_may_point_up(planted):
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..explorer import Explorer"
    assert house.wrong_arrows(planted("theory/bounds.py", for_types)) == []


def test_no_picture_is_known_to_pyplot():
    assert not {name for name, others in house.foreign().items() if "matplotlib.pyplot" in others}


def test_the_picture_of_the_modules_is_in_step():
    drawn = (ROOT / "docs" / "modules.svg").read_text(encoding="utf-8")
    assert pictures.in_words(house.imports()) in drawn, "run `make pictures`"


def test_contributing_says_what_each_room_is_for():
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The house")[2].partition("\n## ")[0]
    listed = re.search(r"```text\n(.*?)```", section, flags=re.DOTALL)[1]
    assert set(house.rooms(house.imports())) - {"gmfl_lite"} <= set(re.findall(r"\w+", listed))


def test_essential_leaves_out_what_follows_and_refuses_circles():
    assert pictures.essential({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
    with pytest.raises(CycleError):
        pictures.essential({"a": {"b"}, "b": {"a"}})


def test_the_repository_has_one_address():
    texts = [path for pattern in ("*.md", "*.yml", "*.toml", "*.cff", "docs/**/*.md") for path in ROOT.glob(pattern)]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for found in re.findall(r"(?:github\.com|mybinder\.org/v2/gh)/([\w-]+/gmfl_lite)\b", text):
            assert found == HOME, path


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflow(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert {"name", "permissions", "jobs"} <= workflow.keys()
    assert set(workflow["permissions"].items()) <= {("contents", "read")}
    assert "pull_request_target" not in text, "code of strangers would run with our rights"
    for action in re.findall(r"uses: (.*)", text):  # a tag can be moved, a commit cannot
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action), action
    assert workflow[True]  # YAML reads the key "on" as a truth value
    for name, job in workflow["jobs"].items():
        for runner in job.get("strategy", {}).get("matrix", {}).get("os", [job["runs-on"]]):
            assert runner.partition("-")[0] in {"ubuntu", "macos", "windows"}, name
        assert job["timeout-minutes"] <= 60
        commands = [step["run"] for step in job["steps"] if "run" in step]
        rights = job.get("permissions", workflow["permissions"]).values()
        assert not commands or "write" not in rights, "nothing of ours runs where there is something to steal"
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, "what runs later finds no token on the disk"
        for command in commands:
            if name == "windows":
                assert command.startswith(("python -m pip install -e .[core-test]", "python -m pytest "))
            else:
                program, target, *_ = command.split()
                assert program == "make"
                assert target in MAKE_TARGETS, target
            for named in re.findall(r"tests/[\w/.]+", command):
                assert (ROOT / named).exists(), named


def test_publishing_takes_what_was_built_and_no_more_rights_than_it_needs():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"release": {"types": ["published"]}}
    assert workflow["permissions"] == {}
    jobs = workflow["jobs"]
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "build": {"contents": "read"},
        "attest": {"id-token": "write", "attestations": "write"},
        "publish": {"id-token": "write"},
    }
    assert [step["run"] for step in jobs["build"]["steps"] if "run" in step] == ["make release", "make wheel"]
    for name in ("attest", "publish"):  # which hold a token: nothing of ours runs there
        assert "build" in jobs[name]["needs"]
        assert jobs[name]["if"] == "vars.PUBLISH_TO_PYPI == 'true'"
        assert [step["uses"].partition("@")[0] for step in jobs[name]["steps"]][:1] == ["actions/download-artifact"]
        assert len(jobs[name]["steps"]) == 2
    assert jobs["publish"]["environment"]["name"] == "pypi"
    assert not re.search(r"secrets\.|password:|token:(?! write)", text)


def test_pages_are_published_by_a_job_that_runs_nothing_of_ours():
    text = (ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"branches": ["main"]}}
    assert workflow["permissions"] == {}
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    assert build["permissions"] == {"contents": "read"}
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    assert [step["run"] for step in build["steps"] if "run" in step] == ["make docs"]
    assert [step["uses"].partition("@")[0] for step in deploy["steps"]] == ["actions/deploy-pages"]
    for action in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action), action


def test_workflows_cover_the_supported_pythons():
    check = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8"))
    assert check["jobs"].keys() == {"tests", "windows", "oldest", "thorough", "docs", "binder"}
    for job in ("tests", "windows"):
        pythons = check["jobs"][job]["strategy"]["matrix"]["python"]
        assert PROJECT["requires-python"] == f">={pythons[0]}"
        minors = [int(python.removeprefix("3.")) for python in pythons]
        assert minors == list(range(minors[0], 15))
    oldest = check["jobs"]["oldest"]["steps"][1]["with"]["python-version"]
    assert PROJECT["requires-python"] == f">={oldest}"


def test_the_core_is_what_there_is_and_runs_without_extras():
    """Where the extras are not installed, these files can be imported: with the oldest versions and on Windows."""
    lines = (ROOT / "tests" / "core.txt").read_text(encoding="utf-8").split()
    core = [line for line in lines if not line.startswith("--deselect=gmfl_lite/")]  # an example that needs the panel
    assert core == sorted(set(core), key=core.index)
    found = [ROOT / line for line in core]
    assert all(path.exists() for path in found)
    files = [file for path in found for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    files += [ROOT / "tests" / "conftest.py"]
    for file in files:
        imported = set(re.findall(r"^(?:from|import) (\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert not imported & {
            "flwr",
            "ipywidgets",
            "kernels_by_files",
            "jupyter_client",
            "IPython",
            "nbformat",
            "papermill",
            "psutil",
        }, file


def test_ci_runs_what_readme_says():
    commands = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert commands.rstrip().endswith("\ntime make demo\ntime make test\ntime make test-stored")


def test_what_the_suite_leaves_out_is_run_by_the_workflow():
    """On Linux all of it, in two parts; on ARM and macOS all but the notebooks."""
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8"))["jobs"]["thorough"]
    matrix = job["strategy"]["matrix"]
    assert matrix["part"] == ["--ignore=tests/notebooks"]
    assert matrix["include"] == [{"os": matrix["os"][0], "part": "tests/notebooks"}]
    assert [step["run"] for step in job["steps"] if "run" in step] == [
        'make thorough WORKERS=5 PYTEST_ARGS="${{ matrix.part }}"'
    ]
    recipe = MAKEFILE.split("\nthorough:")[1].split("\n")[1]
    assert recipe == "\t$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)", "with every test"


def test_hooks():
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    assert subprocess.run(command, check=False).returncode == 0
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (cleaner,) = [hook["entry"] for hook in hooks if hook["id"] == "nbstripout"]
    assert "--keep-output --keep-count" in cleaner, "nbval compares outputs, by their counts"


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "authors", "version", "preferred-citation"} <= citation.keys()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for cited in (citation["preferred-citation"], *citation["references"]):
        assert cited["title"].lower() in re.sub(r"\s+", " ", readme).lower()
        assert all(author["family-names"] in readme for author in cited["authors"])
        assert str(cited["year"]) in readme


@pytest.mark.parametrize(
    ("found", "made"),
    [("nothing", True), ("an old Python", True), ("one without pip", True), ("a good one", False)],
)
def test_a_virtual_environment_that_cannot_be_used_is_made_anew(found, made, tmp_path):
    """Played with scripts for Pythons, which write down what they are asked to do."""
    python = '#!/bin/sh\necho "$0 $*" >> log\n'
    good, bad = tmp_path / "python", tmp_path / "bad"
    good.write_text(
        python + 'if [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; fi\n', encoding="utf-8"
    )
    bad.write_text(python + 'if [ "$1" = -c ]; then exit 1; fi\n', encoding="utf-8")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    if found != "nothing":
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        shutil.copy(good if found == "a good one" else bad, tmp_path / ".venv" / "bin" / "python")
    for script in (good, bad, *tmp_path.glob(".venv/bin/python")):
        script.chmod(0o755)
    command = ["make", ".venv/ready", f"PYTHON={good}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    asked = (tmp_path / "log").read_text(encoding="utf-8")
    assert ("-m venv .venv" in asked) == made
    assert asked.rstrip().endswith("-m pip install --quiet --disable-pip-version-check -e .[notebooks]")
    shutil.rmtree(tmp_path / ".venv")
    refused = subprocess.run(
        [*command[:-1], f"PYTHON={bad}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "must be Python 3.11 or later" in refused.stdout
    assert not (tmp_path / ".venv").exists()


def test_one_process_runs_a_file(request):
    """What a file's tests share, such as a server or a browser, is made once; pytest-xdist has to know of it."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert "@" in request.node.nodeid
