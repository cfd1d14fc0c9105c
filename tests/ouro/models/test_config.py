"""Configs: images of any shape, and a name for each class."""

from __future__ import annotations

import pytest

from ouro.models import create_model
from ouro.models.vim import VimConfig


def test_one_number_is_a_square() -> None:
    assert VimConfig(32, image=56).size == (56, 56) and VimConfig(32, image=(56, 112)).size == (56, 112)
    # JSON has no tuples
    assert VimConfig(32, image=[56, 112]) == VimConfig(32, image=(56, 112))
    assert hash(VimConfig(32, image=[56, 112])) == hash(VimConfig(32, image=(56, 112)))


@pytest.mark.parametrize("image", ["56", 56.0, 0, -1, None, True, (56,), (56, 0), (56, 56, 3), (56, "56")])
def test_an_image_is_one_number_or_two(image) -> None:
    with pytest.raises(ValueError) as error:
        create_model("vim_nano", image=image)
    assert str(error.value) == f"image is {image!r}, expected pixels: one number, or (height, width)"


@pytest.mark.parametrize(
    ("name", "image", "why"),
    [
        ("vim_nano", (56, 3), "image is (56, 3), expected at least one patch of 4 on either side"),
        ("localvmamba_nano", 3, "image is 3, expected at least one patch of 4 on either side"),
        ("localvim_tiny", (64, 72), "image is (64, 72) and width 192, expected multiples of patch = 16 and of 4"),
    ],
)
def test_an_image_too_small_or_odd_for_a_family_is_named(name, image, why) -> None:
    with pytest.raises(ValueError) as error:
        create_model(name, image=image)
    assert str(error.value) == why


def test_a_latent_is_cut_into_whole_patches() -> None:
    with pytest.raises(ValueError) as error:
        create_model("zigma_zigzag8", width=16, depth=1, patch=2, image=(6, 9))
    assert str(error.value) == "image is (6, 9), expected a multiple of patch = 2 on either side"


def test_there_is_a_name_for_each_class() -> None:
    model = create_model("vim_nano", num_classes=2, class_names=("cat", "dog"))
    assert model.info.class_names == ("cat", "dog")
    assert create_model("vim_nano", num_classes=2).info.class_names == ()
    assert len(create_model("vim_nano").info.class_names) == 12 == create_model("vim_nano").info.num_classes
    for names, given in ((("cat", "dog"), "2 names"), ("cat", "'cat'")):
        with pytest.raises(ValueError) as error:
            create_model("vim_nano", class_names=names)
        assert str(error.value) == (f"class_names is {given}, vim_nano has 12 classes; give one name for each class")
