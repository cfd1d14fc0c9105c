"""Integer codes as they are stored: two to a byte up to 4 bits, one to a byte up to 8."""

from __future__ import annotations

import torch
from torch import Tensor

NIBBLE = 4
"""Codes of up to so many bits are stored two to a byte."""


def stored_bits(bits: int) -> int:
    """Width at which codes of so many bits are stored: 4 or 8.

    Raises:
        ValueError: there is no integer storage for this width.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"codes of {bits} bits cannot be packed; give 2 to 8")
    return NIBBLE if bits <= NIBBLE else 8


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Signed codes [o c] of so many bits -> uint8 [o ceil(c/2)] up to 4 bits, int8 [o c] beyond; see `unpack_codes`.

    Byte j of a row has code j in its low half and code j + ceil(c/2) in its high half, so that each half of a row
    unpacks by itself.

    Raises:
        ValueError: a code does not fit the width, or is no whole number.
    """
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    width = stored_bits(bits)
    if not ((codes >= low) & (codes <= high) & (codes == codes.round())).all():
        raise ValueError(f"codes lie outside {low}..{high}, or are not whole; {bits} bits cannot hold them")
    whole = codes.to(torch.int8)
    if width == 8:
        return whole.contiguous()
    first, second = _halves(whole.shape[1])
    packed = (whole[:, :first] & 15).view(torch.uint8)
    packed[:, :second] |= (whole[:, first:] << 4).view(torch.uint8)
    return packed


def unpack_codes(packed: Tensor, columns: int) -> Tensor:
    """The int8 codes [o c] that `pack_codes` stored; `columns` is c.

    Raises:
        ValueError: the tensor is not what so many codes a row are stored in.
    """
    if packed.dtype == torch.int8 and packed.dim() == 2 and packed.shape[1] == columns:
        return packed
    first, second = _halves(columns)
    if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] != first:
        kind, rows = str(packed.dtype).removeprefix("torch."), len(packed)
        raise ValueError(
            f"packed codes are {kind} {tuple(packed.shape)}, expected int8 {(rows, columns)} or uint8 {(rows, first)}; "
            "were they packed for another layer?"
        )
    signed = packed.view(torch.int8)
    # shifted to the top and back: the sign comes along
    return torch.cat([(signed << 4) >> 4, signed[:, :second] >> 4], dim=1)


def _halves(columns: int) -> tuple[int, int]:
    """How many codes of a row lie in low and how many in high halves of bytes."""
    first = -(-columns // 2)
    return first, columns - first
