"""The kernel's own definition is the library's, from its codes, its packed weights and the quantizer's outputs."""

from functools import partial

import pytest
import torch

from ouro.kernels.gate import inputs_of
from ouro.kernels.launch import KernelError
from ouro.kernels.outlier_quantizer import quantize_outliers
from ouro.kernels.quantized_linear import KERNEL, packed, quantized_linear, reference, unpacked
from ouro.quant.bits import FLOAT_OUTLIERS
from ouro.quant.grid import asymmetric, symmetric
from ouro.quant.packed.codes import Encoding
from ouro.quant.packed.integer import encode_reference, linear_reference
from ouro.quant.packed.storage import pack_codes, unpack_codes
from ouro.quant.rules import OutlierRule
from tests.testing import assert_close

CASES = {case.name: case for case in KERNEL.cases if not case.bench}
CPU = torch.device("cpu")


def rows_of(b, l, c):  # noqa: E741
    generator = torch.Generator().manual_seed(c)
    return torch.randn(b, l, c, generator=generator) * (1 + 6 * (torch.rand(b, l, c, generator=generator) > 0.97))


def layer_of(outputs, channels, bits):
    generator = torch.Generator().manual_seed(outputs)
    high = 2 ** (bits - 1) - 1
    weight = torch.randint(-high, high + 1, (outputs, channels), dtype=torch.int8, generator=generator)
    return weight, torch.rand(outputs, generator=generator) / high, torch.randn(outputs, generator=generator)


@pytest.mark.parametrize("channels", [1, 37, 64])
@pytest.mark.parametrize("name", ["token", "step", "step, unsigned", "two ways", "two ways, unsigned"])
def test_definition_is_the_librarys(name, channels):
    rows, steps = rows_of(2, 11, channels), torch.full((11,), 0.4)
    zero = torch.arange(11).float()
    encoding = {
        "token": Encoding(asymmetric(8)),
        "step": Encoding(symmetric(8), steps / 16),
        "step, unsigned": Encoding(asymmetric(4), steps, zero),
        "two ways": Encoding(symmetric(4), steps, None, OutlierRule(4, 8, True)),
        "two ways, unsigned": Encoding(asymmetric(4), steps, zero, OutlierRule(4, 8, False)),
    }[name]
    encoded = encode_reference(rows, encoding)
    weight, weight_scale, bias = layer_of(9, channels, 4)
    inner, outer = encoded.inliers, encoded.outliers
    more = {} if outer is None else {"outliers": outer.codes, "outlier_scale": outer.scale, "outlier_zero": outer.zero}
    actual = reference(
        inner.codes, inner.scale, packed(weight), weight_scale, bias, zero=inner.zero, dtype=torch.float32, **more
    )
    assert_close(actual, linear_reference(encoded, weight, weight_scale, bias).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 37, 64])
def test_packed_weights_are_the_librarys(channels):
    weight, _, _ = layer_of(5, channels, 4)
    assert torch.equal(packed(weight), pack_codes(weight, 4))
    assert torch.equal(unpacked(packed(weight), channels), weight)
    assert torch.equal(unpack_codes(packed(weight), channels), weight)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_quantizer_and_linear_fit_together(where):
    rows, steps = rows_of(1, 23, 64).to(where), torch.full((23,), 0.4, device=where)
    weight, weight_scale, bias = (part.to(where) for part in layer_of(12, 64, 4))
    codes = quantize_outliers(rows, steps, backend="triton")
    y = quantized_linear(
        codes.codes[0], codes.scale[0], packed(weight), weight_scale, bias,
        outliers=codes.outliers[0], outlier_scale=codes.outlier_scale[0], dtype=torch.float32, backend="triton",
    )  # fmt: skip
    encoding = Encoding(symmetric(4), steps.cpu(), None, OutlierRule(4, 8, True))
    wanted = linear_reference(encode_reference(rows.cpu(), encoding), weight.cpu(), weight_scale.cpu(), bias.cpu())
    assert_close(y, wanted.float(), rtol=1e-5, atol=1e-5)
    one = quantize_outliers(rows, steps, mode="grid", backend="triton")
    grid = quantized_linear(one.codes[0], one.scale[0], packed(weight), weight_scale, bias, dtype=torch.float32)
    # where outliers stay in floating point the library's are exact; the grid's are within its step
    exact = Encoding(symmetric(4), steps.cpu(), None, OutlierRule(4, FLOAT_OUTLIERS, True))
    best = linear_reference(encode_reference(rows.cpu(), exact), weight.cpu(), weight_scale.cpu(), bias.cpu())
    reach = (weight.abs().sum(1) * weight_scale).max().item()
    assert (grid.cpu() - best).abs().max() <= 0.5 * one.scale.max().item() * reach


@pytest.mark.parametrize("name", ["gate", "softplus"])
def test_activation_is_torchs(name):
    inputs = inputs_of(CASES[name], CPU)
    plain = reference(**inputs | {"activation": None})
    apply = {"silu": torch.nn.functional.silu, "softplus": torch.nn.functional.softplus}[inputs["activation"]]
    start = inputs["activated_from"]
    y = reference(**inputs)
    assert torch.equal(y[:, :start], plain[:, :start])
    assert_close(y[:, start:], apply(plain[:, start:]), rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("activation", ["silu", "softplus"])
def test_activation_keeps_its_digits_at_the_ends(activation, where):
    wanted = torch.tensor([-200.0, -80.0, -12.0, -1e-3, 0.0, 1e-3, 12.0, 80.0, 200.0], device=where)
    one = torch.ones(1, 1, dtype=torch.int8, device=where)
    y = quantized_linear(
        one, torch.zeros(1, device=where), one.expand(9, 1).contiguous(), torch.ones(9, device=where), wanted,
        activation=activation, dtype=torch.float32, backend="triton",
    )  # fmt: skip
    apply = {"silu": torch.nn.functional.silu, "softplus": partial(torch.nn.functional.softplus, threshold=300)}
    assert_close(y[0].double(), apply[activation](wanted.double()), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(70, 130, dtype=torch.int8)}, r"weight is \(70, 130\), expected \(o, c\) = \(70, 131\)"),
        (
            {"weight": torch.zeros(70, 65, dtype=torch.uint8)},
            r"weight is \(70, 65\), expected \(o, ceil\(c/2\)\) = \(70, 66\)",
        ),
        ({"scale": torch.ones(22)}, r"scale is \(22,\), expected \(r\) = \(23,\)"),
        ({"codes": torch.zeros(2, 3, 4, dtype=torch.int8)}, r"codes are \(2, 3, 4\), expected a non-empty \(r, c\)"),
        ({"outliers": torch.zeros(23, 131, dtype=torch.int8)}, "outliers and outlier_scale come together"),
        ({"activation": "relu"}, "unknown activation 'relu'; known: silu, softplus"),
        (
            {"dtype": torch.float64},
            "dtype is torch.float64, expected one of torch.float16, torch.bfloat16, torch.float32",
        ),
        ({"bias": torch.ones(70).half()}, "bias is float16, expected float32"),
    ],
)
def test_wrong_operands_are_refused_by_all(change, message):
    inputs = inputs_of(CASES["odd sizes"], CPU) | change
    with pytest.raises(
        KernelError, match=f"quantized_linear cannot run; tried triton: {message}; reference: {message}"
    ):
        quantized_linear(**inputs)


def test_too_many_channels_for_exact_sums_are_refused():
    codes, weight = torch.zeros(1, 66000, dtype=torch.int8), torch.zeros(1, 66000, dtype=torch.int8)
    with pytest.raises(KernelError, match="66000 input channels, integer sums are exact up to 65793"):
        quantized_linear(codes, torch.ones(1), weight, torch.ones(1))
