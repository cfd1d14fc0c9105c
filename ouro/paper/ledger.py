"""Every figure and table of the two papers: what it shows, what is measured here instead, and whether that is seen.

OuroMamba (ICCV 2025, arXiv 2503.10959) and the k-scaled, reparameterized PTQ of Vision Mamba (arXiv 2501.16738). Neither full
text was at hand: claims come from abstracts, code and notes of others, and where no source names what a figure shows, the
entry says "not public" and what it must be from its context. An artefact more is an entry more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ouro.evaluate.paired import difference, unpacked
from ouro.metrics import METRICS
from ouro.models import variant
from ouro.paper.markdown import RESULTS, Rows, markdown, measured, title
from ouro.paper.verdict import (
    NOT_MEASURED,
    NOT_SEEN,
    NOTHING_TO_DECIDE,
    OPPOSITE,
    SEEN,
    WORDS,
    Point,
    by_counts,
    by_interval,
    by_means,
    by_share,
    overall,
    sided,
)  # fmt: skip

OURO, KSCALED, OURS = "OuroMamba", "k-scaled PTQ", "this project"
Files = Mapping[str, Any]
"""Name of a stored result -> its values."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """One figure or table.

    shows: what the paper shows, and where that is known from. ours: what is measured here, at which scale. commands: what
    makes the results; {model}, {out} and {of} are filled in, the last one by ":DATA" behind a number of real images. quick:
    the same on few images, to see that it runs. files: names of stored results, with * for the rest. judge: what they say;
    it gets those that there are.
    """

    name: str
    paper: str
    title: str
    shows: str
    ours: str
    commands: tuple[str, ...]
    quick: tuple[str, ...]
    files: tuple[str, ...]
    judge: Callable[[Files], Iterator[Point]]
    notebook: str = ""

    def results(self) -> dict[str, Any]:
        """The stored results that there are."""
        paths = sorted({path for pattern in self.files for path in RESULTS.glob(pattern)})
        return {path.name: json.loads(path.read_text()) for path in paths}


def ledger() -> list[dict[str, Any]]:
    """{name, paper, title, shows, ours, commands, results, notebook, verdict, points: [what a `Point` holds]} of each."""
    rows = []
    for one in ARTEFACTS:
        results = one.results()
        points = list(one.judge(results))
        rows.append(
            {
                "name": one.name, "paper": one.paper, "title": one.title, "shows": one.shows, "ours": one.ours,
                "commands": [filled(command) for command in one.commands], "results": list(results), "notebook": one.notebook,
                "verdict": overall(points),
                "points": [asdict(point) | {"interval": point.interval and list(point.interval)} for point in points],
            }
        )  # fmt: skip
    return rows


def table() -> str:
    """The ledger as Markdown: a row per artefact with its verdict, and how its points are divided."""
    rows: Rows = []
    for one in ledger():
        counted = Counter(point["word"] for point in one["points"])
        points = ", ".join(f"{counted[word]} {word}" for word in (*WORDS, NOTHING_TO_DECIDE) if word in counted)
        rows.append((f"{one['paper']}, {one['title']}", one["shows"], f"**{one['verdict']}**", points))
    return markdown(("what", "the paper shows", "verdict", "points"), rows, 4)


def page() -> str:
    """The whole ledger as a page of Markdown: what is measured, by which command, and what decides every point."""
    parts = [
        "# What of the papers holds here, point by point\n",
        "Made by `ouro paper render` from the files beside this one; `ouro paper list` prints it, `ouro paper run NAME` measures",
        "one entry again. What the tables mean is in [README.md](README.md), what failed on the way in [LOG.md](LOG.md).\n",
    ]
    for one in ledger():
        parts += [
            f"## {one['paper']}, {one['title']}: {one['verdict']}\n",
            f"The paper: {one['shows']}. Here: {one['ours']}.\n",
        ]
        for point in one["points"]:
            parts.append(f"- *{point['word']}*: {point['claim']}" + (f"; {point['why']}" if point["why"] else ""))
        made = [f"`{command}`" for command in one["commands"]]
        stored = [f"[{name}]({name})" for name in one["results"]]
        notebook = [f"[{one['notebook']}](../notebooks/{one['notebook']}.ipynb)"] if one["notebook"] else []
        lines = [("Made by", made), ("Stored in", stored), ("Explored in", notebook)]
        where = [f"{words} {', '.join(items)}." for words, items in lines if items]
        parts.append(f"\n{' '.join(where)}\n" if where else "")
    return "\n".join(parts)


def filled(command: str, model: str = "MODEL", out: str = "results", data: str = "") -> str:
    """A command of an artefact with its places filled in."""
    return command.format(model=model, out=out, of=f":{data}" if data else "")


def _missing(claim: str, why: str = "") -> Point:
    return Point(claim, NOT_MEASURED, why)


def _of(model: str, point: Point) -> Point:
    return replace(point, model=model)


def _no_claim(words: str) -> Callable[[Files], Iterator[Point]]:
    return lambda _: iter([Point(words, NOTHING_TO_DECIDE)])


def _neighborhoods(files: Files) -> Iterator[Point]:
    claim = "maps of h_p find the object better than those of h"
    for values in files.values():
        for model in values["models"]:
            gains = [row["gain"] for row in model["rows"] if row["gain"] and row["source"].startswith("h_p")]
            better, worse = (sum(gain["seen"] == word for gain in gains) for word in ("better", "worse"))
            what = f"of {len(gains)} (layer, reduction, window)"
            yield _of(model["model"], by_counts(f"{claim}, {model['model']}", better, worse, what))
    if not files:
        yield _missing(claim)


_DECISIVE = ("ouro w4a4o8", "ouro w4a3o8")
"""Measures of a study that decide its points: the first of them that was taken, by the paper's own quantizer."""


def _study(title: str, *pairs: tuple[str, str]) -> Callable[[Files], Iterator[Point]]:
    """Points of a study of `ouro bench ablations`: whether the first of each pair is better than the second."""

    def judge(files: Files) -> Iterator[Point]:
        studies = [study for values in files.values() for study in values["studies"] if study["title"] == title]
        for better, worse in pairs:
            named = f"{better} over {worse}"
            if not any(
                (better, worse) == (claim["better"], claim["worse"]) for study in studies for claim in study["claims"]
            ):
                yield _missing(named)
            for study in studies:
                taken = {claim["measure"] for claim in study["claims"]}
                measure = next((name for name in _DECISIVE if name in taken), "")
                for claim in study["claims"]:
                    if (claim["better"], claim["worse"], claim["measure"]) == (better, worse, measure):
                        where = f"{named}, {study['model']}, {measured(measure)}"
                        yield _of(study["model"], by_interval(where, claim["difference"], *claim["ci95"]))

    return judge


def _sources(files: Files) -> Iterator[Point]:
    """Sets of different origin: under every method and width on real images, and of every generator on scenes."""
    for values in files.values():
        for pair in values.get("pairs", ()):
            if "tables" not in values and "method" not in values:
                yield from _between_sets(values["model"], pair)
    yield from _narrow(files)
    studies = {name: values for name, values in files.items() if "studies" in values}
    yield from _study("What is calibrated on", ("ouro", "noise"), ("ouro", "class"), ("ouro", "psaq"),
                      ("ouro", "clamp"), ("real", "ouro"))(studies)  # fmt: skip


def _between_sets(model: str, pair: Mapping[str, Any]) -> Iterator[Point]:
    """What `ouro bench quantization` says of synthetic images against noise and against real ones."""
    sides = {side["calib"]: side for side in (pair["better"], pair["worse"])}
    # nothing won and nothing lost: a method that looks at no calibration image
    if len(sides) < 2 or "synthetic" not in sides or not pair["won"] + pair["lost"]:
        return
    (other,) = set(sides) - {"synthetic"}
    sign = 1 if pair["better"]["calib"] == "synthetic" else -1
    low, high = sorted(sign * end for end in pair["ci95"])
    if other == "real":
        # no worse is what is claimed: by more than a point is worse
        claim = f"synthetic images are within a point of real ones or better, {model}"
        point = by_interval(claim, sign * pair["difference"] + 0.01, low + 0.01, high + 0.01)
        why = f"{100 * sign * pair['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        point = replace(point, why=why, interval=(100 * sign * pair["difference"], 100 * low, 100 * high, -1.0))
    else:
        point = by_interval(f"synthetic images over {other}, {model}", sign * pair["difference"], low, high)
    where = f", {title(pair['better']['method'])} {pair['bits']}"
    yield _of(model, replace(point, claim=point.claim + where))


def _narrow(files: Files) -> Iterator[Point]:
    """Whether a static method gains from noise what it gains from ranges that are merely narrower."""
    for values in files.values():
        if "method" not in values or "rows" not in values or "width" not in values["rows"][0]:
            continue
        for bits in dict.fromkeys(row["bits"] for row in values["rows"]):
            pairs = [pair for pair in values["pairs"] if pair["bits"] == bits]
            best = max((pair for pair in pairs if pair["better"]["factor"] != 1), key=lambda pair: pair["difference"])
            noise = next((pair for pair in pairs if pair["better"]["calib"] == "noise"), None)
            for pair, what in ((noise, "noise"), (best, f"ranges of real images times {best['better']['factor']:g}")):
                if pair is not None:
                    claim = f"{title(values['method'])} {bits}: real images at their full ranges over {what}, {values['model']}"
                    low, high = sorted(-end for end in pair["ci95"])
                    yield _of(values["model"], by_interval(claim, -pair["difference"], low, high))


def _equal(files: Files) -> Iterator[Point]:
    for values in files.values():
        for pair in values["pairs"]:
            place = f"{values['model']}, {pair['scope']}, {pair['target']:g} bits{', A at 8 bits' * pair['wide_A']}"
            claim = f"{title(pair['better'])} a point or more over {title(pair['worse'])}, {place}"
            low, high = pair["ci95"]
            known = f"{100 * pair['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
            # a point or more, by an interval that excludes 0
            word = SEEN if low > 0 and pair["difference"] >= 0.01 else OPPOSITE if high < 0 else NOT_SEEN
            shown = (100 * pair["difference"], 100 * low, 100 * high, 0.0)
            yield Point(claim, word, known, values["model"], shown)
    if not files:
        yield _missing("it is a point or more over both")


def _synthetic(files: Files) -> Iterator[Point]:
    claim = "another model, which never saw them, takes the images for their class"
    for values in files.values():
        for judge, share in values["judges"].items():
            where = f"{claim}: {judge} of {values['num']} by {values['model']}, seed {values['seed']}"
            yield _of(
                values["model"], by_share(where, share, values["num"], 1 / variant(values["model"]).config.num_classes)
            )
    if not files:
        yield _missing(claim)


def _outliers(files: Files) -> Iterator[Point]:
    moving = "more than half of a step's outlier channels are others a step later"
    missed = "a list made on calibration images misses more than a tenth of them"
    for values in files.values():
        for row in values["rows"]:
            where = f"{values['model']}, {row['tensor']} of layer {values['layer']}"
            for claim, key, bound, sign in ((moving, "jaccard", 0.5, -1), (missed, "missed_by_static", 0.1, 1)):
                one = row[key]
                # outliers on a few of the images only: an interval of these says nothing
                if one is not None and one["n"] >= values["n"] / 2:
                    low, high = sorted(sign * (end - bound) for end in one["ci95"])
                    known = f"{one['mean']:.2f} ({one['ci95'][0]:.2f} to {one['ci95'][1]:.2f}), bound {bound}"
                    shown = (one["mean"], *one["ci95"], bound)
                    yield Point(f"{claim}, {where}", sided(low, high), known, values["model"], shown)
    if not files:
        yield _missing(moving)
        yield _missing(missed)


def _latency(files: Files) -> Iterator[Point]:
    rows = [row | {"model": values["model"]} for values in files.values() for row in values["rows"] if "p50_ms" in row]
    peers = {row["b"]: row["p50_ms"] for row in rows if row["backend"] == "unfused, scan mamba_ssm, graph"}
    fused = {
        (row["format"], row["b"]): row["p50_ms"]
        for row in rows
        if row["backend"] == "fused" and row["gate"] == "passed"
    }
    batches = sorted(b for b in peers if ("fp16", b) in fused)
    if not batches:
        yield _missing("quantized inference is faster than fp16 with the official scan")
        return
    largest = batches[-1]
    for name in dict.fromkeys(form for form, b in fused if form != "fp16" and b == largest):
        over_official, over_ours = (other / fused[name, largest] for other in (peers[largest], fused["fp16", largest]))
        # one run of one device: what its percentiles cannot overlap is more than 3 % apart
        for claim, ratio in (("fp16 with the official scan", over_official), ("our own fused fp16", over_ours)):
            word = sided(ratio - 1.03, ratio - 0.97)
            yield Point(f"{name} is faster than {claim}, b = {largest}", word, f"{ratio:.2f}x")
    if ("w4a4o8", largest) not in fused:
        yield _missing("w4a4o8 is faster than fp16", "its gate failed in the only run on a GPU")


_W4A4 = "W4A4 on synthetic images over {} on real ones, {}"
_PRIOR = ("ptq4vm", "qmamba")
"""The methods that the paper's table 2 names beside its own."""


def _classification(files: Files) -> Iterator[Point]:
    """OuroMamba-Quant on synthetic images against prior methods on real ones: by means over seeds, or paired by image."""
    tables = [one for values in files.values() for one in values.get("tables", ()) if one["scope"] == "lin"]
    paired = [point for values in files.values() for point in _across(values)]
    for one in tables:
        rows = {(row["method"], row["calib"]): row for row in one["rows"] if row["bits"] == "w4a4o8"}
        ours = rows.get(("ouro", "synthetic"))
        for other in _PRIOR:
            theirs = rows.get((other, "real"))
            if ours is None or theirs is None:
                continue
            claim = _W4A4.format(title(other), one["model"])
            point = by_means(claim, *((row["top1"], row["spread"], row["seeds"]) for row in (ours, theirs)))
            yield _of(one["model"], point)
    yield from paired
    if not (tables or paired):
        yield _missing("OuroMamba-Quant on synthetic images over PTQ4VM and QMamba on real ones, W4A4")


def _across(values: Mapping[str, Any]) -> Iterator[Point]:
    """The same of `ouro bench quantization`, which keeps every image's outcome."""
    cells: dict[tuple[str, str], list[Any]] = {}
    for cell in values.get("cells", ()):
        if cell["bits"] == "w4a4o8":
            cells.setdefault((cell["method"], cell["calib"]), []).append(cell)
    ours = cells.get(("ouro", "synthetic"), [])
    for other in _PRIOR:
        theirs = cells.get((other, "real"), [])
        if ours and len(theirs) == len(ours):
            sides = [[unpacked(cell["right"], cell["n"]) for cell in one] for one in (ours, theirs)]
            found = difference(*sides)
            claim = _W4A4.format(title(other), values["model"])
            yield _of(values["model"], by_interval(claim, found["difference"], *found["ci95"]))


def _other_tasks(files: Files) -> Iterator[Point]:
    """OuroMamba-Quant against every other method on the same set, at W4A4."""
    for values in files.values():
        metric = METRICS[values["metric"]]
        scale, unit = (100, "points") if metric.share else (1, "of " + metric.title)
        for pair in values["pairs"]:
            methods = {side["method"]: side for side in (pair["better"], pair["worse"])}
            if pair["bits"] != "w4a4o8" or len(methods) < 2 or "ouro" not in methods:
                continue
            (other,) = set(methods) - {"ouro"}
            sign = 1 if pair["better"]["method"] == "ouro" else -1
            low, high = sorted(sign * end for end in pair["ci95"])
            where = f"{metric.title}, {values['model']}, {methods['ouro']['calib']} images"
            claim = f"OuroMamba-Quant W4A4 over {title(other)}, {where}"
            yield _of(values["model"], by_interval(claim, sign * pair["difference"], low, high, unit, scale))
    if not files:
        yield _missing("OuroMamba-Quant is ahead of other methods at W4A4")


def _kscaled(files: Files) -> Iterator[Point]:
    claim = "8 bits throughout, hidden state included, cost no more than 1.2 points"
    for values in files.values():
        row = next(row for row in values["rows"] if row["method"] == "kscale")
        lost = values["fp_top1"] - row["top1"]
        yield Point(f"{claim}, {values['model']}", SEEN if lost <= 0.012 else NOT_SEEN,
                    f"{100 * lost:.1f} points, {row['seeds']} seed{'s' * (row['seeds'] > 1)}, n = {values['n']}")  # fmt: skip
    if not files:
        yield _missing(claim)


def _state(files: Files) -> Iterator[Point]:
    claim = "h divided by rank-1 factors is rounded with less error"
    for values in files.values():
        for row in values["means"]:
            if row["rule"] == "step factors":
                better, layers = row["layers_better_than_step"], row["layers"]
                named = f"{claim}, {values['model']}, {row['bits']} bits"
                yield _of(values["model"], by_counts(named, better, layers - better, "layers"))
    if not files:
        yield _missing(claim)


_FEW = "--seeds 2 --num 4 --most 16 --steps 20 --measure ouro:w4a4o8 --limit 100"


def _ablations(*studies: str, options: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(commands, quick) of some studies, all in one file for all that read off it."""
    named = " ".join(f"--study {name}" for name in studies)
    words = f"ouro bench ablations {{model}} {named} {options}".rstrip()
    out = f"--out {{out}}/ablations_{'parts_' if 'parts' in studies else ''}{{model}}.json"
    return (f"{words} {out}",), (f"ouro bench ablations {{model}} {named} {_FEW} {out}",)


_GENERATION = _ablations("losses", "samples", "window", "weights", "source")
_PARTS = _ablations("parts", "refresh", options="--num 64 --measure ouro:w4a3o8 --limit 2000")
_QUANTIZATION = (
    ("ouro bench quantization {model} --bits w4a8o16 --bits w4a4o8 --bits w4a3o8 --calib noise=noise:64 --calib "
     "synthetic=synthetic:64 --calib real=real:64{of} --limit 2000 --workers 2 --out {out}/quantization_{model}.json",),
    ("ouro bench quantization {model} --bits w4a4o8 --calib noise=noise:8 --calib real=real:8{of} --seeds 2 --limit 100 "
     "--out {out}/quantization_{model}.json",),
)  # fmt: skip
_NAMED = (
    "ouro bench quantization {model} --method ptq4vm --method qmamba --bits w4a4o8 --bits w4a3o8 --calib real=real:64{of} "
    "--limit 2000 --extend {out}/quantization_{model}.json --out {out}/quantization_{model}.json"
)
_METHODS = (
    ("ouro bench methods --out {out}/methods_zoo.csv",),
    ("ouro bench methods --quick --limit 40 --out {out}/methods_zoo.csv",),
)
_RANGES = (
    ("ouro bench ranges {model} --calib noise=noise:64 --calib synthetic=synthetic:64 --calib real=real:64{of} "
     "--out {out}/ranges_{model}.json",),
    ("ouro bench ranges {model} --calib noise=noise:8 --calib real=real:8{of} --factor 0.55 --seeds 2 --limit 100 "
     "--out {out}/ranges_{model}.json",),
)  # fmt: skip
_TASK_SIZES = "--bits w8a8 --bits w4a8o16 --bits w4a4o8 --limit 300 --workers 2 --out {{out}}/tasks_{name}.json"
_TASK = (
    "ouro bench quantization {name} --method ouro --method clipped --method dynamic --method ptq4vm --calib real=real:32 "
    f"{_TASK_SIZES}"
)
_TASK_SETS = (
    "ouro bench quantization {name} --method ouro --method clipped --method dynamic --calib noise=noise:32 "
    f"--calib synthetic=synthetic:32 --extend {{{{out}}}}/tasks_{{name}}.json {_TASK_SIZES}"
)
_TASK_QUICK = (
    "ouro bench quantization {name} --method ouro --method clipped --bits w4a4o8 --calib real=real:4 --seeds 1 --limit 24 "
    "--out {{out}}/tasks_{name}.json"
)
_PUBLISHED = "[notes of others on the ICCV paper]"

ARTEFACTS: tuple[Artefact, ...] = (
    Artefact(
        "fig1", OURO, "figure 1",
        f"implicit attention of h scatters, that of the patched state h_p keeps to the object {_PUBLISHED}",
        "AUROC of maps against the masks of procedural scenes, paired by image, four models",
        ("ouro bench attention --out {out}/neighborhoods.json",),
        ("ouro bench attention --model vim_nano --windows 1,5 --n 20 --out {out}/neighborhoods.json",),
        ("neighborhoods.json",), _neighborhoods,
        "fig1_implicit_attention",
    ),
    Artefact(
        "fig2", OURO, "figure 2",
        f"what a model is calibrated on decides its accuracy, and synthetic images with h_p are best {_PUBLISHED}",
        "real images of CIFAR-10: noise, synthetic and real sets of 64 images under four methods at W4A8, W4A4 and "
        "W4A3, three seeds, 2000 images, and what their ranges are worth, two seeds; "
        "sets of five generators: two seeds, 1000 real images; three seeds, 500 scenes",
        (*_QUANTIZATION[0], *_RANGES[0], *_GENERATION[0]), (*_QUANTIZATION[1], *_RANGES[1], *_GENERATION[1]),
        ("quantization_*.json", "ranges_*.json", "ablations_*.json"), _sources,
        "fig2_calibration_sources",
    ),
    Artefact(
        "fig3", OURO, "figure 3",
        "not public; from its context: a CLAMP-ViT style objective without h_p makes poor images of a Mamba",
        "the generator without h_p (clamp) beside ours, by the accuracy of what is calibrated on their images",
        *_GENERATION, ("ablations_*.json",), _study("Weights of the neighbors", ("delta", "no h_p")),
        "fig3_scan_directions",
    ),
    Artefact(
        "fig4", OURO, "figure 4", f"outlier channels of activations change over time steps {_PUBLISHED}",
        "overlap of outliers of neighboring steps, and the part that a static list misses: every tensor of layer 3, 32 images",
        ("ouro bench outliers {model} --out {out}/outliers_{model}.json",),
        ("ouro bench outliers {model} --n 4 --out {out}/outliers_{model}.json",), ("outliers_*.json",), _outliers, "fig4_dynamic_outliers",
    ),
    Artefact(
        "fig5", OURO, "figure 5", f"synthetic images show the class they were made for {_PUBLISHED}",
        "the share that a second, independently trained model takes for their class",
        ("ouro generate {model} --num 128 --report {out}/generate_{model}.json",),
        ("ouro generate {model} --num 8 --steps 20 --report {out}/generate_{model}.json",),
        ("generate_*.json",), _synthetic, "fig5_synthetic_images",
    ),
    Artefact(
        "fig6", OURO, "figure 6", "not public; from its context: the overview of the method", "the block's sites in the app",
        (), (), (), _no_claim("it explains the method"), "fig6_fig7_method",
    ),
    Artefact(
        "fig7", OURO, "figure 7", "not public; from its context: the flow of mixed precision with its outlier list",
        "the player of outlier channels in the app", (), (), (), _no_claim("it explains the method"), "fig6_fig7_method",
    ),
    Artefact(
        "fig8", OURO, "figure 8", f"kernels are up to 2.36 times as fast as fp16 {_PUBLISHED}",
        "whole Vim-B on one H200, 224 px, made-up weights, CUDA graphs",
        ("ouro bench model vim_base_patch16_224 --backend triton --b 1,8,32,128 --out {out}/model_vim_base.json",),
        ("ouro bench model {model} --backend cpu --b 1 --out {out}/model_{model}.json",),
        ("model_vim_base*.json",), _latency, "fig8_latency",
    ),
    Artefact(
        "fig9a", OURO, "figure 9a", f"128 synthetic images are enough, fewer are worse {_PUBLISHED}",
        "8, 32 and 128 images: two seeds, 1000 real images; three seeds, 500 scenes", *_GENERATION, ("ablations_*.json",),
        _study("Number of images", ("128", "8"), ("128", "32")), "fig9_samples_windows_refresh",
    ),
    Artefact(
        "fig9b", OURO, "figure 9b", f"a window of 5 x 5 with 12 positives is best {_PUBLISHED}",
        "five pairs of window and positives: two seeds, 1000 real images; three seeds, 500 scenes", *_GENERATION, ("ablations_*.json",),
        _study("Neighborhood and positives", ("5x5, 12", "3x3, 4"), ("5x5, 12", "5x5, 4"),
               ("5x5, 12", "7x7, 24")), "fig9_samples_windows_refresh",
    ),
    Artefact(
        "fig9c", OURO, "figure 9c", f"neighbors weighted by delta are better than even weights {_PUBLISHED}",
        "both weights and no h_p: two seeds, 1000 real images; three seeds, 500 scenes", *_GENERATION, ("ablations_*.json",),
        _study("Weights of the neighbors", ("delta", "uniform")), "fig9_samples_windows_refresh",
    ),
    Artefact(
        "fig9d", OURO, "figure 9, refresh period",
        "a period of 10 steps, chosen for latency; from its context: longer ones are no better, shorter ones no worse "
        f"{_PUBLISHED}",
        "periods of 1 to all steps, without learned step sizes, synthetic images, two seeds, 1000 images", *_PARTS, ("ablations_*.json",),
        _study("Refresh period of the outlier list", ("10", "1"), ("10", "5")), "fig9_samples_windows_refresh",
    ),
    Artefact(
        "table1", OURO, "table 1", "not public; from its context: methods before it, side by side",
        "twelve methods on one bench, scopes, widths and sets", *_METHODS,
        ("methods_zoo.json",), _no_claim("no order is claimed that a source names"), "table1_table2_accuracy",
    ),
    Artefact(
        "table2", OURO, "table 2",
        f"classification, Vim-S: W4A4 75.9 on 128 synthetic images against PTQ4VM 69.6 and QMamba 33.6 on real ones {_PUBLISHED}",
        "the same methods: 64 images of CIFAR-10, three seeds, 2000 images, paired; 32 images each, 250 scenes",
        (*_METHODS[0], *_QUANTIZATION[0], _NAMED), _METHODS[1],
        ("methods_zoo.json", "quantization_*.json"), _classification, "table1_table2_accuracy",
    ),
    Artefact(
        "table3", OURO, "table 3", "not public in figures; from its context: detection and segmentation, ahead of other methods",
        "VMamba with UPerNet and with RetinaNet on drawn scenes of several objects, backbone's linear layers; stored: "
        "OuroMamba-Quant, clipped static, dynamic rounding and PTQ4VM on 32 real images; detection on noise as well",
        tuple(command.format(name=name) for name in ("vmamba_nano_seg", "vmamba_nano_det") for command in (_TASK, _TASK_SETS)),
        tuple(_TASK_QUICK.format(name=name) for name in ("vmamba_nano_seg", "vmamba_nano_det")),
        ("tasks_vmamba_*.json",), _other_tasks, "table3_table4_tasks",
    ),
    Artefact(
        "table4", OURO, "table 4", "not public in figures; from its context: a diffusion model's FID, ahead of other methods",
        "a class-conditional ZigMa on digits of 16 pixels, Fréchet distance of an embedded judge's features (no FID); stored: the same "
        "methods and images as in table 3",
        (_TASK.format(name="zigma_nano"),), (_TASK_QUICK.format(name="zigma_nano"),), ("tasks_zigma_nano.json",), _other_tasks,
        "table3_table4_tasks",
    ),
    Artefact(
        "table5", OURO, "table 5", "not public; from its context: parts of the quantizer one by one",
        "one static step, a step per time step, dynamic outliers, learned steps; W4A3, synthetic images, two seeds, 1000 images",
        *_PARTS, ("ablations_*.json",),
        _study("Parts of the quantizer", ("a step per time step", "one static step"),
               ("dynamic outliers", "a step per time step"), ("learned steps", "dynamic outliers")), "table5_table6_ablations",
    ),
    Artefact(
        "table6", OURO, "table 6",
        f"terms of the loss, Vim-S W4A8: L_C + L_O 79.8, L_C 75.5, PSE + L_O 73.5, L_O 21.7 {_PUBLISHED}",
        "the same terms: two seeds, 1000 real images; three seeds, 500 scenes", *_GENERATION, ("ablations_*.json",),
        _study("Terms of the loss", ("L_C + L_O", "L_O"), ("L_C + L_O", "L_C")), "table5_table6_ablations",
    ),
    Artefact(
        "kscaled-accuracy", KSCALED, "accuracy at 8 bits", "W8A8 with an 8-bit hidden state loses 0.8 to 1.2 points [abstract]",
        "scope full, 128 real images, 500 scenes or digits",
        ("ouro bench quantization {model} --method kscale --bits w8a8 --scope full --calib real=real:128{of} --limit 500 "
         "--out {out}/kscale_full_{model}.json",),
        ("ouro bench quantization {model} --method kscale --bits w8a8 --scope full --calib real=real:8{of} --seeds 1 --limit 100 "
         "--out {out}/kscale_full_{model}.json",),
        ("kscale_full_*.json",), _kscaled, "kscaled_hidden_state",
    ),
    Artefact(
        "kscaled-state", KSCALED, "reparameterized hidden state",
        "h divided by rank-1 factors is rounded with less error [abstract, code]",
        "error of h in every layer, real images",
        ("ouro bench state {model} --calib real:32{of} --out {out}/state_{model}.json",),
        ("ouro bench state {model} --calib real:4{of} --out {out}/state_{model}.json",),
        ("state_*.json",), _state, "kscaled_hidden_state",
    ),
    Artefact(
        "ouro-plus", OURS, "OuroMamba+ at equal bits",
        "ours, no paper's: at equal mean bits of activations it is at least a point over OuroMamba-Quant and over dynamic "
        "per-token rounding",
        "mean bits of 3.25, 64 real images, two or three seeds; every method has its outliers or its widths chosen for the "
        "target; scope ssm is stored without the part that gives every method an A of 8 bits",
        ("ouro bench equal {model} --scope lin --calib real:64{of} --out {out}/equal_{model}_lin.json",
         "ouro bench equal {model} --scope ssm --target 3.25 --calib real:64{of} --out {out}/equal_{model}_ssm.json"),
        ("ouro bench equal {model} --scope lin --target 3.25 --calib real:8{of} --seeds 1 --limit 100 "
         "--out {out}/equal_{model}_lin.json",),
        ("equal_*.json",), _equal, "beyond_ouro_plus",
    ),
)  # fmt: skip


def artefact(name: str) -> Artefact:
    """The entry of this name.

    Raises:
        ValueError: there is none.
    """
    for one in ARTEFACTS:
        if one.name == name:
            return one
    raise ValueError(f"unknown figure or table {name!r}; known: {', '.join(one.name for one in ARTEFACTS)}")
