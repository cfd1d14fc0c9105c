"""The modules of a packed model: a weight as codes on its tap, and a linear layer that multiplies them."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ouro.quant.grid import asymmetric
from ouro.quant.modules import ClusterQuantizer, StepQuantizer, TensorQuantizer, TokenQuantizer
from ouro.quant.packed import integer
from ouro.quant.packed.codes import Encoding
from ouro.quant.packed.storage import unpack_codes
from ouro.quant.quantizer import Quantizer
from ouro.quant.rotation import rotation
from ouro.scan.devices import compiles
from ouro.taps import Tap
from ouro.types import QuantSpec


class PackedWeight(Quantizer):
    """Sits on a weight's tap: `packed` holds the codes (see `ouro.quant.packed.storage`), `scale` [o] the steps.

    Called with anything it returns the weight of `shape` that they stand for.
    """

    learnable = ()
    packed: Tensor

    def __init__(self, tap: Tap, spec: QuantSpec, packed: Tensor, scale: Tensor, shape: torch.Size) -> None:
        # codes of a smoothed or rotated weight are what they are: the way there lies behind them
        super().__init__(tap, replace(spec, granularity="channel", rotate=False), {"packed": packed, "scale": scale})
        self.shape = shape
        self._totals: tuple[tuple[int, int], Tensor] | None = None

    def rounded(self, x: Tensor) -> Tensor:
        self.tally()
        return (self.codes() * self.scale[:, None]).view(self.shape)

    def codes(self) -> Tensor:
        """int8 [o c]; a view of what is stored where that has 8 bits."""
        columns = self.shape.numel() // self.shape[0]
        if self.packed.dtype == torch.uint8 and compiles(self.packed):
            return integer.unpack(self.packed, columns)
        return unpack_codes(self.packed, columns)

    def totals(self, codes: Tensor) -> Tensor:
        """The sum of the codes of each output channel, int32 [o]; kept, because the codes hardly ever change."""
        state = self.packed.data_ptr(), self.packed._version
        if self._totals is None or self._totals[0] != state:
            self._totals = state, codes.sum(1, dtype=torch.int32)
        return self._totals[1]

    def tally(self) -> None:
        """Counts the weight, if somebody asked for that."""
        if self.counting:
            self.count(torch.zeros(()).expand(self.shape))


class PackedLinear(nn.Module):
    """A linear layer on integers: the input's quantizer on `tap_in` makes codes, the weight's on `tap_w` holds them.

    Neither is called: the codes of both are multiplied as they are, see `ouro.quant.packed.integer`. There is no gradient.
    """

    def __init__(self, tap_in: Tap, tap_w: Tap, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.tap_in, self.tap_w, self.bias = tap_in, tap_w, bias

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError("a packed model has no gradients; use the simulated one (attach_calibration) for them")
        quantizer, weight = self._quantizers()
        encoding = encoding_of(quantizer)
        assert encoding is not None, "lower() only packs what can be encoded"
        with torch.no_grad():
            inside = quantizer.inside(x)
            encoded = integer.encode(quantizer.rows(inside), encoding)
            codes = weight.codes()
            y = integer.linear(encoded, codes, weight.scale, self.bias, weight.totals(codes))
            if quantizer.counting:
                quantizer.count(inside, encoded.listed)
            weight.tally()
            if self.tap_in.recorded:
                values = quantizer.rows.back(integer.decode(encoded), inside)
                self.tap_in.observe(quantizer.outside(values, x))
            if self.tap_w.recorded:
                self.tap_w.observe(self.weight)
        return y.view(*x.shape[:-1], len(weight.scale)).to(x.dtype)

    @property
    def weight(self) -> Tensor:
        """The rounded weight [o c], in its own basis."""
        quantizer, packed = self._quantizers()
        weight = packed.rounded(packed.scale)
        if quantizer.spec.rotate:
            weight = weight @ rotation(weight.shape[1], weight.device, weight.dtype).T
        smooth = getattr(quantizer, "smooth", None)
        return weight if smooth is None else weight / smooth

    def extra_repr(self) -> str:
        outputs, inputs = self._quantizers()[1].shape
        return f"in_features={inputs}, out_features={outputs}, bias={self.bias is not None}"

    def _quantizers(self) -> tuple[Quantizer, PackedWeight]:
        return cast(Quantizer, self.tap_in.quantizer), cast(PackedWeight, self.tap_w.quantizer)


def encoding_of(quantizer: nn.Module | None) -> Encoding | None:
    """How the quantizer of a linear layer's input makes codes; None where no step is common to a whole row."""
    if isinstance(quantizer, Quantizer) and quantizer.spec.channels:
        return None
    if isinstance(quantizer, TokenQuantizer):
        return Encoding(asymmetric(quantizer.spec.bits))
    if isinstance(quantizer, TensorQuantizer):
        return Encoding(quantizer.grid, quantizer.scale, None if quantizer.spec.signed else quantizer.zero)
    if isinstance(quantizer, StepQuantizer):
        if quantizer.rule is not None and quantizer.rule.per_channel:
            return None
        zero, theta = None if quantizer.spec.signed else quantizer.zero, getattr(quantizer, "theta", None)
        return Encoding(quantizer.grid, quantizer.scale, zero, quantizer.rule, theta)
    if isinstance(quantizer, ClusterQuantizer) and quantizer.spec.granularity == "step clusters":
        return Encoding(quantizer.grid, quantizer.scale[quantizer.labels])
    return None
