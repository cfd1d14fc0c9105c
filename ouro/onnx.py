"""Models as ONNX files, which ONNX Runtime runs without this package.

A scan becomes one `Scan` over its time steps; a quantizer becomes a pair of QuantizeLinear and DequantizeLinear with its
calibrated step and zero point, of a weight DequantizeLinear alone, on its integer codes.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ouro.quant.grid import asymmetric, range_of
from ouro.quant.modules import (
    ChannelQuantizer,
    ClusterQuantizer,
    LearnedRounding,
    StepQuantizer,
    TensorQuantizer,
    TokenQuantizer,
)
from ouro.quant.packed.lower import is_packed, parameter_of
from ouro.quant.packed.storage import NIBBLE
from ouro.quant.quantizer import RECURRENT_SITES, Quantizer
from ouro.scan import op as _registers  # noqa: F401
from ouro.store import check_writable, one_line, write_bytes
from ouro.taps import ScanModule, taps
from ouro.tasks import task_of
from ouro.vision import VisionModel

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSETS = (18, 23)
"""The oldest and the newest version of ONNX's operators that a file may ask for."""
OPSET = 21
"""The first with integers of 4 bits."""
_IMAGES = 2
"""Of the batch that is traced: torch would take a single one for a constant."""
_BOUND = torch._dynamo.exc.UserErrorType.CONSTRAINT_VIOLATION
"""What torch says of a size that it was told is free and that the forward made a constant of, as detectors do."""
_ONE_AT_A_TIME = "export it for one at a time with --fixed-batch, in Python with dynamic_batch=False"

_STEP = """
step (float[b, g, q, n] h_before, float[b, g, q, 1] delta_t, float[b, g, q, 1] drive_t, float[b, g, 1, n] B_t,
      float[b, g, n, 1] C_t, float[g, q, n] A_all) => (float[b, g, q, n] h_t, float[b, g, q, 1] y_t)
{
  exponent_t = Mul (delta_t, A_all)
  A_bar_t = Exp (exponent_t)
  kept_t = Mul (A_bar_t, h_before)
  added_t = Mul (drive_t, B_t)
  h_t = Add (kept_t, added_t)
  y_t = MatMul (h_t, C_t)
}
"""
"""One time step of g groups of q channels; drive is delta u. No name in it may occur outside."""


def to_onnx(
    model: VisionModel, path: str | os.PathLike[str], *, opset: int = OPSET, dynamic_batch: bool = True
) -> Path:
    """Writes a model, with quantizers attached or without, as one ONNX file, whole or not at all; returns its path.

    The file takes what the model's forward does, by the same names, as float32 and normalized as `ouro.data.normalize`
    does, and puts out "output". It needs ONNX Runtime alone, see `session`. The model itself stays as it is.

    Args:
        opset: version of ONNX's operators; weights of up to 4 bits are stored as INT4 from 21 on, as INT8 before.
        dynamic_batch: any number of images at a time; otherwise one.

    Raises:
        ValueError: a package is missing, an unknown opset, a quantizer that ONNX has no nodes for, or a model that
            torch.export cannot take.
        WriteError: the file cannot be written.
    """
    require_packages()
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(f"opset is {opset}, expected {OPSETS[0]} to {OPSETS[1]}")
    if why := refusal(model):
        raise ValueError(f"{model.info.name} cannot be exported: {why}")
    check_writable(path)
    given = traced_inputs(model, _IMAGES if dynamic_batch else 1)
    named = tuple({0: "batch"} if dynamic_batch else {} for _ in given)
    free = tuple({place: torch.export.Dim(name) for place, name in axes.items()} for axes in named)
    ready = _ready(model, opset)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                torch.export.export(ready, given, dynamic_shapes=free),
                dynamo=True,
                dynamic_shapes=named,
                opset_version=opset,
                input_names=input_names(model),
                output_names=["output"],
                custom_translation_table={torch.ops.ouro.selective_scan.default: _scan_of(opset)},
                verbose=False,
            )
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        name = model.info.name
        if getattr(error, "error_type", None) is _BOUND:
            raise ValueError(
                f"{name} cannot be exported for any number of images: what its forward does hangs on how many there are; "
                f"{_ONE_AT_A_TIME}"
            ) from error
        other = f" ({_ONE_AT_A_TIME})" if dynamic_batch else ""
        raise ValueError(f"{name} cannot be exported{other}: {one_line(error)}") from error
    assert program is not None
    # each node has lines of this machine's files beside it
    import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(program.model)
    if opset >= OPSET:
        _store_nibbles(program.model, ready)
    return write_bytes(path, program.model_proto.SerializeToString())


def require_packages() -> None:
    """Refuses to go on without the packages of the extra "onnx".

    Raises:
        ValueError: the message names the missing ones.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f"ONNX files need {', '.join(missing)}: pip install 'ouro-workbench[onnx]'")


def refusal(model: VisionModel) -> str | None:
    """Why the quantizers of a model cannot be exported, and which can; None if they can, or there are none."""
    if model.untapped is not None:
        return None
    if is_packed(model):
        return "it is packed; quantize it again without --packed, its weights become integers in the ONNX file too"
    allowed = (
        "static steps (per tensor, channel or time step) and ranges per token can be, as of minmax, clipped or dynamic"
    )
    for path, tap in taps(model):
        if (quantizer := tap.quantizer) is None:
            continue
        if tap.site in RECURRENT_SITES:
            return f"{path} is rounded inside the recurrence; scopes lin and ssm leave that in floating point"
        if cast(Quantizer, quantizer).spec.channels:
            return f"{path} keeps channels apart, which no node of ONNX does; quantize it again without them"
        kind = cast(Quantizer, quantizer).spec.granularity
        if isinstance(quantizer, StepQuantizer) and quantizer.rule is not None:
            return f"{path} is rounded per {kind} with outliers that are found as it runs; {allowed}"
        if type(quantizer) not in _KINDS:
            return f"{path} is rounded per {kind}; {allowed}"
    return None


def traced_inputs(model: VisionModel, count: int) -> tuple[Tensor, ...]:
    """What the model's forward takes for so many images that show nothing."""
    images = torch.zeros(count, *model.info.input_size)
    return images, *task_of(model).conditions(model.info, count, 0)


def input_names(model: VisionModel) -> list[str]:
    """The names of these in the file."""
    count = len(traced_inputs(model, 1))
    return list(inspect.signature(model.forward).parameters)[:count]


def session(path: str | os.PathLike[str]) -> Any:
    """A session of ONNX Runtime on CPUs that computes what the file says.

    Left to itself, ONNX Runtime 1.32 multiplies by stored integer weights in kernels that round their input to 8 bits
    once more where it has no single static step; the one setting here has it stay in float32.
    """
    require_packages()
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


# ---- quantizers


class _Rounded(nn.Module):
    """Stands where a quantizer of an activation stood: the same rounding by the nodes of ONNX, at 8 bits.

    Grids of fewer codes are made by clipping in front.
    """

    def __init__(self, quantizer: Quantizer, opset: int) -> None:
        super().__init__()
        self.quantizer, self.opset = quantizer, opset

    def forward(self, x: Tensor) -> Tensor:
        return self.quantizer.outside(self.rounded(self.quantizer.inside(x)), x)

    def rounded(self, x: Tensor) -> Tensor:
        """What `Quantizer.rounded` makes of x."""
        quantizer = self.quantizer
        zero = None if quantizer.spec.signed else getattr(quantizer, "zero", None)
        if isinstance(quantizer, TensorQuantizer):
            return self.pair(x, quantizer.scale[0], None if zero is None else zero[0])
        rows = quantizer.rows(x)
        if isinstance(quantizer, TokenQuantizer):
            flat, bits = rows.flatten(0, 1), quantizer.spec.bits
            scale, zero = range_of(flat.amin(-1), flat.amax(-1), bits)
            rounded = self.pair(flat, scale, zero, axis=0).view(rows.shape)
        elif isinstance(quantizer, ClusterQuantizer):
            axis = 1 if quantizer.spec.granularity == "step clusters" else 2
            rounded = self.pair(rows, quantizer.scale[quantizer.labels], axis=axis)
        else:
            rounded = self.pair(rows, quantizer.scale, zero, axis=1)
        return quantizer.rows.back(rounded, x)

    def pair(self, x: Tensor, scale: Tensor, zero: Tensor | None = None, axis: int = 0) -> Tensor:
        """x through QuantizeLinear and DequantizeLinear; scale and zero are [] or run along the axis."""
        grid = asymmetric(self.quantizer.spec.bits) if zero is not None else self.quantizer.grid
        dtype = torch.int8 if grid.low < 0 else torch.uint8
        whole = torch.iinfo(dtype)
        if (grid.low, grid.high) != (whole.min, whole.max):
            wide = [-1] + [1] * (x.dim() - 1 - axis) if scale.dim() else []
            ends = [((end if zero is None else end - zero) * scale).view(wide) for end in (grid.low, grid.high)]
            x = torch.minimum(torch.maximum(x, ends[0]), ends[1])
        place = torch.zeros_like(scale, dtype=dtype) if zero is None else zero.to(dtype)
        codes = _node("QuantizeLinear", (x, scale, place), axis, dtype, x.shape, self.opset)
        return _node("DequantizeLinear", (codes, scale, place), axis, x.dtype, x.shape, self.opset)


class _Stored(_Rounded):
    """Stands where a weight's quantizer stood: integer codes [o ...] and their steps [o]."""

    codes: Tensor
    place: Tensor

    def __init__(self, quantizer: ChannelQuantizer, opset: int, weight: Tensor) -> None:
        super().__init__(quantizer, opset)
        with torch.no_grad():
            codes = quantizer.codes(quantizer.inside(weight)).to(torch.int8)
        self.register_buffer("codes", codes)
        # zeros, which the standard lets one leave out and ONNX Runtime 1.23 then takes for those of uint8
        self.register_buffer("place", torch.zeros(len(codes), dtype=torch.int8))

    def rounded(self, x: Tensor) -> Tensor:
        scale = self.quantizer.scale
        given = self.codes, scale, self.place
        return _node("DequantizeLinear", given, 0, scale.dtype, self.codes.shape, self.opset)


_KINDS = {TensorQuantizer, ChannelQuantizer, LearnedRounding, StepQuantizer, ClusterQuantizer, TokenQuantizer}
"""Quantizers that `_Rounded` and `_Stored` know; a subclass of one of them may round in another way."""


def _node(name: str, given: tuple[Tensor, ...], axis: int, dtype: torch.dtype, shape: Any, opset: int) -> Tensor:
    attributes: dict[str, Any] = {"axis": axis} if given[1].dim() else {}
    return torch.onnx.ops.symbolic(name, given, attributes, dtype=dtype, shape=shape, version=opset)


def _ready(model: VisionModel, opset: int) -> VisionModel:
    """A copy on the CPU in float32 whose quantizers are nodes of ONNX and whose scans are those that are traced."""
    ready = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for module in ready.modules():
        if isinstance(module, ScanModule):
            module.backend = "auto"
    attached = [] if ready.untapped else [(path, tap) for path, tap in taps(ready) if tap.quantizer is not None]
    for path, tap in attached:
        quantizer = cast(Quantizer, tap.quantizer)
        if isinstance(quantizer, ChannelQuantizer):
            tap.quantizer = None
            tap.quantizer = _Stored(quantizer, opset, parameter_of(ready, path)[1])
        else:
            tap.quantizer = _Rounded(quantizer, opset)
    return ready


def _store_nibbles(model: Any, ready: VisionModel) -> None:
    """Stores the codes of weights of up to 4 bits as INT4, two to a byte."""
    ir = import_module("onnx_ir")
    narrow = {
        f"{path}.codes"
        for path, module in ready.named_modules()
        if isinstance(module, _Stored) and module.quantizer.spec.bits <= NIBBLE
    }
    for node in list(model.graph):
        if node.op_type != "DequantizeLinear" or node.inputs[0].name not in narrow:
            continue
        # equal tensors are shared, zero points with those of 8 bits too: each node gets its own
        for place, kind in ((2, "zero"), (0, "codes")):
            name = f"{node.name}.{kind}"
            value = node.inputs[place]
            whole = value.const_value.numpy().astype(ir.DataType.INT4.numpy())
            stored = ir.Value(name=name, const_value=ir.tensor(whole, dtype=ir.DataType.INT4, name=name))
            stored.shape, stored.type = value.shape, ir.TensorType(ir.DataType.INT4)
            model.graph.register_initializer(stored)
            node.replace_input_with(place, stored)
    import_module("onnx_ir.passes.common").RemoveUnusedNodesPass()(model)


# ---- scans


def _scan_of(opset: int) -> Callable[..., Any]:
    """What torch.onnx calls to translate `ouro::selective_scan`: operands of the graph in, its y out."""
    onnx, ir, onnxscript = (import_module(name) for name in ("onnx", "onnx_ir", "onnxscript"))
    op = getattr(onnxscript, f"opset{opset}")

    def step(A: Any) -> Any:
        body = ir.serde.deserialize_graph(onnx.parser.parse_graph(_STEP))
        # A is the same at every step, so the body sees the one outside
        ir.convenience.replace_all_uses_with(body.inputs.pop(), A)
        return body

    def sized(x: Any, *shape: int) -> Any:
        # 0: as before
        return op.Reshape(x, op.Constant(value_ints=list(shape)))

    def scan(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any = None) -> Any:
        _, channels, length = u.shape
        states = A.shape[1]
        groups = B.shape[1] if len(B.shape) == 4 else 1
        inner = channels // groups

        def steps(x: Any, *shape: int) -> Any:
            """[b ... l] -> [l b g ...]."""
            return op.Transpose(sized(x, 0, groups, *shape, length), perm=[4, 0, 1, 2, 3])

        before = op.Concat(op.Shape(u, start=0, end=1), op.Constant(value_ints=[groups, inner, states]), axis=0)
        last = op.Scan(
            op.ConstantOfShape(before),
            steps(delta, inner, 1),
            steps(op.Mul(delta, u), inner, 1),
            steps(B, 1, states),
            steps(C, states, 1),
            body=step(sized(A, groups, inner, states)),
            num_scan_inputs=4,
        )
        # onnxscript takes the node for one of a single output, the last state; y is the second
        node = last.producer()
        node.resize_outputs(2)
        y = sized(op.Transpose(node.outputs[1], perm=[1, 2, 3, 4, 0]), 0, channels, length)
        return y if D is None else op.Add(y, op.Mul(op.Unsqueeze(D, op.Constant(value_ints=[1])), u))

    return scan
