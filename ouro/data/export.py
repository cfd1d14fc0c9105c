"""Images of a set as files in the forms that others read: COCO's JSON for boxes, PNG masks for segments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ouro.data import Dataset
from ouro.data.boxes import present
from ouro.store import write_bytes, write_json


def export(dataset: Dataset, folder: str | os.PathLike[str], count: int) -> Iterator[int]:
    """Writes the first images of a set with boxes or segments, and yields how many are written.

    folder/images has PNG files; beside them annotations.json, to be read as coco:folder/annotations.json, or masks/ and
    classes.txt, to be read as masks:folder.

    Raises:
        ValueError: a set with one class per image, or fewer images.
        WriteError: the folder cannot be written.
    """
    if dataset.targets not in ("segments", "boxes"):
        raise ValueError("a set with one class per image has no masks and no boxes; take scenes_seg or scenes_det")
    if not 0 < count <= len(dataset):
        raise ValueError(f"{count} images were asked for, there are {len(dataset)}")
    root, boxes = Path(folder), dataset.targets == "boxes"
    for part in ("images",) if boxes else ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        pixels, targets = dataset.images(index, 1)
        assert targets is not None
        name = f"{index:06d}.png"
        Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(root / "images" / name)
        if boxes:
            height, width = pixels.shape[2:]
            images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
            annotations += _annotations(targets[0], index + 1, len(annotations))
        else:
            Image.fromarray(targets[0].numpy().astype("uint8")).save(root / "masks" / name)
        yield index + 1
    # last, so that a folder which has it is whole
    if boxes:
        categories = [{"id": number, "name": label} for number, label in enumerate(dataset.classes, 1)]
        write_json(root / "annotations.json", {"images": images, "annotations": annotations, "categories": categories})
    else:
        write_bytes(root / "classes.txt", "".join(f"{label}\n" for label in dataset.classes).encode())


def _annotations(rows: Tensor, image: int, before: int) -> list[dict[str, Any]]:
    """COCO's entries of one image's objects; ids go on after those `before`."""
    return [
        {
            "id": before + number, "image_id": image, "category_id": int(label) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0), "iscrowd": int(crowd),
        }
        for number, (x0, y0, x1, y1, label, crowd) in enumerate(present(rows).tolist(), 1)
    ]  # fmt: skip
