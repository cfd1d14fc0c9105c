"""Damage to bytes, to JSON values and to tensors, drawn by a generator of random numbers."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_STRINGS = (
    "", " ", "x", "vim_nano", "../../etc/passwd", "/dev/zero", "a\nb", "\x00", "é" * 9, "1", "nan", "w4a4", "%s%n", "A" * 3000,
    "\ud800",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 3, 255, 2**31, -(2**31), 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, 1e-308)


def drawn_value(rng: random.Random) -> Any:
    """A JSON value of any type."""
    draw = rng.random()
    if draw < 0.15:
        return None
    if draw < 0.25:
        return rng.random() < 0.5
    if draw < 0.5:
        return rng.choice(_NUMBERS)
    if draw < 0.7:
        return rng.choice(_STRINGS)
    if draw < 0.75:
        return rng.choice((float("nan"), float("inf"), -float("inf")))
    if draw < 0.87:
        return [drawn_value(rng) for _ in range(rng.randrange(3))]
    return {rng.choice(_STRINGS): drawn_value(rng) for _ in range(rng.randrange(3))}


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to all values inside of a JSON value, itself first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, item in inner for place in places(item, (*way, key)))]


def damaged_value(rng: random.Random, value: Any, times: int | None = None) -> Any:
    """A copy of a JSON value with one to three places replaced by something else, dropped, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(times or rng.choice((1, 1, 1, 2, 3))):
        *way, last = rng.choice(places(value)) or (None,)
        if last is None and not way:
            # the whole of it seldom
            value = drawn_value(rng) if rng.random() < 0.3 else value
            continue
        holder = value
        for key in way:
            holder = holder[key]
        _change(rng, holder, last)
    return value


def _change(rng: random.Random, holder: Any, key: Any) -> None:
    draw = rng.random()
    item = holder[key]
    if draw < 0.55:
        holder[key] = drawn_value(rng)
    elif draw < 0.7:
        del holder[key]
    elif draw < 0.8 and isinstance(holder, dict):
        holder[rng.choice(_STRINGS)] = holder.pop(key)
    elif draw < 0.88 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(item))
    elif isinstance(item, int | float):
        holder[key] = rng.choice((-item, item + 1, item * 1000, float(item), str(item), [item]))
    elif isinstance(item, str):
        holder[key] = rng.choice(
            (item + "x", item[:-1], item.upper(), [item], {item: item}, item.encode("utf-8", "surrogatepass").hex())
        )
    else:
        holder[key] = drawn_value(rng)


def damaged_json(rng: random.Random, value: Any) -> bytes:
    """A JSON text that is another one than that of this value, or none at all."""
    draw = rng.random()
    if draw < 0.7:
        return dumped(damaged_value(rng, value))
    text = dumped(value)
    if draw < 0.76:
        depth = rng.choice((50, 900, 5000, 100_000))
        return rng.choice((b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    if draw < 0.8:
        return rng.choice((b"", b"\xef\xbb\xbf" + text, text.decode().encode("utf-16"), text + text, b"null", b"\x00"))
    if draw < 0.84:
        # an object's keys twice
        return text.replace(b"{", b'{"format": 1, "model": [], "n": null, "images": {}, "id": 0, ', 1)
    if draw < 0.87:
        return text.replace(b"1", b"1" * 5000, 1)
    return damaged_bytes(rng, text)


def dumped(value: Any) -> bytes:
    """JSON of a value, with lone surrogates escaped."""
    return json.dumps(value).encode()


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Cut, flipped, overwritten, doubled, or with something in front or behind."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
    draw = rng.random()
    if draw < 0.2:
        return data[: rng.choice((0, 1, 7, 8, len(data) // 2, len(data) - 1, rng.randrange(len(data))))]
    out = bytearray(data)
    # what says how the rest is read stands in front or, in a zip archive, at the end
    span = min(len(out), rng.choice((16, 512, 4096, len(out))))
    offset = rng.choice((0, len(out) - span))
    if draw < 0.6:
        for _ in range(rng.choice((1, 1, 1, 4, 32))):
            out[offset + rng.randrange(span)] ^= 1 << rng.randrange(8)
    elif draw < 0.8:
        at, count = offset + rng.randrange(span), rng.choice((1, 2, 4, 8, 64))
        fill = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80", bytes([rng.randrange(256)])))
        out[at : at + count] = fill * count
    elif draw < 0.9:
        at, count = rng.randrange(len(out)), rng.choice((1, 8, 100))
        if rng.random() < 0.5:
            del out[at : at + count]
        else:
            out[at:at] = out[at : at + count]
    else:
        more = bytes(rng.randrange(256) for _ in range(rng.choice((1, 8, 100))))
        out = bytearray(more + data if rng.random() < 0.3 else data + more)
    return bytes(out)


# ---- safetensors -----------------------------------------------------------------------------------------------

_DTYPES = (
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F4", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64",
    "U64", "C64", "F99", "",
)  # fmt: skip


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: Any, body: bytes, *, twice: str = "") -> bytes:
    """A safetensors file; `twice` is a key that its header has a second time."""
    text = dumped(header)
    if twice:
        text = text[:-1] + b", " + dumped(twice) + b": " + dumped(header[twice]) + b"}"
    return struct.pack("<Q", len(text)) + text + body


def damaged_header(rng: random.Random, data: bytes) -> bytes:
    """The file with another header: what a tensor is, where it lies, or what the file says of itself."""
    header, body = split(data)
    keys = [key for key in header if key != "__metadata__"]
    draw = rng.random()
    if draw < 0.05:
        return joined(header, body, twice=rng.choice(list(header)))
    if draw < 0.1:
        return struct.pack("<Q", rng.choice((0, 1, 2**63, 2**64 - 1, len(data), 100_000_001))) + data[8:]
    if draw < 0.4 and keys:
        entry = header[rng.choice(keys)]
        field = rng.choice(("dtype", "shape", "data_offsets"))
        if field == "dtype":
            entry["dtype"] = rng.choice(_DTYPES)
        elif field == "shape":
            entry["shape"] = other_shape(rng, entry["shape"])
        else:
            entry["data_offsets"] = [x + rng.choice((-4, 4, -1, 2**40)) for x in entry["data_offsets"]]
        return joined(header, body)
    if draw < 0.5 and len(keys) > 1:
        one, other = rng.sample(keys, 2)
        if rng.random() < 0.5:
            header[one], header[other] = header[other], header[one]
        else:
            header[rng.choice(_STRINGS) or "y"] = header.pop(one)
        return joined(header, body)
    return joined(damaged_value(rng, header), body)


def damaged_metadata(rng: random.Random, data: bytes) -> bytes:
    """The file with something else in what it says of itself; texts that are JSON are damaged inside."""
    header, body = split(data)
    own = header.get("__metadata__", {})
    key = rng.choice(list(own)) if own else ""
    try:
        inner = json.loads(own[key])
    except (KeyError, ValueError):
        header["__metadata__"] = damaged_value(rng, own)
        return joined(header, body)
    if rng.random() < 0.1:
        del own[key]
    else:
        own[key] = damaged_json(rng, inner).decode("utf-8", "replace")
    return joined(header, body)


def other_shape(rng: random.Random, shape: list[int]) -> list[Any]:
    """As many elements in another order, or another number of them."""
    count = 1
    for side in shape:
        count *= side
    draws: list[list[Any]] = [
        [count], [1, *shape], [*shape, 1], list(reversed(shape)), [], [0], [-1], [2**40, 2**40], [count, 0], [1.5],
        ["3"], [*shape[:-1], (shape or [1])[-1] + 1], [1] * 70,
    ]  # fmt: skip
    return rng.choice(draws)


def damaged_tensors(rng: random.Random, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One to three tensors of another type, shape or value, missing, added or under another name."""
    out = dict(tensors)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        key = rng.choice(list(out) or [""])
        value = out.get(key, torch.zeros(1))
        draw = rng.random()
        if draw < 0.2:
            dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool)
            out[key] = value.to(rng.choice(dtypes))
        elif draw < 0.45:
            value = value.clone()
            if value.is_floating_point() and value.numel():
                bad = rng.choice((torch.nan, torch.inf, -torch.inf, 0.0, -1.0, 1e38, 1e-45))
                flat = value.view(-1)
                flat[rng.randrange(flat.numel()) if rng.random() < 0.7 else slice(None)] = bad
            elif value.numel():
                value.view(-1)[rng.randrange(value.numel())] = rng.choice((0, 1, 127))
            out[key] = value
        elif draw < 0.7:
            draws = (
                value[None], value.flatten(), value.flatten()[:0], value.mT if value.dim() > 1 else value[None],
                value[: max(1, len(value) // 2)] if value.dim() else value[None], torch.zeros(()), torch.zeros(3, 3, 3),
                torch.cat([value, value]) if value.dim() else value,
            )  # fmt: skip
            out[key] = rng.choice(draws).contiguous()
        elif draw < 0.85:
            out.pop(key, None)
        else:
            name = rng.choice(
                ("extra", key + "x", f"module.{key}", "__metadata", "a" * 300, key.partition(".")[2] or "z")
            )
            out[name] = out.pop(key, value) if rng.random() < 0.5 else value.clone()
    return out
