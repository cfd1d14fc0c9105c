"""Top-1 of a fused model against the one it was made from, on held-out images and without a GPU.

`python -m ouro.jobs.bench.fused_reference [MODEL] [IMAGES]` runs the references of the kernels, their definitions in torch, in the
precision of every format, and writes results/fused_reference_MODEL.json. What it shows is the arithmetic of the formats;
that kernels agree with their references is another gate's to say (`ouro bench kernels`).
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

from ouro.data.source import own_images
from ouro.fused.gate import FORMATS, calibrated, check, fused_of
from ouro.jobs.provenance import run_info
from ouro.models import create_model
from ouro.store import write_json


def main(name: str = "vim_nano", images: str = "1000") -> None:
    """Writes the file, a row per format."""
    started, model = time.perf_counter(), create_model(name, pretrained=True)
    rows, held_out = [], own_images(model.info, "test", int(images))
    seen = own_images(model.info, "calib", 32)
    for format in FORMATS.values():
        simulated = calibrated(model, format, seen)
        verdict = check(model, simulated, fused_of(simulated, format, "reference"), format, held_out)
        rows.append(asdict(verdict))
        line = f"{format.name:7} same top-1 as simulated on {verdict.agreement:.1%}, passed: {verdict.passed}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    made = asdict(run_info(0, started))
    path = Path("results") / f"fused_reference_{name}.json"
    write_json(path, {"op": "fused reference", "model": name, "gates": rows, "n": int(images), **made})


if __name__ == "__main__":
    main(*sys.argv[1:])
