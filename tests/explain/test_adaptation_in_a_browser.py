"""The film of fine-tuning in a browser, without a network: its slider, its menu, what the images are called."""

import chromium
import pytest
from chromium import playwright
from saved_page import SIZES, data_of, opened, under_a_clock_that_stands

import gmfl_lite as gl

pytestmark = chromium.NEEDED

EXPERIMENT = gl.Experiment(rounds=20, n_agents=6, n_new_agents=2, agents_per_round=2, permuted_classes=4)


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def film():
    return gl.explain.adaptation(gl.run(EXPERIMENT, progress=False), gl.build_federation(EXPERIMENT))


@pytest.fixture
def frame(browser, film, tmp_path):
    with opened(browser, film, tmp_path) as frame:
        yield frame


def slider(frame):
    return frame.get_by_role("slider", name="Fine-tuning steps")


def check_shown(frame, agent, steps: int) -> None:
    """Look whether the tiles and the sentence say what the data hold."""
    truth, called = agent["shown"]["is"], agent["shown"]["called"][steps]
    expected = [
        f"label {is_}|{'✓' if is_ == says else '✗'} says {says}" for is_, says in zip(truth, called, strict=True)
    ]
    found = [tile.inner_text().replace("\n", "|") for tile in frame.locator(".tile").all()]
    assert found == expected
    wrong = [is_ != says for is_, says in zip(truth, called, strict=True)]
    assert frame.locator(".tile").evaluate_all("tiles => tiles.map(e => getComputedStyle(e).borderTopStyle)") == [
        "dashed" if one else "solid" for one in wrong
    ]
    said = frame.get_by_role("status").inner_text()
    assert said.startswith(agent["name"])
    assert f"{len(truth) - sum(wrong)} are right" in said
    assert f"accuracy {int(100 * agent['score'][steps] + 0.5)} %" in said
    assert slider(frame).get_attribute("aria-valuetext") == f"{steps} fine-tuning step{'s' * (steps != 1)}"
    label = frame.locator(".tile").first.get_attribute("aria-label")
    assert f"the model calls it {called[0]}, {'wrong' if wrong[0] else 'right'}" in label


def test_the_slider_moves_along_the_steps(frame, film):
    first = data_of(film)["agents"][0]
    check_shown(frame, first, 0)
    slider(frame).focus()
    for steps in (1, 2, 3):
        frame.page.keyboard.press("ArrowRight")
        check_shown(frame, first, steps)
    frame.page.keyboard.press("End")
    check_shown(frame, first, 10)
    box = slider(frame).bounding_box()
    frame.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    check_shown(frame, first, 5)


def test_the_menu_chooses_an_agent_and_steps_stay(frame, film):
    agents = data_of(film)["agents"]
    slider(frame).focus()
    frame.page.keyboard.press("ArrowRight")
    frame.get_by_role("combobox", name="Agent").select_option(index=1)
    check_shown(frame, agents[1], 1)
    frame.get_by_role("combobox", name="Agent").focus()
    frame.page.keyboard.press("ArrowDown")
    check_shown(frame, agents[2], 1)


def test_curves_say_their_numbers(frame, film):
    data = data_of(film)
    frame.evaluate("gmfl.goTo(4)")
    rounds, steps = (frame.locator(".curve").nth(place).get_attribute("aria-label") for place in (0, 1))
    new, line = data["groups"]["new"], next(line for line in data["history"]["new"] if line["steps"] == 3)
    for kind in ("best", "mean", "worst"):
        assert f"{kind} {int(100 * new[kind][4] + 0.5)} %" in steps
    assert "after 3 fine-tuning steps" in rounds  # the run was not looked at after 4
    assert f"{int(100 * line['points'][-1][1] + 0.5)} % at round 20" in rounds


def test_play_goes_to_the_end(browser, film, tmp_path):
    with opened(browser, film, tmp_path) as frame:
        frame = under_a_clock_that_stands(frame)
        frame.get_by_role("button", name="Play").click()
        frame.page.clock.run_for(2000)
        assert frame.evaluate("[gmfl.at(), gmfl.playing()]") == [2, True]
        frame.page.clock.run_for(20_000)
        assert frame.evaluate("[gmfl.at(), gmfl.playing()]") == [10, False]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits(browser, film, tmp_path, size, scheme):
    with opened(browser, film, tmp_path, size, color_scheme=scheme) as frame:
        frame.evaluate("gmfl.goTo(4)")
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert frame.evaluate("[...document.querySelectorAll('.tile')].every(e => e.scrollWidth <= e.clientWidth)")
        assert frame.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_changes_while_it_is_hidden_does_not_make_it_small(frame):
    """As in JupyterLab, which hides cells that are scrolled away: then its theme changes, and the cell comes back."""
    drawn = "[...document.querySelectorAll('svg.curve')].map(svg => svg.getAttribute('viewBox'))"
    frame.wait_for_function(f"!{drawn}.some(box => box.startsWith('0 0 200 '))", polling=50)  # as it is made
    before = frame.evaluate(drawn)
    page = frame.page
    page.evaluate("document.querySelector('iframe').style.display = 'none'")
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    frame.wait_for_function("document.documentElement.dataset.theme === 'dark'", polling=50)
    page.evaluate("document.querySelector('iframe').style.display = ''")
    page.wait_for_timeout(300)
    assert frame.evaluate(drawn) == before


def test_a_function_and_its_fit(browser, tmp_path):
    experiment = EXPERIMENT.replace(dataset="sinusoids", permuted_classes=0, fine_tune_lr=0.01, meta_lr=0.01)
    film = gl.explain.adaptation(gl.run(experiment, progress=False), gl.build_federation(experiment))
    with opened(browser, film, tmp_path) as frame:
        before = frame.locator(".fit .mean").get_attribute("points")
        assert before == frame.locator(".fit .start").get_attribute("points")
        slider(frame).focus()
        frame.page.keyboard.press("End")
        assert frame.locator(".fit .mean").get_attribute("points") != before
        playwright.expect(frame.locator("svg.fit")).to_have_attribute(
            "aria-label",
            "The model's function after 10 fine-tuning steps, "
            "dashed before it; filled dots: samples that it fine-tunes on, rings: those that it is scored on.",
        )
