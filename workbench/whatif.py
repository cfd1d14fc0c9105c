"""What if some parts of a model had more bits: the scan's configuration once more, with what is chosen kept apart.

Every try is a run like any other, measured on the same images as the one without it, and can be taken back from the list. A
part of a scan of sensitivity is one tensor, or those of a kind in a block; channels of one tensor come from Outliers, which
leads here, or are typed. Where nothing was scanned yet, the configuration is what the form says.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from ouro.metrics import METRICS, metric_of
from workbench import address, calib, damage, engine, lists, quantize, runner, ways
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, headline, interval, score, table, title
from workbench.runner import Job

KIND = "what if"
WIDTHS = (("8 bits", 8), ("Float", quantize.FLOAT))
_MOST = 60
_IDLE = (
    "Method, bits, scope and calibration are those of what is shown above, or of the form where nothing was measured yet; "
    "nothing is calibrated anew that was before."
)

_INTO_VIEW = """() => {
  const asked = new URLSearchParams(location.search);
  if (asked.get("tab") === "sensitivity" && asked.get("channels")) wb.reveal("wb-sensitivity-whatif");
}"""
"""Whoever was led here by a link sees where it has led."""

Values = Mapping[str, Any]


def choices(values: Values) -> list[str]:
    """Parts of a scan, the most harmful first; of a configuration that nobody measured, as they come in the model."""
    parts = (
        damage.ranked(values)
        if "rows" in values
        else list(engine.groups(values["model"], values["scope"], values["by"]))
    )
    return parts[:_MOST]


def expression(values: Values, names: Sequence[str]) -> str:
    """What singles out these parts, and nothing else.

    Raises:
        ValueError: the model has no such part any more.
    """
    known = engine.groups(values["model"], values["scope"], values["by"])
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"{values['model']} has no part {missing[0]!r} in scope {values['scope']}; choose anew")
    paths = [path for name in names for path in known[name]]
    return f"^(?:{'|'.join(map(re.escape, paths))})$"


def apart(values: Values, channels: str) -> str:
    """What singles out channels as they are typed, "layers.0.mixer.in_proj.tap_in:61,17"; see `ouro.quant.plan.split_rule`.

    Raises:
        ValueError: the scan rounds no such tensor, or they cannot be read.
    """
    path, _, numbers = channels.strip().rpartition(":")
    known = engine.sites(values["model"], values["scope"])
    if path not in known:
        example = f"{known[0]}:61,17"
        raise ValueError(
            f"channels {channels.strip()!r} are of no tensor that this scan rounds (scope {values['scope']}); write its path "
            f"and numbers, as in {example!r}, or measure another scope"
        )
    rule = f"^{re.escape(path)}$:{numbers}"
    engine.kept_channels(values["model"], values["scope"], rule)
    return rule


def specs(values: Values, names: Sequence[str], bits: int, channels: str = "") -> list[dict[str, Any]]:
    """The scan's configuration as it was, and with these parts and channels at so many bits."""
    base = {key: values[key] for key in ("model", "method", "bits", "scope", "calib", "seed")}
    rules = [expression(values, names)] if names else []
    rules += [apart(values, channels)] if channels.strip() else []
    return [base, {**base, "keep": tuple((rule, bits) for rule in rules)}]


def listed(tries: Sequence[Mapping[str, Any]]) -> str:
    """Every try beside the same without it, the last one first."""
    if not tries:
        return ""
    heads = [("What is kept", False), ("At", False), (headline(metric_of(tries[-1]["row"])), True), ("95 % interval", True),
             ("Without", True), ("Gain", True), ("From", False)]  # fmt: skip
    lines = []
    for one in reversed(tries):
        row, base = one["row"], one["base"]
        name = metric_of(row)
        known = row.get(name) is not None and base.get(name) is not None
        gain = METRICS[name].gap(row[name] - base[name]).replace("-", "−") if known else "–"
        lines.append(
            [
                "<br>".join(f"<code>{html.escape(part)}</code>" for part in one["names"]),
                dict(map(reversed, WIDTHS))[one["bits"]], score(row, named=False), interval(row),
                score(base, named=False), gain, ways.way(ways.said_of(row), ways.made_by(row)),
            ]
        )  # fmt: skip
    return table(heads, lines)


def _tried(
    given: Sequence[Mapping[str, Any]], limit: int, data: str, names: Sequence[str], bits: int
) -> Generator[Any, None, dict[str, Any]]:
    base, row = yield from quantize.compare(given, limit, data)
    # images' answers are for the table of Quantize; a page keeps numbers
    small = [{key: value for key, value in one.items() if key not in _HEAVY} for one in (base, row)]
    quantize.keep(row)
    return {"names": list(names), "bits": bits, "base": small[0], "row": small[1]}


_HEAVY = ("answers", "fp_answers", "labels", "right", "resampled", "same", "block_error")


def build(
    page: Page,
    report: gr.Dropdown,
    reports: Any,
    scope: gr.Dropdown,
    by: gr.Radio,
    form: Sequence[Any],
    configured: Callable[..., Values],
) -> dict[str, Any]:
    """Fills its part of the tab.

    Args:
        report: which scan is shown. reports: model -> scans by the value of that list.
        scope, by: what the form says of the parts. form: all that a scan is asked for with, the model first. configured:
            their values -> what a scan of them would say of itself.
    """
    with gr.Accordion("What if …", open=False, elem_id="wb-sensitivity-whatif") as part:
        title(
            "Keep some parts or channels at more bits", "and see what that gives back, on the same images as the scan"
        )
        with gr.Row(elem_classes="wb-inline"):
            parts = gr.Dropdown(
                [], multiselect=True, label="Parts, the most harmful first once measured", elem_id="wb-whatif-parts", scale=4, min_width=280
            )  # fmt: skip
            channels = gr.Textbox(
                label="Channels of one tensor", placeholder="layers.0.mixer.in_proj.tap_in:61,17", max_length=address.LONGEST - 1,
                info="its other channels are rounded without them; Outliers has a link that fills this in",
                elem_id="wb-whatif-channels", scale=4, min_width=280,
            )  # fmt: skip
            bits = gr.Radio(list(WIDTHS), value=8, label="Kept at", elem_id="wb-whatif-bits", min_width=160)
            go = gr.Button("Try it", elem_id="wb-whatif-go", min_width=90)
            stop = gr.Button("Cancel", interactive=False, elem_id="wb-whatif-cancel", min_width=80)
            undo = gr.Button("Undo", interactive=False, elem_id="wb-whatif-undo", min_width=80)
        progress = gr.HTML(runner.bar(None, _IDLE), elem_id="wb-whatif-job", apply_default_css=False)
        rows = gr.HTML(elem_id="wb-whatif-rows", apply_default_css=False)
        tries = gr.State([])

    # no more of the form than the parts hang on
    shown_parts = [page.model, report, scope, by]

    def offered(model: str, key: str | None, scope: str, by: str) -> gr.Dropdown:
        known = reports(model).get(key or "") or {"model": model, "scope": scope, "by": by}
        return gr.Dropdown(choices=choices(known), value=[])

    # a list of a single report is not shown, and does not say that it changed
    for event in (part.expand, report.change):
        lists.on([event], offered, shown_parts, parts, **PRIVATE)

    def asked(wanted: Values, model: str, key: str | None, scope: str, by: str) -> tuple[Any, Any]:
        if "channels" not in address.Asked("sensitivity", model, wanted).values:
            return gr.skip(), gr.skip()
        return gr.Accordion(open=True), offered(model, key, scope, by)

    # a part that the page opens itself does not say so
    shown = lists.on([page.wanted.change], asked, [page.wanted, *shown_parts], [part, parts], **PRIVATE)
    shown.then(None, js=_INTO_VIEW, api_visibility="private")

    def follow(job: Job, before: list[dict[str, Any]]) -> Iterator[dict[Any, Any]]:
        for _ in runner.follow(job):
            update = {
                progress: runner.bar(job), go: gr.Button(interactive=job.over), stop: gr.Button(interactive=not job.over),
                # what is taken back while another one is tried would come back with it
                undo: gr.Button(interactive=job.over and bool(before)),
            }  # fmt: skip
            if job.state == "done":
                now = [*before, job.result]
                update |= {tries: now, rows: listed(now), undo: gr.Button(interactive=True)}
            yield update

    @guarded
    def begin(
        key: str | None, names: list[str], channels: str, bits: int, before: list[dict[str, Any]], *form: Any
    ) -> Iterator[dict[Any, Any]]:
        values = reports(form[0]).get(key or "") or configured(*form)
        chosen = [*names, *filter(None, [(channels or "").strip()])]
        if not chosen:
            raise ValueError("nothing is chosen; pick a part from the list, or name channels")
        calib.require_measured(values["model"], values["data"])
        given = specs(values, names, int(bits), channels or "")
        about = (
            f"{values['model']} · {len(chosen)} part{'s' * (len(chosen) > 1)} of {values['method']} {values['bits']}"
        )
        job = runner.start(
            KIND, lambda: _tried(given, values["n"], values["data"], chosen, int(bits)), about, model=values["model"]
        )
        yield from follow(job, before)

    outputs = [progress, go, stop, undo, rows, tries]
    go.click(begin, [report, parts, channels, bits, tries, *form], outputs, concurrency_limit=None, **PRIVATE)
    stop.click(guarded(lambda: runner.stopped(KIND)), None, progress, queue=False, **PRIVATE)

    @guarded
    def back(before: list[dict[str, Any]]) -> dict[Any, Any]:
        now = before[:-1]
        return {tries: now, rows: listed(now), undo: gr.Button(interactive=bool(now))}

    # what was measured stays among the runs
    undo.click(back, tries, [tries, rows, undo], **PRIVATE)
    return {"channels": channels}
