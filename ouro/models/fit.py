"""A checkpoint goes into a model: renamed, resized to its grid, and verified tensor by tensor before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ouro.models.checkpoint import Checkpoint, Rename, Source, few, read_checkpoint
from ouro.models.family import Family
from ouro.models.identify import family_of, identify, shapes_of
from ouro.models.position import resize_pos_embed
from ouro.types import WeightsSource

HEADS = ("strict", "fresh")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """How the tensors of a checkpoint meet those of a model.

    state: our key -> tensor of the file. missing: keys of the model that the file does not have; unexpected: tensors of
    the file that the model does not have; reshaped: keys with another shape. position: why the position embedding
    cannot be resized, "" where it can be or need not.
    """

    state: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    position: str

    def fresh(self, model: Family) -> tuple[str, ...]:
        """Keys of the head that a model keeps as they are, if it takes all the rest: none or the whole head."""
        misfits = {*self.missing, *(key for key in self.reshaped if key.startswith(model.answers))}
        if not any(key.startswith(model.answers) for key in misfits):
            return ()
        return tuple(
            key
            for key in model.state_dict()
            if key.startswith(model.answers) or (key in self.missing and key.startswith(model.classifier))
        )


def load_checkpoint(
    model: Family,
    source: Source,
    *,
    container: str | None = None,
    head: str = "strict",
    rename: Rename | None = None,
    grid: tuple[int, int] | None = None,
) -> Family:
    """Loads official or our own weights into `model`, in place, and returns it; `model.loaded_from` says what was taken.

    A position embedding of another grid is interpolated. Half, bfloat16 and double become float32.

    Args:
        source: a file, a URL, a hub file, a state dict or a `Checkpoint`; this, `container`, `rename` and `grid` as
            `read_checkpoint` takes them.
        head: "strict" wants every tensor of the model to be there, and no other. "fresh" leaves the head as it is where
            the file has none, or one for other classes; `model.loaded_from.fresh` lists its keys.

    Raises:
        ValueError: unreadable, hostile or truncated file, or weights that do not fit; the message says what does not, and
            what to do. The model is untouched then.
    """
    if head not in HEADS:
        raise ValueError(f"head is {head!r}, expected one of {', '.join(HEADS)}")
    checkpoint = read_checkpoint(source, container=container, rename=rename, grid=grid)
    matched = verified(model, checkpoint, head)
    fresh = matched.fresh(model) if head == "fresh" else ()
    own = model.state_dict()
    model.load_state_dict({key: value if key in fresh else matched.state[key] for key, value in own.items()})
    model.loaded_from = WeightsSource(
        checkpoint.source, checkpoint.container, checkpoint.revision, checkpoint.digest, fresh
    )
    where = checkpoint.container or "no container"
    _log.info("%s: weights of %s, %s, revision %s", model.info.name, checkpoint.label, where, checkpoint.revision)
    if checkpoint.all and not model.whole:
        _log.info("%s: of a larger model only the backbone is taken", checkpoint.label)
    if fresh:
        _log.warning(
            "%s: %s has no head for %d classes; it starts untrained (%s)",
            model.info.name, checkpoint.label, model.info.num_classes, ", ".join(fresh),
        )  # fmt: skip
    return model


def verified(model: Family, checkpoint: Checkpoint, head: str = "strict") -> Match:
    """How the tensors meet those of the model, which may be on the meta device; see `load_checkpoint`.

    Raises:
        ValueError: they do not fit, or are no numbers.
    """
    matched = match(model, checkpoint)
    if why := misfit(model, checkpoint, matched, head):
        raise ValueError(why)
    return matched


def match(model: Family, checkpoint: Checkpoint) -> Match:
    """Brings the tensors under the model's own keys; the model may be one on the meta device."""
    wanted, given = model.state_dict(), dict(checkpoint.tensors(model.whole))
    # ours already, or official names to be translated
    state = model.from_official(given) if any(key not in given for key in wanted) else given
    try:
        state, position = _on_grid(state, model, checkpoint), ""
    except ValueError as error:
        position = str(error)
    return Match(
        state,
        missing=tuple(key for key in wanted if key not in state),
        unexpected=tuple(key for key in state if key not in wanted),
        reshaped=tuple(key for key in wanted if key in state and state[key].shape != wanted[key].shape),
        position=position,
    )


def misfit(model: Family, checkpoint: Checkpoint, matched: Match, head: str = "strict") -> str:
    """In one line why the tensors do not fit and what to do, "" where they do: keys first, then shapes, then values."""
    start = f"{checkpoint.label} does not fit {model.info.name}: "
    fresh = matched.fresh(model) if head == "fresh" else ()
    missing = [key for key in matched.missing if key not in fresh]
    unexpected = [key for key in matched.unexpected if not (fresh and key.startswith(model.answers))]
    reshaped = [key for key in matched.reshaped if key not in fresh]
    if not (missing or unexpected or reshaped):
        return _flaw(model, checkpoint, matched, head)
    if missing or unexpected:
        why = _other_model(model, checkpoint) or _no_head(model, missing, unexpected)
        return start + (why or _wrong_keys(model, checkpoint, missing, unexpected))
    if reshaped == ["pos_embed"] and matched.position:
        return start + matched.position
    foreign = type(model).foreign(shapes_of(type(model), checkpoint))
    return start + (_foreign(foreign) or _wrong_shapes(model, checkpoint, matched, reshaped))


def _on_grid(state: dict[str, Tensor], model: Family, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Interpolates the position embedding when only the grid differs."""
    wanted, given = model.state_dict().get("pos_embed"), state.get("pos_embed")
    if wanted is None or given is None or given.dim() != 3 or given.shape[2] != wanted.shape[2]:
        return state
    grid = model.info.stages[0].grid
    if given.shape[1] == wanted.shape[1] and checkpoint.grid in (None, grid):
        return state
    index = None if model.info.cls_index is None else (given.shape[1] - 1) // 2
    resized = resize_pos_embed(given, index, grid, checkpoint.grid)
    _log.info("%s: position embedding of %d tokens interpolated to %s", checkpoint.label, given.shape[1], grid)
    return state | {"pos_embed": resized}


def _other_model(model: Family, checkpoint: Checkpoint) -> str:
    """Another family, or a model of this one that cannot be run."""
    own, family = type(model), family_of(checkpoint)
    if family is not None and family is not own:
        return (
            f"it looks like a {family.__name__}, {model.info.name} is a {own.__name__}; use a name of that family, such "
            f"as {identify(checkpoint)}"
        )
    return _foreign(own.foreign(shapes_of(own, checkpoint)))


def _foreign(what: str) -> str:
    return f"it has {what}, the official models do not; use a checkpoint of one of them" if what else ""


def _no_head(model: Family, missing: list[str], unexpected: list[str]) -> str:
    """A backbone: all is there but what a classifier has on top."""
    heads = [key for key in missing if key.startswith(model.answers)]
    if not heads or unexpected or not all(key.startswith(model.classifier) for key in missing):
        return ""
    return (
        f"it has no head, {few(map(repr, missing))} are missing; load the rest by head='fresh', or give create_model "
        "num_classes"
    )


def _wrong_keys(model: Family, checkpoint: Checkpoint, missing: list[str], unexpected: list[str]) -> str:
    counts = f"{len(missing)} keys missing, {len(unexpected)} unexpected"
    if not missing:
        there = checkpoint.tensors(model.whole)
        shape = tuple(there[unexpected[0]].shape) if unexpected[0] in there else "another shape"
        return (
            f"{unexpected[0]!r} of {shape} is not of this model ({counts}); was it made for another family or depth, or "
            "is a wrapper in front of the names (rename)?"
        )
    key = missing[0]
    official = model.official(key).key
    if kind := next((checkpoint.others[name] for name in (key, official) if name in checkpoint.others), None):
        return f"{official!r} is there as {kind}, not as a tensor; save the state dict again"
    other = "" if official == key else f", officially {official!r},"
    first = f"{key!r} of {tuple(model.state_dict()[key].shape)}{other} is missing"
    leaves = {name.rpartition("scans.")[2].partition(".")[2] or name for name in missing}
    if len(missing) > 1 and len(leaves) == 1 and not unexpected:
        return f"all its {leaves.pop()} are missing, first {first} ({counts}); save the whole state dict again"
    return f"{first} ({counts}); was it made for another family or depth?"


def _wrong_shapes(model: Family, checkpoint: Checkpoint, matched: Match, reshaped: list[str]) -> str:
    key, wanted = reshaped[0], model.state_dict()
    there, own = tuple(matched.state[key].shape), tuple(wanted[key].shape)
    first = f"{key!r} is {there}{_origin(key, checkpoint, model)}, the model has {own} ({len(reshaped)} shapes differ)"
    if there and all(name.startswith(model.answers) for name in reshaped) and model.info.num_classes:
        return (
            f"{first}: it has {there[0]} classes, the model {own[0]}; build the model with "
            f"num_classes={there[0]}, or load all but the head by head='fresh'"
        )
    try:
        read = type(model).config_from(shapes_of(type(model), checkpoint), model.config)
    except ValueError as error:
        return f"{first}; {error}"
    # the image is no reason: a position embedding is resized to it
    names = [field.name for field in fields(read) if field.name not in ("image", "class_names")]
    changes = {name: getattr(read, name) for name in names if getattr(read, name) != getattr(model.config, name)}
    if not changes:
        return f"{first}; was it made for another size or number of classes?"
    values = ", ".join(f"{name}={value!r}" for name, value in changes.items())
    return f"{first}; it was made with {values}: build the model so, or leave it to create_model(name, pretrained=...)"


def _flaw(model: Family, checkpoint: Checkpoint, matched: Match, head: str) -> str:
    """The first tensor that is no float32 number throughout: whole numbers, NaN, infinity."""
    fresh = matched.fresh(model) if head == "fresh" else ()
    for key, own in model.state_dict().items():
        if key in fresh or not own.is_floating_point():
            continue
        value, where = matched.state[key], f"{checkpoint.label}: {key!r}{_origin(key, checkpoint, model)}"
        if value.dtype not in _FLOATS:
            given, *allowed = (str(dtype).removeprefix("torch.") for dtype in (value.dtype, *_FLOATS))
            return (
                f"{where} is stored as {given}, expected {', '.join(allowed)}; is it quantized? Save the float weights"
            )
        if not value.to(own.dtype).isfinite().all():
            return f"{where} holds NaN or infinity; the file is damaged or its training diverged"
    return ""


def _origin(key: str, checkpoint: Checkpoint, model: Family) -> str:
    """In brackets, what the file calls this tensor and how large it is there; nothing where both are the same."""
    there, tensors = model.official(key), checkpoint.tensors(model.whole)
    if there.key == key or there.key not in tensors:
        return ""
    part = f"part {there.part + 1} of {there.parts} of " if there.parts > 1 else ""
    return f" ({part}the official {there.key!r}, {tuple(tensors[there.key].shape)})"
