"""The device that is not there computes what the CPU does, and refuses what CUDA would refuse."""

import copy

import pytest
import torch
from torch import nn

from ouro.scan import contract
from tests.devices import Away, LeftBehind, assert_same, both, by_definition, elsewhere


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3) * x,
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.stack([x[0], torch.tensor(1.0)]),
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x @ torch.ones(3, 2),
        lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, 0.0),
        lambda x: torch.zeros(()).add_(x.sum()),
        lambda x: torch.zeros(3).add_(x),
        lambda x: nn.Linear(3, 2)(x),
        lambda x: x.requires_grad_() * nn.Parameter(torch.ones(3)),
    ],
)
def test_tensors_left_on_the_cpu_are_refused(mix):
    with elsewhere() as device, pytest.raises(LeftBehind, match="met tensors of both devices"):
        mix(torch.arange(3.0).to(device))


@pytest.mark.parametrize(
    "draw",
    [
        lambda device: torch.randn(3, device=device),
        lambda device: torch.zeros(3, device=device).normal_(),
        lambda device: torch.randperm(3, device=device),
        lambda device: nn.functional.dropout(torch.ones(3, device=device)),
    ],
)
def test_draws_on_the_device_are_refused(draw):
    with elsewhere() as device, pytest.raises(LeftBehind, match="draw on the CPU and move what was drawn"):
        draw(device)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + torch.tensor(2.0),
        lambda x: torch.where(x > 1, x, 0.5),
        lambda x: x.masked_fill(x > 1, 7)[x > 0],
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: nn.functional.one_hot(x.long(), 3),
        lambda x: torch.tensor([3, 1], device=x.device),
        lambda x: torch.stack(
            [x, torch.linspace(0, 1, 3, device=x.device), torch.as_tensor([1.0] * 3, device=x.device)]
        ),
    ],
)
def test_everything_else_gives_the_same_numbers(compute):
    def run(device):
        result = compute(torch.arange(3.0).to(device))
        assert isinstance(result, Away) or not isinstance(result, torch.Tensor) or result.device.type == "cpu"
        return result.cpu() if isinstance(result, torch.Tensor) else result

    assert_same(*both(run))


def test_changes_in_place_reach_views_and_what_they_are_views_of():
    def run(device):
        x = torch.arange(6.0).to(device)
        view = x.view(2, 3)[1]
        view += 1
        x[0] = 9
        x.view(-1).clamp_(max=5)
        return [x.cpu(), view.cpu()]

    assert_same(*both(run))


def test_modules_move_learn_and_are_copied():
    torch.manual_seed(0)
    start, data = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), torch.randn(5, 3)

    def run(device):
        model = copy.deepcopy(start).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(data.to(device)).square().mean().backward()
            optimizer.step()
        again = copy.deepcopy(model)
        again.load_state_dict(start.state_dict())
        half = copy.deepcopy(model).half()
        states = (module.state_dict() for module in (model, again, half))
        return [{key: x.cpu() for key, x in state.items()} for state in states]

    assert_same(*both(run))


def test_numbers_elsewhere_are_no_arrays():
    with elsewhere() as device, pytest.raises(RuntimeError, match="numpy"):
        torch.ones(3, device=device).numpy()


def test_results_that_stayed_elsewhere_or_differ_are_reported():
    with elsewhere() as device:
        left = torch.ones(2, device=device)
        with pytest.raises(AssertionError, match="expected a tensor of the CPU"):
            assert_same(torch.ones(2), left)
    with pytest.raises(AssertionError, match=r"result\['a'\]\[0\] differs by up to 1.000e\+00"):
        assert_same({"a": [torch.ones(2)]}, {"a": [torch.zeros(2)]})


def test_definitions_serve_the_cpu_only_while_asked_for():
    x = torch.ones(1)
    with by_definition():
        assert not contract.compiles(x)
    assert contract.compiles(x)
