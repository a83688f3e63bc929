"""Records of the ways to do one thing, by name: gradients, server steps, aggregations."""

from typing import Any, TypeVar

from . import checks

_Way = TypeVar("_Way")


def check_functions(record: Any, called: str, needed: str, *others: str, none: str = "no formula is known") -> None:
    """Refuse a record whose field `needed` is no function, or one of the others neither that nor "none"."""
    for name in (needed, *others):
        value = getattr(record, name)
        if not callable(value) and (name == needed or value != "none"):
            known = "" if name == needed else f", or 'none' where {none}"
            raise checks.refusal(f"{name} of {called} {record.name!r}", value, f"a function{known}")


def added(record: _Way, to: dict[str, _Way], kind: type[_Way], argument: str, called: str) -> _Way:
    """Add a record to those there are, and return it.

    argument, called : what the caller calls the record, and what it is a record of: "step", "a server step".

    Raises
    ------
    ValueError : a record of another kind, or its name is taken.
    """
    if not isinstance(record, kind):
        raise checks.refusal(argument, record, f"a{'n' * (kind.__name__[0] in 'AEIOU')} {kind.__name__}")
    name = vars(record)["name"]
    if name in to:
        raise checks.refusal(f"name of {called}", name, f"another than {', '.join(to)}, which are taken")
    to[name] = record
    return record
