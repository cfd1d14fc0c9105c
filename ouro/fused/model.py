"""Vim on kernels: every block in 7 launches in floating point, 8 with codes in front of in_proj and out_proj.

    norm of the sum -> in_proj -> both convolutions -> both x_proj -> both dt_proj -> both scans and the gate -> out_proj

With codes the norm makes those of in_proj, and one launch more those of out_proj. Outlier lists and rounded x_proj and
dt_proj take launches of their own, and so does a small batch, whose scan first looks where chunks of time end.
Source: the fusion of Vim's block (Zhu et al. 2024, alg. 1) follows from what its kernels can do in one pass.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ouro.fused.projections import Projection, both
from ouro.kernels.bidirectional_scan import bidirectional_scan
from ouro.kernels.causal_conv import causal_conv
from ouro.kernels.launch import BACKENDS, KernelError, can_run, require
from ouro.kernels.norm_quantize import norm_quantize
from ouro.kernels.outlier_quantizer.op import MODES
from ouro.models.layers import RMSNorm
from ouro.models.mixer import Mixer, Scan
from ouro.models.vim import Block, StackedModel
from ouro.quant.packed.lower import is_packed, lower
from ouro.taps import taps
from ouro.vision import VisionModel

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
SITES = frozenset({"linear.in", "linear.weight"})
"""What may be rounded inside a block; everything else would be rounded between two steps of one kernel."""
UNTAPPED = (
    "a fused model has no taps: what they would see never leaves its kernels; "
    "record, count, audit or quantize the model that it was made from"
)


class Norm(nn.Module):
    """The residual sum and its norm, as floats or as codes."""

    weight: Tensor

    def __init__(self, norm: RMSNorm, backend: str) -> None:
        super().__init__()
        self.register_buffer("weight", norm.weight.detach().float())
        self.settings: dict[str, Any] = {"eps": norm.eps, "backend": backend}

    def forward(self, hidden: Tensor, residual: Tensor | None, **codes: Any) -> Any:
        return norm_quantize(hidden, residual, self.weight, **self.settings, **codes)


class Way(nn.Module):
    """What one of the two directions brings to the kernels that take both."""

    A: Tensor
    D: Tensor
    conv: Tensor
    conv_bias: Tensor | None

    def __init__(self, path: str, scan: Scan, dtype: torch.dtype, steps: int, **settings: Any) -> None:
        super().__init__()
        conv = scan.conv1d
        assert conv is not None
        self.split = scan.split
        # [n e] and [k e], as kernels read them
        self.register_buffer("A", -scan.A_log.detach().float().exp().t().contiguous())
        self.register_buffer("D", scan.D.detach().float())
        self.register_buffer("conv", conv.weight.detach().float().squeeze(1).t().contiguous())
        self.register_buffer("conv_bias", None if conv.bias is None else conv.bias.detach().float())
        # the scan wants B and C in float32, and the low-rank step is beside them
        self.x_proj = Projection(f"{path}.x_proj", scan.x_proj, steps, dtype, y_dtype=torch.float32, **settings)
        self.dt_proj = Projection(f"{path}.dt_proj", scan.dt_proj, steps, dtype, activation="softplus", **settings)


class FusedBlock(nn.Module):
    """A Vim block on kernels: (hidden, residual) -> (hidden, residual), tokens [b l c]."""

    def __init__(self, path: str, block: Block, dtype: torch.dtype, steps: int, mode: str, backend: str) -> None:
        super().__init__()
        mixer, place = block.mixer, f"{path}.mixer"
        settings: dict[str, Any] = {"mode": mode, "backend": backend}
        self.backend, self.inner, self.scale = backend, mixer.spec.inner, mixer.spec.scale
        self.norm = Norm(block.norm, backend)
        self.in_proj = Projection(
            f"{place}.in_proj", mixer.in_proj, steps, dtype,
            behind_norm=True, activation="silu", activated_from=self.inner, **settings,
        )  # fmt: skip
        self.ways = nn.ModuleList(
            Way(f"{place}.scans.{number}", cast(Scan, scan), dtype, steps, reverse=number == 1, **settings)
            for number, scan in enumerate(mixer.scans)
        )
        self.out_proj = Projection(f"{place}.out_proj", mixer.out_proj, steps, dtype, **settings)

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        normed = self.norm(hidden, residual, **self.in_proj.in_norm)
        x, z = self.in_proj.of_normed(normed).chunk(2, dim=-1)
        f, b = (cast(Way, way) for way in self.ways)
        u = causal_conv(x, f.conv.t(), b.conv.t(), f.conv_bias, b.conv_bias, backend=self.backend)
        low_f, B_f, C_f, low_b, B_b, C_b = (
            part
            for way, y in zip((f, b), both(f.x_proj, b.x_proj, *u), strict=True)
            for part in y.split(way.split, dim=-1)
        )
        delta = both(f.dt_proj, b.dt_proj, low_f, low_b)
        y = bidirectional_scan(
            *u, *delta, f.A.t(), b.A.t(), B_f, B_b, C_f, C_b, f.D, b.D, z,
            scale=self.scale, silu=not self.in_proj.activates, backend=self.backend,
        )  # fmt: skip
        return self.out_proj(y), normed.total


class FusedModel(VisionModel):
    """A Vim whose blocks run on kernels; made by `fuse`, of a model that it keeps. No gradients, no taps.

    Logits come in `dtype`.
    """

    untapped = UNTAPPED

    def __init__(self, model: StackedModel, dtype: torch.dtype, mode: str, backend: str) -> None:
        super().__init__()
        self.info, self.num_classes, self.loaded_from = model.info, model.num_classes, model.loaded_from
        self.dtype, self.backend = dtype, backend
        steps = model.info.stages[0].L
        self.layers = nn.ModuleList(
            FusedBlock(path, cast(Block, block), dtype, steps, mode, backend) for path, block in model.blocks().items()
        )
        self.norm_f = Norm(cast(RMSNorm, model.norm_f), backend)
        # everything but the blocks stays what it was
        self.hull = model.to(dtype)
        self.hull.layers = nn.ModuleList()
        self.requires_grad_(False)

    def forward_features(self, images: Tensor) -> Tensor:
        require(
            not (images.requires_grad and torch.is_grad_enabled()),
            "a fused model has no gradients; use the model that it was made from",
        )
        with torch.no_grad():
            return super().forward_features(images)

    def stem(self, images: Tensor) -> tuple[Tensor, None]:
        return self.hull.stem(images.to(self.dtype))

    def blocks(self) -> dict[str, nn.Module]:
        return {f"layers.{i}": block for i, block in enumerate(self.layers)}

    def tail(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        return self.norm_f(hidden, residual, bits=None).y

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        return self.hull.forward_head(tokens, pre_logits)


def fuse(
    model: VisionModel, dtype: torch.dtype = torch.float16, *, outliers: str = "exact", backend: str = "triton"
) -> FusedModel:
    """The model on kernels, on the device it is on; the model itself stays as it is.

    A model with a calibration attached, or a packed one, multiplies codes wherever the input and the weight of a linear
    layer are rounded; it computes what the simulation does but for the rounding of `dtype`.

    Args:
        dtype: of activations: float16, bfloat16 or float32. The residual sum is float32 throughout.
        outliers: "exact" rounds outliers with a step of their own, as the simulation does, in a second product; "grid"
            puts them on the inliers' step, in one.
        backend: "triton", or "reference" for the definition of every kernel on any device.

    Raises:
        KernelError: a model that is no Vim, a calibration that rounds what kernels do not, a dtype or a device.
    """
    if outliers not in MODES:
        raise ValueError(f"outliers is {outliers!r}; known: {', '.join(MODES)}")
    require(backend in BACKENDS, f"fuse: unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    require(dtype in DTYPES, f"fuse cannot run; dtype is {dtype}, expected one of {', '.join(map(str, DTYPES))}")
    require_vim(model)
    device = model.device
    if backend == "triton" and (why := can_run(device)) is not None:
        raise KernelError(f"fuse cannot run; tried triton: {why}")
    attached = {path: tap.site for path, tap in taps(model) if tap.quantizer is not None}
    inside = tuple(f"{path}." for path in model.blocks())
    for path, site in attached.items():
        require(
            site in SITES or not path.startswith(inside),
            f"fuse cannot run; {path} ({site}) is rounded, kernels round inputs and weights of linear layers only; "
            'calibrate with scope "lin"',
        )
    source = lower(model) if attached and not is_packed(model) else copy.deepcopy(model)
    return FusedModel(cast(StackedModel, source), dtype, outliers, backend).to(device).eval()


def require_vim(model: VisionModel) -> None:
    """Raises KernelError unless all blocks are what the kernels compute."""
    name = f"fuse cannot run; {model.info.name} ({model.info.family})"
    if isinstance(model, FusedModel):
        raise KernelError(f"{name} is fused already")
    for path, block in model.blocks().items():
        # a subclass does more than its parent
        mixer = block.mixer if type(block) is Block else None
        require(
            isinstance(model, StackedModel) and isinstance(mixer, Mixer),
            f"{name} has other blocks than Vim: {path} is a {type(block).__module__}.{type(block).__name__}",
        )
        why = _foreign(cast(Mixer, mixer))
        require(why is None, f"{name} differs from Vim in {path}: {why}")


def _foreign(mixer: Mixer) -> str | None:
    """What a mixer does that the kernels do not; None for Vim's."""
    spec, walks = mixer.spec, [walk.kind for walk in mixer.walks]
    if walks != ["as is", "flipped"]:
        return f"its scans read tokens {', '.join(walks)}, expected as is, flipped"
    if spec.conv != "path" or spec.gate != "merge":
        return f'conv is "{spec.conv}" and gate "{spec.gate}", expected "path" and "merge"'
    if spec.norm or spec.channel_attention or spec.step_biases != 1:
        return "its result is normalized, attended to or its step biased twice"
    return None
