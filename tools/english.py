"""Reads what is written for people, and says where it is not plain British English; part of `make lint`.

python tools/english.py      README, docs, notebooks, docstrings, messages, comments; exit code 1 if something is found

proselint does the matching, with a few of its own checks and with `RULES`, this project's. Codespell's dictionary has
the American spellings, and codespell itself looks for misspelled words in everything, code and tests included.
"""

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import codespell_lib
import nbformat
from proselint.config import Config
from proselint.registry import CheckRegistry
from proselint.registry.checks import Check, CheckFlags, Padding, types
from proselint.tools import LintFile

ROOT = Path(__file__).parent.parent
PAGES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "studies/*.md", "tools/*.md", "notebooks/*.md")

KEPT = ("archaism", "malapropisms", "needless_variants", "nonwords", "redundancy")
"""proselint's own checks that say something about technical English."""

BOTH = {"biased", "check", "disk", "generalized", "licensed", "license", "meter", "meters", "practice", "program"}
BOTH |= {"programs", "story", "tire", "tires", "vectorized"}
"""Words that are American in codespell's dictionary but British, too; the method's name, and an option's."""

RULES = {
    "the common word": {
        r"anew": "again",
        r"upon": "on",
        r"(whilst|amongst)": "while, among",
        r"(thereof|therein|thereby|thereto|whereby|wherein|hereby|hence)": "so, there, of it",
        r"surely": "statistically clear, intervals apart",
        r"held\s+against": "checked against, compared with",
        r"beside": "next to, compared with, apart from",
        r"go(es)?\s+on\s+(from|with)": "continue",
        r"(sits?|stands?)\s+(in\s+the|under|below|above|there|at|open)": "is",
        r"so\s+many\s+(students|processes|agents|times|seconds|samples)": "the number",
        r"for\s+who": "for those who",
    },
    "turn the sentence round": {
        r"[.:]\s+(asked|shown|measured|needed|meant|held\s+back|counted|refused|wanted)\s+(is|are)": "the … is",
        r"[.:]\s+of\s+(these|those|who|what),?\s+\w+": "… of them",
        r"such\s+(a\s+one|as\s+(is|are|have|has))": "one like this, those that …",
        r"that\s+which": "what, the one that",
        r"it\s+is\s+(they|he|she|we|this)\s+that": "…",
        r"that\s+is\s+what": "this …",
        r"what\s+there\s+is": "the result so far, what is available",
    },
    "a rate has *per*": {
        r"(one|two|three|four|five|ten|few|local|[0-9.]+ [GM]B)"
        r"(\s+(class|classes|rows?|runs?|loss|losses|images?|samples?|steps?|numbers?|points?))?"
        r"\s+an?\s+(agent|class|run|round|sample|person|student|step|core|point|second|column)": "per",
    },
    "a comma before a restrictive clause": {
        r"\w+,\s+that\s+(are|was|were|has|have|can|does|do|holds?|says?|takes?|shows?)": "that, or a comma and which",
    },
}
"""What to write differently, by what is wrong with it: a pattern, and what to write instead."""

TITLES = re.compile(
    r"adaptive federated optimization|optimization by direct search|personalized federated learning|"
    r"deep networks from\s+decentralized data",
    re.IGNORECASE,
)
"""Of papers: their authors' spelling."""

_MARKDOWN_CODE = re.compile(
    r"^( *)(```|~~~).*?^\1\2|<!--.*?-->|``.*?``|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+?\$|<[^>\n]+>|@media[^{]*|\{[^{}\n]*:[^{}\n]*\}|(?<=\])\([^)\s]*\)|https?://\S+",
    re.MULTILINE | re.DOTALL,
)
_EXAMPLE = re.compile(r"^ *(>>>|\.\.\.).*$", re.MULTILINE)


def registered() -> CheckRegistry:
    """Return proselint's registry with this project's rules in it, once."""
    registry = CheckRegistry()
    if not registry.checks:
        from proselint.checks import __register__ as own

        registry.register_many(own)
        quotes = CheckFlags(allow_quotes=True)
        for wrong, items in RULES.items():
            forms = types.PreferredForms(items=items, padding=Padding.WORDS_IN_TEXT)
            registry.register(
                Check(check_type=forms, path=f"gmfl.{wrong}", message=wrong + ": {1} → {0}", flags=quotes)
            )
        forms = types.PreferredFormsSimple(items=american(), padding=Padding.WORDS_IN_TEXT)
        registry.register(Check(check_type=forms, path="gmfl.british", message="American: {1} → {0}", flags=quotes))
    return registry


def american() -> dict[str, str]:
    """Return British spellings by American ones, from codespell's dictionary for the other way round."""
    file = Path(codespell_lib.__file__).parent / "data" / "dictionary_en-GB_to_en-US.txt"
    pairs = (line.split("->") for line in file.read_text(encoding="utf-8").split("\n") if "->" in line)
    found = {us.strip(): gb for gb, them in pairs for us in them.split(",") if us.strip() and us.strip() not in BOTH}
    return found | {f"personaliz{end}": f"personalis{end}" for end in ("e", "es", "ed", "ing", "ation")}


def of_markdown(text: str) -> str:
    """Return Markdown with blanks for what is not prose: code, formulas, addresses.

    >>> of_markdown("See `a` and [b](c.md).")
    'See     and [b]      .'
    """
    for other in (_MARKDOWN_CODE, TITLES):
        text = other.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def of_python(source: str) -> str:
    """Return the docstrings, messages and comments of a module or of a cell, each on the line where it begins."""
    source = re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)  # a magic is no Python
    lines = [""] * (source.count("\n") + 1)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 3:
            for number, line in enumerate(_EXAMPLE.sub("", of_markdown(node.value)).split("\n"), start=node.lineno - 1):
                lines[min(number, len(lines) - 1)] += f"{line} "
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] += f" {token.string.lstrip('#: ')}"
    return "\n".join(lines)


def prose() -> Iterator[tuple[str, str]]:
    """Yield (name, prose) of every page, cell and module."""
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        yield str(path.relative_to(ROOT)), of_markdown(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            read = of_markdown if cell.cell_type == "markdown" else of_python
            yield f"{path.relative_to(ROOT)}[{cell.id}]", read(cell.source)
    for path in sorted(path for folder in ("gmfl_lite", "tools") for path in (ROOT / folder).rglob("*.py")):
        if path != Path(__file__):  # it lists what is wrong
            yield str(path.relative_to(ROOT)), of_python(path.read_text(encoding="utf-8"))


def mistakes(name: str, text: str) -> list[str]:
    """Say what is not plain English in a text, with the line.

    >>> mistakes("page", "It is made anew.")
    ['page:1: the common word: anew → again']
    """
    registered()
    if not text.strip():
        return []
    config = Config(max_errors=1000, checks=dict.fromkeys([*KEPT, "gmfl"], True))
    file = LintFile(name, text)
    found = [one.check_result for one in file.lint(config)]
    return [f"{name}:{file.content.count(chr(10), 0, one.span[0])}: {' '.join(one.message.split())}" for one in found]


def misspelled() -> list[str]:
    """Return what codespell finds in pages, notebooks, code and tests."""
    command = [sys.executable, "-m", "codespell_lib", "--toml", Path(__file__).parent.parent / "pyproject.toml"]
    cells = [cell for path in (ROOT / "notebooks").glob("*.ipynb") for cell in nbformat.read(path, as_version=4).cells]
    text = "\n".join(cell.source for cell in cells)  # without outputs: pictures are letters too
    folders = (ROOT / folder for folder in ("benchmarks", "docs", "gmfl_lite", "tests", "tools"))
    files = [*ROOT.glob("*.md"), *(folder for folder in folders if folder.exists())]
    runs = [([*command, *files], ""), ([*command, "-"], text)]
    return [
        line
        for run, given in runs
        for line in subprocess.run(
            run, input=given, capture_output=True, text=True, encoding="utf-8", check=False
        ).stdout.splitlines()
    ]


def main() -> int:
    found = [one for name, text in prose() for one in mistakes(name, text)] + misspelled()
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
