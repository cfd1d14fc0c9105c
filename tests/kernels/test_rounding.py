"""The error model of the gates: float32 keeps its bounds, a GPU's exponential at its worst does too, errors do not."""

import pytest
import torch

from ouro import kernels
from ouro.kernels import rounding
from ouro.kernels.gate import compare, inputs_of, outputs
from ouro.kernels.rounding import APPROXIMATE, Known

CPU = torch.device("cpu")
BOUNDED = [k for k in map(kernels.kernel, kernels.NAMES) if k.bounds]
CASES = [pytest.param(k, case, id=f"{k.name}: {case.name}") for k in BOUNDED for case in k.cases if not case.bench]


def test_what_has_exponentials_is_bounded():
    assert {k.name for k in BOUNDED} == {
        "selective_scan", "bidirectional_scan", "patched_scan", "implicit_attention", "causal_conv",
    }  # fmt: skip


@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_float32_keeps_its_bounds(kernel, case):
    inputs = inputs_of(case, CPU)
    exact = {name: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for name, x in inputs.items()}
    plain, wanted = outputs(kernel.reference(**inputs)), outputs(kernel.reference(**exact))
    verdict = compare(plain, wanted, {}, kernel.bounds(**inputs))
    assert verdict.passed, verdict.complaint


def _scan(exponential, u, delta, A, B, C, D, reverse):
    """y of the scan with another exponential, in float64."""
    u, delta, A, B, C, D = (x.double() for x in (u, delta, A, B, C, D))
    h, ys = torch.zeros_like(A), []
    for t in range(u.shape[-1]):
        step = delta[..., t, None]
        h = exponential(step * A) * h + step * B[:, None, :, t] * u[..., t, None]
        ys.append((C[:, None, :, t] * h).sum(-1))
    return torch.stack(ys, dim=-1) + D[:, None] * u


@pytest.mark.parametrize("case", ["vim-197", "mixed-delta"])
def test_exponentials_at_their_worst_keep_the_bound_and_worse_ones_do_not(case):
    kernel = kernels.kernel("selective_scan")
    inputs = inputs_of(next(c for c in kernel.cases if c.name == case), CPU)
    bounds = {"y": kernel.bounds(**inputs)["y"]}

    def share(relative: float) -> float:
        wrong = _scan(lambda x: x.exp() * (1 + relative), **inputs)
        right = _scan(torch.exp, **inputs)
        # as float64: nothing but the exponential is off
        return compare({"y": wrong}, {"y": right}, {}, bounds).share

    for sign in (1, -1):
        assert 0.01 < share(sign * APPROXIMATE) < 1
    assert share(100 * APPROXIMATE) > 1


@pytest.mark.parametrize("kernel", BOUNDED, ids=lambda k: k.name)
def test_bounds_are_far_below_what_they_bound(kernel):
    inputs = inputs_of(max((c for c in kernel.cases if not c.bench), key=lambda c: c.sizes.get("l", 0)), CPU)
    wanted = outputs(kernel.reference(**inputs))
    for name, bound in kernel.bounds(**inputs).items():
        assert bound.shape == wanted[name].shape and (bound >= 0).all()
        # a dropped state or step is of the size of y
        assert bound.median() < 2e-5 * wanted[name].abs().median()


def test_chunks_and_positive_exponents_are_bounded_too():
    """h grows where A is positive, and so does its error."""
    generator = torch.Generator().manual_seed(0)
    u, delta, B = (torch.rand(1, n, 40, generator=generator) for n in (2, 2, 3))
    A = torch.rand(2, 3, generator=generator) * 0.2
    one, many = (rounding.states(u, delta, A, B, chunk=chunk) for chunk in (0, 8))
    assert torch.equal(one.value, many.value) and (many.error >= one.error).all()
    h = torch.zeros(1, 2, 3)
    for t in range(40):
        h = (delta[..., t, None] * A).exp() * h + delta[..., t, None] * B[:, None, :, t] * u[..., t, None]
    assert ((h - one.value[..., -1]).abs() <= one.error[..., -1]).all()


def test_a_product_carries_both_errors():
    a, b = (
        Known(torch.tensor(2.0).double(), torch.tensor(0.5).double()),
        Known(torch.tensor(-3.0).double(), torch.tensor(0.25).double()),
    )
    c = rounding.product(a, b)
    assert c.value == -6 and c.error == pytest.approx(2 * 0.25 + 3 * 0.5, rel=1e-6)
