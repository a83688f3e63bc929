"""Settings as YAML that means what it says: the core schema of YAML 1.2, with the line of every value.

1e-1 is a number; on, yes, 1:30 and 2026-01-01 are words. Tags, anchors and names given twice are refused: a stranger's
file can neither run code nor grow when it is read.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import checks

LARGEST = 2**16
"""Bytes of a file; a sweep's takes some hundreds."""
DEEPEST = 8
"""Levels of lists and mappings in each other."""

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_OF_OTHERS = {"y", "n", "yes", "no", "on", "off"}
"""Words that other readers, of YAML 1.1, take for truth values."""
_PLAIN = re.compile(r"[A-Za-z][\w-]*", re.ASCII)


class YamlError(ValueError):
    """What is wrong with a text, and in which of its lines."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")


@dataclass(frozen=True)
class Document:
    """A mapping that was read.

    Attributes
    ----------
    values : the mapping, as plain values.
    lines : path -> its line: ("nu",) is a name of the mapping, ("grid", "nu", 1) an entry of a list below it.
    """

    values: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]


def read_file(path: str | Path) -> list[Document]:
    """Return the documents of a file, which "---" separates.

    Raises
    ------
    YamlError : as of `read`, a file that is larger than LARGEST, or one that is not text.
    """
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise YamlError(1, f"the file is larger than {LARGEST // 1024} KiB: settings take less")
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes it
    try:
        return read(content.decode("utf-16" if utf16 else "utf-8-sig"))
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise YamlError(line, f"the file is not text in {'UTF-16' if utf16 else 'UTF-8'}") from error


def read(text: str) -> list[Document]:
    """Return the documents of a text, each a mapping of names to plain values.

    Raises
    ------
    YamlError : no YAML, no mapping, a tag, an anchor, a name that is given twice or is no text.

    Examples
    --------
    >>> read("nu: 5\\nfine_tune_lr: 1e-1")[0].values
    {'nu': 5, 'fine_tune_lr': 0.1}
    >>> read("nu: 5\\nnu: 3")
    Traceback (most recent call last):
    gmfl_lite.basics.plain_yaml.YamlError: line 2: nu is given twice, first in line 1
    """
    documents = []
    for node in _nodes(text):
        lines: dict[tuple[str | int, ...], int] = {}
        if not isinstance(node, yaml.MappingNode):
            raise YamlError(_line(node), "must be settings, a line for each: `name: value`")
        documents.append(Document(_value(node, (), lines), lines))
    return documents


def read_value(text: str) -> Any:
    """Return a single value.

    >>> read_value("[0, 1]"), read_value("1e-1"), read_value("no"), read_value("null")
    ([0, 1], 0.1, 'no', None)
    """
    (node,) = list(_nodes(text)) or [yaml.ScalarNode("", "", style=None)]
    return _value(node, (), {})


def written(values: Mapping[str, Any]) -> str:
    """Return settings as lines of YAML, which `read` reads back exactly.

    >>> print(written({"model": "mlp", "nu": 5, "batch_size": None, "eval_steps": [0, 1], "meta_lr": 1e-05}))
    model: mlp
    nu: 5
    batch_size: null
    eval_steps: [0, 1]
    meta_lr: 1e-05
    """
    return "\n".join(f"{name}: {_as_written(value)}" for name, value in values.items()) or "{}"


def _as_written(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in {*_WORDS, *_OF_OTHERS}:
        return value
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


class _Loader(yaml.SafeLoader):
    """Builds nodes, of which `_value` makes values; refuses what could make a text larger than it is."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError(_line(event), "anchors and aliases (& and *) are not read")
        if getattr(event, "tag", None):
            raise YamlError(_line(event), f"tags ({checks.shown(event.tag, 40)}) are not read")
        if self.depth == DEEPEST:
            raise YamlError(_line(event), f"more than {DEEPEST} levels of lists and mappings")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _nodes(text: str) -> Iterator[yaml.Node]:
    try:
        loader = _Loader(text)
        while loader.check_node() and (node := loader.get_node()) is not None:
            yield node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = 1 + text[: error.position].count("\n")
        raise YamlError(line, f"not YAML: it holds the character {chr(error.character)!r}") from error


def _line(place: Any) -> int:
    return int(place.start_mark.line) + 1 if place.start_mark else 1


def _value(node: yaml.Node, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> Any:
    lines.setdefault(path, _line(node))
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, (*path, position), lines) for position, each in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    found = {}
    for key, value in node.value:
        name = _scalar(key) if isinstance(key, yaml.ScalarNode) else None
        if not isinstance(name, str):
            raise YamlError(_line(key), "a setting's name must be a word")
        if name in found:
            raise YamlError(_line(key), f"{name:.60} is given twice, first in line {lines[(*path, name)]}")
        lines[(*path, name)] = _line(key)
        found[name] = _value(value, (*path, name), lines)
    return found


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.style is not None:  # in quotes, or a block of text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        try:
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        except ValueError as error:  # Python reads no more than some thousand digits
            raise YamlError(_line(node), "a number of thousands of digits") from error
    return float(re.sub(r"\.(?=[a-zA-Z])", "", text)) if _FLOAT.fullmatch(text) else text
