"""A row of the panel: a knob's control, and the button that sweeps it."""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from .knobs import Knob, readable
from .state import State
from .widget_parts import close


class KnobRow:
    """A knob's control, and the button that sweeps it.

    Parameters
    ----------
    knob : what can be chosen.
    value : the control's first value.
    moved : called with the knob's name and its new value, even if `show` has just put it there.
    swept : called with the knob's name and the values to sweep over, None for no sweep; also when `show` did it.
    """

    def __init__(
        self,
        knob: Knob,
        value: Any,
        moved: Callable[[str, Any], None],
        swept: Callable[[str, tuple[Any, ...] | None], None],
    ) -> None:
        self._knob, self._tell_swept = knob, swept
        self._common = {
            "options": [(readable(choice), self._shown(choice)) for choice in knob.values],
            "description": knob.name if knob.symbol == knob.name else f"{knob.name} ({knob.symbol})",
            "tooltip": knob.setting.about,
            "style": {"description_width": "120px"},
            "layout": widgets.Layout(flex="1 1 auto", width="auto", min_width="0"),
        }
        if knob.ordered:
            self._one = widgets.SelectionSlider(**self._common, value=self._shown(value), continuous_update=False)
        else:
            self._one = widgets.Dropdown(**self._common, value=self._shown(value))
        self._one.observe(lambda change: moved(knob.name, self._meant(change["new"])), "value")
        self._many: widgets.Widget | None = None
        self._button = widgets.ToggleButton(
            description="sweep",
            tooltip=f"Run every value of {knob.name} while the other knobs stay.",
            layout=widgets.Layout(width="60px", flex="0 0 auto"),
        )
        self._button.add_class("gmfl-sweep")
        self._button.observe(lambda change: swept(knob.name, self.range if change["new"] else None), "value")
        self.box = widgets.HBox([self._one, self._button])

    @property
    def range(self) -> tuple[Any, ...]:
        """The values that a sweep goes through: all of the knob's, or those chosen in an earlier one."""
        if self._many is None:
            return self._knob.values
        if not self._knob.ordered:
            return self._many.value
        first, last = self._many.index
        return self._knob.values[first : last + 1]

    def show(self, state: State) -> None:
        """Put the controls where the state says; grey out what changes nothing."""
        knob, swept = self._knob, state.swept
        self._one.value = self._shown(state.knobs[knob.name])
        mine = swept is not None and swept[0] == knob.name
        if mine and self._many is None:
            self._many = self._range_control()
        self._button.value = mine
        self.box.children = (self._many if mine else self._one, self._button)
        self._button.disabled = not knob.counts(state.knobs)
        in_sweep = swept is not None and any(knob.counts({**state.knobs, swept[0]: value}) for value in swept[1])
        self._one.disabled = self._button.disabled and not in_sweep

    def _shown(self, value: Any) -> Any:
        """Return what a control holds for a value: none of ipywidgets' sliders takes None."""
        return readable(None) if value is None else value

    def _meant(self, shown: Any) -> Any:
        return None if None in self._knob.values and shown == readable(None) else shown

    def close(self) -> None:
        for widget in (self._one, self._many):
            if widget is not None:
                close(widget)

    def _range_control(self) -> widgets.Widget:
        values = self._knob.values
        if self._knob.ordered:
            made = widgets.SelectionRangeSlider(**self._common, index=(0, len(values) - 1), continuous_update=False)
        else:
            made = widgets.SelectMultiple(**self._common, value=values, rows=len(values))
        made.observe(lambda _: self._tell_swept(self._knob.name, self.range), "value")
        return made
