"""Fills the tables of pages from the stored results: `ouro paper render`; nothing is typed by hand.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; each names the command that made its file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ouro.figures.state import RULES
from ouro.metrics import METRICS, metric_of
from ouro.paper import ledger, real
from ouro.paper.headlines import headlines
from ouro.paper.markdown import RESULTS, ROOT, Rows, load, made, markdown, measured, share, title
from ouro.paper.speed import alpha_cpu, fused_reference, gpu, packed, scan_cpu
from ouro.registry import QUANTIZERS
from ouro.store import write_bytes

PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
"""What has tables: the front page the headlines, the other all of them."""
LEDGER = ROOT / "results" / "PAPER.md"
SOURCES = {"h": "h", "h_p": "h_p", "delta": "Δ"}


def zoo() -> str | None:
    """Embedded models, from their cards."""
    cards = [json.loads(path.read_text()) for path in sorted((ROOT / "ouro/models/weights").glob("*.json"))]
    rows: Rows = [
        (
            f"`{card['model']}`", card["data"], f"{card['parameters']:,}", card["steps"],
            f"{card['train_seconds'] / 60:.0f}", card["processor"], METRICS[metric_of(card)].title,
            real.scored(METRICS[metric_of(card)], card[metric_of(card)], card["ci95"]), card["n"],
        )
        for card in cards
    ]  # fmt: skip
    head = ("model", "data", "parameters", "training steps", "minutes", "on", "score", "held-out", "n")
    return "`ouro train NAME`.\n\n" + markdown(head, rows, 2) if cards else None


def attention() -> str | None:
    """AUROC per layer: every source, both directions merged."""
    values = load("attention_vim_nano.json")
    if values is None:
        return None
    rows = [row for row in values["table"] if row["direction"] == "both"]
    columns = list(dict.fromkeys((row["reduction"], row["source"]) for row in rows))
    columns.sort(key=lambda pair: (pair[1] == "delta", pair[0]))
    cells_at = {(row["layer"], row["reduction"], row["source"]): row for row in rows}
    table: Rows = []
    for layer in sorted({row["layer"] for row in rows}):
        cells = [cells_at[(layer, *column)] for column in columns if (layer, *column) in cells_at]
        table.append([layer, *(f"{c['auroc']:.2f} ({c['auroc_lo']:.2f} to {c['auroc_hi']:.2f})" for c in cells)])
    head = ["layer", *("Δ" if source == "delta" else f"{SOURCES[source]} {name}" for name, source in columns)]
    command = f"ouro attention {values['model']} --n {values['n']} --json"
    return made(values, command) + markdown(head, table)


def _cell(row: dict[str, Any]) -> str:
    """Mean and spread over seeds; one seed has no spread."""
    return share(row["top1"]) + (f" ± {100 * row['spread']:.1f}" if row["seeds"] > 1 else "")


def quantization() -> str | None:
    """Top-1 by method and bits, one block of rows per calibration set."""
    values = load("quantization_vim_nano.json")
    if values is None:
        return None
    rows = values["rows"]
    bits = list(dict.fromkeys(row["bits"] for row in rows))
    table: Rows = []
    for calib in dict.fromkeys(row["calib"] for row in rows):
        for method in dict.fromkeys(row["method"] for row in rows):
            by_bits = {row["bits"]: row for row in rows if row["calib"] == calib and row["method"] == method}
            cells = [_cell(by_bits[b]) if b in by_bits else "" for b in bits]
            last = by_bits.get("w4a4o8")
            effective = "" if last is None else f"{last['effective_bits']['activations']:.2f}"
            table.append([calib, title(method), *cells, effective])
    head = ["calibration", "method", *(b.upper().replace("O", " (O") + (")" if "o" in b else "") for b in bits)]
    head.append("effective A bits at W4A4")
    seeds = len(values["seeds"])
    note = (
        f"Top-1 in %, {f'mean ± standard deviation over {seeds} seeds' if seeds > 1 else 'one seed'}, "
        f"n = {values['n']} held-out scenes each, scope "
        f"`{values['scope']}`. Float model: {share(values['fp_top1'], values['fp_ci95'])}. (O8) and (O16) apply to "
        "OuroMamba-Quant only: the others have no outlier rule.\n\n"
    )
    return (
        made(values, f"ouro bench quantization vim_nano --seeds {seeds} --limit {values['n']}")
        + note
        + markdown(head, table, 2)
    )


def methods() -> str | None:
    """Every method: on vim_nano over scopes and sets, then on the other models."""
    values = load("methods_zoo.json")
    if values is None:
        return None
    cells: dict[tuple[str, str, str, str, str], dict[str, Any]] = {}
    floats: dict[str, float] = {}
    for one in values["tables"]:
        floats[one["model"]] = one["fp_top1"]
        for row in one["rows"]:
            cells[one["model"], one["scope"], row["bits"], row["calib"], row["method"]] = row
    known = [name for name in QUANTIZERS if any(key[4] == name for key in cells)]
    columns = [
        ("lin", "w8a8", "real"), *(("lin", "w4a4o8", calib) for calib in ("noise", "synthetic", "real")),
        ("rec", "w8a8", "real"), ("rec", "w4a4o8", "real"),
    ]  # fmt: skip
    first: Rows = []
    for name in known:
        row_cells = [cells.get(("vim_nano", *column, name)) for column in columns]
        last = cells.get(("vim_nano", "lin", "w4a4o8", "real", name))
        last_cells = ("", "") if last is None else (
            f"{last['effective_bits']['activations']:.2f}", f"{last['calibration_seconds']:.0f}"
        )  # fmt: skip
        first.append([title(name), *("" if row is None else _cell(row) for row in row_cells), *last_cells])
    head = ["method", *(f"{scope} {bits.upper()[:4]}, {calib}" for scope, bits, calib in columns)]
    head += ["A bits at lin W4A4", "seconds"]
    others = [name for name in floats if name != "vim_nano"]
    second: Rows = []
    for name in known:
        row_cells = [
            cells.get((model, scope, bits, calib, name))
            for model in others
            for scope, bits, calib in (
                ("lin", "w4a4o8", "synthetic"),
                ("lin", "w4a4o8", "real"),
                ("rec", "w8a8", "real"),
            )
        ]
        if any(row_cells):
            second.append([title(name), *("" if row is None else share(row["top1"]) for row in row_cells)])
    words = [f"{model}: {what}" for model in others for what in ("W4A4, synthetic", "W4A4, real", "rec W8A8, real")]
    counts = {one["n"] for one in values["tables"]}
    note = (
        f"vim_nano (float {share(floats['vim_nano'])}), top-1 in %, 32 calibration images, n = {max(counts)}; mean ± "
        "standard deviation where there are three seeds. Outliers have 8 bits (OuroMamba-Quant only), the recurrence 8.\n\n"
    )
    origin = made(values, "ouro bench methods --out results/methods_zoo.csv")
    text = origin + note + markdown(head, first)
    if second:
        shares = ", ".join(f"{model} {share(floats[model])}" for model in others)
        text += f"\n\nThe other embedded models, one seed; float: {shares}.\n\n" + markdown(["method", *words], second)
    return text


def kscale() -> str | None:
    """W8A8 of everything, hidden state included, against the paper's band."""
    studies = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("kscale_full_*.json"))]
    rows: Rows = [
        (f"`{one['model']}`", row["calib"], share(one["fp_top1"]), _cell(row),
         f"{100 * (one['fp_top1'] - row['top1']):+.1f}", one["n"])
        for one in studies for row in one["rows"]
    ]  # fmt: skip
    if not studies:
        return None
    command = "ouro bench quantization MODEL --method kscale --bits w8a8 --scope full --calib real=real:128 --limit 500"
    return made(studies[0], command) + markdown(
        ("model", "calibration", "float", "k-scaled W8A8, scope full", "points lost", "n"), rows, 2
    )


def state() -> str | None:
    """Errors of the hidden state by rule and width."""
    values = load("state_vim_nano.json")
    if values is None:
        return None
    rows: Rows = [
        (RULES[row["rule"]], row["bits"], f"{row['h_error']:.3f}", f"{row['y_error']:.1e}",
         f"{row['layers_better_than_tensor']} of {row['layers']}", f"{row['layers_better_than_step']} of {row['layers']}")
        for row in values["means"]
    ]  # fmt: skip
    head = ("step of h", "bits", "error of h", "1 - cos y", "layers better than per tensor", "than per time step")
    return made(values, "ouro bench state vim_nano") + markdown(head, rows)


def budget() -> str | None:
    """Uniform widths against searched ones."""
    values = load("budget_vim_nano.json")
    if values is None:
        return None
    rows: Rows = [
        (
            f"uniform {row['widths'][0]}" if len(row["widths"]) == 1 else f"budget {row['budget']:g}",
            f"{row['mean_bits']['weights']:.2f} / {row['mean_bits']['activations']:.2f}", f"{row['predicted_kl']:.3f}",
            f"{row['measured_kl']:.3f}", share(row["top1"], row["ci95"]),
        )
        for row in values["rows"]
    ]  # fmt: skip
    made = f"`{values['commands'][0]}`; n = {values['rows'][0]['n']}, one seed.\n\n"
    return made + markdown(("widths", "mean bits W / A", "predicted KL", "measured KL", "top-1, %"), rows)


def calibration() -> str | None:
    """How well two models recognize the synthetic sets."""
    sets = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("generate_vim_nano_*.json"))]
    if not sets:
        return None
    judges = list(sets[0]["judges"])
    rows: Rows = [
        (
            entry["seed"], entry["num"], entry["steps"], entry["options"].get("features", "y_p"),
            f"{entry['seconds'] / 60:.1f}", share(entry["recognized"]["self"]),
            *(share(entry["judges"].get(name)) for name in judges),
        )
        for entry in sets
    ]  # fmt: skip
    head = ("seed", "images", "steps", "features", "minutes", "recognized by vim_nano, %")
    named = (*head, *(f"by {name}, %" for name in judges))
    return made(sets[0], "ouro generate vim_nano --num 128 --seed SEED") + markdown(named, rows)


def ablations() -> str | None:
    """Every study of generation: top-1 by variant and measure, and what is seen of the paper's orderings."""
    files = [load(path.name) for path in sorted(RESULTS.glob("ablations_*.json")) if "parts" not in path.name]
    return "\n\n".join(_studies(values) for values in files if values) or None


def _studies(values: dict[str, Any]) -> str:
    measures = values["measures"]
    parts = []
    for study in values["studies"]:
        rows: Rows = [
            (
                row["label"], row["num"], "" if row["recognized"] is None else share(row["recognized"]["mean"]),
                *(f"{100 * row['top1'][key]['mean']:.1f} ± {100 * row['top1'][key]['spread']:.1f}" for key in measures),
            )
            for row in study["rows"]
        ]  # fmt: skip
        verdicts = ("yes", "no", "not resolved")
        seen = {word: [claim for claim in study["claims"] if claim["seen"] == word] for word in verdicts}
        claims = "; ".join(f"{word}: {', '.join(map(_claim, group))}" for word, group in seen.items() if group)
        head = (study["title"], "images", "recognized by the model, %", *map(measured, measures))
        words = f"`{study['model']}`, {study['title'].lower()} ({study['source']} of the paper), n = {study['n']}"
        parts.append(f"{words}.\n\n{markdown(head, rows)}\n\nThe paper's orderings: {claims}.")
    command = f"{real.ablation_command(values)} --out results/ablations_{values['studies'][0]['model']}.json"
    return made(values, command) + "\n\n".join(parts)


def _claim(claim: dict[str, Any]) -> str:
    low, high = (100 * end for end in claim["ci95"])
    gap = f"{100 * claim['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"{claim['better']} over {claim['worse']}, {measured(claim['measure'])} {gap}"


def neighborhoods() -> str | None:
    """h against h_p: layers won and lost per family and window, and the best row of each."""
    values = load("neighborhoods.json")
    if values is None:
        return None
    rows: Rows = []
    for one in values["models"]:
        for source, best in one["best"].items():
            gains = [row["gain"] for row in one["rows"] if row["source"] == source and row["gain"]]
            counts = [sum(gain["seen"] == word for gain in gains) for word in ("better", "worse", "not resolved")]
            mean = f"{sum(gain['mean'] for gain in gains) / len(gains):+.3f}" if gains else ""
            where = f"{best['auroc']['mean']:.3f} (layer {best['layer']}, {best['reduction']})"
            best_cells = (f"{best['pointing']['mean']:.2f}", f"{best['leakage']['mean']:.2f}")
            rows.append((f"`{one['model']}`", source, *(counts if gains else ("", "", "")), mean, where, *best_cells))
    head = ("model", "map of", "better than h", "worse", "not resolved", "mean gain in AUROC", "best AUROC",
            "pointing there", "leakage there")  # fmt: skip
    note = (
        f"First {values['n']} held-out scenes. Counts are of (layer, reduction) with reductions *received* and *given*; better or "
        "worse where the 95 % interval of the paired difference in AUROC excludes zero. Best rows are picked after the fact.\n\n"
    )
    return made(values, f"ouro bench attention --n {values['n']}") + note + markdown(head, rows, 2)


def quality() -> str | None:
    """Sets of images side by side."""
    studies = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("quality_*.json"))]
    if not studies:
        return None
    measures = list(studies[0]["rows"][0]["accuracy"])
    rows: Rows = [
        (
            f"`{one['model']}`", row["label"], row["n"],
            share(row["recognized"]["itself"]) if row["recognized"] else "",
            ", ".join(f"`{name}` {share(part)}" for name, part in row["recognized"].items() if name != "itself"),
            f"{row['diversity']['pairwise']:.3f}", f"{row['frechet']:.1f}", share(row["overlap"]), f"{row['ks']:.3f}",
            f"{row['similarity']:.2f}", *(share(row["accuracy"].get(key)) for key in measures),
        )
        for one in studies for row in one["rows"]
    ]  # fmt: skip
    head = ("model", "set", "images", "recognized by itself, %", "by others, %", "feature distance", "Fréchet",
            "range overlap, %", "KS", "patch cosine", *map(measured, measures))  # fmt: skip
    commits = ", ".join(dict.fromkeys(one["commit"] for one in studies))
    return made(studies[0] | {"commit": commits}, "ouro quality MODEL") + markdown(head, rows, 2)


def parity() -> str | None:
    """Every family against its official code."""
    values = load("parity.json")
    if values is None:
        return None
    rows: Rows = [(f"`{row['model']}`", f"{row['largest']:.1e}", f"{row['size']:.1f}") for row in values["rows"]]
    return made(values, "python -m tests.parity") + markdown(("model", "largest difference", "largest output"), rows)


TABLES: dict[str, Callable[[], str | None]] = {
    "headlines": headlines,
    "parity": parity,
    "zoo": zoo,
    "attention": attention,
    "quantization": quantization,
    "methods": methods,
    "quantization-real": real.quantization,
    "ranges": real.ranges,
    "equal": real.equal,
    "parts": real.parts,
    "tasks": real.tasks,
    "kscale": kscale,
    "state": state,
    "budget": budget,
    "packed": packed,
    "calibration": calibration,
    "quality": quality,
    "ablations": ablations,
    "neighborhoods": neighborhoods,
    "alpha-cpu": alpha_cpu,
    "scan-cpu": scan_cpu,
    "fused-reference": fused_reference,
    "gpu": gpu,
    "ledger": ledger.table,
}


def _filled(body: str, match: re.Match[str]) -> str:
    return f"{match[1]}\n{body}\n<!-- end -->"


def render(text: str, tables: Mapping[str, Callable[[], str | None]] = TABLES) -> str:
    """A page's text with every table of its own made anew; one without a stored result says so."""
    for name, make in tables.items():
        # a marker without an end is a table that is not there yet, and must not run into the next one
        pattern = re.compile(rf"(<!-- table: {name} -->)(?:(?:(?!<!-- table: ).)*?<!-- end -->)?", re.DOTALL)
        if pattern.search(text):
            # not as a template: a body may hold backslashes
            text = pattern.sub(partial(_filled, make() or "Not measured yet."), text)
    return text


def write() -> list[Path]:
    """Makes the tables of the pages and the ledger, point by point, anew; the files that were written.

    Raises:
        ValueError: this is no checkout.
    """
    if missing := [path for path in PAGES if not path.is_file()]:
        raise ValueError(f"there is no {missing[0]}: the tables are made in a checkout")
    texts = {path: render(path.read_text("utf-8")) for path in PAGES} | {LEDGER: ledger.page()}
    return [write_bytes(path, text.encode()) for path, text in texts.items()]


if __name__ == "__main__":
    write()
