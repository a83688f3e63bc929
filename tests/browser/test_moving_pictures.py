"""gl.explain in a real JupyterLab, in a page that was exported from it, and on nobody's trust.

Screenshots are left in artefacts/, to be looked at.
"""

import math
import re

import chromium
import jupyter_lab
import nbformat
import numpy as np
import pytest
import torch
from chromium import playwright
from clean_machine import ROOT
from saved_page import SIZES

import gmfl_lite as gl
from gmfl_lite.explain.landscape_player import DEFAULT
from gmfl_lite.explain.one_round import SMALL
from gmfl_lite.explain.round_numbers import measure_round
from notebooks import as_page

pytestmark = chromium.NEEDED

ARTEFACTS = ROOT / "artefacts"
FILM = "gl.Experiment(rounds=10, n_agents=6, n_new_agents=2, agents_per_round=2, permuted_classes=4)"
CELLS = {
    "The landscape of the meta-loss": "gl.explain.landscape()",
    "One round, step by step": "gl.explain.one_round()",
    "Fine-tuning, step by step": "gl.explain.adaptation(gl.run(film, progress=False), gl.build_federation(film))",
}
"""What each picture's frame is called -> what shows it."""
LANDSCAPE, ROUND, ADAPTATION = CELLS
AGENTS = gl.theory.Quadratics(*DEFAULT)
ALPHA, NU = 0.4, 3
"""Of `gl.explain.landscape()`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    code = [f"import gmfl_lite as gl\n\nfilm = {FILM}", *CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in code])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, folder / "pictures.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(folder):
    with jupyter_lab.started(folder) as address:
        yield address


@pytest.fixture(scope="module")
def page(browser, lab):
    """The notebook in JupyterLab, run, saved, and opened once more: what is seen comes from the file."""
    width, height = SIZES["wide"]
    page, asked = browser.new_page(viewport={"width": width, "height": height}), []
    page.set_default_timeout(60_000)
    page.on("request", lambda request: asked.append(request.url))
    jupyter_lab.opened(page, lab("pictures.ipynb"))
    jupyter_lab.run_all_cells(page)
    playwright.expect(page.locator("iframe")).to_have_count(len(CELLS), timeout=600_000)
    jupyter_lab.command(page, "docmanager:save")
    page.reload()
    page.get_by_text("(ipykernel) | Idle").wait_for()
    page.evaluate("jupyterapp.shell.collapseLeft()")
    yield page
    assert [address for address in asked if not address.startswith(("http://127.0.0.1", "blob:", "data:"))] == []


@pytest.fixture(scope="module")
def exported(browser, page, folder):
    """The same notebook as `make pages` exports it, from the disk and without a network."""
    (folder / "pictures.html").write_text(as_page(folder / "pictures.ipynb"), encoding="utf-8")
    width, height = SIZES["wide"]
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    opened = context.new_page()
    opened.goto((folder / "pictures.html").as_uri())
    return opened


@pytest.fixture(params=["JupyterLab", "exported"])
def place(request, page, exported):
    return page if request.param == "JupyterLab" else exported


def frame_of(place, title):
    element = place.locator(f'iframe[title="{title}"]')
    element.scroll_into_view_if_needed()
    frame = element.element_handle().content_frame()
    frame.wait_for_function("document.querySelector('button') && innerHeight > 300")
    before, now = None, element.bounding_box()
    while now != before:  # what is above it still takes its room
        place.wait_for_timeout(300)
        before, now = now, element.bounding_box()
    return frame


def test_w_goes_where_the_mouse_is_pressed_and_the_numbers_are_the_librarys(place):
    """Ten random places: the losses in the table, and the fine-tuning paths w_i⁽ʲ⁾ = c + (I − αA)ʲ (w − c)."""
    frame = frame_of(place, LANDSCAPE)
    (left, right), (bottom, top) = frame.evaluate("[gmfl.data.window.x, gmfl.data.window.y]")
    rng = np.random.default_rng(7)
    for x, y in rng.uniform(0.1, 0.9, size=(10, 2)):
        box = frame.locator(".plot svg").bounding_box()
        place.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        frame.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        w = np.array(frame.evaluate("gmfl.state.w"))
        np.testing.assert_allclose(w, [left + x * (right - left), top - y * (top - bottom)], atol=0.01)
        shown = [text.replace("−", "-") for text in frame.locator("tbody tr").first.locator("td").all_inner_texts()]
        before, after = (AGENTS.meta_loss(w, nu, ALPHA) for nu in (0, NU))
        assert shown == [f"({w[0]:.2f}, {w[1]:.2f})", f"{before:#.3}", f"{after:#.3}"]
        lines = frame.locator(".paths polyline").evaluate_all("lines => lines.map(line => line.getAttribute('points'))")
        for points, A, c in zip(lines, AGENTS.A, AGENTS.c, strict=True):
            step = np.eye(2) - ALPHA * A
            walked = np.array([c + np.linalg.matrix_power(step, j) @ (w - c) for j in range(NU + 1)])
            drawn = np.array([[float(number) for number in point.split(",")] for point in points.split()])
            across, down = 560 * (walked - [left, top]).T / [[right - left], [-(top - bottom) * 560 / 440]]
            np.testing.assert_allclose(drawn, np.transpose([across, down]), atol=0.06)


def test_w_follows_the_keyboard(place):
    frame = frame_of(place, LANDSCAPE)
    frame.get_by_role("slider", name="w, the shared start").focus()
    before = frame.evaluate("gmfl.state.w")
    for key in ("ArrowLeft", "ArrowLeft", "Shift+ArrowDown"):
        place.keyboard.press(key)
    (left, right), (bottom, top) = frame.evaluate("[gmfl.data.window.x, gmfl.data.window.y]")
    moved = [before[0] - 0.04 * (right - left), before[1] - 0.1 * (top - bottom)]
    np.testing.assert_allclose(frame.evaluate("gmfl.state.w"), moved)
    place.keyboard.press("Space")
    frame.wait_for_function("gmfl.state.rounds >= 2")
    place.keyboard.press("Space")
    playwright.expect(frame.get_by_role("button", name="Play rounds")).to_be_visible()


def test_a_round_ends_where_training_does(place):
    """Ten random choices of agents, by mouse and by keyboard; the whole round against gl.by_hand."""
    measured, frame = measure_round(SMALL, None, None, 0), frame_of(place, ROUND)
    trained, start = gl.by_hand(SMALL.replace(rounds=1)), measured.w

    def apart(one, other) -> str:
        return f"{math.sqrt(sum((one[name] - other[name]).square().sum().item() for name in one)):#.5g}"

    frame.get_by_role("button", name="Step →").click()
    place.keyboard.press("End")
    facts = frame.locator(".facts")
    playwright.expect(facts).to_contain_text(f"the average's distance{apart(trained, start)}", use_inner_text=False)
    rng = np.random.default_rng(3)
    for turn in range(10):
        kept = np.sort(rng.choice(4, size=rng.integers(1, 5), replace=False))
        for agent in range(4):
            drop = frame.locator("button.drop").nth(agent)
            if (drop.get_attribute("aria-pressed") == "true") == (agent in kept):
                if turn % 2:
                    drop.click()
                else:
                    drop.focus()
                    place.keyboard.press("Enter")
        chosen = torch.from_numpy(kept)
        average = gl.aggregate(
            {name: sent[chosen] for name, sent in measured.updates.items()}, measured.weights[chosen]
        )
        shown = dict(zip(*(facts.locator(tag).all_inner_texts() for tag in ("dt", "dd")), strict=True))
        assert shown["the average's distance"] == apart(average, start)
    place.keyboard.press("Home")
    assert frame.locator(".phases [aria-current=step]").inner_text() == "pick"


def test_the_film_says_the_scores_of_the_run(place):
    experiment = eval(FILM, {"gl": gl})
    federation, result = gl.build_federation(experiment), gl.run(experiment, progress=False)
    scores = result.agents[result.agents["agent"] == federation.n_agents].set_index("fine_tune_steps")["accuracy"]
    frame = frame_of(place, ADAPTATION)
    slider = frame.get_by_role("slider", name="Fine-tuning steps")
    slider.focus()
    place.keyboard.press("Home")
    for steps in range(experiment.eval_steps[-1] + 1):
        if steps in scores.index:
            said = frame.get_by_role("status").inner_text()
            assert f"accuracy {int(100 * scores[steps] + 0.5)} %" in said
        place.keyboard.press("ArrowRight")
    box = slider.bounding_box()
    place.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert slider.input_value() == "5"


def test_pictures_are_kept_small_with_words_and_a_still_for_others(page, folder):
    """What GitHub, nbviewer and VS Code find in the file: HTML, a PNG, and a text."""
    outputs = [cell.outputs[0] for cell in nbformat.read(folder / "pictures.ipynb", as_version=4).cells[1:]]
    for output in outputs:
        assert {"text/html", "image/png", "text/plain"} == output.data.keys()
        assert len(output.data["text/html"]) < 500_000
        assert output.data["text/plain"] == output.metadata["image/png"]["alt"]
        assert not re.search(r"https?://(?!www\.w3\.org/)", output.data["text/html"])


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_and_follows_jupyterlab(page, size, theme):
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    jupyter_lab.command(page, "apputils:change-theme", theme=theme)
    shade = theme.rpartition(" ")[2].lower()
    for number, title in enumerate(CELLS):
        frame = frame_of(page, title)
        frame.wait_for_function(f"document.documentElement.dataset.theme === '{shade}'")
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator(f'iframe[title="{title}"]').evaluate("frame => frame.scrollIntoView()")
        page.wait_for_timeout(300)
        page.screenshot(path=ARTEFACTS / f"lab-{number}-{size}-{shade}.png")


def test_a_stranger_sees_the_stills_and_their_words(browser, lab, page, folder):
    """A notebook from elsewhere is not trusted: JupyterLab runs none of its scripts."""
    notebook = nbformat.read(folder / "pictures.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("Not what was signed."))
    nbformat.write(notebook, folder / "stranger.ipynb")
    stranger = browser.new_page(viewport={"width": 1280, "height": 800})
    stranger.set_default_timeout(60_000)
    jupyter_lab.opened(stranger, lab("stranger.ipynb"))
    stills = stranger.locator(".jp-OutputArea img")
    playwright.expect(stills).to_have_count(len(CELLS))
    assert stranger.locator(".jp-OutputArea iframe").count() == 0
    stranger.wait_for_function(
        "[...document.querySelectorAll('.jp-OutputArea img')].every(still => still.complete && still.naturalWidth)"
    )
    for number, cell in enumerate(notebook.cells[1:-1]):
        assert stills.nth(number).get_attribute("alt") == cell.outputs[0].data["text/plain"]
        assert stills.nth(number).bounding_box()["width"] > 300
    stills.first.scroll_into_view_if_needed()
    stranger.screenshot(path=ARTEFACTS / "lab-stranger.png")
    stranger.close()
