"""The file of a packed model brings it back bit for bit, and holds no weight twice."""

import re

import pytest
import torch

from ouro.models import create_model
from ouro.quant.packed.files import packed_tensors, restore, weighs
from ouro.quant.packed.lower import lower
from ouro.store import read_tensors, write_tensors


def fresh():
    return create_model("vim_nano", width=32, depth=2, image=28)


@pytest.mark.parametrize("floats", ["fp32", "fp16"])
def test_the_file_brings_the_model_back(quantized, images, tmp_path, floats):
    simulated, calibration = quantized
    packed = lower(simulated)
    path = write_tensors(tmp_path / "packed.safetensors", *packed_tensors(packed, calibration, floats))
    tensors, metadata = read_tensors(path)
    restored, again = restore(fresh(), tensors, metadata)
    assert again.plan == calibration.plan and again.provenance == calibration.provenance
    with torch.no_grad():
        logits = restored(images)
        if floats == "fp32":
            assert torch.equal(logits, packed(images))
    assert logits.isfinite().all() and all(not p.requires_grad for p in restored.parameters())
    rewritten, header = packed_tensors(restored, again, floats)
    assert header == metadata and all(torch.equal(tensors[key], rewritten[key]) for key in tensors.keys() | rewritten)


def test_no_weight_is_stored_in_floating_point_beside_its_codes(quantized):
    simulated, calibration = quantized
    tensors, _ = packed_tensors(lower(simulated), calibration)
    codes = {key.removesuffix(".tap_w.quantizer.packed") for key in tensors if key.endswith(".packed")}
    rounded = [path for path, spec in calibration.plan.sites.items() if path.endswith("tap_w") and spec.bits < 32]
    assert len(codes) == len(rounded) >= 12
    for owner in codes:
        assert f"{owner}.weight" not in tensors and f"{owner}.proj.weight" not in tensors
        assert not any(key.startswith(f"{owner}.tap_w.quantizer.rounding") for key in tensors)
    parts = weighs(tensors)
    assert sum(parts.values()) == sum(x.numel() * x.element_size() for x in tensors.values())
    weights = {path: simulated.get_submodule(path.removesuffix(".tap_w")) for path in rounded}
    count = sum(
        sum(p.numel() for name, p in owner.named_parameters() if p.dim() > 1 and "quantizer" not in name)
        for owner in weights.values()
    )
    width = max(spec.bits for path, spec in calibration.plan.sites.items() if path in rounded)
    assert parts["codes"] <= count * (1 if width > 4 else 0.6)


def refuses(message, call):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_a_model_that_is_not_packed_and_unknown_floats_are_refused(small):
    simulated, calibration = small
    refuses("the model is not packed; lower(model) first", lambda: packed_tensors(simulated, calibration))
    packed = lower(simulated)
    refuses("floats is 'bf16'; known: fp32, fp16", lambda: packed_tensors(packed, calibration, "bf16"))


def test_damaged_files_and_other_models_are_refused(small):
    simulated, calibration = small
    tensors, metadata = packed_tensors(lower(simulated), calibration)
    message = "this is no packed model: its format is None, expected 'ouro packed 1'"
    refuses(message, lambda: restore(fresh(), tensors, {}))
    path = "layers.0.mixer.in_proj.tap_w"
    gone = {key: x for key, x in tensors.items() if key != f"{path}.quantizer.scale"}
    refuses(f"'{path}' lacks 128 steps that can be used; quantize again", lambda: restore(fresh(), gone, metadata))
    gone = {key: x for key, x in tensors.items() if key != "pos_embed"}
    message = "the file lacks 'pos_embed'; was it packed from another model than vim_nano?"
    refuses(message, lambda: restore(fresh(), gone, metadata))
    lost = tensors | {"pos_embed": tensors["pos_embed"] * torch.nan}
    refuses("'pos_embed' holds NaN or infinity; quantize again", lambda: restore(fresh(), lost, metadata))
    shallow = create_model("vim_nano", width=32, depth=1, image=28)
    message = "'layers.1.mixer.in_proj.tap_w' is no weight of vim_nano; was it packed from another model?"
    refuses(message, lambda: restore(shallow, tensors, metadata))
    wide = create_model("vim_nano", width=64, depth=2, image=28)
    message = f"'{path}' lacks 256 steps that can be used; quantize again"
    refuses(message, lambda: restore(wide, tensors, metadata))
