"""What a release would hold: sdist and wheel are built, and the wheel runs in an environment without notebooks."""

import re
import tarfile
import zipfile
from pathlib import Path

import clean_machine
import doors
import pytest

import gmfl_lite as gl

NOTEBOOKS = ("IPython", "ipywidgets", "jupyterlab", "papermill", "nbval")
"""What the quickstart must do without."""

INSTALLED = """
assert "site-packages" in gl.__file__, gl.__file__
assert len(gl.readers.read_study("evidence")) == len(gl.readers.read_study("evidence-quick")) + 1 == 4
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
    assert {"gmfl_lite/readers/plays.txt", "gmfl_lite/explain/frame.js", "gmfl_lite/explain/landscape.css"} <= {*names}
    with tarfile.open(source) as archive:
        assert any(name.endswith("/gmfl_lite/readers/plays.txt") for name in archive.getnames())
    binaries = clean_machine.new_environment(tmp_path, without=NOTEBOOKS)
    variables = clean_machine.empty_home(tmp_path, binaries)
    elsewhere = Path(variables["HOME"])
    install = ["python", "-m", "pip", "install", "--no-deps", "--force-reinstall", "-q"]
    for built in (source, wheel):  # pip builds a wheel from the source, too
        clean_machine.run([*install, str(built)], elsewhere, variables)
    printed = clean_machine.run(["python", "-I", "-c", quickstart() + INSTALLED], elsewhere, variables)
    assert printed.splitlines()[-1] == f"{{'completed'}} {gl.__version__}"
    assert (elsewhere / "adaptation.png").read_bytes().startswith(b"\x89PNG")
    clean_machine.run([*install, "-e", str(repository)], elsewhere, variables)
    found = "from gmfl_lite.readers import read_study, studies as m; print(len(read_study('evidence')), m.__file__)"
    printed = clean_machine.run(["python", "-I", "-c", found], elsewhere, variables)
    assert printed == f"4 {repository / 'gmfl_lite' / 'readers' / 'studies.py'}\n"
    assert not [*tmp_path.glob("env/**/site-packages/gmfl_lite")], "an editable install copies nothing"


def test_address_of_the_repository_is_the_same_everywhere():
    pages = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "mkdocs.yml", "pyproject.toml")
    text = "".join((clean_machine.ROOT / page).read_text(encoding="utf-8") for page in pages)
    assert set(re.findall(r"https://github.com/[\w-]+/gmfl_lite", text)) == {doors.REPOSITORY}


def test_version_is_the_same_everywhere():
    for document, line in (
        ("pyproject.toml", f'version = "{gl.__version__}"'),
        ("CITATION.cff", f"version: {gl.__version__}"),
        ("CHANGELOG.md", f"## {gl.__version__}"),
    ):
        assert line in (clean_machine.ROOT / document).read_text(encoding="utf-8"), document
