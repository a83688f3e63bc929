"""gl.predict in a real browser, by keyboard alone: the figure and what is to be noticed appear with the answer."""

import re

import chromium
import jupyter_lab
import nbformat
import pytest
from chromium import playwright
from clean_machine import ROOT

CELLS = (
    "import gmfl_lite as gl\nfrom gmfl_lite.plots import Landscape, landscapes",
    "guess = gl.predict('Where is the lowest place?', ['left', 'in the middle', 'right'])\nguess",
    "bowl = Landscape(lambda w: (w**2).sum(1))\n"
    "guess.then(landscapes({'': bowl}, x=(-1, 1), y=(-1, 1), alt='A bowl whose lowest place is in the middle.'))",
)
NOTICE, AFTER = "It is where both are zero.", "What comes next."

pytestmark = chromium.NEEDED


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells += [nbformat.v4.new_markdown_cell(text) for text in (NOTICE, AFTER)]
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    folder = tmp_path_factory.mktemp("lab")
    nbformat.write(notebook, folder / "guess.ipynb")
    with jupyter_lab.started(folder) as address, chromium.started() as browser:
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(60_000)
        jupyter_lab.opened(page, address("guess.ipynb"))
        jupyter_lab.run_all_cells(page)
        page.wait_for_selector(".gmfl-waits")
        yield page


def test_a_keyboard_alone_answers_and_what_was_held_back_appears(page):
    (ROOT / "artefacts").mkdir(exist_ok=True)
    figure, notice = page.get_by_alt_text("A bowl whose"), page.get_by_role("paragraph").filter(has_text=NOTICE)
    playwright.expect(page.get_by_role("paragraph").filter(has_text=AFTER)).to_be_visible()
    playwright.expect(notice).to_be_hidden()
    playwright.expect(figure).to_have_count(0)
    page.screenshot(path=ROOT / "artefacts" / "predict-asked.png")
    group = page.get_by_role("group", name=re.compile("Where is the lowest place"))
    group.get_by_role("button", name="left").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    playwright.expect(figure).to_be_visible()
    playwright.expect(notice).to_be_visible()
    said = group.get_by_role("status")
    playwright.expect(said).to_contain_text("You said: in the middle.")
    focused = "document.activeElement.textContent.trim()"
    assert page.evaluate(focused) == "in the middle", "the focus is lost"
    playwright.expect(group.get_by_role("button", name="left")).to_be_disabled()
    page.screenshot(path=ROOT / "artefacts" / "predict-answered.png")
