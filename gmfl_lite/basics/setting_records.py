"""All about a setting in one record, which checks, texts, knobs and tables derive from."""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import checks

Check = Callable[[str, Any], Any]
"""(name, value) -> the value as it is kept, or a ValueError."""
CHANGES = ("holdings", "agents", "draws", "training", "looks", "machine")
"""What a setting can change: who holds what; how many agents and samples there are and how each agent's are split;
everything that is drawn; how w is trained; what is looked at; where, in which order and how exactly it is computed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All there is to know of a setting.

    Attributes
    ----------
    name, default : as in the Experiment.
    check : (name, value) -> the value as it is kept; raises ValueError.
    help : what it is, in a sentence.
    changes : a word of CHANGES.
    symbol : the paper's, if it has one.
    needs : (another setting, its values) with which this one counts, None if it always does. The values may come from a
        function, which is called when they are asked for.
    refused_otherwise : whether it must be left out where it does not count, and given where it does if None is default.
    """

    name: str
    default: Any
    check: Check
    help: str
    changes: str
    symbol: str | None = None
    needs: tuple[str, Iterable[Any] | Callable[[], Iterable[Any]]] | None = None
    refused_otherwise: bool = False

    def __post_init__(self) -> None:
        checks.choice("changes", self.changes, CHANGES)

    @property
    def counts_with(self) -> tuple[str, tuple[Any, ...]] | None:
        """`needs`, with the values as they are now."""
        if self.needs is None:
            return None
        other, values = self.needs
        return other, tuple(values() if callable(values) else values)

    def counts(self, values: Mapping[str, Any]) -> bool:
        """Whether this one changes anything while all settings have these values."""
        return self.counts_with is None or values[self.counts_with[0]] in self.counts_with[1]

    def problems(self, values: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with this one's value, given the others'."""
        given, counts = values[self.name] != self.default, self.counts(values)
        if self.needs is None or not self.refused_otherwise or given == counts or (counts and self.default is not None):
            return []
        other, must = self.needs[0], "given" if counts else "left out"
        return [f"{self.name} = {checks.shown(values[self.name])}: must be {must} with {other}={values[other]!r}"]

    @property
    def about(self) -> str:
        """What it is, with its symbol and what it counts with."""
        lower = self.help[0].lower() + self.help[1:]
        text = f"{self.symbol}, {lower}" if self.symbol else self.help
        if self.counts_with is None:
            return text
        other, values = self.counts_with
        return f"With {other}={' or '.join(map(repr, values))}: {lower if text == self.help else text}"


def setting(default: Any, check: Check, help: str, changes: str, **more: Any) -> Any:
    """Declare a setting of an Experiment; `more` are other attributes of Setting.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Mine(gl.Experiment):
    ...     blur: float = setting(0.0, number(0, 1), "Blur of the images.", "holdings")
    >>> Mine(nu=1).replace(blur=1).blur
    1.0
    """
    record = Setting(name="", default=default, check=check, help=help, changes=changes, **more)
    return field(default=default, metadata={"setting": record})


def settings(of: type[Any]) -> dict[str, Setting]:
    """Return the records of an Experiment's settings, by name.

    >>> import gmfl_lite as gl
    >>> settings(gl.Experiment)["local_steps"].about
    'τ, local meta steps of a picked agent in a round.'
    """
    key = of, id(getattr(of, "__dataclass_fields__", None))  # of its own from the moment on that it is a dataclass
    if key not in _made:
        found = {}
        for spec in dataclasses.fields(of):
            if "setting" not in spec.metadata:
                how = "with gmfl_lite.basics.setting_records.setting"
                raise TypeError(f"{of.__name__}.{spec.name} must be declared {how}")
            found[spec.name] = dataclasses.replace(spec.metadata["setting"], name=spec.name)
        _made[key] = found
    return dict(_made[key])


_made: dict[Any, dict[str, Setting]] = {}
"""Records by class: a study asks for them thousands of times."""


def settings_that_change(*what: str, of: type) -> tuple[str, ...]:
    """Return the names of the settings that change any of these words of CHANGES.

    >>> import gmfl_lite as gl
    >>> settings_that_change("draws", "looks", of=gl.Experiment)
    ('eval_every', 'eval_steps', 'eval_agents', 'seed')
    """
    for word in what:
        checks.choice("what", word, CHANGES)
    return tuple(name for name, record in settings(of).items() if record.changes in what)


def integer(low: int, high: int | None = None) -> Check:
    """Check for an integer in [low, high]."""
    return lambda name, value: checks.integer(name, value, low, high)


def number(low: float, high: float = math.inf, above: bool = False) -> Check:
    """Check for a finite number in [low, high], or in (low, high) if `above`."""
    return lambda name, value: checks.number(name, value, low, high, above=above)


def one_of(allowed: Collection[str]) -> Check:
    """Check for one of the words of `allowed`, looked up when a value is checked: a registry may grow."""
    return lambda name, value: checks.choice(name, value, allowed)


def or_none(check: Check) -> Check:
    """Allow None, too."""
    return lambda name, value: None if value is None else check(name, value)


OWN = "own"
"""Of a dataset or a model: it was handed over, and is none that has a name."""


def or_own(check: Check) -> Check:
    """Allow OWN, too."""
    return lambda name, value: OWN if isinstance(value, str) and value == OWN else check(name, value)


class OfTheClass:
    """A class attribute that is computed from the class, as a subclass has more settings."""

    def __init__(self, compute: Callable[[type], Any]) -> None:
        self._compute = compute

    def __get__(self, instance: object, owner: type) -> Any:
        return self._compute(owner)


def signature(of: type) -> inspect.Signature:
    """Return the settings with their defaults, as editors show them."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [inspect.Parameter(f.name, keyword, default=f.default, annotation=f.type) for f in dataclasses.fields(of)]
    return inspect.Signature(shown)


def documented(text: str | None) -> Any:
    """Return a class's docstring that ends with all settings, and what each is for."""

    def write(of: type) -> str:
        lines = [f"    {name} = {record.default!r}: {record.about}" for name, record in settings(of).items()]
        return "\n".join(
            [(text or "An Experiment with more settings.").rstrip(), "", "    Settings", "    --------", *lines]
        )

    return OfTheClass(write)


def even(name: str, value: Any) -> int:
    """Return an even integer of at least 2."""
    if checks.integer(name, value, 2) % 2:
        raise checks.refusal(name, value, "even")
    return int(value)


def increasing_steps(name: str, value: Any) -> tuple[int, ...]:
    """Return increasing numbers of steps."""
    if not isinstance(value, (list, tuple)) or not value:
        raise checks.refusal(name, value, "a non-empty tuple of increasing integers of at least 0")
    steps = tuple(checks.integer(f"{name}[{position}]", step, 0, 10**4) for position, step in enumerate(value))
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise checks.refusal(name, value, "increasing")
    return steps
