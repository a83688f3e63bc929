"""The documentation in a browser: nothing is cut, it finds symbols, and it is as dark as the reader wants it."""

import chromium
import pytest
from chromium import playwright
from saved_page import SIZES

pytestmark = chromium.NEEDED

PAGES = ("", "notebooks/09-evidence/", "reference/explain/", "reference/plots/", "own-engine/", "CONTRIBUTING/")


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as browser:
        yield browser


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut(browser, served, size):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    for name in PAGES:
        page.goto(served + name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.locator("pre > code").count() or name == "reference/explain/"
        cut = page.evaluate(
            "[...document.querySelectorAll('pre > code')].filter(e => e.scrollWidth > e.clientWidth + 1)"
            ".map(e => e.innerText)"
        )
        assert cut == [], name
    page.close()


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("ν", "symbols/"),
        ("fine_tune_lr", "symbols/"),
        ("dirichlet_alpha", "symbols/"),
        ("gl.tune", "reference/experiments/#gmfl_lite.sweep.tune"),
        ("one_round", "reference/explain/"),
        ("FedYogi", "CONTRIBUTING/"),
    ],
)
def test_search_finds_symbols(browser, served, query, place):
    """Among what is shown first, without unfolding anything."""
    page = browser.new_page()
    page.goto(f"{served}?q={query}")
    shown = "[...document.querySelectorAll('.md-search-result__item a')].slice(0, 10)"
    wanted = served + place.partition("#")[0]
    page.wait_for_function(f"wanted => {shown}.some(link => link.href.startsWith(wanted))", arg=wanted)
    page.close()


def test_light_and_dark_as_the_system_and_as_the_reader_wants(browser, served):
    """The moving picture in the page follows."""
    page = browser.new_page(color_scheme="dark")
    page.goto(f"{served}reference/explain/")
    frame = page.wait_for_selector("iframe").content_frame()
    scheme, theme = "document.body.dataset.mdColorScheme", "document.documentElement.dataset.theme"
    for expected in ("slate", "default", "slate"):
        page.wait_for_function(f"{scheme} === '{expected}'")
        frame.wait_for_function(f"{theme} === '{'dark' if expected == 'slate' else 'light'}'")
        page.locator(".md-header__option label:not([hidden])").click()
    playwright.expect(page.locator("html")).to_be_visible()
    page.close()
