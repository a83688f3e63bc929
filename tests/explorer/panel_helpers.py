"""How the tests of the explorer see and move it: as a hand and an eye do, through the widgets that are displayed."""

import html
import re
import threading
import time

import ipywidgets
import torch

import gmfl_lite as gl

QUICK = gl.Experiment(
    model="softmax", n_agents=12, n_new_agents=4, rounds=10, local_steps=1, batch_size=10, device="cpu"
)
LONG = QUICK.replace(rounds=100_000, eval_every=5)


def threads(kind: str = "") -> list[threading.Thread]:
    """Return the library's threads that are alive: of "training", of "drawing", or all."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"gmfl_lite {kind}")]


def until(what, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def everything(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in everything(child))]


def press(explorer: gl.Explorer, name: str) -> None:
    buttons = [w for w in everything(explorer.panel) if isinstance(w, ipywidgets.Button) and w.description == name]
    assert len(buttons) == 1
    buttons[0].click()


def control(explorer: gl.Explorer, name: str) -> ipywidgets.Widget:
    """Return what is labelled `name`, or `name` and its symbol: of a knob that is swept, its range."""
    named = [w for w in everything(explorer.panel) if getattr(w, "description", "").split(" (")[0] == name]
    assert len(named) == 1
    return named[0]


def sweep_button(explorer: gl.Explorer, name: str) -> ipywidgets.ToggleButton:
    """Return the button beside a knob."""
    knob = control(explorer, name)
    return next(w.children[1] for w in everything(explorer.panel) if knob in getattr(w, "children", ()))


def move(explorer: gl.Explorer, name: str, value) -> None:
    """Move a control as the browser does."""
    control(explorer, name).value = value


def part(explorer: gl.Explorer, name: str) -> ipywidgets.HTML:
    """Return the part of the panel that is marked by a name: "words", "picture", …"""
    (widget,) = [w for w in everything(explorer.panel) if f"gmfl-{name}" in getattr(w, "_dom_classes", ())]
    return widget


def painted(explorer: gl.Explorer, name: str) -> str:
    return part(explorer, name).value


def unfold(explorer: gl.Explorer, title: str, folded: bool = False) -> None:
    """Press the button with this title, behind which something is folded, unless it is open; or fold it."""
    (button,) = [w for w in everything(explorer.panel) if getattr(w, "description", "").startswith(title)]
    button.value = not folded


def taken_away(explorer: gl.Explorer) -> str:
    """Unfold what is to be taken away, and return it when the panel has nothing left to do."""
    unfold(explorer, "Take it away")
    explorer.wait(60)
    return painted(explorer, "take-away")


def words(explorer: gl.Explorer) -> str:
    """Return what is read out: what went wrong, and what is to be seen."""
    said = f"{painted(explorer, 'problem')} {painted(explorer, 'words')}".strip()
    return html.unescape(re.sub("<[^>]+>", "", said)).replace("\xa0", " ")


def alt(explorer: gl.Explorer) -> str:
    """Return the alternative text of what is drawn."""
    return html.unescape(re.search('alt="(.*?)"', painted(explorer, "picture"))[1])


def table(explorer: gl.Explorer) -> dict[str, list[str]]:
    rows = [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in painted(explorer, "runs").split("<tr")[1:]]
    return {name: list(values) for name, *values in zip(*rows, strict=True)}


def under_way(explorer: gl.Explorer) -> bool:
    """Whether a run has come to its first point."""
    return re.search(r"\bround [1-9]", explorer.state.progress) is not None


def same(one: gl.Result, other: gl.Result) -> bool:
    equal = all(torch.equal(one.params[name], other.params[name]) for name in other.params)
    return equal and one.history.equals(other.history) and one.experiment == other.experiment
