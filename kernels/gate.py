"""Whether a kernel computes what its reference defines: the same check for tests and before every benchmark.

`python -m ouro.kernels.gate [KERNEL ...]` writes one JSON line per test case, in Triton's interpreter where
TRITON_INTERPRET=1 is set.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ouro.kernels import NAMES, kernel, rounding
from ouro.kernels.launch import Case, Kernel, KernelError, interpreted

TOLERANCES = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (2e-5, 2e-5),
    torch.float16: (2e-3, 1e-3),
    torch.bfloat16: (1e-2, 1e-2),
}
"""(relative, absolute) of an output by its dtype, unless a kernel names its own; whole numbers are equal."""


SHARES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Errors are counted by how much they take of what their tolerance allows: up to each of these, and more than the last."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """max_error: the largest absolute difference over all outputs. complaint: what differs, None if nothing does.

    share: the largest part that a difference takes of what its tolerance allows; more than 1 does not pass.
    counts: how many values are equal, then how many differ by a share up to each of `SHARES`, then by more.
    """

    max_error: float
    complaint: str | None
    share: float = 0.0
    counts: tuple[int, ...] = ()

    @property
    def passed(self) -> bool:
        return self.complaint is None

    @property
    def finite_error(self) -> float | None:
        """The error for JSON, which has no infinity."""
        return _finite(self.max_error)


def inputs_of(case: Case, device: torch.device, seed: int = 0) -> dict[str, Any]:
    """The operands of a case, the same every time."""
    return case.build(torch.Generator(device).manual_seed(seed), device)


def check(tested: Kernel, case: Case, device: torch.device, seed: int = 0) -> Verdict:
    """Runs one case on Triton and compares every output with the reference, in float64 unless `widen` is off.

    Raises:
        KernelError: Triton cannot run on this device.
    """
    inputs = inputs_of(case, device, seed)
    actual = outputs(tested.op(**inputs, backend="triton"))
    wanted = outputs(tested.reference(**(_widened(inputs) if tested.widen else inputs)))
    return compare(actual, wanted, tested.tolerances, tested.bounds(**inputs) if tested.bounds else {})


def outputs(result: Any) -> dict[str, Tensor | None]:
    """The outputs of a kernel by name; a single tensor is called y."""
    return {"y": result} if isinstance(result, Tensor) else dict(zip(result._fields, result, strict=True))


def compare(
    actual: Mapping[str, Tensor | None],
    wanted: Mapping[str, Tensor | None],
    tolerances: Mapping[str, tuple[float, float]],
    bounds: Mapping[str, Tensor] | None = None,
) -> Verdict:
    """Compares outputs; NaN equals NaN, because a reference that says NaN means it.

    Args:
        tolerances, bounds: what may differ, see `Kernel`; an output with bounds has no tolerance.
    """
    worst, share, complaints = 0.0, 0.0, []
    counts = torch.zeros(len(SHARES) + 2, dtype=torch.int64)
    for name, want in wanted.items():
        got = actual[name]
        if got is None or want is None:
            if got is not want:
                complaints.append(f"{name} is {'missing' if got is None else 'there, though the reference has none'}")
            continue
        if got.shape != want.shape:
            complaints.append(f"{name} is {tuple(got.shape)}, expected {tuple(want.shape)}")
            continue
        a, b = got.double(), want.double()
        if bounds and name in bounds:
            allowed, rule = rounding.SLACK * (bounds[name] + rounding.stored(b, got.dtype)), "the bound of float32"
        else:
            exact = (0.0, 0.0) if not got.is_floating_point() else tolerances.get("", TOLERANCES[got.dtype])
            rtol, atol = tolerances.get(name, exact)
            allowed, rule = atol + rtol * b.abs(), f"rtol {rtol:g}, atol {atol:g}"
        same = (a == b) | (a.isnan() & b.isnan())
        gap = (a - b).abs().masked_fill(same, 0).nan_to_num(torch.inf, torch.inf)
        # where nothing, or infinity, is expected, no difference is small
        part = (gap / allowed).masked_fill(same, 0).nan_to_num(torch.inf, torch.inf)
        wrong = part > 1
        if gap.numel():
            worst, share = max(worst, float(gap.max())), max(share, float(part.max()))
            levels = (torch.bucketize(part, part.new_tensor(SHARES)) + 1).masked_fill(same, 0)
            counts += torch.bincount(levels.flatten(), minlength=len(counts)).cpu()
        if wrong.any():
            place = gap.masked_fill(~wrong, -1).flatten().argmax()
            at = tuple(int(i) for i in torch.unravel_index(place, gap.shape))
            complaints.append(
                f"{name}: {int(wrong.sum())} of {wrong.numel()} differ, worst at {at}: {a[at].item():.9g}, "
                f"expected {b[at].item():.9g} ({rule}: {allowed[at].item():.3g})"
            )
    return Verdict(worst, "; ".join(complaints) or None, share, tuple(counts.tolist()))


def stumbled(error: Exception) -> str:
    """An error of a compiler or a device, which may be pages long, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _widened(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {n: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for n, x in inputs.items()}


def rows(names: Sequence[str], device: torch.device, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Runs the test cases of the named kernels: {kernel, case, passed, max_error, share, counts, complaint} of each.

    What a compiler or a device stumbles over is a complaint of its case; the others go on.

    Raises:
        KernelError: Triton cannot run on this device.
    """
    for name in names:
        for case in kernel(name).cases:
            if not case.bench:
                try:
                    verdict = check(kernel(name), case, device, seed)
                except KernelError:
                    raise
                except Exception as error:  # whatever it is, it is about this case
                    verdict = Verdict(torch.inf, stumbled(error), torch.inf)
                row = {"kernel": name, "case": case.name, "passed": verdict.passed, "max_error": verdict.finite_error}
                row |= {"share": _finite(verdict.share), "counts": list(verdict.counts)}
                yield row | {"complaint": verdict.complaint}


def main(names: Sequence[str]) -> None:
    """Writes the rows of the named kernels, or of all, as they come."""
    # what hardware does with infinities and NaN in silence, numpy mentions
    warnings.simplefilter("ignore", RuntimeWarning)
    for row in rows(names or NAMES, torch.device("cpu" if interpreted() else "cuda")):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
