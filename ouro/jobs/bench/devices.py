"""Whether a device gives what the CPU gives, part by part, as a job: what a machine with a GPU has to run once."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ouro.data.source import own_images
from ouro.evaluate.devices import JUDGED, comparing, parts
from ouro.gen.synthesize import initial_images
from ouro.jobs.bench.packed import has_data
from ouro.jobs.inputs import device_of, open_untrained, source_of
from ouro.jobs.provenance import run_info
from ouro.types import ModelSource, Progress, Report


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A model, with its own images where they come along, else noise; and the device that is held against the CPU."""

    model: ModelSource
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))


def compare_devices(spec: DeviceSpec) -> Generator[Progress, None, Report]:
    """The report has {model, gate: {passed, failed}, rows: [{part, max_error, tolerance, passed, note}], seed}.

    Raises:
        ValueError: an unknown model, or no such device.
    """
    started, device = time.perf_counter(), device_of(spec.device)
    model = open_untrained(spec.model, spec.seed)
    known = has_data(model)
    images = own_images(model.info, "test", JUDGED) if known else initial_images(model.info, spec.seed, 0, JUDGED)
    rows: list[dict[str, Any]] = []
    total = sum(1 for _ in parts())
    for row in comparing(model, device, images, seed=spec.seed):
        rows.append(row)
        yield Progress(len(rows), total, f"{row['part']}: {'passed' if row['passed'] else 'FAILED'}", row)
    failed = [row["part"] for row in rows if not row["passed"]]
    values = {
        "model": spec.model.name,
        "gate": {"passed": not failed, "failed": failed},
        "rows": rows,
        "seed": spec.seed,
    }
    return Report("devices", values, run_info(spec.seed, started, device))
