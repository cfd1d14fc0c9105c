"""Foreign checkpoints: every published container loads, nothing in a file is executed, every misfit has a name."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ouro.models import create_model, load_checkpoint
from ouro.models.position import resize_pos_embed
from ouro.models.vim import official_key
from ouro.registry import MODELS

CONFIG = {"depth": 1, "image": 16, "patch": 4, "stride": 4, "width": 32, "num_classes": 5}


@pytest.fixture
def model():
    return create_model("vim_nano", **CONFIG)


@pytest.fixture
def other():
    return create_model("vim_nano", **CONFIG)


@pytest.fixture
def official(other):
    return {official_key(key): value.clone() for key, value in other.state_dict().items()}


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("container", ["model", "model_ema", "ema_model", "state_dict", "state_dict_ema", "ema", ""])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "encoder.", "_orig_mod.module.", "module.model."]
)
def test_every_container_and_prefix_loads(model, other, official, container, prefix, tmp_path) -> None:
    state = {prefix + key: value for key, value in official.items()}
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)
    assert model.loaded_from.container == container


def test_averaged_weights_inside_a_container_load(model, other, official, tmp_path) -> None:
    # torch's AveragedModel adds a counter and a prefix
    averaged = {"n_averaged": torch.tensor(7)} | {f"module.{key}": value for key, value in official.items()}
    zeros = {key: torch.zeros_like(value) for key, value in official.items()}
    torch.save({"model_ema": {"state_dict": averaged}, "optimizer": {"state": {}}}, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)
    assert model.loaded_from.container == "model_ema.state_dict"
    torch.save({"model": zeros, "ema": {"state_dict": averaged}}, tmp_path / "x.pth")
    assert not same(load_checkpoint(model, tmp_path / "x.pth"), other)
    assert same(load_checkpoint(model, tmp_path / "x.pth", container="ema"), other)
    assert model.loaded_from.container == "ema.state_dict"


def test_of_a_larger_model_only_the_encoder_is_taken(model, other, official, tmp_path) -> None:
    state = {f"module.encoder.{key}": value for key, value in official.items()}
    torch.save({"state_dict": state | {"module.decoder.weight": torch.zeros(3)}}, tmp_path / "x.pth.tar")
    assert same(load_checkpoint(model, tmp_path / "x.pth.tar"), other)


def test_pickled_arguments_and_numbers_beside_the_weights_are_allowed(model, other, official, tmp_path) -> None:
    beside = {"args": argparse.Namespace(lr=1e-3, data="x"), "best": np.float64(81.5), "last": np.float32(81.5)}
    torch.save({"model": official} | beside, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)


@pytest.fixture
def yacs(monkeypatch):
    """A class that pickles as yacs' CfgNode does, known to Python only while the file is written."""

    class CfgNode(dict):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            self.__dict__ |= {"__immutable__": True, "__deprecated_keys__": set(), "__renamed_keys__": {}}

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", types.SimpleNamespace(CfgNode=CfgNode))
        yield CfgNode


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_yacs_configuration_needs_no_yacs(
    yacs, model, other, official, zipped, tmp_path, monkeypatch
) -> None:
    allowed = torch.serialization.get_safe_globals()
    config = yacs({"MODEL": yacs({"NAME": "x", "DEPTHS": [2, 2]}), "AMP": True})
    torch.save({"model": official, "config": config}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.setitem(sys.modules, "yacs.config", None)
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)
    # allowed while our files are read, not for the rest of the program
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_what_was_loaded_can_be_told(model, official, tmp_path) -> None:
    assert model.loaded_from is None
    torch.save({"model_ema": official}, tmp_path / "x.pth")
    taken = load_checkpoint(model, tmp_path / "x.pth").loaded_from
    assert (taken.source, taken.container) == (str(tmp_path / "x.pth"), "model_ema")
    assert re.fullmatch("[0-9a-f]{12}", taken.revision)
    taken = load_checkpoint(model, official).loaded_from
    assert (taken.source, taken.container, taken.revision) == ("the given state dict", "", "")
    assert create_model("vim_nano", pretrained=True).loaded_from.source == "vim_nano.safetensors"


def test_our_own_safetensors_and_a_state_dict_load(model, other, tmp_path) -> None:
    save_file(other.state_dict(), tmp_path / "x.safetensors")
    assert same(load_checkpoint(model, tmp_path / "x.safetensors"), other)
    assert same(load_checkpoint(create_model("vim_nano", **CONFIG), other.state_dict()), other)


def test_the_container_can_be_chosen(model, other, official, tmp_path) -> None:
    zeros = {key: torch.zeros_like(value) for key, value in official.items()}
    torch.save({"model": zeros, "model_ema": official}, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth", container="model_ema"), other)
    with pytest.raises(ValueError, match=r"x.pth has no 'ema'; it has model, model_ema"):
        load_checkpoint(model, tmp_path / "x.pth", container="ema")


class _Hostile:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_hostile_pickle_does_not_run(model, official, tmp_path) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trap = tmp_path / "trap"
    torch.save({"model": official, "args": _Hostile(str(trap))}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth holds more than tensors and was not opened"):
        load_checkpoint(model, tmp_path / "x.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Hostile(str(trap)), protocol=2))
    with pytest.raises(ValueError, match="raw.pth"):
        load_checkpoint(model, tmp_path / "raw.pth")
    assert not trap.exists()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_or_empty_file_is_one_clear_line(model, other, suffix, tmp_path) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save({"model": other.state_dict()}, path)
    else:
        save_file(other.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"x{suffix} is no readable") as error:
        load_checkpoint(model, path)
    assert "\n" not in str(error.value)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"x{suffix} is empty; download it again"):
        load_checkpoint(model, path)


def _refused(model, source) -> str:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_checkpoint(model, source)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(error.value)


def test_misfits_name_the_first_key_and_both_shapes(model, official) -> None:
    start = "the given state dict does not fit vim_nano: "
    keys = "was it made for another family or depth?"
    size = "was it made for another size or number of classes?"
    assert _refused(model, {key: value for key, value in official.items() if key != "head.bias"}) == (
        f"{start}'head.bias' of (5,) is missing (1 keys missing, 0 unexpected); {keys}"
    )
    assert _refused(model, {key: value for key, value in official.items() if "A_b_log" not in key}) == (
        f"{start}'layers.0.mixer.scans.1.A_log' of (64, 16), officially 'layers.0.mixer.A_b_log', is missing "
        f"(1 keys missing, 0 unexpected); {keys}"
    )
    assert _refused(model, official | {"extra": torch.zeros(1, 2)}) == (
        f"{start}'extra' of (1, 2) is not of this model (0 keys missing, 1 unexpected); {keys}"
    )
    assert _refused(model, official | {"head.bias": torch.zeros(9)}) == (
        f"{start}'head.bias' is (9,), the model has (5,) (1 shapes differ); {size}"
    )
    assert _refused(model, official | {"layers.0.mixer.D_b": torch.zeros(2)}) == (
        f"{start}'layers.0.mixer.scans.1.D' is (2,) (the official 'layers.0.mixer.D_b', (2,)), the model has (64,) "
        f"(1 shapes differ); {size}"
    )
    assert _refused(model, official | {"norm_f.weight": torch.full((32,), torch.nan)}) == (
        "the given state dict: 'norm_f.weight' holds NaN or infinity; the file is damaged or its training diverged"
    )


def test_another_width_names_the_file_s_own_shapes(model) -> None:
    wider = create_model("vim_nano", **(CONFIG | {"width": 48, "image": 24})).state_dict()
    assert _refused(model, wider) == (
        "the given state dict does not fit vim_nano: 'cls_token' is (1, 1, 48), the model has (1, 1, 32) (23 shapes "
        "differ); was it made for another size or number of classes?"
    )
    only = {key: model.state_dict()[key] for key in wider} | {"pos_embed": wider["pos_embed"]}
    assert "'pos_embed' is (1, 37, 48), the model has (1, 17, 32) (1 shapes differ)" in _refused(model, only)
    odd = model.state_dict() | {"pos_embed": torch.zeros(1, 16, 32)}
    assert _refused(model, odd) == (
        "the given state dict does not fit vim_nano: position embedding has 15 patch rows, expected a square number"
    )


def test_a_misfit_of_a_stacked_tensor_names_the_official_one() -> None:
    small = {"width": 32, "depths": (1, 1), "image": 32, "num_classes": 5}
    model = create_model("vmamba_tiny", **small)
    state = {key: torch.zeros(shape) for key, shape in _vmamba_shapes(model).items()}
    stacked = "layers.0.blocks.0.op.x_proj_weight"
    assert _refused(model, state | {stacked: torch.zeros(4, 6, 32)}) == (
        "the given state dict does not fit vmamba_tiny: 'stages.0.blocks.0.mixer.scans.0.x_proj.weight' is (6, 32) "
        f"(part 1 of 4 of the official '{stacked}', (4, 6, 32)), the model has (4, 32) (4 shapes differ); was it made "
        "for another size or number of classes?"
    )
    broken = torch.zeros(4, 4, 32)
    broken[2] = torch.inf
    assert _refused(model, state | {stacked: broken}) == (
        "the given state dict: 'stages.0.blocks.0.mixer.scans.2.x_proj.weight' (part 3 of 4 of the official "
        f"'{stacked}', (4, 4, 32)) holds NaN or infinity; the file is damaged or its training diverged"
    )
    # of a number of scans that does not divide: the official tensor as it is
    assert (
        "'stages.0.blocks.0.mixer.scans.0.D' is (30,) (part 1 of 4 of the official 'layers.0.blocks.0.op.Ds', (30,))"
        in (_refused(model, state | {"layers.0.blocks.0.op.Ds": torch.zeros(30)}))
    )


def test_another_family_is_refused_by_its_first_key(model) -> None:
    small = {"width": 32, "depths": (1, 1), "image": 32, "num_classes": 5}
    vmamba = create_model("vmamba_tiny", **small)
    official = {key: torch.zeros(shape) for key, shape in _vmamba_shapes(vmamba).items()}
    assert _refused(model, official).startswith(
        "the given state dict does not fit vim_nano: 'cls_token' of (1, 1, 32) is missing (24 keys missing, 52 unexpected)"
    )
    assert _refused(vmamba, {official_key(key): value for key, value in model.state_dict().items()}).startswith(
        "the given state dict does not fit vmamba_tiny: 'embed.norm1.weight' of (16,), officially "
        "'patch_embed.2.weight', is missing (78 keys missing, 20 unexpected)"
    )


def test_what_is_no_checkpoint_is_one_line(model, tmp_path) -> None:
    assert _refused(model, {"epoch": 3}) == (
        "the given state dict holds no state dict: found 'epoch'; looked under model, model_ema, ema_model, "
        "state_dict, state_dict_ema, ema and at the top"
    )
    assert _refused(model, "nowhere.pth") == (
        "no checkpoint at 'nowhere.pth'; give a .safetensors or .pth file, a URL, or a Hugging Face file as "
        "'org/name:file' or 'org/name:file@revision'"
    )
    assert _refused(model, tmp_path) == f"{tmp_path} is a folder, expected a .safetensors or .pth file"
    torch.save([1, 2], tmp_path / "x.pth")
    assert _refused(model, tmp_path / "x.pth") == (
        "x.pth holds a list, expected a dict of tensors or a container of one"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_come_in_as_float32(model, other, official, dtype) -> None:
    load_checkpoint(model, {key: value.to(dtype) for key, value in official.items()})
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, other.state_dict()[key].to(dtype).float())


@pytest.mark.parametrize("change", [{"image": 24}, {"stride": 2}, {"image": 24, "stride": 2}, {"image": 12}], ids=str)
def test_another_resolution_or_stride_keeps_the_class_token(official, change) -> None:
    model = create_model("vim_nano", **(CONFIG | change))
    tokens = model.info.stages[0].L
    assert tokens != 17
    load_checkpoint(model, official)
    given, middle = official["pos_embed"], (tokens - 1) // 2
    assert model.pos_embed.shape == (1, tokens, 32) and model.info.cls_index == middle
    assert torch.equal(model.pos_embed[:, middle], given[:, 8])
    patches = torch.cat([given[:, :8], given[:, 9:]], 1).transpose(1, 2).unflatten(2, (4, 4))
    resized = torch.nn.functional.interpolate(patches, size=model.info.stages[0].grid, mode="bicubic").flatten(2)
    found = torch.cat([model.pos_embed[:, :middle], model.pos_embed[:, middle + 1 :]], 1)
    assert torch.equal(found, resized.transpose(1, 2))


def test_positions_are_interpolated_to_any_grid() -> None:
    constant = torch.ones(1, 17, 4)
    constant[:, 8] = 7
    for grid in ((6, 6), (3, 5), (7, 2)):
        cells = grid[0] * grid[1]
        resized = resize_pos_embed(constant, 8, grid)
        assert resized.shape == (1, cells + 1, 4) and (resized[:, cells // 2] == 7).all()
        assert (torch.cat([resized[:, : cells // 2], resized[:, cells // 2 + 1 :]], 1) - 1).abs().max() < 1e-6
    # rows vary with the height, columns with the width
    rows = torch.arange(4.0).repeat_interleave(4).view(1, 16, 1)
    wide = resize_pos_embed(rows, None, (4, 9)).view(4, 9)
    assert torch.allclose(wide, torch.arange(4.0)[:, None].expand(4, 9), atol=1e-5)
    with pytest.raises(ValueError, match="position embedding has 15 patch rows, expected a square number"):
        resize_pos_embed(torch.ones(1, 15, 4), None, (4, 4))


def _vmamba_shapes(model) -> dict[str, tuple[int, ...]]:
    """Official key -> shape of a VMamba: what belongs to four scans is stacked along an axis, or one after the other."""
    shapes = {}
    for key, value in model.state_dict().items():
        there = model.official(key)
        flat = there.key.endswith(("A_logs", "Ds"))
        shape = (there.parts * len(value), *value.shape[1:]) if flat else (there.parts, *value.shape)
        shapes[there.key] = tuple(value.shape) if there.parts == 1 else shape
    return shapes


@pytest.fixture
def vmamba():
    """(a small VMamba, an official state dict with values of its own)."""
    model = create_model("vmamba_tiny", width=16, depths=(1, 1), image=32, num_classes=5)
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(shape, generator=generator) for key, shape in _vmamba_shapes(model).items()}
    return model, state


def test_early_names_and_pointwise_convolutions_of_vmamba_load(vmamba) -> None:
    model, state = vmamba
    wanted = {key: value.clone() for key, value in load_checkpoint(model, state).state_dict().items()}
    early = {
        "patch_embed.0.": "patch_embed.proj.", "patch_embed.2.": "patch_embed.norm.", "classifier.norm.": "norm.",
        "classifier.head.": "head.", ".op.": ".self_attention.", ".blocks.0.norm.": ".blocks.0.ln_1.",
    }  # fmt: skip
    old = {}
    for key, value in state.items():
        for now, then in early.items():
            key = key.replace(now, then)
        pointwise = re.search(r"(in_proj|out_proj|fc1|fc2)\.weight$", key)
        old[key] = value[:, :, None, None] if pointwise else value
    assert not set(early) & set(old) and sum(value.dim() == 4 for value in old.values()) > 8
    found = load_checkpoint(create_model("vmamba_tiny", width=16, depths=(1, 1), image=32, num_classes=5), old)
    assert all(torch.equal(value, wanted[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize("name", [name for name in MODELS if not MODELS.get(name).embedded])
def test_where_published_weights_lie_is_told_to_timm(name) -> None:
    import timm

    weights, cfg = MODELS.get(name).weights, timm.get_pretrained_cfg(name)
    if weights is None:
        assert cfg.url is None and cfg.hf_hub_id is None
    elif weights.startswith("https://"):
        assert cfg.url == weights and cfg.hf_hub_id is None
    else:
        assert f"{cfg.hf_hub_id}:{cfg.hf_hub_filename}" == weights and cfg.url is None
