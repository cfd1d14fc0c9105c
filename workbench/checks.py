"""The gate's outcome, drawn for the page: a row per kernel, how its errors are spread over what is allowed, every case.

Takes rows of `ouro.kernels.gate`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.page import percent, table
from workbench.plot import figure, nothing

COMPUTES = {
    "bidirectional_scan": "Both scans of a Vim block in one launch, added and gated: y = s (y_f + y_b) SiLU(z).",
    "causal_conv": "Convolution over time with SiLU, forwards and backwards, reading x once.",
    "implicit_attention": "Entries of the implicit attention: what the output at one step takes from each input.",
    "norm_quantize": "Residual sum, norm and int8 codes of it in one pass.",
    "outlier_quantizer": "Activations to int8 codes by the dynamic outlier rule: one list per window, read once.",
    "paired_linear": "x_proj of both directions in one launch; dt_proj with its softplus in another.",
    "patched_scan": "The scan with its patched output beside the ordinary one; no state is stored.",
    "quantized_linear": "A linear layer on codes: W8A8, W4A8 or W4A4O8, summed in int32, bias and activation included.",
    "selective_scan": "h_t = exp(Δ_t A) h_(t−1) + Δ_t B_t u_t and y_t = C_t h_t + D u_t, with its gradient.",
}
"""Every kernel and what it computes, in a line."""

LEVELS = ("equal", *(f"{share}\u2009%" for share in ("0.001", "0.01", "0.1", "1", "10", "100")), "more")
"""What `counts` of a row count: values without an error, with one of up to so much of its tolerance, with a larger one."""

NOTHING = "Nothing has been checked yet since the app was started. A small kernel takes seconds."

_WORK = (
    ("bytes", "bytes to and from memory"), ("exps", "exponentials"), ("int8_ops", "int8 operations"),
    ("half_ops", "half precision operations"),
)  # fmt: skip

Row = Mapping[str, Any]


def card(name: str, work: Row) -> str:
    """What a kernel computes and the least that its largest measured call has to do."""
    least = ", ".join(f"{_large(work[key])} {words}" for key, words in _WORK if work[key])
    return (
        f'<p class="wb-note wb-kernel"><b>{html.escape(COMPUTES[name])}</b> The least that {html.escape(work["case"])} has '
        f"to do: {least}. Its mathematics and layout: <code>kernels/{name}/README.md</code></p>"
    )


def where(device: str, interpreted: bool) -> str:
    """Where the kernels ran, and what that is good for."""
    return f"{device}, in Triton's interpreter: right or wrong, never fast" if interpreted else device


def verdict_text(rows: Sequence[Row], over: bool = True) -> str:
    """The finding in a sentence or two, without markup; `over` if no more rows are to come."""
    failed = [row for row in rows if not row["passed"]]
    if failed:
        names = ", ".join(_by_kernel(failed))
        return f"{len(failed)} of {_cases(len(rows))} failed: {names}. No time of a kernel that fails is worth a word."
    worst, counts = max(rows, key=lambda row: row["share"]), _sum(rows)
    passed = f"All {_cases(len(rows))} passed" if over and len(rows) > 1 else f"{_cases(len(rows))} passed"
    said = f"{passed}{'' if over else ' so far'}: {sum(counts):,} values"
    if worst["share"] == 0:
        return f"{said}, all equal to their definition."
    equal = f", {counts[0]:,} of them equal to their definition" if counts[0] else ""
    return (
        f"{said}{equal}. The worst error takes {_share(worst['share'])} of its "
        f"tolerance ({worst['kernel']}, {worst['case']})."
    )


def verdict(rows: Sequence[Row], place: str = "") -> str:
    """`verdict_text` with markup, and where it was, which is known when no more rows are to come."""
    if not rows:
        return ""
    note = f'<p class="wb-note">{html.escape(place)}</p>' if place else ""
    return f'<p class="wb-lead">{html.escape(verdict_text(rows, bool(place)))}</p>{note}'


def summary(rows: Sequence[Row]) -> str:
    """A line per kernel, where there are several."""
    if len(_by_kernel(rows)) < 2:
        return ""
    heads = [("Kernel", False), ("Passed", True), ("Values", True), ("Equal", True), ("Worst error", True),
             ("Of its tolerance", True)]  # fmt: skip
    lines = []
    for name, of_kernel in _by_kernel(rows).items():
        counts, passed = _sum(of_kernel), sum(row["passed"] for row in of_kernel)
        lines.append(
            [
                f"<code>{html.escape(name)}</code>", marked(passed == len(of_kernel), f"{passed} of {len(of_kernel)}"),
                f"{sum(counts):,}", percent(counts[0] / max(1, sum(counts))), _error(_worst(of_kernel, "max_error")),
                _share(_worst(of_kernel, "share")),
            ]
        )  # fmt: skip
    return table(heads, lines)


def chart(rows: Sequence[Row]) -> str:
    """Per kernel the shares of values by their error; what is right of the dotted line does not pass."""
    if not rows:
        return nothing(NOTHING)
    kernels = _by_kernel(rows)
    color = ["$float", *["$accent"] * (len(LEVELS) - 2), "$bad"]
    height, data, axes, titles = 1 / len(kernels), [], {}, []
    for at, (name, of_kernel) in enumerate(kernels.items(), 1):
        counts = _sum(of_kernel)
        parts = [count / max(1, sum(counts)) for count in counts]
        axis, top = f"y{at}" if at > 1 else "y", 1 - (at - 1) * height
        data.append(
            {
                "type": "bar", "x": LEVELS, "y": parts, "yaxis": axis, "marker": {"color": color}, "customdata": counts,
                "text": [_part(part) for part in parts],
                "textposition": "outside", "cliponaxis": False, "textfont": {"color": "$muted", "size": 11},
                "hovertemplate": f"{name}, %{{x}}: %{{customdata:,}} values<extra></extra>", "name": name,
            }
        )  # fmt: skip
        axes[f"yaxis{at if at > 1 else ''}"] = {
            "domain": [top - 0.62 * height, top - 0.2 * height] if len(kernels) > 1 else [0, 0.84], "range": [0, 1.25],
            "showgrid": False, "showticklabels": False, "showline": False, "ticks": "",
        }  # fmt: skip
        titles.append(
            {"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": top, "yanchor": "top", "text": name,
             "showarrow": False, "font": {"size": 12}}
        )  # fmt: skip
    border = len(LEVELS) - 1.5
    layout = {
        **axes, "annotations": titles, "showlegend": False, "bargap": 0.25,
        "xaxis": {"type": "category", "showgrid": False, "anchor": f"y{len(kernels)}" if len(kernels) > 1 else "y",
                  "title": {"text": "error, up to so much of its tolerance"}, "range": [-0.5, len(LEVELS) - 0.5],
                  "tickangle": 0, "tickfont": {"size": 10}, "ticks": ""},
        "shapes": [{"type": "line", "x0": border, "x1": border, "yref": "paper", "y0": 0, "y1": 1,
                    "line": {"color": "$muted", "dash": "dot", "width": 1}}],
        "margin": {"l": 8, "r": 8, "t": 8, "b": 46},
    }  # fmt: skip
    alt = f"errors of {', '.join(kernels)} by their share of the tolerance. {verdict_text(rows)}"
    return figure([*data], layout, alt=alt,
                  height=54 + (176 if len(kernels) == 1 else 80 * len(kernels)), name="gate")  # fmt: skip


def cases(rows: Sequence[Row]) -> str:
    """Every case, those that failed first."""
    if not rows:
        return ""
    several = len(_by_kernel(rows)) > 1
    heads = [("Kernel", False)] * several + [
        ("Case", False), ("Gate", False), ("Worst error", True), ("Of its tolerance", True), ("Values", True)
    ]  # fmt: skip
    lines = [
        [
            *([f"<code>{html.escape(row['kernel'])}</code>"] * several), html.escape(row["case"]),
            marked(row["passed"], "passed" if row["passed"] else html.escape(str(row["complaint"]))),
            _error(row["max_error"]), _share(row["share"]), f"{sum(row['counts']):,}",
        ]
        for row in sorted(rows, key=lambda row: row["passed"])
    ]  # fmt: skip
    return table(heads, lines)


def _by_kernel(rows: Sequence[Row]) -> dict[str, list[Row]]:
    by_kernel: dict[str, list[Row]] = {}
    for row in rows:
        by_kernel.setdefault(row["kernel"], []).append(row)
    return by_kernel


def _sum(rows: Sequence[Row]) -> list[int]:
    return [sum(counts) for counts in zip(*(row["counts"] for row in rows), strict=True)]


def _worst(rows: Sequence[Row], key: str) -> float | None:
    """The largest; None, as JSON has it, is infinity."""
    values = [row[key] for row in rows]
    return None if None in values else max(values)


def _cases(count: int) -> str:
    return f"{count} case{'s' if count != 1 else ''}"


def marked(good: bool, words: str) -> str:
    """Words in the color of what they say; a sign says it to those who see no color."""
    return f'<span class="{"wb-good" if good else "wb-bad"}">{"✓" if good else "✗"} {words}</span>'


def _part(value: float) -> str:
    return "" if value == 0 else "< 0.1\u2009%" if value < 1e-3 else percent(value, 0 if value >= 0.01 else 1)


def _error(value: float | None) -> str:
    return "∞" if value is None else "0" if value == 0 else f"{value:.1e}".replace("-", "−")


def _share(value: float | None) -> str:
    if value is None:
        return "∞"
    return "0" if value == 0 else f"{100 * value:.2g}\u00a0%" if value >= 1e-5 else "< 0.001\u00a0%"


def _large(value: float) -> str:
    """235722752 -> "236 million"."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:g}"
