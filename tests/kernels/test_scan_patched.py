"""The patched output from the kernel: the library's y_p in any order of the scan, and its gradient."""

from __future__ import annotations

import pytest
import torch

from ouro.kernels.launch import KernelError
from ouro.kernels.patched_scan import patched_scan, reference
from ouro.kernels.patched_scan.cases import operands
from ouro.kernels.selective_scan import selective_scan
from ouro.scan import selective_scan as dispatched
from ouro.scan.order import column_major, reverse, row_major, window, with_class_token
from ouro.types import PatchWindow, ScanInputs
from tests.testing import assert_close

pytest.importorskip("triton")

ORDERS = [
    pytest.param(row_major((3, 3), 4), 3, id="class token"),
    pytest.param(reverse(column_major((2, 4))), 3, id="columns back", marks=pytest.mark.full),
    pytest.param(with_class_token(window((3, 3), 2), 0), 3, id="windows with padding"),
]


@pytest.mark.parametrize(("order", "size"), ORDERS)
def test_dispatch_gives_the_reference_s_y_p_and_gradients(order, size: int, where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(0), where, (1, len(order.cells)), 1, extra=0, b=1, e=3, n=1)
    leaves = [given[name].requires_grad_() for name in ("u", "delta", "A", "B", "C", "D", "weights")]
    outputs = {}
    for backend in ("reference", "triton"):
        out = dispatched(ScanInputs(*leaves[:6]), backend=backend, window=PatchWindow(size, leaves[6], order))
        g = torch.Generator().manual_seed(1)
        loss = sum((x * torch.randn(x.shape, generator=g).to(where)).sum() for x in (out.y, out.y_p))
        outputs[backend] = [out.y, out.y_p, *torch.autograd.grad(loss, leaves)]
    names = ("y", "y_p", "du", "ddelta", "dA", "dB", "dC", "dD", "dweights")
    for name, actual, expected in zip(names, outputs["triton"], outputs["reference"], strict=True):
        assert_close(actual, expected, name=name)


def test_a_window_of_one_weighs_the_output_without_skip(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(2), where, (3, 4), 1, b=1, e=5, n=3, shuffled=True)
    out = patched_scan(**given, backend="triton")
    scan = {name: given[name] for name in ("u", "delta", "A", "B", "C")}
    y = selective_scan(**scan, backend="triton") * given["weights"][:, None]
    assert_close(out.y_p, y[..., given["steps"]], name="y_p")
    assert torch.equal(out.y, selective_scan(**scan, D=given["D"], backend="triton"))


def test_grouped_gradients_are_those_of_the_float64_reference(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(3), where, (2, 3), 3, b=1, e=2, n=2, groups=2, skip=False)
    outputs = []
    for run, dtype, options in ((reference, torch.float64, {}), (patched_scan, torch.float32, {"backend": "triton"})):
        leaves = {
            name: x.detach().to(dtype).requires_grad_()
            for name, x in given.items()
            if isinstance(x, torch.Tensor) and x.is_floating_point()
        }
        out = run(**given | leaves, reverse=True, **options)
        outputs.append([out.y_p, *torch.autograd.grad(out.y_p.square().sum() + out.y.sum(), list(leaves.values()))])
    for expected, actual in zip(*outputs, strict=True):
        assert_close(actual, expected)


def test_errors_name_the_operand(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(4), where, (2, 2), 3, b=1, e=2, n=1)
    with pytest.raises(KernelError, match=r"weights is \(1, 4\), expected \(b, l\) = \(1, 5\)"):
        patched_scan(**given | {"weights": given["weights"][:, :4]})
    with pytest.raises(KernelError, match="size is 2, expected an odd number from 1 up"):
        patched_scan(**given | {"size": 2})
    with pytest.raises(
        KernelError, match=r"steps is \(4,\) torch.int64, expected one int64 for each cell of grid \(2, 3\)"
    ):
        patched_scan(**given | {"grid": (2, 3)})
    with pytest.raises(KernelError, match="tried triton: a window of 9 is wider than 7"):
        patched_scan(**given | {"size": 9}, backend="triton")
    assert torch.equal(patched_scan(**given | {"size": 9}).y, reference(**given | {"size": 9}).y)
