"""The scan as one operator: what torch exports and compiles computes what the model does, gradients too."""

from __future__ import annotations

import pytest
import torch

from ouro.models import create_model
from ouro.scan import selective_scan
from ouro.types import ScanInputs

SMALL = {"depth": 1, "image": 16, "width": 16, "num_classes": 5}


def operands(dtype=torch.float32, batch=2, e=70, n=3, L=9, groups=0, skip=True):
    stream = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=stream).to(dtype)

    matrix = (batch, groups, n, L) if groups else (batch, n, L)
    drawn = [draw(batch, e, L), draw(batch, e, L).abs(), -draw(e, n).abs(), draw(*matrix), draw(*matrix)]
    return [x.requires_grad_() for x in (*drawn, draw(e))][: 6 if skip else 5]


CASES = [{}, {"skip": False}, {"dtype": torch.float64}, {"batch": 1, "e": 1, "n": 1, "L": 1}, {"groups": 2}]


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_operator_keeps_what_it_promises(case):
    given = operands(**case)
    given += [] if case.get("skip", True) else [None]
    kept = torch.library.opcheck(torch.ops.ouro.selective_scan.default, tuple(given))
    assert set(kept.values()) == {"SUCCESS"}


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_what_it_computes_is_bit_for_bit_the_scan(case):
    given = operands(**case)
    own = given if case.get("skip", True) else [*given, None]
    y, wanted = torch.ops.ouro.selective_scan(*own), selective_scan(ScanInputs(*given)).y
    assert torch.equal(y, wanted)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    grads = [torch.autograd.grad((out * weight).sum(), given) for out in (y, wanted)]
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


def test_a_model_is_exported_with_one_node_a_scan_for_any_batch(tmp_path):
    model = create_model("vim_nano", **SMALL)
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    made = torch.export.export(model, (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes)
    nodes = [node.target for node in made.graph.nodes]
    scans = sum(len(orders) for orders in model.mixers().values())
    assert nodes.count(torch.ops.ouro.selective_scan.default) == scans == 2
    torch.export.save(made, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 3):
        images = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
        assert torch.equal(loaded(images), model(images))


def test_a_compiled_model_has_the_same_outputs_and_gradients():
    model, images = create_model("vim_nano", **SMALL), torch.rand(2, 3, 16, 16)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for both in zip(*(_grads(one, model, images) for one in (compiled, model)), strict=True):
        assert torch.allclose(*both, rtol=1e-5, atol=1e-6)


def _grads(run, model, images):
    outputs = run(images)
    return outputs, *torch.autograd.grad(outputs.square().sum(), list(model.parameters()))


@pytest.mark.parametrize("size", [1.0, 1000.0], ids=["delta 1", "delta 1000"])
def test_half_precision_is_as_near_to_float64_as_its_format(size):
    """At delta 1000 h outgrows what float16 holds (65504): what is read out of it is near, or infinite, never plausible."""
    stream = torch.Generator().manual_seed(0)
    b, e, L, n = 2, 5, 37, 16
    # at the larger size enough of it for h to leave what float16 holds
    loud = 1.0 if size == 1 else 40.0
    u, delta = loud * torch.randn(b, e, L, generator=stream), torch.rand(b, e, L, generator=stream) * size
    A = -torch.rand(e, n, generator=stream) / size
    B, C = (torch.randn(b, n, L, generator=stream) for _ in range(2))
    half = [x.half() for x in (u, delta, A, B, C)]
    exact = selective_scan(ScanInputs(*(x.double() for x in half)), backend="reference", keep_states=True)
    given = selective_scan(ScanInputs(*half)).y
    assert given.dtype == torch.float16
    assert (exact.h.abs().amax() > 65504) == (size > 1)
    # float32 inside: half a unit of float16 of the result, and float32's own error of the sum it comes from
    error = (given.double() - exact.y).abs()
    # 65520 is where rounding to float16 turns from its largest number to infinity
    fits = exact.y.abs() < 65519
    assert given[exact.y.abs() > 65521].isinf().all()
    largest = (exact.h * half[4].double().transpose(1, 2)[:, None]).abs().sum(-1)
    assert (error[fits] <= (exact.y.abs() * 2**-11 + largest * 1e-5 + 6e-8)[fits]).all()
