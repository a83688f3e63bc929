"""What the explorer says of its curves, each in one sentence."""

from collections.abc import Sequence

from ..methods import methods
from ..plots.picture import steps_in_words
from .curves import Curve
from .what_if import in_words

SAME = "at the same step sizes"
BEST = "each at its best step sizes"
"""How methods are compared: in the first way, unless the best have been searched for."""


def of_a_curve(curve: Curve, fedavg: Curve | None, steps: int, how: str = SAME) -> str:
    """Say what a curve shows, next to FedAvg's once that is complete; `how` they are compared."""
    if not len(curve.history):
        return ""
    reached = curve.reached(steps)
    who = "new agents" if curve.what_if.experiment.n_new_agents else "agents trained on"
    words = f"after {steps_in_words(steps)} {who} reach {reached:.0f} %"
    if curve.status != "completed":
        rounds = curve.history["round"].iloc[-1]
        return f"In round {rounds}, {words}." if rounds else f"Before training, {words}."
    words = words.capitalize()
    if curve.what_if == curve.what_if.fedavg:
        return f"{words}: this is FedAvg."
    if fedavg is None or fedavg.status != "completed":
        return f"{words}."
    more = round(reached) - round(fedavg.reached(steps))
    if not more:
        return f"{words}, level with FedAvg fine-tuned as long, {how}."
    points = f"{abs(more)} point{'s' * (abs(more) != 1)} {'above' if more > 0 else 'below'}"
    return f"{words}, {points} FedAvg fine-tuned as long, {how}."


def of_a_sweep(name: str, curves: Sequence[Curve], steps: int) -> str:
    """Say which value of the swept knob did best and which worst, of those that are complete."""
    scored = [(curve.reached(steps), curve.what_if.value(name)) for curve in curves if curve.status == "completed"]
    if not scored:
        return ""
    (high, best), (low, worst) = (choose(scored, key=lambda score: score[0]) for choose in (max, min))
    words = f"After {steps_in_words(steps)}, {in_words(name, best)} gives {high:.0f} %"
    how = f", {SAME}" if name in methods["FedAvg"] and not name.endswith("_lr") else ""
    return words + (f" and {in_words(name, worst)} {low:.0f} %{how}." if best != worst else ".")


def of_an_error(error: BaseException) -> str:
    """Return the words of an error that tells a user what to do; of any other, its kind, too."""
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
