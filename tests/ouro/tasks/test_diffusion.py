"""Diffusion: the lesson is the official path, a score does not hang on who is scored together, states reach the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ouro
from ouro.data import batches, to_pixels
from ouro.data.source import open_data
from ouro.diffusion.flow import CALIBRATION, noise
from ouro.diffusion.samplers import trajectory
from ouro.evaluate.accuracy import outcomes
from ouro.evaluate.fidelity import fidelity
from ouro.evaluate.sensitivity import sensitivity
from ouro.models import create_model
from ouro.progress import finish
from ouro.quant.audit import require_sealed
from ouro.registry import QUANTIZERS
from ouro.tasks import diffusion, task_of
from ouro.tasks.diffusion import DROPPED, GUIDANCE, STATES, Diffusion, judged
from ouro.types import NO_CLASS, Batch
from tests.testing import QUICK


@pytest.fixture(scope="module")
def model():
    """Two blocks over the digits at their own size: what a judge sees of its pictures is nonsense."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("zigma_nano", width=32, depth=2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.abs().max() < 1e-3:
                    parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def digits(model) -> tuple[Tensor, Tensor]:
    """Eight real pictures in model space, and their classes."""
    data = open_data("", "test", model.info)
    (images, labels), *_ = batches(data, 8, limit=8, mean=model.info.mean, std=model.info.std)
    assert labels is not None
    return images, labels


def test_a_lesson_is_the_path_its_velocity_and_some_classes_withheld(digits) -> None:
    images, labels = digits[0].repeat(125, 1, 1, 1), digits[1].repeat(125)
    batch = Batch(images, labels)
    lesson = Diffusion().lesson(batch, np.random.default_rng(0))
    t, y = lesson.conditions
    # x_t = t x1 + (1 - t) x0 and v = x1 - x0 give x1 back: x_t + (1 - t) v
    torch.testing.assert_close(lesson.inputs + (1 - t)[:, None, None, None] * lesson.labels, images)
    x0 = images - lesson.labels
    assert abs(x0.mean()) < 0.01 and abs(x0.std() - 1) < 0.01
    assert 0 <= t.min() < 0.01 and 0.99 < t.max() < 1 and abs(t.mean() - 0.5) < 0.03
    assert ((y == NO_CLASS).float().mean() - DROPPED).abs() < 0.03
    assert torch.equal(y[y != NO_CLASS], labels[y != NO_CLASS])
    again = Diffusion().lesson(batch, np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(lesson.tensors(), again.tensors(), strict=True))


def test_what_is_learned_is_the_mean_squared_error_of_the_velocity(model, digits) -> None:
    batch = Diffusion().lesson(Batch(*digits), np.random.default_rng(1))
    loss, outputs = Diffusion().teach(model, batch, smoothing=0.1)
    assert loss.requires_grad and not outputs.requires_grad
    assert loss.item() == pytest.approx((outputs - batch.labels).square().mean().item())
    assert Diffusion().note(outputs, batch) == {}
    bare = create_model("zigma_nano", width=32, depth=1, num_classes=0, guided=False)
    assert Diffusion().teach(bare, batch, 0.0)[0].isfinite()


def test_a_score_hangs_on_no_company_and_no_place(model, digits) -> None:
    images, labels = digits
    task = Diffusion()
    whole = task.run(model, images, labels)
    part = torch.tensor([5, 2])
    torch.testing.assert_close(task.run(model, images[part], labels[part]), whole[part], atol=1e-3, rtol=1e-3)
    assert whole.shape == (8, 2, 98) and torch.equal(whole[:, :, -1], labels[:, None].expand(8, 2).float())
    assert torch.equal(task.outcomes(whole, labels), whole)


def test_a_judge_knows_real_pictures(model, digits) -> None:
    pixels = to_pixels(digits[0], model.info.mean, model.info.std)
    seen = judged(model.info, pixels, digits[1], model.device)
    assert seen[:, -2].mean() == 1 and judged(model.info, pixels, (digits[1] + 1) % 10, model.device)[:, -2].sum() == 0


def test_real_pictures_score_zero_and_worse_ones_more() -> None:
    task, real = Diffusion(), _clouds(100, 6)
    equal = task.score(torch.stack([real, real], 1))
    assert equal["n"] == 100 and equal["frechet"] == pytest.approx(0, abs=1e-8)
    assert equal["real_recognized"] == equal["recognized"] == pytest.approx(0.5)
    assert 0.05 < equal["floor"] < 2
    moved = real.clone()
    moved[:, :-2] += 1
    moved[:, -2] = 0
    worse = task.score(torch.stack([moved, real], 1))
    assert worse["frechet"] == pytest.approx(6, rel=1e-5) and worse["floor"] == equal["floor"]
    assert worse["recognized"] == 0 and worse["real_recognized"] == pytest.approx(0.5)
    low, high = task.score(torch.stack([_clouds(100, 6, seed=1), real], 1))["ci95"]
    value = task.primary(torch.stack([_clouds(100, 6, seed=1), real], 1))
    assert 0 <= low < value < high
    resampled = task.resampled(torch.stack([_clouds(100, 6, seed=1), real], 1))
    assert resampled.shape == (500,) and resampled.mean().item() == pytest.approx(value)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_few_pictures_have_a_score(n: int) -> None:
    pair = torch.stack([_clouds(n, 6), _clouds(n, 6, seed=1)], 1)
    values = Diffusion().score(pair)
    assert values["n"] == n and values["frechet"] > 0 and (values["floor"] is None) == (n < 4)


def test_divergence_and_agreement_are_relative_to_the_velocity() -> None:
    exact = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rounded = torch.stack([exact[0], 1.1 * exact[1], -exact[2]])
    task = Diffusion()
    torch.testing.assert_close(task.divergence(exact, rounded).float(), torch.tensor([0.0, 0.01, 4.0]))
    torch.testing.assert_close(task.agreement(exact, rounded).float(), torch.tensor([1.0, 0.9, 0.0]))


def test_real_pictures_calibrate_at_spread_times(model, digits) -> None:
    inputs, (t, y) = Diffusion().calibration(*digits, model.info, seed=3)
    x0 = noise(model.info.input_size, 3, range(8), CALIBRATION)
    torch.testing.assert_close(inputs, t[:, None, None, None] * digits[0] + (1 - t)[:, None, None, None] * x0)
    assert torch.equal((t * 8).floor().sort().values, torch.arange(8).float()) and torch.equal(y, digits[1])
    _, (_, nobody) = Diffusion().calibration(digits[0], None, model.info, seed=3)
    assert torch.equal(nobody, torch.full((8,), NO_CLASS))
    bare = replace(model.info, num_classes=0)
    assert len(Diffusion().calibration(*digits, bare, 0)[1]) == len(Diffusion().conditions(bare, 8, 0)) == 1
    t, y = Diffusion().conditions(model.info, 20, 0)
    assert torch.equal(y.bincount(), torch.full((10,), 2)) and len(t) == 20


def test_imagined_states_lie_on_the_models_own_way(model) -> None:
    inputs, (t, y) = Diffusion().imagined(model, 40, seed=1)
    x0 = noise(model.info.input_size, 1, range(40), CALIBRATION)
    assert torch.equal((t * STATES).round().long().bincount(), torch.full((STATES,), 40 // STATES))
    for time, x in trajectory(model, x0, y, sampler="euler", steps=STATES, guidance=GUIDANCE):
        here = (t - time).abs() < 1e-6
        torch.testing.assert_close(inputs[here], x[here], atol=1e-4, rtol=1e-4)


def test_conditions_reach_the_model_that_is_calibrated(model, digits, monkeypatch) -> None:
    inputs, conditions = Diffusion().calibration(*digits, model.info, seed=0)
    seen: list[tuple[Any, ...]] = []
    stem = type(model).stem

    def listen(self, *given):
        seen.append(given)
        return stem(self, *given)

    monkeypatch.setattr(type(model), "stem", listen)
    first = ouro.quantize(model, inputs, conditions=conditions, method="minmax", bits="w8a8")
    assert seen and all(len(given) == 3 for given in seen)
    assert all(torch.equal(given[1], conditions[0][: len(given[1])]) for given in seen)
    other = ouro.quantize(
        model, inputs, conditions=(conditions[0].flip(0), conditions[1]), method="minmax", bits="w8a8"
    )
    assert first.set_digest != other.set_digest
    assert any(
        not torch.equal(value, other.state[path][key]) for path, x in first.state.items() for key, value in x.items()
    )
    with pytest.raises(ValueError, match="^8 images with 8, 3 conditions; give one for each image$"):
        ouro.quantize(model, inputs, conditions=(conditions[0], conditions[1][:3]), method="minmax")


@pytest.mark.parametrize("method", list(QUANTIZERS))
@pytest.mark.parametrize("bits", ["w8a8", "w4a4o8"])
def test_every_method_calibrates_a_denoiser(model, digits, method: str, bits: str) -> None:
    inputs, conditions = Diffusion().calibration(*digits, model.info, seed=0)
    how = {"method": method, "bits": bits} | QUICK.get(method, {})
    calibration = ouro.quantize(model, inputs, conditions=conditions, **how)
    rounded = ouro.attach_calibration(create_like(model), calibration)
    require_sealed(rounded, inputs[:2], calibration.plan)
    with torch.no_grad():
        exact, given = model(inputs, *conditions), rounded(inputs, *conditions)
    assert 0 < Diffusion().divergence(exact, given).max() < 1


def test_damage_is_measured_over_diffusion_time(model, digits) -> None:
    inputs, conditions = Diffusion().calibration(*digits, model.info, seed=0)
    calibration = ouro.quantize(model, inputs, conditions=conditions, method="minmax", bits="w4a4")
    measured = finish(sensitivity(model, calibration, inputs, conditions=conditions, by="group", batch=3))
    with torch.no_grad():
        exact = model(inputs, *conditions)
    rounded = ouro.attach_calibration(create_like(model), calibration)
    with torch.no_grad():
        whole = Diffusion().divergence(exact, rounded(inputs, *conditions)).mean().item()
    assert measured.score is None and measured.whole.drop is None
    assert measured.whole.kl == pytest.approx(whole, rel=1e-3)
    assert fidelity(model, rounded, inputs, conditions=conditions)["logits"].sqnr_db == pytest.approx(
        measured.whole.sqnr_db, abs=0.01
    )


def create_like(model):
    """The same model once more."""
    other = create_model("zigma_nano", width=32, depth=2)
    other.load_state_dict(model.state_dict())
    return other


def test_outcomes_and_scores_ask_the_task(model, digits) -> None:
    seen = torch.cat(list(outcomes(model, [digits])))
    assert seen.shape == (8, 2, 98) and task_of(model).score(seen)["n"] == 8


def test_errors_say_what_is_allowed(model, digits) -> None:
    task, info = Diffusion(), model.info
    data = open_data("", "test", info)
    with pytest.raises(
        ValueError, match="^zigma_nano draws latents, and no embedded classifier can judge that; there are"
    ):
        task.require(data, "digits", replace(info, data="latents"))
    with pytest.raises(ValueError, match="^digits has 10 classes, zigma_nano has 5$"):
        task.require(data, "digits", replace(info, num_classes=5))
    with pytest.raises(ValueError, match="^these pictures have no class; a denoiser is scored on a data set with one"):
        task.run(model, digits[0], None)
    with pytest.raises(ValueError, match="^a velocity cannot be scored, the pictures that it leads to can"):
        task.outcomes(digits[0], digits[1])
    with pytest.raises(ValueError, match="^no picture to score$"):
        task.score(torch.zeros(0, 2, 8))
    with pytest.raises(ValueError, match="quantize with --calib synthetic:N$"):
        ouro.synthesize(model, num=1, steps=1)
    assert diffusion.JUDGES["digits"] == "vim_nano_digits"


def _clouds(n: int, f: int, seed: int = 0) -> Tensor:
    """Features of n pictures; the judge knows every second one, and there are two classes."""
    x = torch.randn(n, f, generator=torch.Generator().manual_seed(seed))
    return torch.cat([x, (torch.arange(n) % 2)[:, None], (torch.arange(n) // 2 % 2)[:, None]], dim=1)
