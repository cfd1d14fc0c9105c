"""A model, or a quantized file of one, on held-out images: top-1 with its interval, beside the float model's."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ouro.data import batches
from ouro.data.source import open_data, own_data, transform
from ouro.evaluate.accuracy import judged
from ouro.jobs.distributed import joined
from ouro.jobs.inputs import open_float, open_model, open_quantized, source_of
from ouro.jobs.provenance import run_info
from ouro.quant.apply import add_counts, check_weights, counting, counts, effective_bits
from ouro.quant.audit import require_sealed
from ouro.quant.packed.lower import is_packed
from ouro.registry import MODELS
from ouro.settings import check_counts
from ouro.tasks import Task, task_of
from ouro.types import Calibration, ModelSource, Progress, Report
from ouro.vision import VisionModel

Judged: TypeAlias = tuple[Tensor, ...]
"""A batch: outcomes, the float model's, and of a classifier the answers of both and the labels; see `_ARRAYS`."""
_ARRAYS = ("right", "fp_right", "answers", "fp_answers", "labels")


@dataclass(frozen=True, slots=True)
class EvaluateSpec:
    """model: a source, whose name may be the path of a quantized file. data: see `ouro.data.source.parse`.

    limit: the first so many images of the test split, None for all. batch: does not change the result.

    Raises:
        ValueError: a limit or batch below 1.
    """

    model: ModelSource
    data: str = ""
    limit: int | None = 1000
    batch: int = 64
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        check_counts(self, "limit", "batch")


def evaluate(spec: EvaluateSpec) -> Generator[Progress, None, Report]:
    """Counts right answers, one Progress per batch; the float model sees the same images.

    Started by torchrun, ranks take turns at the batches and every rank has the result: the same images in the same
    batches as in one process, hence the same counts.

    The report has {model, task, metric, method, bits, scope, calib, data, n, top1, ci95, fp_top1, effective_bits, seconds,
    device, seed, transform, weights, ranks} of a classifier, accuracies as parts of 1; another task has the score that
    `metric` names in the place of top1 (miou, ap, frechet), and what else it scores. Image by image, `arrays` has the
    outcomes ("right", of the float model "fp_right"), and of a classifier the classes that both answer and the true one
    ("answers", "fp_answers", "labels"). Effective bits are measured as it runs; `transform` is how images became the input, `weights` what
    `load_checkpoint` took.

    Raises:
        ValueError: unknown names, a limit or batch below 1, or a data set whose classes are not the model's.
        RuntimeError: NaN logits, or a quantized model whose audit has a hole.
    """
    started = time.perf_counter()
    with joined() as ranks:
        source, exact, rounded, calibration = ranks.agreed(lambda: opened(spec.model, spec.device))
        info, name = exact.info, source.name
        data = ranks.agreed(lambda: own_data(spec.data, info))
        dataset = ranks.agreed(lambda: open_data(spec.data, "test", info))
        task = ranks.agreed(lambda: task_of(info))
        ranks.agreed(lambda: task.require(dataset, data, info))
        total = len(dataset) if spec.limit is None else min(spec.limit, len(dataset))
        part = (ranks.rank, ranks.size)
        batches_of_rank = batches(dataset, spec.batch, limit=total, mean=info.mean, std=info.std, part=part)

        def next_batch() -> Judged | None:
            """This rank's next batch in the eyes of both models; None where it has no more."""
            batch = next(batches_of_rank, None)
            if batch is None:
                return None
            ((own, decided),) = judged(rounded, [batch])
            ((exact_own, exact_decided),) = judged(exact, [batch]) if calibration else [(own, decided)]
            labels = batch[1]
            if decided is None or exact_decided is None or labels is None:
                return own, exact_own
            return own, exact_own, decided, exact_decided, labels.cpu()

        # a packed model multiplies codes, its quantizers are not called; it was audited before it was packed
        if calibration is not None and not is_packed(rounded):
            # all ranks look at the same images, so that they agree whether to go on
            first = next(batches(dataset, 2, limit=2, mean=info.mean, std=info.std))[0].to(exact.device)
            ranks.agreed(lambda: require_sealed(rounded, first, calibration.plan))
        seen: list[Judged] = []
        n = 0
        with counting(rounded):
            while n < total:
                seen += [batch for batch in ranks.gathered(next_batch) if batch is not None]
                n = sum(len(batch[0]) for batch in seen)
                yield Progress(n, total, *_so_far(task, seen, n))
        # a task without classes has outcomes alone
        arrays = dict(zip(_ARRAYS, (torch.cat(each) for each in zip(*seen, strict=True)), strict=False))
        right, fp_right = arrays["right"], arrays["fp_right"]
        for number, counted in enumerate(ranks.gathered(lambda: counts(rounded))):
            if number != ranks.rank:
                add_counts(rounded, counted)
    plan, device = None if calibration is None else calibration.plan, exact.device
    scored = task.score(right)
    scored |= {"classes": list(info.class_names)} if "per_class" in scored and info.class_names else {}
    values = {
        "model": name,
        "task": task.name,
        "metric": task.metric,
        "method": "float" if plan is None else plan.method,
        "bits": "w32a32" if plan is None else plan.bits,
        "scope": None if plan is None else plan.scope,
        "calib": None if calibration is None else calibration.provenance.get("calib"),
        "data": data,
        **scored,
        f"fp_{task.metric}": scored[task.metric] if calibration is None else task.primary(fp_right),
        "effective_bits": effective_bits(rounded),
        "seconds": round(time.perf_counter() - started, 2),
        "device": str(device),
        "seed": spec.seed,
        "transform": transform(data, info),
        "weights": None if exact.loaded_from is None else asdict(exact.loaded_from),
        "ranks": ranks.size,
    }
    return Report("evaluate", values, run_info(spec.seed, started, device), arrays)


def _so_far(task: Task, seen: Sequence[Judged], n: int) -> tuple[str, dict[str, Any]]:
    """Words and data of n outcomes, own and the float model's: both scores where these are quick to tell."""
    if not task.quick:
        return f"{n} images", {"n": n}
    score, exact = (task.primary(torch.cat([batch[place] for batch in seen])) for place in (0, 1))
    words = f"{task.metric} {score:.3f} (float {exact:.3f})"
    return words, {"n": n, task.metric: score, f"fp_{task.metric}": exact}


Opened: TypeAlias = tuple[ModelSource, VisionModel, VisionModel, Calibration | None]
"""(source, float model, quantized model, calibration); without a calibration both models are the float one."""


def opened_beside(source: ModelSource, beside: str, device: str) -> Opened:
    """As `opened`, with the quantized model of the file `beside`, unless that is "".

    Raises:
        ValueError: as `opened`; the source is a quantized file itself, or the file is one of another model or other weights.
    """
    made_from, exact, rounded, calibration = opened(source, device)
    if not beside:
        return made_from, exact, rounded, calibration
    if calibration is not None:
        raise ValueError(f"{source.name!r} is a quantized file already; give its model's name, or leave beside out")
    rounded, calibration, other = open_quantized(beside, source.weights, device)
    if other.name != source.name:
        raise ValueError(f"{beside} is a quantized {other.name}, not {source.name}; give a file of {source.name}")
    # a packed file is opened without the float model's weights
    check_weights(exact, calibration)
    return source, exact, rounded, calibration


def opened(source: ModelSource, device: str) -> Opened:
    """(source, float model, quantized model, calibration) of a source or a quantized file; the first gives float twice.

    Weights beside a quantized file say where those that it was made from lie now.

    Raises:
        ValueError: neither a known name nor a file, a file that is no quantized model, or weights that do not fit.
    """
    if source.name in MODELS:
        exact = open_model(source, device)
        return source, exact, exact, None
    if not os.path.isfile(source.name):
        raise ValueError(f"{source.name!r} is neither a model (known: {', '.join(MODELS)}) nor a quantized file")
    if source.config or source.class_names:
        raise ValueError(
            f"{source.name!r} is a quantized file, which knows its model; leave out config and class names"
        )
    rounded, calibration, made_from = open_quantized(source.name, source.weights, device)
    return made_from, open_float(made_from, calibration, device), rounded, calibration
