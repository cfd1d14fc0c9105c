"""Start: what this is, where to go, which models are at hand and how accurate, and what this machine can run."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from ouro.metrics import shown_score
from workbench import attention, bring, engine, outliers, pack, runner, workspace
from workbench.acts import acting_view, button
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, count, table, title

LOADING = "download"

_HERO = """<div class="wb-hero"><h2>Quantize Vision Mamba models <em>without data</em>.</h2>
<p class="wb-lead">Ouro Workbench shows why these models resist low bit widths (implicit attention that makes weak
synthetic data, outlier channels that move from one time step to the next) and runs the methods that answer it.
Everything is computed on this machine: with small trained models that ship with the package, with the official ones, or
with yours.</p></div>"""

_WAIT = '<p class="wb-note">Looking …</p>'


def pictures(model: str) -> dict[str, str]:
    """A thumbnail for each card, from the precomputed first view."""
    result = engine.explained(**attention.first_spec(model))
    thumbs = [_colored(attention.first_map(result, source)) for source in ("h", "h_p")]
    maps = [result.arrays["image"].transpose(1, 2, 0), *thumbs]
    outlier_result = engine.outliers(**outliers.first_spec(model))
    return {
        "attention": "".join(f'<img alt="" src="{pack.png_url(_enlarged(image))}">' for image in maps),
        "outliers": f'<img alt="" class="wb-wide" src="{pack.png_url(_lists(outlier_result))}">',
    }


def _enlarged(image: np.ndarray) -> np.ndarray:
    zoom = max(1, 112 // image.shape[0])
    return image.repeat(zoom, axis=0).repeat(zoom, axis=1)


_HEAT = np.array(
    [(0, 0, 4), (74, 12, 107), (165, 44, 96), (237, 105, 37), (251, 155, 6), (252, 255, 164)], dtype=np.float32
)


def _colored(values: np.ndarray) -> np.ndarray:
    """A map in the board's colors, uint8 [H W 3]."""
    values = values.astype(np.float32)
    unit = (values - values.min()) / max(float(np.ptp(values)), 1e-9) * (len(_HEAT) - 1)
    low = np.minimum(unit.astype(int), len(_HEAT) - 2)
    part = (unit - low)[..., None]
    return np.rint(_HEAT[low] * (1 - part) + _HEAT[low + 1] * part).astype(np.uint8)


def _lists(result: engine.Result) -> np.ndarray:
    """The step x channel map in three colors on nothing, uint8 [C L 4]."""
    outlier, static = result.arrays["raw"].T > 0, result.arrays["static"][:, None] > 0
    picture = np.zeros((*outlier.shape, 4), np.uint8)
    picture[np.broadcast_to(static, outlier.shape)] = (122, 167, 214, 150)
    picture[outlier & ~static] = (216, 74, 48, 255)
    picture[outlier & static] = (224, 160, 42, 255)
    return picture


def model_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Models with what is known of their score, and a button that opens each."""
    heads = [("Model", False), ("Data", False), ("Input", False), ("Steps", True), ("Layers", True),
             ("Parameters", True), ("Score", True), ('<span class="wb-unseen">What to do</span>', True)]  # fmt: skip
    loading = runner.latest(LOADING)
    busy = loading is not None and not loading.over
    lines = []
    for row in rows:
        top = "–"
        if row["score"] is not None:
            source = f"of {row['score_n']} held-out" if row["score_n"] else "published"
            score = shown_score(row["metric"], row["score"]).replace(" %", "\u00a0%")
            top = f'{score} <span class="wb-note">{source}</span>'
        name = row["name"]
        act = '<span class="wb-note">never published</span>'
        if row["input_size"][0] != 3:
            act = '<span class="wb-note">takes no pictures</span>'
        elif engine.at_hand(name):
            act = button("Open", "open", name)
        elif busy and loading is not None and loading.about == name:
            act = button("Cancel", "cancel", name)
        elif row["weights"] == "hub":
            act = button("Download", "download", name)
        lines.append(
            [
                f"<code>{html.escape(name)}</code>", "ImageNet-1k" if row["data"] == "folder" else row["data"],
                "×".join(map(str, row["input_size"][1:])), str(row["steps"]), str(row["layers"]),
                count(row["parameters"]), top, act,
            ]
        )  # fmt: skip
    return table(heads, lines)


def health_list(report: Mapping[str, Any]) -> str:
    """Every check with a mark, and what to do where it failed."""
    items = []
    for check in report["checks"]:
        look, mark, word = ("wb-yes", "✓", "there") if check["ok"] else ("wb-no", "–", "optional, not there")
        if not check["ok"] and check["required"]:
            look, mark, word = "wb-bad", "✗", "missing"
        fix = f'<span class="wb-fix">→ {html.escape(check["fix"])}</span>' if check["fix"] and not check["ok"] else ""
        items.append(
            f'<li class="{look}"><span class="wb-mark" role="img" aria-label="{word}">{mark}</span>'
            f"<b>{html.escape(check['name'])}</b>"
            f'<span class="wb-detail">{html.escape(check["detail"])}</span>{fix}</li>'
        )
    return f'<ul class="wb-health">{"".join(items)}</ul>'


def pill(words: str) -> str:
    """The device badge."""
    return f'<span class="wb-pill wb-on" title="where everything is computed"><i></i>{html.escape(words)}</span>'


def build(page: Page, model: str) -> dict[str, Any]:
    """Fills the tab; returns the components that others need."""
    pics = pictures(model)
    gr.HTML(_HERO, apply_default_css=False)
    gr.HTML(
        html_template='<p class="wb-invite" hidden></p>', js_on_load="wb.tour.invite(element)", elem_id="wb-start-tour",
        apply_default_css=False,
    )  # fmt: skip
    cards = {
        "attention": (
            "Explore attention",
            "See what the hidden state attends to, for h and for the patched h_p, layer by layer, and how well each "
            "finds the object.",
            "Open Attention",
        ),
        "outliers": (
            "Follow the outliers",
            "Play through the time steps and watch outlier channels come and go, next to the list that was fixed "
            "beforehand.",
            "Open Outliers",
        ),
        "quantize": (
            "Make data, quantize, compare",
            "Let the model generate its own calibration images, round it to a few bits, and read the accuracy with "
            "its interval.",
            "Open Samples",
        ),
    }
    with gr.Row(elem_classes="wb-cards"):
        for key, (head, words, button) in cards.items():
            with gr.Column(elem_classes="wb-card", min_width=260):
                picture = pics.get(key) or _DRAWING
                gr.HTML(
                    f'<div class="wb-pic">{picture}</div><div class="wb-say"><h3>{head}</h3><p>{words}</p></div>',
                    apply_default_css=False,
                )
                target = "samples" if key == "quantize" else key
                go = gr.Button(button, size="md", elem_id=f"wb-start-{target}", variant="secondary")
                go.click(lambda target=target: gr.Tabs(selected=target), None, page.tabs, **PRIVATE)
    title("Models", "trained on small data sets that come along, so all of it works offline")
    embedded = acting_view("wb-start-models", value=_WAIT)
    with gr.Accordion("Official models: published weights, downloaded once", open=False, elem_id="wb-start-more"):
        progress = gr.HTML(elem_id="wb-start-job", apply_default_css=False)
        official = acting_view("wb-start-official")
    own = bring.build(page)
    title("This machine")
    health = gr.HTML(_WAIT, elem_id="wb-start-health", apply_default_css=False)

    def listed() -> dict[Any, Any]:
        rows = engine.catalog()
        return {
            embedded: model_table([row for row in rows if row["weights"] == "embedded"]),
            official: model_table([row for row in rows if row["weights"] != "embedded"]),
        }

    def follow(job: runner.Job, brought: int) -> Iterator[dict[Any, Any]]:
        for at, _ in enumerate(runner.follow(job)):
            # the list changes when the download begins and when it ends
            update = {progress: runner.bar(job)} | (listed() if at == 0 or job.over else {})
            yield update | ({page.brought: brought + 1} if job.state == "done" else {})

    @guarded
    def act(model: str, brought: int, event: gr.EventData) -> Iterator[dict[Any, Any]]:
        wanted, name = str(event._data["act"]), str(event._data["name"])
        if wanted == "open":
            engine.check(name)
            yield {page.model: offered(name), page.tabs: gr.Tabs(selected="attention")}
        elif wanted == "download":
            yield from follow(runner.start(LOADING, lambda: engine.download_job(name), name, computes=False), brought)
        elif wanted == "cancel":
            runner.cancel(LOADING)
            yield listed()
        elif wanted == "remove":
            workspace.remove_model(name)
            yield own["shown"]() | {page.brought: brought + 1}

    changed = [embedded, official, progress, page.model, page.tabs, page.brought, *own["views"]]
    for view in (embedded, official, own["models"]):
        view.select(
            act, [page.model, page.brought], changed, concurrency_limit=None, trigger_mode="multiple", **PRIVATE
        )

    @guarded
    def look() -> dict[Any, Any]:
        return listed() | {health: health_list(engine.health()), page.device: pill(engine.device())}

    @guarded
    def resume(brought: int) -> Iterator[dict[Any, Any]]:
        job = runner.latest(LOADING)
        if job is not None and not job.over:
            yield from follow(job, brought)
        else:
            yield {progress: ""}

    loads = [
        (look, [], [embedded, official, health, page.device]),
        (resume, [page.brought], [embedded, official, progress, page.brought]),
        own["load"],
    ]
    return {"loads": loads}


def offered(chosen: str) -> gr.Dropdown:
    """The model list, with this one chosen, or the first where it is not there."""
    names = engine.models() or [chosen]
    return gr.Dropdown(choices=names, value=chosen if chosen in names else names[0])


def _rounding() -> str:
    """A drawing of what quantization does: a line, and the same line in eight steps."""
    stairs = "".join(f"H{24 + 25 * k}V{96 - 11 * k}" for k in range(1, 8))
    return (
        '<svg viewBox="0 0 222 112" width="222" height="112" fill="none" stroke-linecap="round" aria-hidden="true">'
        '<path d="M12 101L212 13" stroke="var(--wb-float)" stroke-width="2" stroke-dasharray="1 6"/>'
        f'<path d="M12 96{stairs}H212" stroke="var(--wb-hp)" stroke-width="4" stroke-linejoin="round"/></svg>'
    )


_DRAWING = _rounding()
