"""Generation on another device: noise, classes and channels are drawn on the CPU, what is handed out comes back to it."""

import copy

import pytest
import torch

from ouro.gen.methods.ouro import OuroMambaGen
from ouro.gen.synthesize import Diverged, initial_images, optimize, recognized, saved_bytes, synthesize
from ouro.models import create_model
from ouro.registry import GENERATORS
from tests.devices import assert_same, both
from tests.zoo import small

SMALL = {"depth": 1, "image": 24, "patch": 4, "stride": 4, "width": 16, "num_classes": 5}
NARROW = {"window": 3, "positives": 4}
OPTIONS = {
    "ouro": [
        {**NARROW, "channels": 4},
        {**NARROW, "features": "alpha_p", "entropy_weight": 0.1, "negatives": "window", "weights": "uniform"},
    ],
    "psaq": [{"points": 16}, {"points": 16, "features": "alpha"}],
    "clamp": [NARROW],
}
CASES = [
    pytest.param(method, options, id=f"{method}-{number}")
    for method in GENERATORS
    for number, options in enumerate(OPTIONS.get(method, [{}]))
]


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model("vim_nano", **SMALL)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_a_seed_means_the_same_images_everywhere(model, method, options):
    assert_same(
        *both(lambda device: synthesize(copy.deepcopy(model).to(device), method=method, num=3, steps=2, **options))
    )


def test_channels_of_grouped_scans_are_drawn_on_the_cpu():
    grouped = small("vmamba_nano")
    assert_same(
        *both(lambda device: synthesize(copy.deepcopy(grouped).to(device), num=2, steps=1, channels=8, **NARROW))
    )


def test_previews_and_the_last_good_images_come_back_to_the_cpu(model):
    def run(device):
        there = copy.deepcopy(model).to(device)
        job = optimize(there, OuroMambaGen(there, channels=4, **NARROW), steps=3, seed=0, count=2)
        seen = [next(job)]
        there.head.weight.data.fill_(torch.nan)
        with pytest.raises(Diverged, match=r"the loss class became NaN or infinite, first at head\.") as caught:
            next(job)
        return [seen, caught.value.images]

    assert_same(*both(run))


def test_images_may_be_anywhere_when_they_are_judged(model):
    images, labels = initial_images(model.info, 0, 0, 6), torch.tensor([0, 1, 2, 3, 4, 0])

    def run(device):
        there = copy.deepcopy(model).to(device)
        shares = [recognized(there, x, y) for x, y in ((images, labels), (images.to(device), labels.to(device)))]
        return [shares, saved_bytes(there, OuroMambaGen(there, **NARROW)) > 0]

    assert_same(*both(run))
