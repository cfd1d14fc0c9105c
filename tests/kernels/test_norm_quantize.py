"""The norms are torch's, the codes the library's, and codes of float32 are those of float64 but for rare neighbors."""

import pytest
import torch
from torch.nn import functional as F

from ouro.kernels.gate import inputs_of
from ouro.kernels.launch import KernelError
from ouro.kernels.norm_quantize import KERNEL, norm_quantize, reference
from ouro.quant.grid import asymmetric, symmetric
from ouro.quant.packed.codes import Encoding
from ouro.quant.packed.integer import encode_reference
from tests.testing import assert_close

CASES = {case.name: case for case in KERNEL.cases if not case.bench}
CPU = torch.device("cpu")


def test_norms_are_torchs():
    inputs = inputs_of(CASES["floats"], CPU)
    x, residual, weight, bias = (inputs[name] for name in ("x", "residual", "weight", "bias"))
    total, width = x + residual, (x.shape[-1],)
    rms = reference(x, residual, weight, bits=None, eps=1e-3)
    assert torch.equal(rms.total, total)
    assert_close(rms.y, F.rms_norm(total, width, weight, 1e-3), rtol=1e-5, atol=1e-6)
    layer = reference(x, residual, weight, bias, kind="layer", bits=None, eps=1e-3)
    assert_close(layer.y, F.layer_norm(total, width, weight, bias, 1e-3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["asymmetric", "static", "static, four bits, asymmetric", "zeros, asymmetric"])
def test_codes_are_the_librarys(name):
    inputs = inputs_of(CASES[name], CPU)
    bits, signed = inputs.get("bits", 8), inputs.get("signed", True)
    actual = reference(**inputs)
    y = reference(**inputs | {"bits": None}).y
    encoding = Encoding(symmetric(bits) if signed else asymmetric(bits), inputs["scale"], inputs["zero"])
    wanted = encode_reference(y, encoding).inliers
    assert torch.equal(actual.codes.flatten(0, 1), wanted.codes)
    assert torch.equal(actual.scale.flatten(), wanted.scale)
    assert not wanted.zero.any() if actual.zero is None else torch.equal(actual.zero.flatten(), wanted.zero)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["odd sizes", "asymmetric", "static", "layer norm", "Vim's tokens"])
def test_codes_seldom_differ_from_those_of_float64(name, where):
    inputs = inputs_of(CASES[name], where)
    wide = {n: v.double() if isinstance(v, torch.Tensor) else v for n, v in inputs.items()}
    actual, wanted = norm_quantize(**inputs, backend="triton"), reference(**wide)
    assert (actual.codes != wanted.codes).float().mean() < 1e-3


def test_sum_is_kept_as_asked_and_the_norm_is_of_the_unrounded_one():
    inputs = inputs_of(CASES["floats"], CPU)
    fine, coarse = reference(**inputs), reference(**inputs, total_dtype=torch.bfloat16)
    assert coarse.total.dtype == torch.bfloat16 and not torch.equal(coarse.total.float(), fine.total)
    assert torch.equal(coarse.y, fine.y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "batch"}, "unknown kind 'batch'; known: rms, layer"),
        ({"bits": 1}, "bits is 1, expected 2 to 8"),
        (
            {"zero": torch.zeros(23)},
            "a zero point goes with a static step of asymmetric codes, and the other way round",
        ),
        ({"signed": False, "scale": torch.ones(23)}, "a zero point goes with a static step of asymmetric codes"),
        ({"scale": torch.ones(1)}, r"scale is \(1,\), expected \(l\) = \(23,\)"),
        ({"weight": torch.ones(36)}, r"weight is \(36,\), expected \(c\) = \(37,\)"),
        ({"residual": torch.ones(2, 23, 36)}, r"residual is \(2, 23, 36\), expected \(b, l, c\) = \(2, 23, 37\)"),
        ({"total_dtype": torch.float64}, "total_dtype is torch.float64, expected torch.float32, torch.float16"),
    ],
)
def test_wrong_operands_are_refused_by_all(change, message):
    inputs = inputs_of(CASES["odd sizes"], CPU) | change
    with pytest.raises(KernelError, match=f"norm_quantize cannot run; tried triton: {message}.*; reference: {message}"):
        norm_quantize(**inputs)
