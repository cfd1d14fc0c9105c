"""What a checkpoint is, for people: which model it belongs to, what it says of it, and what of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ouro.models.checkpoint import Checkpoint, Rename, Source, read_checkpoint
from ouro.models.family import Family
from ouro.models.fit import match, misfit
from ouro.models.identify import config_of, family_of, identify, skeleton, with_options
from ouro.registry import MODELS

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint, looked at as `name`, which is "" where it belongs to no known family.

    label: file name. config: what it says differs from the registered config. input_size, classes: of the model it
    makes. parameters: numbers in its tensors. matched: tensors of the model that it has in the right shape; missing:
    that it has not, or in another shape; unmatched: tensors in it that the model has no use for; the first names of
    each. problem: in one line why `create_model(name, pretrained=...)` refuses it, "" where it does not. container,
    revision, digest: as of `Checkpoint`.
    """

    label: str
    family: str
    name: str
    input_size: tuple[int, int, int] | None
    classes: int
    parameters: int
    matched: int
    missing: int
    unmatched: int
    first_missing: tuple[str, ...]
    first_unmatched: tuple[str, ...]
    container: str
    revision: str
    digest: str
    config: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def inspect(
    source: Source,
    name: str | None = None,
    *,
    container: str | None = None,
    rename: Rename | None = None,
    grid: tuple[int, int] | None = None,
) -> Inspection:
    """Looks at a checkpoint without building a model: as `name`, or as the one it is nearest to.

    Raises:
        ValueError: a file that cannot be read, or an unknown name. Tensors that do not fit are part of the answer.
    """
    if name is not None:
        MODELS.get(name)
    checkpoint = read_checkpoint(source, container=container, rename=rename, grid=grid)
    try:
        name = identify(checkpoint) if name is None else name
        config = config_of(name, checkpoint)
        model = skeleton(MODELS.get(name).build, with_options(name, **config), name)
    except ValueError as error:
        return _unfitted(checkpoint, name, str(error))
    pairs = match(model, checkpoint)
    missing = (*pairs.missing, *pairs.reshaped)
    return Inspection(
        label=checkpoint.label,
        family=model.info.family,
        name=name,
        input_size=model.info.input_size,
        classes=model.info.num_classes,
        parameters=_parameters(checkpoint, model.whole),
        matched=len(model.state_dict()) - len(missing),
        missing=len(missing),
        unmatched=len(pairs.unexpected),
        first_missing=missing[:_SHOWN],
        first_unmatched=pairs.unexpected[:_SHOWN],
        container=checkpoint.container,
        revision=checkpoint.revision,
        digest=checkpoint.digest,
        config=config,
        problem=misfit(model, checkpoint, pairs),
    )


def _unfitted(checkpoint: Checkpoint, name: str | None, problem: str) -> Inspection:
    """A checkpoint for which no model can be built."""
    family: type[Family] | None = MODELS.get(name).build if name else family_of(checkpoint)
    names = tuple(checkpoint.state)
    return Inspection(
        label=checkpoint.label,
        family=family.__name__.lower() if family else "",
        name=name or "",
        input_size=None,
        classes=0,
        parameters=_parameters(checkpoint),
        matched=0,
        missing=0,
        unmatched=len(names),
        first_missing=(),
        first_unmatched=names[:_SHOWN],
        container=checkpoint.container,
        revision=checkpoint.revision,
        digest=checkpoint.digest,
        problem=problem,
    )


def _parameters(checkpoint: Checkpoint, whole: bool = False) -> int:
    return sum(value.numel() for value in checkpoint.tensors(whole).values())
