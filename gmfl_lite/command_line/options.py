"""Arguments and options that verbs share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class ToWrite(click.Path):
    """A path of a file to write, in a folder that is there: it is refused before the work, not after it."""

    def __init__(self, *endings: str) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(super().convert(value, param, ctx)).expanduser()  # type: ignore[arg-type]
        if not path.absolute().parent.is_dir():
            self.fail(f"{str(path.parent)!r} is not a folder", param, ctx)
        if self.endings and path.suffix.lower() not in self.endings:
            self.fail(f"{str(path)!r} must end in {' or '.join(self.endings)}", param, ctx)
        return path


def _pairs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{text!r} must be a setting and its value, such as nu=1")
        pairs[name.strip()] = value
    return pairs


def _words(ctx: click.Context, param: click.Parameter, given: str | None) -> list[str] | None:
    return None if given is None else [word for word in given.replace(",", " ").split() if word]


file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
changes = click.option(
    "--set",
    "changes",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_pairs,
    help="Change a setting of the file; may be given again.",
)
quiet = click.option("--quiet", "-q", is_flag=True, help="Show no progress bar.")
processes = click.option(
    "--processes", metavar="N", type=click.IntRange(1), help="Compute on N cores; one unless given."
)
cache = click.option(
    "--cache",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep finished runs there: the same command continues where it was stopped.",
)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def csv(what: str) -> Decorator:
    """Return the option that says where a table goes."""
    return click.option("--csv", "csv", metavar="FILE", type=ToWrite(), help=f"Write {what} there, as a table.")


def words(name: str, metavar: str, help: str) -> Decorator:
    """Return an option that takes words with commas between them."""
    return click.option(name, metavar=metavar, callback=_words, help=help)
