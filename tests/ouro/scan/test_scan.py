"""The scan: its compiled form agrees with its definition, forward and backward, whatever the sizes and the memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.scan import BackendError, selective_scan
from ouro.scan.cpu import max_exp_ulp
from ouro.scan.discretize import discretize
from ouro.scan.dispatch import backends
from ouro.scan.order import reverse, row_major
from ouro.types import PatchWindow, ScanInputs, ScanOrder, ScanRounding, StateQuantizer
from tests.testing import assert_close

NAMES = ("u", "delta", "A", "B", "C", "D")
# (batch, e, l, n, groups)
SIZES = [
    pytest.param((1, 1, 1, 1, None), id="all-ones"),
    pytest.param((2, 3, 3, 16, None), id="e3-l3"),
    pytest.param((1, 70, 23, 8, None), id="e70-l23-n8"),
    pytest.param((2, 128, 63, 1, None), id="n1"),
    pytest.param((2, 12, 17, 1, 4), id="four-groups"),
    pytest.param((1, 140, 9, 3, 2), id="groups-wider-than-a-tile"),
    pytest.param((2, 64, 197, 16, None), id="vim-197"),
]


def operands(size: tuple, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    batch, e, length, n, groups = size
    g = torch.Generator().manual_seed(seed)
    matrix = (batch, n, length) if groups is None else (batch, groups, n, length)
    draw = [torch.randn(shape, generator=g, dtype=dtype) for shape in ((batch, e, length), (batch, e, length))]
    A = -torch.exp(0.1 * torch.randn(e, n, generator=g, dtype=dtype) + torch.arange(1, n + 1, dtype=dtype).log())
    B, C = (torch.randn(matrix, generator=g, dtype=dtype) for _ in range(2))
    return [draw[0], F.softplus(draw[1] - 2), A, B, C, torch.randn(e, generator=g, dtype=dtype)]


def rule(length: int, e: int, n: int, dtype: torch.dtype = torch.float32) -> StateQuantizer:
    g = torch.Generator().manual_seed(5)
    step, channel, state = (torch.rand(k, generator=g, dtype=dtype) + 0.5 for k in (length, e, n))
    return StateQuantizer(step * 0.05, 4, channel, state)


def square_window(length: int, batch: int, size: int, dtype: torch.dtype = torch.float32) -> PatchWindow | None:
    side = int((length - 1) ** 0.5)
    if side * side != length - 1 or side < 1:
        return None
    weights = torch.rand(batch, length, generator=torch.Generator().manual_seed(6), dtype=dtype)
    return PatchWindow(size, weights, reverse(row_major((side, side), side * side // 2)))


def outputs_and_gradients(leaves: list[Tensor], backend: str, **request: object) -> dict[str, Tensor]:
    out = selective_scan(ScanInputs(*leaves), backend=backend, **request)
    g = torch.Generator().manual_seed(1)
    loss = (out.y * torch.randn(out.y.shape, generator=g, dtype=out.y.dtype)).sum()
    results = {"y": out.y}
    tracked, names = list(leaves), list(NAMES)
    if out.y_p is not None:
        loss = loss + (out.y_p * torch.randn(out.y_p.shape, generator=g, dtype=out.y.dtype)).sum()
        results["y_p"] = out.y_p
        tracked.append(request["window"].weights)
        names.append("weights")
    return results | dict(zip([f"d{name}" for name in names], torch.autograd.grad(loss, tracked), strict=True))


@pytest.mark.parametrize("quantized", [False, True], ids=["float-state", "rounded-state"])
@pytest.mark.parametrize("windowed", [False, True], ids=["y", "y_p"])
@pytest.mark.parametrize("size", SIZES)
def test_compiled_scan_agrees_with_the_definition(size: tuple, windowed: bool, quantized: bool) -> None:
    batch, e, length, n, _ = size
    leaves = [x.double().requires_grad_() for x in operands(size)]
    window = square_window(length, batch, 3, torch.float64) if windowed else None
    if window is not None:
        window.weights.requires_grad_()
    request = {"window": window, "rounding": ScanRounding(rule(length, e, n, torch.float64)) if quantized else None}
    expected = outputs_and_gradients(leaves, "reference", **request)
    actual = outputs_and_gradients(leaves, "cpu", **request)
    for name in expected:
        assert_close(actual[name], expected[name], name=name)


@pytest.mark.parametrize("size", SIZES[3:])
def test_float32_gradients_are_within_1e5_of_the_reference(size: tuple) -> None:
    leaves = [x.requires_grad_() for x in operands(size)]
    expected, actual = (outputs_and_gradients(leaves, backend) for backend in ("reference", "cpu"))
    for name, exact in expected.items():
        assert (actual[name] - exact).abs().max() <= 1e-5 * exact.abs().max(), name


def test_gradcheck_in_float64() -> None:
    leaves = [x.requires_grad_() for x in operands((2, 3, 5, 2, None), torch.float64)]
    weights = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    order = row_major((2, 2), 2)

    def run(*given: Tensor) -> tuple[Tensor, Tensor]:
        out = selective_scan(ScanInputs(*given[:6]), backend="cpu", window=PatchWindow(3, given[6], order))
        return out.y, out.y_p

    assert torch.autograd.gradcheck(run, (*leaves, weights))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_states_reproduce_y_and_obey_the_recurrence(backend: str) -> None:
    inputs = ScanInputs(*operands((2, 5, 7, 3, None), torch.float64))
    out = selective_scan(inputs, backend=backend, keep_states=True)
    A_bar, B_bar = discretize(inputs)
    following = A_bar[:, :, 1:] * out.h[:, :, :-1] + B_bar[:, :, 1:] * inputs.u[:, :, 1:, None]
    assert_close(out.h[:, :, 1:], following, name="h")
    read = torch.einsum("beln,bnl->bel", out.h, inputs.C) + inputs.D[:, None] * inputs.u
    assert_close(out.y, read, name="y")


def test_a_rounded_state_changes_the_recurrence_and_lies_on_its_grid() -> None:
    inputs, quantizer = ScanInputs(*operands((1, 4, 9, 3, None))), rule(9, 4, 3)
    exact = selective_scan(inputs)
    rounded = selective_scan(inputs, rounding=ScanRounding(quantizer), keep_states=True)
    assert (rounded.y[..., 0] - exact.y[..., 0]).abs().max() < 1e-6, "y_0 reads the unrounded state"
    assert (rounded.y[..., 1:] - exact.y[..., 1:]).abs().max() > 1e-3
    A_bar, B_bar = discretize(inputs)
    carried = (rounded.h[:, :, 1:] - B_bar[:, :, 1:] * inputs.u[:, :, 1:, None]) / A_bar[:, :, 1:]
    scale = quantizer.step[:-1, None] * quantizer.channel[:, None, None] * quantizer.state
    codes = carried / scale
    assert (codes - codes.round()).abs().max() < 0.05
    assert codes.min() > -8.05 and codes.max() < 7.05


def test_memory_layout_does_not_matter() -> None:
    leaves = operands((2, 40, 17, 8, None))
    strange = [x.double().float().transpose(-1, -2).contiguous().transpose(-1, -2) for x in leaves[:5]]
    strange[0] = torch.cat([leaves[0], leaves[0]], dim=1)[:, ::2][:, :40] * 0 + leaves[0]
    padded = torch.zeros(2, 80, 34)
    padded[:, ::2, ::2] = leaves[1]
    strange[1] = padded[:, ::2, ::2]
    assert not strange[1].is_contiguous()
    expected = selective_scan(ScanInputs(*leaves)).y
    assert torch.equal(selective_scan(ScanInputs(*strange, leaves[5])).y, expected)


def test_a_sample_does_not_see_its_batch_mates_or_the_threads() -> None:
    leaves = [x.requires_grad_() for x in operands((5, 70, 23, 16, None))]
    whole = outputs_and_gradients(leaves, "cpu")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = selective_scan(
            ScanInputs(*(x[3:4] for x in leaves[:2]), leaves[2], *(x[3:4] for x in leaves[3:5]), leaves[5])
        )
        single = outputs_and_gradients(leaves, "cpu")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone.y, whole["y"][3:4])
    for name in whole:
        assert torch.equal(single[name], whole[name]), name


@pytest.mark.full
def test_the_process_that_compiles_and_those_that_read_the_code_from_disk_agree_bit_for_bit(tmp_path) -> None:
    script = """
import hashlib, torch
from ouro.scan import selective_scan
from ouro.types import ScanInputs
g = torch.Generator().manual_seed(0)
u, delta, B, C = (torch.randn(s, generator=g) for s in ((2, 130, 23), (2, 130, 23), (2, 16, 23), (2, 16, 23)))
leaves = [u, 0.1 * delta.abs(), -torch.rand(130, 16, generator=g), B, C, torch.rand(130, generator=g)]
y = selective_scan(ScanInputs(*(x.requires_grad_() for x in leaves))).y
results = [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]
print(*(hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest() for x in results))
"""
    digests = [
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, check=True,
            capture_output=True, text=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert digests[0] == digests[1] and len(digests[0].split()) == 7


def test_torch_keeps_its_number_of_threads() -> None:
    script = """
import torch
from ouro.scan import selective_scan
from ouro.types import ScanInputs
torch.set_num_threads(1)
selective_scan(ScanInputs(*(torch.ones(s) for s in ((1, 2, 3), (1, 2, 3), (2, 1), (1, 1, 3), (1, 1, 3)))))
print(torch.get_num_threads())
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "1\n"


def test_extreme_step_sizes_stay_finite() -> None:
    leaves = operands((1, 2, 4, 2, None))
    leaves[1] = torch.tensor([0.0, 1e-30, 1e3, 1e30]).expand(1, 2, 4).contiguous()
    for backend in ("reference", "cpu"):
        y = selective_scan(ScanInputs(*leaves), backend=backend).y
        assert y[..., :3].isfinite().all(), backend


def test_nan_is_passed_on_and_not_hidden() -> None:
    leaves = operands((1, 3, 6, 2, None))
    leaves[0][0, 1, 2] = torch.nan
    y = selective_scan(ScanInputs(*leaves), backend="cpu").y
    assert y[0, 1, 2:].isnan().all() and y[0, [0, 2]].isfinite().all() and y[0, 1, :2].isfinite().all()


def test_exponential_is_accurate_to_two_ulp() -> None:
    assert max_exp_ulp() < 2


def test_half_precision_is_computed_in_float32() -> None:
    leaves = operands((1, 8, 11, 4, None))
    half = [x.bfloat16() for x in leaves]
    out = selective_scan(ScanInputs(*half)).y
    expected = selective_scan(ScanInputs(*(x.float() for x in half))).y
    assert out.dtype == torch.bfloat16 and torch.equal(out, expected.bfloat16())


def test_every_backend_says_whether_it_runs_here() -> None:
    usability = {name: (usable, why) for name, usable, why in backends()}
    assert usability["cpu"][0] and usability["reference"][0]
    assert usability["mamba_ssm"][1]


def test_errors_say_what_was_given_and_what_is_allowed() -> None:
    u, delta, A, B, C, D = operands((2, 4, 5, 3, None))
    with pytest.raises(
        BackendError, match="unknown scan backend 'cuda'; known: auto, cpu, triton, mamba_ssm, reference"
    ):
        selective_scan(ScanInputs(u, delta, A, B, C, D), backend="cuda")
    with pytest.raises(BackendError, match="'mamba_ssm' cannot serve this request: it runs on CUDA devices"):
        selective_scan(ScanInputs(u, delta, A, B, C, D), backend="mamba_ssm")
    with pytest.raises(BackendError, match="'cpu' cannot serve this request: the states it returns carry no gradient"):
        selective_scan(ScanInputs(u.requires_grad_(), delta, A, B, C, D), backend="cpu", keep_states=True)
    with pytest.raises(ValueError, match=r"delta is \(2, 5, 4\), expected \(b, e, l\) = \(2, 4, 5\); transpose\?"):
        selective_scan(ScanInputs(u, delta.transpose(1, 2), A, B, C, D))
    with pytest.raises(ValueError, match=r"B is \(2, 5, 3\), expected \(b, n, l\) = \(2, 3, 5\)"):
        selective_scan(ScanInputs(u, delta, A, B.transpose(1, 2), C, D))
    with pytest.raises(ValueError, match=r"u is int64, expected floating point; give u\.float\(\)"):
        selective_scan(ScanInputs(u.long(), delta, A, B, C, D))
    with pytest.raises(ValueError, match=r"D is \(5,\), expected \(e,\) = \(4,\)"):
        selective_scan(ScanInputs(u, delta, A, B, C, torch.ones(5)))
    with pytest.raises(ValueError, match="window is 4, expected an odd number from 1 up"):
        selective_scan(ScanInputs(u, delta, A, B, C, D), window=PatchWindow(4, torch.ones(2, 5), row_major((2, 2), 2)))
    with pytest.raises(ValueError, match=r"must read each of its 4 cells once, this one reads 5 patches"):
        bad = ScanOrder((2, 2), (0, 1, 2, 3, 3))
        selective_scan(
            ScanInputs(u, delta, A, B, C, D), window=PatchWindow(1, torch.ones(2, 5), bad), backend="reference"
        )
