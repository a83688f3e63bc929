"""The core knows nothing of Dask, Flower and notebooks, and does not draw before it is asked to."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = (
    "dask",
    "distributed",
    "flwr",
    "ray",
    "IPython",
    "ipywidgets",
    "jupyterlab",
    "papermill",
    "nbval",
    "nbformat",
    "seglearn",
)

PROGRAM = """
import sys
for name in {extras!r}:
    sys.modules[name] = None  # an import of it fails, as where it is not installed
import gmfl_lite as gl
late = [name for name in ("seaborn", "matplotlib") if name in sys.modules]
assert not late, late
small = gl.Experiment(model="softmax", n_agents=4, n_new_agents=1, agents_per_round=2, rounds=2)
result = gl.run(small, progress=False)
assert result.status == "completed", result
gl.plots.exploration({{}}, None, fine_tune_steps=1)
assert "seaborn" not in sys.modules, "the panel's first look need not wait for it"
assert len(gl.sweep({{"nu": [0, 1]}}, small, progress=False)["status"]) == 20
import gmfl_lite.distributed, gmfl_lite.privacy
assert gl.plots.accuracy_against_steps({{"small": result}}).alt and gl.exercises.every() and gl.theory and gl.explain
assert all(name in dir(gl) for name in gl.__all__)
try:
    import gmfl_lite.flower
except ImportError as error:
    assert "flwr" in str(error), error
else:
    raise AssertionError("flower without flwr")
try:
    gl.Explorer
except ImportError as error:
    assert "pip install 'gmfl_lite[notebooks]'" in str(error), error
else:
    raise AssertionError("Explorer without ipywidgets")
try:
    gl.explorer_of_the_deep
except AttributeError as error:
    assert "explorer_of_the_deep" in str(error)
"""


@pytest.mark.slow
def test_the_core_works_where_the_extras_are_not_installed():
    program = PROGRAM.format(extras=EXTRAS)
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_the_core_asks_for_none_of_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = " ".join(project["dependencies"])
    assert not [name for name in EXTRAS if name.lower() in needed]
    assert {"dask", "flower", "notebooks", "people"} <= set(project["optional-dependencies"])
