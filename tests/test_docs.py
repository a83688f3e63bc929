"""The documentation builds without a warning or a network, names everything public, and shows formulas as formulas."""

import base64
import importlib.util
import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import clean_machine
import pytest
import torch
from PIL import Image

import gmfl_lite as gl
from gmfl_lite.server import SERVER_STEPS

pytest.importorskip("mkdocs", reason="the documentation's tools are not installed (pip install -e '.[docs]')")
HOW_TO = {path.name: path.read_text(encoding="utf-8") for path in sorted((clean_machine.ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"(?:<!-- needs: (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ELSEWHERE = {"a class", "a cluster", "a GPU", "Colab", "Docker"}
"""What a block may need that this machine has not got."""


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site):
    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").rglob("index.html"))
    # Not the methods: what stands before the name is a module.
    shown = set(re.findall(r'id="gmfl_lite\.(?:[a-z_]+\.)*(\w+)"', reference))
    public = {name for name in gl.__all__ if not inspect.ismodule(getattr(gl, name))}
    public |= {*gl.theory.__all__, *gl.plots.__all__, *gl.explain.__all__}
    public |= {"write_app", "MetaFedAvg", "build_engine", "load_images", "invert_first_layer", "clip_and_add_noise"}
    assert public <= shown, f"add a line to docs/reference for {sorted(public - shown)}"


@pytest.mark.slow
def test_every_plot_has_its_picture(site):
    """What the example in the docstring draws, with a text for who cannot see it."""
    page = (site / "reference" / "plots" / "index.html").read_text(encoding="utf-8")
    plots = {name for name in gl.plots.__all__ if inspect.isfunction(getattr(gl.plots, name))}
    sections = re.split(r'<h2 id="gmfl_lite\.plots\.(\w+)"', page)[1:]
    pictures = {
        name: re.findall(r'<img [^>]*?alt="([^"]+)"[^>]*? src="data:image/png;base64,([^"]+)"', text)
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert plots <= pictures.keys()
    for name in plots:
        ((_, data),) = pictures[name]
        assert Image.open(io.BytesIO(base64.b64decode(data))).width > 150, name


@pytest.mark.slow
def test_the_navigation_has_the_notebooks_numbers(site):
    page = (site / "index.html").read_text(encoding="utf-8")
    shown = [
        re.sub(r"\s+", " ", re.sub("<.*?>", "", link)).strip() for link in re.findall(r"<a .*?</a>", page, re.DOTALL)
    ]
    for notebook in clean_machine.ROOT.glob("notebooks/*.ipynb"):
        assert [text for text in shown if text.startswith(f"{notebook.stem[:2]} ")], notebook.stem


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere_and_show_no_raw_formulas(site):
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    for notebook in clean_machine.ROOT.glob("notebooks/*.ipynb"):
        assert site / "notebooks" / notebook.stem / "index.html" in pages
    for page, text in pages.items():
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//[^"]*\.(?:js|css|png)', text), page
        prose = re.sub(r"<(code|pre|annotation|script)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert not re.search(r"\\\(|\\\[|\\frac|\$\$", prose), page
    assert any("<math" in text for text in pages.values())


@pytest.mark.parametrize("name", HOW_TO)
def test_every_block_is_run_or_says_what_it_needs(name):
    found = BLOCK.findall(HOW_TO[name])
    assert HOW_TO[name].count("\n```") == 2 * len(found)
    assert {needs for needs, _, _ in found} <= ELSEWHERE | {""}
    assert HOW_TO[name].count("<!-- needs:") == sum(bool(needs) for needs, _, _ in found), "no block below"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HOW_TO if name != "own-data.md"])
def test_how_to(name, tmp_path, monkeypatch, digits):
    """Every block of a page, in order: Python with the names of the blocks before it, commands in the same folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(clean_machine.ROOT))
    names: dict[str, object] = {}
    known = set(SERVER_STEPS)
    try:
        for needs, language, code in BLOCK.findall(HOW_TO[name]):
            if language == "python" and not needs:
                exec(compile(code, name, "exec"), names)
            elif language == "bash" and not needs:
                subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
    finally:
        for added in set(SERVER_STEPS) - known:
            del SERVER_STEPS[added]


@pytest.mark.slow
def test_recipes_for_ones_own_data_run(tmp_path, monkeypatch, digits):
    """Every block of Python on the page, in order, beside such files as it speaks of."""
    text = (clean_machine.ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    lines = ["person,height,weight,exercise"]
    lines += [f"{who},{i},{i * i % 7},{('up', 'down')[i % 2]}" for i in range(20) for who in "ABCD"]
    (tmp_path / "movements.csv").write_text("\r\n".join(lines), encoding="utf-8")
    for agent in ("Ada", "Ben"):
        for name in "37":
            (tmp_path / "drawings" / agent / name).mkdir(parents=True)
            for number in range(2):
                image = Image.fromarray((digits.x[number + int(name), 0] * 255).byte().numpy())
                image.save(tmp_path / "drawings" / agent / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    try:
        with torch.random.fork_rng():  # layers draw their weights
            for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
                exec(block, names)
        names["explorer"].set(nu=3)
        assert names["explorer"].wait(60).status == "completed"
    finally:
        names["explorer"].close()
    assert names["people"].names == tuple("ABCD")
    assert names["sleepers"].train(0)[0].shape == (20, 4, 16)
    assert names["class_"].label_counts.loc["Ben", "3"] == 2
    assert [names[kind].n_agents for kind in ("photographers", "voices")] == [6, 4]
    assert names["result"].status == "completed"
    assert [*names["readers"]] == ["ν = 0", "ν = 1", "ν = 3"]
    assert "one agent at a time" in names["read"].engine


def test_docstrings_become_markdown():
    spec = importlib.util.spec_from_file_location("docstrings", clean_machine.ROOT / "docs" / "docstrings.py")
    docstrings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docstrings)
    found = docstrings.markdown(inspect.cleandoc(EXAMPLE))
    assert found.split() == EXPECTED.split()


EXAMPLE = """Return w_i with meta_lr, `w_i` and Σ_{k<K} L^[m].

        F_i(w) = f_i(w⁽ᵛ⁾)

    Parameters
    ----------
    lr : α, the
        step size.
    method : "exact"  all of them,
        "none"   not one.

    Examples
    --------
    >>> 1 < 2
    True
"""
EXPECTED = """Return w<sub>i</sub> with meta_lr, `w_i` and Σ<sub>k&#60;K</sub> L<sup>&#91;m&#93;</sup>.

<div class="maths">F<sub>i</sub>(w) = f<sub>i</sub>(w⁽ᵛ⁾)</div>

**Parameters**

`lr`
:   α, the
    step size.

`method`
:   `"exact"`
    :   all of them,

    `"none"`
    :   not one.

**Examples**

```pycon
>>> 1 < 2
True
```
"""
