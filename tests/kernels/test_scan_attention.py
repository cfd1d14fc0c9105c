"""Implicit attention from the kernel: what ouro.attention calls alpha, and what the scan's output is made of."""

from __future__ import annotations

import pytest
import torch

from ouro.attention.implicit import alpha
from ouro.kernels.implicit_attention import implicit_attention
from ouro.kernels.launch import KernelError
from ouro.kernels.selective_scan import reference as scan
from ouro.kernels.selective_scan.cases import operands
from ouro.types import ScanInputs
from tests.testing import assert_close

pytest.importorskip("triton")


def asked(given: dict) -> dict:
    return {name: given[name] for name in ("delta", "A", "B", "C")}


@pytest.mark.parametrize("groups", [None, 2])
def test_alpha_is_that_of_the_library(groups: int | None, where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(0), where, b=1, e=4, l=6, n=3, groups=groups)
    for mean, reduce in ((True, "mean"), (False, None)):
        actual = implicit_attention(**asked(given), mean=mean, backend="triton")
        assert_close(actual, alpha(ScanInputs(**given), reduce), name=f"alpha, {reduce}")


@pytest.mark.parametrize("length", [1, 9, pytest.param(17, marks=pytest.mark.full)])
def test_alpha_times_u_is_the_output_of_the_scan(length: int, where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(1), where, b=2, e=3, l=length, n=4, delta="mixed")
    weights = implicit_attention(**asked(given), mean=False, backend="triton")
    y = torch.einsum("beij,bej->bei", weights, given["u"]) + given["D"][:, None] * given["u"]
    assert_close(y, scan(**given), name="y")


def test_rows_are_those_of_the_whole_matrix_and_zero_above_the_diagonal(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(2), where, b=2, e=3, l=11, n=2)
    whole = implicit_attention(**asked(given), backend="triton")
    assert torch.equal(whole, whole.tril()) and (whole != 0).any()
    rows = torch.tensor([10, 0, 7], device=where)
    assert torch.equal(implicit_attention(**asked(given), rows=rows, backend="triton"), whole[:, rows])


def test_errors_name_the_operand(where: torch.device) -> None:
    given = asked(operands(torch.Generator().manual_seed(3), where, b=1, e=4, l=5, n=3))
    with pytest.raises(KernelError, match=r"rows has \[5\], expected steps from 0 to 4"):
        implicit_attention(**given, rows=torch.tensor([5], device=where))
    with pytest.raises(KernelError, match=r"rows is \(1,\) torch.float32, expected a non-empty \(r,\) of int64"):
        implicit_attention(**given, rows=torch.ones(1, device=where))
    with pytest.raises(KernelError, match=r"delta is \(4, 5\), expected a non-empty \(b, e, l\)"):
        implicit_attention(**given | {"delta": given["delta"][0]})
    with pytest.raises(KernelError, match="tried triton: it has no gradient"):
        implicit_attention(**given | {"A": given["A"].requires_grad_()}, backend="triton")
