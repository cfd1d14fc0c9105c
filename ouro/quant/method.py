"""What a quantization method is: a frozen dataclass whose fields are its options, on this base.

A method says how a site is rounded (`spec`), in which basis (`bases`), and fits the state of every quantizer. What it
has no rule for falls back to the rules here: a clipped step per output channel for weights, one min-max range for
everything else, naive one-scale rounding inside the recurrence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import Bits
from ouro.quant.grid import positive, range_of, symmetric
from ouro.quant.modules import build
from ouro.quant.observers import Rows
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES, Quantizer
from ouro.scan import selective_scan
from ouro.scan.discretize import discretize
from ouro.settings import check_settings
from ouro.taps import Tap
from ouro.types import QuantSpec, ScanInputs


@dataclass(frozen=True, slots=True)
class Learning:
    """How what can learn in one block does, see `ouro.quant.learning.learn`; 0 steps: not at all.

    Rates of step sizes and of smoothing factors are relative: 0.01 changes them by 1 % at a time. The official 5e-4 is
    absolute, which is about as much for the 4-bit weights of an official Vim, but more than a whole step for 8-bit ones.

    stochastic: every optimizer step sees one chunk of images, drawn by the seed, instead of the whole set.
    loss: "cosine" (1 - cos over channels) or "squares" (mean squared error, as a part of the target's mean square).
    pull: weight of the term that drives learned rounding to up or down.
    """

    steps: int = 0
    lr_weights: float = 0.01
    lr_activations: float = 0.01
    lr_smooth: float = 0.0
    lr_rounding: float = 0.0
    stochastic: bool = False
    loss: str = "cosine"
    pull: float = 0.0
    clip: float = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One site in calibration: its tap, what the plan wants, and what calibration images bring there.

    chunks: the tensor chunk by chunk of images, in the basis in which it is rounded; a weight or constant is one chunk.
    partner: of a linear layer's weight the layer's inputs, if the method looks at them.
    scans: of a site inside the recurrence the operands of its scan, rounded as they will be.
    """

    path: str
    tap: Tap
    spec: QuantSpec
    chunks: Sequence[Tensor]
    partner: Sequence[Tensor] = ()
    scans: Sequence[ScanInputs] = ()

    @property
    def rows(self) -> list[Tensor]:
        """The chunks as rows [b l c]."""
        return [Rows(self.tap.axes)(chunk) for chunk in self.chunks]


@dataclass(frozen=True, slots=True)
class Block:
    """What `Method.bases` may look at: layers (path of the input's tap -> of the weight's) and scans of a block.

    inputs, weights, operands: look up what was seen, in floating point.
    """

    layers: Mapping[str, str]
    scans: Sequence[str]
    inputs: Callable[[str], list[Tensor]]
    weights: Callable[[str], Tensor]
    operands: Callable[[str], list[ScanInputs]]


class Method:
    """Base of all methods; see the module. Subclasses override what they do differently."""

    __slots__ = ()

    title: ClassVar[str]
    """What people call it, in tables and menus."""
    has_outliers: ClassVar[bool] = False
    """Whether the o-part of the bits means anything to it."""
    looks_at_inputs: ClassVar[bool] = False
    """Whether weights are fitted to their layer's inputs."""

    def __post_init__(self) -> None:
        """Refuses options of another kind, see `ouro.settings`; a subclass that checks more calls this first."""
        check_settings(self)

    @property
    def learning_weights(self) -> Learning:
        """Before activations are rounded."""
        return Learning()

    @property
    def learning(self) -> Learning:
        """When everything in the block is rounded."""
        return Learning()

    def spec(self, tap: Tap, bits: Bits) -> QuantSpec:
        """How a tensor is rounded."""
        if tap.site in WEIGHT_SITES:
            return QuantSpec(bits.weights, signed=True, granularity="channel")
        if tap.site in RECURRENT_SITES:
            return recurrent_spec(tap, bits)
        return QuantSpec(bits.activations, signed=False, granularity="tensor")

    def bases(self, block: Block) -> dict[str, Tensor]:
        """Tap path -> `smooth` factor per channel [c], for tensors that are rounded in another basis than their own."""
        return {}

    def fit(self, seen: Seen) -> dict[str, Tensor]:
        """The quantizer's state.

        Raises:
            ValueError: a tensor that is not finite.
        """
        if seen.tap.site in RECURRENT_SITES:
            return self.fit_recurrence(seen)
        if seen.tap.site in WEIGHT_SITES:
            return self.fit_weight(seen)
        return self.fit_activation(seen)

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        """Of a weight [o ...]: the step with the least L^2.4 error per output channel."""
        return {"scale": observers.best_channel_scale(seen.chunks[0], seen.spec.bits)}

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        """Of everything else outside the recurrence: the range that clips nothing."""
        scale, zero = range_of(*observers.ranges(seen.rows, per_step=False), seen.spec.bits)
        return {"scale": scale, "zero": zero}

    def fit_recurrence(self, seen: Seen) -> dict[str, Tensor]:
        """Of h one step for all, of A_bar and B_bar one uniform range; none clips anything."""
        if seen.tap.site == "scan.h":
            peak = torch.stack([largest_state(inputs) for inputs in seen.scans]).amax()
            return state_of(positive(peak[None] / symmetric(seen.spec.bits).high), seen.scans[0])
        low, high = discrete_range(seen)
        return {"low": low, "high": high, "power": torch.ones(1, dtype=torch.int64)}

    def build(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> Quantizer:
        """The quantizer in this state."""
        return build(tap, spec, state)


def recurrent_spec(tap: Tap, bits: Bits) -> QuantSpec:
    """Of a site inside the recurrence, which has a width of its own."""
    if tap.site == "scan.h":
        return QuantSpec(bits.recurrence, signed=True, granularity="state", narrow=False)
    return QuantSpec(bits.recurrence, signed=tap.site == "scan.B_bar", granularity="companded")


def state_of(
    scale: Tensor, inputs: ScanInputs, channel: Tensor | None = None, state: Tensor | None = None
) -> dict[str, Tensor]:
    """The state of h's quantizer; factors left out are ones."""
    channels, states = inputs.A.shape
    ones = torch.ones(channels + states)
    return {
        "scale": scale,
        "channel": ones[:channels] if channel is None else channel,
        "state": ones[channels:] if state is None else state,
    }


def largest_state(inputs: ScanInputs) -> Tensor:
    """max |h| per time step [l], over samples, channels and states."""
    h = selective_scan(inputs, keep_states=True).h
    assert h is not None
    return h.abs().amax((0, 1, 3))


def discrete_range(seen: Seen) -> tuple[Tensor, Tensor]:
    """(low, high), both [1], of A_bar, or of the size of B_bar (low 0), over all that calibration saw."""
    which = 0 if seen.tap.site == "scan.A_bar" else 1
    lows, highs = [], []
    for inputs in seen.scans:
        values = discretize(inputs)[which]
        values = values.abs() if which else values
        lows.append(values.amin())
        highs.append(values.amax())
    low = torch.stack(lows).amin()[None]
    return torch.zeros_like(low) if which else low, torch.stack(highs).amax()[None]
