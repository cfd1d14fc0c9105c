"""Arrays and figures as the text that the page reads: base64 for numbers, JSON around them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def b64(array: np.ndarray, dtype: str) -> str:
    """The array's bytes, little-endian and row-major, as base64."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def rows16(matrix: np.ndarray) -> dict[str, str]:
    """A matrix in 16 bits a cell, each row on its own scale: code / 65535 * span + low."""
    low = matrix.min(axis=1)
    span = matrix.max(axis=1) - low
    codes = np.rint((matrix - low[:, None]) / np.where(span > 0, span, 1)[:, None] * 65535)
    return {"codes": b64(codes, "u2"), "low": b64(low, "f4"), "span": b64(span, "f4")}


def pixels(image: np.ndarray) -> str:
    """uint8 [3 h w] as interleaved RGB."""
    return b64(image.transpose(1, 2, 0), "u1")


def png_url(image: np.ndarray) -> str:
    """uint8 [h w 3], or [h w 4] with opacity, as a data URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def text(value: Mapping[str, Any]) -> str:
    """JSON without white space; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
