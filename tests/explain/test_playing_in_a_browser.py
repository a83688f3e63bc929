"""Every picture plays and pauses alike: by button and space bar, at the pace that is asked for, and only when seen."""

import chromium
import pytest
from chromium import playwright
from saved_page import opened, under_a_clock_that_stands

import gmfl_lite as gl

pytestmark = chromium.NEEDED

EXPERIMENT = gl.Experiment(rounds=4, eval_every=4, n_agents=6, n_new_agents=2, agents_per_round=2)
PICTURES = {
    "landscape": (lambda: gl.explain.landscape(nu=2), "gmfl.state.rounds", 350, 0),
    "one_round": (gl.explain.one_round, "gmfl.at()", 1400, 2500),
    "adaptation": (
        lambda: gl.explain.adaptation(gl.run(EXPERIMENT, progress=False), gl.build_federation(EXPERIMENT)),
        "gmfl.at()",
        900,
        2000,
    ),
}
"""How each is made, where it says how far it is, and milliseconds from step to step: usually, and with less motion."""


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as browser:
        yield browser


@pytest.fixture(scope="module", params=PICTURES)
def picture(request):
    make, *facts = PICTURES[request.param]
    return make(), *facts


@pytest.fixture
def play(browser, tmp_path):
    """Open a picture under a clock that stands, and give its frame."""
    contexts = []

    def start(picture, **how):
        context = opened(browser, picture, tmp_path, **how)
        frame = context.__enter__()
        contexts.append(context)
        return under_a_clock_that_stands(frame)

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def test_button_and_space_bar(picture, play):
    shown, at, every, _ = picture
    frame = play(shown)
    button = frame.locator("button.main", has_text="Play")
    button.click()
    frame.page.clock.run_for(2 * every + 20)
    assert frame.evaluate(at) == 2
    playwright.expect(frame.get_by_role("button", name="Pause")).to_be_focused()
    frame.page.keyboard.press("Space")  # which presses the button, once
    frame.page.clock.run_for(5 * every)
    assert frame.evaluate(at) == 2
    frame.page.evaluate("document.querySelector('iframe').contentDocument.activeElement.blur()")
    frame.page.keyboard.press("Space")
    frame.page.clock.run_for(every + 20)
    assert frame.evaluate(at) == 3


def test_nothing_moves_that_nobody_sees(picture, play):
    shown, at, every, _ = picture
    frame = play(shown)
    frame.locator("button.main", has_text="Play").click()
    frame.page.clock.run_for(every + 20)
    for away, back, in_sight in (
        ("document.body.style.paddingTop = '5000px'; scrollTo(0, 0)", "document.body.style.paddingTop = '8px'", False),
        (HIDE.replace("HIDDEN", "true"), HIDE.replace("HIDDEN", "false"), True),
    ):
        before = frame.evaluate(at)
        frame.page.evaluate(away)
        frame.evaluate(ONCE_IT_IS, in_sight)
        frame.page.clock.run_for(5 * every)
        assert frame.evaluate(at) == before
        assert frame.get_by_role("button", name="Pause").count() == 1
        frame.page.evaluate(back)
        frame.evaluate(ONCE_IT_IS, True)
        frame.page.clock.run_for(every + 20)
        assert frame.evaluate(at) == before + 1


ONCE_IT_IS = """inSight => new Promise(told => new IntersectionObserver((seen, observer) => {
    if (seen.at(-1).isIntersecting === inSight) {
        observer.disconnect();
        told();
    }
}).observe(document.body))"""
"""Wait until the browser tells what is in sight; the picture's own observer, which is older, hears of it first."""
HIDE = """() => {
    const page = document.querySelector('iframe').contentDocument;
    Object.defineProperty(page, 'hidden', {value: HIDDEN, configurable: true});
    page.dispatchEvent(new Event('visibilitychange'));
}"""


def test_less_motion_for_who_asks_for_it(picture, play):
    """More time for each step, or, where the steps are many, all of them at once."""
    shown, at, _, calmly = picture
    frame = play(shown, reduced_motion="reduce")
    frame.locator("button.main", has_text="Play").click()
    if calmly:
        frame.page.clock.run_for(calmly - 20)
        assert frame.evaluate(at) == 0
        frame.page.clock.run_for(40)
        assert frame.evaluate(at) == 1
    else:
        assert frame.evaluate(at) > 5
        assert frame.get_by_role("button", name="Pause").count() == 0
        assert frame.get_by_role("status").inner_text() == "All three have come to rest."


def test_keys_stay_with_what_knows_them(picture, play):
    """The space bar opens a menu, arrows move a slider, and neither moves the picture as well."""
    shown, at, every, _ = picture
    frame = play(shown)
    for element in frame.locator("input[type=range]:visible, select:visible").all():
        before = frame.evaluate(at)
        element.focus()
        if element.evaluate("e => e.tagName") == "SELECT":
            frame.page.keyboard.press("Space")
            frame.page.keyboard.press("Escape")
            frame.page.clock.run_for(3 * every)
            assert frame.evaluate(at) == before
        elif element.evaluate("e => Number(e.value) < Number(e.max)"):
            value = int(element.input_value())
            frame.page.keyboard.press("ArrowRight")
            assert int(element.input_value()) == value + 1
