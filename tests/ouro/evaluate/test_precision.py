"""Models in half and double precision, images that are NaN or none at all: the right result, or one clear line."""

from __future__ import annotations

import re

import pytest
import torch

import ouro
from ouro.models import create_model
from ouro.quant.apply import weights_digest

SMALL = {"depth": 1, "width": 32, "states": 4}
PIXELS = (3, 56, 56)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model("vim_nano", **SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_model_of_any_precision_is_evaluated_as_it_is(model, dtype):
    scored = ouro.evaluate(model.to(dtype), limit=16, batch=16)
    assert scored["n"] == 16 and model.weights_dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_images_of_another_type_are_refused_by_both_names(model, dtype):
    name = str(dtype).removeprefix("torch.")
    words = (
        f"images are float32, vim_nano is {name}; give images.to(torch.{name}), normalized as ouro.data.normalize does"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        model.to(dtype)(torch.zeros(1, *PIXELS))
    with pytest.raises(ValueError, match=r"^images are uint8, "):
        model(torch.zeros(1, *PIXELS, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_calibration_of_a_half_is_refused_in_one_line(model, dtype):
    name = str(dtype).removeprefix("torch.")
    words = f"vim_nano is {name}, calibration takes float32 or float64; give model.float()"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        ouro.quantize(model.to(dtype), torch.randn(2, *PIXELS), method="minmax")
    assert re.fullmatch("[0-9a-f]{16}", weights_digest(model))


def test_calibration_in_double_precision_takes_any_float_images(model):
    images = torch.randn(2, *PIXELS, generator=torch.Generator().manual_seed(0))
    made = [ouro.quantize(model.double(), x, method="minmax", bits="w8a8") for x in (images, images.double())]
    assert made[0].set_digest == made[1].set_digest
    for path, state in made[0].state.items():
        assert all(torch.equal(x, made[1].state[path][name]) for name, x in state.items())


def test_no_image_is_refused_and_nan_stays_nan(model):
    with pytest.raises(
        ValueError, match=r"^images are \(0, 3, 56, 56\), vim_nano takes \(b, 3, 56, 56\), one or more$"
    ):
        model(torch.zeros(0, *PIXELS))
    images = torch.zeros(2, *PIXELS)
    images[1] = torch.nan
    broken = model(images).isnan().any(1)
    assert broken.tolist() == [False, True]
