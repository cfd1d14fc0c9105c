"""ONNX files: ONNX Runtime computes what the model does, with the steps that were calibrated; what cannot be is one line."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import ouro.onnx
from ouro.cli import app
from ouro.models import create_model
from ouro.onnx import PACKAGES, _Rounded, _scan_of, refusal, session, to_onnx
from ouro.quant.apply import attach_calibration
from ouro.quant.calibrate import quantize
from ouro.quant.modules import build
from ouro.quant.packed.lower import lower
from ouro.scan import selective_scan
from ouro.taps import Tap, taps
from ouro.types import QuantSpec, ScanInputs

MISSING = [name for name in PACKAGES if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed (the extra onnx)")
pytestmark = pytest.mark.filterwarnings(
    # torch 2.13, onnx export: its own use of what it has deprecated
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning",
    "ignore:.*will not be used, since it shares the same shape constraints:UserWarning",
)
SMALL = {
    "vim_nano": {"image": (28, 20), "width": 16, "depth": 1, "num_classes": 5},
    "vmamba_nano": {"image": (28, 20), "width": 16, "depths": (1,), "num_classes": 5},
}


def small(name: str = "vim_nano") -> nn.Module:
    """A model of its family with logits that are far from 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model(name, **SMALL[name]).eval()
        with torch.no_grad():
            model.head.weight.normal_(std=0.5)
    return model


def quantized(method: str, bits: str, scope: str = "lin", name: str = "vim_nano"):
    """(float model, quantized model, its calibration)."""
    calibration = quantize(small(name), images(8, seed=1), method=method, bits=bits, scope=scope)
    return small(name), attach_calibration(small(name), calibration), calibration


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 28, 20, generator=torch.Generator().manual_seed(seed))


def ran(path: Path, *given: Tensor) -> Tensor:
    """What ONNX Runtime puts out."""
    return outputs(path, *given)[0]


def outputs(path: Path, *given: Tensor) -> list[Tensor]:
    """All of them."""
    runtime = session(path)
    feeds = {value.name: x.numpy() for value, x in zip(runtime.get_inputs(), given, strict=True)}
    return [torch.from_numpy(values) for values in runtime.run(None, feeds)]


def graph(path: Path):
    """The checked graph of a file."""
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model.graph


def exported(module: nn.Module, path: Path, *given: Tensor) -> Path:
    """A module by itself, as `to_onnx` translates it."""
    table = {torch.ops.ouro.selective_scan.default: _scan_of(21)}
    torch.onnx.export(
        module.eval(), given, path, dynamo=True, opset_version=21, custom_translation_table=table, verbose=False
    )
    return path


@needs_onnx
@pytest.mark.parametrize(("name", "opset"), [("vim_nano", 21), pytest.param("vmamba_nano", 18, marks=pytest.mark.full)])
def test_one_file_computes_what_the_model_does_for_any_batch(tmp_path, name, opset):
    model = small(name)
    path = to_onnx(model, tmp_path / "model.onnx", opset=opset)
    for count in (1, 3):
        with torch.no_grad():
            wanted = model(images(count))
        torch.testing.assert_close(ran(path, images(count)), wanted, atol=1e-5, rtol=1e-5)
    made = graph(path)
    scans = sum(len(orders) for orders in model.mixers().values())
    assert Counter(node.op_type for node in made.node)["Scan"] == scans > 1
    assert [value.name for value in (*made.input, *made.output)] == ["images", "output"]
    assert b"ouro/" not in path.read_bytes(), "names files of this machine"


@needs_onnx
def test_a_fixed_batch_takes_one_image(tmp_path):
    model = small()
    path = to_onnx(model, tmp_path / "model.onnx", dynamic_batch=False)
    assert [size.dim_value for size in graph(path).input[0].type.tensor_type.shape.dim] == [1, 3, 28, 20]
    with torch.no_grad():
        torch.testing.assert_close(ran(path, images(1)), model(images(1)), atol=1e-5, rtol=1e-5)


class Scanned(nn.Module):
    """A scan alone."""

    def forward(self, *operands: Tensor) -> Tensor:
        return selective_scan(ScanInputs(*operands)).y


@needs_onnx
@pytest.mark.parametrize(("groups", "skip"), [(0, True), (2, False)])
def test_a_scan_of_groups_is_the_scan(tmp_path, groups, skip):
    stream = torch.Generator().manual_seed(0)
    matrix = (2, groups, 5, 7) if groups else (2, 5, 7)
    shapes = [(2, 6, 7), (2, 6, 7), (6, 5), matrix, matrix, (6,)][: 6 if skip else 5]
    given = [torch.randn(*shape, generator=stream) for shape in shapes]
    given[1], given[2] = given[1].abs(), -given[2].abs()
    path = exported(Scanned(), tmp_path / "scan.onnx", *given)
    torch.testing.assert_close(ran(path, *given), Scanned()(*given), atol=1e-5, rtol=1e-5)


STATES = {
    "tensor": {"scale": torch.tensor([0.21]), "zero": torch.tensor([3.0])},
    "step": {"scale": torch.rand(7, generator=torch.Generator().manual_seed(2)) + 0.1, "zero": torch.arange(7.0)},
    "step clusters": {"scale": torch.tensor([0.1, 0.4]), "labels": torch.arange(7) % 2},
    "channel clusters": {"scale": torch.tensor([0.1, 0.4]), "labels": torch.arange(6) % 2},
    "token": {},
}


class Rounded(nn.Module):
    """Every quantizer of `STATES` at 3 and at 8 bits, on one input."""

    def __init__(self) -> None:
        super().__init__()
        specs = [
            (QuantSpec(bits, signed="clusters" in kind, granularity=kind, narrow=bits == 3), state)
            for kind, state in STATES.items()
            for bits in (3, 8)
        ]
        self.quantizers = nn.ModuleList(build(Tap("linear.in", "b l c"), *one) for one in specs)
        self.nodes = nn.ModuleList(_Rounded(quantizer, 21) for quantizer in self.quantizers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(node(x) for node in self.nodes)


@needs_onnx
def test_the_nodes_round_as_the_quantizers_do(tmp_path):
    module, x = Rounded(), 3 * torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(3))
    path = exported(module, tmp_path / "rounded.onnx", x)
    for found, quantizer in zip(outputs(path, x), module.quantizers, strict=True):
        wanted = quantizer(x).detach()
        assert (wanted - x).abs().max() > 1e-3, "nothing is rounded"
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6, msg=lambda m, q=quantizer: f"{q}: {m}")
    kinds = Counter(node.op_type for node in graph(path).node)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == len(module.quantizers) == 10


@needs_onnx
@pytest.mark.parametrize(
    ("method", "bits", "name"),
    [
        ("clipped", "w8a8", "vmamba_nano"),
        pytest.param("dynamic", "w8a8", "vim_nano", marks=pytest.mark.full),
        pytest.param("smoothquant", "w4a8", "vim_nano", marks=pytest.mark.full),
    ],
)
def test_a_quantized_model_is_exported_with_its_rounding(tmp_path, method, bits, name):
    exact, model, _ = quantized(method, bits, name=name)
    path = to_onnx(model, tmp_path / "model.onnx")
    with torch.no_grad():
        wanted, plain = model(images(3)), exact(images(3))
    # an element next to the middle between two codes may round otherwise: one step of 8 bits over the logits
    step = (wanted.max() - wanted.min()).item() / 255
    assert (ran(path, images(3)) - wanted).abs().max() <= step
    assert (wanted - plain).abs().max() > 0
    kinds = Counter(node.op_type for node in graph(path).node)
    inputs = sum(tap.site == "linear.in" for _, tap in taps(model))
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (inputs, 2 * inputs)


@needs_onnx
@pytest.mark.parametrize("bits", ["w8a8", pytest.param("w4a8", marks=pytest.mark.full)])
def test_steps_and_codes_in_the_file_are_the_calibrated_ones(tmp_path, bits):
    from onnx import TensorProto, numpy_helper

    _, model, calibration = quantized("minmax", bits)
    path = to_onnx(model, tmp_path / "model.onnx")
    made = graph(path)
    stored = {tensor.name: tensor for tensor in made.initializer}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in stored.items()}
    activations = {
        (float(values[node.input[1]]), float(values[node.input[2]]))
        for node in made.node
        if node.op_type == "QuantizeLinear"
    }
    state = calibration.state
    wanted = {
        (float(state[p]["scale"]), float(state[p]["zero"])) for p, s in calibration.plan.sites.items() if not s.signed
    }
    assert activations == wanted and len(wanted) > 3
    weights = [path for path, spec in calibration.plan.sites.items() if spec.signed]
    packed = {tap: quantizer for tap, quantizer in taps(lower(model)) if tap in weights}
    # the nodes of weights by their steps, which are stored under the taps' names
    nodes = {node.input[1]: node for node in made.node if node.op_type == "DequantizeLinear"}
    for tap in weights:
        name = nodes[f"{tap}.quantizer.quantizer.scale"].input[0]
        assert stored[name].data_type == (TensorProto.INT4 if bits == "w4a8" else TensorProto.INT8)
        codes = packed[tap].quantizer.codes().numpy()
        assert np.array_equal(values[name].astype(np.int8).reshape(codes.shape), codes)
        assert np.array_equal(values[f"{tap}.quantizer.quantizer.scale"], state[tap]["scale"].numpy())


@pytest.mark.parametrize(
    ("method", "bits", "scope", "words"),
    [
        ("ouro", "w4a4o8", "lin", "is rounded per step with outliers that are found as it runs; static steps"),
        ("ouro_plus", "w4a4o8", "lin", "is rounded per clipped token; static steps"),
        ("minmax", "w8a8", "rec", "is rounded inside the recurrence; scopes lin and ssm leave that"),
    ],
)
def test_what_onnx_has_no_nodes_for_is_one_line(tmp_path, method, bits, scope, words):
    options = {"steps_per_block": 0} if method.startswith("ouro") else {}
    calibration = quantize(small(), images(4), method=method, bits=bits, scope=scope, **options)
    model = attach_calibration(small(), calibration)
    assert words in (refusal(model) or "")
    if not MISSING:
        with pytest.raises(ValueError, match=words):
            to_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_packed_model_is_refused():
    _, model, _ = quantized("minmax", "w8a8")
    assert refusal(model) is None
    assert "it is packed; quantize it again without --packed" in (refusal(lower(model)) or "")


@needs_onnx
@pytest.mark.parametrize("opset", [17, 24])
def test_an_opset_that_is_not_written_is_one_line(tmp_path, opset):
    with pytest.raises(ValueError, match=f"^opset is {opset}, expected 18 to 23$"):
        to_onnx(small(), tmp_path / "model.onnx", opset=opset)


def test_missing_packages_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(ouro.onnx, "PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(ValueError, match=r"^ONNX files need no_such_package: pip install 'ouro-workbench\[onnx\]'$"):
        to_onnx(small(), tmp_path / "model.onnx")


@needs_onnx
def test_a_model_that_cannot_be_traced_is_one_line_and_no_file(tmp_path):
    model = small()
    model.tail = lambda tokens, *_: tokens * float(tokens.sum())
    with pytest.raises(ValueError, match=r"^vim_nano cannot be exported \(export it for one at a time with ") as caught:
        to_onnx(model, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.full
@needs_onnx
def test_a_detector_is_refused_for_many_images_in_the_words_of_the_command(tmp_path):
    path = tmp_path / "model.onnx"
    refused = CliRunner().invoke(app, ["onnx", "vmamba_nano_det", "--out", str(path)])
    assert refused.exit_code == 2 and not path.exists()
    assert refused.stderr.splitlines()[-1] == (
        "error: vmamba_nano_det cannot be exported for any number of images: what its forward does hangs on how many there "
        "are; export it for one at a time with --fixed-batch, in Python with dynamic_batch=False"
    )
    taken = CliRunner().invoke(app, ["onnx", "vmamba_nano_det", "--out", str(path), "--fixed-batch", "--limit", "2"])
    assert taken.exit_code == 0, taken.stderr


@needs_onnx
def test_the_command_writes_a_quantized_file_and_compares(tmp_path):
    from ouro.store import write_tensors

    runner = CliRunner()
    own = write_tensors(tmp_path / "own.safetensors", small().state_dict())
    rounded = tmp_path / "rounded.safetensors"
    config = [f"--config={key}={json.dumps(value)}" for key, value in SMALL["vim_nano"].items()]
    how = ["--weights", str(own), *config, "--calib", "noise:4", "--bits", "w8a8", "--json"]
    made = runner.invoke(app, ["quantize", "vim_nano", *how, "--method", "minmax", "--out", str(rounded)])
    assert made.exit_code == 0, made.stderr
    result = runner.invoke(app, ["onnx", str(rounded), "--out", str(tmp_path / "m.onnx"), "--limit", "3", "--json"])
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert (values["method"], values["bits"], values["n"]) == ("minmax", "w8a8", 3)
    assert values["inputs"] == {"images": ["batch", 3, 28, 20]} and values["outputs"] == {"output": ["batch", 5]}
    assert values["nodes"]["Scan"] == 2 and values["nodes"]["QuantizeLinear"] > 0
    assert values["max_difference"] <= values["largest"] / 100
    wrong = runner.invoke(app, ["onnx", "vim_nano", "--out", str(tmp_path / "m.bin")])
    assert (wrong.exit_code, wrong.stderr) == (2, "error: cannot write a model as 'm.bin'; use .onnx\n")
