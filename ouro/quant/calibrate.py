"""Calibration, block after block: fit every quantizer of a block, let its steps learn, go on with what it puts out.

Source: OuroMamba's and PTQ4VM's block-wise learning. A float chain gives every block's target; the quantized chain
gives its input, so that a block can make up for errors of those before it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.quant.apply import weights_digest
from ouro.quant.modules import WEIGHT_SITES, Quantizer
from ouro.quant.plan import Learning, Method, is_rounded, make_plan
from ouro.taps import Tap, attach, record, taps
from ouro.types import Calibration, Progress, QuantPlan, QuantSpec
from ouro.vision import VisionModel

CHUNK = 32
"""Images that pass through a block at a time; gradients of the chunks add up to those of the whole set."""

State = tuple[Any, ...]
"""What blocks hand on; the first part is the last block's own output, the rest is the model's business."""


def quantize(
    model: VisionModel,
    images: Tensor,
    *,
    method: str = "ouro",
    bits: str = "w4a4o8",
    scope: str = "lin",
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Calibration:
    """Calibrates a method on images [s 3 h w] in model space; the model itself stays as it is.

    Args:
        bits: as in "w4a4o8"; 32 leaves weights or activations in floating point, o16 outliers.
        scope: "lin" for the linear layers, "ssm" for the scan's operands as well.
        seed: for methods that draw anything; kept in the plan.
        progress: called after every block.
        options: of the method, see its class.

    Returns:
        What `ouro.quant.apply.attach_calibration` puts on this model or on a fresh one with the same weights.

    Raises:
        ValueError: unknown names, images that do not fit, or a model that is quantized already.
    """
    steps = calibrating(model, images, method=method, bits=bits, scope=scope, seed=seed, **options)
    while True:
        try:
            beat = next(steps)
        except StopIteration as end:
            return end.value
        if progress is not None:
            progress(beat)


def calibrating(
    model: VisionModel, images: Tensor, *, method: str, bits: str, scope: str, seed: int, **options: Any
) -> Generator[Progress, None, Calibration]:
    """`quantize` as a generator: one Progress per block, the Calibration at the end."""
    for path, tap in taps(model):
        if tap.quantizer is not None:
            raise ValueError(f"tap {path!r} already has a quantizer; detach(model) first")
    chosen, plan = make_plan(model, method, bits, scope, seed, options)
    check_images(images, model.info.input_size)
    work = copy.deepcopy(model).eval().requires_grad_(False)
    device = next(work.parameters()).device
    with torch.no_grad():
        exact: list[State] = [work.stem(chunk.to(device)) for chunk in images.split(CHUNK)]
    rounded = list(exact)
    state: dict[str, Mapping[str, Tensor]] = {}
    log: list[dict[str, Any]] = []
    blocks = work.blocks()
    for index, (path, block) in enumerate(blocks.items(), 1):
        exact = [_advance(block, chunk) for chunk in exact]
        sites = _sites_of(path, block, plan)
        _fit_block(chosen, block, sites, rounded)
        losses = learn(block, rounded, [chunk[0] for chunk in exact], chosen.learning) if sites else []
        rounded = [_advance(block, chunk) for chunk in rounded]
        for name, (tap, _) in sites.items():
            assert tap.quantizer is not None
            state[f"{path}.{name}"] = {key: value.detach().cpu() for key, value in tap.quantizer.state_dict().items()}
        entry = {"block": path, "losses": losses, "error": _distance(exact, rounded)}
        log.append(entry)
        yield Progress(index, len(blocks), f"{path}: cosine distance {entry['error']:.2e}", entry)
    provenance = {
        "model": model.info.name,
        "weights": weights_digest(model),
        "images": len(images),
        "requested_bits": bits,
        "blocks": log,
    }
    return Calibration(plan, state, images_digest(images), provenance)


def learn(block: nn.Module, inputs: Sequence[State], targets: Sequence[Tensor], learning: Learning) -> list[float]:
    """Lets the steps of every quantizer of a block learn, in place; returns the loss at the start and after each step.

    The loss is the mean over samples and tokens of 1 - cos(target, output); each optimizer step sees the whole set.
    What learns is the logarithm of a step size: steps stay positive, and one rate suits those of 4 and of 8 bits.
    Of all states that were seen, the one with the least loss is kept.
    """
    groups: dict[str, list[nn.Parameter]] = {"weights": [], "activations": []}
    for _, tap in taps(block):
        if tap.quantizer is not None:
            kind = "weights" if tap.site in WEIGHT_SITES else "activations"
            groups[kind] += tap.quantizer.parameters()
    steps = groups["weights"] + groups["activations"]
    if not learning.steps or not steps:
        return []
    logs = [step.detach().log() for step in steps]
    split = len(groups["weights"])
    optimizer = torch.optim.Adam(
        [{"params": logs[:split], "lr": learning.lr_weights}, {"params": logs[split:], "lr": learning.lr_activations}]
    )
    best, losses = [step.detach().clone() for step in steps], []
    for turn in range(learning.steps + 1):
        # the last turn only looks at what the last step brought
        with torch.set_grad_enabled(turn < learning.steps):
            losses.append(_pass(block, inputs, targets))
        if losses[-1] <= min(losses):
            best = [step.detach().clone() for step in steps]
        if turn < learning.steps:
            for log, step in zip(logs, steps, strict=True):
                assert step.grad is not None, "a quantizer without gradient never learns"
                log.grad, step.grad = step.grad * step.detach(), None
            nn.utils.clip_grad_norm_(logs, learning.clip)
            optimizer.step()
            _assign(steps, [log.exp() for log in logs])
    _assign(steps, best)
    return losses


def _pass(block: nn.Module, inputs: Sequence[State], targets: Sequence[Tensor]) -> float:
    """Loss over the whole set; where gradients are enabled they are left, summed over the chunks, on the parameters."""
    total, loss = sum(len(target) for target in targets), 0.0
    for state, target in zip(inputs, targets, strict=True):
        part = _cosine_distance(target, block(*state)[0]).mean() * (len(target) / total)
        loss += part.item()
        if part.requires_grad:
            part.backward()
    return loss


def _assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def check_images(images: Tensor, input_size: tuple[int, int, int]) -> None:
    """Refuses calibration images that a model cannot take.

    Raises:
        ValueError: wrong shape or type, none at all, or values that are not finite.
    """
    if tuple(images.shape[1:]) != tuple(input_size) or not len(images):
        want = ", ".join(map(str, input_size))
        raise ValueError(f"calibration images are {tuple(images.shape)}, expected (s, {want}) with s of 1 or more")
    if not images.is_floating_point():
        raise ValueError(f"calibration images are {images.dtype}, expected normalized floats; see ouro.data.normalize")
    if not images.isfinite().all():
        raise ValueError("calibration images hold NaN or infinity; was their synthesis stopped early?")


def images_digest(images: Tensor) -> str:
    """First 16 hex digits of the SHA-256 of the images: two calibrations with the same digest saw the same set."""
    return sha256(images.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _sites_of(path: str, block: nn.Module, plan: QuantPlan) -> dict[str, tuple[Tap, QuantSpec]]:
    """The block's taps that are to be rounded, by their path inside the block."""
    specs = {name: plan.sites.get(f"{path}.{name}") for name, _ in taps(block)}
    return {name: (tap, spec) for name, tap in taps(block) if (spec := specs[name]) is not None and is_rounded(spec)}


def _fit_block(
    method: Method, block: nn.Module, sites: Mapping[str, tuple[Tap, QuantSpec]], states: Sequence[State]
) -> None:
    """Fits and attaches every quantizer of a block; activations are seen with the weights rounded already."""
    weights = {name: site for name, site in sites.items() if site[0].site in WEIGHT_SITES}
    for chosen in (weights, {name: site for name, site in sites.items() if name not in weights}):
        if not chosen:
            continue
        # weights and constants are the same for every chunk
        fed = any("b" in tap.axes for tap, _ in chosen.values())
        seen: dict[str, list[Tensor]] = {name: [] for name in chosen}
        for state in states if fed else states[:1]:
            with torch.no_grad(), record(block, *chosen) as trace:
                block(*state)
            for name, (tap, _) in chosen.items():
                if "b" in tap.axes or not seen[name]:
                    seen[name].append(trace.tensors[name])
        attach(block, {name: _fitted(method, tap, spec, seen[name]) for name, (tap, spec) in chosen.items()})


def _fitted(method: Method, tap: Tap, spec: QuantSpec, chunks: Sequence[Tensor]) -> Quantizer:
    return method.build(tap, spec, method.fit(tap, spec, chunks))


def _advance(block: nn.Module, state: State) -> State:
    with torch.no_grad():
        return block(*state)


def _cosine_distance(target: Tensor, output: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(target, output, dim=-1)


def _distance(exact: Sequence[State], rounded: Sequence[State]) -> float:
    """Mean cosine distance between the first parts of two chains of states."""
    parts = [_cosine_distance(a[0], b[0]).flatten() for a, b in zip(exact, rounded, strict=True)]
    return torch.cat(parts).mean().item()
