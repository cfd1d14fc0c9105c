"""Tables on accuracy with intervals over seeds and images: sets, ranges, equal bits, parts of the quantizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ouro.metrics import METRICS, Metric
from ouro.paper.markdown import RESULTS, Rows, load, made, markdown, measured, share, title
from ouro.paper.verdict import MAIN

Values = Mapping[str, Any]


def quantization() -> str | None:
    """Top-1 by set, method and bits on real images, and what one set is worth more than another."""
    values = load(f"quantization_{MAIN}.json")
    if values is None:
        return None
    rows = values["rows"]
    bits = list(dict.fromkeys(row["bits"] for row in rows))
    at = {(row["calib"], row["method"], row["bits"]): row for row in rows}
    table: Rows = []
    for calib, method in dict.fromkeys((row["calib"], row["method"]) for row in rows):
        cells = [at.get((calib, method, width)) for width in bits]
        effective = [f"{cell['effective_bits']['activations']:.2f}" for cell in cells if cell]
        tops = ["" if cell is None else share(cell["top1"], cell["ci95"]) for cell in cells]
        table.append([calib, title(method), *tops, ", ".join(effective)])
    head = ["calibrated on", "method", *(width.upper() for width in bits), "mean bits of activations"]
    note = (
        f"`{values['model']}`, top-1 in % with 95 % intervals over {seeds(values)} and {values['n']} held-out images, "
        f"scope `{values['scope']}`; float model: {share(values['fp_top1'], values['fp_ci95'])}.\n\n"
    )
    named: Rows = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for one, other in (("synthetic", "noise"), ("synthetic", "real"), ("noise", "real")):
            gaps = [_between(values["pairs"], method, width, one, other) for width in bits]
            if any(gaps):
                named.append([title(method), f"{one} over {other}", *gaps])
    words = "\n\nDifferences on the same images, in points:\n\n"
    second = markdown(["method", "sets", *(width.upper() for width in bits)], named, 2)
    return (
        made(values, *_commands(values, values["model"], "quantization"))
        + note
        + markdown(head, table, 2)
        + words
        + second
    )


def ranges() -> str | None:
    """What ranges of different sets lose, and real ones made narrower."""
    every = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("ranges_*.json"))]
    if not every:
        return None
    table: Rows = []
    for values in every:
        gaps = {(pair["bits"], pair["better"]["calib"], pair["better"]["factor"]): pair for pair in values["pairs"]}
        for row in values["rows"]:
            named = row["calib"] if row["factor"] == 1 else f"{row['calib']} × {row['factor']:g}"
            pair = gaps.get((row["bits"], row["calib"], row["factor"]))
            losses = [share(row[key]) for key in ("clipped", "clipping", "rounding")]
            table.append([f"`{values['model']}`", row["bits"].upper(), named, f"{row['width']:.2f}", share(row["top1"], row["ci95"]),
                          "" if pair is None else points(pair), *losses])  # fmt: skip
    first = every[0]
    head = ["model", "bits", "ranges of", "width", "top-1, %", "ahead of real, points", "clipped, %", "lost by clipping, %",
            "lost by rounding, %"]  # fmt: skip
    note = (
        f"{title(first['method'])}, {seeds(first)}. *Width*: range over that of real images, median over tensors. *Lost*: squared "
        "error over the tensor's sum of squares, median over tensors, on held-out images.\n\n"
    )
    return made(first, "ouro bench ranges MODEL") + note + markdown(head, table, 3)


def equal() -> str | None:
    """Methods at the same mean bits."""
    every = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("equal_*.json"))]
    if not every:
        return None
    place = ("scope", "wide_A", "target")
    table: Rows = []
    for values in every:
        gaps = {(*(pair[key] for key in place), pair["worse"]): pair for pair in values["pairs"]}
        for row in values["rows"]:
            pair = gaps.get((*(row[key] for key in place), row["method"]))
            scope = f"`{row['scope']}`" + (", A at 8 bits" if row["wide_A"] else "")
            table.append([f"`{values['model']}`", scope, f"{row['target']:g}", title(row["method"]), f"{row['bits']:.2f}",
                          share(row["top1"], row["ci95"]), "" if pair is None else points(pair)])  # fmt: skip
    first = every[0]
    ahead = title(first["rows"][0]["method"])
    head = [
        "model",
        "scope",
        "target",
        "method",
        "mean bits of activations",
        "top-1, %",
        f"{ahead} is ahead by, points",
    ]
    counts = sorted({f"{values['model']}: {seeds(values)}, n = {values['n']}" for values in every})
    note = f"W4, calibrated on {first['calib']}; {'; '.join(counts)}.\n\n"
    return made(first, "ouro bench equal MODEL") + note + markdown(head, table, 4)


def parts() -> str | None:
    """Parts of the quantizer, and the refresh period of its list."""
    values = load(f"ablations_parts_{MAIN}.json")
    if values is None:
        return None
    texts = []
    for study in values["studies"]:
        (key,) = study["rows"][0]["top1"]
        rows: Rows = [
            (row["label"], f"{row['activation_bits'][key]:.2f}", _mean(row["top1"][key])) for row in study["rows"]
        ]
        claims = [f"{claim['better']} over {claim['worse']}: {points(claim)}" for claim in study["claims"]]
        head = (f"{study['title'].lower()}, {measured(key)}", "mean bits of activations", "top-1, %")
        texts.append(f"{markdown(head, rows)}\n\nDifferences on the same images, in points: {'; '.join(claims)}.")
    first = values["studies"][0]
    note = f"`{first['model']}`, {first['num']} synthetic images, {values['seeds']} seeds, n = {first['n']}.\n\n"
    return made(values, ablation_command(values)) + note + "\n\n".join(texts)


def ablation_command(values: Values) -> str:
    """What `ouro bench ablations` was asked."""
    first = values["studies"][0]
    studies = [f"--study {study['study']}" for study in values["studies"]]
    measures = [f"--measure {measure.replace(' ', ':')}" for measure in values["measures"]]
    sizes = f"--limit {first['n']} --seeds {values['seeds']}"
    return " ".join(["ouro bench ablations", first["model"], *studies, f"--num {first['num']}", *measures, sizes])


def tasks() -> str | None:
    """Segmentation, detection and diffusion: the score of every method and width, by set."""
    every = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("tasks_*.json"))]
    if not every:
        return None
    table: Rows = []
    for values in every:
        name = values["metric"]
        metric, bits = METRICS[name], list(dict.fromkeys(row["bits"] for row in values["rows"]))
        at = {(row["calib"], row["method"], row["bits"]): row for row in values["rows"]}
        exact = scored(metric, values[f"fp_{name}"], values["fp_ci95"])
        table.append([f"`{values['model']}`", metric.title, "float", "", exact, exact, exact])
        for calib, method in dict.fromkeys((row["calib"], row["method"]) for row in values["rows"]):
            cells = [at.get((calib, method, width)) for width in bits]
            scores = ["" if cell is None else scored(metric, cell[name], cell["ci95"]) for cell in cells]
            table.append(["", "", title(method), calib, *scores])
    first = every[0]
    counts = "; ".join(f"{values['model']}: {seeds(values)}, n = {values['n']}" for values in every)
    head = ["model", "score", "method", "calibrated on", *(width.upper() for width in ("w8a8", "w4a8o16", "w4a4o8"))]
    note = (
        f"Scope `{first['scope']}` (linear layers of the backbone), 95 % intervals over images and seeds; {counts}. The Fréchet "
        "distance is that of features of `vim_nano_digits`, smaller is better; it is no FID.\n\n"
    )
    return made(first, *_commands(first, "MODEL", "tasks")) + note + markdown(head, table, 4)


def _commands(values: Values, model: str, table: str) -> list[str]:
    """What `ouro bench quantization` was asked, and what extended the table afterwards."""
    first, *later = (_command(spec, model) for spec in values.get("specs", [values["spec"]]))
    return [first, *(f"{command} --extend results/{table}_{model}.json" for command in later)]


def _command(spec: Values, model: str) -> str:
    options = [f"--method {method}" for method in spec["methods"]]
    options += [f"--bits {width}" for width in spec["bits"]]
    options += [f"--calib {label}={calib}" for label, calib in spec["calibs"]]
    return f"ouro bench quantization {model} {' '.join(options)} --seeds {len(spec['seeds'])} --limit {spec['limit']}"


def scored(metric: Metric, value: float, ends: Sequence[float]) -> str:
    """A score with its interval."""
    if metric.share:
        return share(value, ends)
    return f"{value:.3g} ({ends[0]:.3g} to {ends[1]:.3g})"


def seeds(values: Values) -> str:
    """How many seeds a run had."""
    count = len(values["seeds"])
    return f"{count} seed{'s' * (count > 1)}"


def points(pair: Values) -> str:
    """A difference in points with its interval."""
    low, high = (100 * end for end in pair["ci95"])
    return f"{100 * pair['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def _mean(cell: Values) -> str:
    return f"{100 * cell['mean']:.1f} ± {100 * cell['spread']:.1f}"


def _between(pairs: Sequence[Values], method: str, bits: str, one: str, other: str) -> str:
    for pair in pairs:
        better, worse = pair["better"], pair["worse"]
        if pair["bits"] == bits and better["method"] == worse["method"] == method:
            if (better["calib"], worse["calib"]) == (one, other):
                return points(pair)
            if (better["calib"], worse["calib"]) == (other, one):
                turned = {"difference": -pair["difference"], "ci95": [-end for end in reversed(pair["ci95"])]}
                return points(turned)
    return ""
