"""A picture that moves without a kernel: one piece of HTML with its own script, a still picture and words."""

import html
import json
import os
from pathlib import Path
from typing import Any

from ..basics import checks, images

HERE = Path(__file__).parent
MOST = 500_000
"""Bytes of one picture's HTML: a stored notebook holds several."""


class Picture:
    """A script and its data in a frame of their own, and a still picture for where no script runs.

    The frame (`<iframe srcdoc=…>`) keeps the page's style and the picture's apart, and its script runs also where the
    HTML is inserted later, as JupyterLab does. The script finds `window.gmfl`, made by frame.js, with `gmfl.data`.

    Parameters
    ----------
    script : the text of a JavaScript file of this package, `shipped("landscape.js")`.
    data : what `gmfl.data` will be: numbers, texts, lists and dicts of them, arrays.
    title : what the frame is called, by a screen reader and by the page that `save` writes.
    alt : what a reader who cannot see the picture should know.
    still : a PNG.
    height : pixels, until the frame has measured itself.
    style : the text of a style sheet of this package, besides frame.css.

    Raises
    ------
    ValueError : data that is no JSON, a still that is no PNG, no words, or more than 500 kB in all.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> still = gl.plots.landscapes({"": gl.plots.Landscape(lambda w: (w**2).sum(1))}, x=(-1, 1), y=(-1, 1), alt="")
    >>> script = "document.body.append(`w = ${gmfl.data.w}`);"
    >>> picture = Picture(script, {"w": [0.5, 1]}, title="A bowl", alt="A round bowl.", still=png(still), height=40)
    >>> picture
    A round bowl.
    """

    def __init__(
        self, script: str, data: Any, *, title: str, alt: str, still: bytes, height: int, style: str = ""
    ) -> None:
        for name, value in (("script", script), ("title", title), ("alt", alt)):
            if not isinstance(value, str) or not value.strip():
                raise checks.refusal(name, value, "a text that is not empty")
        for name, text, end in (
            ("script", script, "</script"),
            ("script", script, "<!--"),
            ("style", style, "</style"),
        ):
            if end in text.lower():
                raise checks.refusal(name, text, f"without {end}, which would end it on the page")
        if not isinstance(still, bytes) or not still.startswith(b"\x89PNG"):
            raise checks.refusal("still", still, "the bytes of a PNG")
        self.title, self.alt, self.still = title, alt, still
        self.height = checks.integer("height", height, 1)
        self._frame = _frame(script, shipped("frame.css") + style, _as_json(data), title, self.height)
        size = len(self._repr_html_().encode())
        if size > MOST:
            raise checks.refusal("data", f"{size:,} bytes of HTML", f"smaller: a picture has at most {MOST:,} bytes")

    def __repr__(self) -> str:
        return self.alt

    def _repr_html_(self) -> str:
        still = images.element(self.still, self.alt, 'style="max-width:100%"')
        # No line breaks: Markdown and notebooks' pages would take an empty line for the end of the HTML.
        frame = html.escape(self._frame).replace("\n", "&#10;")
        return (
            f'<figure class="gmfl-explain" style="display:block;width:100%;margin:0">{still}'
            f'<iframe title="{html.escape(self.title)}" srcdoc="{frame}"'
            ' style="display:block;width:100%;height:0;border:0"></iframe></figure>'
        )

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, bytes | str], dict[str, dict[str, str]]]:
        bundle: dict[str, bytes | str] = {
            "text/html": self._repr_html_(),
            "image/png": self.still,
            "text/plain": self.alt,
        }
        return bundle, {"image/png": {"alt": self.alt}}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page of its own, which any browser opens, without a network."""
        page = (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(self.title)}</title>\n"
            "<style>:root{color-scheme:light dark}body{max-width:72rem;margin:0 auto;padding:8px}\n"
            "@media (prefers-color-scheme:dark){body{background:#111}}</style>\n"
        )
        Path(path).write_text(f"{page}{self._repr_html_()}\n</html>\n", encoding="utf-8")


def shipped(name: str) -> str:
    """Return the text of a script or style sheet of this package.

    >>> shipped("frame.js").startswith("//")
    True
    """
    return (HERE / name).read_text(encoding="utf-8")


def png(figure: Any) -> bytes:
    """Return a Picture of gmfl_lite.plots as PNG."""
    return figure._repr_mimebundle_()[0]["image/png"]


def _as_json(data: Any) -> str:
    """Return JSON that may stand within <script>; Python writes floats with all their digits."""
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError) as error:
        raise checks.refusal("data", data, f"JSON with finite numbers ({checks.first_line(error)})") from None
    return text.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"a {type(value).__name__} is no JSON")
    return value.tolist()


def _frame(script: str, style: str, data: str, title: str, height: int) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f'<body data-height="{height}"><script type="application/json" id="data">{data}</script>'
        f"<script>{shipped('frame.js')}</script><script>{script}</script></body></html>"
    )
