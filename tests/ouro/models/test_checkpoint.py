"""Foreign checkpoints: every published container loads, nothing in a file is executed, every misfit has a name."""

from __future__ import annotations

import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from ouro.models import create_model, load_checkpoint
from ouro.models.position import resize_pos_embed
from ouro.models.vim import official_key

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


@pytest.mark.parametrize("container", ["model", "model_ema", "ema_model", "state_dict", "ema", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_container_and_prefix_loads(model, other, official, container, prefix, tmp_path) -> None:
    state = {prefix + key: value for key, value in official.items()}
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)


def test_a_pickled_namespace_of_arguments_is_allowed(model, other, official, tmp_path) -> None:
    torch.save({"model": official, "args": argparse.Namespace(lr=1e-3, data="x")}, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)


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


def test_misfits_name_the_first_key_and_both_shapes(model, official, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"'head.bias' is missing \(1 keys missing, 0 unexpected\)"):
        load_checkpoint(model, {key: value for key, value in official.items() if key != "head.bias"})
    with pytest.raises(ValueError, match=r"'extra' is not of this model \(0 keys missing, 1 unexpected\)"):
        load_checkpoint(model, official | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'head.bias' is \(9,\), the model has \(5,\)"):
        load_checkpoint(model, official | {"head.bias": torch.zeros(9)})
    with pytest.raises(ValueError, match="'norm_f.weight' holds NaN or infinity"):
        load_checkpoint(model, official | {"norm_f.weight": torch.full((32,), torch.nan)})
    with pytest.raises(ValueError, match="the given state dict holds no state dict: found 'epoch'"):
        load_checkpoint(model, {"epoch": 3})
    with pytest.raises(ValueError, match="no checkpoint at 'nowhere.pth'; give a .safetensors or .pth file"):
        load_checkpoint(model, "nowhere.pth")


def test_half_precision_weights_come_in_as_float32(model, official) -> None:
    load_checkpoint(model, {key: value.half() for key, value in official.items()})
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_another_resolution_interpolates_the_patches_and_keeps_the_class_token(official) -> None:
    larger = create_model("vim_nano", **(CONFIG | {"image": 24}))
    load_checkpoint(larger, official)
    assert torch.equal(larger.pos_embed[:, 18], official["pos_embed"][:, 8])
    constant = torch.ones(1, 17, 4)
    constant[:, 8] = 7
    resized = resize_pos_embed(constant, 8, (6, 6))
    assert resized.shape == (1, 37, 4) and (resized[:, 18] == 7).all()
    assert (torch.cat([resized[:, :18], resized[:, 19:]], 1) - 1).abs().max() < 1e-6
    with pytest.raises(ValueError, match="position embedding has 15 patch rows, expected a square number"):
        resize_pos_embed(torch.ones(1, 15, 4), None, (4, 4))
