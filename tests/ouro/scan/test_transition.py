"""The transition and its contraction: compiled and by definition they agree, with gradients, whatever the sizes."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.scan import contract as contraction
from ouro.scan import cpu
from ouro.scan import transition as transitions
from ouro.scan.contract import by_definition, contract
from ouro.scan.order import reverse, row_major
from ouro.scan.transition import closed_form, transition
from ouro.types import PADDING, PatchWindow, ScanOrder
from tests.testing import assert_close

# (batch, e, l, n, groups)
SIZES = [
    pytest.param((1, 1, 1, 1, None), id="all-ones"),
    pytest.param((2, 3, 15, 4, None), id="less-than-a-block"),
    pytest.param((1, 70, 33, 3, None), id="a-lane-group-and-six"),
    pytest.param((2, 12, 17, 1, 4), id="four-groups"),
    pytest.param((1, 140, 50, 2, 2), id="groups-wider-than-a-tile"),
]


def operands(size: tuple, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    batch, e, length, n, _ = size
    g = torch.Generator().manual_seed(0)
    delta = F.softplus(torch.randn(batch, e, length, generator=g, dtype=torch.float64) - 2)
    A = -torch.rand(e, n, generator=g, dtype=torch.float64) - torch.arange(n)
    return delta.to(dtype).requires_grad_(), A.to(dtype).requires_grad_()


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("size", SIZES)
def test_transition_agrees_with_closed_form(size, dtype):
    delta, A = operands(size, dtype)
    exact = [x.detach().double().requires_grad_() for x in (delta, A)]
    T = transition(delta, A, size[-1])
    expected = closed_form(*exact, size[-1] or 1)
    expected = expected[:, 0] if size[-1] is None else expected
    assert_close(T, expected, name="T")
    weights = noise(*T.shape)
    actual = torch.autograd.grad((T * weights.to(dtype)).sum(), (delta, A))
    wanted = torch.autograd.grad((expected * weights).sum(), exact)
    for name, x, y in zip(("delta", "A"), actual, wanted, strict=True):
        assert_close(x, y, name=f"gradient of {name}", atol=None if dtype is torch.float64 else 1e-5 * y.abs().max())


@pytest.mark.parametrize("groups", [None, 2])
def test_transition_gradcheck(groups):
    delta, A = operands((2, 4, 18, 2, None), torch.float64)
    assert torch.autograd.gradcheck(lambda delta, A: transition(delta, A, groups), (delta, A), fast_mode=True)


def test_transition_is_causal_and_begins_with_delta():
    delta, A = operands((2, 5, 40, 3, None), torch.float32)
    T = transition(delta, A)
    above = T.permute(0, 3, 1, 2).triu(1)
    assert above.equal(torch.zeros_like(above))
    diagonal = T.diagonal(dim1=1, dim2=2).transpose(1, 2)
    assert_close(diagonal, delta.mean(1).unsqueeze(-1).expand_as(diagonal), name="diagonal")


def test_transition_survives_extreme_steps():
    delta, A = operands((1, 4, 60, 3, None), torch.float32)
    steps = torch.cat([delta[..., :20] * 0, delta[..., 20:40] * 1e3, delta[..., 40:] * 1e-6], dim=-1)
    T = transition(steps, A)
    assert T.isfinite().all()
    assert_close(T, closed_form(steps.double(), A.double(), 1)[:, 0], name="T")
    assert all(x.isfinite().all() for x in torch.autograd.grad(T.sum(), (delta, A)))


def test_transition_ignores_batch_mates_and_threads():
    delta, A = operands((3, 130, 37, 2, None), torch.float32)
    together = transition(delta, A)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = torch.cat([transition(sample[None], A) for sample in delta])
    finally:
        torch.set_num_threads(threads)
    assert together.equal(alone)


@pytest.mark.parametrize(
    ("delta", "A", "groups", "message"),
    [
        ((2, 3), (3, 2), None, "delta is (2, 3), expected a non-empty (b, e, l)"),
        ((1, 4, 5), (3, 2), None, "A is (3, 2), expected (e, n) with e = 4"),
        ((1, 4, 5), (4, 2), 3, "3 groups do not divide 4 channels"),
    ],
)
def test_transition_refuses(delta, A, groups, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        transition(torch.ones(delta), torch.ones(A), groups)


CENTER = row_major((3, 4), 6)
# (order, size of the window or None, groups)
CONTRACTIONS = [
    pytest.param((CENTER, None, 1), id="no-window"),
    pytest.param((CENTER, 1, 1), id="window-1"),
    pytest.param((reverse(CENTER), 3, 2), id="window-3-backward-two-groups"),
    pytest.param((ScanOrder((2, 2), (PADDING, 3, 1, PADDING, 0, 2)), 3, 1), id="padded"),
    pytest.param((row_major((9, 9), 40), 5, 1), id="wider-than-a-tile"),
]


def contraction_operands(order: ScanOrder, groups: int) -> tuple[Tensor, ...]:
    L, N = len(order.cells), 3
    B, C = noise(2, 2, groups, N, L)
    return tuple(x.requires_grad_() for x in (noise(2, groups, L, L, N), B.clone(), C.clone(), noise(2, L).abs()))


@pytest.mark.parametrize(
    ("order", "size", "groups"), [p.values[0] for p in CONTRACTIONS], ids=[p.id for p in CONTRACTIONS]
)
def test_contract_agrees_with_definition(order, size, groups):
    T, B, C, weights = contraction_operands(order, groups)
    window = None if size is None else PatchWindow(size, weights, order)
    leaves = (T, B, C) if size is None else (T, B, C, weights)
    actual, wanted = contract(T, B, C, window), by_definition(T, B, C, window)
    assert_close(actual, wanted, name="alpha")
    G = noise(*actual.shape)
    gradients = (torch.autograd.grad((x * G).sum(), leaves) for x in (actual, wanted))
    for name, x, y in zip(("T", "B", "C", "weights"), *gradients, strict=False):
        assert_close(x, y, name=f"gradient of {name}")


def test_contract_in_float32():
    T, B, C, weights = (x.detach() for x in contraction_operands(CENTER, 1))
    window = PatchWindow(3, weights, CENTER)
    narrow = contract(T.float(), B.float(), C.float(), PatchWindow(3, weights.float(), CENTER))
    assert narrow.dtype is torch.float32
    assert_close(narrow, contract(T, B, C, window), name="alpha_p")


def test_contract_refuses():
    message = "C is (2, 1, 3, 4), T (2, 1, 5, 5, 3) needs (2, 1, 3, 5)"
    with pytest.raises(ValueError, match=re.escape(message)):
        contract(torch.ones(2, 5, 5, 3), torch.ones(2, 3, 5), torch.ones(2, 3, 4))


def test_kernels_have_a_stable_cache_key():
    # a compiled function among the cell variables has a new identity in every process: nothing would be found again
    kernels = [
        cpu._kernels("float32", True),
        transitions._kernels("float32"),
        contraction._kernels("float32"),
    ]
    for kernel in (kernel for pair in kernels for kernel in (pair.forward, pair.backward)):
        cells = kernel.py_func.__closure__ or ()
        assert not [cell.cell_contents for cell in cells if hasattr(cell.cell_contents, "py_func")], kernel
