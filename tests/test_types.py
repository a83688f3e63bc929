"""The package is typed for those who import it, also where names arrive late."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SAID = {
    "reveal_type(gl.plots.curves)": '.Picture"',
    "reveal_type(gl.explain.Picture.save)": "path: ",
    "reveal_type(gl.Explorer().set)": 'type is "def (',
    "reveal_type(gl.theory.growth)": "smoothness: ",
    "reveal_type(gl.run(gl.Experiment()))": '.Result"',
    "gl.run(3)": 'has incompatible type "int"; expected "Experiment"',
    "gl.theory.growth(0.5)": 'Missing named argument "smoothness"',
    "gl.Experimnt()": 'has no attribute "Experimnt"',
}
"""What mypy says about a line of somebody who uses the package."""


@pytest.mark.slow
def test_types_reach_the_user(tmp_path):
    """The package is found as one that is installed, of which a type checker believes the types only with py.typed."""
    (tmp_path / "snippet.py").write_text("\n".join(["import gmfl_lite as gl", *SAID]), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "snippet.py"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    printed = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False).stdout
    for number, (line, said) in enumerate(SAID.items(), 2):
        here = [row for row in printed.splitlines() if row.startswith(f"snippet.py:{number}:")]
        assert any(said in row for row in here), f"{line}: {here}"
