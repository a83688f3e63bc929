"""A picture that moves is one piece of HTML that needs nothing else, with a still picture and words."""

import html
import json
import re

import numpy as np
import pytest

import gmfl_lite as gl
from gmfl_lite.explain.picture import png, shipped

STILL = png(gl.plots.landscapes({"": gl.plots.Landscape(lambda w: (w**2).sum(1))}, x=(-1, 1), y=(-1, 1), alt="A bowl."))
WORDS = {"title": "A <bowl>", "alt": 'Round & "flat".', "still": STILL, "height": 40}


def picture(script="document.body.append(gmfl.data.w);", data=None, **changes):
    return gl.explain.Picture(script, {"w": 1} if data is None else data, **WORDS | changes)


def frame(shown: gl.explain.Picture) -> str:
    """Return the page within the frame, as a browser reads it."""
    return html.unescape(re.search(r'srcdoc="([^"]*)"', shown._repr_html_())[1])


def data(shown: gl.explain.Picture):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', frame(shown))[1])


def test_html_holds_script_data_still_and_words():
    text = picture()._repr_html_()
    assert text.count("<iframe") == text.count("<img") == 1
    assert f'alt="{html.escape(WORDS["alt"])}"' in text
    assert f'title="{html.escape(WORDS["title"])}"' in text
    assert "data:image/png;base64,iVBOR" in text
    assert "\n" not in text
    inner = frame(picture())
    assert "document.body.append(gmfl.data.w);" in inner
    assert shipped("frame.js") in inner
    assert shipped("frame.css") in inner
    assert not re.search(r"(?:src|href)=|@import|url\(|fetch\(", inner)


def test_bundle_for_those_who_show_no_html():
    bundle, metadata = picture()._repr_mimebundle_()
    assert bundle["image/png"] == STILL
    assert bundle["text/plain"] == metadata["image/png"]["alt"] == repr(picture()) == WORDS["alt"]
    assert bundle["text/html"] == picture()._repr_html_()


def test_numbers_keep_all_digits_and_no_text_ends_the_script():
    given = {
        "w": np.array([0.1 + 0.2, 1 / 3, 5e-324, -0.0]),
        "name": "</script><script>alert(1)</script><!-- ü ν ' \" &amp;",
    }
    found = data(picture(data=given))
    assert found["name"] == given["name"]
    assert np.array_equal(np.signbit(found["w"]), np.signbit(given["w"]))
    assert found["w"] == given["w"].tolist()


def test_saved_page_is_whole(tmp_path):
    picture().save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<title>A &lt;bowl&gt;</title>" in page
    assert picture()._repr_html_() in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"script": " "}, "script = ' ': must be a text that is not empty"),
        ({"script": "let s = '</SCRIPT>'"}, "script: must be without </script|script = .*without </script"),
        ({"data": {"w": float("nan")}}, "JSON with finite numbers"),
        ({"data": {"w": object()}}, "a object is no JSON"),
        ({"data": ["long" * 200_000]}, "must be smaller: a picture has at most 500,000 bytes"),
        ({"title": ""}, "title = ''"),
        ({"alt": None}, "alt = None"),
        ({"still": "picture.png"}, "still = 'picture.png': must be the bytes of a PNG"),
        ({"height": 0}, "height = 0"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        picture(**wrong)
