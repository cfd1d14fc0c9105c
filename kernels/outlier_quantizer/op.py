"""Rows to integer codes in two precisions, by a list of outlier channels that grows over a window of time steps.

Source: OuroMamba (arXiv 2503.10959, OuroMamba-Quant), as `ouro.quant.outliers` and `ouro.quant.packed.integer` define it for
the library: at a step where the channels not yet listed do not fit the static grid, those of them with
|x| > mean + kappa std (of these channels, in float64) join the list, which is cleared every `refresh` steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ouro.kernels.launch import choose, divided, first, interpreted, wrong_dtype, wrong_shape

MODES = ("exact", "grid")
LARGEST_C = 8192
"""A row stays in the registers of one program."""


class OutlierCodes(NamedTuple):
    """Element (b, l, c) stands for scale (codes - zero), plus outlier_scale (outliers - outlier_zero) if there are any.

    codes, outliers: int8 [b l c]. scale, outlier_scale: float32 [b l]; NaN where the row held NaN, or outliers infinity.
    zero, outlier_zero: int32 [b l]; None for 0. joined: int8 [b w c], at which step of its window a channel joined the
    list, `refresh` if it did not; see `listed_of`.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    outliers: Tensor | None
    outlier_scale: Tensor | None
    outlier_zero: Tensor | None
    joined: Tensor


def quantize_outliers(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    theta: Tensor | None = None,
    *,
    bits: int = 4,
    outlier_bits: int | None = 8,
    kappa: float = 3.0,
    refresh: int = 10,
    mode: str = "exact",
    reverse: bool = False,
    backend: str = "auto",
) -> OutlierCodes:
    """Codes of x in one pass over it.

    Args:
        x: [b l c], float32, float16 or bfloat16; reckoned with in float32.
        scale: static inlier step per time step [l], float32, positive.
        zero: zero point per time step [l], whole numbers in 0..2^bits - 1: grids are asymmetric then. None: symmetric.
        theta: threshold per time step [l]; None computes mean + kappa std of every row on the spot.
        outlier_bits: 2 to 8; None leaves outliers in floating point, to be taken from x where `listed_of` says so.
        refresh: steps after which the list is cleared, 1 to 127.
        mode: "exact" rounds listed channels with a step of their own per row. "grid" puts them on the inliers' step with
            outlier_bits: one operand of codes; a row whose outliers do not fit gets a wider step, and inliers are
            clipped where they always were. Symmetric grids only.
        reverse: time runs from the last token to the first, as if x had been flipped; outputs are in x's own order.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: an operand or a number that no backend takes, or the named backend cannot run here.
    """
    batch, L, C = x.shape if x.dim() == 3 else (0, 0, 0)
    tables = {"scale": scale, "zero": zero, "theta": theta}
    invalid = first(
        None if 0 not in (batch, L, C) else f"x is {tuple(x.shape)}, expected a non-empty (b, l, c)",
        wrong_dtype({"x": x}, torch.float32, torch.float16, torch.bfloat16),
        wrong_dtype(tables, torch.float32),
        *(wrong_shape(name, table, "l", L) for name, table in tables.items()),
        *_wrong_numbers(bits, outlier_bits, refresh, mode, zero is None),
    )
    too_wide = f"x has {C} channels, a row of at most {LARGEST_C} fits" if C > LARGEST_C else None
    chosen = choose("outlier_quantizer", backend, {"x": x} | tables, invalid=invalid, unsupported=too_wide)
    settings = {"bits": bits, "outlier_bits": outlier_bits, "kappa": kappa, "refresh": refresh, "reverse": reverse}
    run = _triton if chosen == "triton" else reference
    return run(x, scale, zero, theta, mode=mode, **settings)


def reference(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    theta: Tensor | None = None,
    *,
    bits: int = 4,
    outlier_bits: int | None = 8,
    kappa: float = 3.0,
    refresh: int = 10,
    mode: str = "exact",
    reverse: bool = False,
) -> OutlierCodes:
    """The definition of `quantize_outliers`."""
    if reverse:
        codes = reference(
            x.flip(1), scale, zero, theta,
            bits=bits, outlier_bits=outlier_bits, kappa=kappa, refresh=refresh, mode=mode,
        )  # fmt: skip
        return OutlierCodes(*(None if part is None else part.flip(1) for part in codes[:-1]), codes.joined)
    x = x.float()
    high = 2 ** (bits - 1) - 1
    joined = _joined(x, scale, theta, high, zero is None, kappa, refresh)
    listed = listed_of(joined, x.shape[1], refresh)
    large = x.masked_fill(~listed, 0)
    if mode == "grid":
        assert outlier_bits is not None
        top = 2 ** (outlier_bits - 1) - 1
        step = torch.maximum(scale[:, None], divided(large.abs().amax(-1, keepdim=True), top))
        edge = torch.where(listed, top * step, high * scale[:, None])
        codes, row_scale, _ = _codes(x.clamp(-edge, edge), step, None, top)
        return OutlierCodes(codes, row_scale, None, None, None, None, joined)
    codes, row_scale, row_zero = _codes(x, scale[:, None], None if zero is None else zero[:, None], high, listed)
    if outlier_bits is None:
        return OutlierCodes(codes, row_scale, row_zero, None, None, None, joined)
    top = 2 ** (outlier_bits - 1) - 1
    if zero is None:
        own, origin = _positive(divided(large.abs().amax(-1, keepdim=True), top)), None
    else:
        low, up = large.amin(-1, keepdim=True).clamp(max=0), large.amax(-1, keepdim=True).clamp(min=0)
        own = _positive(divided(up - low, 2 * top + 1))
        origin = -(low / own).round()
    return OutlierCodes(codes, row_scale, row_zero, *_codes(x, own, origin, top, ~listed), joined)


def listed_of(joined: Tensor, steps: int, refresh: int, *, reverse: bool = False) -> Tensor:
    """The list at every step, bool [b l c], from the steps of the windows at which channels joined [b w c]."""
    phase = torch.arange(steps, device=joined.device)
    listed = joined.repeat_interleave(refresh, 1)[:, :steps] <= (phase % refresh)[:, None]
    return listed.flip(1) if reverse else listed


def _wrong_numbers(bits: int, outlier_bits: int | None, refresh: int, mode: str, signed: bool) -> list[str | None]:
    """What is wrong with the settings, if anything."""
    return [
        None if 2 <= bits <= 8 else f"bits is {bits}, expected 2 to 8",
        None if outlier_bits is None or 2 <= outlier_bits <= 8 else f"outlier_bits is {outlier_bits}, expected 2 to 8",
        None if 1 <= refresh <= 127 else f"refresh is {refresh}, expected 1 to 127",
        None if mode in MODES else f"unknown mode {mode!r}; known: {', '.join(MODES)}",
        None if mode != "grid" or signed else "mode 'grid' is for symmetric grids, a zero point was given",
        None if mode != "grid" or outlier_bits is not None else "mode 'grid' needs outlier_bits",
    ]


def _joined(
    x: Tensor, scale: Tensor, theta: Tensor | None, high: int, signed: bool, kappa: float, refresh: int
) -> Tensor:
    """At which step of its window every channel joined the list, int8 [b w c]."""
    batch, L, C = x.shape
    joined = torch.full((batch, -(-L // refresh), C), refresh, dtype=torch.int8, device=x.device)
    limit = scale * (high if signed else 2 * high + 1)
    # windows are independent: step `phase` of all of them at once
    for phase in range(min(refresh, L)):
        now, current = x[:, phase::refresh], joined[:, : -(-(L - phase) // refresh)]
        listed = current < refresh
        rest = now.masked_fill(listed, 0)
        size = rest.abs().double()
        if theta is None:
            count = (~listed).sum(-1, keepdim=True)
            mean = size.sum(-1, keepdim=True) / count
            squares = (size - mean).square().masked_fill(listed, 0).sum(-1, keepdim=True)
            bound = mean + kappa * (squares / (count - 1)).sqrt()
        else:
            bound = theta[phase::refresh, None]
        up, down = rest.amax(-1), -rest.amin(-1)
        span = torch.maximum(up, down) if signed else up.clamp(min=0) + down.clamp(min=0)
        joins = (size > bound) & (span > limit[phase::refresh])[..., None]
        current.masked_fill_(joins & ~listed, phase)
    return joined


def _positive(step: Tensor) -> Tensor:
    return torch.where(step > 0, step, 1.0)


def _codes(
    x: Tensor, step: Tensor, zero: Tensor | None, high: int, left_out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(codes [b l c], step [b l], zero [b l]); asymmetric codes 0..2 high + 1 and their zero lowered by high + 1."""
    codes = (x / step).round()
    if zero is None:
        codes, origin = codes.clamp(-high, high), torch.zeros_like(step)
    else:
        codes, origin = (codes + zero).clamp(0, 2 * high + 1) - (high + 1), zero.nan_to_num(0.0) - (high + 1)
    unknown = codes.isnan().any(-1, keepdim=True)
    whole = codes.masked_fill(unknown, 0)
    if left_out is not None:
        whole = torch.where(left_out, origin, whole)
    rows = x[..., :1]
    step = step.expand_as(rows).masked_fill(unknown, torch.nan).squeeze(-1)
    return whole.to(torch.int8), step, None if zero is None else origin.expand_as(rows).squeeze(-1).to(torch.int32)


def _triton(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    theta: Tensor | None,
    *,
    bits: int,
    outlier_bits: int | None,
    kappa: float,
    refresh: int,
    mode: str,
    reverse: bool,
) -> OutlierCodes:
    from ouro.kernels.outlier_quantizer.kernel import quantize_window

    batch, L, C = x.shape
    windows = -(-L // refresh)
    codes, joined = torch.empty_like(x, dtype=torch.int8), x.new_empty((batch, windows, C), dtype=torch.int8)
    row_scale = x.new_empty((batch, L), dtype=torch.float32)
    row_zero = None if zero is None else x.new_empty((batch, L), dtype=torch.int32)
    outliers = outlier_scale = outlier_zero = None
    if mode == "exact" and outlier_bits is not None:
        outliers, outlier_scale = torch.empty_like(codes), torch.empty_like(row_scale)
        outlier_zero = None if row_zero is None else torch.empty_like(row_zero)
    block = 1 << (C - 1).bit_length()
    quantize_window[(windows, batch)](
        x, scale, zero, theta, codes, row_scale, row_zero, outliers, outlier_scale, outlier_zero, joined,
        L, C, windows,
        BLOCK=block,
        REFRESH=refresh,
        HIGH=2 ** (bits - 1) - 1,
        OUTLIER_HIGH=0 if outlier_bits is None else 2 ** (outlier_bits - 1) - 1,
        KAPPA=kappa,
        SIGNED=zero is None,
        HAS_THETA=theta is not None,
        GRID=mode == "grid",
        REVERSE=reverse,
        FUSED=not interpreted(),
        num_warps=warps(block, batch * windows),
    )  # fmt: skip
    return OutlierCodes(codes, row_scale, row_zero, outliers, outlier_scale, outlier_zero, joined)


def warps(block: int, programs: int) -> int:
    """Per program: 16 channels a lane where programs fill a GPU, 4 where their own time is what counts."""
    lanes = block // (16 if programs >= 1024 else 4)
    return min(8, max(1, lanes // 32))
