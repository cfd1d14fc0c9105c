"""What Samples opens with, computed beforehand: `python -m workbench.first_samples` after the model in it changed.

first_samples.json says how the pictures were made and who recognizes them, first_samples.npz holds them.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ouro.progress import finish
from workbench import engine, sets
from workbench.first_view import MODEL, weights_digest

_HERE = Path(__file__).resolve().parent / "first_samples"
_COUNT, _STEPS, _SEED = 8, 400, 0
_TITLES = {
    "synthetic": ("Synthetic", "noise that was optimized until the model saw its class"),
    "real": ("Real", "held-out images, which data-free quantization has none of"),
    "noise": ("Noise", "what the synthetic images began as"),
}


def save(model: str = MODEL) -> Path:
    """Makes the pictures and has them judged; returns the path of the JSON file."""
    arrays, groups = {}, {}
    for key, method in (("synthetic", "ouro"), ("noise", "noise")):
        spec = {"model": model, "method": method, "num": _COUNT, "steps": _STEPS, "seed": _SEED, "batch": _COUNT}
        report = engine.plain(finish(engine.synthesis_job(**spec)))
        arrays[key] = report.arrays["preview"]
        groups[key] = {
            "names": [engine.pixels(model)[2][label] for label in report.arrays["labels"]],
            "recognized": {model: report.values["recognized"]["self"], **report.values["judges"]},
        }
    data = engine.own_data(model)
    arrays["real"], names = engine.images(model, data, 0, _COUNT)
    right = {}
    for judge in groups["synthetic"]["recognized"]:
        job = engine.measure_job("accuracy", model=judge, data=data, limit=_COUNT)
        right[judge] = finish(job).values["top1"]
    groups["real"] = {"names": list(names), "recognized": right}
    made = {"model": model, "weights": weights_digest(model), "data": data, "num": _COUNT, "steps": _STEPS, "seed": _SEED,
            "method": engine.generator_titles()["ouro"], "groups": {key: groups[key] for key in _TITLES}}  # fmt: skip
    np.savez_compressed(_HERE.with_suffix(".npz"), **arrays)
    path = _HERE.with_suffix(".json")
    path.write_text(json.dumps(made, indent=1) + "\n", "utf-8")
    return path


@lru_cache(maxsize=1)
def load() -> tuple[Mapping[str, Any], Mapping[str, np.ndarray]]:
    """How the pictures were made, and the pictures of each group as uint8 [n 3 h w]; computes nothing."""
    made = json.loads(_HERE.with_suffix(".json").read_text("utf-8"))
    with np.load(_HERE.with_suffix(".npz"), allow_pickle=False) as file:
        return made, {name: file[name] for name in file.files}


def gallery() -> str:
    """The groups beside each other in HTML, each with the share that every judge takes for their class."""
    made, pictures = load()
    count = made["num"]
    columns = []
    for key, group in made["groups"].items():
        head, words = _TITLES[key]
        judged = "".join(
            f"<li><b>{round(share * count)} of {count}</b> {html.escape(_judge(name, made['model']))}</li>"
            for name, share in group["recognized"].items()
        )
        names = [name.replace("_", " ") for name in group["names"]]
        columns.append(
            f'<section aria-label="{head} images"><h4>{head}</h4><p class="wb-note">{words}</p>'
            f'{sets.sheet(pictures[key], names, count)}<ul class="wb-judged">{judged}</ul></section>'
        )
    how = (
        f"A stored example, {count} images of each kind: {made['model']} made the synthetic ones by {made['method']}, in "
        f"{made['steps']} steps from seed {made['seed']}; the real ones are held-out {made['data']}. Your own set takes its place."
    )
    return f'<div class="wb-first">{"".join(columns)}</div><p class="wb-note">{html.escape(how)}</p>'


def _judge(name: str, model: str) -> str:
    return "taken for their class by the model itself" if name == model else f"by {name}, trained on its own"


if __name__ == "__main__":
    sys.stdout.write(f"{save(*sys.argv[1:2])}\n")
