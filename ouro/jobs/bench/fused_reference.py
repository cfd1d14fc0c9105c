"""Top-1 of fused models against the ones they were made from, on held-out images and without a GPU.

`python -m ouro.jobs.bench.fused_reference [MODEL] [IMAGES]` runs the references of the kernels, their definitions in torch, in the
precision of every format, and writes results/fused_reference_MODEL.json. What it shows is the arithmetic of the formats;
that kernels agree with their references is another gate's to say (`ouro bench kernels`).
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

from ouro.fused.gate import FORMATS, held_out
from ouro.jobs.bench.fused import judged
from ouro.jobs.provenance import run_info
from ouro.models import create_model
from ouro.store import write_json


def main(name: str = "vim_nano", images: str = "1000") -> None:
    """Writes the file, a row per format."""
    started, model = time.perf_counter(), create_model(name, pretrained=True)
    rows, chosen = [], held_out(model, int(images))
    for format in FORMATS.values():
        row, _ = judged(model, format, chosen, backend="reference")
        rows.append(row)
        line = f"{format.name:7} same top-1 as simulated on {row['agreement']:.1%}, "
        sys.stdout.write(f"{line}lost {row['lost']}, won {row['won']}, passed: {row['passed']}\n")
        sys.stdout.flush()
    made = asdict(run_info(0, started))
    path = Path("results") / f"fused_reference_{name}.json"
    write_json(path, {"op": "fused reference", "model": name, "gates": rows, "n": int(images), **made})


if __name__ == "__main__":
    main(*sys.argv[1:])
