"""What is sent to the page comes out again as it went in."""

from __future__ import annotations

import base64
import json

import numpy as np

from workbench import pack


def test_rows16_keeps_every_row_to_a_part_in_65535():
    matrix = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32) * np.logspace(-6, 3, 7)[:, None]
    matrix[3] = 2.0
    sent = pack.rows16(matrix)
    codes = np.frombuffer(base64.b64decode(sent["codes"]), "<u2").reshape(7, 7)
    low, span = (np.frombuffer(base64.b64decode(sent[name]), "<f4") for name in ("low", "span"))
    error = np.abs(low[:, None] + codes / 65535 * span[:, None] - matrix)
    assert (error <= 1e-5 * np.maximum(span, 1e-6)[:, None] + 1e-6 * np.abs(matrix)).all()


def test_text_turns_arrays_into_lists_and_nan_into_null():
    value = {"a": np.array([1.0, np.nan]), "b": (np.int64(3), {"c": float("inf")})}
    assert json.loads(pack.text(value)) == {"a": [1.0, None], "b": [3, {"c": None}]}


def test_pixels_are_interleaved():
    image = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2)
    assert list(base64.b64decode(pack.pixels(image))[:6]) == [0, 4, 8, 1, 5, 9]
