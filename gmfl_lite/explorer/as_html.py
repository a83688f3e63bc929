"""What the explorer shows as HTML: words, a picture with its alternative text, a table, code to copy."""

import html
import io
from collections.abc import Mapping
from urllib.parse import quote

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle

from ..basics import images
from ..plots.looks import Look
from ..plots.picture import Picture
from .state import State

NOTHING = "Nothing has run yet."
IN_A_MOMENT = "In a moment."

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


DOTS = 130
"""Of a figure, per inch."""


def as_png(figure: Picture) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DOTS, pil_kwargs={"compress_level": 1})
    return png.getvalue()


def picture(figure: Picture) -> str:
    """Return a figure that takes its room before it is there, so that nothing jumps."""
    size = " ".join(
        f'{side}="{DOTS * n:.0f}"' for side, n in zip(("width", "height"), figure.get_size_inches(), strict=True)
    )
    return images.element(as_png(figure), figure.alt, f'class="gmfl-ink" {size} onload="{_TELL_SCREEN_READERS}"')


def legend(curves: Mapping[str, tuple[Look, str]]) -> str:
    """Return each curve's line and marker, its name, and what is to be said of it; on as many lines as it takes."""
    return "".join(
        f"<span>{_sample(look)}{html.escape(name)}&ensp;<b>{sentence(said)}</b></span>"
        for name, (look, said) in curves.items()
    )


def _sample(look: Look) -> str:
    """Draw a piece of a curve, 36 × 12."""
    style = MarkerStyle(look.marker)
    outline = [np.asarray(corners) for corners in style.get_path().transformed(style.get_transform()).to_polygons()]
    marker = "".join(
        f'<polygon points="{" ".join(f"{18 + 9 * x:.1f},{6 - 9 * y:.1f}" for x, y in corners)}"/>'
        for corners in outline
    )
    dashes = f' stroke-dasharray="{" ".join(f"{2 * length:g}" for length in look.dashes)}"' if look.dashes else ""
    line = f'<line x1="0" x2="36" y1="6" y2="6" stroke-width="2" stroke="currentColor"{dashes}/>'
    colour = f'color="{to_hex(look.colour)}" fill="{to_hex(look.colour)}"'
    return f'<svg class="gmfl-ink" aria-hidden="true" width="36" height="12" {colour}>{line}{marker}</svg>'


def problem(words: str) -> str:
    return words and "⚠ " + html.escape(words).replace("\n", "<br>")


def sentence(words: str) -> str:
    return html.escape(words).replace(" %", "&nbsp;%")


def progress_bar(state: State) -> str:
    if not state.busy:
        return ""
    words = html.escape(state.progress)
    return f'<progress max="1" value="{state.part_done:.3f}" aria-label="{words}"></progress> {words}'


def table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return NOTHING
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


def take_away(state: State, frame: pd.DataFrame) -> str:
    """Return code to copy, and the figure and the table to save."""
    if state.busy:  # not at every frame: whoever is at its buttons would lose them
        return "Here when the run is over."
    if frame.empty:
        return NOTHING
    csv = quote(frame.to_csv(index=False, float_format="%.2f"))
    codes = {
        "Copy as Python": state.python(),
        "Copy as papermill command": state.papermill(),
        "Copy as YAML": state.yaml(),
    }
    blocks = [
        f'<p><a href="{images.address(as_png(state.picture()))}" download="explored.png">Save the figure</a> · '
        f'<a href="data:text/csv;charset=utf-8,{csv}" download="explored.csv">Save the table</a></p>'
    ]
    for title, code in codes.items():
        look = f'class="jupyter-button" style="width:auto" data-name="{title}"'
        button = f'<button {look} onclick="{_COPY}">{title}</button>'
        blocks.append(f'<div>{button}<pre tabindex="0">{html.escape(code)}</pre></div>')
    return "".join(blocks)
