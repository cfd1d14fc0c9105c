"""How strange an image is to a model: held-out ones are usual, noise is not, and one image is judged by itself."""

from __future__ import annotations

import pytest
import torch

from ouro.data import load, normalize
from ouro.data.source import own_images
from ouro.evaluate.familiarity import blocks, familiarity, strangeness
from ouro.models import create_model
from tests.testing import assert_close
from tests.zoo import inputs, small


@pytest.fixture(scope="module")
def nano():
    return create_model("vim_nano", pretrained=True)


@pytest.fixture(scope="module")
def known(nano):
    return familiarity(nano, own_images(nano.info, "calib", 32), own_images(nano.info, "test", 48)[:32])


def test_what_a_model_was_trained_on_is_usual_and_noise_is_far(nano, known) -> None:
    info = nano.info
    fresh = strangeness(nano, own_images(info, "test", 48)[32:], known)
    assert -0.7 < fresh.median() < 0.7 and (fresh > known.limit).sum() <= 2
    noise = torch.randn(8, *info.input_size, generator=torch.Generator().manual_seed(0))
    assert (strangeness(nano, noise, known) > known.limit).all()
    flat = torch.full((1, *info.input_size), 0.3)
    assert (strangeness(nano, flat, known) > known.limit).all()
    digits = normalize(load("digits", split="test", size=56).images(0, 8)[0], info.mean, info.std)
    assert strangeness(nano, digits, known).mean() > fresh.mean()


def test_what_is_remembered_is_nearer_than_what_is_held_out() -> None:
    model = small("vmamba_tiny")
    images = inputs(model, 12)
    known = familiarity(model, images[:6], images[6:])
    assert strangeness(model, images[:6], known).max() < strangeness(model, images[6:], known).min()
    assert strangeness(model, images[6:], known).mean().abs() < 1e-3, "held-out images are usual by what usual means"


def test_an_image_is_judged_by_itself() -> None:
    model = small("vim_tiny_patch16_224")
    images = inputs(model, 11)
    known = familiarity(model, images[:4], images[4:])
    together = strangeness(model, images, known)
    alone = torch.cat([strangeness(model, image[None], known) for image in images])
    assert_close(alone, together, name="strangeness")


def test_every_block_is_looked_at_and_counts_alike() -> None:
    model = small("mambavision_t")
    images = inputs(model, 4)
    known = familiarity(model, images[:2], images[2:])
    assert list(known.patches) == list(known.images) == blocks(model) == list(known.usual) and len(known.patches) > 1
    spread = torch.tensor([one for both in known.usual.values() for one in both])
    assert spread.shape == (2 * len(known.patches), 2) and (spread[:, 1] > 0).all()


def test_nothing_to_know_is_refused() -> None:
    model = small("vim_tiny_patch16_224")
    with pytest.raises(ValueError, match="0 known and 1 held-out images were given, expected 1 or more of both"):
        familiarity(model, inputs(model, 0), inputs(model, 1))
