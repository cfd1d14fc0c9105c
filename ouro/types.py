"""Frozen records that cross module boundaries; nothing else lives here, and nothing flows back.

Glossary (the papers' letters): `u` scan input, `delta` step size after softplus, `A`, `B`, `C`, `D` the
state-space matrices, `h` hidden state, `h_p` patched hidden state, `L` tokens in the scan, `N` states per
channel, `E` channels (d_inner). Axis names in shapes are lower case: b, e, l, n, c.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

CLASS_TOKEN = -1
"""In `ScanOrder.cells`: the step reads the class token."""
PADDING = -2
"""In `ScanOrder.cells`: the step reads a token that stands for no patch."""

IGNORED = 255
"""The class of a pixel that nobody knows: it is neither trained on nor scored."""
NO_CLASS = -1
"""Class of a picture that is to be of any class: a guided denoiser has learned what that means."""


@dataclass(frozen=True, slots=True)
class ScanOrder:
    """Which raster cell each scan step reads: `cells[l]` is a row-major cell of `grid`, CLASS_TOKEN or PADDING.

    `name` is for people ("forward", "columns back"); two orders that read the same are equal, whatever their names.
    """

    grid: tuple[int, int]
    cells: tuple[int, ...]
    name: str = field(default="scan", compare=False)


@dataclass(frozen=True, slots=True)
class StageInfo:
    """One resolution level of a model: `depth` blocks scan a grid of (H, W) patches in L steps, E channels, N states.

    Blocks that do not scan are not counted; a stage that only has such has depth, E and N 0.
    """

    grid: tuple[int, int]
    L: int
    N: int
    E: int
    depth: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What code outside `ouro.models` may know of a model. `cls_index` is the class token's place or None.

    data: the registered data set that it was trained on. crop_pct, interpolation: how it wants its image files.
    task: what it is for, a key of `ouro.registry.TASKS`, or of one that is not there yet.
    """

    name: str
    family: str
    stages: tuple[StageInfo, ...]
    cls_index: int | None
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    class_names: tuple[str, ...] = ()
    data: str = ""
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    task: str = "classification"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from; a name alone is a source, too (see `ouro.jobs.inputs.source_of`).

    name: a registered name, or the path of a quantized file where a job takes one.
    weights: whatever `load_checkpoint` takes (a file, a URL, a hub file); "" for the published or embedded weights.
    config: what differs from the registered variant, and from what the weights themselves say: ("image", 96).
    class_names: of the classes in the order of the head; () for those that the registered variant knows.
    """

    name: str
    weights: str = ""
    config: tuple[tuple[str, Any], ...] = ()
    class_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class DataSource:
    """Which images; `ouro.data.source.parse` reads one from "folder:PATH:128", "real:64", "noise:32", a path...

    kind: "noise", "synthetic", "file" (a stored set) or a registered data set; "" is the one a model was trained on.
    argument: what the kind needs (a path). count: so many images; None for all, or for what a job takes by itself.
    """

    kind: str
    argument: str = ""
    count: int | None = None


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """Where a model's weights came from.

    source: path, URL or hub file. container: under which key of the file they were, "" for the file itself.
    revision: the commit of a hub file, the start of the SHA-256 of any other, "" for a state dict.
    digest: the start of the SHA-256 of the content, whatever it came from. fresh: keys that it had no weights for, and
    that are still as they were drawn (a head for other classes).
    """

    source: str
    container: str
    revision: str
    digest: str = ""
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScanInputs:
    """Operands of one selective scan: u, delta [b e l]; A [e n]; B, C [b n l] or grouped [b g n l]; D [e] or None."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StateQuantizer:
    """Symmetric rounding of h inside the recurrence: the stored state is Q(h), y_l still reads the unrounded h_l.

    The step of h[b, e, l, n] is step[l] * channel[e] * state[n] (arXiv 2501.16738: r_L, r_C, r_D folded into it).
    step is [l] or [1]; channel [e] and state [n] default to ones.
    """

    step: Tensor
    bits: int
    channel: Tensor | None = None
    state: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Companding:
    """Rounding on a grid that is dense at one end; `ouro.scan.companding.compand` applies it.

    Unsigned, codes start at `high` and x is rounded where ((high - x) / (high - low))^(1/power) is uniform; signed,
    they start at zero and x is rounded where (|x| / high)^(1/power) is, `low` aside. power 1 is the uniform grid.
    low and high are [n], or [1] for all states; power is 1 to 4.
    """

    bits: int
    low: Tensor
    high: Tensor
    power: int = 1
    signed: bool = False


@dataclass(frozen=True, slots=True)
class ScanRounding:
    """What is rounded inside the recurrence: the state as it is carried on, A_bar = exp(delta A), B_bar = delta B."""

    h: StateQuantizer | None = None
    A_bar: Companding | None = None
    B_bar: Companding | None = None


@dataclass(frozen=True, slots=True)
class PatchWindow:
    """The neighbourhood of h_p: a `size` x `size` window (odd) on the order's grid; weights [b l] per scan step."""

    size: int
    weights: Tensor
    order: ScanOrder


@dataclass(frozen=True, slots=True)
class ScanOutput:
    """y [b e l]; h [b e l n] when states were kept; y_p [b e p] in raster order when a window was asked for."""

    y: Tensor
    h: Tensor | None = None
    y_p: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ScanRecord:
    """One traced scan: the operands it really ran on, its output and the order that leads back to the image."""

    path: str
    inputs: ScanInputs
    y: Tensor
    order: ScanOrder
    h: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """What `record` saw: tap path -> tensor of the latest forward, and one ScanRecord per completely traced scan."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    scans: Sequence[ScanRecord] = ()


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """A map over the image: weights [b h w], the reduction that made it, and where it was read."""

    weights: Tensor
    grid: tuple[int, int]
    reduction: str
    path: str
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Images in model space [b 3 h w] that a model learns from, and their targets [b ...].

    others, share: of mixed images the labels count `share` [], those of the other image the rest; see
        `ouro.data.augment.Mixed`. A recipe that mixes has them in every batch.
    conditions: what the model is given beside the images, each [b ...].
    """

    inputs: Tensor
    labels: Tensor
    others: Tensor | None = None
    share: Tensor | None = None
    conditions: tuple[Tensor, ...] = ()

    def main_labels(self) -> Tensor:
        """Of every image, the label that counts more [b]."""
        if self.others is None or self.share is None:
            return self.labels
        return self.labels.where(self.share >= 0.5, self.others)

    def tensors(self) -> list[Tensor]:
        """All that the batch consists of."""
        mixed = [value for value in (self.others, self.share) if value is not None]
        return [self.inputs, self.labels, *mixed, *self.conditions]

    def copied(self) -> Batch:
        """The same in memory of its own."""
        others, share = (None if value is None else value.clone() for value in (self.others, self.share))
        conditions = tuple(value.clone() for value in self.conditions)
        return Batch(self.inputs.clone(), self.labels.clone(), others, share, conditions)


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Images in model space [s 3 h w], their target labels [s], and what made them.

    conditions: what the model is given beside the images, each [s]: of a denoiser their diffusion times and classes.
    """

    images: Tensor
    labels: Tensor | None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    conditions: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How one tap is quantized; `bits` 32 leaves it in floating point.

    granularity: "tensor"; "channel" (per output channel of a weight); "step" (per time step); "token" (dynamic, per
    sample and step); "step clusters" and "channel clusters" (steps or channels share a few scales); "learned rounding"
    (per output channel, and up or down per element); "state" and "companded" (inside the recurrence).
    outlier_bits: None for no outlier rule, 16 for outliers left in floating point.
    narrow: a signed grid without the code -2^(bits-1). rotate: rounded in the basis of a Hadamard matrix.
    channels: (channel, bits) of channels of an activation that are rounded apart, see `ouro.quant.quantizer.Quantizer`;
        32 leaves one in floating point.
    """

    bits: int
    signed: bool = True
    granularity: str = "tensor"
    outlier_bits: int | None = None
    narrow: bool = True
    rotate: bool = False
    channels: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """Tap path -> QuantSpec, with the method that fills in the scales and the options it was given."""

    method: str
    bits: str
    scope: str
    seed: int
    sites: Mapping[str, QuantSpec] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A plan with its parameters: `state` is tap path -> {name: tensor}, enough to attach to a fresh model."""

    plan: QuantPlan
    state: Mapping[str, Mapping[str, Tensor]]
    set_digest: str
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Where and with what a number was made."""

    device: str
    versions: Mapping[str, str]
    commit: str
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """One progress update of a job: step of total, a word on what is done now, and small data for a live display."""

    step: int
    total: int
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What a job ends in: `values` is the stable JSON object of the command line, `arrays` are kept beside it."""

    kind: str
    values: Mapping[str, Any]
    run: RunInfo
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
