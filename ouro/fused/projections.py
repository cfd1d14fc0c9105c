"""The linear layers of a block as they run on kernels: on floats, or on codes that are made in front of them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.kernels.launch import KernelError, require
from ouro.kernels.norm_quantize import Normed
from ouro.kernels.outlier_quantizer import quantize_outliers
from ouro.kernels.paired_linear import paired_linear
from ouro.kernels.quantized_linear import quantized_linear
from ouro.kernels.quantized_linear.op import ACTIVATIONS
from ouro.models.layers import Linear
from ouro.quant.bits import FLOAT_OUTLIERS
from ouro.quant.packed.codes import Encoding
from ouro.quant.packed.modules import PackedLinear, PackedWeight, encoding_of
from ouro.quant.quantizer import Quantizer

Coded = dict[str, Tensor | None]
"""Rows as `quantized_linear` takes them."""


class Encoder(nn.Module):
    """Makes codes of rows [b l c], as an `Encoding` says; `quantize_outliers` does, or a norm in front of it.

    reverse: the steps of the encoding count from the last token.
    """

    scale: Tensor | None
    zero: Tensor | None
    theta: Tensor | None

    def __init__(self, path: str, encoding: Encoding, steps: int, *, reverse: bool, mode: str, backend: str) -> None:
        super().__init__()
        grid, rule = encoding.grid, encoding.rule
        self.signed = grid.low < 0
        require(
            not self.signed or grid.low == -grid.high,
            f"the input of {path} has the codes {grid.low}..{grid.high}, kernels round to -{grid.high}..{grid.high}",
        )
        outliers = None if rule is None else rule.outlier_bits
        require(
            outliers != FLOAT_OUTLIERS,
            f"the outliers of {path} stay in floating point, kernels multiply them as codes of 2 to 8 bits",
        )
        count = steps if encoding.scale is None else len(encoding.scale)
        require(
            count in (1, steps),
            f"the input of {path} was calibrated for {count} time steps, the model has {steps}",
        )
        self.bits = grid.high.bit_length() + self.signed
        self.has_outliers = rule is not None
        # in "grid" mode there is no second operand, and a zero point has no place
        self.settings: dict[str, Any] = {"bits": self.bits, "outlier_bits": outliers, "reverse": reverse}
        self.settings |= {"mode": mode if rule is not None and self.signed else "exact", "backend": backend}
        if rule is not None:
            self.settings |= {"kappa": rule.kappa, "refresh": rule.refresh}
        scale, zero, theta = encoding.scale, encoding.zero, encoding.theta
        if rule is None and scale is not None:
            # nothing exceeds this: no channel is an outlier, and nobody computes statistics
            theta = torch.full((steps,), torch.inf, device=scale.device)
        for name, table in (("scale", scale), ("zero", zero), ("theta", theta)):
            spread = None if table is None else table.detach().float().expand(steps).contiguous()
            self.register_buffer(name, spread)

    @property
    def in_norm(self) -> dict[str, Any] | None:
        """Settings with which `norm_quantize` makes these codes itself; None where there may be outliers."""
        if self.has_outliers:
            return None
        return {"bits": self.bits, "signed": self.signed, "scale": self.scale, "zero": self.zero}

    def forward(self, x: Tensor) -> Coded:
        assert self.scale is not None, "the range of a row is computed behind a norm only"
        split = quantize_outliers(x.contiguous(), self.scale, self.zero, self.theta, **self.settings)
        return _flat(split.codes, split.scale, split.zero, split.outliers, split.outlier_scale, split.outlier_zero)


class Projection(nn.Module):
    """y [b l o] of x [b l c], with what follows on the outputs from `activated_from` on.

    activation: "silu", "softplus" or None. Without an encoder it is a product of floats, and SiLU is left to others.
    dtype, y_dtype: of floats going in, and coming out.
    """

    weight: Tensor
    weight_scale: Tensor
    weight_sum: Tensor
    bias: Tensor | None

    def __init__(
        self,
        path: str,
        layer: nn.Module,
        steps: int,
        dtype: torch.dtype,
        *,
        mode: str,
        backend: str,
        y_dtype: torch.dtype | None = None,
        reverse: bool = False,
        behind_norm: bool = False,
        activation: str | None = None,
        activated_from: int = 0,
    ) -> None:
        super().__init__()
        self.dtype, self.y_dtype, self.backend = dtype, y_dtype or dtype, backend
        self.activation, self.activated_from = activation, activated_from
        self.encoder: Encoder | None = None
        bias = cast("Tensor | None", layer.bias)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        if isinstance(layer, PackedLinear):
            quantizer, packed = cast(Quantizer, layer.tap_in.quantizer), cast(PackedWeight, layer.tap_w.quantizer)
            encoding = encoding_of(quantizer)
            assert encoding is not None, "lower() only packs what can be encoded"
            require(
                not quantizer.spec.rotate and getattr(quantizer, "smooth", None) is None,
                f"the input of {path} is rounded in another basis than its own (smoothed or rotated), which no kernel does",
            )
            require(
                encoding.scale is not None or behind_norm,
                f"the input of {path} is rounded with the range of each row, which kernels find behind a norm only",
            )
            self.encoder = Encoder(path, encoding, steps, reverse=reverse, mode=mode, backend=backend)
            self.register_buffer("weight", packed.packed.contiguous())
            self.register_buffer("weight_scale", packed.scale.detach().float().contiguous())
            self.register_buffer("weight_sum", packed.codes().sum(1, dtype=torch.int32))
            return
        assert isinstance(layer, Linear)
        held = layer.tap_in.quantizer
        if isinstance(held, Quantizer):
            apart = f"the input of {path} keeps channels apart, which no kernel does; quantize it again without them"
            require(not held.spec.channels, apart)
            per = held.spec.granularity
            raise KernelError(
                f"the input of {path} is rounded per {per}, or its weight is not: no step is a whole row's"
            )
        with torch.no_grad():
            # rounded, if only the weight is
            self.register_buffer("weight", layer.tap_w(layer.weight).detach().to(dtype).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        if self.encoder is not None:
            return self.of_codes(self.encoder(x), x.shape[:2])
        y = F.linear(x.to(self.dtype), self.weight, None if self.bias is None else self.bias.to(self.dtype))
        return (ACTIVATIONS["softplus"](y) if self.activation == "softplus" else y).to(self.y_dtype)

    def of_normed(self, normed: Normed) -> Tensor:
        """y of what `norm_quantize` made, as `in_norm` asked for."""
        if normed.codes is None:
            assert normed.y is not None
            return self(normed.y)
        assert normed.scale is not None
        return self.of_codes(_flat(normed.codes, normed.scale, normed.zero), normed.codes.shape[:2])

    def of_codes(self, coded: Coded, rows: torch.Size) -> Tensor:
        """y of rows given as codes."""
        y = quantized_linear(
            **cast(Any, coded), weight=self.weight, weight_scale=self.weight_scale, bias=self.bias,
            weight_sum=None if coded["zero"] is None else self.weight_sum, activation=self.activation,
            activated_from=self.activated_from, dtype=self.y_dtype, backend=self.backend,
        )  # fmt: skip
        return y.view(*rows, -1)

    @property
    def in_norm(self) -> dict[str, Any]:
        """What a norm in front of it is asked for: codes where it can make them, floats otherwise."""
        return {"bits": None} if self.encoder is None else self.encoder.in_norm or {"bits": None}

    @property
    def activates(self) -> bool:
        """Whether the activation is in y already."""
        return self.activation is not None and self.encoder is not None


def both(first: Projection, second: Projection, x_f: Tensor, x_b: Tensor) -> tuple[Tensor, Tensor]:
    """y of either direction: one launch where both are products of floats."""
    if first.encoder is not None or second.encoder is not None:
        return first(x_f), second(x_b)
    y = paired_linear(
        x_f.flatten(0, 1), x_b.flatten(0, 1), first.weight, second.weight, first.bias, second.bias,
        activation=first.activation, dtype=first.y_dtype, backend=first.backend,
    )  # fmt: skip
    return y.y_f.view(*x_f.shape[:2], -1), y.y_b.view(*x_b.shape[:2], -1)


def _flat(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    outliers: Tensor | None = None,
    outlier_scale: Tensor | None = None,
    outlier_zero: Tensor | None = None,
) -> Coded:
    parts = {"codes": codes, "scale": scale, "zero": zero}
    parts |= {"outliers": outliers, "outlier_scale": outlier_scale, "outlier_zero": outlier_zero}
    return {name: None if part is None else part.flatten(0, 1) for name, part in parts.items()}
