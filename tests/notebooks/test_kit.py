"""The teacher's kit: assignments that nbgrader accepts, slides of what is tagged, two pages to print, all answers."""

import re

import chromium
import editions
import kit
import nbformat
import pytest
import tracks
from nbconvert.preprocessors import ClearOutputPreprocessor
from test_notebooks import NOTEBOOKS
from traitlets.config import PyFileConfigLoader

import gmfl_lite as gl

READ = {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}


def by_mark(notebook, mark):
    return [cell for cell in notebook.cells if cell.metadata["nbgrader"][mark]]


@pytest.mark.parametrize("stem", READ)
def test_every_exercise_is_a_question_an_answer_and_a_locked_check(stem):
    made = kit.assignment(READ[stem], stem)
    nbformat.validate(made)
    names = [one.name for one in gl.exercises.every() if one.notebook == stem]
    assert [cell.metadata["nbgrader"]["grade_id"] for cell in by_mark(made, "solution")] == names
    checks = by_mark(made, "grade")
    assert [cell.metadata["nbgrader"]["points"] for cell in checks] == [1] * len(names)
    assert all(cell.metadata["nbgrader"]["locked"] and "assert" in cell.source for cell in checks)
    for answer, check in zip(by_mark(made, "solution"), checks, strict=True):
        asked_for = re.search(r"check\((\w+)\)", check.source)[1]
        assert re.search(rf"^(def {asked_for}\(|{asked_for} = )", answer.source, re.MULTILINE), answer.source
    for name in names:
        asked = kit.questions(READ[stem])[name]
        assert re.match(r"## |\*\*Exercise", asked)
        assert "gl.exercises" not in asked


@pytest.mark.slow
@pytest.mark.parametrize("stem", [stem for stem in READ if stem in tracks.TRACKS["core"].notebooks])
def test_nbgrader_validates_the_solutions_and_takes_them_out(stem, tmp_path, forked_kernels):
    """By its own validator and its own preprocessors; without the solutions the same checks fail."""
    preprocessors = pytest.importorskip("nbgrader.preprocessors", reason="nbgrader is not installed (extra test)")
    from nbgrader.validator import Validator

    path = tmp_path / f"{stem}.ipynb"
    made = kit.assignment(READ[stem], stem)
    nbformat.write(made, path)
    assert Validator().validate(str(path)) == {}
    (tmp_path / "course.py").write_text(kit.COURSE, encoding="utf-8")
    course = PyFileConfigLoader("course.py", path=str(tmp_path)).load_config()
    released = made
    for one in (preprocessors.ClearSolutions(config=course), ClearOutputPreprocessor()):
        released, _ = one.preprocess(released, {})
    text = nbformat.writes(released)
    assert "BEGIN SOLUTION" not in text
    assert "NotImplementedError" not in text, "a cell whose dots are filled in would still fail"
    secrets = [
        line for one in gl.exercises.every() if one.notebook == stem for line in one.solution().text.split("\n")[2:-1]
    ]
    assert not [line for line in secrets if len(line.strip()) > 30 and line in text]
    nbformat.write(released, path)
    failed = Validator().validate(str(path))
    assert len(failed["failed"]) == len(by_mark(made, "grade"))
    if stem == "00-start-here":  # a student fills in the dots, and need not know of any other line
        (cell,) = (cell for cell in released.cells if cell.source.startswith("losses = [..., ..., ...]"))
        cell.source = cell.source.replace("[..., ..., ...]", "[2, 1/2, 1/8]")
        nbformat.write(released, path)
        assert len(Validator().validate(str(path))["failed"]) == len(failed["failed"]) - 1


@pytest.mark.parametrize("stem", [stem for stem, notebook in READ.items() if kit.has_slides(notebook)])
def test_slides_are_what_is_tagged_without_code(stem):
    page = kit.slides(READ[stem])
    tagged = [tag for cell in READ[stem].cells for tag in cell.metadata.get("tags", []) if tag == "slide"]
    assert len(re.findall(r"<section>\s*<section>|<section ><section >", page)) == len(tagged) >= 6
    assert 'class="highlight' not in page
    assert "gl.exercises" not in page
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?!data:)", page), "it needs the network"
    assert not re.findall(r'href="(?!#|https://|\$)', page), "slides lie elsewhere than notebooks"
    assert page.count("<img alt=") == len(re.findall(r"<img ", page)) > 0


@pytest.fixture(scope="module")
def offline():
    if chromium.CHROMIUM is None:
        pytest.skip("no chromium to show slides in")
    with chromium.started() as browser:
        yield browser.new_context(offline=True).new_page()


@pytest.mark.slow
def test_slides_move_without_a_network(tmp_path, offline):
    (tmp_path / "slides.html").write_text(kit.slides(READ["00-start-here"]), encoding="utf-8")
    asked, titles = [], []
    offline.on("request", lambda request: asked.append(request.url))
    offline.goto((tmp_path / "slides.html").as_uri())
    shown = "[...document.querySelectorAll('.slides > section')].filter(one => one.classList.contains('present'))"
    number = offline.locator(".slide-number")
    assert re.fullmatch(r"1 */ *\d\d", number.inner_text().replace("\n", "")), "what the page for teachers counts by"
    for _ in range(12):  # a key may only show the next piece of a slide
        assert offline.evaluate(f"{shown}.length") == 1
        titles.append(offline.evaluate(f"{shown}[0].innerText").strip().split("\n")[0])
        offline.keyboard.press("ArrowRight")
    assert len(set(titles)) > 3
    assert not [url for url in asked if url.startswith("http")]


@pytest.mark.skipif(chromium.CHROMIUM is None, reason="no chromium to print with")
def test_the_handout_prints_to_two_pages(tmp_path):
    (tmp_path / "handout.html").write_text(kit.handout(READ), encoding="utf-8")
    assert kit.as_pdf(tmp_path / "handout.html", tmp_path / "handout.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "handout.pdf").read_bytes())) == 2


def test_the_handout_asks_and_does_not_answer():
    page = kit.handout(READ)
    asked = [question for stem in tracks.TRACKS["core"].notebooks for question in _asked(READ[stem])]
    assert len(asked) >= 6
    assert not [question for question in asked if kit.markdown2html(question)[3:30] not in page]
    assert "$" not in re.sub(r"<annotation.*?</annotation>", "", page)
    assert "FORMULA" not in page
    assert not [answer for rows in editions.key().values() for _, answer in rows if len(answer) > 25 and answer in page]


def _asked(notebook):
    return re.findall(r'gl\.predict\(\s*f?"(.*?)"', "\n".join(cell.source for cell in notebook.cells))


def test_the_answers_are_all_there():
    few = {stem: READ[stem] for stem in READ if stem != "08-exercises"}  # one of its checks trains six models
    page = kit.answers(few)
    for one in gl.exercises.every():
        assert (f"<code>{one.name}</code>" in page) == (one.notebook in few)
    for number, rows in editions.key().items():
        assert all(kit.markdown2html(answer)[3:20] in page for _, answer in rows) or number == "08"


@pytest.mark.slow
def test_what_nbgrader_grades_is_not_named_like_the_students_edition(tmp_path, monkeypatch):
    """Both are handed out, and of the latter no exercise would count."""
    monkeypatch.setattr(kit, "as_pdf", lambda *_: True)
    monkeypatch.setattr(kit, "slides", lambda _: "")
    kit.main(list(NOTEBOOKS), tmp_path)
    made = [path.name for path in (tmp_path / "nbgrader" / "source").rglob("*.ipynb")]
    assert len(made) == len(READ)
    assert not set(made) & {path.name for path in NOTEBOOKS}


@pytest.mark.slow
@pytest.mark.parametrize("stem", [stem for stem, notebook in READ.items() if kit.has_slides(notebook)])
def test_slides_fit_a_small_screen_and_stand_in_line(stem, tmp_path, offline):
    """At 1280 × 800 nothing of a slide is below its lower edge, where only a mouse would reach it."""
    offline.set_viewport_size({"width": 1280, "height": 800})
    (tmp_path / "slides.html").write_text(kit.slides(READ[stem]), encoding="utf-8")
    offline.goto((tmp_path / "slides.html").as_uri())
    many = offline.evaluate("document.querySelectorAll('.slides > section > section').length")
    assert many >= 6
    measure = """(number) => {
        Reveal.slide(number, 0, 99);  // with all its fragments; reveal.js lays out only the slides near this one
        const one = document.querySelector('.slides > section.present > section.present');
        const begins = [...one.querySelectorAll('.jp-MarkdownOutput, .jp-OutputArea-output')].map(
            e => Math.round(e.getBoundingClientRect().left));
        return [one.innerText.trim().split('\\n')[0], one.scrollHeight, one.clientHeight, begins];
    }"""
    slides = [offline.evaluate(measure, number) for number in range(many)]
    assert all(seen > 0 for _, _, seen, _ in slides)
    assert [slide for slide in slides if slide[1] > slide[2] + 1] == []
    begins = [left for *_, lefts in slides for left in lefts]
    assert len(begins) >= many
    assert max(begins) - min(begins) <= 1, "text, figures and tables begin at one edge"


@pytest.mark.slow
def test_a_slide_that_is_gone_to_at_once_shows_its_moving_picture_whole(tmp_path, offline):
    """With G, a number and Enter, as the teachers' page says; reveal.js has never laid it out before."""
    offline.set_viewport_size({"width": 1280, "height": 800})
    (tmp_path / "slides.html").write_text(kit.slides(READ["03-the-meta-objective-by-hand"]), encoding="utf-8")
    offline.goto((tmp_path / "slides.html").as_uri())
    number = offline.evaluate(
        "[...document.querySelectorAll('.slides > section > section')].findIndex(one => one.querySelector('iframe'))"
    )
    offline.keyboard.press("g")
    offline.keyboard.type(str(number + 1))
    offline.keyboard.press("Enter")
    offline.wait_for_function(
        """() => {
        const frame = document.querySelector('.slides > section.present > section.present iframe');
        const {top, bottom} = frame.getBoundingClientRect();
        return bottom - top > 500 && top >= 0 && bottom <= innerHeight;
    }"""
    )
