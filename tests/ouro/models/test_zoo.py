"""The embedded zoo: checkpoints of half the size load as float32, judges are others and see the same images."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from ouro.data import comes_along
from ouro.models import create_model, variant
from ouro.models.zoo import WITNESSES, card, embedded_path, witnesses_of
from ouro.registry import MODELS

MICRO = ["vim_micro_cifar10", "vim_micro_cifar10_witness"]


@pytest.mark.parametrize("name", MICRO)
def test_weights_stored_in_half_precision_are_loaded_as_float32(name) -> None:
    with safe_open(embedded_path(f"{name}.safetensors"), framework="pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert {value.dtype for value in stored.values()} == {torch.float16}
    loaded = create_model(name, pretrained=True).state_dict()
    assert all(torch.equal(loaded[key], value.float()) for key, value in stored.items())
    assert {value.dtype for value in loaded.values()} == {torch.float32}


@pytest.mark.parametrize("name", list(WITNESSES))
def test_judges_are_other_models_of_the_same_data_and_size(name) -> None:
    assert witnesses_of(name) == list(WITNESSES[name])
    for judge in WITNESSES[name]:
        assert judge != name and MODELS.get(judge).data == variant(name).data
        assert variant(judge).config.image == variant(name).config.image


def test_the_models_of_cifar10_keep_what_was_measured_on_all_its_test_images() -> None:
    whole = [card(name)["whole_test_set"] for name in MICRO]
    assert [(facts["n"], facts["top1"]) for facts in whole] == [(10_000, 0.8259), (10_000, 0.7603)]
    for name, facts in zip(MICRO, whole, strict=True):
        # 2000 of the same images: the two intervals share a part
        low, high = card(name)["ci95"]
        assert low < facts["top1"] < high and card(name)["n"] == 2000
    assert WITNESSES[MICRO[0]] == (MICRO[1],) and WITNESSES[MICRO[1]] == (MICRO[0],)


def test_embedded_models_are_evaluated_on_data_that_comes_along() -> None:
    assert all(comes_along(MODELS.get(name).data) for name in MODELS if variant(name).embedded)
