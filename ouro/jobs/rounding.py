"""One tensor of an image as OuroMamba-Quant rounds it, beside a single static step: steps, rounded values, errors.

Both quantizers are those of the project, fitted to calibration images of the float model: nothing before the tensor is
rounded, and nothing has learned. Source: OuroMamba (arXiv 2503.10959); `ouro.quant.methods.ouro` and `static`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ouro.quant.bits import Bits
from ouro.quant.grid import clipped
from ouro.quant.method import Method, Seen
from ouro.quant.methods.ouro import OuroMambaQuant
from ouro.quant.methods.static import Clipped
from ouro.quant.modules import StepQuantizer, TensorQuantizer
from ouro.quant.observers import Rows
from ouro.quant.outliers import outlier_steps, quantize_with_outliers
from ouro.quant.quantizer import Quantizer
from ouro.quant.rules import OutlierRule
from ouro.taps import Tap


def rounding(
    path: str, tap: Tap, x: Tensor, seen: Tensor, rule: OutlierRule
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(values, arrays) of a tensor of one image under both quantizers.

    OuroMamba-Quant has one static step per time step for inliers; listed channels share one dynamic step at every time step.
    The list grows only where the static range does not suffice, so it may be shorter than one that always grows. The
    static quantizer ("clipped") has one asymmetric grid for all steps and channels.

    Arrays of OuroMamba-Quant: "x" float32 [l c], the tensor; "rounded" float32 [l c], what it is rounded to; "listed"
    uint8 [l c], its outliers; "clipped" uint8 [l c], where a code would lie outside the grid; "step_size", "zero" float32
    [l], of inliers; "outlier_step_size", "outlier_zero" float32 [l], NaN where nothing is listed; "sqnr" float32 [c], in
    dB over all steps, infinite where nothing is lost. Zero points are 0 on symmetric grids. Code q stands for
    (q - zero) * step. Of the static one: "static_rounded", "static_clipped", "static_sqnr", and "static_step_size" and
    "static_zero" float32 [1].

    Values: {bits, outlier_bits, grids: {inliers, outliers, static}}, the least and the greatest code of each.

    Args:
        path, tap: where the tensor is.
        x, seen: the tensor of one image [1 ...] and of calibration images [n ...], as tapped.
        rule: widths, kappa and refresh; whether its grids are signed is for the method to say.
    """
    bits = Bits(rule.bits, rule.bits, rule.outlier_bits)
    method = OuroMambaQuant(kappa=rule.kappa, kappa_delta=rule.kappa, refresh=rule.refresh)
    ours, plain = _fitted(method, bits, path, tap, seen), _fitted(Clipped(), bits, path, tap, seen)
    assert isinstance(ours, StepQuantizer) and ours.rule is not None and isinstance(plain, TensorQuantizer)
    with torch.no_grad():
        rows = Rows(tap.axes)(x)
        arrays = {"x": rows[0]} | _dynamic(rows, ours, ours.rule)
        arrays |= {f"static_{name}": tensor for name, tensor in _static(rows, x, plain).items()}
    outlier_grid = ours.rule.outlier_grid
    assert outlier_grid is not None
    grids = {"inliers": ours.grid, "outliers": outlier_grid, "static": plain.grid}
    values = {"bits": rule.bits, "outlier_bits": rule.outlier_bits}
    return values | {"grids": {name: [grid.low, grid.high] for name, grid in grids.items()}}, arrays


def _fitted(method: Method, bits: Bits, path: str, tap: Tap, seen: Tensor) -> Quantizer:
    spec = method.spec(tap, bits)
    return method.build(tap, spec, method.fit(Seen(path, tap, spec, [seen])))


def _dynamic(rows: Tensor, quantizer: StepQuantizer, rule: OutlierRule) -> dict[str, Tensor]:
    """Arrays of rows [1 l c] under OuroMamba-Quant."""
    scale, zero = quantizer.scale.detach(), None if rule.signed else quantizer.zero.detach()
    rounded, listed = quantize_with_outliers(rows, rule, scale, zero)
    step, own_zero = outlier_steps(rows, listed, rule)
    none = ~listed.any(-1)[0]
    column = None if zero is None else zero[:, None]
    return {
        "rounded": rounded[0],
        "listed": listed[0].to(torch.uint8),
        # the grid of the listed reaches as far as they do
        "clipped": (clipped(rows, scale[:, None], rule.grid, column) & ~listed)[0].to(torch.uint8),
        "step_size": scale,
        "zero": torch.zeros_like(scale) if zero is None else zero,
        "outlier_step_size": step[0, :, 0].masked_fill(none, torch.nan),
        "outlier_zero": (torch.zeros_like(step) if own_zero is None else own_zero)[0, :, 0].masked_fill(
            none, torch.nan
        ),
        "sqnr": sqnr(rows[0], rounded[0]),
    }


def _static(rows: Tensor, x: Tensor, quantizer: TensorQuantizer) -> dict[str, Tensor]:
    """Arrays of rows [1 l c], which x are, under one step for all."""
    scale, zero = quantizer.scale.detach(), quantizer.zero.detach()
    rounded = quantizer.rows(quantizer(x))[0]
    return {
        "rounded": rounded,
        "clipped": clipped(rows, scale, quantizer.grid, zero)[0].to(torch.uint8),
        "step_size": scale,
        "zero": zero,
        "sqnr": sqnr(rows[0], rounded),
    }


def sqnr(x: Tensor, rounded: Tensor) -> Tensor:
    """Signal-to-noise ratio of every channel of rows [l c] over all steps, in dB [c]; infinite without an error."""
    signal, noise = x.double().square().sum(0), (x.double() - rounded.double()).square().sum(0)
    ratio = 10 * torch.log10(signal / noise)
    return ratio.masked_fill(noise == 0, torch.inf).float()
