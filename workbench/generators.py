"""The settings of each generation method, for the form of the Samples tab; those of the chosen method are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

METHODS = {
    "ouro": "OuroMamba-Gen: contrast of patched implicit attention",
    "psaq": "PSAQ: entropy of patch similarity",
    "clamp": "CLAMP: contrast of plain attention",
    "class": "Class loss only",
    "noise": "Gaussian noise",
}
OPTIMIZED = tuple(name for name in METHODS if name != "noise")
"""Methods that take steps; noise is what they start from."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of a method: a choice of (words, value), or a number of at least `least`."""

    name: str
    label: str
    default: Any
    choices: Sequence[tuple[str, Any]] = ()
    least: float = 0
    info: str = ""


_WINDOWS = (("3×3", 3), ("5×5", 5), ("7×7", 7))
_PATCHES = (
    Setting("blocks", "Blocks", 4, info="0 reads all"),
    Setting("channels", "Channels", 64, info="0 reads all"),
)
_PRIOR = (
    Setting("class_weight", "Class weight", 1.0),
    Setting("class_loss", "Class loss", "cross_entropy", (("CE", "cross_entropy"), ("MAE", "mae"))),
    Setting("smooth_weight", "Smooth weight", 0.05),
)
SETTINGS: Mapping[str, Sequence[Setting]] = {
    "ouro": (
        Setting("features", "Features", "y_p", (("y_p", "y_p"), ("alpha_p", "alpha_p"))),
        Setting("window", "Window of h_p", 5, _WINDOWS),
        Setting("weights", "Weights in it", "delta", (("Δ", "delta"), ("Uniform", "uniform"))),
        Setting("negatives", "Negatives", "all", (("All", "all"), ("In the window", "window"))),
        Setting("positives", "Positives", 12, least=1),
        Setting("temperature", "Temperature", 0.1, least=0.001),
        *_PATCHES,
        *_PRIOR,
        Setting("entropy_weight", "Entropy weight", 0.0, info="PSAQ's, for ablation"),
    ),
    "psaq": (
        Setting("features", "Features", "y", (("y", "y"), ("alpha", "alpha"))),
        Setting("points", "Density points", 64, least=2),
        Setting("bandwidth", "Bandwidth", 0.01, least=0.0001),
        *_PATCHES,
        *_PRIOR,
    ),
    "clamp": (
        Setting("features", "Features", "y", (("y", "y"), ("alpha", "alpha"))),
        Setting("window", "Neighborhood", 3, _WINDOWS),
        Setting("positives", "Positives", 4, least=1),
        Setting("temperature", "Temperature", 0.1, least=0.001),
        *_PATCHES,
        *_PRIOR,
    ),
    "class": _PRIOR,
    "noise": (),
}  # fmt: skip
"""Method -> its options with their defaults, as in `ouro.gen.methods`."""


@dataclass(frozen=True, slots=True)
class Form:
    """The components of all methods' settings, in one order, and the groups that hold them."""

    fields: tuple[tuple[str, str, Any], ...]
    groups: Mapping[str, gr.Column]

    @property
    def inputs(self) -> list[Any]:
        return [component for _, _, component in self.fields]

    def chosen(self, method: str, values: Sequence[Any]) -> tuple[tuple[str, Any], ...]:
        """The options of a method that differ from its defaults, so that the same set has one name only.

        Raises:
            ValueError: a field was left empty.
        """
        defaults = {setting.name: setting.default for setting in SETTINGS.get(method, ())}
        options = []
        for (owner, name, component), value in zip(self.fields, values, strict=True):
            if owner != method:
                continue
            if value is None:
                raise ValueError(f"{component.label.lower()!r} is empty; its default is {defaults[name]}")
            default = defaults[name]
            value = int(value) if isinstance(default, int) and not isinstance(default, bool) else value
            if value != default:
                options.append((name, value))
        return tuple(options)

    def shown(self, method: str) -> list[gr.Column]:
        """Updates of the groups: that of the method is visible."""
        return [gr.Column(visible=name == method) for name in self.groups]


def form(method: str) -> Form:
    """Builds the settings of every method, those of this one visible."""
    fields: list[tuple[str, str, Any]] = []
    groups = {}
    for owner, settings in SETTINGS.items():
        with gr.Column(visible=owner == method, elem_id=f"wb-samples-of-{owner}", elem_classes="wb-form") as group:
            for first in range(0, len(settings), 2):
                with gr.Row(elem_classes="wb-pair"):
                    for setting in settings[first : first + 2]:
                        fields.append((owner, setting.name, _field(owner, setting)))
            if not settings:
                gr.HTML('<p class="wb-note">There is nothing to set: noise is not optimized.</p>')
        groups[owner] = group
    return Form(tuple(fields), groups)


def _field(owner: str, setting: Setting) -> gr.Dropdown | gr.Number:
    look = {"label": setting.label, "info": setting.info or None, "elem_id": f"wb-samples-{owner}-{setting.name}"}
    if setting.choices:
        return gr.Dropdown(list(setting.choices), value=setting.default, filterable=False, min_width=100, **look)
    whole = 0 if isinstance(setting.default, int) else None
    return gr.Number(setting.default, minimum=setting.least, precision=whole, min_width=100, **look)
