"""The kernel's own definition is the library's, and reversing, batching and the grid mode do what they say."""

import pytest
import torch

from ouro.kernels.gate import compare, inputs_of, outputs
from ouro.kernels.launch import KernelError
from ouro.kernels.outlier_quantizer import KERNEL, listed_of, quantize_outliers, reference
from ouro.quant.bits import FLOAT_OUTLIERS
from ouro.quant.grid import asymmetric, symmetric
from ouro.quant.packed.codes import Encoding
from ouro.quant.packed.integer import encode_reference
from ouro.quant.rules import OutlierRule

CASES = {case.name: case for case in KERNEL.cases if not case.bench}
CPU = torch.device("cpu")


def encoding_of(*, scale, zero, theta, bits=4, outlier_bits=8, kappa=3.0, refresh=10, **_):
    signed = zero is None
    rule = OutlierRule(bits, FLOAT_OUTLIERS if outlier_bits is None else outlier_bits, signed, kappa, refresh)
    return Encoding(symmetric(bits) if signed else asymmetric(bits), scale, zero, rule, theta)


@pytest.mark.parametrize("name", [name for name in CASES if "grid" not in name and "reversed" not in name])
def test_definition_is_the_librarys(name):
    inputs = inputs_of(CASES[name], CPU)
    x = inputs.pop("x").float()
    ours, theirs = reference(x, **inputs), encode_reference(x, encoding_of(**inputs))
    L = x.shape[1]

    def rows(part):
        return None if part is None else part.flatten(0, 1)

    wanted = {
        "codes": theirs.inliers.codes,
        "scale": theirs.inliers.scale,
        "zero": theirs.inliers.zero,
        "outliers": None if theirs.outliers is None else theirs.outliers.codes,
        "outlier_scale": None if theirs.outliers is None else theirs.outliers.scale,
        "outlier_zero": None if theirs.outliers is None else theirs.outliers.zero,
        "listed": theirs.listed,
    }
    actual = {part: rows(value) for part, value in outputs(ours).items() if part != "joined"}
    actual["listed"] = rows(listed_of(ours.joined, L, inputs.get("refresh", 10)))
    # the library spells out zero points that are 0
    for part in ("zero", "outlier_zero"):
        if actual[part] is None and wanted[part] is not None:
            actual[part] = torch.zeros_like(wanted[part])
    verdict = compare(actual, wanted, {"": (0.0, 0.0)})
    assert verdict.passed, verdict.complaint


def test_reversed_is_flipped_there_and_back():
    inputs = inputs_of(CASES["asymmetric"], CPU)
    x = inputs.pop("x")
    ours, flipped = reference(x, **inputs, reverse=True), reference(x.flip(1), **inputs)
    assert torch.equal(ours.codes, flipped.codes.flip(1)) and torch.equal(ours.scale, flipped.scale.flip(1))
    assert torch.equal(ours.outlier_zero, flipped.outlier_zero.flip(1)) and torch.equal(ours.joined, flipped.joined)
    listed = listed_of(ours.joined, x.shape[1], 10, reverse=True)
    assert torch.equal(listed, listed_of(flipped.joined, x.shape[1], 10).flip(1)) and listed.any()


def test_images_of_a_batch_do_not_see_each_other():
    inputs = inputs_of(CASES["odd sizes"], CPU)
    x = inputs.pop("x")
    together, alone = reference(x, **inputs), reference(x[1:], **inputs)
    assert torch.equal(together.codes[1:], alone.codes) and torch.equal(together.joined[1:], alone.joined)


def test_grid_mode_is_close_where_outliers_fit():
    inputs = inputs_of(CASES["grid, outliers out of reach"], CPU)
    x = inputs["x"]
    actual = reference(**inputs)
    listed = listed_of(actual.joined, x.shape[1], 10)
    values = actual.codes * actual.scale[..., None]
    fits = actual.scale == inputs["scale"]
    assert fits.any() and not fits.all()
    # half a step for who is listed, and for all whom the 4-bit grid reaches
    reached = listed | (x.abs() <= 7 * inputs["scale"][:, None])
    assert ((values - x).abs() <= 0.5001 * actual.scale[..., None])[reached].all()
    clipped = (values.abs() / inputs["scale"][:, None])[fits[..., None] & ~listed]
    assert clipped.max() < 7.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 9}, "bits is 9, expected 2 to 8"),
        ({"outlier_bits": 1}, "outlier_bits is 1, expected 2 to 8"),
        ({"refresh": 128}, "refresh is 128, expected 1 to 127"),
        ({"mode": "fast"}, "unknown mode 'fast'; known: exact, grid"),
        ({"mode": "grid", "zero": torch.zeros(23)}, "mode 'grid' is for symmetric grids, a zero point was given"),
        ({"mode": "grid", "outlier_bits": None}, "mode 'grid' needs outlier_bits"),
        ({"scale": torch.ones(22)}, r"scale is \(22,\), expected \(l\) = \(23,\)"),
        ({"x": torch.ones(2, 0, 3)}, r"x is \(2, 0, 3\), expected a non-empty \(b, l, c\)"),
        ({"theta": torch.ones(23).double()}, "theta is float64, expected float32"),
    ],
)
def test_wrong_settings_are_refused_by_all(change, message):
    inputs = inputs_of(CASES["odd sizes"], CPU) | change
    with pytest.raises(
        KernelError, match=f"outlier_quantizer cannot run; tried triton: {message}; reference: {message}"
    ):
        quantize_outliers(**inputs)


def test_rows_too_wide_for_registers_go_to_the_reference():
    x, scale = torch.randn(1, 2, 8193), torch.ones(2)
    assert quantize_outliers(x, scale).codes.shape == x.shape
    with pytest.raises(KernelError, match="x has 8193 channels, a row of at most 8192 fits"):
        quantize_outliers(x, scale, backend="triton")


def test_quotient_with_one_correction_is_that_of_ieee():
    """What code_of does in hardware, with float64 for the fused operations: exact there but for a last rounding."""

    def fused(a, b, c):
        return (a.double() * b.double() + c.double()).float()

    generator = torch.Generator().manual_seed(0)
    step = 0.01 + 2 * torch.rand(200_000, generator=generator)
    halves = torch.randint(-127, 127, step.shape, generator=generator) + 0.5
    away = torch.randint(-1, 2, step.shape, generator=generator)
    beside = torch.nextafter(halves * step, away * torch.inf).where(away != 0, halves * step)
    for x in (step * (256 * torch.rand(step.shape, generator=generator) - 128), beside):
        inverse = 1 / step
        near = x * inverse
        corrected = fused(fused(-near, step, x), inverse, near)
        assert torch.equal(corrected, x / step)
    # the product alone, which it corrects, takes codes for their neighbors
    assert not torch.equal(near.round(), (x / step).round())
