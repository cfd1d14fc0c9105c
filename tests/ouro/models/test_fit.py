"""Checkpoints in models: any precision and grid comes in, a head may be fresh, and every misfit has a line of its own."""

from __future__ import annotations

import logging
import re

import pytest
import timm
import torch

from ouro.models import create_model, load_checkpoint, read_checkpoint
from ouro.models.position import resize_pos_embed
from ouro.models.vim import official_key
from ouro.registry import MODELS
from tests import zoo

CONFIG = {"depth": 1, "image": 16, "patch": 4, "stride": 4, "width": 32, "num_classes": 5}
STAGES = {"width": 32, "depths": (1, 1), "image": 32, "num_classes": 5}
START = "the given state dict does not fit vim_nano: "


@pytest.fixture
def model():
    return create_model("vim_nano", **CONFIG)


@pytest.fixture
def official():
    return zoo.official(create_model("vim_nano", **CONFIG))


def refused(model, source, **options) -> str:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_checkpoint(model, source, **options)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "\n" not in str(error.value) and model.loaded_from is None
    return str(error.value)


def test_misfits_name_the_first_key_and_both_shapes(model, official) -> None:
    depth = "was it made for another family or depth?"
    assert refused(model, {key: value for key, value in official.items() if key != "norm_f.weight"}) == (
        f"{START}'norm_f.weight' of (32,) is missing (1 keys missing, 0 unexpected); {depth}"
    )
    assert refused(model, {key: value for key, value in official.items() if "A_b_log" not in key}) == (
        f"{START}'layers.0.mixer.scans.1.A_log' of (64, 16), officially 'layers.0.mixer.A_b_log', is missing "
        f"(1 keys missing, 0 unexpected); {depth}"
    )
    assert refused(model, official | {"extra": torch.zeros(1, 2)}) == (
        f"{START}'extra' of (1, 2) is not of this model (0 keys missing, 1 unexpected); was it made for another family or "
        "depth, or is a wrapper in front of the names (rename)?"
    )
    assert refused(model, official | {"layers.0.mixer.D_b": torch.zeros(2)}) == (
        f"{START}'layers.0.mixer.scans.1.D' is (2,) (the official 'layers.0.mixer.D_b', (2,)), the model has (64,) "
        "(1 shapes differ); was it made for another size or number of classes?"
    )
    assert refused(model, official | {"norm_f.weight": torch.full((32,), torch.nan)}) == (
        "the given state dict: 'norm_f.weight' holds NaN or infinity; the file is damaged or its training diverged"
    )
    assert refused(model, official | {"norm_f.weight": torch.full((32,), 1e300, dtype=torch.float64)}) == (
        "the given state dict: 'norm_f.weight' holds NaN or infinity; the file is damaged or its training diverged"
    )
    assert refused(model, official | {"norm_f.weight": [1.0] * 32}) == (
        f"{START}'norm_f.weight' is there as list, not as a tensor; save the state dict again"
    )


def test_lost_state_matrices_have_a_line_of_their_own(model, official) -> None:
    without = {key: value for key, value in official.items() if "A_log" not in key and "A_b_log" not in key}
    assert refused(model, without) == (
        f"{START}all its A_log are missing, first 'layers.0.mixer.scans.0.A_log' of (64, 16), officially "
        "'layers.0.mixer.A_log', is missing (2 keys missing, 0 unexpected); save the whole state dict again"
    )
    stages = create_model("vmamba_tiny", **STAGES)
    without = {key: value for key, value in zoo.official(stages).items() if "A_logs" not in key}
    assert refused(stages, without) == (
        "the given state dict does not fit vmamba_tiny: all its A_log are missing, first "
        "'stages.0.blocks.0.mixer.scans.0.A_log' of (32, 1), officially 'layers.0.blocks.0.op.A_logs', is missing "
        "(8 keys missing, 0 unexpected); save the whole state dict again"
    )


def test_a_lost_class_token_is_missing_not_another_grid(model, official) -> None:
    del official["cls_token"]
    assert refused(model, official).startswith(f"{START}'cls_token' of (1, 1, 32) is missing")
    with pytest.raises(ValueError, match=re.escape("'cls_token' of (1, 1, 32) is missing")):
        create_model("vim_nano", pretrained=official)


def test_another_size_says_what_the_file_was_made_with(model) -> None:
    other = create_model("vim_nano", **(CONFIG | {"width": 48, "states": 8, "image": 24})).state_dict()
    assert refused(model, other) == (
        f"{START}'cls_token' is (1, 1, 48), the model has (1, 1, 32) (23 shapes differ); it was made with width=48, "
        "states=8: build the model so, or leave it to create_model(name, pretrained=...)"
    )
    odd = model.state_dict() | {"pos_embed": torch.zeros(1, 16, 32)}
    assert refused(model, odd) == (
        f"{START}the position embedding has 15 patches, which form no square; say what grid they are of, as "
        "read_checkpoint(..., grid=(down, across))"
    )
    with pytest.raises(ValueError, match="it was made with width=32: build the model so"):
        create_model("vim_nano", pretrained=model.state_dict(), width=48)


def test_a_misfit_of_a_stacked_tensor_names_the_official_one() -> None:
    model = create_model("vmamba_tiny", **STAGES)
    state, stacked = zoo.official(model), "layers.0.blocks.0.op.x_proj_weight"
    assert refused(model, state | {stacked: torch.zeros(4, 6, 32)}) == (
        "the given state dict does not fit vmamba_tiny: 'stages.0.blocks.0.mixer.scans.0.x_proj.weight' is (6, 32) "
        f"(part 1 of 4 of the official '{stacked}', (4, 6, 32)), the model has (4, 32) (4 shapes differ); was it made "
        "for another size or number of classes?"
    )
    broken = torch.zeros(4, 4, 32)
    broken[2] = torch.inf
    assert refused(model, state | {stacked: broken}) == (
        "the given state dict: 'stages.0.blocks.0.mixer.scans.2.x_proj.weight' (part 3 of 4 of the official "
        f"'{stacked}', (4, 4, 32)) holds NaN or infinity; the file is damaged or its training diverged"
    )
    # of a number of scans that does not divide: the official tensor as it is
    assert (
        "'stages.0.blocks.0.mixer.scans.0.D' is (30,) (part 1 of 4 of the official 'layers.0.blocks.0.op.Ds', (30,))"
        in refused(model, state | {"layers.0.blocks.0.op.Ds": torch.zeros(30)})
    )


@pytest.mark.parametrize("ours", [False, True], ids=["official", "ours"])
@pytest.mark.parametrize(
    ("name", "given", "looks"),
    [
        ("vim_nano", "vmamba_tiny", "VMamba"),
        ("vim_nano", "localvim_tiny", "LocalVim"),
        ("localvim_tiny", "vim_tiny_patch16_224", "Vim"),
        ("localvim_tiny", "localvmamba_tiny", "LocalVMamba"),
        ("localvmamba_tiny", "localvim_tiny", "LocalVim"),
        ("localvmamba_tiny", "vmamba_tiny", "VMamba"),
        ("vmamba_tiny", "localvmamba_tiny", "LocalVMamba"),
        ("vmamba_nano", "mambavision_t", "MambaVision"),
        ("mambavision_t", "zigma_zigzag8", "ZigMa"),
        ("zigma_zigzag8", "vim_tiny_patch16_224", "Vim"),
    ],
)
def test_another_family_is_called_by_its_name(name, given, looks, ours) -> None:
    model, other = zoo.small(name), zoo.small(given)
    source = other.state_dict() if ours else zoo.official(other)
    why = refused(model, source)
    assert why.startswith(
        f"the given state dict does not fit {name}: it looks like a {looks}, {name} is a {type(model).__name__}; use a "
        "name of that family, such as "
    )
    assert MODELS.get(why.rpartition(" ")[2]).build is type(other)


OLDER = {
    "blocks without MLP (mlp_ratio 0)": lambda key, x: None if ".mlp." in key or ".norm2." in key else x,
    "a gate in its mixers (forward_type without noz)": lambda key, x: torch.cat([x, x]) if "in_proj" in key else x,
    "2 x 2 convolutions between its stages (downsample_version v2)": (
        lambda key, x: x[..., :2, :2] if key.endswith("downsample.1.weight") else x
    ),
    "a patch embedding in one step (patchembed_version v1)": (
        lambda key, x: None if re.match(r"patch_embed\.[57]", key) else torch.zeros(32, 3, 4, 4) if "embed.0.w" in key
        else torch.zeros(32) if key.startswith("patch_embed") else x
    ),
    "no LayerNorm in its mixers (forward_type ...none)": lambda key, x: None if "out_norm" in key else x,
}  # fmt: skip


@pytest.mark.parametrize("what", OLDER)
def test_vmambas_older_layouts_are_called_by_their_difference(what) -> None:
    model = create_model("vmamba_tiny", **STAGES)
    made = {key: OLDER[what](key, value) for key, value in zoo.official(model).items()}
    state = {key: value for key, value in made.items() if value is not None}
    assert refused(model, state) == (
        f"the given state dict does not fit vmamba_tiny: it has {what}, the official models do not; use a checkpoint of "
        "one of them"
    )


def test_the_first_vmamba_is_all_of_it() -> None:
    model = create_model("vmamba_tiny", **STAGES)
    state = {}
    for key, value in zoo.official(model).items():
        if ".mlp." in key or ".norm2." in key or re.match(r"patch_embed\.[57]|layers\.0\.downsample", key):
            continue
        state[key] = torch.zeros(32, 3, 4, 4) if key == "patch_embed.0.weight" else value
    state |= {"layers.0.downsample.reduction.weight": torch.zeros(64, 128), "layers.0.downsample.norm.weight": torch.zeros(128),
              "layers.0.downsample.norm.bias": torch.zeros(128), "layers.0.blocks.0.op.conv2d.bias": torch.zeros(32)}  # fmt: skip
    assert refused(model, state) == (
        "the given state dict does not fit vmamba_tiny: it has a patch embedding in one step (patchembed_version v1), "
        "blocks without MLP (mlp_ratio 0), a bias in its mixers' convolutions (ssm_conv_bias), patch merging between its "
        "stages (downsample_version v1), the official models do not; use a checkpoint of one of them"
    )


@pytest.mark.parametrize(
    ("extra", "drop", "what"),
    [
        ("cls_token_head", "cls_token", "two class tokens (use_double_cls_token)"),
        ("rope.freqs_cos", "", "a rotary position embedding (if_rope)"),
        ("", "pos_embed", "no position embedding (if_abs_pos_embed=False)"),
        ("", "_b", "scans in one direction (bimamba_type other than v2)"),
    ],
)
def test_other_vims_are_called_by_their_difference(model, official, extra, drop, what) -> None:
    state = {key: value for key, value in official.items() if not drop or drop not in key}
    state |= {extra: torch.zeros(1, 1, 32)} if extra else {}
    assert refused(model, state) == (
        f"{START}it has {what}, the official models do not; use a checkpoint of one of them"
    )


def test_another_number_of_classes_is_refused_strictly_and_fresh_on_request(model, official, caplog) -> None:
    state = official | {"head.weight": torch.zeros(9, 32), "head.bias": torch.zeros(9)}
    assert refused(model, state) == (
        f"{START}'head.weight' is (9, 32), the model has (5, 32) (2 shapes differ): it has 9 classes, the model "
        "5; build the model with num_classes=9, or load all but the head by head='fresh'"
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        load_checkpoint(model, state, head="fresh")
    assert model.loaded_from.fresh == ("head.weight", "head.bias")
    assert caplog.messages == [
        "vim_nano: the given state dict has no head for 5 classes; it starts untrained (head.weight, head.bias)"
    ]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key.startswith("head.") else state[official_key(key)])
    # nothing else may be missing, or of another size
    assert "'norm_f.weight' is (7,)" in refused(
        create_model("vim_nano", **CONFIG), state | {"norm_f.weight": torch.ones(7)}, head="fresh"
    )
    assert refused(create_model("vim_nano", **CONFIG), state, head="free") == (
        "head is 'free', expected one of strict, fresh"
    )


def test_a_fresh_head_is_the_same_whatever_was_drawn_before(caplog) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = create_model("vim_nano", pretrained=True, num_classes=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    other, whole = (create_model("vim_nano", pretrained=True, **change) for change in ({"num_classes": 3}, {}))
    assert one.loaded_from.fresh == ("head.weight", "head.bias")
    assert "has no head for 3 classes; it starts untrained" in caplog.text
    for key, value in one.state_dict().items():
        wanted = other if key.startswith("head.") else whole
        assert torch.equal(value, wanted.state_dict()[key])


def test_a_head_that_fits_is_loaded_even_where_it_might_be_fresh(model, official, caplog) -> None:
    load_checkpoint(model, official, head="fresh")
    assert model.loaded_from.fresh == () and torch.equal(model.head.weight, official["head.weight"])
    assert not caplog.messages


@pytest.mark.parametrize("name", ["vim_nano", "vmamba_nano", "localvmamba_nano", "mambavision_nano"])
def test_a_backbone_for_dense_use_has_no_head(name) -> None:
    model = zoo.small(name)
    state = {key: value for key, value in zoo.official(model).items() if not key.endswith(("head.weight", "head.bias"))}
    fresh = ["head.weight", "head.bias"]
    if len(model.info.stages) > 1:
        # as mmdetection and mmsegmentation save it: a norm per stage instead of the last one
        state = {key: value for key, value in state.items() if not re.match(r"(classifier\.)?norm\.", key)}
        state |= {f"outnorm{stage}.weight": torch.ones(3) for stage in range(len(model.info.stages))}
        fresh = [key for key in model.state_dict() if key.startswith(("norm.", "head."))]
    state = {f"backbone.{key}": value for key, value in state.items()} | {"decode_head.bias": torch.zeros(3)}
    listed = ", ".join(map(repr, fresh[:6])) + (f" and {len(fresh) - 6} more" if len(fresh) > 6 else "")
    assert refused(model, {"state_dict": state}) == (
        f"the given state dict does not fit {name}: it has no head, {listed} are missing; load the rest by head='fresh', "
        "or give create_model num_classes"
    )
    load_checkpoint(model, {"state_dict": state}, head="fresh")
    assert model.loaded_from.fresh == tuple(fresh)


@pytest.mark.parametrize("build", [create_model, timm.create_model], ids=["ouro", "timm"])
def test_pretrained_weights_under_another_number_of_classes(build, caplog) -> None:
    whole = create_model("vim_nano", pretrained=True)
    with caplog.at_level(logging.WARNING):
        model = build("vim_nano", pretrained=True, num_classes=3)
    assert (
        model.loaded_from.fresh == ("head.weight", "head.bias") and model.loaded_from.source == "vim_nano.safetensors"
    )
    assert caplog.messages == [
        "vim_nano: vim_nano.safetensors has no head for 3 classes; it starts untrained (head.weight, head.bias)"
    ]
    assert model.info.num_classes == 3 and model.info.class_names == ()
    images = zoo.inputs(model, 2)
    with torch.no_grad():
        assert model(images).shape == (2, 3) and torch.equal(model.features(images), whole.features(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_come_in_as_float32(model, official, dtype) -> None:
    load_checkpoint(model, {key: value.to(dtype) for key, value in official.items()})
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, official[official_key(key)].to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint32, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_stored_as_codes_are_refused(model, official, dtype, tmp_path) -> None:
    torch.save(official | {"layers.0.mixer.D_b": torch.ones(64).to(dtype)}, tmp_path / "x.pth")
    assert refused(model, tmp_path / "x.pth") == (
        f"x.pth: 'layers.0.mixer.scans.1.D' (the official 'layers.0.mixer.D_b', (64,)) is stored as {str(dtype)[6:]}, "
        "expected float32, float64, float16, bfloat16; is it quantized? Save the float weights"
    )


def _patches(embed, middle):
    return torch.cat([embed[:, :middle], embed[:, middle + 1 :]], 1)


@pytest.mark.parametrize(
    "change", [{"image": 24}, {"stride": 2}, {"image": 24, "stride": 2}, {"image": 12}, {"image": (8, 24)}], ids=str
)
def test_another_resolution_or_stride_keeps_the_class_token(official, change) -> None:
    model = create_model("vim_nano", **(CONFIG | change))
    tokens = model.info.stages[0].L
    assert tokens != 17
    load_checkpoint(model, official)
    given, middle = official["pos_embed"], (tokens - 1) // 2
    assert model.pos_embed.shape == (1, tokens, 32) and model.info.cls_index == middle
    assert torch.equal(model.pos_embed[:, middle], given[:, 8])
    maps = _patches(given, 8).transpose(1, 2).unflatten(2, (4, 4))
    resized = torch.nn.functional.interpolate(maps, size=model.info.stages[0].grid, mode="bicubic").flatten(2)
    assert torch.equal(_patches(model.pos_embed, middle), resized.transpose(1, 2))


def test_a_grid_that_is_no_square_is_resized_once_it_is_known() -> None:
    wide = create_model("vim_nano", **CONFIG | {"image": (8, 32)})
    # as many patches as a square of 4 x 4: only the grid distinguishes them
    plain = load_checkpoint(create_model("vim_nano", **CONFIG), wide.state_dict())
    assert torch.equal(plain.pos_embed, wide.pos_embed)
    turned = load_checkpoint(create_model("vim_nano", **CONFIG), wide.state_dict(), grid=(2, 8))
    maps = _patches(wide.pos_embed, 8).transpose(1, 2).unflatten(2, (2, 8))
    resized = torch.nn.functional.interpolate(maps, size=(4, 4), mode="bicubic").flatten(2).transpose(1, 2)
    assert torch.equal(_patches(turned.pos_embed, 8), resized)
    # no square of patches: the grid is the model's own, or must be known
    odd = create_model("vim_nano", **CONFIG | {"image": (12, 20)}).state_dict()
    load_checkpoint(create_model("vim_nano", **CONFIG | {"image": (12, 20)}), odd)
    why = "the position embedding has 15 patches, which form no square; say what grid they are of, as read_checkpoint"
    assert why in refused(create_model("vim_nano", **CONFIG), odd)
    load_checkpoint(create_model("vim_nano", **CONFIG), odd, grid=(3, 5))
    assert "grid is 4 x 4, the position embedding has 15 patches" in refused(
        create_model("vim_nano", **CONFIG), odd, grid=(4, 4)
    )
    # the same for a model of which nothing is said
    with pytest.raises(ValueError, match=f"the given state dict as vim_nano: {why}"):
        create_model("vim_nano", pretrained=odd)
    assert create_model("vim_nano", pretrained=odd, image=(12, 20)).info.stages[0].grid == (3, 5)
    checkpoint = read_checkpoint(odd, grid=(3, 5))
    assert create_model("vim_nano", pretrained=checkpoint).info.input_size == (3, 12, 20)
    assert create_model("vim_nano", pretrained=checkpoint, image=16).info.stages[0].grid == (4, 4)


def test_positions_are_interpolated_to_any_grid() -> None:
    constant = torch.ones(1, 17, 4)
    constant[:, 8] = 7
    for grid in ((6, 6), (3, 5), (7, 2)):
        cells = grid[0] * grid[1]
        resized = resize_pos_embed(constant, 8, grid)
        assert resized.shape == (1, cells + 1, 4) and (resized[:, cells // 2] == 7).all()
        assert (_patches(resized, cells // 2) - 1).abs().max() < 1e-6
    # rows vary with the height, columns with the width
    rows = torch.arange(4.0).repeat_interleave(4).view(1, 16, 1)
    wide = resize_pos_embed(rows, None, (4, 9)).view(4, 9)
    assert torch.allclose(wide, torch.arange(4.0)[:, None].expand(4, 9), atol=1e-5)
    # from a grid that is no square, too
    columns = torch.arange(6.0).repeat(2).view(1, 12, 1)
    high = resize_pos_embed(columns, None, (5, 6), (2, 6)).view(5, 6)
    assert torch.allclose(high, torch.arange(6.0).expand(5, 6), atol=1e-5)
    with pytest.raises(ValueError, match="position embedding has 15 patches, which form no square"):
        resize_pos_embed(torch.ones(1, 15, 4), None, (4, 4))


@pytest.fixture
def vmamba():
    """(a small VMamba, an official state dict with values of its own)."""
    model = create_model("vmamba_tiny", width=16, depths=(1, 1), image=32, num_classes=5)
    generator = torch.Generator().manual_seed(0)
    return model, {key: torch.randn(x.shape, generator=generator) for key, x in zoo.official(model).items()}


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
    # their sizes are read as well
    loaded = create_model("vmamba_tiny", pretrained=old, image=32)
    assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())
