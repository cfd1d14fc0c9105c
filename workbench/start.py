"""Start: what this is, where to go, which models are at hand and how accurate, and what this machine can run."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from workbench import attention, engine, outliers, pack
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, table, title

_HERO = """<div class="wb-hero"><h2>Quantize Vision Mamba models <em>without data</em>.</h2>
<p class="wb-lead">Ouro Workbench shows why these models resist low bit widths (implicit attention that makes weak
synthetic data, outlier channels that move from one time step to the next) and runs the methods that answer it.
Everything here is computed on this machine, on small trained models that ship with the package.</p></div>"""

_WAIT = '<p class="wb-note">Looking …</p>'


def pictures(model: str) -> dict[str, str]:
    """A thumbnail for each card, from the precomputed first view."""
    result = engine.explained(**attention.first_spec(model))
    thumbs = [_colored(attention.first_map(result, source)) for source in ("h", "h_p")]
    maps = [result.arrays["image"].transpose(1, 2, 0), *thumbs]
    found = engine.outliers(**outliers.first_spec(model))
    return {
        "attention": "".join(f'<img alt="" src="{pack.png_url(_enlarged(image))}">' for image in maps),
        "outliers": f'<img alt="" class="wb-wide" src="{pack.png_url(_lists(found))}">',
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
    """The models with what is known of their accuracy."""
    heads = [("Model", False), ("Data", False), ("Input", False), ("Steps", True), ("Layers", True),
             ("Parameters", True), ("Top-1", True), ("Weights", False)]  # fmt: skip
    place = {"embedded": "in the package", "hub": "downloaded on request", "none": "not there"}
    lines = []
    for row in sorted(rows, key=lambda row: list(place).index(row["weights"])):
        top = "–"
        if row["top1"] is not None:
            source = f"of {row['top1_n']} held-out" if row["top1_n"] else "published"
            top = f'{row["top1"]:.1f}\u00a0% <span class="wb-note">{source}</span>'
        lines.append(
            [
                f"<code>{html.escape(row['name'])}</code>", "ImageNet-1k" if row["data"] == "folder" else row["data"],
                "×".join(map(str, row["input_size"][1:])), str(row["steps"]), str(row["layers"]),
                _count(row["parameters"]), top, place[row["weights"]],
            ]
        )  # fmt: skip
    return table(heads, lines)


def _count(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} k"


def health_list(found: Mapping[str, Any]) -> str:
    """Every check with a mark, and what to do where it failed."""
    items = []
    for check in found["checks"]:
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
    title("Models")
    models = gr.HTML(_WAIT, elem_id="wb-start-models", apply_default_css=False)
    title("This machine")
    health = gr.HTML(_WAIT, elem_id="wb-start-health", apply_default_css=False)

    @guarded
    def look() -> tuple:
        return model_table(engine.catalog()), health_list(engine.health()), pill(engine.device())

    return {"look": look, "models": models, "health": health}


def _rounding() -> str:
    """A drawing of what quantization does: a line, and the same line in eight steps."""
    stairs = "".join(f"H{24 + 25 * k}V{96 - 11 * k}" for k in range(1, 8))
    return (
        '<svg viewBox="0 0 222 112" width="222" height="112" fill="none" stroke-linecap="round" aria-hidden="true">'
        '<path d="M12 101L212 13" stroke="var(--wb-float)" stroke-width="2" stroke-dasharray="1 6"/>'
        f'<path d="M12 96{stairs}H212" stroke="var(--wb-hp)" stroke-width="4" stroke-linejoin="round"/></svg>'
    )


_DRAWING = _rounding()
