"""The main jobs for programs: what the page shows under "Use via API", and `gradio_client` calls by name.

Long ones take their place in the line of jobs and are seen, paused and cancelled there like those of the page. Numbers come as
the command line gives them with --json; where a file was made, `run` names it on the board of runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import gradio as gr
import numpy as np

from ouro.settings import check_count
from workbench import attention, calib, engine, outliers, quantize, runner
from workbench.errors import guarded


def build() -> None:
    """Adds the endpoints to the page."""
    for function in (models, attention_maps, outlier_channels, answer, generate, quantized, sensitivity):
        gr.api(endpoint(function), api_name=_NAMES.get(function.__name__, function.__name__), concurrency_limit=4)


def endpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as programs call it: with arguments of the types it names, and failures of one line.

    Programs send any JSON at all, and a job should not find out by a TypeError deep inside.
    """
    kinds = get_type_hints(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(function).bind(*args, **kwargs)
        given = {name: _as(kinds[name], name, value) for name, value in bound.arguments.items()}
        return function(**given)

    return guarded(checked)


def _as(kind: type, name: str, value: Any) -> Any:
    """The value as one of this type.

    Raises:
        ValueError: it is of another.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
    if kind is str and isinstance(value, str):
        return value
    if (kind is int and is_number and value == int(value)) or (kind is float and is_number):
        return kind(value)
    words = {str: "a text", int: "a whole number", float: "a number below 2^63"}[kind]
    raise ValueError(f"{name} is {repr(value)[:60]}, expected {words}")


_MOST_STEPS = 200
_LARGEST = 2**63
"""What no number reaches that a job takes; NaN and infinity are not below it either."""


def models() -> list:
    """Every model with what is known of its weights."""
    return list(engine.catalog())


def attention_maps(model: str, sample: int, layer: int, window: int = 5) -> dict:
    """AUROC and the other scores of one held-out image's maps, as the Attention tab shows them."""
    spec = attention.spec_of(model, _held_out(model, sample), layer, window, "delta")
    # the tab takes the widest window that fits; who names one is not to get another one's numbers
    return _values(engine.explained(**{**spec, "window": window}).values)


def outlier_channels(
    model: str, sample: int, layer: int, tensor: str = "in_proj", kappa: float = 3.0, refresh: int = 10
) -> dict:
    """How many outliers one held-out image has in a tensor, and which: `raw_by_step` of every step, `static_list` for all."""
    layers = engine.model_row(model)["layers"]
    if not 0 <= layer < layers:
        raise ValueError(f"layer is {layer}, {model} has layers 0 to {layers - 1}")
    way = outliers.scans(model, layer)[0][1]
    spec = outliers.spec_of(model, _held_out(model, sample), layer, tensor, way, kappa, refresh)
    result = engine.outliers(**spec)
    steps = [row.nonzero()[0].tolist() for row in result.arrays["raw"] > 0]
    static = (result.arrays["static"] > 0).nonzero()[0].tolist()
    return _values(result.values) | {"raw_by_step": steps, "static_list": static}


def answer(model: str, sample: int, seed: int = 0, steps: int = 10) -> dict:
    """What a model says of one held-out image, whatever its task; seed and steps are those of a denoiser."""
    # no job that could be cancelled: clicks of all pages wait for it
    if steps > _MOST_STEPS:
        raise ValueError(f"steps is {steps}, expected {_MOST_STEPS} or fewer; `ouro show` takes more")
    spec = {"model": model, "beside": "", "data": engine.own_data(model), "sample": int(sample)}
    return _values(engine.answered(**spec, seed=int(seed), steps=int(steps)).values)


def generate(model: str, method: str = "ouro", num: int = 16, steps: int = 100, seed: int = 0) -> dict:
    """Makes images of noise by the model alone, a set to calibrate on."""
    spec = {"model": model, "method": method, "num": int(num), "steps": int(steps), "seed": int(seed)}
    return _values(_done("generation", lambda: engine.synthesis_job(**spec), f"{num} images by {method}", model).values)


def quantized(
    model: str, method: str = "ouro", bits: str = "w4a4o8", images: str = "real:32", scope: str = "lin",
    limit: int = 500, seed: int = 0,
) -> dict:  # fmt: skip
    """Calibrates on `images` (real:32, noise:32) and measures the score with its interval on `limit` held-out images.

    A model of one's own is measured on its own pictures, on the first set on Start that has labels for it.
    """
    if not images.strip():
        raise ValueError("images is empty; write what to calibrate on, as in 'real:32' or 'noise:32'")
    # before minutes of calibration
    check_count("limit", int(limit))
    spec = {"model": model, "method": method, "bits": bits, "calib": images, "scope": scope, "seed": int(seed)}
    data = _measured_on(model)
    make = lambda: quantize.compare([spec], int(limit), data)  # noqa: E731
    return _values(_done(quantize.KIND, make, f"{method} {bits}", model)[0])


def sensitivity(
    model: str, method: str = "clipped", bits: str = "w4a4", mode: str = "isolated", by: str = "group", limit: int = 200
) -> dict:
    """What rounding each part of a model costs; `rows` has the damage of each."""
    data = _measured_on(model)
    spec = {
        "model": model, "method": method, "bits": bits, "mode": mode, "by": by, "limit": int(limit),
        "calib": calib.real(model, 32), "data": data, "labels": calib.measured(model, data) == calib.ACCURACY,
    }  # fmt: skip
    return _values(_done("sensitivity", lambda: engine.sensitivity_job(**spec), f"{method} {bits}", model).values)


_NAMES = {"attention_maps": "attention", "outlier_channels": "outliers", "quantized": "quantize"}
"""Function -> its name outside, where a module here has that name."""


def _held_out(model: str, sample: int) -> dict[str, Any]:
    """A picture as the tabs choose it."""
    count = engine.image_count(model, engine.own_data(model))
    if not 0 <= sample < count:
        raise ValueError(f"sample is {sample}, expected 0 to {count - 1}")
    return {"data": engine.own_data(model), "sample": int(sample), "path": None}


def _measured_on(model: str) -> str:
    """What a model is measured on where nobody chooses.

    Raises:
        ValueError: there are no images, and nothing could be said of the model.
    """
    data = next((data for _, data in calib.measures(model)), "")
    calib.require_measured(model, data)
    return data


def _done(kind: str, make: Callable[[], Generator[Any, None, Any]], about: str, model: str) -> Any:
    """The result of a job, which is a kind of its own: it neither waits for that of a page nor takes its place."""
    job = runner.start(f"{kind} by a program", make, f"{model} · {about}", model=model)
    for _ in runner.follow(job):
        pass
    if job.state == "failed":
        assert job.error is not None
        raise job.error
    if job.state != "done":
        raise ValueError(f"{job.title} was cancelled")
    return job.result


def _values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What may leave: no path of this machine, but the run that it belongs to."""
    path = values.get("path")
    kept = {key: _list(value) for key, value in values.items() if key not in ("path", "version")}
    for key, called in (("data", calib.called), ("calib", calib.short_name)):
        if str(kept.get(key, "")).startswith("folder:"):
            kept[key] = called(kept[key])
    if isinstance(kept.get("weights"), dict) and "source" in kept["weights"]:
        kept["weights"] = {**kept["weights"], "source": Path(kept["weights"]["source"]).name}
    return kept | ({"run": Path(path).parent.name} if path else {})


def _list(value: Any) -> Any:
    """An array, which would leave as what Python prints of it, as a list."""
    return value.tolist() if isinstance(value, np.ndarray) else value
