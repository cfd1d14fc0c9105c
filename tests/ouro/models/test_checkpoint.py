"""Checkpoint files: every published wrapping comes off, nothing in a file is executed, what is no checkpoint is one line."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ouro.models import create_model, load_checkpoint, read_checkpoint
from ouro.models.vim import official_key
from tests.golden import DATA

CONFIG = {"depth": 1, "image": 16, "patch": 4, "stride": 4, "width": 32, "num_classes": 5}
OFFENDERS = DATA / "offenders"


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


def refused(source, **options) -> str:
    with pytest.raises(ValueError) as error:
        read_checkpoint(source, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("container", ["model", "model_ema", "ema_model", "state_dict", "state_dict_ema", "ema", ""])
@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "encoder.",
        "backbone.",
        "net.",
        "_orig_mod.module.",
        "module.model.backbone.",
    ],
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
    for container in ("ema", "ema.state_dict"):
        assert same(load_checkpoint(model, tmp_path / "x.pth", container=container), other)
        assert model.loaded_from.container == "ema.state_dict"


@pytest.mark.parametrize("mark", ["encoder", "backbone"])
def test_of_a_larger_model_only_the_body_is_taken(model, other, official, mark, tmp_path) -> None:
    state = {f"module.{mark}.{key}": value for key, value in official.items()}
    torch.save({"state_dict": state | {"module.decode_head.weight": torch.zeros(3)}}, tmp_path / "x.pth.tar")
    assert same(load_checkpoint(model, tmp_path / "x.pth.tar"), other)


def test_what_torch_puts_into_names_comes_out(model, other, official) -> None:
    infixes = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
    state = {re.sub(r"^(layers\.\d+\.)", r"\1" + "".join(infixes), key): value for key, value in official.items()}
    assert not set(state) <= set(official)
    assert same(load_checkpoint(model, state), other)


def test_a_state_dict_under_any_name_is_taken_if_it_is_the_only_one(model, other, official) -> None:
    assert same(load_checkpoint(model, {"student": official, "optimizer": {"state": {}}, "epoch": 3}), other)
    assert model.loaded_from.container == "student"
    assert refused({"student": official, "teacher": official}) == (
        "the given state dict holds several state dicts, student, teacher; choose one by container='student'"
    )
    zeros = {key: torch.zeros_like(value) for key, value in official.items()}
    assert same(load_checkpoint(model, {"student": zeros, "teacher": official}, container="teacher"), other)


def test_numbers_beside_the_tensors_are_left_out(model, other, official) -> None:
    # AveragedModel's counter, a step and a note, all at the level of the tensors
    beside = {"n_averaged": 7, "step": 1200, "note": "best", "lr": 1e-3, "config": {"depth": 1}}
    checkpoint = read_checkpoint(official | beside)
    assert checkpoint.others == {"n_averaged": "int", "step": "int", "note": "str", "lr": "float", "config": "dict"}
    assert same(load_checkpoint(model, checkpoint), other)


def test_a_counter_of_batches_may_be_a_number_or_averaged() -> None:
    model = create_model("mambavision_nano", width=16, stem=8, depths=(1, 1), image=56)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    load_checkpoint(model, state | {key: 5 for key in counters})
    assert counters and all(model.state_dict()[key] == 5 for key in counters)
    load_checkpoint(model, state | {key: torch.tensor(7.25) for key in counters})
    assert all(model.state_dict()[key] == 7 and not model.state_dict()[key].is_floating_point() for key in counters)


def test_rename_takes_off_wrappers_of_your_own(model, other, official, tmp_path) -> None:
    state = {f"module.vit.trunk.{key.replace('head.', 'fc.')}": value for key, value in official.items()}
    state |= {"module.text.weight": torch.zeros(2), "module.scale": torch.ones(())}
    torch.save({"model": state}, tmp_path / "x.pth")
    names = {"module.vit.trunk.fc.": "head.", "module.vit.trunk.": "", "module.text.": None, "module.scale": None}
    assert same(load_checkpoint(model, tmp_path / "x.pth", rename=names), other)
    # the names that are left when "module." is off
    bare = {prefix.removeprefix("module."): to for prefix, to in names.items()}
    model = create_model("vim_nano", **CONFIG)
    assert same(load_checkpoint(model, tmp_path / "x.pth", rename=bare), other)

    def trunk(key: str) -> str | None:
        return key.removeprefix("module.vit.trunk.").replace("fc.", "head.") if ".trunk." in key else None

    model = create_model("vim_nano", pretrained=read_checkpoint(tmp_path / "x.pth", rename=trunk))
    assert same(model, other)


def test_a_rename_that_cannot_be_meant_is_one_line(official) -> None:
    state = {f"vit.{key}": value for key, value in official.items()} | {"text.weight": torch.zeros(2)}
    assert refused(state, rename={"vitt.": ""}) == (
        "rename has 'vitt.', and no name in the given state dict begins with it; they begin with text, vit"
    )
    assert refused(state, rename=lambda key: "x") == (
        "the given state dict: two tensors are called 'x' once 'vit.pos_embed' is renamed; check rename"
    )
    assert refused(state, rename=["vit."]) == "rename is a list, expected a mapping of prefixes or a function of names"
    assert refused(state, rename=lambda key: None) == (
        "the given state dict holds no tensor that is left after renaming; check rename"
    )


def test_pickled_arguments_and_numbers_beside_the_weights_are_allowed(model, other, official, tmp_path) -> None:
    beside = {
        "args": argparse.Namespace(lr=1e-3, data="x", output_dir=Path("out")), "best": np.float64(81.5),
        "last": np.float32(81.5), "losses": np.arange(3.0),
    }  # fmt: skip
    torch.save({"model": official} | beside, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)


@pytest.fixture
def pickled_as(monkeypatch):
    """Makes classes that pickle under a foreign name, known to Python only while the file is written."""
    with monkeypatch.context() as patch:

        def make(module: str, name: str, base: type) -> type:
            made = type(name, (base,), {"__module__": module})
            parts = module.split(".")
            for end in range(1, len(parts) + 1):
                patch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
            setattr(sys.modules[module], name, made)
            return made

        yield make


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_yacs_configuration_needs_no_yacs(
    pickled_as, model, other, official, zipped, tmp_path, monkeypatch
) -> None:
    class Frozen(dict):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            self.__dict__ |= {"__immutable__": True, "__deprecated_keys__": set(), "__renamed_keys__": {}}

    yacs = pickled_as("yacs.config", "CfgNode", Frozen)
    allowed = torch.serialization.get_safe_globals()
    config = yacs({"MODEL": yacs({"NAME": "x", "DEPTHS": [2, 2]}), "AMP": True})
    torch.save({"model": official, "config": config}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.setitem(sys.modules, "yacs.config", None)
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)
    # allowed while our files are read, not for the rest of the program
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_what_mmengine_remembers_beside_the_weights_needs_no_mmengine(
    pickled_as, model, other, official, tmp_path, monkeypatch
) -> None:
    class Buffer:
        def __init__(self) -> None:
            self._max_length, self._log_history, self._count_history = 100, np.arange(5.0), np.ones(5, dtype=np.int64)

    buffer = pickled_as("mmengine.logging.history_buffer", "HistoryBuffer", Buffer)
    state = {f"backbone.{key}": value for key, value in official.items()} | {"decode_head.bias": torch.zeros(3)}
    hub = {"log_scalars": {"train/loss": buffer()}, "runtime_info": {"epoch": 3}}
    torch.save({"meta": {"seed": 0}, "state_dict": state, "message_hub": hub}, tmp_path / "x.pth")
    monkeypatch.setitem(sys.modules, "mmengine.logging.history_buffer", None)
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)


def test_what_was_loaded_is_recorded(model, official, tmp_path) -> None:
    assert model.loaded_from is None
    torch.save({"model_ema": official}, tmp_path / "x.pth")
    taken = load_checkpoint(model, tmp_path / "x.pth").loaded_from
    assert (taken.source, taken.container) == (str(tmp_path / "x.pth"), "model_ema")
    assert re.fullmatch("[0-9a-f]{12}", taken.revision) and taken.digest == taken.revision and taken.fresh == ()
    taken = load_checkpoint(model, official).loaded_from
    assert (taken.source, taken.container, taken.revision) == ("the given state dict", "", "")
    assert create_model("vim_nano", pretrained=True).loaded_from.source == "vim_nano.safetensors"


def test_the_digest_of_a_state_dict_is_that_of_its_content(official) -> None:
    digest = read_checkpoint(official).digest
    assert re.fullmatch("[0-9a-f]{12}", digest)
    shuffled = {f"module.{key}": official[key].clone() for key in reversed(official)}
    assert read_checkpoint({"model": shuffled}).digest == digest
    assert read_checkpoint(official | {"pos_embed": official["pos_embed"] + 1}).digest != digest
    assert read_checkpoint({key: value.bfloat16() for key, value in official.items()}).digest != digest


def test_our_own_safetensors_and_a_state_dict_load(model, other, tmp_path) -> None:
    save_file(other.state_dict(), tmp_path / "x.safetensors", {"model": "vim_nano"})
    assert same(load_checkpoint(model, tmp_path / "x.safetensors"), other)
    assert read_checkpoint(tmp_path / "x.safetensors").metadata == {"model": "vim_nano"}
    assert same(load_checkpoint(create_model("vim_nano", **CONFIG), other.state_dict()), other)


def test_the_container_can_be_chosen(model, other, official, tmp_path) -> None:
    zeros = {key: torch.zeros_like(value) for key, value in official.items()}
    torch.save({"model": zeros, "model_ema": official}, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth", container="model_ema"), other)
    assert refused(tmp_path / "x.pth", container="ema") == "x.pth has no 'ema'; it has model, model_ema"


def test_a_checkpoint_is_read_once(model, other, official) -> None:
    checkpoint = read_checkpoint(official)
    assert read_checkpoint(checkpoint) is checkpoint and same(load_checkpoint(model, checkpoint), other)
    assert refused(checkpoint, container="model") == (
        "the given state dict is read already; give container, rename and grid to read_checkpoint"
    )


class _Hostile:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_hostile_pickle_does_not_run(official, tmp_path) -> None:
    trap = tmp_path / "trap"
    torch.save({"model": official, "args": _Hostile(str(trap))}, tmp_path / "x.pth")
    assert refused(tmp_path / "x.pth").startswith("x.pth holds more than tensors and was not opened")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Hostile(str(trap)), protocol=2))
    assert refused(tmp_path / "raw.pth").startswith("raw.pth")
    assert not trap.exists()


REASONS = {
    "op_od_build": "holds no weights: there is nothing in it; give the file of a model",
    "op_param": "is no readable checkpoint ('list' object has no attribute 'detach'); download it again",
    "op_rebuild": "is no readable checkpoint ('NoneType' object has no attribute 'dtype'); download it again",
    "opraw_param": "is no readable checkpoint ('list' object has no attribute 'detach'); download it again",
    "opraw_rebuild": "is no readable checkpoint ('NoneType' object has no attribute 'dtype'); download it again",
    "opraw_tensorcall": "is no readable checkpoint (int too big to convert); download it again",
}


@pytest.mark.parametrize("name", REASONS)
def test_crafted_pickles_are_no_checkpoints(name) -> None:
    assert refused(OFFENDERS / f"{name}.pth") == f"{name}.pth {REASONS[name]}"


class _Crafted(OrderedDict):
    def __reduce__(self):
        return OrderedDict, (), {"items": 1, "keys": 1, "values": 1}, None, iter(self.items())


def test_the_attributes_of_a_pickled_dict_are_not_trusted(model, other, official, tmp_path) -> None:
    torch.save({"model": _Crafted(official)}, tmp_path / "x.pth")
    assert same(load_checkpoint(model, tmp_path / "x.pth"), other)


def test_containers_without_end_are_one_line(tmp_path) -> None:
    endless = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "x.pth")
    assert refused(tmp_path / "x.pth") == (
        "x.pth has containers in containers without end (model.model.model.model.model.model.model.model.model); it is "
        "damaged"
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_or_empty_file_is_one_clear_line(other, suffix, tmp_path) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save({"model": other.state_dict()}, path)
    else:
        save_file(other.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path).startswith(f"x{suffix} is no readable")
    path.write_bytes(b"")
    assert refused(path) == f"x{suffix} is empty; download it again"


def test_what_is_no_checkpoint_is_one_line(other, tmp_path) -> None:
    assert refused({"epoch": 3}) == (
        "the given state dict holds no weights: it has epoch, and no tensors under model, model_ema, ema_model, "
        "state_dict, state_dict_ema, ema or at the top; give the file of a model"
    )
    assert refused("nowhere.pth") == (
        "no checkpoint at 'nowhere.pth'; give a .safetensors or .pth file, a URL, or a Hugging Face file as "
        "'org/name:file' or 'org/name:file@revision'"
    )
    assert refused(tmp_path) == f"{tmp_path} is a folder, expected a .safetensors or .pth file"
    torch.save([1, 2], tmp_path / "x.pth")
    assert refused(tmp_path / "x.pth") == ("x.pth holds a list, expected a dict of tensors or a container of one")
    for source in ([other.state_dict()], 7, None, torch.zeros(2)):
        assert refused(source) == (
            f"weights are given as a {type(source).__name__}, expected a path, a URL, a hub file or a state dict"
        )
    with pytest.raises(ValueError, match="weights are given as a list, expected a path"):
        create_model("vim_nano", pretrained=[1])


def test_an_optimizer_alone_is_one_line(other, tmp_path) -> None:
    optimizer = torch.optim.AdamW(other.parameters())
    other(torch.zeros(1, 3, 16, 16)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "x.pth")
    assert refused(tmp_path / "x.pth") == (
        "x.pth holds no weights: it is the state of an optimizer (optimizer, epoch); give the file of a model"
    )
    assert refused(optimizer.state_dict()) == (
        "the given state dict holds no weights: it is the state of an optimizer (state, param_groups); give the file "
        "of a model"
    )


def test_a_quantized_file_of_ours_is_no_checkpoint(tmp_path) -> None:
    save_file({"a.quantizer.scale": torch.ones(1)}, tmp_path / "x.safetensors", {"format": "ouro calibration 1"})
    assert refused(tmp_path / "x.safetensors") == (
        "x.safetensors is no checkpoint but an 'ouro calibration 1'; a quantized model is opened by its path, as "
        "`ouro evaluate` does"
    )


def _quantized(x):
    return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)


KINDS = {
    "meta": (lambda x: x.to("meta"), "is on the meta device and has no values; save the model after its weights are loaded"),
    "sparse": (lambda x: x.to_sparse(), "is sparse (torch.sparse_coo), weights are dense; save value.to_dense()"),
    "quantized": (_quantized, "is quantized by torch (torch.qint8), weights are floating point; save value.dequantize()"),
    "complex": (lambda x: x.cfloat(), "is complex (torch.complex64), weights are real; was it made for another family?"),
    "nested": (
        lambda x: torch.nested.nested_tensor([x[0], x[1, :3]]),
        "is a nested tensor, weights are dense; save it padded, as torch.nested.to_padded_tensor makes it",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_plain_are_named(official, kind, tmp_path) -> None:
    make, why = KINDS[kind]
    state = official | {"head.weight": make(official["head.weight"])}
    assert refused(state) == f"the given state dict: 'head.weight' {why}"
    torch.save({"model": state}, tmp_path / "x.pth")
    assert refused(tmp_path / "x.pth") == f"x.pth: 'head.weight' {why}"


def test_a_file_holds_as_much_as_its_tensors_claim(official, tmp_path) -> None:
    huge = torch.zeros(1).expand(1 << 40, 3, 4, 4)
    torch.save(official | {"patch_embed.proj.weight": huge}, tmp_path / "x.pth")
    assert refused(tmp_path / "x.pth") == (
        "x.pth: 'patch_embed.proj.weight' claims to be (1099511627776, 3, 4, 4), and the file holds less than that; save "
        "value.contiguous()"
    )
