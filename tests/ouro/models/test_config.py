"""Configs: images of any shape, and a name for each class."""

from __future__ import annotations

import re

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
    with pytest.raises(ValueError) as error:
        create_model("vim_nano", class_names=("cat", "dog"))
    assert str(error.value) == "class_names is 2 names, vim_nano has 12 classes; give one name for each class"
    with pytest.raises(ValueError, match=r"^class_names is 'cat', expected a list, each a word$"):
        create_model("vim_nano", class_names="cat")


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"width": "abc"}, "width is 'abc', expected a whole number, 1 or more, at most 1.04858e+06"),
        ({"width": 0}, "width is 0, expected a whole number, 1 or more"),
        ({"width": True}, "width is True, expected a whole number, 1 or more"),
        ({"width": 1.5}, "width is 1.5, expected a whole number, 1 or more"),
        ({"width": 10**13}, "width is 10000000000000, expected a whole number, 1 or more, at most 1.04858e+06"),
        ({"depth": 10**9}, "depth is 1000000000, expected a whole number, 0 or more, at most 1024"),
        ({"stride": 0}, "stride is 0, expected a whole number, 1 or more"),
        ({"states": -1}, "states is -1, expected a whole number, 1 or more"),
        ({"class_token": "x"}, "class_token is 'x', expected true or false"),
        ({"num_classes": -1}, "num_classes is -1, expected a whole number"),
        ({"mean": "x"}, "mean is 'x', expected a list, each a number"),
        ({"mean": (0.5, 0.5)}, "mean is (0.5, 0.5) and std (0.271, 0.271, 0.271), expected a number for each channel"),
        ({"mean": (0.5,), "std": (1.0,)}, "mean is (0.5,), vim_nano sees red, green and blue; give three numbers"),
        ({"std": (0, 0, 0)}, "mean is (0.496, 0.496, 0.496) and std (0, 0, 0), expected a number for each channel"),
        ({"std": (1, 1, float("nan"))}, "std is (1, 1, nan), expected a list, each a number"),
        (
            {"class_names": [1] * 12},
            "class_names is [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], expected a list, each a word",
        ),
    ],
    ids=repr,
)
def test_an_option_that_no_model_has_is_named(option, message, pretrained) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        create_model("vim_nano", pretrained=pretrained, **option)
    assert "\n" not in str(error.value)


def test_sizes_beyond_the_memory_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^vim_nano cannot be built with \{'width': 1000000\}: ") as error:
        create_model("vim_nano", width=10**6)
    assert "\n" not in str(error.value)
