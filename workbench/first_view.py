"""What the page opens with, computed beforehand: `python -m workbench.first_view` after an embedded model changed.

first_view.json says what was computed, first_view.npz holds its arrays.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from workbench import attention, engine, outliers

MODEL = "vim_nano"
_HERE = Path(__file__).resolve().parent / "first_view"
_KINDS = {"explain": attention.first_spec, "outliers": outliers.first_spec}


def weights_digest(model: str) -> str:
    """SHA-256 of the embedded weights, "" where there are none yet."""
    from ouro.models.zoo import embedded_path

    path = embedded_path(f"{model}.safetensors")
    return sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def save(model: str = MODEL) -> Path:
    """Computes the first view and writes it; returns the path of the JSON file."""
    row = {**engine.model_row(model), "digest": engine.digest(model)}
    images, names = engine.images(model, engine.own_data(model), 0, engine.SHOWN)
    arrays: dict[str, np.ndarray] = {"pictures": images}
    stored: dict[str, Any] = {"model": model, "weights": weights_digest(model), "row": row, "names": list(names)}
    stored["results"] = {}
    for kind, spec_of in _KINDS.items():
        spec = spec_of(model)
        result = engine.explained(**spec) if kind == "explain" else engine.outliers(**spec)
        stored["results"][kind] = {"spec": spec, "values": dict(result.values), "run": dict(result.run)}
        arrays |= {f"{kind}:{name}": _small(array) for name, array in result.arrays.items()}
    np.savez_compressed(_HERE.with_suffix(".npz"), **arrays)
    path = _HERE.with_suffix(".json")
    path.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")
    return path


def _small(array: np.ndarray) -> np.ndarray:
    # half precision is far finer than a color, and halves the file
    return array.astype(np.float16) if array.dtype.kind == "f" and np.abs(array).max(initial=0) < 6e4 else array


def _whole(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def install() -> str:
    """Puts the stored view in place and returns its model; computes nothing."""
    stored = json.loads(_HERE.with_suffix(".json").read_text("utf-8"))
    with np.load(_HERE.with_suffix(".npz"), allow_pickle=False) as file:
        arrays = {name: _whole(file[name]) for name in file.files}
    pictures = (arrays["pictures"], tuple(stored["names"]))
    for kind, entry in stored["results"].items():
        own = {name.partition(":")[2]: array for name, array in arrays.items() if name.startswith(f"{kind}:")}
        result = engine.Result(entry["values"], own, entry["run"])
        engine.preload(kind, entry["spec"], result, stored["row"], pictures)
    return stored["model"]


if __name__ == "__main__":
    sys.stdout.write(f"{save(*sys.argv[1:2])}\n")
