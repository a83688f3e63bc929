"""A picture of gl.explain for tests: what its HTML holds, and its page in a browser without a network."""

import html
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIZES = {"wide": (1280, 800), "narrow": (900, 700), "phone": (390, 844)}


def data_of(picture) -> Any:
    """Return the data in a picture's HTML, which must ask for nothing from elsewhere."""
    text = picture._repr_html_()
    assert len(text.encode()) < 500_000
    inner = html.unescape(re.search(r'srcdoc="([^"]*)"', text)[1])
    assert not re.search(r"https?://(?!www\.w3\.org/)|@import|fetch\(|XMLHttp|import\(", inner)
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', inner)[1])


@contextmanager
def opened(browser, picture, folder: Path, size: str = "wide", **how: Any) -> Iterator[Any]:
    """Save a picture, open its page with the network off, and give its frame; an error on the page fails the test."""
    picture.save(folder / "page.html")
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **how)
    page, errors = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto((folder / "page.html").as_uri())
    frame = page.frames[1]
    frame.wait_for_function("document.querySelector('button') !== null")
    yield frame
    assert errors == []
    context.close()


def under_a_clock_that_stands(frame: Any) -> Any:
    """Load a picture's page again under a clock that only `frame.page.clock.run_for` moves, and give its frame."""
    page = frame.page
    page.clock.install(time="2026-01-01T00:00")
    page.reload()
    page.clock.pause_at("2026-01-01T01:00")
    page.frames[1].wait_for_selector("button.main")
    return page.frames[1]
