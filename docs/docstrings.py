"""Turn the docstrings' plain text, written to be read in an editor and with help(), into Markdown.

Sections become bold words; "name : text" and aligned columns become definition lists; indented formulas become a block
in a mathematical font; doctests become code, and of a plot the picture that its example draws. The words and symbols
stay as they are.
"""

import base64
import doctest
import html
import inspect
import re
import textwrap
from collections.abc import Iterator

import griffe

import gmfl_lite

_ITEM = re.compile(r"(\S.*?) : (.*)")
_ROW = re.compile(r"([^\s=][^=]*?) {2,}(\S.*)")
_SUBSCRIPT = re.compile(r"(?<![A-Za-z0-9_])([A-Za-z]\w?̄?|[Α-ω∏])_(?:\{(.*?)\}|(\(.*?\)|[A-Za-z0-9ν](?![A-Za-z0-9_])))")
_SECTIONS_OF_ITEMS = ("Parameters", "Returns", "Raises", "Attributes", "Settings")


class AsMarkdown(griffe.Extension):
    """Rewrites every docstring before it is rendered; Experiment's is completed only when it is imported."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.path == "gmfl_lite.experiment.Experiment":
            obj.docstring.value = re.sub(r"(?m)^(\w+ = .*?): ", r"\1 : ", inspect.getdoc(gmfl_lite.Experiment))
        if not obj.docstring:
            return
        shown = picture(obj) if obj.is_function and obj.path.startswith("gmfl_lite.plots.") else ""
        obj.docstring.value = markdown(obj.docstring.value) + shown


def picture(function: griffe.Function) -> str:
    """Return what the example of a plot draws as HTML, and nothing for functions that draw nothing."""
    if str(function.returns) != "Picture" or function.name.startswith("_"):
        return ""
    plot = getattr(gmfl_lite.plots, function.name)
    (example,) = doctest.DocTestFinder(recurse=False).find(plot, globs=dict(plot.__globals__))
    runner = doctest.DocTestRunner(verbose=False)
    if runner.run(example, clear_globs=False).failed:
        raise RuntimeError(f"the example of {function.path} fails")
    figure = example.globs["figure"]
    data = base64.b64encode(figure._repr_mimebundle_()[0]["image/png"]).decode()
    return f'\n\n<img class="plot" alt="{html.escape(figure.alt)}" src="data:image/png;base64,{data}">'


def markdown(docstring: str) -> str:
    """Return a docstring as Markdown."""
    blocks, section = [], ""
    for block in re.split(r"\n(?:[ \t]*\n)+", docstring.strip("\n")):
        lines = block.split("\n")
        if len(lines) > 1 and re.fullmatch(r"-{3,}", lines[1]):
            section, lines = lines[0], lines[2:]
            blocks.append(f"**{section}**")
        if section in _SECTIONS_OF_ITEMS and _ITEM.fullmatch(lines[0]):
            blocks.append(_definitions([(*_ITEM.fullmatch(item[0]).groups(), item[1:]) for item in _grouped(lines)]))
        elif lines:
            blocks.append(_prose(lines))
    return "\n\n".join(blocks)


def _prose(lines: list[str]) -> str:
    """Return text, and what is indented below it."""
    for position, line in enumerate(lines):
        if line.startswith(">>>"):
            code = "\n".join(["```pycon", *lines[position:], "```"])
            return f"{_prose(lines[:position])}\n\n{code}" if position else code
        if line.startswith("    "):
            shown = _indented(lines[position:])
            return f"{_prose(lines[:position])}\n\n{shown}" if position else shown
    return _escaped("\n".join(lines))


def _indented(lines: list[str]) -> str:
    lines = textwrap.dedent("\n".join(lines)).split("\n")
    if all(_ROW.fullmatch(item[0]) for item in _grouped(lines)):
        return _definitions([(*_ROW.fullmatch(item[0]).groups(), item[1:]) for item in _grouped(lines)], "columns")
    return '<div class="maths">' + _set("\n".join(lines)) + "</div>"


def _grouped(lines: list[str]) -> Iterator[list[str]]:
    """Yield each line that is not indented together with the indented ones below it."""
    starts = [position for position, line in enumerate(lines) if not line.startswith(" ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start:end]


def _definitions(items: list[tuple[str, str, list[str]]], kind: str = "names") -> str:
    shown = []
    for name, text, rest in items:
        body = [text, *textwrap.dedent("\n".join(rest)).split("\n")] if rest else [text]
        columns = kind == "names" and all(_ROW.fullmatch(item[0]) for item in _grouped(body))
        body = _indented(body) if columns else _prose(body)
        term = f"`{name}`" if kind == "names" or name.isidentifier() or name.startswith('"') else _escaped(name)
        shown.append(f"{term}\n:   {textwrap.indent(body, '    ').lstrip()}\n")
    return "\n".join(shown)


def _escaped(text: str) -> str:
    """Escape what Markdown would take for its own, and set indices low and exponents high, outside `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _set(part) for part in parts)


def _set(text: str) -> str:
    """Return a formula, or text with symbols, as HTML: w_i, Σ_{k<K}, L^[m]. Names such as meta_lr stay as they are."""
    text = re.sub(r"[<*\[\]]", lambda found: f"&#{ord(found[0])};", text)
    text = _SUBSCRIPT.sub(lambda found: f"{found[1]}<sub>{_set(found[2] or found[3])}</sub>", text)
    return re.sub(r"\^(&#91;.*?&#93;|\(.*?\)|[½\w])", r"<sup>\1</sup>", text)
