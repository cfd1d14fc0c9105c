"""Seeds are whole numbers that JSON carries without loss, wherever they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ouro.jobs.synthesize import SynthesisSpec
from ouro.models import create_model
from ouro.streams import LARGEST, check_seed, drawing, generator, stream


@pytest.mark.parametrize("seed", [-1, 2**53, 99999999999999999999999, 1.0, "1", None, True])
@pytest.mark.parametrize("use", [check_seed, generator, lambda seed: stream(seed, 0, 0)])
def test_what_is_no_seed_is_refused(seed, use):
    with pytest.raises(ValueError) as caught:
        use(seed)
    assert str(caught.value) == f"seed is {seed!r}, expected a whole number from 0 to 2^53 - 1"


def test_a_job_refuses_it_before_it_begins():
    with pytest.raises(ValueError, match=r"^seed is 99999999999999999999999, expected a whole number from 0 to "):
        SynthesisSpec("vim_nano", seed=99999999999999999999999)


@pytest.mark.parametrize("seed", [0, np.int64(3), LARGEST])
def test_a_seed_draws_the_same_twice(seed):
    assert torch.equal(*(torch.rand(3, generator=generator(seed)) for _ in range(2)))
    assert stream(seed, 1, 2).random() == stream(seed, 1, 2).random() != stream(seed, 1, 3).random()


def test_drawing_leaves_all_streams_of_its_caller_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    with drawing(3):
        drawn = torch.randn(4)
    assert torch.equal(torch.get_rng_state(), before) and not seeded
    assert torch.equal(drawn, torch.randn(4, generator=generator(3)))


def test_drawing_is_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"), drawing(3):
        assert torch.randn(4).device.type == "cpu"


def test_a_model_with_weights_leaves_the_streams_of_gpus_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    create_model("vim_nano", pretrained=True, num_classes=3)
    assert not seeded
