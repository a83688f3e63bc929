"""A machine as clean as a test can make one: a copy of the repository, a home with nothing in it, a new environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).parent.parent
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", "__pycache__", "artefacts", "dist", "site", "*.egg-info"
)


def copy_of_the_repository(folder: Path) -> Path:
    """Copy what a fresh clone would hold."""
    return shutil.copytree(ROOT, folder / "gmfl_lite", symlinks=True, ignore=_LEFT_OUT)


def checkout(folder: Path) -> Path:
    """Return such a copy that git knows, with this environment as its .venv, so that make has nothing to install."""
    copy = copy_of_the_repository(folder)
    (copy / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith("ready"):
            (copy / ".venv" / entry.name).symlink_to(entry)
    for ready in ("ready", "ready-to-test"):
        (copy / ".venv" / ready).touch()
    if (ROOT / ".mypy_cache").exists():  # what `make lint` has found out takes a quarter of a minute
        shutil.copytree(ROOT / ".mypy_cache", copy / ".mypy_cache")
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=copy, check=True)
    return copy


def new_environment(folder: Path, without: Collection[str] = ()) -> Path:
    """Make a virtual environment that has every package of this one but gmfl_lite and some; return its bin folder.

    The packages are links: to copy torch would take minutes.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    packages = folder / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "gmfl_lite" not in entry.name and entry.name not in {"__pycache__", *without} and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    paths = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    Path(sysconfig.get_path("purelib", vars=paths), "linked.pth").write_text(f"{packages}\n", encoding="utf-8")
    return Path(sysconfig.get_path("scripts", vars=paths))


def empty_home(folder: Path, *first_on_path: Path) -> dict[str, str]:
    """Return the environment variables of somebody who has just logged in, with nothing of this project set."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST", "JUPYTER", "XDG", "GMFL_LITE_DATA", "VIRTUAL_ENV", "MAKE"))
    }
    path = os.pathsep.join([*map(str, first_on_path), os.environ["PATH"]])
    # Without isolation (pip's "no" means "yes" here) nothing is downloaded to build with: hatchling is installed.
    return {**kept, "HOME": str(home), "PATH": path, "PIP_NO_BUILD_ISOLATION": "no", "TQDM_DISABLE": "1"}


def run(command: list[str], folder: Path, variables: dict[str, str], timeout: float = 1800) -> str:
    """Run a command that must succeed and return what it printed."""
    ran = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout
