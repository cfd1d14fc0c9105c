"""Outcomes image by image; NaN is never an answer, and a data set of other classes is none either."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import ouro.evaluate
from ouro.evaluate.accuracy import outcomes
from ouro.models import create_model


class Table(nn.Module):
    """Its logits are the images' own pixels."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.device, self.weights_dtype = torch.device("cpu"), torch.float32
        self.info = SimpleNamespace(name="table", task="classification")

    def forward(self, images):
        return images.flatten(1) * self.scale


def test_outcomes_image_by_image():
    images = torch.eye(4).view(4, 1, 2, 2)
    actual = list(outcomes(Table(), [(images[:3], torch.tensor([0, 1, 0])), (images[3:], torch.tensor([3]))]))
    assert [x.tolist() for x in actual] == [[True, True, False], [True]]


def test_outcomes_need_labels():
    with pytest.raises(ValueError, match=r"^these images have no labels; accuracy needs "):
        list(outcomes(Table(), [(torch.zeros(1, 1, 2, 2), None)]))


def test_pixels_are_no_input():
    """Cast to floats they would be scored as an image of one color."""
    model = create_model("vim_nano", width=16, depth=1, image=8)
    with pytest.raises(
        ValueError, match=r"^images are uint8, vim_nano is float32; give images\.to\(torch\.float32\), norm"
    ):
        list(outcomes(model, [(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0]))]))


def test_nan_logits_are_an_error():
    images = torch.zeros(3, 1, 2, 2)
    images[1] = torch.nan
    with pytest.raises(RuntimeError, match=r"^the model's logits are NaN for 1 of 3 images; is an input NaN\?$"):
        list(outcomes(Table(), [(images, torch.zeros(3, dtype=torch.long))]))


def test_a_set_of_other_classes_is_refused(tmp_path):
    model = create_model("vim_nano", width=16, depth=1, image=28, num_classes=10, class_names=())
    with pytest.raises(ValueError, match="^scenes has 12 classes, vim_nano has 10$"):
        ouro.evaluate(model, data="scenes", limit=4)
