"""Rounding inside the recurrence: the compiled scan rounds h, A_bar and B_bar as the definition does."""

from __future__ import annotations

import pytest
import torch

from ouro.scan import cpu, selective_scan
from ouro.scan.companding import compand
from ouro.scan.discretize import discretize
from ouro.types import Companding, ScanInputs, ScanRounding, StateQuantizer
from tests.ouro.scan.test_scan import operands, outputs_and_gradients, rule, square_window
from tests.testing import assert_close

# (batch, e, l, n, groups)
SIZES = [
    pytest.param((1, 1, 1, 1, None), id="all-ones"),
    pytest.param((2, 3, 3, 16, None), id="e3-l3"),
    pytest.param((2, 70, 23, 8, None), id="e70-l23-n8"),
    pytest.param((2, 12, 23, 1, 4), id="four-groups"),
    pytest.param((1, 140, 3, 8, 2), id="groups-wider-than-a-tile"),
]
RULES = [
    pytest.param(flags, id="+".join(name for name, on in zip(("h", "A_bar", "B_bar"), flags, strict=True) if on))
    for flags in ((True, False, False), (False, True, False), (True, True, True))
]
"""Every set of rules is compiled for itself, which takes longer than all that is tested with it."""


def rounding(
    size: tuple, flags: tuple, *, bits: int = 4, power: int = 2, each: bool = False, dtype: torch.dtype = torch.float32
) -> ScanRounding:
    """Rules that clip some values; with `each` every state has its own bounds."""
    _, e, length, n, _ = size
    wide = torch.linspace(1, 1.2, n, dtype=dtype) if each else torch.ones(1, dtype=dtype)
    return ScanRounding(
        rule(length, e, n, dtype) if flags[0] else None,
        Companding(bits, torch.tensor([0.3], dtype=dtype), 0.8 * wide, power) if flags[1] else None,
        Companding(bits, torch.zeros(1, dtype=dtype), 0.2 * wide, power, signed=True) if flags[2] else None,
    )


def assert_agree(size: tuple, rules: ScanRounding, dtype: torch.dtype, **request: object) -> None:
    leaves = [x.to(dtype).requires_grad_() for x in operands(size)]
    expected, actual = (
        outputs_and_gradients(leaves, backend, rounding=rules, **request) for backend in ("reference", "cpu")
    )
    for name, exact in expected.items():
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10
        assert (actual[name] - exact).abs().max() <= tolerance * exact.abs().max(), name


@pytest.mark.parametrize("flags", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_compiled_rounding_agrees_with_the_definition(size: tuple, flags: tuple) -> None:
    for each in (False, True):
        assert_agree(size, rounding(size, flags, each=each, dtype=torch.float64), torch.float64)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("power", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_power_agrees_in_either_precision(dtype: torch.dtype, power: int, bits: int) -> None:
    size = (2, 70, 23, 8, None)
    assert_agree(size, rounding(size, (True, True, True), bits=bits, power=power, each=power == 2, dtype=dtype), dtype)


def test_either_rule_may_be_signed_or_not() -> None:
    size, low, high = (2, 5, 7, 3, None), torch.tensor([-0.1, -0.2, -0.3]).double(), torch.tensor([0.7]).double()
    rules = ScanRounding(A_bar=Companding(3, low, high, 2, signed=True), B_bar=Companding(3, low, high, 1))
    assert_agree(size, rules, torch.float64)


def test_bounds_without_extent_agree() -> None:
    size, one = (1, 3, 4, 2, None), torch.ones(1).double()
    rules = ScanRounding(A_bar=Companding(4, one / 2, one / 2), B_bar=Companding(4, one, one * 0, 3, signed=True))
    leaves = [x.double() for x in operands(size)]
    for backend in ("reference", "cpu"):
        out = selective_scan(ScanInputs(*leaves), backend=backend, rounding=rules)
        assert_close(out.y, leaves[5][:, None] * leaves[0], name=backend)


def test_windows_read_the_rounded_recurrence() -> None:
    size = (2, 5, 17, 3, None)
    window = square_window(17, 2, 3, torch.float64)
    assert window is not None
    window.weights.requires_grad_()
    assert_agree(size, rounding(size, (True, True, True), dtype=torch.float64), torch.float64, window=window)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_states_obey_the_recurrence_with_rounded_operands(backend: str) -> None:
    size = (2, 5, 7, 3, None)
    inputs, rules = ScanInputs(*operands(size)), rounding(size, (False, True, True), each=True)
    h = selective_scan(inputs, backend=backend, rounding=rules, keep_states=True).h
    A_bar, B_bar = (
        compand(exact, grid) for exact, grid in zip(discretize(inputs), (rules.A_bar, rules.B_bar), strict=True)
    )
    assert_close(h[:, :, 0], B_bar[:, :, 0] * inputs.u[:, :, 0, None], name="h_0")
    assert_close(h[:, :, 1:], A_bar[:, :, 1:] * h[:, :, :-1] + B_bar[:, :, 1:] * inputs.u[:, :, 1:, None], name="h")


def test_no_rule_is_no_rounding() -> None:
    leaves = [x.requires_grad_() for x in operands((2, 70, 23, 8, None))]
    plain, empty = outputs_and_gradients(leaves, "cpu"), outputs_and_gradients(leaves, "cpu", rounding=ScanRounding())
    for name in plain:
        assert torch.equal(plain[name], empty[name]), name


def test_many_bits_approach_the_exact_scan() -> None:
    inputs, one = ScanInputs(*operands((2, 5, 23, 8, None))), torch.ones(1)
    exact = selective_scan(inputs).y
    errors = []
    for bits in (4, 8, 16):
        rules = ScanRounding(
            A_bar=Companding(bits, 0 * one, one, 2), B_bar=Companding(bits, one, one * 20, 2, signed=True)
        )
        errors.append((selective_scan(inputs, rounding=rules).y - exact).abs().mean())
    assert errors[0] > 5 * errors[1] > 500 * errors[2]


def test_a_sample_does_not_see_its_batch_mates_or_the_threads() -> None:
    size = (5, 70, 23, 8, None)
    leaves, rules = [x.requires_grad_() for x in operands(size)], rounding(size, (True, True, True), power=3)
    whole = outputs_and_gradients(leaves, "cpu", rounding=rules)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = outputs_and_gradients(leaves, "cpu", rounding=rules)
        alone = ScanInputs(*(x[3:4] for x in leaves[:2]), leaves[2], *(x[3:4] for x in leaves[3:5]), leaves[5])
        assert torch.equal(selective_scan(alone, rounding=rules).y, whole["y"][3:4])
    finally:
        torch.set_num_threads(threads)
    for name in whole:
        assert torch.equal(single[name], whole[name]), name


one, three = torch.ones(1), torch.ones(3)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (ScanRounding(A_bar=Companding(4, one, one, 5)), "power of A_bar is 5, expected 1 to 4"),
        (ScanRounding(B_bar=Companding(4, one, one, 0)), "power of B_bar is 0, expected 1 to 4"),
        (ScanRounding(A_bar=Companding(1, one, one)), "A_bar has 1 bits, expected 2 to 16; no rule leaves it in"),
        (ScanRounding(B_bar=Companding(17, one, one)), "B_bar has 17 bits, expected 2 to 16; no rule leaves it in"),
        (ScanRounding(StateQuantizer(one, 32)), "h has 32 bits, expected 2 to 16; no rule leaves it in floating point"),
        (ScanRounding(A_bar=Companding(4, three, one)), r"low of A_bar is \(3,\), expected \(1,\) or \(n,\) = \(4,\)"),
        (ScanRounding(B_bar=Companding(4, one, three)), r"high of B_bar is \(3,\), expected \(1,\) or \(n,\) = \(4,\)"),
        (ScanRounding(StateQuantizer(three, 4)), r"step of h is \(3,\), expected \(1,\) or \(l,\) = \(5,\)"),
        (ScanRounding(StateQuantizer(one, 4, three)), r"channel of h is \(3,\), expected \(e,\) = \(2,\)"),
        (ScanRounding(StateQuantizer(one, 4, None, three)), r"state of h is \(3,\), expected \(n,\) = \(4,\)"),
    ],
)
def test_errors_say_what_was_given_and_what_is_allowed(rules: ScanRounding, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_scan(ScanInputs(*operands((1, 2, 5, 4, None))), rounding=rules)


def test_one_kernel_serves_every_set_of_rules() -> None:
    # what is not rounded passes through neutral rules: nothing more is compiled
    size = (1, 5, 7, 3, None)
    inputs = ScanInputs(*operands(size))
    for flags in ((True, False, False), (False, True, False), (False, False, True), (True, True, True)):
        selective_scan(inputs, rounding=rounding(size, flags), keep_states=all(flags))
    assert len(cpu._kernels("float32", True).forward.signatures) == 1
