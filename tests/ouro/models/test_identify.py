"""What a checkpoint says of its model: read from any file of any family, in official names and in ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ouro.models import Checkpoint, config_of, create_model, identify, inspect, read_checkpoint
from ouro.models.shapes import Shapes, ratio, read_image
from ouro.models.vim import Vim
from ouro.registry import MODELS
from tests import zoo

WRAPPERS = ["module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder."]
CONTAINERS = ["model", "model_ema", "state_dict", "ema", "student"]
PATHS = ("h", "h_flip", "w2", "w2_flip")


def vims():
    return st.fixed_dictionaries({
        "width": st.sampled_from([16, 36, 80]), "depth": st.integers(1, 3), "states": st.integers(1, 6),
        "kernel": st.integers(2, 5), "expand": st.integers(1, 3), "num_classes": st.integers(1, 9),
        "patch": st.just(16), "stride": st.just(16), "image": st.sampled_from([16, 48, 64]), "class_token": st.booleans(),
    })  # fmt: skip


def local_vims():
    return st.fixed_dictionaries({
        "width": st.sampled_from([16, 36]), "directions": st.integers(1, 3).map(lambda depth: (PATHS,) * depth),
        "states": st.integers(1, 4), "kernel": st.integers(2, 5), "expand": st.integers(1, 2),
        "num_classes": st.integers(1, 9), "patch": st.just(8), "image": st.sampled_from([16, 32]),
    })  # fmt: skip


def staged(**more):
    return st.fixed_dictionaries({
        "width": st.sampled_from([12, 16]), "expand": st.sampled_from([1.0, 1.3, 1.5, 2.0]), "states": st.integers(1, 3),
        "kernel": st.sampled_from([3, 5]), "num_classes": st.integers(1, 9), "image": st.sampled_from([20, 32, (16, 24)]),
    } | more)  # fmt: skip


def mamba_visions():
    return st.fixed_dictionaries({
        "width": st.sampled_from([16, 32]), "stem": st.sampled_from([8, 12]), "states": st.integers(1, 4),
        "depths": st.tuples(*(st.integers(1, 2),) * 2, st.integers(1, 3), st.integers(1, 2)), "kernel": st.sampled_from([3, 5]),
        "mlp_ratio": st.sampled_from([2.0, 2.7, 4.0]), "layer_scale": st.sampled_from([None, 1e-5]),
        "conv_stages": st.integers(0, 2), "num_classes": st.integers(1, 9), "image": st.just(32),
    })  # fmt: skip


def zigmas():
    return st.fixed_dictionaries({
        "width": st.sampled_from([16, 36]), "depth": st.integers(1, 3), "states": st.integers(1, 4),
        "kernel": st.integers(2, 5), "expand": st.integers(1, 3), "patch": st.integers(1, 2),
        "channels": st.sampled_from([3, 4]), "image": st.sampled_from([4, 8]),
    })  # fmt: skip


# name -> (configs, what no checkpoint says)
FAMILIES: dict[str, tuple[Any, set[str]]] = {
    "vim_tiny_patch16_224": (vims(), set()),
    "localvim_small": (local_vims(), {"directions"}),
    "vmamba_tiny": (
        staged(depths=st.tuples(st.integers(1, 2), st.integers(1, 2)), mlp_ratio=st.sampled_from([2.0, 2.7, 4.0])),
        {"image"},
    ),
    "localvmamba_nano": (
        staged(
            depths=st.just((1, 2)), directions=st.just((PATHS, PATHS[:2], PATHS[1:])), patch=st.sampled_from([2, 4])
        ),
        {"image", "directions"},
    ),
    "mambavision_t": (mamba_visions(), {"image"}),
    "zigma_zigzag8": (zigmas(), set()),
}


@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data())
# an example takes a moment, and the first that fails is small enough
@settings(
    max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_any_model_comes_back_from_any_file(name, data, tmp_path) -> None:
    configs, unsaid = FAMILIES[name]
    config = data.draw(configs)
    if name.startswith("zigma"):
        config |= {"mean": (0.0,) * config["channels"], "std": (1.0,) * config["channels"]}
        unsaid = {"mean", "std"}
    torch.manual_seed(0)
    model = create_model(name, **config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state: Any = zoo.official(model) if data.draw(st.booleans(), "official") else model.state_dict()
    prefix = "".join(data.draw(st.lists(st.sampled_from(WRAPPERS), max_size=3), "prefix"))
    state = {prefix + key: value for key, value in state.items()}
    for container in data.draw(st.lists(st.sampled_from(CONTAINERS), max_size=2), "containers"):
        state = {container: state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(state, tmp_path / "x.pth")
    given = {key: config[key] for key in unsaid if key in config}
    again = create_model(name, pretrained=tmp_path / "x.pth", **given)
    # factors may be others that make the same sizes
    for field in set(config) - {"expand", "mlp_ratio"}:
        assert getattr(again.config, field) == getattr(model.config, field), field
    images = zoo.inputs(model, 2)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    seen = inspect(tmp_path / "x.pth")
    assert seen.family == model.info.family
    # a name whose paths are for as many blocks may not be there
    if "directions" not in unsaid:
        assert (seen.missing, seen.problem, seen.classes) == (0, "", model.info.num_classes)
        assert seen.matched == len(model.state_dict())
        assert seen.parameters == sum(value.numel() for value in model.state_dict().values())


def test_a_vim_of_the_official_script_needs_nothing_but_its_file(tmp_path) -> None:
    model = create_model("vim_tiny_patch16_224", image=64, num_classes=10, depth=2)
    state = {f"module.{key}": value for key, value in zoo.official(model).items()}
    torch.save({"model": state, "model_ema": {}, "epoch": 299, "scaler": {"scale": 65536.0}}, tmp_path / "my.pth")
    again = create_model("vim_tiny_patch16_224", pretrained=tmp_path / "my.pth")
    assert again.info.input_size == (3, 64, 64) and again.info.num_classes == 10 and again.config.depth == 2
    with torch.no_grad():
        assert torch.equal(again(zoo.inputs(model)), model(zoo.inputs(model)))
    # the caller's own word counts more, and what does not fit then is explained
    resized = create_model("vim_tiny_patch16_224", pretrained=tmp_path / "my.pth", image=(96, 32))
    assert resized.info.stages[0].grid == (6, 2)
    with pytest.raises(ValueError, match=r"'layers.1.mixer.*' of .* is missing|is not of this model"):
        create_model("vim_tiny_patch16_224", pretrained=tmp_path / "my.pth", depth=1)
    named = create_model("vim_tiny_patch16_224", pretrained=tmp_path / "my.pth", class_names=tuple("abcdefghij"))
    assert named.info.class_names == tuple("abcdefghij")
    with pytest.raises(ValueError, match="class_names is 3 names, vim_tiny_patch16_224 has 10 classes"):
        create_model("vim_tiny_patch16_224", pretrained=tmp_path / "my.pth", class_names=tuple("abc"))
    assert create_model("vim_tiny_patch16_224", pretrained=tmp_path / "my.pth", num_classes=3).loaded_from.fresh


def test_a_config_is_told_by_what_differs() -> None:
    model = create_model("vim_nano", width=80, depth=5, num_classes=7, image=48)
    checkpoint = read_checkpoint(model.state_dict())
    assert config_of("vim_nano", checkpoint) == {"image": 48, "num_classes": 7, "width": 80, "depth": 5}
    assert config_of("vim_nano", checkpoint, depth=4, width=80) == {"image": 48, "num_classes": 7}
    # the stride leaves no trace: it decides what image the patches are of
    assert config_of("vim_nano", checkpoint, stride=2) == {"image": 26, "num_classes": 7, "width": 80, "depth": 5}
    whole = create_model("vim_nano").state_dict()
    assert config_of("vim_nano", read_checkpoint(whole)) == {}
    # 14 x 14 patches, of 4 pixels as in the file instead of 16
    changes = config_of("vim_tiny_patch16_224", read_checkpoint(whole))
    assert changes == {"image": 56, "num_classes": 12, "width": 96, "depth": 6, "patch": 4, "stride": 4}
    with pytest.raises(ValueError, match="vim_nano has no option 'widht'; known: width, depth"):
        config_of("vim_nano", checkpoint, widht=3)


def test_paths_are_in_no_checkpoint() -> None:
    model = create_model("localvim_small", width=16, patch=8, image=16, directions=(PATHS,) * 3)
    state = model.state_dict()
    with pytest.raises(ValueError) as error:
        create_model("localvim_tiny", pretrained=state)
    assert str(error.value) == (
        "the given state dict as localvim_tiny: it has 3 blocks, paths are known for 20, and no checkpoint says which it "
        "was trained on; give directions, for each block a tuple such as ('h', 'v_flip', 'w7', 'w7_flip')"
    )
    again = create_model("localvim_tiny", pretrained=state, directions=(PATHS,) * 3)
    assert again.config.width == 16


def test_heads_and_windows_are_in_no_checkpoint() -> None:
    model = create_model("mambavision_t", width=16, stem=8, depths=(1, 2), heads=(1, 2), windows=(8, 7), conv_stages=1)
    why = (
        "the given state dict as mambavision_t: it has 2 stages, heads and windows are known for 4 and 4, and no "
        "checkpoint says what they are; give heads and windows, one for each stage"
    )
    with pytest.raises(ValueError) as error:
        create_model("mambavision_t", pretrained=model.state_dict())
    assert str(error.value) == why
    seen = inspect(model.state_dict(), "mambavision_t")
    assert (seen.problem, seen.name, seen.family, seen.input_size) == (why, "mambavision_t", "mambavision", None)
    again = create_model("mambavision_t", pretrained=model.state_dict(), heads=(1, 2), windows=(8, 7))
    assert (again.config.depths, again.config.conv_stages) == ((1, 2), 1)


@pytest.mark.parametrize(
    "ours", [pytest.param(False, id="official"), pytest.param(True, id="ours", marks=pytest.mark.full)]
)
@pytest.mark.parametrize(
    "name", [name for name in MODELS if not name.endswith("_witness") and name != "vim_nano_digits"]
)
def test_a_registered_model_is_recognized(name, ours) -> None:
    model = zoo.skeleton(name)
    assert identify(Checkpoint(model.state_dict() if ours else zoo.official(model), name, name)) == name


def test_a_changed_model_is_still_recognized() -> None:
    model = create_model("vim_nano", image=28, num_classes=3)
    assert identify(read_checkpoint(model.state_dict())) == "vim_nano"
    # which paths its blocks take is nowhere, its family is
    local = create_model("localvim_tiny", width=16, patch=8, image=16, directions=(PATHS,) * 3)
    checkpoint = read_checkpoint(zoo.official(local))
    assert identify(checkpoint) == "localvim_tiny" and "give directions" in inspect(checkpoint).problem


def test_a_file_may_name_its_model_itself(tmp_path) -> None:
    model = create_model("vim_nano")
    for name, wanted in (("vim_nano_witness", "vim_nano_witness"), ("vmamba_nano", "vim_nano"), ("own", "vim_nano")):
        save_file(model.state_dict(), tmp_path / "x.safetensors", {"model": name})
        assert identify(read_checkpoint(tmp_path / "x.safetensors")) == wanted


def test_what_belongs_to_no_family_is_one_line() -> None:
    state = {
        "conv1.weight": torch.zeros(8, 3, 7, 7),
        "layer1.0.bn1.weight": torch.zeros(8),
        "fc.weight": torch.zeros(4, 8),
    }
    why = (
        "the given state dict looks like none of Vim, VMamba, LocalVim, LocalVMamba, MambaVision, ZigMa: its tensors are "
        "called conv1.weight, layer1.0.bn1.weight, fc.weight; where a wrapper of yours is in front of the names, give rename"
    )
    with pytest.raises(ValueError) as error:
        identify(read_checkpoint(state))
    assert str(error.value) == why
    seen = inspect(state)
    assert (seen.problem, seen.family, seen.name, seen.matched) == (why, "", "", 0)
    assert (seen.unmatched, seen.first_unmatched, seen.parameters) == (3, tuple(state), 8 * 3 * 49 + 8 + 32)


def test_an_inspection_never_stumbles_over_tensors(tmp_path) -> None:
    model = create_model("vim_nano", width=32, depth=1)
    state = zoo.official(model)
    del state["layers.0.mixer.A_log"]
    state |= {"extra.bias": torch.zeros(3), "head.weight": torch.zeros(7, 32), "head.bias": torch.zeros(7)}
    torch.save({"ema": state}, tmp_path / "x.pth")
    seen = inspect(tmp_path / "x.pth")
    assert (seen.label, seen.family, seen.name, seen.container) == ("x.pth", "vim", "vim_nano", "ema")
    assert (seen.classes, seen.input_size) == (7, (3, 56, 56)) and seen.config == {
        "num_classes": 7,
        "width": 32,
        "depth": 1,
    }
    assert (seen.matched, seen.missing, seen.unmatched) == (len(model.state_dict()) - 1, 1, 1)
    assert (seen.first_missing, seen.first_unmatched) == (("layers.0.mixer.scans.0.A_log",), ("extra.bias",))
    assert seen.problem.startswith(
        "x.pth does not fit vim_nano: 'layers.0.mixer.scans.0.A_log' of (64, 16), officially"
    )
    assert len(seen.revision) == 12 and seen.revision == seen.digest
    # as a name of another family
    other = inspect(tmp_path / "x.pth", "vmamba_nano")
    assert other.name == "vmamba_nano" and other.matched < 5 and "it looks like a Vim" in other.problem
    (tmp_path / "bad.pth").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="bad.pth"):
        inspect(tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="unknown model 'vim_nan'"):
        inspect(tmp_path / "x.pth", "vim_nan")


def test_values_that_are_no_numbers_are_a_problem_of_the_inspection() -> None:
    state = create_model("vim_nano", depth=1).state_dict()
    seen = inspect(state | {"norm_f.weight": torch.full((96,), torch.nan)})
    assert (seen.missing, seen.unmatched) == (0, 0)
    assert seen.problem == (
        "the given state dict: 'norm_f.weight' holds NaN or infinity; the file is damaged or its training diverged"
    )


def test_shapes_are_asked_for_by_our_names() -> None:
    shapes = Shapes({"layers.0.mixer.A_b_log": (64, 16), "layers.7.mixer.D": (64,), "layers.x": ()}, Vim.official_name)
    assert "layers.0.mixer.scans.1.A_log" in shapes and shapes.size("layers.0.mixer.scans.1.A_log", -1, 0) == 16
    assert shapes.size("layers.0.mixer.scans.0.A_log", -1, 5) == 5 and shapes.size("layers.7.mixer.D", 1, 6) == 6
    # counted, not believed: a name alone makes no layers
    assert shapes.count("layers.") == 2
    assert shapes.anywhere("layers.0.mixer.D") and not shapes.anywhere("layers.0.norm.weight")


@given(st.integers(1, 400), st.floats(0.5, 8))
def test_a_ratio_of_the_last_stage_gives_the_sizes_of_all(width: int, factor: float) -> None:
    sizes = [int(factor * (width * 2**stage)) for stage in range(4)]
    read = ratio(sizes[-1], width * 8, 4.0)
    assert [int(read * (width * 2**stage)) for stage in range(4)] == sizes
    assert ratio(2 * width, width, 2.0) == 2.0


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_an_image_has_the_patches_it_was_read_from(rows: int, columns: int, stride: int, overlap: int) -> None:
    patch = stride + overlap
    image = read_image(rows * columns, 224, patch, stride, (rows, columns))
    height, width = (image, image) if isinstance(image, int) else image
    assert ((height - patch) // stride + 1, (width - patch) // stride + 1) == (rows, columns)
