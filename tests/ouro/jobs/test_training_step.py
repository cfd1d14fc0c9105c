"""A step is the textbook's, a rehearsal leaves no trace, and a recorded step trains as one that is not."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ouro.jobs.recipes import Round, TrainSpec
from ouro.jobs.training_step import TrainingStep
from ouro.types import Batch

SPEC = TrainSpec("net", "scenes", (Round(1e-2, ((8, 10),)),), smoothing=0.05, ema=0.9)


def net(device="cpu"):
    """A convolution, a batch norm with its count of batches, and a head; drawn by a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    return made.to(device).train()


def batch(step, device="cpu", mixed=True):
    stream = torch.Generator().manual_seed(step)
    inputs = torch.randn(6, 3, 8, 8, generator=stream).to(device)
    labels, others = (torch.randint(5, (6,), generator=stream).to(device) for _ in range(2))
    return (
        Batch(inputs, labels, others, torch.tensor(0.3 + 0.1 * step, device=device)) if mixed else Batch(inputs, labels)
    )


def trained(step_, count, device="cpu", mixed=True):
    """All that the step changes, after some steps."""
    for number in range(count):
        step_(batch(number, device, mixed), 1 / (1 + number), 0.5)
    return {**step_.model.state_dict(), **{f"average {key}": value for key, value in step_.average.items()}}


def test_mixed_labels_count_by_their_share() -> None:
    model, one = net(), batch(2)
    step_ = TrainingStep(model, SPEC, 1e-2)
    wanted = [F.cross_entropy(net()(one.inputs), x, label_smoothing=0.05) for x in (one.labels, one.others)]
    step_(one, 1.0, 0.9)
    torch.testing.assert_close(step_.loss, 0.5 * wanted[0] + 0.5 * wanted[1])
    assert step_.outputs.shape == (6, 5) and not step_.outputs.requires_grad


def test_the_average_follows_and_counters_are_taken_over() -> None:
    step_ = TrainingStep(net(), SPEC, 1e-2)
    before = {key: value.clone() for key, value in step_.average.items()}
    step_(batch(0), 1.0, 0.75)
    for key, value in step_.model.state_dict().items():
        wanted = before[key].lerp(value, 0.25) if value.is_floating_point() else value
        torch.testing.assert_close(step_.average[key], wanted)
    assert step_.average["1.num_batches_tracked"] == 1


def test_only_matrices_decay() -> None:
    decayed, rest = TrainingStep(net(), SPEC, 1e-2).optimizer.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(8, 3, 3, 3), (5, 288)] and decayed["weight_decay"] == 0.05
    assert len(rest["params"]) == 4 and rest["weight_decay"] == 0


@pytest.mark.parametrize("mixed", [False, True])
def test_a_rehearsal_leaves_no_trace(device, mixed) -> None:
    rehearsed, plain = (TrainingStep(net(device), SPEC, 1e-2, record=False) for _ in range(2))
    places = [value.data_ptr() for value in rehearsed.model.state_dict().values()]
    with rehearsed.rehearsal():
        changed = trained(rehearsed, 3, device, mixed)
        assert not torch.equal(changed["0.weight"], net(device)[0].weight)
    after, wanted = trained(rehearsed, 4, device, mixed), trained(plain, 4, device, mixed)
    assert all(torch.equal(after[key], wanted[key]) for key in wanted)
    assert [value.data_ptr() for value in rehearsed.model.state_dict().values()] == places


def test_the_precision_of_products_is_as_it_was(device) -> None:
    before = torch.get_float32_matmul_precision()
    trained(TrainingStep(net(device), SPEC, 1e-2), 1, device)
    assert torch.get_float32_matmul_precision() == before


needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: there are no graphs without"
)


@needs_cuda
@pytest.mark.parametrize("mixed", [False, True])
def test_a_recorded_step_trains_as_one_that_is_not(mixed) -> None:
    recorded, plain = (TrainingStep(net("cuda"), SPEC, 1e-2, record=record) for record in (True, False))
    after, wanted = (trained(step_, 5, "cuda", mixed) for step_ in (recorded, plain))
    assert recorded._graph is not None
    for key, value in wanted.items():
        torch.testing.assert_close(after[key], value, rtol=1e-4, atol=1e-5, msg=key)
    torch.testing.assert_close(recorded.loss, plain.loss, rtol=1e-4, atol=1e-5)


class _Looks(nn.Module):
    """Reads a number back from the device, which no graph can."""

    def forward(self, x):
        return x * (2.0 if x.sum().item() > 0 else 1.0)


@needs_cuda
def test_a_step_that_cannot_be_recorded_runs_without_and_says_so_once(caplog) -> None:
    caplog.set_level(logging.WARNING)
    both = [TrainingStep(nn.Sequential(_Looks(), net("cuda")), SPEC, 1e-2, record=record) for record in (True, False)]
    after, wanted = (trained(step_, 3, "cuda") for step_ in both)
    assert sum("cannot be recorded as a CUDA graph" in record.message for record in caplog.records) == 1
    for key, value in wanted.items():
        torch.testing.assert_close(after[key], value, rtol=1e-4, atol=1e-5, msg=key)
