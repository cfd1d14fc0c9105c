"""Taps change nothing while nobody looks, and nothing silently while somebody does."""

import re

import pytest
import torch
from torch import nn

from ouro.taps import SITES, ScanModule, Tap, attach, detach, match_taps, record, taps
from ouro.types import ScanOrder

ORDER = ScanOrder((2, 2), (0, 1, 2, 3))
OPERANDS = ("u", "delta", "A", "B", "C", "D")


class Scan(ScanModule):
    """Stands for a scan: every operand passes its tap, h only when it is recorded."""

    def __init__(self):
        super().__init__(ORDER)
        for name in (*OPERANDS, "y"):
            setattr(self, f"tap_{name}", Tap(f"scan.{name}", "b e l"))
        self.tap_h = Tap("scan.h", "b e l n", costly=True)

    def forward(self, x):
        operands = [getattr(self, f"tap_{name}")(x * index) for index, name in enumerate(OPERANDS, 1)]
        if self.tap_h.recorded:
            self.tap_h(x[..., None])
        return self.tap_y(torch.stack(operands).sum(0))


class Layer(nn.Module):
    """A linear layer with taps, and a scan; the side tap only fires on request."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.tap_in = Tap("linear.in", "b l e")
        self.tap_w = Tap("linear.weight", "o i")
        self.tap_side = Tap("gate", "b e l")
        self.scans = nn.ModuleList([Scan()])

    def forward(self, x, side=False):
        x = nn.functional.linear(self.tap_in(x), self.tap_w(self.linear.weight), self.linear.bias)
        x = self.tap_side(x) if side else x
        return self.scans[0](x)


class Double(nn.Module):
    """A quantizer with a parameter."""

    def __init__(self):
        super().__init__()
        self.step = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return x * self.step


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList([Layer(), Layer()])
    model.forward = lambda x, **options: model.layers[1](model.layers[0](x, **options), **options)
    return model


@pytest.fixture
def x():
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


def test_site_must_be_known():
    with pytest.raises(ValueError, match=re.escape(f"unknown site 'scan.x'; known: {', '.join(SITES)}")):
        Tap("scan.x", "b e l")


def test_a_compiled_model_is_refused(model):
    with pytest.raises(ValueError, match=r"a compiled model calls no taps; give the model itself \(its \._orig_mod\)"):
        list(taps(torch.compile(model)))


def test_taps_add_no_state_dict_key(model):
    assert set(model.state_dict()) == {f"layers.{i}.linear.{name}" for i in (0, 1) for name in ("weight", "bias")}
    assert len(list(taps(model))) == 2 * (3 + 8)


def test_match_leaves_out_costly_taps_unless_named(model):
    matches = match_taps(model, "layers.*.scans.*")
    assert set(matches) == {f"layers.{i}.scans.0.tap_{name}" for i in (0, 1) for name in (*OPERANDS, "y")}
    assert set(match_taps(model, "*.tap_h")) == {"layers.0.scans.0.tap_h", "layers.1.scans.0.tap_h"}
    assert set(match_taps(model, "layers.0.tap_*", "*.tap_in")) == {
        "layers.0.tap_in", "layers.0.tap_w", "layers.0.tap_side", "layers.1.tap_in",
    }  # fmt: skip


@pytest.mark.parametrize("pattern", ["layers.7.*", "scans.*", "layers.*.scans.*.tap_[h]"])
def test_match_refuses_a_pattern_without_a_tap(model, pattern):
    message = (
        f"pattern {pattern!r} matches none of the model's 22 taps "
        "(such as layers.0.tap_in, layers.0.tap_w, layers.0.tap_side)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"), record(model, "layers.0.tap_in", pattern):
        pass


def test_record_sees_the_tensors_and_changes_nothing(model, x):
    plain = model(x)
    with record(model, "layers.0.tap_in", "layers.1.scans.*") as trace:
        traced = model(x)
        # a trace is complete when the block ends
        assert trace.scans == []
    assert torch.equal(plain, traced)
    assert torch.equal(trace.tensors["layers.0.tap_in"], x)
    (scan,) = trace.scans
    assert (scan.path, scan.order, scan.h) == ("layers.1.scans.0", ORDER, None)
    assert torch.equal(scan.y, plain)
    assert torch.equal(scan.inputs.D, 6 * scan.inputs.u)


def test_record_keeps_h_only_by_name(model, x):
    with record(model, "layers.0.scans.*", "layers.0.scans.0.tap_h") as trace:
        model(x)
    (scan,) = trace.scans
    assert torch.equal(scan.h[..., 0], scan.inputs.u)


def test_record_makes_no_record_of_a_scan_traced_in_part(model, x):
    with record(model, "*.tap_u") as trace:
        model(x)
    assert len(trace.tensors) == 2 and list(trace.scans) == []


def test_record_detaches_by_default(model, x):
    with record(model, "*.tap_y") as trace:
        model(x.requires_grad_())
    assert not any(tensor.requires_grad for tensor in trace.tensors.values())
    with record(model, "*.tap_y", detach=False) as trace:
        model(x)
    trace.tensors["layers.1.scans.0.tap_y"].sum().backward()
    assert x.grad.abs().sum() > 0


def test_record_refuses_silent_taps(model, x):
    message = "2 of 4 recorded taps did not fire, first 'layers.0.tap_side'; was the model called inside the block?"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"), record(model, "*.tap_side", "*.tap_in"):
        model(x)
    with record(model, "*.tap_side") as trace:
        model(x, side=True)
    assert len(trace.tensors) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_record_takes_its_hooks_off(model, x, fails):
    try:
        with record(model, "*", "*.tap_h"):
            assert all(tap.recorded for _, tap in taps(model))
            model(x, side=True)
            if fails:
                raise InterruptedError
    except InterruptedError:
        assert fails
    assert not any(tap.recorded for _, tap in taps(model))


def test_attach_then_detach_is_bit_exact(model, x):
    plain, keys = model(x), set(model.state_dict())
    quantizers = {path: Double() for path, _ in taps(model) if not path.endswith("tap_h")}
    assert attach(model, quantizers) is model
    assert not torch.equal(model(x), plain)
    assert "layers.0.tap_in.quantizer.step" in model.state_dict()
    assert detach(model) is model
    assert torch.equal(model(x), plain)
    assert set(model.state_dict()) == keys


def test_record_sees_the_quantized_tensor(model, x):
    attach(model, {"layers.0.tap_in": Double()})
    with record(model, "layers.0.tap_in") as trace:
        model(x)
    assert torch.equal(trace.tensors["layers.0.tap_in"], 2 * x)


def test_attach_refuses_foreign_and_double_paths(model):
    with pytest.raises(
        ValueError, match=r"^'layers\.9\.tap_in' is no tap of this model; was it calibrated for another"
    ):
        attach(model, {"layers.0.tap_in": Double(), "layers.9.tap_in": Double()})
    assert model.layers[0].tap_in.quantizer is None
    attach(model, {"layers.0.tap_in": Double()})
    with pytest.raises(ValueError, match=r"^tap 'layers\.0\.tap_in' already has a quantizer; detach\(model\) first$"):
        attach(model, {"layers.0.tap_in": Double()})
