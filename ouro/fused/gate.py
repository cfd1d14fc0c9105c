"""Whether a fused model puts out what the one it was made from does: the same check for tests and before every benchmark.

`python -m ouro.fused.gate MODEL [FORMAT ...]` writes one JSON line per format for a tiny variant of the model, in Triton's
interpreter where TRITON_INTERPRET=1 is set.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ouro.data.source import has_own_images, open_data, own_images
from ouro.fused.model import FusedModel, fuse
from ouro.kernels.launch import interpreted
from ouro.models import create_model, variant
from ouro.quant import attach_calibration, quantize
from ouro.streams import drawing, generator
from ouro.tasks import task_of
from ouro.vision import VisionModel

SEEN = 32
"""Images that a format is calibrated on."""
CHUNK = 64
"""Images that pass at once."""
EXACT = 2e-3
"""How far a block in float32 may be from the simulated one, given the same: where a float lies beside the border of two
codes, the order of a sum decides about the code. Through the blocks behind it such a code grows, with any arithmetic."""
CHANCE = 1e-3
"""A gate fails where the images whose top-1 is lost outnumber those that are won by more than happens so seldom."""
TRAINED = ("vim_nano", "vim_micro_cifar10")
"""Models that judge a format on their own held-out images: what a code on the other side of a border is worth to random
weights is a coin."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a model is fused. bits: of a calibration, None for floating point; dtype: of activations."""

    name: str
    dtype: torch.dtype
    bits: str | None = None
    outliers: str = "exact"


FORMATS = {
    one.name: one
    for one in (
        Format("fp32", torch.float32),
        Format("fp16", torch.float16),
        Format("bf16", torch.bfloat16),
        Format("w8a8", torch.float16, "w8a8"),
        Format("w4a8", torch.float16, "w4a8"),
        Format("w4a4o8", torch.float16, "w4a4o8"),
    )
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's measurements over so many images. Distances of logits are parts of their root mean square.

    error, agreement: distance from the simulated model, and the share of images with the same top-1. In half precision a
        part of all codes falls on the other side of a border; the next seven say what that is worth.
    off, top1: distance from the float model, and the share with its top-1. yardstick, yardstick_top1: the same of the
        simulated model, or, where nothing is rounded to codes, of the float model with its layers' inputs in `dtype`.
    lost, won: images on which only the yardstick, or only the fused model, has the float model's top-1.
    chance: how often so many or more of both are lost where neither is better (McNemar's exact test, one-sided).
    exact: largest distance of a block's output, by the same kernels in float32 and over the first images, from that of
        the simulated block, given the same.
    """

    format: str
    images: int
    error: float
    agreement: float
    off: float
    top1: float
    yardstick: float
    yardstick_top1: float
    lost: int
    won: int
    chance: float
    exact: float
    passed: bool
    complaint: str | None


def calibrated(model: VisionModel, format: Format, images: Tensor) -> VisionModel:
    """A copy of the model, simulating the format: in_proj and out_proj rounded by OuroMamba-Quant, without learning.

    x_proj and dt_proj, a twelfth of the products, stay in floating point: for them making codes costs more than it saves.
    """
    copied = copy.deepcopy(model)
    if format.bits is None:
        return copied
    narrow = {
        f"{path}.{tap}": 32
        for path, module in model.named_modules()
        if path.endswith((".x_proj", ".dt_proj")) and isinstance(module, nn.Linear)
        for tap in ("tap_in", "tap_w")
    }
    settings: dict[str, Any] = {"steps_per_block": 0, "candidates": 10}
    calibration = quantize(model, images, method="ouro", bits=format.bits, site_bits=narrow, **settings)
    return attach_calibration(copied, calibration)


def fused_of(simulated: VisionModel, format: Format, backend: str = "triton") -> FusedModel:
    """The model on kernels in this format."""
    return fuse(simulated, format.dtype, outliers=format.outliers, backend=backend)


@torch.no_grad()
def check(model: VisionModel, simulated: VisionModel, fused: FusedModel, format: Format, images: Tensor) -> Verdict:
    """Compares a fused model with the one it was made from, and both with the model in floating point."""
    images = images.to(simulated.device)
    few = images[:CHUNK]
    precise = fused if format.dtype == torch.float32 else fused_of(simulated, _in_float32(format), fused.backend)
    exact = _worst_block(simulated, precise, few)
    truth, wanted, logits = (_logits(run, images) for run in (model, simulated, fused))
    yardstick = _rounded(model, format.dtype, images) if format.bits is None else wanted
    task = task_of(model)
    off, allowed = _distance(logits, truth), _distance(yardstick, truth)
    ours, theirs = (task.agreement(truth, outputs) for outputs in (logits, yardstick))
    lost, won = int((theirs > ours).sum()), int((ours > theirs).sum())
    chance = mcnemar(lost, won)
    limit = _limit(format, allowed, len(images))
    complaints = []
    if not exact <= EXACT:
        complaints.append(
            f"in float32 a block's output is {exact:.3g} of its size away from the simulation, at most {EXACT} expected"
        )
    if not off <= limit:
        complaints.append(
            f"logits are {off:.3g} of their size away from the float model's, at most {limit:.3g} expected"
        )
    if not chance >= CHANCE:
        complaints.append(
            f"the float model's top-1 is lost on {lost} images and won on {won}, which has a chance of {chance:.1g} where "
            f"nothing is worse, at least {CHANCE:g} expected"
        )
    why = "; ".join(complaints) or None
    error, agreement = _distance(logits, wanted), task.agreement(wanted, logits).mean().item()
    return Verdict(
        format.name, len(images), error, agreement, off, ours.mean().item(), allowed, theirs.mean().item(), lost, won,
        chance, exact, passed=why is None, complaint=why,
    )  # fmt: skip


def mcnemar(lost: int, won: int) -> float:
    """The chance of at least so many lost ones among lost + won, where each falls on either side alike (McNemar 1947)."""
    n = lost + won
    return sum(math.comb(n, k) for k in range(lost, n + 1)) / 2**n


def held_out(model: VisionModel, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(images that a calibration may see, at most `count` that it may not), on the model's device.

    Those of the set that a model was trained on, or noise where that set does not come along.
    """
    if has_own_images(model.info):
        seen, unseen = (
            own_images(model.info, split, min(number, len(open_data("", split, model.info))))
            for split, number in (("calib", SEEN), ("test", count))
        )
        return seen.to(model.device), unseen.to(model.device)
    return noise_images(model, SEEN, seed + 1), noise_images(model, count, seed)


def tiny(name: str, seed: int = 0) -> VisionModel:
    """A variant of a Vim for the interpreter: two blocks of 20 channels over 4 x 4 patches and a class token.

    Raises:
        ValueError: no such model, or none with patches and a depth.
    """
    config = variant(name).config
    if not all(hasattr(config, field) for field in ("patch", "stride", "depth", "width")):
        raise ValueError(f"{name} cannot be fused, it is no Vim")
    with drawing(seed):
        model = create_model(name, width=20, depth=2, image=config.patch + 3 * config.stride)
        with torch.no_grad():
            model.get_parameter("head.weight").normal_(std=0.5)
            # activations that have outliers
            for path in model.blocks():
                model.get_parameter(f"{path}.norm.weight")[:2] *= 12
    return model


def noise_images(model: VisionModel, count: int, seed: int = 0) -> Tensor:
    """Normal noise in the model's own size, on its device."""
    return torch.randn(count, *model.info.input_size, generator=generator(seed)).to(model.device)


def _logits(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([model(chunk).float() for chunk in images.split(CHUNK)])


def _rounded(model: VisionModel, dtype: torch.dtype, images: Tensor) -> Tensor:
    """Logits with what every layer of every block reads rounded to a dtype."""

    def narrow(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.to(dtype).to(x.dtype) for x in inputs)

    layers = [m for block in model.blocks().values() for m in block.modules() if isinstance(m, (nn.Linear, nn.Conv1d))]
    handles = [layer.register_forward_pre_hook(narrow) for layer in layers]
    try:
        return _logits(model, images)
    finally:
        for handle in handles:
            handle.remove()


def _worst_block(simulated: VisionModel, fused: FusedModel, images: Tensor) -> float:
    state, worst = simulated.stem(images), 0.0
    for path, block in simulated.blocks().items():
        wanted, outputs = block(*state), fused.blocks()[path](*state)
        worst = max(worst, _distance(outputs[0], wanted[0]))
        state = wanted
    return worst


def _limit(format: Format, yardstick: float, images: int) -> float:
    """How far logits may be from the float model's, where those of the yardstick are so far away.

    Kernels round more than the inputs of layers. Codes on the other side of a border are as good as the others, but
    over a few images that is left to chance.
    """
    factor = 4.0 if format.bits is None else 1.1 + images**-0.5
    return factor * yardstick + max(1e-4, 2 * torch.finfo(format.dtype).eps)


def _in_float32(format: Format) -> Format:
    return replace(format, dtype=torch.float32)


def _distance(outputs: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, as a part of what is wanted."""
    return ((outputs - wanted).double().square().mean() / wanted.double().square().mean()).sqrt().item()


def main(arguments: Sequence[str]) -> None:
    """Writes a line per format."""
    name, *names = arguments
    # what hardware does with infinities and NaN in silence, numpy mentions
    warnings.simplefilter("ignore", RuntimeWarning)
    model = tiny(name).to("cpu" if interpreted() else "cuda")
    for format in (FORMATS[chosen] for chosen in names or FORMATS):
        simulated = calibrated(model, format, noise_images(model, 8, seed=1))
        verdict = check(model, simulated, fused_of(simulated, format), format, noise_images(model, 4))
        sys.stdout.write(json.dumps(asdict(verdict)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
