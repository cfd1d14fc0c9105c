"""Tables of what was timed: packed models, patched attention and the scan on a CPU, whole models on kernels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ouro.paper.markdown import RESULTS, Rows, load, made, markdown, share


def packed() -> str | None:
    """Latency of packed models against float32, and where it goes."""
    files = [values for name in ("vim_nano", "vim_small_patch16_224") if (values := load(f"packed_cpu_{name}.json"))]
    if not files:
        return None
    rows: Rows = [
        (
            f"`{values['model']}`", row["op"], row["backend"], *(f"{row[key]:.1f}" for key in ("p20_ms", "p50_ms", "p80_ms")),
            f"{row['ratio']:.2f}x", *(f"{row['parts'][part]:.1f}" for part in ("linear", "scan", "convolution", "norm", "rest")),
        )
        for values in files
        for row in values["rows"]
    ]  # fmt: skip
    head = (
        "model",
        "what",
        "by",
        "p20 ms",
        "p50 ms",
        "p80 ms",
        "ratio",
        "linear",
        "scan",
        "convolution",
        "norm",
        "rest",
    )
    return made(files[-1], "ouro bench packed MODEL") + markdown(head, rows, 3)


def alpha_cpu() -> str | None:
    """The compiled patched attention against its plain forms."""
    values = load("alpha_cpu.json")
    if values is None:
        return None
    rows: Rows = [
        (row["op"], row["case"], row["backend"], *(f"{row[key]:.1f}" for key in ("p20_ms", "p50_ms", "p80_ms")),
         f"{row['ratio']:.3g}x")
        for row in values["rows"]
    ]  # fmt: skip
    note = f"Per image, scan and block; gate passed with a largest relative error of {values['gate']['max_error']:.1e}.\n\n"
    head = ("what", "case", "form", "p20 ms", "p50 ms", "p80 ms", "ratio")
    return made(values, "ouro bench alpha") + note + markdown(head, rows, 3)


def scan_cpu() -> str | None:
    """The compiled scan against the loop."""
    values = load("scan_cpu.json")
    if values is None:
        return None
    models = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("model_cpu_*.json"))]
    timed = [*values["rows"], *(row for model in models for row in model["rows"])]
    rows: Rows = [
        (
            row["op"].replace("model", row["case"]), row["backend"],
            *(f"{row[key]:.2f}" for key in ("p20_ms", "p50_ms", "p80_ms")), f"{row['ratio']:.3g}x", f"{row['peak_mb']:.1f}",
        )
        for row in timed if "p50_ms" in row
    ]  # fmt: skip
    failed = [
        f"{row['case']}, {row['backend']}: {row.get('failed', 'its gate')}" for row in timed if "p50_ms" not in row
    ]
    note = (
        f"Scan: {values['rows'][0]['case']}, {values['threads']} threads; gate passed with a largest relative error of "
        f"{values['gate']['max_error']:.1e}; exponential within {values['exp_max_ulp']:.2f} ulp; operands "
        f"{values['inputs_mb']} MB. Ratios are to the loop over tokens (`reference`).\n\n"
    )
    strongest = [(op, one) for file in (values, *models) for op, one in _strongest(file)]
    said = "".join(
        f"\n\n{op}: the fastest beside ours is {one['peer']} with {one['p50_ms']:.1f} ms; ours is **{one['ratio']:.1f}x** as fast."
        for op, one in strongest
    )
    said += "".join(f"\n\nFailed: {line}." for line in failed)
    head = ("what", "backend", "p20 ms", "p50 ms", "p80 ms", "ratio", "peak extra MB")
    return made(values, "ouro bench scan", "ouro bench model MODEL") + note + markdown(head, rows, 2) + said


def _strongest(file: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what was timed, the fastest beside ours) of one file."""
    for op, one in file.get("strongest", {}).items():
        yield op.replace("model", f"`{file['rows'][0]['case']}`"), one


def fused_reference() -> str | None:
    """Fused Vims by the references of their kernels, against the models they were made from, on trained models."""
    files = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("fused_reference_*.json"))]
    if not files:
        return None
    rows: Rows = [
        (f"`{values['model']}`", one["format"], share(one["agreement"]), f"{one['error']:.3f}", share(one["top1"]),
         share(one["yardstick_top1"]), f"{one['lost']} / {one['won']}", "passed" if one["passed"] else one["complaint"])
        for values in files for one in values["gates"]
    ]  # fmt: skip
    head = ("model", "format", "same top-1 as simulated, %", "logits away from it", "top-1 of the float model, %", "simulated, %",
            "lost / won", "gate")  # fmt: skip
    command = f"python -m ouro.jobs.bench.fused_reference MODEL {files[0]['n']}"
    return made(files[0], command) + markdown(head, rows, 2)


def gpu() -> str | None:
    """A whole Vim on the GPU: every implementation by batch size, the peers first, and the gates that failed."""
    files = [
        file for path in sorted(RESULTS.glob("model_*_nvidia_*.json")) if (file := json.loads(path.read_text()))["rows"]
    ]
    if not files:
        return None
    parts = []
    for device, model in dict.fromkeys((file["device"], file["model"]) for file in files):
        chosen = [file for file in files if (file["device"], file["model"]) == (device, model)]
        # the run that missed no peer is a comparison whole; what only another has is added
        chosen.sort(key=lambda file: len(file["missing"]))
        times: dict[tuple[str, str], dict[int, float]] = {}
        for file in chosen:
            for row in file["rows"]:
                times.setdefault((row["backend"], row["format"]), {}).setdefault(row["b"], row["p50_ms"])
        batches = sorted({b for row in times.values() for b in row})
        rows: Rows = [
            (backend, name, *(f"{at[b]:.2f}" if b in at else "" for b in batches))
            for (backend, name), at in times.items()
        ]
        failed = {gate["format"]: gate["complaint"] for file in chosen for gate in file["gates"] if not gate["passed"]}
        said = "".join(
            f"\n\n{name} {'is unverified' if ('fused', name) in times else 'was not timed'}, its gate failed: {complaint}."
            for name, complaint in failed.items()
        )
        versions = ", ".join(f"{name} {version}" for name, version in chosen[0]["versions"].items())
        head = ("implementation", "format", *(f"b={b}, p50 ms" for b in batches))
        made_by = made(chosen[0], f"ouro bench model {model} --backend triton --b {','.join(map(str, batches))}")
        parts.append(made_by + f"{versions}.\n\n" + markdown(head, rows, 2) + said)
    return "\n\n".join([*parts, *_gates()])


def _gates() -> Iterator[str]:
    """Cases of every kernel that passed on a device, and the worst of what the others failed by."""
    for path in sorted(RESULTS.glob("gates_*.json")):
        values = json.loads(path.read_text())
        rows: Rows = []
        for name in dict.fromkeys(row["kernel"] for row in values["gates"]):
            cases = [row for row in values["gates"] if row["kernel"] == name]
            failed = [row for row in cases if not row["passed"]]
            first = f"{failed[0]['case']}: {failed[0]['complaint']}" if failed else ""
            rows.append((f"`{name}`", first, len(cases), len(cases) - len(failed)))
        head = ("kernel", "first case that failed", "cases", "passed")
        yield made(values, "ouro bench gates") + markdown(head, rows, 2)
