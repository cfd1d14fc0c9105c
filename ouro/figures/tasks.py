"""What a model answers to one image: truth, float and quantized side by side, in the way of its task.

Takes the report of `ouro.jobs.answers`. Of a segmenter classes in color, and which pixels the rounding changed; of a detector
boxes, those that are missed dashed; of a classifier its likeliest classes; of a denoiser the way from noise to a picture,
under a cursor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from plotly.subplots import make_subplots

from ouro.figures.palette import of_classes
from ouro.figures.words import named, plain, words
from ouro.types import IGNORED, Report

_INK, _MISSED, _FLOAT, _ROUNDED = "#444444", "#ff3b30", "#2f6fb0", "#c98a1b"
_OVERLAY, _GROUND, _GAP = 0.65, 0.3, 1
"""Opacity of classes and of the ground, and white pixels between the pictures of a strip."""
_SAME = 0.5
"""Overlap from which a detection has found an object of its class."""
_SIDE = 250

Drawn = list[tuple[str, np.ndarray]]
"""(title, uint8 [h w 3])."""


def screen(report: Report, *, step: int | None = None) -> go.Figure:
    """Plotly: panels side by side; of a denoiser the strips under a slider.

    Args:
        step: where the cursor of a denoiser stands, the last one by default.

    Raises:
        ValueError: a report of a task that is not drawn, or a step that it does not have.
    """
    figure = _of(_SCREENS, report)(report, step)
    figure.update_layout(
        title=_title(report), template="plotly_white", font={"size": 13, "color": _INK}, hovermode="closest"
    )
    return figure


def paper(report: Report, *, step: int | None = None) -> Figure:
    """Matplotlib: the same for print.

    Raises:
        ValueError: as `screen`.
    """
    figure = _of(_PAPERS, report)(report, step)
    figure.suptitle(_title(report), fontsize=9)
    return figure


def alt(report: Report) -> str:
    """What is answered, in a sentence or two."""
    values = report.values
    said = [f"{name}: {words(answer)}" for name, answer in values["answers"].items() if answer is not None]
    truth = f"truth: {words(values['truth'])}; " if values["truth"] else ""
    text = f"{_title(report)}. {truth[:1].upper()}{truth[1:]}{'; '.join(said)}."
    if values["agreement"] is not None:
        return f"{text} Both agree to {100 * values['agreement']:.1f} %."
    if values["divergence"] is not None:
        return f"{text} Pictures differ by {100 * values['divergence']:.1f} % of the range of a pixel."
    return text


def table(report: Report) -> tuple[list[str], list[list[Any]]]:
    """Header and a row for the truth and for each model, for CSV."""
    values = report.values
    rows = [["truth", words(values["truth"])]] if values["truth"] else []
    rows += [[name, words(answer)] for name, answer in values["answers"].items() if answer is not None]
    return ["who", "answer"], rows


def missed(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Which objects [m 6] no detection [d 6] of their class overlaps by a half, bool [m]; groups of many are not looked for."""
    wanted = truth[:, 5] == 0
    if not len(found):
        return wanted
    low = np.maximum(truth[:, None, :2], found[None, :, :2])
    high = np.minimum(truth[:, None, 2:4], found[None, :, 2:4])
    both = (high - low).clip(0).prod(-1)
    areas = [(rows[:, 2:4] - rows[:, :2]).prod(-1) for rows in (truth, found)]
    overlap = both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)
    return wanted & ~((overlap >= _SAME) & (truth[:, None, 4] == found[None, :, 4])).any(1)


# ---- classification ----------------------------------------------------------------------------------------------


def _classes_screen(report: Report, step: int | None) -> go.Figure:
    sides = _sides(report)
    titles = ["image" + _truth(report), *(name for name, _, _ in sides)]
    figure = make_subplots(rows=1, cols=1 + len(sides), subplot_titles=titles, horizontal_spacing=0.14)
    _picture(figure, _image(report), 1)
    for column, (name, rows, color) in enumerate(sides, 2):
        figure.add_bar(
            x=100 * rows[::-1, 1], y=_names_of(report, rows)[::-1], orientation="h", marker={"color": color}, row=1,
            col=column, text=[f"{100 * x:.0f} %" for x in rows[::-1, 1]], name=name, showlegend=False,
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>", textposition="auto",
        )  # fmt: skip
        figure.update_xaxes(range=[0, 100], title="confidence, %", row=1, col=column)
    figure.update_layout(height=330, width=300 * (1 + len(sides)))
    return figure


def _classes_paper(report: Report, step: int | None) -> Figure:
    sides = _sides(report)
    figure = Figure(figsize=(2.6 * (1 + len(sides)), 2.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(sides))
    _panel(axes[0], "image" + _truth(report), _image(report))
    for panel, (name, rows, color) in zip(axes[1:], sides, strict=True):
        panel.barh(_names_of(report, rows)[::-1], 100 * rows[::-1, 1], color=color)
        panel.set(xlim=(0, 100), xlabel="confidence, %")
        panel.tick_params(labelsize=7)
        panel.set_title(name, fontsize=9)
    return figure


# ---- segmentation ------------------------------------------------------------------------------------------------


def _pixels_screen(report: Report, step: int | None) -> go.Figure:
    panels, colors = _segments(report), _colors(report)
    figure = _grid([title for title, _, _ in panels])
    for column, (_, picture, classes) in enumerate(panels, 1):
        given = None if classes is None else _names(report, classes)
        _picture(figure, picture, column, given)
    for number in _present(report):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=_name(report, number),
            marker={"color": colors[number], "symbol": "square", "size": 11},
        )  # fmt: skip
    figure.update_layout(legend={"orientation": "h", "y": -0.05}, height=_SIDE + 120)
    return figure


def _pixels_paper(report: Report, step: int | None) -> Figure:
    panels, colors = _segments(report), _colors(report)
    figure = Figure(figsize=(1.9 * len(panels), 2.7), layout="constrained")
    for axes, (title, picture, _) in zip(_row_of(figure, len(panels)), panels, strict=True):
        _panel(axes, title, picture)
    marks = [Patch(color=colors[number], label=_name(report, number)) for number in _present(report)]
    if marks:
        figure.legend(handles=marks, loc="outside lower center", ncols=min(6, len(marks)), fontsize=7, frameon=False)
    return figure


def _segments(report: Report) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """(title, picture [h w 3], the classes in it [h w] or None) of every panel."""
    image, colors = _image(report), _colors(report)
    panels: list[tuple[str, np.ndarray, np.ndarray | None]] = [("image", image, None)]
    for name, classes, _ in _sides(report, "truth"):
        panels.append((name, _painted(image, classes, colors, _OVERLAY * (classes != IGNORED), report), classes))
    arrays = report.arrays
    if "rounded" in arrays:
        changed = _array(report, "exact") != _array(report, "rounded")
        gray = np.repeat(image.mean(2, keepdims=True), 3, 2) * 0.6 + 90
        title = f"differs in {100 * changed.mean():.1f} %"
        picture = _painted(gray, _array(report, "rounded"), colors, changed.astype(float))
        panels.append((title, picture, _array(report, "rounded")))
    return panels


def _painted(
    image: np.ndarray, classes: np.ndarray, colors: Sequence[str], opacity: np.ndarray, report: Report | None = None
) -> np.ndarray:
    """The image with the colors of classes [h w] over it, as opaque as it says [h w], uint8 [h w 3].

    With a report, the ground is no more than tinted, so that the image stays to be seen.
    """
    if report is not None and "background" in report.values["classes"][:1]:
        opacity = np.where(classes == 0, np.minimum(opacity, _GROUND), opacity)
    tints = np.array([_rgb(color) for color in colors])[np.where(opacity > 0, classes, 0).astype(int)]
    share = opacity[:, :, None]
    return np.rint((1 - share) * image + share * tints).clip(0, 255).astype(np.uint8)


def _present(report: Report) -> list[int]:
    """Numbers of the classes that are anywhere."""
    every = [np.unique(classes) for _, classes, _ in _sides(report, "truth")]
    return [int(number) for number in np.unique(np.concatenate(every)) if number != IGNORED]


# ---- detection ---------------------------------------------------------------------------------------------------


def _boxes_screen(report: Report, step: int | None) -> go.Figure:
    panels, image = _boxes(report), _image(report)
    figure = _grid([title for title, _ in panels])
    for column, (_, marks) in enumerate(panels, 1):
        _picture(figure, image, column)
        for (x0, y0, x1, y1), color, label, dash in marks:
            # pixel k reaches from k - 0.5 to k + 0.5 here
            x, y = np.array([x0, x1, x1, x0, x0]) - 0.5, np.array([y0, y0, y1, y1, y0]) - 0.5
            figure.add_scatter(
                x=x, y=y, mode="lines", line={"color": color, "width": 2.5, "dash": "dash" if dash else "solid"}, row=1,
                col=column, showlegend=False, text=label, hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
            figure.add_annotation(
                x=x0 - 0.5, y=y0 - 0.5, text=label, showarrow=False, xanchor="left", yanchor="bottom", row=1, col=column,
                font={"size": 10, "color": "#ffffff"}, bgcolor="rgba(20,18,16,0.75)", borderpad=1,
            )  # fmt: skip
    figure.update_layout(height=_SIDE + 110)
    return figure


def _boxes_paper(report: Report, step: int | None) -> Figure:
    panels, image = _boxes(report), _image(report)
    figure = Figure(figsize=(2.3 * len(panels), 2.7), layout="constrained")
    for axes, (title, marks) in zip(_row_of(figure, len(panels)), panels, strict=True):
        _panel(axes, title, image)
        for (x0, y0, x1, y1), color, label, dash in marks:
            style: dict[str, Any] = {
                "edgecolor": color,
                "linewidth": 1.6,
                "linestyle": "--" if dash else "-",
                "fill": False,
            }
            axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, **style))
            axes.text(
                x0, max(y0, 4), label, fontsize=6, color="white", va="bottom",
                bbox={"facecolor": "#141210", "alpha": 0.75, "pad": 0.8, "linewidth": 0},
            )  # fmt: skip
    return figure


def _boxes(report: Report) -> list[tuple[str, list[tuple[Any, str, str, bool]]]]:
    """(title, [(box, color, label, dashed)]) of every panel; what a model misses is dashed."""
    colors, truth = _colors(report), report.arrays.get("truth")
    panels: list[tuple[str, list[tuple[Any, str, str, bool]]]] = []
    for name, rows, _ in _sides(report, "truth"):
        marks = []
        for row in rows[rows[:, 4] >= 0]:
            sure = "" if name == "truth" else f" {row[5]:.2f}"
            marks.append((row[:4], colors[int(row[4])], _name(report, row[4]) + sure, False))
        if name != "truth" and truth is not None:
            known = truth.numpy()
            for row in known[missed(known, rows)]:
                marks.append((row[:4], _MISSED, f"missed: {_name(report, row[4])}", True))
        panels.append((name, marks))
    return panels


# ---- diffusion ---------------------------------------------------------------------------------------------------


def _strip_screen(report: Report, step: int | None) -> go.Figure:
    strips, times = _strips(report), report.arrays["times"].tolist()
    at, side = _at(step, times), strips[0][1].shape[0]
    figure = make_subplots(
        rows=len(strips), cols=1, subplot_titles=[name for name, _ in strips], vertical_spacing=0.12, shared_xaxes=True
    )
    for row, (_, picture) in enumerate(strips, 1):
        figure.add_trace(go.Image(z=picture, hoverinfo="skip"), row=row, col=1)
        figure.add_shape(type="rect", line={"color": _MISSED, "width": 3}, row=row, col=1, **_cursor(at, side))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    stops = []
    for number, t in enumerate(times):
        moved = {f"shapes[{row}].{key}": x for row in range(len(strips)) for key, x in _cursor(number, side).items()}
        stops.append({"label": f"{t:.2f}", "method": "relayout", "args": [moved]})
    figure.update_layout(
        sliders=[{"active": at, "steps": stops, "currentvalue": {"prefix": "diffusion time "}, "pad": {"t": 10}}],
        height=130 + 150 * len(strips),
    )  # fmt: skip
    return figure


def _strip_paper(report: Report, step: int | None) -> Figure:
    strips, times = _strips(report), report.arrays["times"].tolist()
    at, side = _at(step, times), strips[0][1].shape[0]
    figure = Figure(figsize=(8.6, 0.9 + 1.05 * len(strips)), layout="constrained")
    axes = _row_of(figure, len(strips), upright=True)
    for panel, (name, picture) in zip(axes, strips, strict=True):
        panel.imshow(picture, interpolation="nearest")
        panel.add_patch(Rectangle((_begin(at, side), -0.5), side, side, fill=False, edgecolor=_MISSED, linewidth=2))
        panel.set(yticks=[], xticks=[])
        panel.set_title(name, fontsize=9, loc="left")
        panel.spines[:].set_visible(False)
    places = [(side + _GAP) * number + side / 2 - 0.5 for number in range(len(times))]
    axes[-1].set_xticks(places, [f"{t:.2f}" for t in times], fontsize=7)
    axes[-1].set_xlabel("diffusion time, from noise to a picture", fontsize=8)
    return figure


def _strips(report: Report) -> Drawn:
    """(title, the states of the first picture side by side) of each model."""
    strips = []
    for name, key in _SIDES.items():
        states = report.arrays.get(f"{key}_strip")
        if states is not None:
            shown = states.expand(-1, 3, -1, -1).numpy().transpose(0, 2, 3, 1)
            apart = np.pad(shown, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
            strips.append((_side(report, name), np.concatenate(list(apart), axis=1)))
    return strips


def _at(step: int | None, times: Sequence[float]) -> int:
    last = len(times) - 1
    if step is not None and not 0 <= step <= last:
        raise ValueError(f"step is {step}, the report has 0 to {last}")
    return last if step is None else step


def _cursor(at: int, side: int) -> dict[str, float]:
    return {"x0": _begin(at, side), "x1": _begin(at, side) + side, "y0": -0.5, "y1": side - 0.5}


def _begin(at: int, side: int) -> float:
    return at * (side + _GAP) - 0.5


# ---- what all of them share --------------------------------------------------------------------------------------

_SIDES = {"float": "exact", "quantized": "rounded"}
_SCREENS = {
    "classification": _classes_screen, "segmentation": _pixels_screen, "detection": _boxes_screen, "diffusion": _strip_screen,
}  # fmt: skip
_PAPERS = {
    "classification": _classes_paper, "segmentation": _pixels_paper, "detection": _boxes_paper, "diffusion": _strip_paper,
}  # fmt: skip


def _of(table: Mapping[str, Any], report: Report) -> Any:
    task = report.values["task"]
    if task not in table:
        raise ValueError(f"answers of {task} have no figure; known: {', '.join(table)}")
    return table[task]


def _sides(report: Report, *before: str) -> list[tuple[str, np.ndarray, str]]:
    """(title, array, color) of what is there: truth where it is asked for, float, quantized."""
    named = {name: name for name in before} | _SIDES
    tints = {"quantized": _ROUNDED}
    return [
        (_side(report, name), _array(report, key), tints.get(name, _FLOAT))
        for name, key in named.items()
        if key in report.arrays
    ]


def _side(report: Report, name: str) -> str:
    """What stands above a panel: how a quantized model was made."""
    beside = report.values["beside"]
    return f"{beside['method']} {beside['bits']}" if name == "quantized" and beside else name


def _title(report: Report) -> str:
    values = report.values
    place = values["image"] if values["image"] is not None else f"{values['data']} {values['sample']}"
    return f"{values['model']}, {values['task']}, {place}"


def _truth(report: Report) -> str:
    truth = report.values["truth"]
    return f": {named(truth['label'])}" if truth else ""


def _name(report: Report, number: float) -> str:
    names = report.values["classes"]
    return plain(names[int(number)]) if names else str(int(number))


def _names(report: Report, classes: np.ndarray) -> np.ndarray:
    """Names of classes [h w], for people who point at them."""
    every = {
        number: "unknown" if number == IGNORED else _name(report, number) for number in np.unique(classes).tolist()
    }
    return np.vectorize(every.get, otypes=[object])(classes)


def _names_of(report: Report, rows: np.ndarray) -> list[str]:
    return [_name(report, number) for number in rows[:, 0]]


def _colors(report: Report) -> list[str]:
    largest = [classes[classes != IGNORED] for _, classes, _ in _sides(report, "truth") if classes.dtype.kind == "i"]
    count = 1 + max((int(one.max()) for one in largest if one.size), default=0)
    boxes = [int(rows[:, 4].max()) + 1 for _, rows, _ in _sides(report, "truth") if rows.ndim == 2 and len(rows)]
    return of_classes(list(report.values["classes"]), max([count, *boxes]))


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[place : place + 2], 16) for place in (1, 3, 5))


def _array(report: Report, name: str) -> np.ndarray:
    return report.arrays[name].numpy()


def _image(report: Report) -> np.ndarray:
    return report.arrays["image"].permute(1, 2, 0).numpy()


def _grid(titles: Sequence[str]) -> go.Figure:
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.015)
    figure.update_layout(margin={"l": 10, "r": 10, "t": 80, "b": 10})
    return figure


def _picture(figure: go.Figure, picture: np.ndarray, column: int, names: np.ndarray | None = None) -> None:
    """An image in a panel, pixel by pixel; names are what stands at the pointer."""
    shown = {"hoverinfo": "skip"} if names is None else {"customdata": names, "hovertemplate": _POINTED}
    figure.add_trace(go.Image(z=picture, **shown), row=1, col=column)
    figure.update_xaxes(visible=False, row=1, col=column)
    figure.update_yaxes(visible=False, row=1, col=column)


_POINTED = "row %{y}, column %{x}: %{customdata}<extra></extra>"


def _row_of(figure: Figure, count: int, *, upright: bool = False) -> list[Any]:
    shape = (count, 1) if upright else (1, count)
    return list(figure.subplots(*shape, squeeze=False).flat)


def _panel(axes: Any, title: str, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
