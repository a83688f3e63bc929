"""The explorer's controls: a row of widgets for each knob, buttons, and lines that wrap."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from . import checks
from .settings import Knob, readable


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
        self._one.observe(changed, "value")
        self._many: widgets.Widget | None = None
        self._button = widgets.ToggleButton(
            description="sweep",
            tooltip=f"Run every value of {knob.name} while the other knobs stay.",
            layout=widgets.Layout(width="60px", flex="0 0 auto"),
        )
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
        if value not in self.knob.values:
            raise checks.refusal(self.knob.name, value, f"one of {', '.join(map(readable, self.knob.values))}")
        self._one.value = value

    def enable(self, values: Mapping[str, Any]) -> None:
        """Grey the knob out where another setting makes it meaningless."""
        other, needed = self.knob.needs or (None, None)
        self._one.disabled = self._button.disabled = other is not None and values[other] != needed

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
