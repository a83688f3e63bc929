"""axe-core finds nothing on our pages that breaks WCAG 2.2 AA, in light and in dark.

Screenshots are left in artefacts/, to be looked at.
"""

import base64

import chromium
import jupyter_lab
import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from clean_machine import ROOT

import gmfl_lite as gl
from notebooks import as_page

pytestmark = chromium.NEEDED

ARTEFACTS = ROOT / "artefacts"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
FIVE = "05-when-nu-helps-and-when-it-hurts"
PAGES = {
    "home": "",
    "notebook": f"notebooks/{FIVE}/",
    "reference": "reference/explain/",
    "plots": "reference/plots/",
    "teachers": "notebooks/for-teachers/",
    "symbols": "symbols/",
}


def violations(page, part: str | None = None) -> list[str]:
    """Return what axe finds on a page and in its frames, or in a part of it: which rule, where, and what is wrong."""
    axe, found = Axe(), []
    options = {"runOnly": {"type": "tag", "values": WCAG}, "resultTypes": ["violations"], "iframes": False}
    for frame in page.frames if part is None else [page]:
        results = axe.run(frame, part, options).response
        assert results["passes"], "axe looked at nothing"
        for rule in results["violations"]:
            found += [f"{rule['id']} {node['target']} {node['failureSummary']}" for node in rule["nodes"]]
    return found


@pytest.fixture
def new_page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    yield page
    page.close()


@pytest.fixture(params=["light", "dark"])
def page(request, new_page):
    new_page.emulate_media(color_scheme=request.param)
    return new_page


def in_colour(page, name: str) -> str:
    return f"{name}-{'dark' if page.evaluate('matchMedia(`(prefers-color-scheme: dark)`).matches') else 'light'}"


@pytest.mark.parametrize("name", PAGES)
def test_the_documentation(page, served, name):
    page.goto(served + PAGES[name], wait_until="load")
    page.wait_for_timeout(300)
    page.screenshot(path=ARTEFACTS / f"{in_colour(page, f'docs-{name}')}.png")
    assert violations(page) == []


def test_an_exported_notebook(page, tmp_path):
    """With code, text, a formula, a table and pictures of both kinds."""
    federation = gl.build_federation(gl.Experiment(n_agents=5, n_new_agents=0, agents_per_round=5))
    figure, moving = gl.plots.label_counts(federation), gl.explain.landscape()
    table = federation.label_counts
    outputs = [
        ({"text/html": table.to_html(), "text/plain": repr(table)}, {}),
        *(shown._repr_mimebundle_() for shown in (figure, moving)),
    ]
    cells = [
        nbformat.v4.new_markdown_cell(
            "# Everything\n\nA text that leads [elsewhere](x.ipynb), `code`, $\\frac1n$.\n\n$$F(w)$$"
        )
    ]
    for data, metadata in outputs:
        bundle = {kind: v if isinstance(v, str) else base64.b64encode(v).decode() for kind, v in data.items()}
        output = nbformat.v4.new_output("execute_result", bundle, execution_count=1, metadata=metadata)
        source = "# a comment\nfrom math import pi\n\nprint(f'{pi:.3f}', 1e-3, None)  # and another one"
        cells.append(nbformat.v4.new_code_cell(source, execution_count=1, outputs=[output]))
    cells[-1].outputs.insert(0, nbformat.v4.new_output("stream", name="stdout", text="3.142 0.001 None\n"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "everything.ipynb")
    (tmp_path / "everything.html").write_text(as_page(tmp_path / "everything.ipynb"), encoding="utf-8")
    page.goto((tmp_path / "everything.html").as_uri())
    page.frames[1].wait_for_selector("tbody td")
    page.screenshot(path=ARTEFACTS / f"{in_colour(page, 'exported')}.png", full_page=True)
    assert page.locator("math mfrac").count() == page.locator("math[display=block]").count() == 1
    assert "$" not in page.locator("main").inner_text()
    assert violations(page) == []
    (tmp_path / "05.html").write_text(as_page(ROOT / "notebooks" / f"{FIVE}.ipynb"), encoding="utf-8")
    page.goto((tmp_path / "05.html").as_uri())
    assert violations(page) == []


@pytest.mark.parametrize("name", ["landscape", "one_round", "adaptation"])
def test_a_moving_picture(page, tmp_path, name):
    if name == "adaptation":
        experiment = gl.Experiment(rounds=5, n_agents=6, n_new_agents=2, agents_per_round=2, permuted_classes=4)
        picture = gl.explain.adaptation(gl.run(experiment, progress=False), gl.build_federation(experiment))
    else:
        picture = getattr(gl.explain, name)()
    picture.save(tmp_path / "picture.html")
    page.goto((tmp_path / "picture.html").as_uri())
    page.frames[1].wait_for_selector("button")
    assert violations(page) == []
    page.frames[1].locator("h2, h1, .said").first.click()
    page.keyboard.press("End")
    assert violations(page) == []


def test_the_panel_in_jupyterlab(new_page, tmp_path):
    """As it is at first, and with all that can be unfolded; of JupyterLab around it, nothing."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [nbformat.v4.new_code_cell("import gmfl_lite as gl\n\ngl.Explorer(gl.Experiment(rounds=10))")]
    (tmp_path / "work").mkdir()
    nbformat.write(notebook, tmp_path / "work" / "panel.ipynb")
    page = new_page
    page.set_default_timeout(60_000)
    with jupyter_lab.started(tmp_path / "work") as address:
        jupyter_lab.opened(page, address("panel.ipynb"))
        jupyter_lab.run_all_cells(page)
        page.wait_for_selector(".gmfl-explorer img", timeout=600_000)  # a cold kernel
        folded = page.locator(".gmfl-explorer .gmfl-fold:not(.mod-active)")
        for scheme, first in (("light", True), ("dark", True), ("dark", False), ("light", False)):
            if not first:
                while folded.count():
                    folded.first.evaluate("button => button.click()")
                    page.wait_for_timeout(300)
            page.emulate_media(color_scheme=scheme)
            jupyter_lab.command(page, "apputils:change-theme", theme=f"JupyterLab {scheme.title()}")
            page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(scheme == 'light').lower()}'")
            page.wait_for_function(
                "[...document.querySelectorAll('.gmfl-explorer .noUi-handle')].every(knob => knob.ariaLabel)"
            )
            page.wait_for_timeout(1000)
            assert violations(page, ".gmfl-explorer") == []


def test_what_is_wrong_is_found(page):
    page.set_content(
        "<html lang='en'><title>Wrong</title><body><p style='color:#999;background:#fff'>Too faint.</p><input>"
        "<iframe srcdoc='<p>no language</p>'></iframe>"
    )
    page.wait_for_timeout(200)
    found = {one.split()[0] for one in violations(page)}
    assert {"color-contrast", "label", "frame-title", "html-has-lang"} <= found
