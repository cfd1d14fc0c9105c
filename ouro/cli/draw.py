"""What a person sees of a report: values in, lines and rich tables out; no job inside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ouro.figures.words import words
from ouro.metrics import METRICS, damaged, metric_of, shown_score

Values = dict[str, Any]
Drawn = Iterator[RenderableType]

_FURTHER = {"pixel_accuracy": "pixels", "ap50": "AP50", "ap75": "AP75", "recognized": "recognized by the judge"}
"""Scores beside the main one -> what they are called."""


def percent(value: float | None) -> str:
    """0.943 -> "94.3 %"."""
    return "-" if value is None else f"{100 * value:.1f} %"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "name", "what") else "right")
    return table


def _filled(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = _table(title, *columns)
    for row in rows:
        table.add_row(*row)
    return table


# ---- models and machine ------------------------------------------------------------------------------------------


def models(rows: Sequence[Values]) -> Drawn:
    """Every model with what is known of its weights."""
    cells = (
        (
            row["name"], row["family"], "x".join(map(str, row["input_size"])), f"{row['parameters']:,}", row["weights"],
            shown_score(row["metric"], row["score"]),
        )
        for row in rows
    )  # fmt: skip
    yield _filled("models", ("name", "family", "input", "parameters", "weights", "score"), cells)


def doctor(values: Values) -> Drawn:
    """Every check, and what to do about those that failed."""
    for check in values["checks"]:
        mark = "[green]ok[/]" if check["ok"] else "[red]no[/]" if check["required"] else "[yellow]--[/]"
        yield f"{mark:>14} {check['name']}: {check['detail']}"
        if not check["ok"] and check["fix"]:
            yield f"[dim]      {check['fix']}[/]"


def inspection(values: Values) -> Drawn:
    """What a checkpoint is, what of it is used, and why it is refused where it is."""
    yield f"{values['label']}: {values['name'] or 'no known model'} ({values['family'] or 'no known family'})"
    if values["input_size"]:
        size = "x".join(map(str, values["input_size"]))
        yield f"input {size}, {values['classes']} classes, {values['parameters']:,} parameters, digest {values['digest']}"
    for key, value in values["config"].items():
        yield f"  {key} = {value}"
    counts = ", ".join(f"{values[key]} {key}" for key in ("matched", "missing", "unmatched"))
    yield f"tensors: {counts}; container {values['container'] or 'none'}"
    for key in ("first_missing", "first_unmatched"):
        if values[key]:
            yield f"  {key.replace('_', ' ')}: {', '.join(values[key])}"
    if values["problem"]:
        yield f"refused: {values['problem']}"


# ---- the journeys ------------------------------------------------------------------------------------------------


def attention(values: Values) -> Drawn:
    """AUROC of every map; a line where there is no mask to score against."""
    if not values["table"]:
        yield f"{values['model']}: {words(values)}; no mask is known"
        return
    title = (
        f"{values['model']}: AUROC of maps against the mask, {values.get('n') or 1} held-out image(s), window "
        f"{values['window']}"
    )
    rows = (
        (
            str(row["layer"]), row["direction"], f"{row['source']} {row['reduction']}", f"{row['auroc']:.3f}",
            "-" if row["auroc_lo"] is None else f"{row['auroc_lo']:.3f}-{row['auroc_hi']:.3f}", f"{row['pointing']:.2f}",
        )
        for row in values["table"]
    )  # fmt: skip
    yield _filled(title, ("layer", "direction", "what", "AUROC", "95 %", "pointing"), rows)


def show(values: Values) -> Drawn:
    """What is there, and what each model says of it."""
    place = values["image"] or f"{values['data']} {values['sample']}"
    yield f"{values['model']} ({values['task']}) on {place}"
    if values["truth"] is not None:
        yield f"truth: {words(values['truth'])}"
    for name, answer in values["answers"].items():
        if answer is not None:
            made = "float" if name == "float" else "{method} {bits}".format(**values["beside"])
            yield f"{made}: {words(answer)}"
    if values["agreement"] is not None:
        yield f"both agree to {percent(values['agreement'])}, divergence {values['divergence']:.3g}"
    elif values["divergence"] is not None:
        yield f"pixels differ by {percent(values['divergence'])} of their range (root mean square, same noise)"
    if "path" in values:
        yield f"written to {values['path']}"


def generate(values: Values) -> Drawn:
    """How long it took, where the set is, and who recognizes it."""
    yield f"{values['num']} images in {values['seconds']:.0f} s -> {values['path']}"
    judged = "".join(f", by {judge} {percent(share)}" for judge, share in values["judges"].items())
    own = f"by {values['model']} {percent(values['recognized']['self'])}"
    yield f"recognized as their target class: {own}{judged}"


def quantize(values: Values) -> Drawn:
    """Sites and their audit; with a budget what it bought, packed what that brought."""
    audit = values["audit"]
    yield (
        f"{values['model']} {values['bits']} by {values['method']}, scope {values['scope']}, calibrated on "
        f"{values['calib']}: {audit['sites']} sites, {'all verified' if audit['sealed'] else 'NOT all verified'}; "
        f"{values['seconds']:.0f} s"
    )
    if "budget" in values:
        mean = values["mean_bits"]
        yield (
            f"mean bits: weights {mean['weights']:.2f}, activations {mean['activations']:.2f}; KL predicted "
            f"{values['predicted_kl']:.4f}, measured {values['measured_kl']:.4f}"
        )
    if values.get("path"):
        yield f"written to {values['path']} ({values['bytes']:,} bytes)"
    if packed := values.get("packed"):
        yield (
            f"packed: {packed['ratio']:.2f}x smaller than float32, loads in {packed['load_seconds']:.2f} s, same top-1 as "
            f"the simulated model on {percent(packed['agreement'])} of the calibration images"
        )


def evaluate(values: Values) -> Drawn:
    """The score with its interval, beside the float model's; where weights came from and how images were seen."""
    name = metric_of(values)
    metric, (low, high) = METRICS[name], map(METRICS[name].shown, values["ci95"])
    score = metric.shown(values[name])
    yield f"{values['model']} on {values['data']}: {metric.title} {score} ({low} to {high}), n = {values['n']}"
    if further := [f"{title} {percent(values[key])}" for key, title in _FURTHER.items() if key in values]:
        yield ", ".join(further)
    if values["method"] != "float":
        exact = metric.shown(values[f"fp_{name}"])
        yield f"float model on the same images: {exact}; effective bits {values['effective_bits']}"
    if "floor" in values:
        yield f"two halves of the real images are {metric.shown(values['floor'])} apart"
    if each := values.get("per_class"):
        names = values.get("classes") or map(str, range(len(each)))
        rows = ((name, percent(x)) for name, x in zip(names, each, strict=True))
        yield _filled(f"{metric.title} of every class", ("class", metric.title), rows)
    taken, seen = values["weights"], values["transform"]
    if taken:
        yield f"weights: {taken['source']}, {taken['container'] or 'no container'}, revision {taken['revision']}"
    if seen["crop_pct"]:
        size = "x".join(map(str, seen["input_size"]))
        yield f"images: {seen['interpolation']}, center crop of {seen['crop_pct']}, {size}"


def sample(values: Values) -> Drawn:
    """What was drawn, how, and how much of it a judge knows."""
    how = f"{values['sampler']}, {values['steps']} steps, guidance {values['guidance']:g}"
    yield f"{values['num']} pictures of {values['model']} ({how})"
    for name, share in (values["recognized"] or {}).items():
        yield f"{name}: {values['judge']} takes {percent(share)} for the class that was asked for"
    if values["difference"] is not None:
        words = f"{values['method']} {values['bits']}: pixels differ by {percent(values['difference'])} of their range"
        yield f"{words} (root mean square, same noise)"
    if "path" in values:
        yield f"written to {values['path']}"


def sensitivity(values: Values) -> Drawn:
    """What rounding each site costs, in the order of the mode."""
    whole = values["whole"]
    title = (
        f"{values['model']} {values['bits']} by {values['method']}, scope {values['scope']}, {values['mode']}, "
        f"n = {values['n']}; all rounded: KL {whole['kl']:.3g}{_left(values)}"
    )
    name = damaged(values)
    rows = (
        (
            row["name"], str(row["sites"]), ", ".join(map(str, row["bits"])), f"{row['kl']:.3g}",
            METRICS[name].shown(row[f"{name}_drop"]), "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
        )
        for row in values["rows"]
    )  # fmt: skip
    yield _filled(title, ("name", "sites", "bits", "KL", f"{METRICS[name].title} drop", "SQNR dB"), rows)


def _left(values: Values) -> str:
    """What is left of the score, "" where there are no targets."""
    name = damaged(values)
    exact, drop = values[f"fp_{name}"], values["whole"][f"{name}_drop"]
    if exact is None:
        return ""
    metric = METRICS[name]
    return f", {metric.title} {metric.shown(exact - drop)} of {metric.shown(exact)}"


def quality(values: Values) -> Drawn:
    """Sets side by side."""
    measures = list(values["rows"][0]["accuracy"])
    columns = ("what", "n", "recognized", "by others", "distance", "Fréchet", "overlap", "KS", *measures)
    rows = []
    for row in values["rows"]:
        own, *others = [percent(share) for share in row["recognized"].values()] or ["-"]
        rows.append(
            (
                row["label"], str(row["n"]), own, ", ".join(others) or "-", f"{row['diversity']['pairwise']:.3f}",
                f"{row['frechet']:.3g}", percent(row["overlap"]), f"{row['ks']:.3f}",
                *(percent(row["accuracy"][name]) for name in measures),
            )
        )  # fmt: skip
    yield _filled(f"{values['model']}, against {values['n_reference']} real images", columns, rows)


def train(values: Values) -> Drawn:
    """Held-out score, and where the weights are."""
    name = metric_of(values)
    score = f"{METRICS[name].title} {METRICS[name].shown(values[name])}"
    yield f"{values['model']}: held-out {score}, n = {values['n']} -> {values['path']}"


def export(values: Values) -> Drawn:
    """What was written, and how it is read."""
    yield f"{values['num']} images of {values['data']} ({values['split']}) -> {values['path']}; --data {values['read_as']}"


def onnx(values: Values) -> Drawn:
    """What was written, and how far ONNX Runtime is from the model."""
    nodes = ", ".join(f"{count} {name}" for name, count in values["nodes"].items() if count)
    yield f"{values['model']}, {values['method'] or 'float'}: opset {values['opset']}, {nodes} -> {values['path']}"
    yield f"largest difference by ONNX Runtime {values['max_difference']:.2g}, of outputs up to {values['largest']:.3g}"


# ---- sweeps ------------------------------------------------------------------------------------------------------


def quantization(values: Values) -> Drawn:
    """Methods x bits x calibration sets, means over seeds."""
    name = metric_of(values)
    metric, (low, high) = METRICS[name], map(METRICS[name].shown, values["fp_ci95"])
    title = (
        f"{values['model']}, float {metric.shown(values[f'fp_{name}'])} ({low} to {high}), n = {values['n']}, "
        f"{len(values['seeds'])} seed(s)"
    )
    rows = (
        (
            row["method"], row["bits"], row["calib"], metric.shown(row[name]), metric.gap(row["spread"]).lstrip("+"),
            f"{row['effective_bits']['activations']:.2f}", percent(row["effective_bits"]["outlier_share"]),
        )
        for row in values["rows"]
    )  # fmt: skip
    columns = ("what", "bits", "calibration", metric.title, "spread", "effective bits", "outliers")
    yield _filled(title, columns, rows)


def _points(pair: Values | None) -> str:
    """A difference in points with its interval; empty where there is none."""
    if pair is None:
        return ""
    low, high = pair["ci95"]
    return f"{100 * pair['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def equal(values: Values) -> Drawn:
    """Accuracy at the same mean bits, and what the first method is ahead of each other one."""
    place = ("scope", "wide_A", "target")
    gaps = {(*(pair[key] for key in place), pair["worse"]): pair for pair in values["pairs"]}
    rows = []
    for row in values["rows"]:
        pair = gaps.get((*(row[key] for key in place), row["method"]))
        ahead = _points(pair)
        where = f"{row['scope']}{', A at 8 bits' * row['wide_A']}"
        rows.append((where, f"{row['target']:g}", row["method"], f"{row['bits']:.2f}", percent(row["top1"]), ahead))
    title = f"{values['model']}, {values['calib']}, n = {values['n']}, {len(values['seeds'])} seed(s)"
    first = values["rows"][0]["method"]
    yield _filled(title, ("scope", "target", "what", "bits", "top-1", f"{first} is ahead by"), rows)


def ranges(values: Values) -> Drawn:
    """Accuracy, width, and what is lost by clipping and by rounding, per set and narrowed set."""
    gaps = {(pair["bits"], pair["better"]["calib"], pair["better"]["factor"]): pair for pair in values["pairs"]}
    rows = []
    for row in values["rows"]:
        pair = gaps.get((row["bits"], row["calib"], row["factor"]))
        ahead = _points(pair)
        named = row["calib"] if row["factor"] == 1 else f"{row['calib']} x {row['factor']:g}"
        losses = (percent(row[key]) for key in ("clipped", "clipping", "rounding"))
        rows.append((row["bits"], named, percent(row["top1"]), ahead, f"{row['width']:.2f}", *losses))
    title = f"{values['model']}, {values['method']}, n = {values['n']}, {len(values['seeds'])} seed(s)"
    columns = ("bits", "ranges of", "top-1", "ahead of real", "width", "clipped", "clipping error", "rounding error")
    yield _filled(title, columns, rows)


def neighborhoods(values: Values) -> Drawn:
    """Per model and map: in how many layers h_p is better."""
    for one in values["models"]:
        rows = []
        for source, best in one["best"].items():
            gains = [row["gain"]["seen"] for row in one["rows"] if row["source"] == source and row["gain"]]
            counts = [str(gains.count(word)) if gains else "-" for word in ("better", "worse", "not resolved")]
            where = f"layer {best['layer']}, {best['reduction']}"
            rows.append((source, *counts, f"{best['auroc']['mean']:.3f}", where))
        columns = ("what", "layers where h_p is better", "worse", "not resolved", "best AUROC", "where")
        yield _filled(f"{one['model']}, {one['scored']} images of {one['data']}", columns, rows)


def ablations(values: Values) -> Drawn:
    """A table per study, and what is seen of the paper's orderings."""
    for one in values["studies"]:
        title = f"{one['model']}: {one['title']}, top-1 in %, {values['seeds']} seeds, n = {one['n']}"
        rows = (
            (
                row["label"], str(row["num"]),
                *(f"{100 * cell['mean']:.1f} ± {100 * cell['spread']:.1f}" for cell in row["top1"].values()),
            )
            for row in one["rows"]
        )  # fmt: skip
        yield _filled(title, ("what", "images", *values["measures"]), rows)
        for claim in one["claims"]:
            low, high = (100 * end for end in claim["ci95"])
            yield (
                f"{claim['better']} over {claim['worse']}, {claim['measure']}: {claim['seen']} "
                f"({100 * claim['difference']:+.1f}, {low:+.1f} to {high:+.1f})"
            )


def methods(values: Values) -> Drawn:
    """One table per model and scope: a row per method and width, a column per calibration set."""
    for one in values["tables"]:
        calibs = list(dict.fromkeys(row["calib"] for row in one["rows"]))
        title = f"{one['model']}, scope {one['scope']}: top-1 in %, float {percent(one['fp_top1'])}, n = {one['n']}"
        cells = {(row["method"], row["bits"], row["calib"]): row for row in one["rows"]}
        rows = []
        for method, bits in dict.fromkeys((row["method"], row["bits"]) for row in one["rows"]):
            of_set = [cells[method, bits, calib] for calib in calibs]
            scores = (f"{100 * row['top1']:.1f} ± {100 * row['spread']:.1f}" for row in of_set)
            last = of_set[-1]
            rows.append(
                (
                    method,
                    bits,
                    *scores,
                    f"{last['effective_bits']['activations']:.2f}",
                    f"{last['calibration_seconds']:.0f}",
                )
            )
        yield _filled(title, ("what", "bits", *calibs, "activation bits", "seconds"), rows)


def state(values: Values) -> Drawn:
    """Error of the hidden state by rule and width."""
    rows = (
        (
            row["rule"], str(row["bits"]), f"{row['h_error']:.4f}", f"{row['y_error']:.1e}",
            f"{row['layers_better_than_step']} of {row['layers']} layers",
        )
        for row in values["means"]
    )  # fmt: skip
    title = f"{values['model']}: error of h inside the recurrence, {values['n']} images"
    yield _filled(title, ("what", "bits", "h error", "1 - cos y", "better than step"), rows)


def outliers(values: Values) -> Drawn:
    """A row per tensor."""

    def cell(one: Values | None) -> str:
        return "-" if one is None else f"{one['mean']:.2f} ({one['ci95'][0]:.2f} to {one['ci95'][1]:.2f})"

    keys = ("jaccard", "missed_by_static", "share_raw", "share_dynamic")
    rows = ((row["tensor"], *(cell(row[key]) for key in keys)) for row in values["rows"])
    title = f"{values['model']}, layer {values['layer']}, {values['n']} images"
    columns = ("what", "overlap of neighboring steps", "missed by a static list", "outliers", "listed")
    yield _filled(title, columns, rows)


def commands(values: Values) -> Drawn:
    """What was run, and what failed."""
    for row in values["commands"]:
        yield f"{'done' if row['passed'] else 'FAILED'}: {row['command']}"


def ledger(values: Values) -> Drawn:
    """Name and verdict of each, its claims below."""
    for row in values["artefacts"]:
        yield f"[bold]{row['name']}[/bold]  {row['paper']}, {row['title']}: [bold]{row['verdict']}[/bold]"
        for point in row["points"]:
            yield f"    {point['word']}: {point['claim']}" + (f"; {point['why']}" if point["why"] else "")


# ---- speed -------------------------------------------------------------------------------------------------------


def timed(values: Values, words: str = "") -> Drawn:
    """The gate in a line and the timings in a table."""
    gate = values["gate"]
    yield (
        f"gate {'passed' if gate['passed'] else 'FAILED'}: max relative error {gate['max_error']:.1e} "
        f"(allowed {gate['tolerance']:.0e}){words}"
    )
    if not values["rows"]:
        return
    keys = ("p20_ms", "p50_ms", "p80_ms", "ratio", "peak_mb")
    rows = (
        (row["op"], row["backend"], *(f"{row[key]:.2f}" if key in row else "-" for key in keys))
        for row in values["rows"]
    )
    title = f"{values['rows'][0]['case']}, {values['threads']} threads"
    yield _filled(title, ("what", "backend", "p20 ms", "p50 ms", "p80 ms", "ratio", "peak MB"), rows)
    for op, one in values.get("strongest", {}).items():
        yield f"{op}: fastest beside ours is {one['peer']} with {one['p50_ms']:.1f} ms, ours is {one['ratio']:.1f}x as fast"
    for row in values["rows"]:
        if "failed" in row:
            yield f"{row['op']}, {row['backend']}: {row['failed']}"


def scan(values: Values) -> Drawn:
    """As `timed`, with what is known of the exponential."""
    yield from timed(values, f"; exponential within {values['exp_max_ulp']:.2f} ulp; operands {values['inputs_mb']} MB")


def packed(values: Values) -> Drawn:
    """As `timed`, with the images on which both models say the same."""
    shares = [row["agreement"] for row in values["rows"]]
    made_up = "; weights are made up"
    yield from timed(values, made_up if None in shares else f"; same top-1 as simulated on {percent(min(shares))}")


def fused(values: Values) -> Drawn:
    """Gate of every format, then times."""
    what = "a tiny variant" if values["not_measured"] else values["model"]
    rows = (
        (
            row["format"], row.get("model", "tiny variant"), f"{row['images']}",
            *(f"{row[key]:.1e}" for key in ("exact", "error")), percent(row["agreement"]),
            f"{row['lost']} / {row['won']}" if "lost" in row else "-", "yes" if row["passed"] else "NO",
        )
        for row in values["gates"]
    )  # fmt: skip
    columns = ("what", "by", "images", "block in float32", "error", "same top-1", "lost / won", "passed")
    yield _filled(f"gate against the simulated model, {what}, {values['device']}", columns, rows)
    yield from _complaints(values, lambda row: row.get("case", row["format"]))
    if values["not_measured"]:
        yield values["not_measured"]
        return
    times = ("what", "backend", "p20 ms", "p50 ms", "p80 ms", "images/s", "ours is", "than graphed")
    timings = (
        (
            row["case"], _backend(row),
            *(f"{row[key]:.3f}" for key in ("p20_ms", "p50_ms", "p80_ms")), f"{row['images_per_second']:.0f}",
            *(f"{row[key]:.2f}x" if key in row else "" for key in ("speedup", "speedup_over_graph")),
        )
        for row in values["rows"] if "p50_ms" in row
    )  # fmt: skip
    yield _filled(values["model"], times, timings)
    yield from _missing(values)


def kernels(values: Values) -> Drawn:
    """Gate of every kernel, then times beside floors."""
    yield from gates(values)
    if values["not_measured"]:
        yield values["not_measured"]
        return
    columns = ("what", "backend", "p20 ms", "p50 ms", "p80 ms", "cold ms", "floor ms", "bound", "of it", "ours is")
    for name in dict.fromkeys(row["kernel"] for row in values["rows"]):
        timings = (_kernel_row(row) for row in values["rows"] if row["kernel"] == name and "p50_ms" in row)
        yield _filled(name, columns, timings)
    yield from _missing(values)


def gates(values: Values) -> Drawn:
    """How many cases of every kernel pass, and what the others fail by."""
    cases, names = values["gates"], dict.fromkeys(row["kernel"] for row in values["gates"])
    counted = ((name, [row["passed"] for row in cases if row["kernel"] == name]) for name in names)
    rows = ((name, f"{len(passed)}", f"{sum(passed)}") for name, passed in counted)
    yield _filled(f"gate against float64, {values['device']}", ("what", "cases", "passed"), rows)
    yield from _complaints(values, lambda row: f"{row['kernel']}, {row['case']}, {row.get('backend', 'gate')}")


def _kernel_row(row: Values) -> tuple[str, ...]:
    times = (f"{row[key]:.4f}" for key in ("p20_ms", "p50_ms", "p80_ms", "cold_p50_ms"))
    known = "bound" in row
    floor = (f"{row['floor_ms']:.4f}", row["bound"], percent(row["achieved"])) if known else ("-",) * 3
    return row["case"], _backend(row), *times, *floor, f"{row['speedup']:.2f}x" if "speedup" in row else ""


def _backend(row: Values) -> str:
    return row["backend"] + (", unverified" if row.get("gate", "passed") != "passed" else "")


def _complaints(values: Values, place: Any) -> Drawn:
    for row in (*values["gates"], *values["rows"]):
        if problem := row.get("complaint") or row.get("failed"):
            yield f"{place(row)}: {problem}"


def _missing(values: Values) -> Drawn:
    for row in values["missing"]:
        yield f"missing: {row['peer']} ({row['why']})"


def devices(values: Values) -> Drawn:
    """What agrees with the CPU, and how far what does not."""
    rows = (
        (
            row["part"], "-" if row["max_error"] is None else f"{row['max_error']:.1e}", f"{row['tolerance']:.0e}",
            "yes" if row["passed"] else "NO", row["note"],
        )
        for row in values["rows"]
    )  # fmt: skip
    yield _filled(
        f"{values['model']} on {values['device']} against the CPU", ("what", "error", "allowed", "passed", "note"), rows
    )


def compared(values: Values) -> Drawn:
    """Two result files side by side."""
    if not values["same_device"]:
        yield f"different devices: {' and '.join(map(str, values['device']))}"
    rows = (
        (
            row["what"], row["case"], row["backend"], *(f"{row[key]:.4f}" for key in ("before_ms", "after_ms")),
            f"{row['speedup']}", row["verdict"],
        )
        for row in values["rows"]
    )  # fmt: skip
    columns = ("what", "case", "backend", "before ms", "after ms", "speedup", "verdict")
    yield _filled("before -> after", columns, rows)
    if alone := len(values["only_before"]) + len(values["only_after"]):
        yield f"{alone} rows are in one of the two only"
