"""Synthetic sets side by side: their pictures, who recognizes them, and in which settings they differ."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench import pack, runner, stored
from workbench.generators import METHODS
from workbench.page import percent
from workbench.plot import LEGEND, figure, nothing

MOST = 4
"""Sets that still fit beside each other."""
FEW = "Choose two sets or more, to see them beside each other."
_SHOWN = 16
_COLORS = ("$accent", "$h", "$float", "$good")
_LETTERS = "ABCD"


def recognition(found: Sequence[Mapping[str, Any]]) -> str:
    """Share of images that are taken for their class, by the model that made them and by the others; for a plot."""
    if len(found) < 2:
        return nothing(FEW)
    judges = ["itself", *_judges(found)]
    data, told = [], []
    for letter, color, values in zip(_LETTERS, _COLORS, found, strict=False):
        shares = [values["recognized"]["self"], *(values.get("judges", {}).get(name) for name in judges[1:])]
        data.append(
            {
                "type": "bar", "name": f"{letter} {values['method']}", "x": judges,
                "y": [None if share is None else 100 * share for share in shares],
                "marker": {"color": color}, "text": [percent(share, 0) for share in shares],
                "textposition": "outside", "cliponaxis": False,
                "hovertemplate": f"{letter}, %{{x}}: %{{y:.1f}} %<extra></extra>",
            }
        )  # fmt: skip
        told.append(f"{letter} ({values['method']}) {percent(shares[0], 0)} by itself")
    layout = {
        "barmode": "group", "yaxis": {"title": {"text": "recognized, %"}, "range": [0, 108]},
        "legend": LEGEND, "margin": {"l": 52, "r": 8, "t": 30, "b": 32},
    }  # fmt: skip
    return figure(data, layout, alt="share of images taken for their class: " + ", ".join(told), height=250,
                  name="recognition")  # fmt: skip


def side_by_side(found: Sequence[Mapping[str, Any]]) -> str:
    """The sets as columns of an HTML table: pictures first, then what is known of each."""
    if len(found) < 2:
        return ""
    opened = [stored.pictures(values, _SHOWN) for values in found]
    settings = _settings(found)
    same = [f"{name.lower()} {cells[0]}" for name, cells in settings if len(set(cells)) == 1]
    rows = [("", [_sheet(*one, values["num"]) for one, values in zip(opened, found, strict=True)])]
    rows += [(name, [html.escape(cell) for cell in cells]) for name, cells in settings if len(set(cells)) > 1]
    rows.append(("Recognized by itself", [percent(values["recognized"]["self"]) for values in found]))
    for judge in _judges(found):
        shares = [values.get("judges", {}).get(judge) for values in found]
        rows.append((f"… by {html.escape(judge)}", [percent(share) for share in shares]))
    rows.append(("Classes", [_spread(values) for values in found]))
    rows.append(("Computing", [runner.clock(values["seconds"]) for values in found]))
    heads = "".join(f'<th scope="col">{letter}</th>' for letter, _ in zip(_LETTERS, found, strict=False))
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for name, cells in rows
    )
    note = f'<p class="wb-note">The same in all: {html.escape(", ".join(same))}.</p>' if same else ""
    inner = f'<thead><tr><th scope="col"><span class="wb-unseen">What</span></th>{heads}</tr></thead>'
    return f'<div class="wb-scroll"><table class="wb-table wb-sets">{inner}<tbody>{body}</tbody></table></div>{note}'


def _settings(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    return [
        ("Model", [values["model"] for values in found]),
        ("Method", [METHODS.get(values["method"], values["method"]) for values in found]),
        ("Images", [str(values["num"]) for values in found]),
        ("Steps", [str(values["steps"]) if values["method"] != "noise" else "none" for values in found]),
        ("Seed", [str(values["seed"]) for values in found]),
        ("Options", [_options(values) for values in found]),
    ]


def _options(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.get("options", {}).items()) or "as they come"


def _judges(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for values in found for name in values.get("judges", {})))


def _spread(values: Mapping[str, Any]) -> str:
    """How many classes the images were made for, and how many images each has."""
    counted = Counter(stored.pictures(values, most=values["num"])[1])
    if not counted or "" in counted:
        return "–"
    few, many = min(counted.values()), max(counted.values())
    return f"{len(counted)}, of each {few}" + (f" to {many}" if many > few else "")


def _sheet(images: np.ndarray, names: Sequence[str], count: int) -> str:
    """The first pictures as one list; whoever cannot see them is told what they were made to show."""
    items = "".join(
        f'<li><img alt="{html.escape(name or "no class")}" title="{html.escape(name)}" '
        f'src="{pack.png_url(image.transpose(1, 2, 0))}"></li>'
        for image, name in zip(images, names, strict=True)
    )
    more = f'<span class="wb-note">{len(images)} of {count}</span>' if count > len(images) else ""
    return f'<ul class="wb-sheet">{items}</ul>{more}'
