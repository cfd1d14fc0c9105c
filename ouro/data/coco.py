"""Pictures with boxes, as a JSON file in COCO's form says; `ouro.data.export` writes our own scenes in it.

What cannot be used is left out with one line that names its file: annotations of unknown classes or images, empty boxes,
boxes outside of their picture, what is neither a crowd nor none, pictures that are not there or, upright, of another size
than the JSON file says. A box that reaches out of its picture is cut. A picture whose pixels turn out damaged when they
are read is an error that names it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ouro.data.boxes import padded
from ouro.data.fitted import FittedFiles
from ouro.data.picture import read_image, upright_size
from ouro.settings import first_line

_log = logging.getLogger(__name__)


class Coco(FittedFiles):
    """The pictures of a JSON file, ordered by their id; classes are its categories, ordered by theirs.

    Pictures are looked for beside the file, in "images" beside it, and, as COCO is unpacked, in the folder that is named
    like the part behind the last "_" of the file ("annotations/instances_val2017.json": "val2017").

    Args:
        path: of the JSON file. split: "train", "calib" or "test", all of them the same pictures.
        size: of the input, one side or (height, width); pictures are fitted into it, see `ouro.data.fitted`.
        view: of the model, as `FittedFiles` takes it.

    Raises:
        ValueError: unknown split, no such file, one that is not of this form, or none of its pictures there.
    """

    argument = "FILE.json"
    targets = "boxes"

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "test",
        size: int | tuple[int, int] = 800,
        **view: Any,
    ) -> None:
        super().__init__(split, size, **view)
        self.path = Path(path)
        content = _content(self.path)
        numbers = {entry["id"]: place for place, entry in enumerate(content["categories"])}
        self.classes = tuple(str(entry["name"]) for entry in content["categories"])
        self.pictures = _found(self.path, content["images"])
        self.objects = _objects(self.path, content, numbers, self.pictures)
        self.most = max([1, *map(len, self.objects)])

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        _, file, size = self.pictures[index]
        image = read_image(file, size=size)
        across, down = self.fitted.scale(*image.size)
        rows = padded([self.objects[index]], self.most)
        rows[:, :, :4] *= torch.tensor([across, down, across, down])
        return self.fitted.picture(image), rows[0]


def _content(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of images, annotations and categories, the first and last ordered by id."""
    form = "expected COCO's form: an object with images, annotations and categories"
    # a device may have no end
    if path.exists() and not path.is_file():
        raise ValueError(f"cannot read {path}: it is no file; {form}")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {first_line(error)}; {form}") from error
    lists: dict[str, list[dict[str, Any]]] = {}
    for name in ("images", "annotations", "categories"):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{path} has no list of {name}; {form}")
        lists[name] = entries
    for name, keys in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        for entry in lists[name]:
            if missing := [key for key in keys if key not in entry]:
                raise ValueError(f"{path}: one of its {name} has no {missing[0]!r}; {form}")
            if not isinstance(entry[keys[1]], str) or "\0" in entry[keys[1]]:
                raise ValueError(
                    f"{path}: the {keys[1]} of one of its {name} is {_short(entry[keys[1]])}, expected a text"
                )
        ids = [entry["id"] for entry in lists[name]]
        if not all(isinstance(key, type(ids[0])) and isinstance(key, int | str) for key in ids):
            raise ValueError(f"{path}: the id of one of its {name} is no number; {form}")
        if len(set(ids)) < len(ids):
            twice = next(key for key in ids if ids.count(key) > 1)
            raise ValueError(f"{path}: two of its {name} have the id {_short(twice)}; give each one of its own")
        lists[name] = sorted(lists[name], key=lambda entry: entry["id"])
    if not lists["categories"]:
        raise ValueError(f"{path} has no categories; {form}")
    return lists


def _found(path: Path, images: list[dict[str, Any]]) -> list[tuple[Any, Path, tuple[int, int]]]:
    """(id, file, (width, height)) of the pictures that are there and as large as they are said to be."""
    folder = path.parent
    places = [folder, folder / "images", folder.parent / path.stem.rpartition("_")[2]]
    found = []
    for entry in images:
        candidates = [place / str(entry["file_name"]) for place in places]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            _log.warning("%s is left out: it is in none of %s", entry["file_name"], ", ".join(map(str, places)))
            continue
        try:
            size = upright_size(file)
        except ValueError as error:
            _log.warning("%s is left out: %s", entry["file_name"], error)
            continue
        said = entry.get("width"), entry.get("height")
        # boxes are in pixels of the picture that their author saw
        if all(_is_number(side) and side > 0 for side in said) and said != size:
            _log.warning("%s is left out: it is %dx%d as it is shown, %s says %sx%s", file, *size, path.name, *said)
        else:
            found.append((entry["id"], file, size))
    if not found:
        raise ValueError(
            f"none of the {len(images)} pictures of {path} is in {', '.join(map(str, places))} and of the size that it says"
        )
    return found


def _objects(
    path: Path,
    content: Mapping[str, list[dict[str, Any]]],
    numbers: Mapping[Any, int],
    pictures: list[tuple[Any, Path, tuple[int, int]]],
) -> list[list[list[float]]]:
    """Rows (x0, y0, x1, y1, class, crowd) of every picture, in its own pixels."""
    places = {key: place for place, (key, _, _) in enumerate(pictures)}
    known = {entry["id"] for entry in content["images"]}
    objects: list[list[list[float]]] = [[] for _ in pictures]
    lost = []
    for entry in content["annotations"]:
        key = entry.get("image_id")
        if not isinstance(key, int | str) or key not in known:
            lost.append(entry)
            continue
        # its picture is left out, and was named
        if key not in places:
            continue
        place = places[key]
        _, file, size = pictures[place]
        row = _row(entry, numbers, *size)
        if isinstance(row, str):
            _log.warning("%s: an annotation of %s is left out: %s", path, file.name, row)
        else:
            objects[place].append(row)
    if lost:
        first = f"the image_id {_short(lost[0].get('image_id'))} of annotation {_short(lost[0].get('id'))}"
        _log.warning(
            "%s: %d of %d annotations are left out, as %s: no image has it, ids are such as %s",
            path, len(lost), len(content["annotations"]), first, _short(pictures[0][0]),
        )  # fmt: skip
    return objects


def _row(entry: Mapping[str, Any], numbers: Mapping[Any, int], width: int, height: int) -> list[float] | str:
    """An annotation as a row, or why it is none."""
    box, category = entry.get("bbox"), entry.get("category_id")
    if not isinstance(category, int | str) or category not in numbers:
        return f"its class {_short(category)} is no category"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"its box is {_short(box)}, expected [x, y, width, height]"
    x, y, wide, high = map(float, box)
    if not (wide > 0 and high > 0):
        return f"its box is empty, {wide:g} x {high:g}"
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + wide, float(width)), min(y + high, float(height))
    if not (x1 > x0 and y1 > y0):
        return f"its box {box} is outside of the picture, {width} x {height}"
    crowd = entry.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        return f"its iscrowd is {_short(crowd)}, expected 0 or 1"
    return [x0, y0, x1, y1, numbers[category], float(crowd)]


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a pixel may be there: anything further away is a mistake."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FAR


_FAR = 2**31
"""Pixels that no picture has."""


def _short(value: Any) -> str:
    """A value as it is shown where it is wrong."""
    return repr(value)[:60]
