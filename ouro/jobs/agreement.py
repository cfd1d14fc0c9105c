"""A quantized model against the float model on images without labels: how often both say the same."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ouro.data import batches
from ouro.data.source import open_data, own_data
from ouro.jobs.evaluate import EvaluateSpec, opened
from ouro.jobs.provenance import run_info
from ouro.quant.apply import counting, effective_bits
from ouro.tasks import task_of
from ouro.tasks.classification import wilson
from ouro.types import Progress, Report


@dataclass(frozen=True, slots=True)
class AgreementSpec(EvaluateSpec):
    """As for an evaluation, of a source whose name is the path of a quantized file; labels are not used."""


def agreement(spec: AgreementSpec) -> Generator[Progress, None, Report]:
    """Compares what both models answer, and how sure they are, one Progress per batch.

    The report has {model, method, bits, scope, calib, data, n, agreement, ci95, kl, effective_bits, seconds, device,
    seed}: `agreement` is to which part the answers are the float model's, with its 95 % interval, `kl` the mean
    divergence of its task, of a classifier KL(float || quantized) in nats. Its array "same" is the part of each image.

    Raises:
        ValueError: no quantized file, or no such images.
        RuntimeError: NaN logits.
    """
    started = time.perf_counter()
    source, exact, rounded, calibration = opened(spec.model, spec.device)
    if calibration is None:
        raise ValueError(f"{spec.model} is no quantized file; the float model agrees with itself")
    info = exact.info
    dataset = open_data(spec.data, "test", info)
    total = len(dataset) if spec.limit is None else min(spec.limit, len(dataset))
    task = task_of(info)
    same, apart = [], []
    with torch.no_grad(), counting(rounded):
        for images, _ in batches(dataset, spec.batch, limit=total, mean=info.mean, std=info.std):
            images = images.to(exact.device)
            wanted, given = exact(images), rounded(images)
            task.check(given)
            same.append(task.agreement(wanted, given).cpu())
            apart.append(task.divergence(wanted, given).cpu())
            n = sum(map(len, same))
            yield Progress(n, total, f"the same answer for {torch.cat(same).mean():.3f}", {"n": n})
    shares, divergences = torch.cat(same), torch.cat(apart)
    values: dict[str, Any] = {
        "model": source.name,
        "method": calibration.plan.method,
        "bits": calibration.plan.bits,
        "scope": calibration.plan.scope,
        "calib": calibration.provenance.get("calib"),
        "data": own_data(spec.data, info),
        "n": len(shares),
        "agreement": shares.mean().item(),
        "ci95": _interval(shares),
        "kl": divergences.mean().item(),
        "effective_bits": effective_bits(rounded),
        "seconds": round(time.perf_counter() - started, 2),
        "device": str(exact.device),
        "seed": spec.seed,
    }
    return Report("agreement", values, run_info(spec.seed, started, exact.device), {"same": shares})


def _interval(shares: Tensor) -> list[float]:
    """Wilson's interval of their mean; parts of an answer vary less than whole ones, for which it is exact."""
    return list(wilson(round(shares.sum().item()), len(shares)))
