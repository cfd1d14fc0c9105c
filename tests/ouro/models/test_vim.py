"""Vim: parity with the official code, a one-to-one key map, and the contract every model keeps."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from ouro.data import batches, load
from ouro.evaluate.accuracy import outcomes
from ouro.models import create_model
from ouro.models.vim import official_key
from ouro.models.zoo import card
from ouro.registry import MODELS
from ouro.scan.order import class_step
from ouro.taps import ScanModule, record, taps
from ouro.tasks import task_of
from tests import golden

NANO = {"depth": 2, "image": 24, "patch": 4, "stride": 4, "width": 32, "num_classes": 5}


@pytest.fixture(scope="module")
def official_run():
    """vim_tiny with the recipe's weights, its logits, and what its taps saw."""
    manifest, arrays = golden.load("vim_tiny")
    model = create_model("vim_tiny_patch16_224", pretrained=golden.state(manifest))
    with torch.no_grad(), record(model, "layers.*.tap_out", "*.scans.*", "layers.0.mixer.scans.*.tap_h") as trace:
        logits = model(golden.images())
    return manifest, arrays, model, logits, trace


def test_the_key_map_is_a_bijection_onto_the_official_keys(official_run) -> None:
    manifest, _, model, _, _ = official_run
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert {official_key(key): shape for key, shape in ours.items()} == manifest["keys"]
    assert len({official_key(key) for key in ours}) == len(ours) == 415


def test_the_recipe_gives_the_golden_weights(official_run) -> None:
    manifest, arrays, _, _, _ = official_run
    made = golden.state(manifest)
    sums = np.array([made[str(key)].double().sum().item() for key in arrays["keys"]])
    np.testing.assert_allclose(sums, arrays["w_sum"], rtol=1e-6, atol=1e-6)


def test_logits_agree_with_the_official_code(official_run) -> None:
    _, arrays, _, logits, _ = official_run
    assert np.abs(logits.numpy() - arrays["logits"]).max() < 5e-5
    assert np.abs(logits.numpy() - arrays["logits_fp64"]).max() < 5e-5


def test_every_layer_agrees_with_the_official_code(official_run) -> None:
    _, arrays, _, _, trace = official_run
    expected = dict(zip(map(str, arrays["act_names"]), arrays["act_stats"], strict=True))
    for layer in range(24):
        actual = golden.stats(trace.tensors[f"layers.{layer}.tap_out"])
        np.testing.assert_allclose(actual, expected[f"layers.{layer}.hidden"], atol=5e-5, err_msg=f"layer {layer}")


def test_step_sizes_and_states_agree_with_the_official_code(official_run) -> None:
    _, arrays, _, _, trace = official_run
    means = [record.inputs.delta.mean().item() for record in trace.scans]
    np.testing.assert_allclose(means, arrays["scan_delta_mean"], rtol=1e-5)
    h = {record.path: record.h for record in trace.scans if record.h is not None}
    assert set(h) == {"layers.0.mixer.scans.0", "layers.0.mixer.scans.1"}
    forward, backward = h["layers.0.mixer.scans.0"], h["layers.0.mixer.scans.1"]
    np.testing.assert_allclose(golden.stats(forward[:, :, 0]), arrays["vim_layer0_fwd_h_first"], atol=1e-6)
    np.testing.assert_allclose(golden.stats(forward[:, :, -1]), arrays["vim_layer0_fwd_h_last"], atol=1e-6)
    np.testing.assert_allclose(golden.stats(backward[:, :, -1]), arrays["vim_layer0_bwd_h_last"], atol=1e-6)


def test_the_plus_models_have_overlapping_patches_and_otherwise_the_same_keys(official_run) -> None:
    manifest, *_ = official_run
    model = create_model("vim_tiny_plus_patch16_224")
    # (224 - 16) / 8 + 1 patches a side
    assert model.info.stages[0].grid == (27, 27) and model.info.cls_index == 364
    shapes = {official_key(key): list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == manifest["keys"] | {"pos_embed": [1, 730, 192]}


def test_an_odd_number_of_patches_moves_the_class_token_of_the_backward_path() -> None:
    model = create_model("vim_nano", **NANO | {"image": 28, "stride": 2, "patch": 4})
    forward, backward = model.layers[0].mixer.spec.orders
    # 13 x 13 patches: the whole sequence is reversed, class token included
    assert model.info.stages[0].L == 170 and class_step(forward) == 84 and class_step(backward) == 85
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 28, 28)).shape == (1, 5)


def test_reference_and_compiled_scan_give_the_same_logits() -> None:
    model = create_model("vim_nano", **NANO)
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        compiled = model(images)
        for _, module in model.named_modules():
            if isinstance(module, ScanModule):
                module.backend = "reference"
        assert (model(images) - compiled).abs().max() < 1e-5


def test_recording_changes_nothing_and_leaves_nothing() -> None:
    model = create_model("vim_nano", **NANO)
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model(images)
        with record(model, "*", "layers.1.mixer.scans.1.tap_h") as trace:
            traced = model(images)
    assert torch.equal(plain, traced)
    assert len(trace.scans) == 4 and [scan.h is not None for scan in trace.scans] == [False, False, False, True]
    assert not any(tap.recorded for _, tap in taps(model))
    assert not any("tap" in key for key in model.state_dict())


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_is_known_to_timm(name: str) -> None:
    assert timm.is_model(name)
    cfg = timm.get_pretrained_cfg(name)
    # ZigMa takes latents and has no classes
    assert (cfg.input_size[0], cfg.num_classes > 1) == ((4, False) if name == "zigma_zigzag8" else (3, True))


def test_timm_builds_it_with_its_own_options() -> None:
    model = timm.create_model("vim_nano", num_classes=7)
    assert model(torch.zeros(1, 3, 56, 56)).shape == (1, 7)
    assert timm.data.resolve_model_data_config(model)["mean"] == model.info.mean


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in ("vim_nano", "vmamba_nano_seg") else pytest.mark.full)
    for name in MODELS if card(name)
])  # fmt: skip
def test_an_embedded_checkpoint_does_what_its_card_says(name: str) -> None:
    stored = card(name)
    model = create_model(name, pretrained=True)
    task, info = task_of(model), model.info
    count = 200 if task.name == "classification" else 32
    data = load(MODELS.get(name).data, split="test", size=info.input_size[-1])
    seen = torch.cat(list(outcomes(model, batches(data, count, limit=count, mean=info.mean, std=info.std))))
    # a distance hangs on how many pictures there are, the share that is recognized does not
    key = "recognized" if task.generates else task.metric
    if key in ("top1", "recognized"):
        spread = (stored[key] * (1 - stored[key]) / count) ** 0.5
    else:
        spread = (stored["ci95"][1] - stored["ci95"][0]) / 4 * (stored["n"] / count) ** 0.5
    # the first of the card's images: within four standard errors of what the card says
    assert abs(task.score(seen)[key] - stored[key]) < 4 * spread + 1e-9
    assert {"data", "n", "ci95", "steps", "train_seconds", "spec"} <= set(stored) and "seed" in stored["spec"]


def test_the_embedded_zoo_is_there() -> None:
    assert {"vim_nano", "vim_nano_digits"} <= {name for name in MODELS if card(name)}


def test_errors_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="vim_nano has no option 'depht'; known: width, depth"):
        create_model("vim_nano", depht=3)
    with pytest.raises(ValueError, match=r"unknown model 'vim_nan' \(did you mean 'vim_nano'\?\); known: "):
        create_model("vim_nan")
    with pytest.raises(ValueError, match=r"images are \(1, 3, 32, 32\), vim_nano takes \(b, 3, 56, 56\)"):
        create_model("vim_nano")(torch.zeros(1, 3, 32, 32))
