"""Which images a model is calibrated on, and which it is measured on: the same choices wherever it is quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ouro.metrics import METRICS
from workbench import engine, lists, sets, workspace
from workbench.address import Asked
from workbench.page import PRIVATE, Page

ACCURACY, AGREEMENT = "accuracy", "agreement"
"""What can be measured: with labels of the model's classes, or without."""

NO_PICTURES = "add pictures on Start, in one folder per class if accuracy is to be measured."


@dataclass(frozen=True, slots=True)
class Source:
    """The components: which images calibrate, how many of them, which generated set; and those to measure on."""

    kind: gr.Radio
    count: gr.Slider
    chosen: gr.Dropdown
    data: gr.Dropdown

    @property
    def inputs(self) -> list[Any]:
        return [self.kind, self.count, self.chosen]

    @property
    def fields(self) -> dict[str, Any]:
        """By the names under which the browser keeps what was chosen."""
        return {"calib": self.kind, "count": self.count, "set": self.chosen, "measured": self.data}

    def asked(self, ask: Asked, model: str) -> dict[Any, Any]:
        """Updates that choose what an address asks for; never a person's own pictures, whose folder no address names."""
        kinds, options = choices(model), sets.choices(model)
        kind = ask.one_of("calib", None, [kind for _, kind in kinds])
        path = ask.one_of("set", None, {Path(path).parent.name: path for _, path in options})
        data = ask.one_of("measured", None, [data for _, data in measures(model)])
        return {
            self.kind: gr.skip() if kind is None else gr.Radio(choices=kinds, value=kind),
            self.chosen: gr.skip() if path is None else gr.Dropdown(choices=options, value=path),
            self.data: gr.skip() if data is None else gr.Dropdown(choices=measures(model), value=data),
        }

    def restored(self, model: str, kept: Mapping[str, Any]) -> dict[Any, Any]:
        """Updates that choose again what was kept, as far as it is there for the model."""
        update: dict[Any, Any] = {}
        kinds, places = choices(model), measures(model)
        if kept.get("calib") in (kind for _, kind in kinds):
            options = sets.choices(model) if kept["calib"] == "set" else []
            update[self.kind] = gr.Radio(choices=kinds, value=kept["calib"])
            if options and kept.get("set") in (path for _, path in options):
                update[self.chosen] = gr.Dropdown(choices=options, value=kept["set"])
        if kept.get("measured") in (data for _, data in places):
            update[self.data] = gr.Dropdown(choices=places, value=kept["measured"])
        return update


def choices(model: str) -> list[tuple[str, str]]:
    """(words, kind) of what can calibrate a model: its own images where they come along, one's pictures, and the rest."""
    own = [("Real images", "real")] if engine.own_data(model) else []
    pictures = [(entry.name, entry.data) for entry in workspace.pictures() if not entry.fault]
    # a denoiser makes its own, nobody generates a set for it
    made = ("Its own pictures", "synthetic") if engine.makes_pictures(model) else ("A generated set", "set")
    return [*own, *pictures, ("Noise", "noise"), made]


def measures(model: str) -> list[tuple[str, str]]:
    """(words, data) of what a model can be measured on, that with labels first."""
    own = engine.own_data(model)
    held_out = [(_held_out(own), own)] if own else []
    pictures = sorted(
        (entry for entry in workspace.pictures() if not entry.fault),
        key=lambda entry: measured(model, entry.data) != ACCURACY,
    )
    return held_out + [(f"{entry.name}: {measured(model, entry.data)}", entry.data) for entry in pictures]


def _held_out(own: str) -> str:
    return f"Held-out {own}"


def real(model: str, count: int) -> str:
    """Real images for a model, as jobs take them: of its own set, or else pictures, as many of them as there are.

    Raises:
        ValueError: there are none.
    """
    if engine.own_data(model):
        return f"real:{count}"
    entry = next((entry for entry in workspace.pictures() if not entry.fault), None)
    if entry is None:
        raise ValueError(f"there are no real images for {model}: {NO_PICTURES}")
    return spelled(entry.data, count, None)


def measured(model: str, data: str | None) -> str:
    """What images of this set measure of a model: ACCURACY, AGREEMENT with the float model, or "" without images."""
    if not data:
        return ""
    if data == engine.own_data(model):
        return ACCURACY
    entry = _pictures(data)
    if entry is None:
        return ""
    # the model is only opened, to compare names, where the number is right
    right = len(entry.classes) == engine.model_row(model)["classes"] and not engine.misfit(model, data)
    return ACCURACY if right else AGREEMENT


def require_measured(model: str, data: str | None) -> str:
    """As `measured`, of images that there are.

    Raises:
        ValueError: there are none.
    """
    kind = measured(model, data)
    if not kind:
        raise ValueError(f"there are no images to measure {model} on: {NO_PICTURES}")
    return kind


def verdict(model: str, data: str | None) -> str:
    """What is measured on these images, or what it would take, in a line."""
    kind, row = measured(model, data), engine.model_row(model)
    metric, classes = row.get("metric", "top1"), row["classes"]
    name = "accuracy" if metric == "top1" else METRICS[metric].title
    if kind == ACCURACY:
        return f"{name}, with its interval"
    if kind == AGREEMENT and (entry := _pictures(data)) and len(entry.classes) == classes:
        return f"agreement with the float model; no {name}, because {engine.misfit(model, str(data))}"
    if kind == AGREEMENT and metric != "top1":
        return f"agreement with the float model; {name} needs images with what is asked of {model} beside them"
    if kind == AGREEMENT:
        return f"agreement with the float model; accuracy needs one folder for each of its {classes} classes"
    return f"nothing to measure on, the model is only calibrated: {NO_PICTURES}"


def _pictures(data: str | None) -> workspace.Pictures | None:
    return next((entry for entry in workspace.pictures() if entry.data == data), None)


def source(tab: str, page: Page) -> Source:
    """Builds the choice inside a tab."""
    kind = gr.Radio(
        [("Real images", "real"), ("Noise", "noise"), ("A generated set", "set")], value="real",
        label="Calibration images", elem_id=f"wb-{tab}-calib",
    )  # fmt: skip
    count = gr.Slider(8, 256, 32, step=8, label="How many", elem_id=f"wb-{tab}-count")
    chosen = gr.Dropdown([], label="Generated set", visible=False, elem_id=f"wb-{tab}-set", info=sets.NO_SET)
    own = engine.own_data(page.model.value)
    data = gr.Dropdown(
        [(_held_out(own), own)], value=own, label="Measured on", filterable=False, elem_id=f"wb-{tab}-measured",
        info="accuracy, with its interval",
    )  # fmt: skip

    def fitting(model: str, kind: str, path: str | None, data: str | None) -> tuple:
        kinds, places, given = choices(model), measures(model), (kind, path, data)
        # what was chosen stays as long as it is there
        kind = kind if kind in dict(map(reversed, kinds)) else kinds[0][1]
        data = data if data in dict(map(reversed, places)) else next((data for _, data in places), "")
        options = sets.choices(model) if kind == "set" else []
        paths = [path for _, path in options]
        value = path if path in paths else next(iter(paths), None)
        words = f"{len(options)} for this model" if options else "None for this model yet: make one in Samples."
        return (
            gr.Radio(choices=kinds, **changed("value", kind, given[0])),
            gr.Slider(visible=kind != "set"),
            gr.Dropdown(visible=kind == "set", choices=options, info=words, **changed("value", value, given[1])),
            gr.Dropdown(
                choices=places or [("Nothing yet", "")], info=verdict(model, data), **changed("value", data, given[2])
            ),
        )

    inputs = [page.model, kind, chosen, data]
    # an address may choose something else meanwhile, after which this is asked once more
    lists.on(
        [kind.change, data.change, page.model.change, page.brought.change], fitting, inputs, [kind, count, chosen, data],
        trigger_mode="always_last", **PRIVATE,
    )  # fmt: skip
    return Source(kind, count, chosen, data)


def changed(name: str, value: Any, before: Any) -> dict[str, Any]:
    """An option of an update, only where it says something new."""
    return {} if value == before else {name: value}


def spelled(kind: str, count: float, chosen: str | None) -> str:
    """The choice as jobs take it: real:32, noise:32, folder:PATH:32, or the path of a set.

    Raises:
        ValueError: a set is wanted and none is chosen.
    """
    if kind == "set":
        if not chosen:
            raise ValueError("no generated set is chosen; make one in Samples, or calibrate on other images")
        return chosen
    entry = _pictures(kind)
    return f"{kind}:{int(count if entry is None else min(count, entry.count))}"


def short_name(calib: Any) -> str:
    """real:128 -> 128 real; folder:/data/bees:32 -> 32 bees; the path of a set -> 16 ouro."""
    kind, _, rest = str(calib).partition(":")
    if kind in ("real", "noise", "synthetic") and rest.isdigit():
        return f"{rest} {kind}"
    if kind == "folder":
        path, _, number = rest.rpartition(":")
        entry = next((entry for entry in workspace.pictures() if entry.path == path), None)
        return f"{number} {entry.name if entry else path.rpartition('/')[2]}"
    if str(calib).endswith(".safetensors"):
        return engine.set_called(str(calib))
    return "synthetic" if calib else ""


def called(data: str) -> str:
    """A set to measure on by the name that a person knows it by."""
    entry = _pictures(data)
    return entry.name if entry else data


def handed(model: str, path: str, options: Sequence[tuple[str, str]]) -> tuple:
    """Updates of a source's components that choose this set."""
    return (
        gr.Radio(choices=choices(model), value="set"),
        gr.Slider(visible=False),
        gr.Dropdown(choices=list(options), value=path, visible=True, info=f"{len(options)} for {model}"),
    )
