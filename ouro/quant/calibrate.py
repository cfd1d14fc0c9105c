"""Calibration, section after section: fit every quantizer, let it learn, go on with what it puts out.

Source: OuroMamba's and PTQ4VM's block-wise learning. A float chain gives every block's target; the quantized chain
gives its input, so that a block can make up for errors of those before it. Only one section's tensors are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from ouro.progress import drive
from ouro.quant.apply import weights_digest
from ouro.quant.learning import Run, State, distance, learn
from ouro.quant.method import Block, Method, Seen
from ouro.quant.plan import make_plan
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES, Quantizer, channel_axis
from ouro.quant.sections import Looker, Section, chunked, literal, sections
from ouro.taps import Tap, record, taps
from ouro.types import Calibration, ModelInfo, Progress, QuantPlan, QuantSpec, ScanInputs
from ouro.vision import VisionModel

_FAR = 8
"""Times as bright as white: floats without a negative one that get there are pixels of 0 to 255 that nobody normalized."""
CHUNK = 32
"""Images that pass through a block at a time; gradients of the chunks add up to those of the whole set."""


@torch.inference_mode(False)
def quantize(
    model: VisionModel,
    images: Tensor,
    *,
    conditions: Sequence[Tensor] = (),
    method: str = "ouro",
    bits: str = "w4a4o8",
    scope: str = "lin",
    seed: int = 0,
    site_bits: Mapping[str, int] | None = None,
    channels: Mapping[str, Mapping[int, int]] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Calibration:
    """Calibrates a method on images [s 3 h w] in model space; the model itself stays as it is.

    Gradients are its own business: it learns under `torch.no_grad` and in inference mode as well.

    Args:
        conditions: what the model is given beside the images, each [s]: see `ouro.types.CalibrationSet`.
        bits: as in "w4a4o8h8"; 32 leaves weights or activations in floating point, o16 outliers.
        scope: "lin" for the linear layers, "ssm" for the scan's operands as well, "rec" for what lives inside the
            recurrence, "full" for everything.
        seed: for methods that draw anything; kept in the plan.
        site_bits: tap path -> width of single sites, for mixed precision.
        channels: tap path -> {channel: width} of channels of an activation that are rounded apart from the others.
        progress: called after every section.
        options: of the method, see its class.

    Returns:
        What `ouro.quant.apply.attach_calibration` puts on this model or on a fresh one with the same weights.

    Raises:
        ValueError: unknown names, images that do not fit, a model that is quantized already, a channel that is not there,
            or a tensor that is not finite; the message names its site.
    """
    # what was made in inference mode takes no part in a gradient
    images, *conditions = (
        x.clone() if isinstance(x, Tensor) and x.is_inference() else x for x in (images, *conditions)
    )
    steps = calibrating(
        model, images, conditions=conditions, method=method, bits=bits, scope=scope, seed=seed, site_bits=site_bits,
        channels=channels, **options,
    )  # fmt: skip
    return drive(steps, progress or (lambda _: None))


def calibrating(
    model: VisionModel,
    images: Tensor,
    *,
    conditions: Sequence[Tensor] = (),
    method: str,
    bits: str,
    scope: str,
    seed: int,
    site_bits: Mapping[str, int] | None = None,
    channels: Mapping[str, Mapping[int, int]] | None = None,
    **options: Any,
) -> Generator[Progress, None, Calibration]:
    """`quantize` as a generator: one Progress per section, the Calibration at the end."""
    for path, tap in taps(model):
        if tap.quantizer is not None:
            raise ValueError(f"tap {path!r} already has a quantizer; detach(model) first")
    chosen, plan = make_plan(model, method, bits, scope, seed, options, site_bits, channels)
    check_images(images, model.info)
    model.check_precision("calibration")
    images = images.to(model.weights_dtype)
    work = copy.deepcopy(model).eval().requires_grad_(False)
    device = work.device
    exact: list[State] = chunked(CHUNK, images, *conditions, device=device)
    check_channels(work, plan, *(given[:1] for given in exact[0]))
    rounded = list(exact)
    state: dict[str, Mapping[str, Tensor]] = {}
    log: list[dict[str, Any]] = []
    parts = sections(work, plan, *(given[:1] for given in exact[0]))
    reported = [part for part in parts if part.name not in ("stem", "head") or part.sites]
    for number, part in enumerate(parts):
        exact = [_advance(part.run, chunk) for chunk in exact]
        losses: dict[str, list[float]] = {}
        if part.sites:
            losses = _calibrate(chosen, work, part, rounded, [chunk[0] for chunk in exact], (seed, number))
        rounded = [_advance(part.run, chunk) for chunk in rounded]
        for path, (tap, _) in part.sites.items():
            assert tap.quantizer is not None
            state[path] = {key: _stored(value) for key, value in tap.quantizer.state_dict().items()}
        if part in reported:
            entry = {"block": part.name, "losses": losses.get("all", []), "error": _distance(exact, rounded)}
            entry |= {"losses_weights": losses["weights"]} if losses.get("weights") else {}
            log.append(entry)
            yield Progress(len(log), len(reported), f"{part.name}: cosine distance {entry['error']:.2e}", entry)
    provenance = {
        "model": model.info.name,
        "weights": weights_digest(model),
        "images": len(images),
        "requested_bits": bits,
        "blocks": log,
    }
    return Calibration(plan, state, images_digest(images, *conditions), provenance)


def check_images(images: Tensor, info: ModelInfo) -> None:
    """Refuses calibration images that a model cannot take.

    Raises:
        ValueError: wrong shape or type, none at all, values that are not finite, or pixels.
    """
    want = ", ".join(map(str, info.input_size))
    if not isinstance(images, Tensor):
        raise ValueError(
            f"calibration images are a {type(images).__name__}, expected a tensor (s, {want}); of a set give its .images, "
            "of batches torch.cat(...)"
        )
    if tuple(images.shape[1:]) != tuple(info.input_size) or not len(images):
        raise ValueError(f"calibration images are {tuple(images.shape)}, expected (s, {want}) with s of 1 or more")
    if not images.is_floating_point():
        raise ValueError(f"calibration images are {images.dtype}, expected normalized floats; see ouro.data.normalize")
    if not images.isfinite().all():
        raise ValueError("calibration images hold NaN or infinity; was their synthesis stopped early?")
    white = max((1 - mean) / std for mean, std in zip(info.mean, info.std, strict=True))
    if images.amin() >= 0 and images.amax() > _FAR * white:
        raise ValueError(
            f"calibration images reach from {images.amin():g} to {images.amax():g} and look like pixels, white is "
            f"{white:.3g} for {info.name}; give them as uint8 to ouro.data.normalize"
        )


def check_channels(model: VisionModel, plan: QuantPlan, *inputs: Tensor) -> None:
    """Refuses a plan that keeps channels apart that a tensor does not have; `inputs` are one image, for a look.

    Raises:
        ValueError: the message names the site and the channel.
    """
    chosen = {path: max(spec.channels)[0] for path, spec in plan.sites.items() if spec.channels}
    if not chosen:
        return
    with torch.no_grad(), record(model, *map(literal, chosen)) as trace:
        model(*(given.to(model.device) for given in inputs))
    for path, tap in taps(model):
        if path in chosen and chosen[path] >= (size := trace.tensors[path].shape[channel_axis(tap.axes)]):
            raise ValueError(f"{path!r} has channels 0 to {size - 1}, channel {chosen[path]} is to be kept")


def images_digest(images: Tensor, *conditions: Tensor) -> str:
    """First 16 hex digits of the SHA-256 of a set: two calibrations with the same digest saw the same set."""
    digest = sha256()
    for tensor in (images, *conditions):
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _calibrate(
    method: Method, model: nn.Module, part: Section, states: Sequence[State], targets: Sequence[Tensor],
    seed: tuple[int, ...],
) -> dict[str, list[float]]:  # fmt: skip
    """Fits and attaches every quantizer of a section and lets it learn: weights, activations, the recurrence.

    Each kind is seen with the ones before it rounded already. Returns the losses of both rounds of learning.
    """
    look = Looker(model, part, states)
    weights = {path: site for path, site in part.sites.items() if site[0].site in WEIGHT_SITES}
    inside = {path: site for path, site in part.sites.items() if site[0].site in RECURRENT_SITES}
    around = {path: site for path, site in part.sites.items() if path not in weights and path not in inside}
    # matrices only: a convolution's weight meets its input at several places
    layers = {
        path: weight
        for path in around
        if (weight := _weight_of(path)) in weights and weights[weight][0].axes == ("o", "c")
    }
    inputs = {weight: path for path, weight in layers.items()}
    seen: dict[str, list[Tensor]] = {}

    def input_of(path: str) -> list[Tensor]:
        # all of the section at once, when one is asked for
        seen.update({} if seen else look.at(list(layers)))
        return seen[path]

    def rest_of(path: str) -> list[Tensor]:
        frame = Quantizer(*part.sites[path], {})
        return [frame.rest(chunk) for chunk in input_of(path)]

    bases = method.bases(Block(layers, look.scan_paths(), rest_of, look.constant, look.scans))
    for path, (tap, spec) in weights.items():
        partner = input_of(inputs[path]) if method.looks_at_inputs and path in inputs else ()
        _fit(method, path, tap, spec, [look.constant(path)], bases, partner=partner)
    losses = {"weights": learn(part.run, _taps(weights), states, targets, method.learning_weights, (*seed, 0))}
    # what one look brought is dropped before the next one
    seen.clear()
    seen.update(look.at(list(around)))
    for path, (tap, spec) in around.items():
        _fit(method, path, tap, spec, seen.pop(path), bases)
    for path, weight in layers.items():
        _share_basis(part.sites[path][0], part.sites[weight][0])
    for path, (tap, spec) in inside.items():
        _fit(method, path, tap, spec, [], bases, scans=look.scans(path.rpartition(".")[0]))
    losses["all"] = learn(part.run, _taps(part.sites), states, targets, method.learning, (*seed, 1))
    return losses


def _fit(
    method: Method, path: str, tap: Tap, spec: QuantSpec, chunks: Sequence[Tensor], bases: Mapping[str, Tensor],
    *, partner: Sequence[Tensor] = (), scans: Sequence[ScanInputs] = (),
) -> None:  # fmt: skip
    """Fits one quantizer, in its basis, and attaches it."""
    basis = {"smooth": bases[path]} if path in bases else {}
    # nothing but the way into the basis is needed of it, and what it keeps apart
    frame = Quantizer(tap, spec, basis)
    tensors = [*chunks, *(tensor for scan in scans for tensor in (scan.u, scan.delta, scan.B))]
    for tensor in tensors:
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: calibration images bring NaN or infinity here; is the model's weight damaged?")
    with torch.no_grad():
        inner = [frame.inside(frame.rest(chunk)) for chunk in chunks]
        state = method.fit(Seen(path, tap, spec, inner, partner, scans))
        kept = frame.kept_steps(chunks)
    # what a method makes up rather than fits is made on the CPU
    tap.quantizer = method.build(tap, spec, {**basis, **state, **kept}).to(tensors[0].device)


def _stored(value: Tensor) -> Tensor:
    """As files have it: of a model in float64 the steps are float32, too."""
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _weight_of(path: str) -> str:
    """The tap of the weight that an input meets: layers call them tap_in and tap_w."""
    layer, _, name = path.rpartition(".")
    return f"{layer}.tap_w" if name == "tap_in" else ""


def _share_basis(inner: Tap, weight: Tap) -> None:
    """One smoothing factor for an input and its weight: what one learns the other knows."""
    if isinstance(inner.quantizer, Quantizer) and hasattr(inner.quantizer, "smooth"):
        assert isinstance(weight.quantizer, Quantizer)
        weight.quantizer.smooth = inner.quantizer.smooth


def _taps(sites: Mapping[str, tuple[Tap, QuantSpec]]) -> dict[str, Tap]:
    return {path: tap for path, (tap, _) in sites.items()}


def _advance(run: Run, state: State) -> State:
    with torch.no_grad():
        return run(*state)


def _distance(exact: Sequence[State], rounded: Sequence[State]) -> float:
    """Mean cosine distance between the first parts of two chains of states."""
    parts = [distance(a[0], b[0]).flatten() for a, b in zip(exact, rounded, strict=True)]
    return torch.cat(parts).mean().item()
