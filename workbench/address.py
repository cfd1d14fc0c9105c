"""What is seen stands in the page's address: a link opens the same view again, back and forward go through views.

In the address: tab, model (with the digest of its weights), and what the tab adds, such as image, layer and window. The page
writes it (`js/address.js`); here it is read. Values that only the page knows, such as the step under the cursor, never come
here: the views take them from the address themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

from workbench.page import PRIVATE

TABS = ("start", "attention", "samples", "outliers", "tasks", "quantize", "sensitivity", "kernels", "paper")
_LONGEST = 200
"""Characters of a value; what is longer was never written by this page."""


def reader() -> gr.HTML:
    """Nothing to see: its event `select` carries the `query` whenever the address was changed from outside the page."""
    return gr.HTML(
        html_template='<div class="wb-address" hidden></div>',
        js_on_load="wb.address.start(element, props, trigger, watch); // 'select'",
        apply_default_css=False,
        elem_id="wb-address",
    )


def keep(tab: str, **components: Any) -> None:
    """Has these components' values written into the address of a tab, under their names, whenever they change."""
    names = list(components)
    js = f"(...values) => {{ wb.address.put('{tab}', {names!r}, values); }}"
    for component in components.values():
        component.change(None, list(components.values()), None, js=js, api_visibility="private")


def parsed(query: Mapping[str, str], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values of an address; `n` counts how many were asked for, so that the same one is heard a second time."""
    values = {str(key): str(value)[:_LONGEST] for key, value in query.items() if not str(key).startswith("__")}
    return {**values, "n": (before or {}).get("n", 0) + 1}


class Asked:
    """What an address asks of a tab for a model, read value by value; what is no such value is noted.

    An address for another tab or model asks for nothing.
    """

    def __init__(self, tab: str, model: str, wanted: Mapping[str, Any] | None) -> None:
        wanted = wanted or {}
        meant = wanted.get("tab", "start") == tab and wanted.get("model", model) == model
        self.values: Mapping[str, Any] = wanted if meant else {}
        self.wrong: list[str] = []

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number, the nearest one that there is."""
        return int(self.number(key, default, low, high, 1))

    def number(self, key: str, default: float, low: float, high: float, step: float) -> float:
        """A number on the steps of a slider, the nearest one that there is."""
        text = self.values.get(key)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        # a comparison with NaN is never true
        if not low <= value <= high:
            nearest = default if value != value else min(max(value, low), high)
            self._note(key, f"expected {low:g} to {high:g}", nearest)
            value = nearest
        return min(low + round((value - low) / step) * step, high)

    def one_of(self, key: str, default: Any, allowed: Iterable[Any]) -> Any:
        """One of some values."""
        text, known = self.values.get(key), {str(value): value for value in allowed}
        if text is None:
            return default
        if text not in known:
            self._note(key, f"known: {', '.join(known) or 'none'}", default)
        return known.get(text, default)

    def say(self) -> None:
        """Shows in a line what could not be had, if anything."""
        if self.wrong:
            gr.Warning(f"{'; '.join(self.wrong)}.", duration=12)

    def _note(self, key: str, allowed: str, instead: Any) -> None:
        self.wrong.append(f"{key}={self.values[key]} is not there ({allowed}), shown is {instead}")


def tab_of(wanted: Mapping[str, Any], wrong: list[str]) -> str:
    """The tab of an address."""
    ask = Asked(wanted.get("tab", "start"), "", {**wanted, "model": ""})
    tab = ask.one_of("tab", "start", TABS)
    wrong += ask.wrong
    return str(tab)


def model_of(wanted: Mapping[str, Any], models: Sequence[str], default: str, wrong: list[str]) -> str:
    """The model of an address, the default one where it names none that there is."""
    model = wanted.get("model", default)
    if model in models:
        return str(model)
    if "model" in wanted:
        wrong.append(f"model={model} is not there, shown is {default}")
    return default


def heard(component: Any, handler: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Calls the handler when another address was asked for."""
    component.change(handler, inputs, outputs, **PRIVATE)
