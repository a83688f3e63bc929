"""One round in a browser, without a network: its stages by keyboard and mouse, and what dropping an agent shows."""

import chromium
import numpy as np
import pytest
import torch
from saved_page import SIZES, data_of, opened, under_a_clock_that_stands

import gmfl_lite as gl
from gmfl_lite.explain.one_round import SMALL
from gmfl_lite.explain.round_numbers import measure_round

pytestmark = chromium.NEEDED

EXPERIMENT = SMALL.replace(weighting="samples", size_spread=1.0, nu=2)
ORDER = (
    ["pick", "send"]
    + 2 * (2 * ["fine-tune"] + ["query"] + 3 * ["meta-gradient"] + ["local step"])
    + ["send back", "average"]
)


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def picture():
    return gl.explain.one_round(EXPERIMENT)


@pytest.fixture
def frame(browser, picture, tmp_path):
    with opened(browser, picture, tmp_path, reduced_motion="reduce") as frame:
        yield frame


def press(frame, key: str) -> None:
    frame.page.keyboard.press(key)


def phase(frame) -> str:
    return frame.locator(".phases [aria-current=step]").inner_text()


def shown(frame, agent: int, row: str) -> list[str]:
    rows = frame.locator(".card").nth(agent).locator("tr", has=frame.locator(f"th[scope=row]:text-is('{row}')"))
    return rows.locator(".number").all_inner_texts()


def facts(frame) -> dict[str, str]:
    terms, values = (frame.locator(f".facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(terms, values, strict=True))


def test_stages_come_in_order_by_keyboard_and_by_mouse(frame):
    frame.get_by_role("button", name="Step →").focus()
    seen = [phase(frame)]
    for turn in range(len(ORDER) - 1):
        if turn % 2:
            press(frame, "ArrowRight")
        else:
            frame.get_by_role("button", name="Step →").click()
        seen.append(phase(frame))
    assert seen == ORDER
    assert frame.get_by_role("button", name="Step →").get_attribute("aria-disabled") == "true"
    press(frame, "ArrowRight")
    assert phase(frame) == "average"
    frame.get_by_role("button", name="← Back").click()
    press(frame, "ArrowLeft")
    assert phase(frame) == "local step"
    press(frame, "Home")
    assert phase(frame) == "pick"
    frame.get_by_role("button", name="meta-gradient").click()
    assert frame.get_by_role("status").inner_text().startswith("Local step 1 of 2: the gradient at w⁽²⁾")


def test_the_space_bar_plays_to_the_end_and_pauses(browser, picture, tmp_path):
    with opened(browser, picture, tmp_path) as frame:
        frame = under_a_clock_that_stands(frame)
        frame.locator("h2").click()
        press(frame, "Space")
        frame.page.clock.run_for(3000)
        assert phase(frame) == "fine-tune"
        assert frame.evaluate("gmfl.at()") == 2
        press(frame, "Space")
        frame.page.clock.run_for(5000)
        assert frame.evaluate("gmfl.at()") == 2
        frame.get_by_role("button", name="Play").click()
        frame.page.clock.run_for(60_000)
        assert phase(frame) == "average"
        assert frame.get_by_role("button", name="Play").is_visible()


def test_numbers_shown_are_the_data(frame, picture):
    data = data_of(picture)
    digits = {"support loss": "support", "query loss": "query", "length of v": "back"}
    for t, at in enumerate((2, 9)):  # where the local steps begin
        for agent, drawn in enumerate(data["picked"]):
            step = drawn["steps"][t]
            frame.evaluate(f"gmfl.goTo({at})")
            assert shown(frame, agent, "support loss") == [f"{step['support'][0]:#.3g}", "", ""]
            assert shown(frame, agent, "query loss") == ["", "", ""]
            frame.evaluate(f"gmfl.goTo({at + 4})")
            assert shown(frame, agent, "length of v") == ["", *(f"{v:#.3g}" for v in step["back"][1::-1])]
            frame.evaluate(f"gmfl.goTo({at + 6})")
            for row, name in digits.items():
                values = step[name][::-1] if name == "back" else step[name]
                assert [text for text in shown(frame, agent, row) if text] == [f"{value:#.3g}" for value in values]
            moved = frame.locator(".moved").nth(agent).inner_text()
            assert moved == f"‖g‖ = {step['gradient']:#.3g}; ‖wᵢ − w‖ = {step['displacement']:#.3g}"


def test_agents_walk_as_they_did(frame, picture):
    """In every stage: the local steps that are taken and fine-tuning from there, in the proportions of the data."""
    walks = torch.tensor(data_of(picture)["walks"], dtype=torch.float64)  # [agents, τ, ν + 1, 2]
    zooms = []

    def agrees(kind, expected):
        places = "all => all.map(one => [Number(one.getAttribute('cx')), -Number(one.getAttribute('cy'))])"
        drawn = torch.tensor(frame.locator(f"circle.{kind}").evaluate_all(places), dtype=torch.float64)
        if len(expected):
            zooms.append((drawn.norm() / expected.norm()).item())
            expected = expected * zooms[-1]
        torch.testing.assert_close(drawn.reshape(-1, 2), expected, atol=1e-6, rtol=0)

    for at, (taken, tuned) in enumerate(
        2 * [(0, 0)] + [(0, 1), *5 * [(0, 2)], (1, 0)] + [(1, 1), *5 * [(1, 2)], (2, 0)] + 2 * [(2, 0)]
    ):
        frame.evaluate(f"gmfl.goTo({at})")
        agrees("update", walks[:, :taken, -1].flatten(0, 1))
        agrees("ahead", walks[:, min(taken, 1), :tuned].flatten(0, 1))
        words = frame.locator("svg[role=img]").get_attribute("aria-label")
        assert f"{taken} local step" in words
        assert ("looked ahead" in words) == bool(tuned)
        assert frame.locator("rect.average").count() == (phase(frame) == "average")
    assert np.allclose(zooms[:-2], zooms[0])
    assert zooms[-1] == pytest.approx(zooms[-2])
    assert zooms[-1] > zooms[0]  # nothing looks ahead at the end, and the picture is larger


def test_dropping_agents_gives_the_average_of_the_others(frame):
    """By Enter and by mouse, at the end and before it; the numbers are those of gl.aggregate."""
    measured = measure_round(EXPERIMENT, None, None, 0)
    each = 650 * 8

    def displacement(kept, other=None):
        found = gl.aggregate({name: sent[kept] for name, sent in measured.updates.items()}, measured.weights[kept])
        other = measured.w if other is None else other
        return torch.cat([(found[name] - other[name]).flatten() for name in found]).norm().item()

    press(frame, "Tab")
    frame.locator("button.drop").nth(1).focus()
    press(frame, "Enter")
    assert "is dropped. It will show in the average." in frame.get_by_role("status").inner_text()
    assert frame.locator("button.drop").nth(1).get_attribute("aria-pressed") == "true"
    press(frame, "End")
    for kept in ([0, 2, 3], [0, 3], [0, 1, 3]):
        found = frame.evaluate("gmfl.average()")
        assert found["kept"] == [measured.picked[place] for place in kept]
        assert found["displacement"] == pytest.approx(displacement(kept), abs=1e-10)
        assert found["change"] == pytest.approx(displacement(kept, measured.average), abs=1e-10)
        assert (found["down"], found["up"]) == (4 * each, len(kept) * each)
        assert facts(frame)["the average's distance"] == f"{displacement(kept):#.5g}"
        assert facts(frame)["with all agents"] == f"{displacement([0, 1, 2, 3]):#.5g}"
        assert facts(frame)["dropping moved it by"] == f"{displacement(kept, measured.average):#.5g}"
        assert facts(frame)["sent up"] == f"{len(kept) * each / 1000:.1f} kB"
        without = frame.locator(".moved").nth(0).inner_text()
        others = [place for place in kept if place != 0]
        assert without.endswith(f"without it the average's distance is {displacement(others):#.3g}")
        frame.locator("button.drop").nth(2 if kept == [0, 2, 3] else 1).click()
    for place in (0, 3):  # 1 and 2 have been dropped by now
        frame.locator("button.drop").nth(place).click()
    assert facts(frame)["the average's distance"] == "no agent is left: w stays"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_says_what_it_is(browser, picture, tmp_path, size, scheme):
    with opened(browser, picture, tmp_path, size, color_scheme=scheme) as frame:
        for at in (0, 4, 8, 99):
            frame.evaluate(f"gmfl.goTo({at})")
            assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert frame.evaluate(
                "[...document.querySelectorAll('td, dd')].every(e => e.scrollWidth <= e.clientWidth + 1)"
            )
        assert frame.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        names = frame.evaluate("[...document.querySelectorAll('button.drop')].map(e => e.ariaLabel)")
        assert len({*names}) == 4
        assert frame.locator("svg").get_attribute("aria-label").startswith("Where the agents are")


def test_focus_is_seen(frame):
    press(frame, "Tab")
    press(frame, "Tab")
    outline = (
        "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth"
    )
    assert frame.evaluate(outline) == "solid3px"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nu": 0}, "ν = 0: nobody fine-tunes"),
        ({"nu": 0, "local_steps": 2}, "v⁽⁰⁾ = ∇fᵢ(wᵢ), on the query, where the agent stands now."),
        ({"gradient": "reptile"}, "Reptile takes the way"),
        ({"gradient": "truncated", "backprop_steps": 1}, "Only the last 1 of ν = 3 Hessian factors"),
        ({"server": "adam", "server_lr": 0.1}, "a step of server = “adam” with server_lr = 0.1"),
        ({"proximal": 0.5}, "μ (wᵢ − w) added, with μ = 0.5"),
    ],
    ids=str,
)
def test_every_setting_has_its_words(browser, tmp_path, changes, words):
    with opened(browser, gl.explain.one_round(SMALL.replace(**changes)), tmp_path) as frame:
        assert words in frame.evaluate("gmfl.stages.map(stage => stage.words).join(' ')")
        press(frame, "Tab")
        for _ in range(frame.evaluate("gmfl.stages.length") - 1):
            frame.get_by_role("button", name="Step →").click()
        assert "undefined" not in frame.locator("body").inner_text()
        assert "NaN" not in frame.locator("body").inner_text()


def test_many_steps_do_not_run_into_each_other(browser, tmp_path):
    """On a phone, the table of an agent is scrolled, and the page is not."""
    picture = gl.explain.one_round(SMALL.replace(nu=8, local_steps=1, fine_tune_lr=0.1))
    with opened(browser, picture, tmp_path, "phone") as frame:
        press(frame, "Tab")
        frame.evaluate("gmfl.goTo(99)")
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
        wide = """() => [...document.querySelectorAll("td .number")].filter(number => {
            const range = document.createRange();
            range.selectNodeContents(number);
            return range.getBoundingClientRect().width > number.parentElement.clientWidth;
        }).length"""
        assert frame.evaluate(wide) == 0
        frame.locator(".scroll").first.focus()
        before = frame.evaluate("gmfl.at()")
        press(frame, "ArrowLeft")
        assert frame.evaluate("gmfl.at()") == before
