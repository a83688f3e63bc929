"""The explorer's controls: a row of widgets for each knob, buttons, lines that wrap, and how they look and end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from IPython import get_ipython

from .knobs import Knob, readable

STYLE = """<style>
.gmfl-explorer { gap: 12px 24px; padding: 4px; }
.gmfl-explorer .widget-readout { min-width: 44px; }
.gmfl-explorer .widget-toggle-button { padding: 0 6px; }
.gmfl-explorer .gmfl-fold { text-align: left; padding: 0 10px; }
.gmfl-explorer .gmfl-fold i { width: 1em; }
.gmfl-explorer .gmfl-problem .widget-html-content { border-left: 4px solid #d55e00; padding: 2px 10px; }
.gmfl-explorer .gmfl-problem .widget-html-content:empty { border: none; padding: 0; }
.gmfl-explorer .gmfl-words .widget-html-content { font-size: 115%; }
.gmfl-explorer .gmfl-problem .widget-html-content, .gmfl-explorer .gmfl-words .widget-html-content { line-height: 1.4; }
.gmfl-explorer progress { width: 40%; margin-right: 8px; vertical-align: middle; }
.gmfl-explorer pre { overflow: auto; max-height: 14em; padding: 6px; border: 1px solid #ccc; }
.gmfl-explorer .gmfl-problem { height: auto; margin: 0; }
.gmfl-explorer .widget-html-content { min-width: 0; }
.gmfl-explorer a { color: #0072b2; text-decoration: underline; }
.gmfl-explorer .gmfl-table { overflow-x: auto; }
.gmfl-explorer td, .gmfl-explorer th { padding: 2px 5px; text-align: right; white-space: nowrap; line-height: 1.4; }
</style>"""


class Row:
    """A knob's control, and the button that sweeps it; `sweep(name or None)` is called when that is pressed."""

    def __init__(self, knob: Knob, changed: Callable[[Any], None], sweep: Callable[[str | None], None]) -> None:
        self.knob, self._changed = knob, changed
        self._common = {
            "options": [(readable(value), value) for value in knob.values],
            "description": knob.name if knob.symbol == knob.name else f"{knob.name} ({knob.symbol})",
            "tooltip": knob.help,
            "style": {"description_width": "120px"},
            "layout": widgets.Layout(flex="1 1 auto", width="auto", min_width="0"),
        }
        if knob.ordered:
            self._one = widgets.SelectionSlider(**self._common, continuous_update=False)
        else:
            self._one = widgets.Dropdown(**self._common)
        if knob.start is not None:
            self._one.value = knob.start
        self._one.observe(changed, "value")
        self._many: widgets.Widget | None = None
        self._button = widgets.ToggleButton(
            description="sweep",
            tooltip=f"Run every value of {knob.name} while the other knobs stay.",
            layout=widgets.Layout(width="60px", flex="0 0 auto"),
        )
        self._button.add_class("gmfl-sweep")
        self._button.observe(lambda change: sweep(knob.name if change["new"] else None), "value")
        self.box = widgets.HBox([self._one, self._button])

    @property
    def value(self) -> Any:
        return self._one.value

    @property
    def swept(self) -> tuple:
        """The values that a sweep goes through."""
        if not self.knob.ordered:
            return self._many.value
        first, last = self._many.index
        return self.knob.values[first : last + 1]

    def set(self, value: Any) -> None:
        self._one.value = value

    def enable(self, values: Mapping[str, Any], swept: tuple[str, Sequence] | None) -> None:
        """Grey the knob out where it changes nothing."""
        self._button.disabled = not self.knob.counts(values)
        swept_over = swept is not None and any(self.knob.counts({**values, swept[0]: value}) for value in swept[1])
        self._one.disabled = self._button.disabled and not swept_over

    def show_swept(self, swept: bool) -> None:
        """Show the range to sweep over in place of the one value, or the other way round."""
        self._button.value = swept
        if swept and self._many is None:
            if self.knob.ordered:
                ends = (0, len(self.knob.values) - 1)
                self._many = widgets.SelectionRangeSlider(**self._common, index=ends, continuous_update=False)
            else:
                self._many = widgets.SelectMultiple(**self._common, value=self.knob.values, rows=len(self.knob.values))
            self._many.observe(self._changed, "value")
        self.box.children = (self._many if swept else self._one, self._button)

    def close(self) -> None:
        for widget in (self._one, self._many):
            if widget is not None:
                close(widget)


def button(name: str, act: Callable[[Any], None], tooltip: str, **look: Any) -> widgets.Button:
    made = widgets.Button(description=name, tooltip=tooltip, layout=widgets.Layout(width="auto"), **look)
    made.on_click(act)
    return made


def line(children: Sequence[widgets.Widget]) -> widgets.Box:
    """Return widgets side by side, on several lines where there is no room for one."""
    return widgets.Box(children, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))


def fold(title: str, children: Sequence[widgets.Widget]) -> widgets.VBox:
    """Return widgets behind a button that shows and hides them; the keyboard cannot reach an Accordion's."""
    inside = widgets.VBox(children, layout=widgets.Layout(display="none"))
    toggle = widgets.ToggleButton(description=title, icon="caret-right", layout=widgets.Layout(width="auto"))

    def unfold(change: Mapping[str, Any]) -> None:
        inside.layout.display = "flex" if change["new"] else "none"
        toggle.icon = "caret-down" if change["new"] else "caret-right"

    toggle.observe(unfold, "value")
    toggle.add_class("gmfl-fold")
    return widgets.VBox([toggle, inside])


def close(widget: widgets.Widget) -> None:
    """Close a widget with all that is in it, and its looks, which are widgets, too."""
    for child in getattr(widget, "children", ()):
        close(child)
    for part in (widget, widget.layout, getattr(widget, "style", None)):
        if part is not None:
            part.close()


def when_this_cell_runs_again(act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` before the notebook cell that runs now is run again; return a function that calls this off."""
    shell = get_ipython()
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = parent.get("metadata", {}).get("cellId")
    if cell is None:
        return lambda: None

    def about_to_run(info: Any) -> None:
        if info.cell_id == cell:
            act()

    def forget() -> None:
        if about_to_run in shell.events.callbacks["pre_run_cell"]:
            shell.events.unregister("pre_run_cell", about_to_run)

    shell.events.register("pre_run_cell", about_to_run)
    return forget
