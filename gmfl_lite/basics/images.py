"""An image as HTML that needs no other file."""

import base64
import html


def address(png: bytes | str) -> str:
    """Return the address of a PNG, given as bytes or in base64, that contains the image itself.

    >>> address(b"\\x89PNG"), address("iVBORw==")
    ('data:image/png;base64,iVBORw==', 'data:image/png;base64,iVBORw==')
    """
    return f"data:image/png;base64,{png if isinstance(png, str) else base64.b64encode(png).decode()}"


def element(png: bytes | str, alt: str, attributes: str = "") -> str:
    """Return an element that shows a PNG, with a text for those who cannot see it.

    >>> element(b"", "1 < 2", 'class="big"')
    '<img alt="1 &lt; 2" class="big" src="data:image/png;base64,">'
    """
    return f'<img alt="{html.escape(alt)}" {attributes} src="{address(png)}">'
