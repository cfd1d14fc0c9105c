"""What is seen stands in the page's address: a link opens the same view again, back and forward go through views.

In the address: tab, model (with the digest of its weights), and what the tab adds, such as image, layer and window. The page
writes it (`js/address.js`); here it is read. Values that only the page knows, such as the step under the cursor, never come
here: the views take them from the address themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from workbench import engine, lists
from workbench.errors import guarded
from workbench.page import PRIVATE, Page

TABS = ("start", "attention", "samples", "outliers", "tasks", "quantize", "sensitivity", "kernels", "runs", "paper")
LONGEST = 200
"""Characters of a value; what is longer was never written by this page."""


def reader() -> gr.HTML:
    """Nothing to see: its event `select` carries the `query` whenever the address was changed from outside the page."""
    return gr.HTML(
        html_template='<div class="wb-address" hidden></div>',
        js_on_load="wb.address.start(element, props, trigger, watch); // 'select'",
        apply_default_css=False,
        elem_id="wb-address",
    )


def keep(page: Page, tab: str, **components: Any) -> None:
    """Has these components' values written into the address of a tab, under their names, whenever they change."""
    page.addressed[tab] = {**page.addressed.get(tab, {}), **components}
    names, inputs = list(components), list(components.values())
    js = f"(...values) => {{ wb.address.put('{tab}', {names!r}, values); }}"
    for component in inputs:
        component.change(None, inputs, None, js=js, api_visibility="private")


def link(tab: str, **values: Any) -> str:
    """The address of a view, as an `href` that the page follows without being loaded anew; what is not said stays."""
    return "?" + urlencode({"tab": tab, **values})


def settle(page: Page, opened: Any) -> None:
    """After this event the page is as its address says, and begins to write it."""
    inputs = [component for of_tab in page.addressed.values() for component in of_tab.values()]
    names = [[tab, name] for tab, of_tab in page.addressed.items() for name in of_tab]
    js = f"(...values) => {{ wb.address.settle({names!r}, values); }}"
    opened.then(None, inputs, None, js=js, api_visibility="private")


def parsed(query: Mapping[str, str], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values of an address; `n` counts how many were asked for, so that the same one is heard a second time."""
    values = {str(key): str(value)[:LONGEST] for key, value in query.items() if not str(key).startswith("__")}
    return {**values, "n": (before or {}).get("n", 0) + 1}


class Asked:
    """What an address asks of a tab for a model, read value by value; what is no such value is noted.

    An address for another tab or model asks for nothing.
    """

    def __init__(self, tab: str, model: str, wanted: Mapping[str, Any] | None) -> None:
        wanted = wanted or {}
        meant = wanted.get("tab", "start") == tab and wanted.get("model", model) == model
        self.tab, self.n = tab, wanted.get("n", 0)
        self.values: Mapping[str, Any] = wanted if meant else {}
        self.wrong: list[str] = []

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number, the nearest one that there is."""
        return int(self.number(key, default, low, high, 1))

    def number(self, key: str, default: Any, low: float, high: float, step: float | None) -> Any:
        """A number on the steps of a slider, the nearest one that there is; without steps, any number in between."""
        text = self.values.get(key)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        allowed = f"expected {low:g} to {high:g}" if high < math.inf else f"expected {low:g} or more"
        # a comparison with NaN is never true
        if not low <= value <= high or math.isinf(value):
            value = min(max(value, low), high)
            if not math.isfinite(value):
                self._note(key, allowed, default)
                return default
            self._note(key, allowed, f"{value:g}")
        return value if step is None else min(low + round((value - low) / step) * step, high)

    def one_of(self, key: str, default: Any, allowed: Iterable[Any]) -> Any:
        """One of some values, or what a mapping has under their names."""
        text = self.values.get(key)
        known = dict(allowed) if isinstance(allowed, Mapping) else {str(value): value for value in allowed}
        if text is None:
            return default
        if text not in known:
            self._note(key, f"known: {', '.join(known) or 'none'}", default)
        return known.get(text, default)

    def several(self, key: str, default: Any, allowed: Iterable[Any]) -> Any:
        """Those of some values that are named, with commas between them; `default` where none of them is there."""
        text = self.values.get(key)
        if text is None:
            return default
        known = {str(value): value for value in allowed}
        named = str(text).split(",")
        chosen = [known[name] for name in named if name in known] or default
        if any(name not in known for name in named):
            self._note(
                key, f"known: {', '.join(known)}", ", ".join(map(str, chosen)) if isinstance(chosen, list) else None
            )
        return chosen

    def checked(self, key: str, fault: Callable[[str], str]) -> Any:
        """A text of which `fault` says what is wrong with it, "" where nothing is; `gr.skip()` where it cannot be."""
        text = self.values.get(key)
        if text is None:
            return gr.skip()
        if words := fault(str(text)):
            self.refuse(key, words)
            return gr.skip()
        return str(text)

    def refuse(self, key: str, why: str) -> None:
        """Notes a value that cannot be had, and why."""
        self._note(key, why, None)

    def field(self, key: str, field: Any) -> Any:
        """A value that a field can have as it was built, `gr.skip()` where the address has none."""
        if isinstance(field, gr.Slider):
            return self.number(key, gr.skip(), field.minimum, field.maximum, field.step)
        if isinstance(field, gr.Number):
            low, high = (-math.inf if field.minimum is None else field.minimum), field.maximum
            return self.number(
                key, gr.skip(), low, math.inf if high is None else high, 1 if field.precision == 0 else None
            )
        if isinstance(field, gr.Textbox):
            return str(self.values[key]) if key in self.values else gr.skip()
        known = [value for _, value in field.choices]
        if isinstance(field, gr.CheckboxGroup):
            return self.several(key, gr.skip(), known)
        return self.one_of(key, gr.skip(), known)

    def say(self) -> None:
        """Shows in a line what could not be had, if anything."""
        if self.wrong:
            gr.Warning(f"{'; '.join(self.wrong)}.", duration=12)

    def _note(self, key: str, allowed: str, instead: Any) -> None:
        # what stays as it was has no name here
        shown = f", shown is {instead}" if isinstance(instead, int | float | str) else ""
        self.wrong.append(f"{key}={self.values[key]} is not there ({allowed}){shown}")


def opening(tab: str, request: gr.Request | None) -> Asked:
    """What the address that the page was opened with asks of a tab, whatever the model."""
    wanted = parsed(dict(request.query_params)) if request else {}
    return Asked(tab, wanted.get("model", ""), wanted)


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


def follow(
    tab: str, page: Page, view: Callable[..., tuple[Any, ...]], inputs: Sequence[Any], outputs: Sequence[Any]
) -> None:
    """Sets what a tab shows when another model is chosen or another address asked for.

    Args:
        view: (asked, model, *values of `inputs`) -> values of the `outputs`, the address's where it asks for any.
    """

    # a list whose choices are new says that it has changed though it has not: by then another picture may be looked at
    followed = gr.State("")

    def other_model(model: str, wanted: Mapping[str, Any], before: str, *values: Any) -> tuple[Any, ...]:
        if (now := engine.version(model)) == before:
            return (gr.skip(),) * (len(outputs) + 1)
        return now, *view(Asked(tab, model, wanted), model, *values)

    def asked(model: str, wanted: Mapping[str, Any], *values: Any) -> tuple[Any, ...]:
        ask = Asked(tab, model, wanted)
        if not ask.values:
            return (gr.skip(),) * (len(outputs) + 1)
        shown = view(ask, model, *values)
        ask.say()
        return engine.version(model), *shown

    given = [page.model, page.wanted]
    lists.on([page.model.change], other_model, [*given, followed, *inputs], [followed, *outputs], **PRIVATE)
    lists.on([page.wanted.change], asked, [*given, *inputs], [followed, *outputs], **PRIVATE)


def form(
    page: Page,
    tab: str,
    fields: Mapping[str, Any],
    also: Callable[[Asked, str], Mapping[Any, Any]] = lambda ask, model: {},
    more: Sequence[Any] = (),
) -> None:
    """Has a form written into the address, and set by an address that is asked for; another model leaves it as it is.

    Args:
        also: (asked, model) -> updates of fields that can have more than what they were built with, and of `more`.
        more: components that an address sets beside the fields.
    """

    @guarded
    def asked(model: str, wanted: Mapping[str, Any]) -> dict[Any, Any]:
        ask = Asked(tab, model, wanted)
        if not ask.values:
            return dict.fromkeys([*fields.values(), *more], gr.skip())
        own = dict(also(ask, model))
        update = {field: ask.field(name, field) for name, field in fields.items() if field not in own}
        ask.say()
        return {**update, **own}

    page.wanted.change(asked, [page.model, page.wanted], [*fields.values(), *more], **PRIVATE)
    keep(page, tab, **fields)
