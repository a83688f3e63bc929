"""Binder, conda and pip install the same packages, and Binder builds from what binder/ says."""

import re
import sys
import tomllib
from pathlib import Path

import clean_machine
import house
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = clean_machine.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "matplotlib-base": "matplotlib",
    "seaborn-base": "seaborn",
}
"""What conda-forge calls differently from PyPI."""


def pip_packages(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(package.name): package for package in map(Requirement, lines)}


def conda_packages(path: Path) -> dict[str, Requirement]:
    environment = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    *conda, by_pip = environment["dependencies"]  # what conda-forge may not have comes from PyPI, at the end
    lines = [re.sub(r"(?<=\w)=(?=\d)", "==", line) for line in conda] + by_pip["pip"]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(CONDA_NAMES.get(package.name, package.name)): package for package in found}


CORE, EXTRAS = pip_packages(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
PIP = CORE | pip_packages(EXTRAS["notebooks"])
CONDA = conda_packages(ROOT / "environment.yml")
BINDER = conda_packages(ROOT / "binder" / "environment.yml")


def test_conda_installs_what_pip_does():
    assert CONDA.keys() == PIP.keys() | {"python", "pip"}
    assert {name: CONDA[name].specifier for name in PIP} == {name: package.specifier for name, package in PIP.items()}
    assert str(CONDA["python"].specifier) == PROJECT["requires-python"]


def test_binder_installs_the_same_or_newer():
    assert BINDER.keys() == CONDA.keys() | {"ipykernel"}
    for name in PIP:
        (bound,) = BINDER[name].specifier
        assert bound.operator == ">=", name
        assert CONDA[name].specifier.contains(bound.version), name
    (python,) = BINDER["python"].specifier
    assert python.operator == "=="
    assert len(Version(python.version).release) == 2, "one minor, whatever patch conda-forge has"
    assert CONDA["python"].specifier.contains(python.version)


def test_conda_forge_would_install_what_pip_does():
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    least = recipe["context"]["python_min"]
    assert PROJECT["requires-python"] == f">={least}"
    lines = [line.replace("${{ python_min }}", least) for line in recipe["requirements"]["run"]]
    found = {canonicalize_name(CONDA_NAMES.get(one.name, one.name)): one.specifier for one in map(Requirement, lines)}
    core = {name: package.specifier for name, package in CORE.items()}
    assert found == core | {"python": Requirement(f"python>={least}").specifier}
    built_with = [line.replace(" ", "") for line in recipe["requirements"]["host"]]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(pyproject["build-system"]["requires"]) <= set(built_with)
    scripts = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["homepage"] == PROJECT["urls"]["Repository"]
    assert recipe["package"] == {"name": PROJECT["name"], "version": "${{ version }}"}


def test_repo2docker_builds_from_binder(tmp_path):
    """What mybinder.org runs picks conda's build pack and writes a Dockerfile; no Docker is needed for that."""
    pytest.importorskip("repo2docker")
    repository = clean_machine.copy_of_the_repository(tmp_path)
    command = [sys.executable, "-m", "repo2docker", "--no-build", str(repository)]
    dockerfile = clean_machine.run(command, tmp_path, clean_machine.empty_home(tmp_path))
    assert "activate-conda" in dockerfile
    assert re.search(r"py-2d3-2e12\b", dockerfile), "conda's base environment is of another Python"
    assert "dataset-fashion-mnist" in dockerfile
    assert 'env update -p ${NB_PYTHON_PREFIX} --file "binder/environment.yml"' in dockerfile
    assert "RUN ./binder/postBuild" in dockerfile


def test_what_git_ignores_is_not_copied_into_the_image():
    """repo2docker reads binder/.dockerignore alone; `make binder` makes a .venv of gigabytes first."""
    ignored = (ROOT / "binder" / ".dockerignore").read_text(encoding="utf-8").split("\n")
    large = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()} & {
        ".venv",
        ".venv-oldest",
        "build",
        "dist",
        "site",
    }
    assert large | {"artefacts", ".git"} <= set(ignored)


def undeclared(folder: Path = house.PACKAGE) -> list[str]:
    of_rooms = {"flower": EXTRAS["flower"], "gpu_check": EXTRAS["dask"], "privacy": EXTRAS["privacy"]}
    of_rooms |= dict.fromkeys(("explorer", "exercises"), EXTRAS["notebooks"])  # exercises: gl.predict alone
    extras = {room: set(pip_packages(lines)) for room, lines in of_rooms.items()}
    return house.undeclared(folder, set(CORE), extras)


def test_what_is_imported_is_asked_for():
    """Not only by way of something else that needs it today; widgets by the explorer and gl.predict alone."""
    assert undeclared() == []


@pytest.mark.parametrize("package", ["scipy", "ipywidgets", "flwr"])
def test_a_planted_import_that_nobody_asked_for_is_found(package, planted):
    assert undeclared(planted("theory/bounds.py", f"import {package}")) == [f"theory.bounds imports {package}"]


@pytest.mark.slow
def test_post_build_leaves_the_package_importable(tmp_path):
    repository = clean_machine.copy_of_the_repository(tmp_path)
    binaries = clean_machine.new_environment(tmp_path)
    variables = clean_machine.empty_home(tmp_path, binaries)
    where = [
        "python",
        "-I",
        "-c",
        "import importlib.util as i; print(getattr(i.find_spec('gmfl_lite'), 'origin', None))",
    ]
    assert clean_machine.run(where, tmp_path, variables).strip() == "None"
    clean_machine.run(["binder/postBuild"], repository, variables)
    assert clean_machine.run(where, tmp_path, variables).strip() == str(repository / "gmfl_lite" / "__init__.py")
