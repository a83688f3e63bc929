"""What a release would hold: sdist and wheel are built, and the wheel runs in an environment without notebooks."""

import re
import tarfile
import zipfile
from pathlib import Path

import clean_machine
import pytest

import gmfl_lite as gl

NOTEBOOKS = ("IPython", "ipywidgets", "jupyterlab", "papermill", "nbval")
"""What the quickstart must do without."""

INSTALLED = """
assert "site-packages" in gl.__file__, gl.__file__
print({result.status for result in results.values()}, gl.__version__)
"""


def quickstart() -> str:
    """Return README's example, with fewer rounds."""
    readme = (clean_machine.ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL)[1].replace('"rounds": 100', '"rounds": 2')


@pytest.mark.slow
def test_wheel_and_sdist_install_and_run(tmp_path):
    repository = clean_machine.checkout(tmp_path)
    clean_machine.run(["make", "release"], repository, clean_machine.empty_home(tmp_path))
    (wheel,) = repository.glob("dist/*.whl")
    (source,) = repository.glob("dist/*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    assert {Path(name).parts[0].split("-")[0] for name in names} == {"gmfl_lite"}, "the wheel holds the package alone"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "gmfl_lite/py.typed" in names, "editors and type checkers use its types"
    assert "gmfl_lite/readers/plays.txt" in names
    with tarfile.open(source) as archive:
        assert any(name.endswith("/gmfl_lite/readers/plays.txt") for name in archive.getnames())
    binaries = clean_machine.new_environment(tmp_path, without=NOTEBOOKS)
    variables = clean_machine.empty_home(tmp_path, binaries)
    elsewhere = Path(variables["HOME"])
    for built in (source, wheel):  # pip builds a wheel from the source, too
        command = ["python", "-m", "pip", "install", "--no-deps", "--force-reinstall", "-q", str(built)]
        clean_machine.run(command, elsewhere, variables)
    printed = clean_machine.run(["python", "-I", "-c", quickstart() + INSTALLED], elsewhere, variables)
    assert printed.splitlines()[-1] == f"{{'completed'}} {gl.__version__}"
    assert clean_machine.run(["gmfl-lite", "--version"], elsewhere, variables).endswith(f" {gl.__version__}\n")
    assert (elsewhere / "adaptation.png").read_bytes().startswith(b"\x89PNG")


def test_version_is_the_same_everywhere():
    for document, line in (
        ("pyproject.toml", f'version = "{gl.__version__}"'),
        ("CITATION.cff", f"version: {gl.__version__}"),
        ("conda/recipe.yaml", f'version: "{gl.__version__}"'),
        ("CHANGELOG.md", f"## {gl.__version__}"),
    ):
        assert line in (clean_machine.ROOT / document).read_text(encoding="utf-8"), document
