"""Synthetic sets in words, tables and charts: one by itself, or some beside each other."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench import engine, pack, runner, stored
from workbench.page import facts, percent
from workbench.plot import LEGEND, figure, nothing

NO_SET = "No set has been finished yet."
MOST = 4
"""Sets that still fit beside each other."""
FEW = "Choose two sets or more, to see them beside each other."
_SHOWN = 16
_COLORS = ("$accent", "$h", "$float", "$good")
_LETTERS = "ABCD"


def spec_name(spec: Mapping[str, Any]) -> str:
    """What a set is made of, in one line."""
    steps = f", {spec['steps']} steps" if engine.optimizes(spec["method"]) else ""
    options = "".join(f", {name} {value}" for name, value in dict(spec["options"]).items())
    return f"{spec['model']} · {spec['method']} · {spec['num']} images{steps}, seed {spec['seed']}{options}"


def set_name(entry: Mapping[str, Any]) -> str:
    """A finished set in one line."""
    return f"{spec_name({'options': {}, **entry})} · recognized {percent(entry['recognized']['self'], 0)}"


def choices(model: str | None = None) -> list[tuple[str, str]]:
    """Finished sets for a dropdown: (words, path)."""
    return [(set_name(entry), entry["path"]) for entry in stored.sets(model or "") if model in (None, entry["model"])]


def facts_of(values: Mapping[str, Any]) -> str:
    """What is known of a finished set."""
    recognized = values["recognized"]
    pairs = [(str(values["num"]), "images"), (percent(recognized["self"]), "taken for their class by the model itself")]
    judges = values.get("judges", {}).items()
    pairs += [(percent(share), f"by {name}, which never saw them") for name, share in judges]
    return facts([*pairs, (runner.clock(values["seconds"]), "of computing")])


def recognition(entries: Sequence[Mapping[str, Any]]) -> str:
    """Share of images that are taken for their class, by the model that made them and by the others; for a plot."""
    if len(entries) < 2:
        return nothing(FEW)
    judges = ["itself", *_judges(entries)]
    data, parts = [], []
    for label, color, values in zip(labels(entries), _COLORS, entries, strict=False):
        shares = [values["recognized"]["self"], *(values.get("judges", {}).get(name) for name in judges[1:])]
        data.append(
            {
                "type": "bar", "name": label, "x": judges,
                "y": [None if share is None else 100 * share for share in shares],
                "marker": {"color": color}, "text": [percent(share, 0) for share in shares],
                "textposition": "outside", "cliponaxis": False,
                "hovertemplate": f"{label}, %{{x}}: %{{y:.1f}} %<extra></extra>",
            }
        )  # fmt: skip
        parts.append(f"{label} {percent(shares[0], 0)} by itself")
    layout = {
        "barmode": "group", "yaxis": {"title": {"text": "recognized, %"}, "range": [0, 108]},
        "legend": LEGEND, "xaxis": {"automargin": True}, "margin": {"l": 52, "r": 8, "t": 48, "b": 32},
    }  # fmt: skip
    return figure(data, layout, alt="share of images taken for their class: " + ", ".join(parts), height=270,
                  name="recognition")  # fmt: skip


def labels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each of the sets: A ouro, B noise."""
    return [f"{letter} {values['method']}" for letter, values in zip(_LETTERS, entries, strict=False)]


def side_by_side(entries: Sequence[Mapping[str, Any]], looked_at: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The sets as columns of an HTML table: pictures first, then what is known of each.

    Args:
        looked_at: for each set its row of a report of `ouro.jobs.quality`.
    """
    if len(entries) < 2:
        return ""
    opened = [stored.pictures(values, _SHOWN) for values in entries]
    settings = _settings(entries)
    same = [f"{name.lower()} {cells[0]}" for name, cells in settings if len(set(cells)) == 1]
    rows = [("", [sheet(*one, values["num"]) for one, values in zip(opened, entries, strict=True)])]
    rows += [(name, [html.escape(cell) for cell in cells]) for name, cells in settings if len(set(cells)) > 1]
    rows.append(("Recognized by itself", [percent(values["recognized"]["self"]) for values in entries]))
    for judge in _judges(entries):
        shares = [values.get("judges", {}).get(judge) for values in entries]
        rows.append((f"… by {html.escape(judge)}", [percent(share) for share in shares]))
    rows.append(("Classes", [_spread(values) for values in entries]))
    rows += _worth(looked_at or ())
    rows.append(("Computing", [runner.clock(values["seconds"]) for values in entries]))
    heads = "".join(f'<th scope="col">{html.escape(label)}</th>' for label in labels(entries))
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for name, cells in rows
    )
    note = f'<p class="wb-note">The same in all: {html.escape(", ".join(same))}.</p>' if same else ""
    inner = f'<thead><tr><th scope="col"><span class="wb-unseen">What</span></th>{heads}</tr></thead>'
    width = f"min-width: {190 + 180 * len(entries)}px"
    return (
        f'<div class="wb-scroll"><table class="wb-table wb-sets" style="{width}">{inner}<tbody>{body}</tbody></table>'
        f"</div>{note}"
    )


def _worth(looked_at: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """What the quality report says of each set in one number a row."""
    if not looked_at:
        return []
    rows = [
        ("Feature distance, all pairs", [row["diversity"]["pairwise"] for row in looked_at]),
        ("… pairs of one class", [row["diversity"]["within"] for row in looked_at]),
        ("… pairs of two classes", [row["diversity"]["between"] for row in looked_at]),
        ("Fréchet distance to real", [row["frechet"] for row in looked_at]),
        ("Overlap of ranges with real", [row["overlap"] for row in looked_at]),
        ("Kolmogorov–Smirnov to real", [row["ks"] for row in looked_at]),
        ("Similarity of patches", [row["similarity"] for row in looked_at]),
    ]
    outside = ("Real values out of range", [percent(row["outside"]) for row in looked_at])
    formatted = [(name, ["–" if value is None else f"{value:.3g}" for value in values]) for name, values in rows]
    accuracies = dict.fromkeys(name for row in looked_at for name in row.get("accuracy", {}))
    return [*formatted, outside] + [
        (f"Score, {html.escape(name)}", [percent(row["accuracy"].get(name)) for row in looked_at])
        for name in accuracies
    ]


def _settings(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    return [
        ("Model", [values["model"] for values in entries]),
        ("Method", [engine.generator_titles().get(values["method"], values["method"]) for values in entries]),
        ("Images", [str(values["num"]) for values in entries]),
        ("Steps", [str(values["steps"]) if engine.optimizes(values["method"]) else "none" for values in entries]),
        ("Seed", [str(values["seed"]) for values in entries]),
        ("Options", [_options(values) for values in entries]),
    ]


def _options(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.get("options", {}).items()) or "as they come"


def _judges(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for values in entries for name in values.get("judges", {})))


def _spread(values: Mapping[str, Any]) -> str:
    """How many classes the images were made for, and how many images each has."""
    if engine.model_row(values["model"]).get("task", "classification") != "classification":
        return "several in each image"
    counted = Counter(stored.pictures(values, most=values["num"])[1])
    if not counted or "" in counted:
        return "–"
    few, many = min(counted.values()), max(counted.values())
    each = f"{few} image{'s' if few > 1 else ''}" if few == many else f"{few} to {many} images"
    return f"{len(counted)}, {each} each"


def sheet(images: np.ndarray, names: Sequence[str], count: int) -> str:
    """The first pictures as one list; whoever cannot see them reads what they were made to show."""
    items = "".join(
        f'<li><img alt="{html.escape(name or "no class")}" title="{html.escape(name)}" '
        f'src="{pack.png_url(image.transpose(1, 2, 0))}"></li>'
        for image, name in zip(images, names, strict=True)
    )
    more = f'<span class="wb-note">{len(images)} of {count}</span>' if count > len(images) else ""
    return f'<ul class="wb-sheet">{items}</ul>{more}'
