"""Which plots there are is one list, `gl.plots.__all__`: what each of them must have, and that an added one gets it."""

import ast
import doctest
import inspect
import re
import sys
from pathlib import Path

import clean_machine
import house
import pytest

import gmfl_lite as gl

PLOTS = [name for name in gl.plots.__all__ if inspect.isfunction(getattr(gl.plots, name))]


@pytest.mark.parametrize("name", PLOTS)
def test_every_plots_own_example_gives_a_picture_with_words(name):
    plot = getattr(gl.plots, name)
    names = dict(vars(sys.modules[plot.__module__]))
    (example,) = doctest.DocTestFinder(recurse=False).find(plot, name, globs=names)
    assert example.examples, f"gl.plots.{name} shows no example"
    assert doctest.DocTestRunner().run(example, out=print, clear_globs=False).failed == 0
    picture = example.globs["figure"]
    assert isinstance(picture, gl.plots.Picture)
    data, metadata = picture._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert len(metadata["image/png"]["alt"]) > 10, "what a reader who cannot see it should know"


def unlisted(package: Path) -> set[str]:
    """Return the functions in plots/ that draw a Picture and are not in its list."""
    modules = {name: tree for name, (_, tree) in house.sources(package).items() if name.startswith("plots")}
    functions = [node for tree in modules.values() for node in tree.body if isinstance(node, ast.FunctionDef)]
    drawing = {node.name for node in functions if node.returns and ast.unparse(node.returns) == "Picture"}
    (listed,) = (
        ast.literal_eval(node.value)
        for node in modules["plots"].body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return {name for name in drawing if not name.startswith("_")} - set(listed)


def test_every_function_that_draws_is_in_the_list():
    assert unlisted(house.PACKAGE) == set()


ADDED = '''"""How much everybody holds."""

from ..federation import Federation
from .picture import Picture


def sizes(federation: Federation) -> Picture:
    """Draw how many samples every agent holds.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> figure = sizes(gl.build_federation(gl.Experiment()))
    """
    figure = Picture(figsize=(6, 3), layout="constrained")
    figure.add_subplot(xlabel="agent", ylabel="samples").bar(range(len(federation.sizes)), federation.sizes)
    figure.alt = f"Bars of samples an agent: {min(federation.sizes)} to {max(federation.sizes)}."
    return figure
'''


@pytest.mark.slow
def test_an_added_plot_arrives_everywhere(tmp_path):
    """A module and two lines of the face: it is reached, checked like the others, and in the documentation."""
    copy = clean_machine.copy_of_the_repository(tmp_path)
    (copy / "gmfl_lite" / "plots" / "added.py").write_text(ADDED, encoding="utf-8")
    assert unlisted(copy / "gmfl_lite") == {"sizes"}
    face = copy / "gmfl_lite" / "plots" / "__init__.py"
    text = face.read_text(encoding="utf-8").replace('    "sweep",\n', '    "sizes",\n    "sweep",\n')
    face.write_text(text.replace("from .holdings", "from .added import sizes\nfrom .holdings"), encoding="utf-8")
    assert unlisted(copy / "gmfl_lite") == set()
    variables = clean_machine.empty_home(tmp_path) | {"PYTHONPATH": str(copy), "NO_MKDOCS_2_WARNING": "1"}

    def run(*module: str) -> str:
        return clean_machine.run([sys.executable, "-m", *module], copy, variables)

    assert "1 passed" in run("pytest", "-q", "tests/test_adding_a_plot.py", "-k", "example and sizes")
    run("mkdocs", "build", "--strict", "--quiet")
    reference = (copy / "site" / "reference" / "plots" / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'id="gmfl_lite\.plots\.(\w+)"', reference)
    assert {"sizes", *PLOTS} <= set(shown)
