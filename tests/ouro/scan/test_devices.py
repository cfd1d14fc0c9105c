"""Scans, transitions and attention in one go run on another device by their definitions, with gradients, and say so once."""

import logging

import pytest
import torch

from ouro.scan import dispatch, selective_scan
from ouro.scan.contract import contract
from ouro.scan.transition import transition
from ouro.types import Companding, PatchWindow, ScanInputs, ScanRounding, StateQuantizer
from tests.devices import assert_same, both, elsewhere
from tests.ouro.scan.test_scan import operands, rule, square_window

SIZE = (2, 6, 10, 3, None)
GROUPED = (2, 6, 10, 3, 2)


def moved(record, device):
    """A frozen record with its tensors on a device."""
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return type(record)(**{key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in values.items()})


def rounding(device):
    ends = torch.tensor([0.3]), torch.tensor([0.8]), torch.tensor([0.0]), torch.tensor([0.2])
    rules = (
        rule(SIZE[2], SIZE[1], SIZE[3]),
        Companding(4, ends[0], ends[1], 2),
        Companding(4, ends[2], ends[3], 1, signed=True),
    )
    return ScanRounding(*(moved(one, device) for one in rules))


REQUESTS = {
    "y": lambda device: {},
    "states": lambda device: {"keep_states": True},
    "rounding": lambda device: {"rounding": rounding(device)},
    "one step of h": lambda device: {"rounding": ScanRounding(StateQuantizer(torch.tensor([0.1]).to(device), 4))},
    "window": lambda device: {"window": moved(window(), device)},
}


def window() -> PatchWindow:
    square = square_window(SIZE[2], SIZE[0], 3)
    assert square is not None
    return square


@pytest.mark.parametrize("size", [SIZE, GROUPED], ids=["plain", "grouped"])
@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_a_scan_elsewhere_is_its_definition(size, request_of):
    def run(device):
        leaves = [x.to(device).requires_grad_() for x in operands(size)]
        out = selective_scan(ScanInputs(*leaves), **request_of(device))
        parts = [x for x in (out.y, out.h, out.y_p) if x is not None]
        gradients = torch.autograd.grad(sum(x.square().sum() for x in parts), leaves)
        return [x.detach().cpu() for x in (*parts, *gradients)]

    assert_same(*both(run))


@pytest.mark.parametrize("size", [SIZE, GROUPED], ids=["plain", "grouped"])
@pytest.mark.parametrize("through", [None, window()], ids=["alpha", "alpha_p"])
def test_attention_elsewhere_is_its_definition(size, through):
    def run(device):
        _, delta, A, B, C, _ = (x.to(device).requires_grad_() for x in operands(size))
        place = None if through is None else moved(through, device)
        result = contract(transition(delta, A, size[4]), B, C, place)
        gradients = torch.autograd.grad(result.square().sum(), [delta, A, B, C])
        return [x.detach().cpu() for x in (result, *gradients)]

    assert_same(*both(run))


def test_a_loop_over_tokens_on_a_device_is_logged_once(caplog):
    dispatch._warn_slow.cache_clear()
    with elsewhere() as device, caplog.at_level(logging.WARNING), torch.no_grad():
        inputs = ScanInputs(*(x.to(device) for x in operands(SIZE)))
        for _ in range(3):
            selective_scan(inputs, rounding=rounding(device))
        selective_scan(inputs, backend="reference")
    assert [record.name for record in caplog.records] == ["ouro.scan.dispatch"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("rounding inside the recurrence runs by the reference on meta, token after token; triton: ")
    caplog.clear()
    with torch.no_grad():
        selective_scan(ScanInputs(*operands(SIZE)), rounding=rounding("cpu"))
    assert not caplog.records
