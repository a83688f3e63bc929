"""What a panel is put together from: buttons, lines that wrap, parts that fold, how they look, are shown and close."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

STYLE = """<style>
.gmfl-explorer { container-type: inline-size; width: 100%; padding: 4px; overflow: visible; }
.gmfl-explorer .gmfl-room {
  display: grid; gap: 4px 20px; overflow: visible;
  grid-template: "knobs shown" auto "more shown" 1fr / minmax(280px, 350px) minmax(0, 1fr);
}
.gmfl-explorer .gmfl-knobs { grid-area: knobs; }
.gmfl-explorer .gmfl-shown { grid-area: shown; }
.gmfl-explorer .gmfl-more { grid-area: more; }
.gmfl-explorer img {
  display: block; width: auto; height: auto; max-width: 100%; max-height: max(240px, 100vh - 352px);
}
@container (max-width: 780px) {
  .gmfl-explorer .gmfl-room { grid-template: "knobs" auto "shown" auto "more" auto / minmax(0, 1fr); }
  .gmfl-explorer img { max-height: max(220px, 100vh - 457px); }
}
@container (max-width: 360px) { /* a phone: a knob below its name */
  .gmfl-explorer .widget-inline-hbox { flex-wrap: wrap; height: auto; }
  .gmfl-explorer .widget-inline-hbox > .widget-label { width: 100% !important; flex: 0 0 100%; text-align: left; }
}
.gmfl-explorer .widget-readout {
  min-width: 44px; width: max-content; flex: 0 0 auto; overflow: visible; white-space: nowrap;
}
.gmfl-explorer .widget-toggle-button { padding: 0 6px; }
.gmfl-explorer .gmfl-fold { text-align: left; padding: 0 10px; }
.gmfl-explorer .gmfl-fold i { width: 1em; }
.gmfl-explorer .gmfl-said { height: 92px; overflow-y: auto; margin: 0 0 4px; }
.gmfl-explorer .gmfl-said > * { flex: 0 0 auto; }
.gmfl-explorer .gmfl-problem .widget-html-content { border-left: 4px solid #d55e00; padding: 2px 10px; }
.gmfl-explorer .gmfl-problem .widget-html-content:empty { border: none; padding: 0; }
.gmfl-explorer .gmfl-words .widget-html-content { font-size: 115%; }
.gmfl-explorer .gmfl-problem .widget-html-content, .gmfl-explorer .gmfl-words .widget-html-content { line-height: 1.4; }
.gmfl-explorer .gmfl-said .widget-html { height: auto; margin: 0 2px; }
.gmfl-explorer progress { width: 40%; margin-right: 8px; vertical-align: middle; }
.gmfl-explorer .gmfl-legend { height: auto; }
.gmfl-explorer .gmfl-legend .widget-html-content { display: flex; flex-wrap: wrap; gap: 0 18px; line-height: 1.5; }
.gmfl-explorer .gmfl-legend svg { margin-right: 6px; vertical-align: middle; overflow: visible; }
.gmfl-explorer pre { overflow: auto; max-height: 14em; padding: 6px; border: 1px solid #999; }
.gmfl-explorer .widget-html-content { min-width: 0; }
.gmfl-explorer a { color: var(--jp-content-link-color, #0072b2); text-decoration: underline; }
.gmfl-explorer .gmfl-table { overflow-x: auto; }
.gmfl-explorer td, .gmfl-explorer th { padding: 2px 5px; text-align: right; white-space: nowrap; line-height: 1.4; }
[data-jp-theme-light="false"] .gmfl-ink, html[theme="dark"] .gmfl-ink, .vscode-dark .gmfl-ink {
  filter: invert(0.93) hue-rotate(180deg);
}
</style>"""
"""Where there is no room for two columns the picture comes right below the knobs. In the dark, ink is light."""


def button(name: str, act: Callable[[], None], tooltip: str, **look: Any) -> widgets.Button:
    made = widgets.Button(description=name, tooltip=tooltip, layout=widgets.Layout(width="auto"), **look)
    made.on_click(lambda _: act())
    return made


def toggle(value: bool, name: str, changed: Callable[..., None], **look: str) -> widgets.ToggleButton:
    """Return a button that stays down; `changed` is called with its name and whether it is."""
    made = widgets.ToggleButton(value=value, layout=widgets.Layout(width="auto"), **look)
    made.observe(lambda change: changed(**{name: change["new"]}), "value")
    return made


def line(children: Sequence[widgets.Widget]) -> widgets.Box:
    """Return widgets side by side, on several lines where there is no room for one."""
    return widgets.Box(children, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))


def fold(
    title: str, children: Sequence[widgets.Widget], opened: Callable[[bool], None] = lambda _: None
) -> widgets.VBox:
    """Return widgets behind a button that shows and hides them; the keyboard cannot reach an Accordion's.

    `opened` is called with whether they are shown now.
    """
    inside = widgets.VBox(children, layout=widgets.Layout(display="none"))
    toggle = widgets.ToggleButton(description=title, icon="caret-right", layout=widgets.Layout(width="auto"))

    def unfold(change: Mapping[str, Any]) -> None:
        inside.layout.display = "flex" if change["new"] else "none"
        toggle.icon = "caret-down" if change["new"] else "caret-right"
        opened(change["new"])

    toggle.observe(unfold, "value")
    toggle.add_class("gmfl-fold")
    return widgets.VBox([toggle, inside])


def drawn(widget: widgets.Widget) -> dict[str, Any]:
    """Return what a notebook draws a widget from; that of ipywidgets 7, which Colab has, cannot be asked for it."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def close(widget: widgets.Widget) -> None:
    """Close a widget with all that is in it, and its looks, which are widgets, too."""
    for child in getattr(widget, "children", ()):
        close(child)
    for part in (widget, widget.layout, getattr(widget, "style", None)):
        if part is not None:
            part.close()
