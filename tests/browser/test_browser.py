"""The explorer in a real browser: Chromium, driven by Playwright, on the JupyterLab of this environment.

Screenshots are left in artefacts/, to be looked at.
"""

import base64
import io
import itertools
import re
import shutil
import time
from pathlib import Path

import chromium
import jupyter_lab
import pytest
from chromium import playwright
from clean_machine import ROOT
from PIL import Image

ARTEFACTS = ROOT / "artefacts"
WIDTHS = {"wide": (1280, 800), "middle": (1024, 768), "narrow": (900, 700)}

pytestmark = chromium.NEEDED


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def lab(folder):
    """Start JupyterLab on the playground."""
    shutil.copy(ROOT / "notebooks" / "07-explorer.ipynb", folder / "playground.ipynb")
    with jupyter_lab.started(folder) as address:
        yield address("playground.ipynb")


@pytest.fixture(scope="module")
def page(lab):
    ARTEFACTS.mkdir(exist_ok=True)
    with chromium.started() as browser:
        context = browser.new_context(viewport=dict(zip(("width", "height"), WIDTHS["wide"], strict=True)))
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(60_000)
        jupyter_lab.opened(page, lab)
        jupyter_lab.run_all_cells(page)
        page.wait_for_selector(".gmfl-explorer img", timeout=600_000)  # a cold kernel
        page.wait_for_timeout(500)
        page.get_by_text("(ipykernel) | Idle").wait_for(timeout=600_000)  # the last cell waits for the panel's run
        page.locator(".gmfl-explorer").scroll_into_view_if_needed()
        yield page


@pytest.fixture
def panel(page):
    """The panel as it is at first: knobs reset, no pins, nothing unfolded, nothing at work."""
    panel = page.locator(".gmfl-explorer")
    for unfolded in panel.locator(".gmfl-fold.mod-active").all():
        unfolded.click()
    button(panel, "Clear pins").click()
    button(panel, "FedAvg").click()  # as what is drawn already may read as it does after Reset
    playwright.expect(panel.locator("img").first).not_to_have_attribute("alt", re.compile("ν = 3 .*; FedAvg"))
    button(panel, "Reset").click()
    until_drawn(panel, r"ν = 3 \d+ % after round 100; FedAvg")
    until_said(panel, "FedAvg fine-tuned as long, at the same step sizes.")
    playwright.expect(panel.get_by_role("status")).not_to_contain_text("Another cell")
    page.wait_for_function("!document.querySelector('.gmfl-explorer progress')")
    return panel


def button(panel, name: str):
    return panel.get_by_role("button", name=re.compile(rf"^\W*{re.escape(name)}"))  # an icon comes before the name


def knob(panel, name: str):
    return panel.get_by_role("slider", name=name).first


def alt(panel) -> str:
    return panel.locator("img").first.get_attribute("alt")


def until_drawn(panel, pattern: str, seconds: float = 180) -> None:
    playwright.expect(panel.locator("img").first).to_have_attribute("alt", re.compile(pattern), timeout=1000 * seconds)


def until_said(panel, words: str) -> None:
    playwright.expect(panel.get_by_role("status")).to_contain_text(words, timeout=60_000)


def picture_of(page, name: str) -> None:
    page.screenshot(path=ARTEFACTS / f"{name}.png")


def test_first_look(page, panel):
    for name in ("nu (ν)", "fine_tune_lr (α)", "meta_lr (β)", "dirichlet_alpha", "permuted_classes"):
        playwright.expect(knob(panel, name)).to_be_visible()
    assert panel.get_by_role("slider").count() == 5
    assert knob(panel, "nu (ν)").get_attribute("aria-valuetext") == "3"


def test_knobs_and_curve_are_on_screen_together(page, panel):
    """With what JupyterLab itself takes of the screen; nothing is cut at the sides."""
    for size, (width, height) in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        for part in (page.locator(".jp-WindowedPanel-outer"), panel.locator("img").first):
            box_at_rest(page, part)
        panel.evaluate("box => box.scrollIntoView({block: 'start'})")
        box_at_rest(page, panel.locator(".gmfl-said").first)
        picture_of(page, f"first-look-{size}")
        shown = page.locator(".jp-WindowedPanel-outer").bounding_box()
        for part in (".gmfl-knobs", "img", ".gmfl-said"):
            box = panel.locator(part).first.bounding_box()
            assert shown["y"] <= box["y"] + 2, (size, part)
            assert box["y"] + box["height"] <= shown["y"] + shown["height"], (size, part)
            assert box["x"] + box["width"] <= shown["x"] + shown["width"], (size, part)
        assert panel.locator("img").first.bounding_box()["width"] > 340
        assert panel.evaluate("box => box.scrollWidth <= box.clientWidth")
    page.set_viewport_size(dict(zip(("width", "height"), WIDTHS["wide"], strict=True)))


def test_knobs_can_be_moved_on_a_phone(page, panel):
    page.set_viewport_size({"width": 390, "height": 844})
    files = page.locator(".jp-SideBar.jp-mod-left .lm-TabBar-tab.lm-mod-current")
    files.click()  # who has a phone closes the list of files
    for name in ("nu (ν)", "dirichlet_alpha"):
        box_at_rest(page, knob(panel, name))
    tracks = panel.locator(".gmfl-knobs .noUi-target").evaluate_all("all => all.map(one => one.clientWidth)")
    assert len(tracks) == 5
    assert min(tracks) >= 100
    assert panel.evaluate("box => box.scrollWidth <= box.clientWidth")
    panel.evaluate("box => box.scrollIntoView({block: 'start'})")
    picture_of(page, "panel-phone")
    page.locator(".jp-SideBar.jp-mod-left .lm-TabBar-tab").first.click()
    page.set_viewport_size(dict(zip(("width", "height"), WIDTHS["wide"], strict=True)))


def test_nu_by_keyboard_draws_a_curve(page, panel, record_property):
    knob(panel, "nu (ν)").focus()
    pressed = time.monotonic()
    page.keyboard.press("ArrowRight")
    until_drawn(panel, r"ν = 5 \d+ % after round \d+")
    record_property("browser: key to first point on screen", f"{time.monotonic() - pressed:.2f} s")
    until_drawn(panel, "ν = 5 .* after round 100; FedAvg")
    record_property("browser: whole run of the playground, with FedAvg", f"{time.monotonic() - pressed:.1f} s")
    picture_of(page, "nu-by-keyboard")


def box_at_rest(page, locator) -> dict[str, float]:
    """Return where something is on the page, once that has stopped changing."""
    before, now = None, locator.bounding_box()
    while now != before:
        page.wait_for_timeout(300)
        before, now = now, locator.bounding_box()
    return now


def test_nu_by_mouse_draws_a_curve(page, panel):
    handle = box_at_rest(page, knob(panel, "nu (ν)"))
    track = panel.locator(".noUi-target").first.bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] / 5, handle["y"] + 2, steps=5)
    page.mouse.up()
    until_drawn(panel, "ν = 1 .* after round 100")
    assert knob(panel, "nu (ν)").get_attribute("aria-valuetext") == "1"


def test_stop_stops(page, panel, record_property):
    button(panel, "Training").click()
    knob(panel, "rounds").focus()
    page.keyboard.press("End")
    until_drawn(panel, r"ν = 3 \d+ % after round (?!100;)[1-9]")
    pressed = time.monotonic()
    button(panel, "Stop").click()
    until_said(panel, "Stopped: press Run to start again. In round ")
    record_property("browser: click to stopped on screen", f"{time.monotonic() - pressed:.2f} s")
    said = panel.get_by_role("status").inner_text()
    assert int(re.search(r"In round (\d+)", said)[1]) < 500
    before, now = None, alt(panel)
    while now != before:  # words come first, then the picture; one that goes on would be at its end
        page.wait_for_timeout(1500)
        before, now = now, alt(panel)
    assert "after round 500" not in now
    assert panel.get_by_role("status").inner_text() == said
    picture_of(page, "stopped")


def test_stop_before_the_first_point_leaves_what_was_there(page, panel):
    """Picture, legend and words: of a run of which nothing is known yet, there is nothing to show."""
    page.wait_for_timeout(1500)
    before, legend = alt(panel), panel.locator(".gmfl-legend").inner_text()
    page.evaluate(
        """() => {
            const panel = document.querySelector('.gmfl-explorer'), named = name =>
                [...panel.querySelectorAll('button')].find(button => button.textContent.trim() === name);
            window.alts = [];
            new MutationObserver(() => window.alts.push(panel.querySelector('img').alt))
                .observe(panel, {subtree: true, childList: true});
            named('one class per agent').click();
            named('Stop').click();
        }"""
    )
    until_said(panel, "Stopped before the first point, so this is the picture from before")
    page.wait_for_timeout(1500)
    assert set(page.evaluate("window.alts")) <= {before}
    assert (alt(panel), panel.locator(".gmfl-legend").inner_text()) == (before, legend)


def test_words_come_with_the_picture_that_they_are_about(page, panel):
    """Whatever percentage is said, the picture has it, too, or is the next thing to change."""
    page.evaluate(
        """() => {
            const panel = document.querySelector('.gmfl-explorer');
            window.seen = [];
            new MutationObserver(() => window.seen.push([
                panel.querySelector('[role=status]').innerText, panel.querySelector('img').alt,
            ])).observe(panel, {subtree: true, childList: true});
        }"""
    )
    before = alt(panel)
    knob(panel, "fine_tune_lr (α)").focus()
    page.keyboard.press("ArrowLeft")  # which no other test here does: what is kept comes at once
    playwright.expect(panel.locator("img").first).not_to_have_attribute("alt", before)
    until_drawn(panel, r"ν = 3 \d+ % after round 100; FedAvg .* after round 100")
    seen = [(words, drawn) for (words, drawn), _ in itertools.groupby(map(tuple, page.evaluate("window.seen")))]
    assert len({words for words, _ in seen}) > 5
    said = [re.search(r"new agents reach (\d+).%", words) for words, _ in seen]
    together = [no is None or f"{no[1]} % after round" in drawn for no, (_, drawn) in zip(said, seen, strict=True)]
    assert together[-1]
    assert not [pair for pair in itertools.pairwise(together) if not any(pair)], seen


def test_who_holds_what_has_one_scale(page, panel):
    """Nearly equal agents look nearly equal; agents of one class each do not."""
    equal = contrast_of_the_strip(panel)
    button(panel, "one class per agent").click()
    until_drawn(panel, "on average, 100 % of an agent's samples are of its largest class")
    assert equal < 60 < 150 < contrast_of_the_strip(panel)


def contrast_of_the_strip(panel) -> int:
    """Return by how much the strip's darkest and lightest cells differ, of 255.

    Of the picture itself: a screenshot may be taken before the browser has decoded it.
    """
    source = panel.locator("img").first.get_attribute("src")
    drawn = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))).convert("L")
    width, height = drawn.size
    strip = drawn.crop((int(0.1 * width), int(0.81 * height), int(0.66 * width), int(0.87 * height)))
    low, high = strip.getextrema()
    return high - low


def test_a_pin_stays(page, panel):
    button(panel, "Pin this curve").click()
    button(panel, "Per-FedAvg").click()
    until_drawn(panel, "ν = 3 .* after round 100; ν = 1 .* after round 100; FedAvg")
    button(panel, "Table of runs").click()
    rows = panel.locator("table tbody tr")
    playwright.expect(rows).to_have_count(3)
    playwright.expect(rows.first).to_contain_text("ν = 3")
    button(panel, "best first").click()
    page.wait_for_function(
        "(final => final.every((score, row) => row === 0 || score <= final[row - 1]))("
        "[...document.querySelectorAll('.gmfl-explorer table tbody tr td:nth-child(7)')].map(e => +e.innerText))"
    )
    panel.locator("table").scroll_into_view_if_needed()
    assert panel.locator(".gmfl-table").evaluate("b => b.offsetWidth <= b.closest('.widget-html').offsetWidth")
    picture_of(page, "pinned")
    button(panel, "best first").click()


def test_a_sweep_draws_its_family(page, panel):
    button(panel, "Training").click()
    knob(panel, "rounds").focus()
    page.keyboard.press("Home")
    colour = colour_of(panel, "ν = 3")
    button(panel, "sweep").first.click()
    until_drawn(panel, "; ".join(rf"ν = {nu} \d+ % after round 10" for nu in (0, 1, 2, 3, 5, 10)))
    until_said(panel, "After 3 fine-tuning steps, ν = ")
    assert colour_of(panel, "ν = 3") == colour, "a method's, not a place's"
    assert len({colour_of(panel, f"ν = {nu} ") for nu in (0, 1, 2, 3, 5, 10)}) == 6
    button(panel, "Training").click()
    page.mouse.move(0, 0)
    picture_of(page, "sweep")
    ends = panel.get_by_role("slider", name="nu (ν)")
    assert ends.count() == 2
    ends.nth(1).focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("!document.querySelector('.gmfl-explorer img').alt.includes('ν = 10')")


def colour_of(panel, name: str) -> str:
    return panel.locator(".gmfl-legend span", has_text=name).first.locator("svg").get_attribute("color")


def test_worst_and_best_agents_and_what_was_sent_are_switched_on(page, panel):
    """An MLP of 64, 80, 60 and 10 units, to ten agents and back, a hundred times, eight bytes a number."""
    numbers = 64 * 80 + 80 + 80 * 60 + 60 + 60 * 10 + 10
    for name in ("worst and best agents", "MB sent"):
        button(panel, name).click()
    until_drawn(panel, r"what was sent, .* ν = 3 \d+ % \(worst \d+ %, best \d+ %\) after round 100, 171 MB sent")
    legend = re.compile(rf"\d+.% \(worst \d+.%, best \d+.%\), {8 * numbers * 10 * 2 * 100 / 1e6:.3g} MB sent")
    playwright.expect(panel.locator(".gmfl-legend")).to_contain_text(legend)
    panel.evaluate("box => box.scrollIntoView({block: 'start'})")
    picture_of(page, "worst-best-sent")
    for name in ("worst and best agents", "MB sent"):
        button(panel, name).click()
    until_drawn(panel, r"against communication rounds, and against fine-tuning steps: ν = 3 \d+ % after round 100")


def test_divergence_is_said_in_words(page, panel):
    button(panel, "a step size that diverges").click()
    alert = panel.get_by_role("alert")
    words = re.compile(r"diverged .*lower \w+_lr \(now .*\), for example to ")
    playwright.expect(alert).to_contain_text(words, timeout=60_000)
    picture_of(page, "diverged")


def test_take_away(page, panel):
    button(panel, "Take it away").click()
    press_to_copy(panel, "Copy as Python")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("import gmfl_lite as gl\n")
    compile(copied, "copied", "exec")
    press_to_copy(panel, "Copy as papermill command")
    assert page.evaluate("navigator.clipboard.readText()").startswith("cd notebooks\npapermill 07-explorer.ipynb")
    press_to_copy(panel, "Copy as YAML")
    assert "python -m gmfl_lite run" in page.evaluate("navigator.clipboard.readText()")
    for link, start in (("Save the figure", b"\x89PNG"), ("Save the table", b"run,")):
        with page.expect_download() as download:
            panel.get_by_role("link", name=link).click()
        assert Path(download.value.path()).read_bytes().startswith(start)
    picture_of(page, "take-away")


def press_to_copy(panel, name: str) -> None:
    """Press a button, wait until it says that it has copied, and until it has its own name again."""
    pressed = panel.locator(f'button[data-name="{name}"]')
    pressed.click()
    playwright.expect(pressed).to_have_text("Copied")
    playwright.expect(pressed).to_have_text(name)


def test_code_is_selected_where_there_is_no_clipboard(page, panel):
    """As over plain http; and where the browser refuses."""
    button(panel, "Take it away").click()
    playwright.expect(panel.locator("pre", has_text="papermill")).to_contain_text("-p nu 3")  # of Reset, not of before
    refusing = "{writeText: () => Promise.reject(new Error('refused'))}"
    for name, clipboard in (("Copy as Python", "undefined"), ("Copy as papermill command", refusing)):
        page.evaluate(f"Object.defineProperty(navigator, 'clipboard', {{value: {clipboard}, configurable: true}})")
        code = button(panel, name).locator("xpath=following-sibling::pre").inner_text()
        button(panel, name).click()
        page.wait_for_function("getSelection().toString().length > 20")
        assert page.evaluate("getSelection().toString()").strip() == code.strip()
        playwright.expect(button(panel, "Selected: copy it with Ctrl+C").last).to_be_visible()
        page.evaluate("getSelection().removeAllRanges()")
    page.evaluate("delete navigator.clipboard")


def test_keyboard_reaches_everything(page, panel):
    """From the first knob, Tab goes through all that can be moved, pressed or opened, also what is folded."""
    knob(panel, "nu (ν)").focus()
    reached = set()
    for _ in range(70):
        name = focused(page)
        reached.add(name)
        if name == "Training":
            page.keyboard.press("Space")
            knob(panel, "rounds").wait_for()
        page.keyboard.press("Tab")
    knobs = {"Fair", "nu (ν)", "sweep nu (ν)", "meta_lr (β)", "sweep meta_lr (β)", "rounds", "sweep rounds"}
    assert knobs | {"Who holds what", "Training", "Seeds", "ν = 5", "worst and best agents", "MB sent"} <= reached
    assert {"Run", "Stop", "Pin this curve", "Reset", "Table of runs"} <= reached
    assert "sweep" not in reached


def focused(page) -> str:
    name = "(e => e.getAttribute('aria-label') || e.textContent.trim() || e.tagName)(document.activeElement)"
    return page.evaluate(name)


def go_to(page, name: str) -> None:
    for _ in range(70):
        if focused(page) == name:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab never reached {name}")


def test_folded_knobs_pin_and_reset_by_keyboard(page, panel):
    knob(panel, "nu (ν)").focus()
    go_to(page, "Training")
    page.keyboard.press("Enter")
    knob(panel, "rounds").wait_for()
    go_to(page, "rounds")
    page.keyboard.press("Home")
    playwright.expect(knob(panel, "rounds")).to_have_attribute("aria-valuetext", "10")
    until_drawn(panel, r"ν = 3 \d+ % after round 10; FedAvg .* after round 10\.")
    page.wait_for_function("!document.querySelector('.gmfl-explorer progress')")
    go_to(page, "Pin this curve")
    page.keyboard.press("Enter")
    go_to(page, "Reset")
    assert focused(page) == "Reset"
    page.keyboard.press("Space")
    until_drawn(panel, r"steps: ν = 3 \d+ % after round 100; FedAvg")
    assert focused(page) == "Reset"
    playwright.expect(knob(panel, "rounds")).to_have_attribute("aria-valuetext", "100")


def test_what_is_read_out_stays_where_it_is(page, panel):
    """A screen reader hears changes of a part of the page, not parts that are put in the place of others."""
    page.evaluate("window.heard = document.querySelector('.gmfl-explorer [role=status]')")
    button(panel, "Take it away").click()
    button(panel, "Per-FedAvg").click()
    until_drawn(panel, "ν = 1 .* after round 100; FedAvg")
    assert page.evaluate("window.heard === document.querySelector('.gmfl-explorer [role=status]')")
    page.wait_for_function("!document.querySelector('.gmfl-explorer progress')")
    playwright.expect(panel.locator("pre").first).to_contain_text("nu=1")
    page.evaluate("window.taken = document.querySelector('.gmfl-explorer pre'); window.taken.focus()")
    page.wait_for_timeout(500)
    assert page.evaluate("document.activeElement === window.taken && window.taken.isConnected")


def test_the_picture_stays_where_it_is_and_no_legend_is_cut(page, panel):
    """Whatever is said above it; with a pin of another partition, whose names are long."""
    top = panel.locator("img").first.bounding_box()["y"]
    button(panel, "Pin this curve").click()
    button(panel, "one class per agent").click()
    until_drawn(panel, "partition = dirichlet.*; partition = shards.* after round 100; FedAvg .* after round 100")
    legend = panel.locator(".gmfl-legend")
    playwright.expect(legend).to_contain_text("partition = dirichlet")
    playwright.expect(legend).not_to_contain_text("dirichlet_alpha")
    for entry in legend.locator("span").all():
        box, around = entry.bounding_box(), panel.bounding_box()
        assert around["x"] <= box["x"]
        assert box["x"] + box["width"] <= around["x"] + around["width"]
    page.wait_for_function("!document.querySelector('.gmfl-explorer progress')")
    button(panel, "Fair").click()  # and a long sentence
    until_said(panel, "Press Fair again to begin.")
    picture_of(page, "pin-of-another-partition")
    assert panel.locator("img").first.bounding_box()["y"] == top


def test_the_ends_of_a_sweep_are_read_in_full(page, panel):
    row = panel.locator(".gmfl-knobs .widget-hbox", has_text="dirichlet_alpha").first
    row.get_by_role("button").click()
    readout = row.locator(".widget-readout")
    playwright.expect(readout).to_contain_text(re.compile(r"0\.01.*100"))
    assert readout.evaluate("e => e.scrollWidth <= e.clientWidth"), readout.inner_text()
    button(panel, "Stop").click()


def test_in_the_dark_links_can_be_read_and_the_figure_is_no_white_slab(page, panel):
    use_theme(page, "JupyterLab Dark")
    button(panel, "Take it away").click()
    link = panel.get_by_role("link", name="Save the figure")
    colours = [
        link.evaluate("e => getComputedStyle(e).color"),
        page.locator(".jp-Notebook").evaluate("e => getComputedStyle(e).backgroundColor"),
    ]
    light, dark = (luminance([int(n) / 255 for n in re.findall(r"\d+", colour)[:3]]) for colour in colours)
    assert dark < 0.05
    assert (light + 0.05) / (dark + 0.05) >= 4.5
    button(panel, "Take it away").click()
    panel.evaluate("box => box.scrollIntoView({block: 'start'})")
    picture_of(page, "dark")
    drawn = Image.open(io.BytesIO(panel.locator("img").first.screenshot())).convert("L")
    assert drawn.getpixel((3, 3)) < 50
    use_theme(page, "JupyterLab Light")
    drawn = Image.open(io.BytesIO(panel.locator("img").first.screenshot())).convert("L")
    assert drawn.getpixel((3, 3)) > 200


def use_theme(page, name: str) -> None:
    page.keyboard.press("Control+Shift+c")
    page.locator(".lm-CommandPalette-input").fill(f"theme: {name}")
    page.locator(".lm-CommandPalette-item").first.click()
    light = "true" if name.endswith("Light") else "false"
    page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
    page.wait_for_timeout(500)


def luminance(rgb: list[float]) -> float:
    """Return the relative luminance of WCAG 2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def add_and_run(page, source: str) -> None:
    page.locator(".jp-Notebook .jp-Cell").last.click()
    for key in ("Escape", "b", "Enter"):
        page.keyboard.press(key)
    # The editor comes when the browser has time; what is written before is lost.
    page.wait_for_function("document.activeElement.closest('.jp-Cell.jp-mod-active .cm-content') !== null")
    page.keyboard.insert_text(source)
    written = page.locator(".jp-Cell.jp-mod-active .cm-content")
    playwright.expect(written).to_contain_text(source.splitlines()[0])
    page.keyboard.press("Control+Enter")


def test_a_cell_that_holds_the_kernel_is_said_to_be_waited_for(page, panel, folder):
    add_and_run(page, "import os, time\nwhile not os.path.exists('go on'):\n    time.sleep(0.1)")
    until_said(panel, "Another cell of this notebook is at work: what you press here waits until it is done.")
    (folder / "go on").touch()
    playwright.expect(panel.get_by_role("status")).not_to_contain_text("Another cell", timeout=60_000)


def test_run_all_leaves_one_panel_alive_as_it_was(page, panel):
    """Also the cells below it have run by then, so that it hears at once; also in a page that is opened again."""
    button(panel, "Pin this curve").click()
    button(panel, "Per-FedAvg").click()
    kept = r"steps: ν = 3 \d+ % after round 100; ν = 1 \d+ % after round 100; FedAvg"
    until_drawn(panel, kept)
    page.wait_for_function("!document.querySelector('.gmfl-explorer progress')")
    jupyter_lab.run_all_cells(page)
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-InputPrompt')].every(prompt => !prompt.textContent.includes('*'))"
    )
    page.get_by_text("(ipykernel) | Idle").wait_for()
    until_drawn(panel, kept)
    assert page.locator(".gmfl-explorer").count() == 1
    assert knob(panel, "nu (ν)").get_attribute("aria-valuetext") == "1"
    jupyter_lab.command(page, "docmanager:save")
    page.reload()
    jupyter_lab.until_open(page)
    panel.wait_for()
    until_drawn(panel, kept)
    button(panel, "ν = 5").click()
    until_drawn(panel, r"ν = 5 \d+ % after round 100; FedAvg")


def test_two_panels_in_one_notebook(page, panel):
    """The second one is moved, named and read out by itself; the first one stays as it is."""
    add_and_run(page, "second = gl.Explorer(base.replace(rounds=20)); second")
    panels = page.locator(".gmfl-explorer")
    playwright.expect(panels).to_have_count(2)
    first, second = panels.nth(0), panels.nth(1)
    until_said(second, "Press Run, or move a knob.")
    knob(second, "nu (ν)").focus()
    page.keyboard.press("ArrowRight")
    until_drawn(second, r"ν = 5 \d+ % after round 20; FedAvg")
    assert knob(second, "nu (ν)").get_attribute("aria-valuetext") == "5"
    assert knob(first, "nu (ν)").get_attribute("aria-valuetext") == "3"
    playwright.expect(first.get_by_role("status")).to_contain_text("FedAvg fine-tuned as long")
    button(first, "Per-FedAvg").click()
    until_drawn(first, r"ν = 1 \d+ % after round 100; FedAvg")
    assert "ν = 5" in alt(second)
    picture_of(page, "two-panels")
