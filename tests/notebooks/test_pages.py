"""The notebooks as pages in a real browser: nothing is cut, no warnings, and no long stretch of mere text or code."""

import chromium
import nbformat
import pytest
from test_notebooks import NOTEBOOKS, tools

WIDTH, HEIGHT = 1280, 800
LONGEST = 1500
"""Pixels, about two screens, without a picture, a moving one in its frame, or a table."""

pytestmark = chromium.NEEDED


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as browser:
        yield browser


def faults(browser, page_file) -> list[str]:
    """Say what is wrong with a page as it is drawn, without a network."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.route("http*://**", lambda route: route.abort())
    page.goto(page_file.as_uri(), wait_until="load")
    found = page.evaluate(
        """() => {
        const box = e => {
            const {top, bottom} = e.getBoundingClientRect();
            return {top: top + scrollY, bottom: bottom + scrollY};
        };
        const shown = [...document.querySelectorAll('img, table, iframe')].filter(e => e.offsetHeight > 0);
        const cut = e => e.getBoundingClientRect().right > innerWidth
            || [e.closest('.jp-OutputArea-output'), e.closest('.jp-MarkdownOutput')].some(
                o => o && o.scrollWidth > o.clientWidth + 1);
        return {
            boxes: shown.map(box), height: document.documentElement.scrollHeight,
            cut: shown.filter(cut).map(e => (e.alt || e.innerText).slice(0, 60)),
            loud: document.querySelectorAll('[data-mime-type*="stderr"], [data-mime-type*="error"]').length,
        };
        }"""
    )
    page.close()
    ends = [0, *(box["bottom"] for box in found["boxes"])]
    starts = [*(box["top"] for box in found["boxes"]), found["height"]]
    gaps = [(start - end, end) for start, end in zip(starts, ends, strict=True)]
    wrong = [f"cut: {text}" for text in found["cut"]]
    wrong += ["warnings or errors"] * (found["loud"] > 0)
    return wrong + [f"{gap:.0f} px without a picture or table from {end:.0f}" for gap, end in gaps if gap > LONGEST]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_is_whole_quiet_and_illustrated(path, browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(tools.as_page(path), encoding="utf-8")
    assert faults(browser, page) == []


def test_faults_of_a_page_are_found(browser, tmp_path):
    output = nbformat.v4.new_output
    wide = f"<table><tr>{''.join(f'<td>{number:0100d}</td>' for number in range(20))}</tr></table>"
    outputs = [output("stream", name="stderr", text="deprecated"), output("display_data", {"text/html": wide})]
    cells = [nbformat.v4.new_code_cell("1", outputs=outputs), nbformat.v4.new_markdown_cell("a line\n\n" * 60)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "doctored.ipynb")
    (tmp_path / "page.html").write_text(tools.as_page(tmp_path / "doctored.ipynb"), encoding="utf-8")
    cut, loud, gap = faults(browser, tmp_path / "page.html")
    assert cut.startswith("cut: 000")
    assert loud == "warnings or errors"
    assert "px without a picture or table" in gap
