"""What trials damage: small files of every form, made once by the project itself before the campaign begins."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ouro.jobs.bench.compare import CompareSpec, compare
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.jobs.sensitivity import SensitivitySpec, measure_sensitivity
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.models import create_model
from ouro.progress import finish
from ouro.store import read_tensors, write_tensors
from ouro.types import ModelSource
from tests import zoo

MODEL = "vim_nano"
TINY: dict[str, Any] = {"width": 32, "depth": 2, "image": 24}
OTHERS = ("vmamba_nano", "localvmamba_nano", "mambavision_nano", "zigma_nano")
"""Small models whose files are damaged beside those of `MODEL`."""


@dataclass(slots=True)
class Material:
    """Files as bytes, by name; `states` are the tensors of models by the name that opens them; `folder` is on disk."""

    folder: Path
    files: dict[str, bytes] = field(default_factory=dict)
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        """The file of `MODEL`, small."""
        return self.folder / "tiny.safetensors"

    @property
    def source(self) -> ModelSource:
        """The small model as jobs take it."""
        return ModelSource(MODEL, str(self.weights))

    @property
    def home(self) -> Path:
        """A folder of finished runs, and one that was stopped."""
        return self.folder / "home"


def synthesis(material: Material, num: int = 4) -> SynthesisSpec:
    """Of the stored set."""
    return SynthesisSpec(material.source, num=num, steps=2, batch=2)


def comparison(material: Material) -> CompareSpec:
    """Of the stored cells."""
    calibs = (("noise", "noise:4"),)
    return CompareSpec(material.source, ("minmax",), ("w4a4", "w8a8"), calibs, (0,), limit=4, data="scenes:4")


def prepared(folder: Path) -> Material:
    """All of it, made in `folder`."""
    material = Material(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = create_model(MODEL, **TINY)
    material.states[MODEL] = {key: value.clone() for key, value in tiny.state_dict().items()}
    write_tensors(material.weights, material.states[MODEL], {"model": MODEL})
    for name in OTHERS:
        material.states[name] = zoo.official(zoo.small(name))
    for name, state in material.states.items():
        contiguous = {key: value.contiguous() for key, value in state.items()}
        material.files[f"{name}.safetensors"] = save(contiguous, {"model": name, "format": "pt"})
        for legacy in (False, True):
            content = {"model": contiguous, "epoch": 3, "args": {"lr": 0.1}} if legacy else contiguous
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=not legacy)
            material.files[f"{name}{'_legacy' * legacy}.pth"] = file.getvalue()
    _jobs(material)
    return material


def _jobs(material: Material) -> None:
    """Runs of the store, and the files that they write."""
    source, home, files = material.source, material.home, material.files
    made = finish(synthesize(synthesis(material), root=home))
    files["set.safetensors"] = Path(made.values["path"]).read_bytes()
    for packed in (False, True):
        for method, bits in (("minmax", "w4a4"), ("ouro", "w4a4o8")):
            options: tuple[tuple[str, Any], ...] = (
                (("steps_per_block", 1), ("candidates", 10)) if method == "ouro" else ()
            )
            spec = QuantizeSpec(source, method, bits, "noise:4", packed=packed, options=options)
            path = finish(quantize(spec, root=home)).values["path"]
            files[f"{'packed' if packed else 'quantized'}_{method}.safetensors"] = Path(path).read_bytes()
    finish(measure_sensitivity(SensitivitySpec(source, "minmax", "w4a4", "noise:4", by="group", limit=4), root=home))
    finish(compare(comparison(material), root=home))


def run_files(material: Material) -> list[Path]:
    """Every file of the stored runs."""
    return sorted(path for path in (material.home / "runs").rglob("*") if path.is_file())


def tensors_of(data: bytes, folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that is held in memory."""
    path = folder / "whole.safetensors"
    path.write_bytes(data)
    return read_tensors(path)


def json_of(path: Path) -> Any:
    """A stored JSON file."""
    return json.loads(path.read_bytes())
