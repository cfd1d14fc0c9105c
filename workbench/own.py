"""What is read from the models and pictures that a person brings, before they are kept in the workspace."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from workbench import engine, workspace
from workbench.errors import line_of

THUMBS = 8
"""Pictures of a set that are shown on Start."""
_SIDE = 96


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from a file of weights, and the model that is kept; or why it is of no use in spite of it."""

    facts: Mapping[str, Any]
    refusal: str = ""
    entry: workspace.Model | None = None


def model(path: str, name: str = "", names: Sequence[str] = (), *, uploaded: bool = False) -> Reading:
    """Reads a file of weights, opens the model in it, and keeps it in the workspace; an upload is copied there.

    Args:
        name: the registered name that the model goes by; "" to read it from the file.
        names: of its classes.

    Raises:
        ValueError: the file cannot be read, or is no file of weights.
    """
    from ouro.models import inspect

    file = workspace.check_model_file(path)
    inspected = inspect(str(file), name=name or None)
    facts = {key: value for key, value in asdict(inspected).items() if key != "config"}
    if inspected.problem:
        return Reading(facts, inspected.problem)
    try:
        opened = _opened(inspected.name, str(file), tuple(names))
    except ValueError as error:
        return Reading(facts, line_of(error))
    if uploaded:
        file = workspace.keep_model(str(file), inspected.digest)
    now = os.stat(file)
    entry = workspace.Model(
        alias="", name=inspected.name, path=str(file), class_names=tuple(names), read=facts, row=opened["row"],
        digest=opened["digest"], size=now.st_size, changed=now.st_mtime_ns, kept=uploaded,
    )  # fmt: skip
    return Reading(facts, "", workspace.add_model(entry))


def _opened(name: str, path: str, names: tuple[str, ...]) -> dict[str, Any]:
    """{row of the catalog, digest of the weights} of a model, opened once to see that it is whole."""
    from ouro.jobs.catalog import described, scored
    from ouro.jobs.inputs import open_model
    from ouro.models import variant
    from ouro.quant.apply import weights_digest
    from ouro.types import ModelSource

    built = open_model(ModelSource(name, path, (), names), "cpu")
    usual = variant(name)
    # the set behind a name goes with weights that have the same classes
    same = built.info.class_names == usual.config.class_names and usual.embedded
    row = {"name": name, "data": usual.data if same else "folder", **described(built), "weights": "yours"}
    return {"row": row | scored(None, None, row), "digest": weights_digest(built)}


def pictures(path: str) -> workspace.Pictures:
    """Reads a folder of pictures, or of one sub-folder per class, and keeps it in the workspace.

    Raises:
        ValueError: there is no such folder, no picture in it, or one of the first that cannot be opened.
    """
    folder = Path(os.path.expanduser(path)).resolve()
    files, classes = _walk(str(folder))
    for file in files[:THUMBS]:
        engine.check_picture(file)
    return workspace.add_pictures(workspace.Pictures(folder.name or str(folder), str(folder), len(files), classes))


def uploaded(paths: Sequence[str]) -> tuple[workspace.Pictures, list[str]]:
    """Keeps uploaded pictures, all of them in one set; (the set, why others are not in it, a line each).

    Raises:
        ValueError: none of them can be opened.
    """
    good, refusals = [], []
    for path in paths:
        try:
            engine.check_picture(path)
            good.append(path)
        except ValueError as error:
            refusals.append(line_of(error))
    if not good:
        raise ValueError(refusals[0] if refusals else "there is no picture to add yet; drop some files")
    folder = workspace.keep_pictures(good)
    files, _ = _walk(str(folder))
    kept = workspace.add_pictures(workspace.Pictures(workspace.UPLOADED, str(folder), len(files), (), kept=True))
    return kept, refusals


def thumbnails(entry: workspace.Pictures) -> list[tuple[str, np.ndarray]]:
    """(name, uint8 [h w 3]) of the first pictures of a set that can still be opened."""
    if entry.fault:
        return []
    try:
        files, _ = _walk(entry.path)
    except ValueError:
        return []
    # a few of every class, where there are classes
    step = max(1, len(files) // THUMBS)
    shown = []
    for file in files[::step][:THUMBS]:
        try:
            shown.append((Path(file).stem, _thumbnail(file, os.stat(file).st_mtime_ns)))
        except (OSError, ValueError):
            continue
    return shown


@lru_cache(maxsize=128)
def _thumbnail(file: str, changed: int) -> np.ndarray:
    from PIL import ImageOps

    from ouro.data.picture import read_image

    return np.asarray(ImageOps.fit(read_image(Path(file), least=_SIDE), (_SIDE, _SIDE)))


def _walk(path: str) -> tuple[list[str], tuple[str, ...]]:
    """(files, classes) of a folder, in the order in which jobs see them."""
    from ouro.data.folder import Folder

    folder = Folder(path)
    return list(map(str, folder.paths)), folder.classes
