"""The landscape player in a real browser, from a file without a network: it moves, and computes as the library.

Screenshots are left in artefacts/, to be looked at.
"""

import chromium
import numpy as np
import pytest
import torch
from chromium import playwright
from clean_machine import ROOT

import gmfl_lite as gl
from gmfl_lite.explain.landscape_player import DEFAULT

ARTEFACTS = ROOT / "artefacts"
SIZES = {"wide": (1280, 800), "narrow": (900, 700), "phone": (390, 844)}
ALPHA, BETA, TAU = 0.3, 0.7, 4
METHODS = [("exact", None), ("first_order", None), ("truncated", 0), ("truncated", 1), ("truncated", 2)]

pytestmark = chromium.NEEDED

X = np.random.default_rng(1).uniform(-3, 3, size=(3, 7))
NEURONS = [
    (torch.from_numpy(x), a * torch.tanh(b * torch.from_numpy(x)))
    for x, a, b in zip(X, (1.6, 1, 0.5), (0.5, 1, 1.6), strict=True)
]
AGENTS = {"quadratics": gl.theory.Quadratics(*DEFAULT), "neurons": {f"agent {i}": one for i, one in enumerate(NEURONS)}}


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as browser:
        yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """Open pictures in pages that reach nothing but the file, and that no error passes unseen."""
    errors, contexts = [], []

    def open_(picture, size="wide", **options):
        picture.save(tmp_path / "picture.html")
        viewport = dict(zip(("width", "height"), SIZES[size], strict=True))
        context = browser.new_context(viewport=viewport, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
        page.goto((tmp_path / "picture.html").as_uri())
        frame = page.frames[1]
        frame.wait_for_function("window.gmfl?.state && document.querySelector('tbody td').textContent")
        return page, frame

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(params=AGENTS)
def player(request, opened):
    picture = gl.explain.landscape(
        AGENTS[request.param], nu=3, fine_tune_lr=ALPHA, meta_lr=BETA, local_steps=TAU, start=(0.5, 0.6)
    )
    return request.param, opened(picture)[1]


def of_the_library(kind, w, nu, method, kept, tau=TAU):
    """Return F(w), the mean meta-gradient and where a round leads, by closed forms or by the library's autograd."""
    if kind == "quadratics":
        agents, options = AGENTS[kind], {"method": method, "backprop_steps": kept}
        loss = agents.meta_loss(w, nu, ALPHA)
        return loss, agents.meta_gradient(w, nu, ALPHA, **options), agents.round(w, nu, ALPHA, BETA, tau, **options)

    def loss_fn(params, batch):
        return ((params["w"][0] * torch.tanh(params["w"][1] * batch[0]) - batch[1]) ** 2).mean()

    params = {"w": torch.tensor(w, dtype=torch.float64)}
    options = {"fine_tune_lr": ALPHA, "method": method} | ({} if kept is None else {"backprop_steps": kept})
    found = [gl.meta_gradient(loss_fn, params, [batch] * nu, batch, **options) for batch in NEURONS]
    ends = [
        gl.local_update(loss_fn, params, [([batch] * nu, batch)] * tau, meta_lr=BETA, **options)[0] for batch in NEURONS
    ]
    mean = np.mean([[loss.item(), *gradient["w"].numpy()] for gradient, loss in found], axis=0)
    return mean[0], mean[1:], np.mean([end["w"].numpy() for end in ends], axis=0)


def test_numbers_are_those_of_the_library(player):
    kind, frame = player
    for w in np.random.default_rng(0).uniform(0.2, 1.4, size=(10, 2)).tolist():
        for nu, (method, kept), tau in [(nu, way, tau) for nu in (0, 1, 3, 7) for way in METHODS for tau in (1, 4)]:
            if (kept or 0) > nu:
                continue
            changes = {"backprop_steps": kept, "local_steps": tau}
            found = frame.evaluate(
                "([w, nu, method, changes]) => [gmfl.meta_loss(w, nu, changes),"
                "gmfl.gradient(w, nu, method, changes), gmfl.round(w, nu, method, changes)]",
                [w, nu, method, changes],
            )
            for one, truth in zip(found, of_the_library(kind, w, nu, method, kept, tau), strict=True):
                np.testing.assert_allclose(one, truth, rtol=1e-10, atol=1e-14)


def test_paths_are_the_agents_fine_tuning(player):
    kind, frame = player
    w = {"w": torch.tensor([0.9, 0.4], dtype=torch.float64)}
    if kind == "neurons":
        batch, loss_fn = (
            NEURONS[1],
            lambda params, b: ((params["w"][0] * torch.tanh(params["w"][1] * b[0]) - b[1]) ** 2).mean(),
        )
    else:
        A, c = (torch.from_numpy(one[1]) for one in (AGENTS[kind].A, AGENTS[kind].c))
        batch, loss_fn = None, lambda params, _: 0.5 * (params["w"] - c) @ A @ (params["w"] - c)
    walked = [gl.fine_tune(loss_fn, w, [batch] * steps, ALPHA)["w"].tolist() for steps in range(6)]
    np.testing.assert_allclose(frame.evaluate("gmfl.path(1, [0.9, 0.4], 5)"), walked, rtol=1e-12)


def test_numbers_embedded_by_the_library_are_computed_again(player):
    found = player[1].evaluate(
        """() => {
        const {start, nu, settings, at_start} = gmfl.data;
        const nus = [0, 1, nu];
        return [
            [nus.map(steps => gmfl.meta_loss(start, steps)), nus.map(steps => at_start.meta_loss[steps])],
            [nus.map(steps => gmfl.round(start, steps, settings.method)), Object.values(at_start.round)],
        ];
        }"""
    )
    for one, other in found:
        np.testing.assert_allclose(one, other, rtol=1e-10)


def w_of(frame):
    return frame.evaluate("gmfl.state.w")


def readout(frame):
    """Return the table's numbers, a row for each method: place, loss, loss after ν steps."""
    return [
        [cell.replace("−", "-") for cell in row.locator("td").all_inner_texts()]
        for row in frame.locator("tbody tr").all()
    ]


def settled(frame):
    """Wait until what has changed is drawn."""
    frame.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_w_moves_by_keyboard(opened):
    page, frame = opened(gl.explain.landscape())
    before = w_of(frame)
    handle = frame.get_by_role("slider", name="w, the shared start")
    handle.focus()
    assert frame.evaluate("getComputedStyle(document.querySelector('.handle .ring')).strokeWidth") == "4px"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    settled(frame)
    (left, right), (bottom, top) = frame.evaluate("[gmfl.data.window.x, gmfl.data.window.y]")
    moved = [before[0] + 0.06 * (right - left), before[1] - 0.1 * (top - bottom)]
    np.testing.assert_allclose(w_of(frame), moved)
    loss, after = (AGENTS["quadratics"].meta_loss(moved, nu, 0.4) for nu in (0, 3))
    said = handle.get_attribute("aria-valuetext").replace("−", "-")
    assert said == f"w₁ {moved[0]:.2f}, w₂ {moved[1]:.2f}; mean loss {loss:#.3}, after 3 fine-tuning steps {after:#.3}"
    assert readout(frame) == [[f"({moved[0]:.2f}, {moved[1]:.2f})", f"{loss:#.3}", f"{after:#.3}"]] * 3
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    np.testing.assert_allclose(w_of(frame)[0], left)  # it stays in the picture


def test_w_moves_by_mouse(opened):
    page, frame = opened(gl.explain.landscape())
    box = frame.locator(".handle .knob").bounding_box()
    plot = frame.locator(".plot svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] / 2, plot["y"] + plot["height"] / 4, steps=4)
    page.mouse.up()
    page.mouse.move(plot["x"], plot["y"])  # let go: it follows no more
    (left, right), (bottom, top) = frame.evaluate("[gmfl.data.window.x, gmfl.data.window.y]")
    np.testing.assert_allclose(w_of(frame), [(left + right) / 2, top - (top - bottom) / 4], atol=0.01)
    assert frame.evaluate("document.activeElement.getAttribute('role')") == "slider"


def test_w_moves_by_finger_and_the_page_does_not(opened):
    page, frame = opened(gl.explain.landscape(), "phone", has_touch=True, is_mobile=True)
    hand = page.context.new_cdp_session(page)

    def swipe(x, y, dx, dy):
        hand.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for share in np.linspace(0.2, 1, 5):
            point = {"x": x + share * dx, "y": y + share * dy}
            hand.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(300)

    before, box = w_of(frame), frame.locator(".handle .knob").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    swipe(x, y, 60, 50)
    after = w_of(frame)
    assert after[0] > before[0] + 0.2
    assert after[1] < before[1] - 0.2
    assert page.evaluate("scrollY") == 0
    plot = frame.locator(".plot").bounding_box()
    swipe(plot["x"] + plot["width"] - 40, plot["y"] + plot["height"] - 40, 0, -150)
    page.wait_for_function("scrollY > 50")
    assert w_of(frame) == after


def test_nu_changes_the_landscape_and_what_is_said(opened):
    page, frame = opened(gl.explain.landscape())
    agents = AGENTS["quadratics"]
    slider = frame.get_by_role("slider", name="ν: fine-tuning steps looked ahead", exact=True)
    (left, right), (bottom, top) = frame.evaluate("[gmfl.data.window.x, gmfl.data.window.y]")
    shades = set()
    for key, nu in (("Home", 0), ("ArrowRight", 1), ("End", 20)):
        slider.focus()
        page.keyboard.press(key)
        settled(frame)
        assert slider.get_attribute("aria-valuetext") == str(nu)
        loss = agents.meta_loss(w_of(frame), nu, 0.4)
        assert readout(frame)[0][2] == f"{loss:#.3}"
        shades.add(frame.evaluate("document.querySelector('canvas').toDataURL()"))
        assert len(frame.locator(".paths circle").all()) == 3 * nu
        x, y = frame.evaluate(
            "document.querySelector('.lowest').getAttribute('transform').match(/[-\\d.]+/g).slice(0, 2).map(Number)"
        )
        lowest = [left + x / 560 * (right - left), top - y / 440 * (top - bottom)]
        np.testing.assert_allclose(lowest, agents.minimiser(nu, 0.4), atol=0.01)
    assert len(shades) == 3


def test_shades_have_numbers_and_arrows_that_cannot_be_seen_have_words(opened):
    page, frame = opened(gl.explain.landscape())
    agents, hidden = AGENTS["quadratics"], frame.locator(".hidden-arrows")
    slider = frame.get_by_role("slider", name="ν: fine-tuning steps looked ahead", exact=True)
    (left, right), (bottom, top) = frame.evaluate("[gmfl.data.window.x, gmfl.data.window.y]")
    corners = [[x, y] for x in (left, right) for y in (bottom, top)]
    for key, nu, words in (
        ("Home", 0, "FedAvg: below the arrow of ν = 0"),
        ("End", 20, "ν = 20: too short an arrow to see"),
    ):
        slider.focus()
        page.keyboard.press(key)
        settled(frame)
        low, high = map(float, frame.locator(".height").text_content().removeprefix("mean loss here: ").split(" to "))
        assert low == pytest.approx(agents.meta_loss(agents.minimiser(nu, 0.4), nu, 0.4), rel=0.02)
        assert high == pytest.approx(max(agents.meta_loss(corner, nu, 0.4) for corner in corners), rel=0.005)
        assert words in hidden.text_content()
    marks = frame.locator(".tick").all()
    across = sum(mark.get_attribute("text-anchor") == "middle" for mark in marks)
    assert min(across, len(marks) - across) > 3, "a place can be read"
    for mark in marks:
        x, y, number = (mark.get_attribute("x"), mark.get_attribute("y"), float(mark.text_content().replace("−", "-")))
        along = mark.get_attribute("text-anchor") == "middle"
        place = left + float(x) / 560 * (right - left) if along else top - (float(y) - 5) / 440 * (top - bottom)
        assert place == pytest.approx(number)
    for _ in range(60):
        frame.get_by_role("button", name="Step").click()
    settled(frame)
    assert hidden.text_content() == ""  # trails show it
    frame.get_by_role("button", name="Step").click()
    playwright.expect(frame.get_by_role("status")).to_contain_text(
        "60 rounds are shown at most; still on the way: ν = 20"
    )
    before = frame.evaluate("[gmfl.data.start, gmfl.data.nu, gmfl.data.settings]")
    frame.get_by_role("slider", name="α: fine").press("End")
    frame.get_by_role("button", name="Reset").click()
    assert frame.evaluate("[gmfl.state.w, gmfl.state.nu, gmfl.state.settings]") == before
    assert [slider.get_attribute("aria-valuetext"), frame.get_by_role("slider", name="α: fine").input_value()] == [
        "3",
        "20",
    ]


def test_rounds_are_the_librarys_and_come_to_rest(opened):
    page, frame = opened(gl.explain.landscape(nu=2))
    agents, start = AGENTS["quadratics"], w_of(frame)
    for _ in range(4):
        frame.get_by_role("button", name="Step").click()
    settled(frame)
    for method, nu in enumerate((0, 1, 2)):
        truth = agents.train(start, nu, 0.4, 0.8, 5, rounds=4)[:, 0]
        np.testing.assert_allclose(frame.evaluate(f"gmfl.state.visited[{method}]"), truth, rtol=1e-10)
        loss, after = agents.meta_loss(truth[-1], 0, 0.4), agents.meta_loss(truth[-1], 2, 0.4)
        assert readout(frame)[method] == [f"({truth[-1][0]:.2f}, {truth[-1][1]:.2f})", f"{loss:#.3}", f"{after:#.3}"]
    playwright.expect(frame.locator("caption")).to_have_text("Mean loss after 4 rounds")
    frame.get_by_role("button", name="Play rounds").click()
    playwright.expect(frame.get_by_role("button", name="Pause")).to_be_visible()
    frame.wait_for_function("gmfl.state.rounds > 5")
    frame.get_by_role("button", name="Pause").click()
    stopped = frame.evaluate("gmfl.state.rounds")
    page.wait_for_timeout(800)
    assert frame.evaluate("gmfl.state.rounds") == stopped
    frame.get_by_role("button", name="Reset").click()
    assert frame.evaluate("gmfl.state.visited") == [[start]] * 3


def test_less_motion_shows_where_rounds_end_at_once(opened):
    _, frame = opened(gl.explain.landscape(nu=2), reduced_motion="reduce")
    frame.get_by_role("button", name="Play rounds").click()
    assert frame.evaluate("gmfl.state.timer") is None
    playwright.expect(frame.get_by_role("status")).to_have_text("All three have come to rest.")
    for method, nu in enumerate((0, 1, 2)):
        rest = AGENTS["quadratics"].fixed_point(nu, 0.4, 0.8, 5)
        np.testing.assert_allclose(frame.evaluate(f"gmfl.state.visited[{method}].at(-1)"), rest, atol=0.02)


def test_settings_change_what_is_computed(opened):
    page, frame = opened(gl.explain.landscape(nu=4))
    agents, w = AGENTS["quadratics"], w_of(frame)
    frame.get_by_label("meta-gradient").select_option("truncated")
    for name, key, times in (
        ("m: Hessian factors", "ArrowRight", 2),
        ("τ: steps", "ArrowLeft", 3),
        ("α: fine", "ArrowLeft", 10),
        ("β: local", "ArrowRight", 5),
    ):
        frame.get_by_role("slider", name=name).focus()
        for _ in range(times):
            page.keyboard.press(key)
    assert frame.evaluate("gmfl.state.settings") == {
        "fine_tune_lr": 0.2, "meta_lr": 1.0, "local_steps": 2, "method": "truncated", "backprop_steps": 3,
    }  # fmt: skip
    frame.get_by_role("button", name="Step").click()
    settled(frame)
    for method, (nu, kept) in enumerate(((0, 0), (1, 1), (4, 3))):  # as many factors as there are steps, at most
        truth = agents.round(w, nu, 0.2, 1.0, 2, method="truncated", backprop_steps=kept)
        np.testing.assert_allclose(frame.evaluate(f"gmfl.state.visited[{method}][1]"), truth, rtol=1e-10)
    assert readout(frame)[2][2] == f"{agents.meta_loss(truth, 4, 0.2):#.3}"


def test_divergence_is_said_in_words(opened):
    page, frame = opened(gl.explain.landscape(meta_lr=1.5))
    frame.get_by_role("slider", name="β: local").focus()
    page.keyboard.press("End")
    for _ in range(20):
        frame.get_by_role("button", name="Step").click()
    settled(frame)
    playwright.expect(frame.get_by_role("status")).to_have_text("FedAvg diverged: lower α or β.")
    assert readout(frame)[0][0] == "left the picture"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_is_legible_and_replaces_the_still(opened, size, scheme):
    page, frame = opened(gl.explain.landscape(), size, color_scheme=scheme)
    for _ in range(3):
        frame.get_by_role("button", name="Step").click()
    settled(frame)
    page.wait_for_timeout(200)
    assert page.evaluate("document.querySelector('img').offsetHeight") == 0
    assert frame.evaluate("document.documentElement.dataset.theme") == scheme
    wide, high = SIZES[size]
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    assert frame.evaluate("document.body.scrollWidth <= innerWidth && document.body.scrollHeight <= innerHeight + 1")
    table = frame.locator("table").bounding_box()
    buttons = frame.get_by_role("button", name="Reset").bounding_box()
    assert buttons["y"] + buttons["height"] < high  # the picture and all knobs are on screen together
    assert size == "phone" or table["y"] + table["height"] < high
    assert min(frame.evaluate(CONTRASTS)) >= 4.5
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"landscape-{size}-{scheme}.png", full_page=True)


CONTRASTS = """() => {
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(one => one / 255)
            .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        const colour = getComputedStyle(element).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : colour;
    };
    return [...document.querySelectorAll("h1, p, li, th, td, span, output, caption, button, select")].map(element => {
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
        return (a + 0.05) / (b + 0.05);
    });
}"""


def test_without_scripts_the_still_stands(browser, tmp_path):
    picture = gl.explain.landscape()
    picture.save(tmp_path / "picture.html")
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((tmp_path / "picture.html").as_uri())
    assert page.get_by_role("img", name=picture.alt).bounding_box()["height"] > 300
    assert page.locator("iframe").bounding_box() is None or page.locator("iframe").bounding_box()["height"] == 0


def test_it_runs_where_html_is_inserted_and_follows_the_page(opened, browser):
    """As JupyterLab inserts it, and with its theme or that of Material for MkDocs rather than the system's."""
    page = browser.new_page(color_scheme="light")
    shrinks = "<style>figure {display: flow-root; width: fit-content}</style>"  # as Material's style sheet does
    page.set_content(f"{shrinks}<body data-jp-theme-light='true'><div></div></body>")
    page.evaluate("shown => {document.querySelector('div').innerHTML = shown}", gl.explain.landscape()._repr_html_())
    frame = page.wait_for_selector("iframe").content_frame()
    frame.wait_for_selector("tbody")
    theme = "document.documentElement.dataset.theme"
    assert frame.evaluate(theme) == "light"
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    frame.wait_for_function(f"{theme} === 'dark'")
    page.evaluate("delete document.body.dataset.jpThemeLight; document.body.dataset.mdColorScheme = 'default'")
    frame.wait_for_function(f"{theme} === 'light'")
    page.evaluate("document.body.dataset.mdColorScheme = 'slate'")
    frame.wait_for_function(f"{theme} === 'dark'")
    assert page.evaluate("document.querySelector('iframe').offsetHeight") > 400
    assert page.evaluate("document.querySelector('iframe').offsetWidth") > 1000
    page.close()
