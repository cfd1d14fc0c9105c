"""Answers side by side: image, truth, float and quantized, drawn in the browser in the way of the model's task.

All of it is sent once: what the maps show, from which score on boxes count and the step of a denoiser stay in the browser.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np

from ouro.figures.palette import of_classes
from ouro.figures.words import named, plain, words
from workbench import engine, pack
from workbench.page import percent

NONE = "Nothing is compared with: choose a quantized model above, or make one now."
IGNORED = 255
"""As in `ouro.types`, which imports torch."""
_KEYS = {"float": "exact", "quantized": "rounded"}


def answers_view(elem_id: str, *, value: str | None = None) -> gr.HTML:
    """The view; its value is a text made by `answers`. Arrow keys move the pixel that is read, and the step of a denoiser."""
    return gr.HTML(
        value=value,
        html_template=f'<div class="wb-answers" data-key="{elem_id}"></div>',
        js_on_load="wb.answers(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id=elem_id,
    )


def answers(result: engine.Result, image_name: str) -> str:
    """The value of an `answers_view`, of a result of `engine.answered`."""
    values, arrays = result.values, result.arrays
    said = {"truth": values["truth"], **values["answers"]}
    panels = [{"key": "image", "title": "Image", "note": image_name, "said": image_name}]
    for name in ("truth", "float", "quantized"):
        answer = said[name]
        # one class for the whole image stands beside its name
        if answer is not None and not (name == "truth" and "label" in answer):
            panels.append({"key": name, "title": side(values, name), "note": "", "said": words(answer)})
    names = [plain(name) for name in values["classes"]]
    value: dict[str, Any] = {
        "task": values["task"],
        "image": pack.pixels(arrays["image"]),
        "size": arrays["image"].shape[1:],
        "names": names,
        "truth": None if not values["truth"] else values["truth"].get("label"),
        "panels": panels,
        "none": "" if values["beside"] else NONE,
    }
    drawn = {name: arrays[key] for name, key in ({"truth": "truth"} | _KEYS).items() if key in arrays}
    if values["task"] == "segmentation":
        value["classes"] = {name: pack.b64(array, "u2") for name, array in drawn.items()}
        value["ground"] = values["classes"][:1] == ["background"]
        largest = max(int(array[array != IGNORED].max(initial=0)) for array in drawn.values())
        value["colors"] = of_classes(values["classes"], largest + 1)
        value["there"] = sorted({int(k) for array in drawn.values() for k in np.unique(array)} - {IGNORED})
    elif values["task"] == "detection":
        value["boxes"] = {name: np.round(array[array[:, 4] >= 0], 3) for name, array in drawn.items()}
        largest = max((int(array[:, 4].max(initial=0)) for array in drawn.values()), default=0)
        value["colors"] = of_classes(values["classes"], largest + 1)
    elif values["task"] == "classification":
        rows = {name: drawn[name] for name in _KEYS if name in drawn}
        value["bars"] = {name: [(_name(names, k), float(share)) for k, share in bars] for name, bars in rows.items()}
        value["truth"] = None if value["truth"] is None else plain(value["truth"])
    else:
        value["times"] = arrays["times"]
        value["strips"] = {name: _urls(arrays[f"{key}_strip"]) for name, key in _KEYS.items() if key in arrays}
        value["pictures"] = {name: _urls(arrays[key]) for name, key in _KEYS.items() if key in arrays}
    return pack.text(value)


def side(values: Mapping[str, Any], name: str) -> str:
    """What stands above a panel: of a quantized model, how it was made."""
    beside = values["beside"]
    return f"{beside['method']} {beside['bits']}" if name == "quantized" and beside else name.capitalize()


def verdict(result: engine.Result) -> str:
    """The finding in a sentence."""
    return f'<p class="wb-lead">{_FINDINGS[result.values["task"]](result)}</p>'


def _classified(result: engine.Result) -> str:
    truth, said = result.values["truth"], result.values["answers"]
    label = "" if not truth else f" It shows <b>{html.escape(named(truth['label']))}</b>."
    seen = "the float model takes it for " + _taken(said["float"])
    if said["quantized"] is None:
        return f"{seen[0].upper()}{seen[1:]}.{label}"
    also = "also for" if result.values["agreement"] == 1 else "for"
    return f"{seen[0].upper()}{seen[1:]}, {_rounded(result)} {also} {_taken(said['quantized'])}.{label}"


def _segmented(result: engine.Result) -> str:
    arrays, parts = result.arrays, []
    if "rounded" in arrays:
        changed = float((arrays["exact"] != arrays["rounded"]).mean())
        parts.append(f"Rounding ({_rounded(result)}) changes the class of <b>{percent(changed)}</b> of the pixels.")
    if "truth" not in arrays:
        return " ".join([*parts, "Nobody knows the truth of this image."])
    known = arrays["truth"] != IGNORED
    right = [
        f"<b>{percent(float((arrays[key] == arrays['truth'])[known].mean()))}</b> for the {name} model"
        for name, key in _KEYS.items()
        if key in arrays
    ]
    return " ".join([*parts, f"Right are {', '.join(right)}."])


def _detected(result: engine.Result) -> str:
    from ouro.figures.tasks import missed

    arrays = result.arrays
    if "truth" not in arrays:
        return "Nobody knows which objects are in this image; boxes are those that the models are sure of."
    truth, told = arrays["truth"], []
    for name, key in _KEYS.items():
        if key in arrays:
            rows = arrays[key][arrays[key][:, 4] >= 0]
            by = "the float model" if name == "float" else _rounded(result)
            found = len(truth) - int(missed(truth, rows).sum())
            told.append(
                f"{by} finds <b>{found}</b> of {_counted(len(truth), 'object', 'objects')}, with {_counted(len(rows), 'box', 'boxes')}"
            )
    said = "; ".join(told)
    return f"{said[:1].upper()}{said[1:]}."


def _made(result: engine.Result) -> str:
    values = result.values
    label = "" if not values["truth"] else f" of class <b>{html.escape(named(values['truth']['label']))}</b>"
    count = len(result.arrays["exact"])
    said = f"{count} pictures{label}, made of noise"
    shares = {name: answer["recognized"] for name, answer in values["answers"].items() if answer}
    if all(share is not None for share in shares.values()):
        told = [
            f"<b>{percent(share, 0)}</b> of those by {'float' if name == 'float' else _rounded(result)}"
            for name, share in shares.items()
        ]
        said += f": the judge recognizes {' and '.join(told)}"
    if values["divergence"] is not None:
        said += f". From the same noise, pixels differ by <b>{percent(values['divergence'])}</b> of their range"
    return said + "."


_FINDINGS = {
    "classification": _classified,
    "segmentation": _segmented,
    "detection": _detected,
    "diffusion": _made,
}


def _rounded(result: engine.Result) -> str:
    return html.escape(side(result.values, "quantized"))


def takes(answer: Mapping[str, Any]) -> str:
    """What a model says of an image, in a sentence with markup."""
    if "predicted" in answer:
        return f"The model takes the image for {_taken(answer)}."
    said = html.escape(words(answer))
    if "speed" in answer:
        return f"The image is taken for a state at diffusion time 0.5, where the model answers {said}."
    return f"The model sees: {said}."


def _taken(answer: Mapping[str, Any]) -> str:
    return f"<b>{html.escape(named(answer['predicted']))}</b> ({percent(answer['confidence'], 0)})"


def _name(names: list[str], number: float) -> str:
    return names[int(number)] if names else f"class {int(number)}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _urls(pictures: np.ndarray) -> list[str]:
    """uint8 [n c h w] as data URLs; one channel is gray."""
    shown = np.broadcast_to(pictures, (len(pictures), 3, *pictures.shape[2:]))
    return [pack.png_url(np.ascontiguousarray(picture.transpose(1, 2, 0))) for picture in shown]
