"""A block with its quantizers, as boxes from left to right, and how one tensor is rounded in two precisions.

Takes the reports of `ouro.jobs.block`. Source of the form: OuroMamba (arXiv 2503.10959), figures 6 and 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from ouro.types import Report

Box = Mapping[str, Any]
_WIDTH, _HEIGHT, _GAP = 1.5, 0.62, 0.5
_COLORS = {"float": "#eeeeee", "narrow": "#cfe3f2", "wide": "#fbe6bf"}
_STATIC, _DYNAMIC, _INK = "#0072b2", "#d55e00", "#444444"


def paper(report: Report) -> Figure:
    """Matplotlib: figure 6, a box per tensor with its shape and its bits, a lane per scan, arrows in data-flow order."""
    boxes, lanes = report.values["boxes"], report.values["lanes"]
    stacks: dict[tuple[int, int | None], list[Box]] = {}
    for box in boxes:
        stacks.setdefault((box["column"], box["lane"]), []).append(box)
    tall = {
        lane: max(len(stack) for (_, other), stack in stacks.items() if other == lane) for lane in range(len(lanes))
    }
    outer = max((len(stack) for (_, lane), stack in stacks.items() if lane is None), default=1)
    height = max(sum(tall.values()) + 0.6 * len(lanes), outer)
    figure = Figure(figsize=(9.2, 0.42 * height + 0.9), layout="constrained")
    axes = figure.subplots()
    tops, top = {}, 0.0
    for lane, name in enumerate(lanes):
        tops[lane] = top + 0.6
        axes.text(_WIDTH + _GAP, top + 0.35, f"scan {lane}: {name}", fontsize=7, color=_INK, style="italic")
        top += tall[lane] + 0.6
    middles = {
        (column, lane): (0.5 * height if lane is None else tops[lane] + 0.5 * tall[lane]) for column, lane in stacks
    }
    for key, stack in stacks.items():
        _stack(axes, stack, key[0] * (_WIDTH + _GAP), middles[key])
    for start, end in _arrows(stacks):
        tail = (start[0] * (_WIDTH + _GAP) + _WIDTH, middles[start])
        tip = (end[0] * (_WIDTH + _GAP), middles[end])
        axes.annotate("", tip, tail, arrowprops={"arrowstyle": "->", "color": _INK, "lw": 0.8})
    axes.set(xlim=(-0.1, 6 * _WIDTH + 5 * _GAP + 0.1), ylim=(height + 0.2, -0.2))
    axes.set_axis_off()
    axes.set_title(_title(report), fontsize=9)
    return figure


def alt(report: Report) -> str:
    """The figure in one sentence."""
    values = report.values
    boxes = values["boxes"]
    rounded = [box for box in boxes if box["bits"] is not None]
    mixed = sum(box["outlier_bits"] is not None for box in rounded)
    return (
        f"Layer {values['layer']} of {values['model']} from left to right: {len(boxes)} tensors in {len(values['lanes'])} scan(s) "
        f"and around them; {values['method']} at {values['bits']}, scope {values['scope']}, rounds {len(rounded)} of them, {mixed} "
        "in two precisions."
    )


def flow(report: Report, first: int = 0, steps: int | None = None) -> Figure:
    """Matplotlib: figure 7, |x| over a few time steps with the channels on the list, and both step sizes below.

    Args:
        first, steps: the steps that are drawn; two refresh windows by default.

    Raises:
        ValueError: no such steps.
    """
    values, arrays = report.values, report.arrays
    last = first + (2 * values["refresh"] if steps is None else steps)
    if not 0 <= first < min(last, values["steps"]):
        raise ValueError(f"steps {first} to {last} were asked for, the tensor has {values['steps']}")
    size = np.abs(arrays["x"].numpy())[first:last]
    listed = arrays["listed"].numpy().astype(bool)[first:last]
    # channels that are ever listed come first, by the step at which they join
    joins = np.where(listed.any(0), listed.argmax(0), len(listed))
    order = np.lexsort((-size.max(0), joins))[: max(24, int(listed.any(0).sum()) + 8)]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    at = np.arange(first, first + len(size))
    extent = (at[0] - 0.5, at[-1] + 0.5, -0.5, len(order) - 0.5)
    floor = max(float(size.max()) * 2e-2, 1e-12)
    image = upper.imshow(
        np.maximum(size[:, order], floor).T, norm=LogNorm(floor, max(float(size.max()), 10 * floor)), cmap="Greys",
        aspect="auto", origin="lower", extent=extent, interpolation="nearest",
    )  # fmt: skip
    upper.imshow(
        np.ma.masked_equal(listed[:, order].T, 0), cmap=ListedColormap([_DYNAMIC]), alpha=0.45, aspect="auto",
        origin="lower", extent=extent, interpolation="nearest",
    )  # fmt: skip
    upper.set_ylabel("channels, listed first", fontsize=8)
    upper.set_title(f"{values['model']}, {values['path']}: orange goes to {values['outlier_bits']} bits", fontsize=9)
    figure.colorbar(image, ax=upper, label="|x|", pad=0.01)
    lower.step(
        at, arrays["static"].numpy()[first:last], where="mid", color=_STATIC, label=f"static, {values['bits']} bits"
    )
    lower.plot(at, arrays["dynamic"].numpy()[first:last], "o", ms=3, color=_DYNAMIC,
               label=f"dynamic, {values['outlier_bits']} bits")  # fmt: skip
    lower.set(xlabel="time step", ylabel="step size", ylim=(0, None))
    for axes in (upper, lower):
        for clear in range(-(-first // values["refresh"]) * values["refresh"], at[-1] + 1, values["refresh"]):
            axes.axvline(clear - 0.5, color=_INK, lw=0.8, ls=":")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.legend(fontsize=7)
    return figure


def flow_alt(report: Report) -> str:
    """The second figure in one or two sentences."""
    values = report.values
    errors = values["errors"]
    told = (
        f"{100 * values['share']:.1f} % of {values['steps']} steps by {values['channels']} channels of {values['path']} are on the "
        f"list, which is cleared every {values['refresh']} steps."
    )
    if errors["outliers"] is None:
        return told
    return (
        f"{told} Their mean squared error is {errors['outliers']:.2g} in {values['outlier_bits']} bits, and would be "
        f"{errors['all_static']:.2g} with the static step of the others in {values['bits']}."
    )


def _stack(axes: Axes, stack: list[Box], left: float, middle: float) -> None:
    for number, box in enumerate(stack):
        bottom = middle + number - 0.5 * len(stack) + 0.5 * (1 - _HEIGHT)
        width = "float" if box["bits"] is None else "narrow" if box["bits"] < 8 else "wide"
        axes.add_patch(
            FancyBboxPatch((left, bottom), _WIDTH, _HEIGHT, "round,pad=0,rounding_size=0.1", fc=_COLORS[width], ec=_INK, lw=0.6)
        )  # fmt: skip
        name = ".".join(part for part in box["path"].split(".") if part != "scans" and not part.isdigit())
        shape = "×".join(map(str, box["shape"]))
        words = f"{name.replace('tap_', '')}  {shape}\n{_rounding(box)}"
        axes.text(left + _WIDTH / 2, bottom + _HEIGHT / 2, words, ha="center", va="center", fontsize=5.6)


def _arrows(
    stacks: Mapping[tuple[int, int | None], Any],
) -> list[tuple[tuple[int, int | None], tuple[int, int | None]]]:
    """From each stack to the next one: the nearest column to its right in its lane, or into and out of all lanes."""
    keys = sorted(stacks, key=lambda key: (key[0], -1 if key[1] is None else key[1]))
    arrows = []
    for lane in {lane for _, lane in keys if lane is not None}:
        path = [key for key in keys if key[1] in (None, lane)]
        arrows += list(pairwise(path))
    return list(dict.fromkeys(arrows))


def _rounding(box: Box) -> str:
    if box["bits"] is None:
        return "float"
    outliers = "" if box["outlier_bits"] is None else f", outliers {box['outlier_bits']}"
    return f"{box['bits']} bits per {box['granularity']}{outliers}"


def _title(report: Report) -> str:
    values = report.values
    return f"{values['model']}, {values['mixer']}: {values['method']} at {values['bits']}, scope {values['scope']}"
