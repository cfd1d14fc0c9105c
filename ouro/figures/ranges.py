"""What a static range is worth by how wide it is: sets of images beside real ones whose ranges are made narrower.

Takes the `values` of a report of `ouro.jobs.bench.ranges`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ouro.figures.palette import cycle

Values = Mapping[str, Any]


def paper(values: Values) -> Figure:
    """Matplotlib: per bit width, top-1 over the width of the ranges; a line for real images times a factor, a point per set.

    Raises:
        ValueError: no rows.
    """
    rows = values["rows"]
    if not rows:
        raise ValueError("there is nothing to draw: give at least one row")
    widths = list(dict.fromkeys(row["bits"] for row in rows))
    sets = [calib for calib in dict.fromkeys(row["calib"] for row in rows) if calib != "real"]
    figure = Figure(figsize=(3.1 * len(widths) + 0.4, 2.8), layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False, sharey=True)[0]
    for panel, bits in zip(panels, widths, strict=True):
        same = sorted(
            (row for row in rows if (row["bits"], row["calib"]) == (bits, "real")), key=lambda row: row["width"]
        )
        panel.errorbar([row["width"] for row in same], [100 * row["top1"] for row in same], _reach(same), fmt="o-", ms=3,
                       lw=1, capsize=2, color="#444444", label="real, times a factor")  # fmt: skip
        for calib, color in zip(sets, cycle(len(sets)), strict=True):
            (row,) = (row for row in rows if (row["bits"], row["calib"]) == (bits, calib))
            panel.errorbar([row["width"]], [100 * row["top1"]], _reach([row]), fmt="s", ms=5, capsize=2, color=color,
                           label=calib)  # fmt: skip
        panel.set_title(bits, fontsize=9)
        panel.set_xlabel("range / range of real images", fontsize=8)
    panels[0].set_ylabel("top-1, %", fontsize=8)
    panels[0].legend(fontsize=7)
    figure.suptitle(f"{values['model']}, {values['method']}, n = {values['n']}", fontsize=9)
    return figure


def alt(values: Values) -> str:
    """The best row of every bit width."""
    said = []
    for bits in dict.fromkeys(row["bits"] for row in values["rows"]):
        best = max((row for row in values["rows"] if row["bits"] == bits), key=lambda row: row["top1"])
        times = "" if best["factor"] == 1 else f" times {best['factor']:g}"
        said.append(f"at {bits} ranges of {best['calib']}{times} are best with {100 * best['top1']:.1f} %")
    return f"Top-1 of {values['model']} under {values['method']} by the width of its ranges: {'; '.join(said)}."


def _reach(rows: list[Mapping[str, Any]]) -> list[list[float]]:
    """How far the intervals reach below and above, in percent."""
    return [
        [100 * (row["top1"] - row["ci95"][0]) for row in rows],
        [100 * (row["ci95"][1] - row["top1"]) for row in rows],
    ]
