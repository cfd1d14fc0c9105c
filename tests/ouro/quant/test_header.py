"""Whatever stands in the header of a quantized file in place of what was written is refused by its name."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ouro.models import create_model
from ouro.quant import quantize
from ouro.quant.apply import to_tensors
from ouro.quant.header import read_header

OTHERS = (None, -3, 10**30, 1e30, 0.5, "", "x", [], [1, "a"], {"a": 1}, "Infinity", True)
"""None, numbers, huge and negative ones, lists, objects, words."""
FREE: dict[str, Any] = dict.fromkeys(("seed", "k", "rounds", "samples"), int)
FREE |= dict.fromkeys(("narrow", "rotate", "signed", "power_of_two", "per_channel", "reparam"), bool)
FREE |= dict.fromkeys(("budget", "least"), (float, type(None)))
FREE |= {
    "requested_bits": str,
    "calib": (str, type(None)),
    "blocks": list,
    "channels": list,
    "outlier_bits": type(None),
}
"""Fields that may hold any value of a kind and be as whole as before; how many is for the option itself to say."""


@pytest.fixture(scope="module")
def metadata() -> dict[str, str]:
    model = create_model("vim_nano", width=16, depth=1, image=16)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    apart = {"layers.0.mixer.in_proj.tap_in": {3: 8, 1: 32}}
    return to_tensors(quantize(model, images, method="kscale", bits="w4a8", scope="rec", channels=apart))[1]


def fields(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key in value:
            yield (*path, key)
            yield from fields(value[key], (*path, key))


def put(value: dict[str, Any], path: tuple[str, ...], new: Any) -> dict[str, Any]:
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return changed


def test_the_header_is_read_as_it_was_written(metadata):
    plan, digest, provenance = read_header(metadata)
    assert (plan.method, plan.bits, plan.scope) == ("kscale", "w4a8", "rec")
    assert plan.sites["layers.0.mixer.in_proj.tap_in"].channels == ((1, 32), (3, 8))
    assert digest == metadata["set_digest"] and provenance == json.loads(metadata["provenance"])


@pytest.mark.parametrize("part", ["plan", "provenance"])
def test_every_field_is_checked(metadata, part):
    whole = json.loads(metadata[part])
    kinds: dict[Any, str] = {}
    for path, spec in whole.get("sites", {}).items():
        kinds.setdefault((spec["granularity"], spec["signed"]), path)
    tried = 0
    for path in fields(whole):
        if path[0] == "sites" and len(path) > 1 and path[1] not in kinds.values():
            continue
        for new in OTHERS:
            kind = FREE.get(path[-1], ())
            if isinstance(new, kind) and abs(new if isinstance(new, int) else 0) < 2**31 and new != [1, "a"]:
                continue
            changed = metadata | {part: json.dumps(put(whole, path, new))}
            with pytest.raises(ValueError, match="^this quantized model's header is damaged: ") as caught:
                read_header(changed)
            words = str(caught.value)
            assert "\n" not in words and len(words) < 600
            assert path[-1][:60] in words and words.endswith("; quantize again"), (path, new, words)
            tried += 1
    assert tried > (200 if part == "plan" else 40)


@pytest.mark.parametrize("part", ["plan", "provenance"])
@pytest.mark.parametrize("text", ["null", "true", "3", "[]", '"x"', "", "{", "[" * 100_000, "9" * 10_000], ids=repr)
def test_a_part_that_is_no_object_is_refused(metadata, part, text):
    with pytest.raises(ValueError, match=rf": {part} is .*, expected a JSON object; quantize again$"):
        read_header(metadata | {part: text})


def test_what_is_missing_is_named(metadata):
    plan = json.loads(metadata["plan"])
    path = next(iter(plan["sites"]))
    for field in ("sites", "seed", "options"):
        lacks = {key: value for key, value in plan.items() if key != field}
        with pytest.raises(ValueError, match=rf": plan\.{field} is missing, expected "):
            read_header(metadata | {"plan": json.dumps(lacks)})
    del plan["sites"][path]["narrow"]
    with pytest.raises(ValueError, match=r": plan\.sites\..*\.narrow is missing, expected true or false; "):
        read_header(metadata | {"plan": json.dumps(plan)})
    with pytest.raises(ValueError, match=r": set_digest is '', expected 16 hexadecimal digits; "):
        read_header({key: value for key, value in metadata.items() if key != "set_digest"})


@pytest.mark.parametrize("channels", [[[1, 8], [1, 4]], [[1, 16]], [[1]], [[1, 8, 2]]], ids=str)
def test_channels_are_each_there_once_with_bits_that_there_are(metadata, channels):
    plan = put(json.loads(metadata["plan"]), ("sites", "layers.0.mixer.in_proj.tap_in", "channels"), channels)
    with pytest.raises(ValueError, match=r"plan\.sites\.layers\.0\.mixer\.in_proj\.tap_in\.channels is .*, expected "):
        read_header(metadata | {"plan": json.dumps(plan)})
