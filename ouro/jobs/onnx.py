"""A model, or a quantized file of one, as an ONNX file, and how far ONNX Runtime's outputs lie from the model's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ouro.jobs.evaluate import opened
from ouro.jobs.inputs import source_of
from ouro.jobs.provenance import run_info
from ouro.onnx import OPSET, input_names, refusal, require_packages, session, to_onnx
from ouro.tasks import task_of
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

_COUNTED = ("Scan", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class OnnxSpec:
    """model: a source, whose name may be the path of a quantized file. fixed_batch: for one image at a time.

    limit: on how many images of noise the two are compared, drawn by the seed.
    """

    model: ModelSource
    out: str
    opset: int = OPSET
    fixed_batch: bool = False
    limit: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))


def onnx(spec: OnnxSpec) -> Generator[Progress, None, Report]:
    """Writes the file and runs it; the report has {model, method, bits, scope, path, bytes, opset, fixed_batch, inputs,
    outputs: {name: shape}, nodes: {Scan, QuantizeLinear, DequantizeLinear}, n, max_difference, largest}.

    Raises:
        ValueError: a package is missing, unknown names, or a method or model that cannot be exported.
        WriteError: the file cannot be written.
    """
    started = time.perf_counter()
    require_packages()
    source, _, model, calibration = opened(spec.model, "cpu")
    if calibration is not None and (why := refusal(model)):
        plan = calibration.plan
        raise ValueError(f"method {plan.method} with {plan.bits} and scope {plan.scope} cannot be exported: {why}")
    yield Progress(0, 2, "exporting")
    path = to_onnx(model, spec.out, opset=spec.opset, dynamic_batch=not spec.fixed_batch)
    yield Progress(1, 2, f"{spec.limit} images by ONNX Runtime")
    given = _shown(model, spec)
    with torch.no_grad():
        wanted = torch.cat([model(*one) for one in given])
    runtime = session(path)
    names = input_names(model)
    found = [runtime.run(None, dict(zip(names, map(Tensor.numpy, one), strict=True)))[0] for one in given]
    difference = (torch.cat(list(map(torch.from_numpy, found))) - wanted).abs().max().item()
    graph = import_module("onnx").load(path).graph
    nodes = Counter(node.op_type for node in graph.node)
    values: dict[str, Any] = {
        "model": source.name,
        "method": calibration.plan.method if calibration else None,
        "bits": calibration.plan.bits if calibration else None,
        "scope": calibration.plan.scope if calibration else None,
        "path": str(path),
        "bytes": path.stat().st_size,
        "opset": spec.opset,
        "fixed_batch": spec.fixed_batch,
        "inputs": {value.name: list(value.shape) for value in runtime.get_inputs()},
        "outputs": {value.name: list(value.shape) for value in runtime.get_outputs()},
        "nodes": {name: nodes[name] for name in _COUNTED},
        "n": len(wanted),
        "max_difference": difference,
        "largest": wanted.abs().max().item(),
    }
    return Report("onnx", values, run_info(spec.seed, started, torch.device("cpu")))


def _shown(model: VisionModel, spec: OnnxSpec) -> list[tuple[Tensor, ...]]:
    """What both are given: as many at a time as the file takes."""
    info = model.info
    images = torch.randn(spec.limit, *info.input_size, generator=torch.Generator().manual_seed(spec.seed))
    given = images, *task_of(model).conditions(info, spec.limit, spec.seed)
    size = 1 if spec.fixed_batch else spec.limit
    return list(zip(*(part.split(size) for part in given), strict=True))
