"""What the explorer says and shows of its curves: sentences, a picture, a table, code to take away; as HTML."""

import base64
import dataclasses
import html
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pandas as pd

from ..experiment import Experiment
from ..federation import Federation
from ..plots.picture import Picture, steps_in_words
from ..plots.training import exploration
from .take_away import as_papermill, as_python
from .what_if import WhatIf, in_words, labels

FEDAVG = "FedAvg (ν = 0)"


@dataclass(frozen=True, eq=False)
class Curve:
    """What is known of one what-if so far; status is "untrained", "running" or that of a Result."""

    what_if: WhatIf
    history: pd.DataFrame
    status: str


@dataclass(frozen=True)
class View:
    """What is to be seen of the runs; replaced, never changed."""

    curves: tuple[Curve, ...] = ()
    fedavg: Curve | None = None
    federation: Federation | None = None
    swept: str | None = None
    message: str = ""
    problem: str = ""
    progress: str = ""
    part_done: float = 0.0


class Clock:
    """How far several runs are, in words, and how long the rest will take."""

    def __init__(self, todo: Sequence[WhatIf], what: str = "") -> None:
        self._rounds = sum(what_if.experiment.rounds for what_if in todo)
        self._runs, self._finished = len(todo), 0
        self._what, self._done, self._started = what, 0, None

    def at(self, round: int, rounds: int) -> tuple[str, float]:
        """Return what to say, and which part of all rounds is done."""
        if self._started is None:
            self._started = time.monotonic()
        done = self._done + round
        run = f"run {self._finished + 1} of {self._runs}, " if self._runs > 1 else ""
        words = f"{self._what}{run}round {round} of {rounds}"
        if done:
            left = (time.monotonic() - self._started) * (self._rounds - done) / done
            words += f", about {left:.0f} s left"
        return words, done / self._rounds

    def finished(self, rounds: int) -> None:
        self._done += rounds
        self._finished += 1


def steps_to_show(experiment: Experiment) -> int:
    """Return ν where that is scored (and not 0), else the middle one of the numbers of steps."""
    steps = experiment.eval_steps
    return experiment.nu if experiment.nu and experiment.nu in steps else steps[len(steps) // 2]


def together(pins: Sequence[Curve], curves: Sequence[Curve]) -> list[Curve]:
    """Return the pinned curves and then the others, each what-if once."""
    now = {curve.what_if for curve in curves}
    return [*(pin for pin in pins if pin.what_if not in now), *curves]


def brought_up_to_date(pins: Sequence[Curve], view: View) -> tuple[Curve, ...]:
    """Return each pin as the newer curve of its what-if, where that is no shorter, or as stopped if it does not run."""
    now = {curve.what_if: curve for curve in (*view.curves, view.fedavg) if curve is not None}
    newer = []
    for pin in pins:
        curve = now.get(pin.what_if)
        if curve is not None and len(curve.history) >= len(pin.history):
            pin = curve
        elif curve is None and pin.status == "running":
            pin = dataclasses.replace(pin, status="stopped")
        newer.append(pin)
    return tuple(newer)


def shown(pins: Sequence[Curve], curves: Sequence[Curve], fedavg: Curve | None) -> dict[str, Curve]:
    """Return all that is to be seen, by name: pinned curves, the others, and FedAvg unless it is one of them."""
    every = together(pins, curves)
    named = dict(zip(labels([curve.what_if for curve in every]), every, strict=True))
    if fedavg is not None and fedavg.what_if not in {curve.what_if for curve in every}:
        named[FEDAVG] = fedavg
    return named


def reading(curve: Curve, fedavg: Curve | None, steps: int) -> str:
    """Say in one sentence what a curve shows, next to FedAvg's once that is complete."""
    reached = _last(curve, steps)
    if reached is None:
        return ""
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
    more = round(reached) - round(_last(fedavg, steps))
    if not more:
        return f"{words}, level with FedAvg fine-tuned as long."
    points = f"{abs(more)} point{'s' * (abs(more) != 1)} {'above' if more > 0 else 'below'}"
    return f"{words}, {points} FedAvg fine-tuned as long."


def reading_of_sweep(name: str, curves: Sequence[Curve], steps: int) -> str:
    """Say which value of the swept knob did best and which worst, of those that are complete."""
    scored = [(_last(curve, steps), curve.what_if.value(name)) for curve in curves if curve.status == "completed"]
    if not scored:
        return ""
    (high, best), (low, worst) = (choose(scored, key=lambda score: score[0]) for choose in (max, min))
    words = f"After {steps_in_words(steps)}, {in_words(name, best)} gives {high:.0f} %"
    return words + (f" and {in_words(name, worst)} {low:.0f} %." if best != worst else ".")


def picture(
    pins: Sequence[Curve], curves: Sequence[Curve], fedavg: Curve | None, federation: Federation | None, steps: int
) -> Picture:
    """Draw all curves, FedAvg's in grey unless it is one of them, and who holds what in the last of `curves`."""
    named = shown(pins, curves, fedavg)
    held = list(dict.fromkeys(WhatIf(curve.what_if.data, 0) for curve in (*named.values(), *curves[-1:])))
    last = held.index(WhatIf(curves[-1].what_if.data, 0)) if curves else 0
    return exploration(
        {name: curve.history for name, curve in named.items()},
        federation,
        fine_tune_steps=steps,
        rounds=max((curve.what_if.experiment.rounds for curve in named.values()), default=None),
        reference=FEDAVG if FEDAVG in named else None,
        holder=labels(held)[last] if len(held) > 1 else None,
    )


# What ipywidgets does not tell a screen reader: a slider's label and value, which knob a button sweeps, and which of
# the panel's parts are to be read out when they change.
_TELL_SCREEN_READERS = (
    "const p=this.closest('.gmfl-explorer'),"
    "set=(e,n,v)=>{if(e.getAttribute(n)!==v)e.setAttribute(n,v)},"
    "label=e=>e.querySelector('label').textContent,"
    "tell=()=>{for(const h of p.querySelectorAll('.noUi-handle')){const w=h.closest('.widget-inline-hbox');"
    "set(h,'aria-label',label(w));set(h,'aria-valuetext',w.querySelector('.widget-readout').textContent)}"
    "for(const b of p.querySelectorAll('.gmfl-sweep'))set(b,'aria-label','sweep '+label(b.parentElement));"
    "for(const [part,role] of [['problem','alert'],['words','status']])"
    "set(p.querySelector('.gmfl-'+part+' .widget-html-content'),'role',role)};"
    "tell();if(!p.told){p.told=new MutationObserver(tell);p.told.observe(p,"
    "{subtree:true,childList:true,characterData:true,attributeFilter:['aria-valuetext']})}"
)


def image(figure: Picture) -> str:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=130, pil_kwargs={"compress_level": 1})
    data = base64.b64encode(png.getvalue()).decode()
    alt = html.escape(figure.alt)
    return f'<img style="width:100%" alt="{alt}" onload="{_TELL_SCREEN_READERS}" src="data:image/png;base64,{data}">'


def problem(view: View) -> str:
    """Return what went wrong."""
    return view.problem and "⚠ " + html.escape(view.problem).replace("\n", "<br>")


def sentence(view: View, steps: int) -> str:
    """Return the one line on top: what to do, what is to be seen."""
    if view.swept is not None:
        words = reading_of_sweep(view.swept, view.curves, steps)
    else:
        words = reading(view.curves[-1], view.fedavg, steps) if view.curves and not view.problem else ""
    return html.escape(f"{view.message} {words}".strip()).replace(" %", "&nbsp;%")


def progress_bar(view: View) -> str:
    if not view.progress:
        return ""
    words = html.escape(view.progress)
    return f'<progress max="1" value="{view.part_done:.3f}" aria-label="{words}"></progress> {words}'


def runs(named: dict[str, Curve], pins: Sequence[Curve], steps: int, best_first: bool) -> pd.DataFrame:
    """Return one row a run: its name, how it ended, and the accuracy (%) of new agents after 0, 1, … steps."""
    pinned, rows = {pin.what_if for pin in pins}, []
    for name, curve in named.items():
        row = {"run": name, "pinned": "yes" if curve.what_if in pinned else "", "status": curve.status}
        row["rounds"] = curve.history["round"].max() if len(curve.history) else 0
        rows.append(row | {f"after {s}": _last(curve, s) for s in curve.what_if.experiment.eval_steps})
    if best_first:
        final = f"after {steps}"
        rows.sort(key=lambda row: -1 if row[final] is None else row[final], reverse=True)
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "Nothing has run yet."
    frame = frame.rename(columns=lambda name: name.removeprefix("after "))
    rows = frame.to_html(index=False, float_format=lambda value: f"{value:.0f}", na_rep="–", border=0)
    caption = "Accuracy (%) of new agents, if any, after 0, 1, … fine-tuning steps"
    return f'<div class="gmfl-table">{caption}{rows}</div>'


# Browsers that were not reached over https or on this machine have no clipboard to offer.
_COPY = (
    "const b=this,code=b.nextElementSibling,"
    "say=words=>{b.textContent=words;setTimeout(()=>{b.textContent=b.dataset.name},3000)},"
    "select=()=>{getSelection().selectAllChildren(code);say('Selected: copy it with Ctrl+C')};"
    "if(navigator.clipboard)navigator.clipboard.writeText(code.textContent).then(()=>say('Copied'),select);"
    "else select()"
)
_FIGURE = "this.href=this.closest('.gmfl-explorer').querySelector('img').src"


def take_away(named: dict[str, Curve], frame: pd.DataFrame) -> str:
    """Return code to copy, and the figure and the table to save."""
    if not named:
        return "Nothing has run yet."
    what_ifs = [curve.what_if for curve in named.values()]
    noted = [curve.what_if for name, curve in named.items() if name != FEDAVG]  # the notebook runs FedAvg by itself
    csv = quote(frame.to_csv(index=False, float_format="%.2f"))
    codes = {"Copy as Python": as_python(what_ifs), "Copy as papermill command": as_papermill(noted)}
    blocks = [
        f'<p><a href="#" download="explored.png" onclick="{_FIGURE}">Save the figure</a> · '
        f'<a href="data:text/csv;charset=utf-8,{csv}" download="explored.csv">Save the table</a></p>'
    ]
    for title, code in codes.items():
        look = f'class="jupyter-button" style="width:auto" data-name="{title}"'
        button = f'<button {look} onclick="{_COPY}">{title}</button>'
        blocks.append(f'<div>{button}<pre tabindex="0">{html.escape(code)}</pre></div>')
    return "".join(blocks)


def _last(curve: Curve, steps: int) -> float | None:
    """Return the last accuracy, in percent, of new agents; of trained-on ones where none are new."""
    if not len(curve.history):
        return None
    last = curve.history[curve.history["round"] == curve.history["round"].iloc[-1]]
    return 100 * last[last["fine_tune_steps"] == steps]["accuracy"].iloc[-1]
