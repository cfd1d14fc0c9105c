"""Folders of pictures, sets with boxes and with masks: empty, endless, unreadable, huge, or not what they say."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ouro.data.coco import Coco
from ouro.data.folder import Folder
from ouro.data.masks import ADE20K, Masks
from ouro.data.source import open_data, parse
from tests.campaign.containers import tiny
from tests.campaign.mutate import damaged_bytes, damaged_json, drawn_value
from tests.campaign.registry import LIMIT_S, TWO_LINES, Offence, Trial, Verdict, kind, tried

MANY = 100_000
"""Files in a large folder."""


def png(size: tuple[int, int] = (12, 10), mode: str = "RGB", value: int = 1) -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new(mode, size, value).save(file, "PNG")
    return file.getvalue()


def all_of(dataset: Any) -> None:
    """Reads a set from the first to the last.

    Raises:
        Offence: images that are not those of a model.
    """
    for start in range(min(len(dataset), 6)):
        images, targets = dataset.images(start, 1)
        if images.shape[1] != 3 or images.dtype.itemsize != 1:
            raise Offence(f"images are {tuple(images.shape)} {images.dtype}")
        if targets is not None and targets.is_floating_point() and not targets.isfinite().all():
            raise Offence("targets with NaN or infinity")


# ---- folders ---------------------------------------------------------------------------------------------------


@kind("folder", 8)
def folder(trial: Trial) -> Verdict:
    root = trial.folder / "set"
    root.mkdir()
    for _ in range(trial.rng.choice((0, 1, 2, 4))):
        trial.rng.choice(_ENTRIES)(trial, root)
    if trial.rng.random() < 0.1:
        shutil.rmtree(root)
        trial.rng.choice(
            (lambda: None, lambda: root.write_text("x"), lambda: root.symlink_to(root), lambda: os.mkfifo(root))
        )()
    if trial.rng.random() < 0.5:
        return tried(lambda: all_of(Folder(root, size=trial.rng.choice((24, (1, 7))))))
    spelled = (
        f"folder:{root}{trial.rng.choice(('', ':1', ':3', ':0', ':-1', ':x', '/', '/..', ':99999999999999999999'))}"
    )
    return tried(lambda: all_of(open_data(spelled, "test", tiny(trial).info)))


def _picture(trial: Trial, root: Path) -> None:
    data = png() if trial.rng.random() < 0.7 else damaged_bytes(trial.rng, png())
    names = (
        "a.png",
        "b.jpg",
        ".hidden.png",
        "c.txt",
        f"{TWO_LINES}.png",
        "é.png",
        "x" * 240 + ".png",
        "\udcff.png",
        "d.PNG",
        "e.eps",
        "f:3.png",
    )
    (root / trial.rng.choice(names)).write_bytes(data)


def _classes(trial: Trial, root: Path) -> None:
    for name in trial.rng.sample(("cat", "dog", ".git", "1", "\udcfe", "a b", "%s"), trial.rng.choice((1, 2, 3))):
        (root / name).mkdir(exist_ok=True)
        for _ in range(trial.rng.choice((0, 1, 2))):
            trial.rng.choice((_picture, _picture, _loop, _nothing))(trial, root / name)


def _loop(trial: Trial, root: Path) -> None:
    # two of one number are one
    with suppress(FileExistsError):
        (root / f"loop{trial.rng.randrange(99)}").symlink_to(root)


def _nothing(trial: Trial, root: Path) -> None:
    """What a name promises and is not there."""
    name = f"n{trial.rng.randrange(10**6)}.png"
    makers: tuple[Callable[[Path], Any], ...] = (
        lambda path: path.symlink_to("/nonexistent"), lambda path: path.symlink_to(path), lambda path: path.mkdir(), os.mkfifo,
        lambda path: path.touch(), lambda path: path.symlink_to("/dev/zero"),
    )  # fmt: skip
    trial.rng.choice(makers)(root / name)


def _deep(trial: Trial, root: Path) -> None:
    for _ in range(trial.rng.choice((2, 60))):
        root = root / "d"
        root.mkdir(exist_ok=True)
    _picture(trial, root)


_ENTRIES = (_picture, _picture, _picture, _classes, _classes, _loop, _nothing, _deep)


@kind("large folder", 0.02, limit=60)
def large_folder(trial: Trial) -> Verdict:
    """So many names of one picture; opened, not read."""
    root = trial.folder / "set"
    (root / "cat").mkdir(parents=True)
    target = root / "cat" if trial.rng.random() < 0.5 else root
    first = target / "0.png"
    first.write_bytes(png())
    for number in range(1, MANY):
        os.link(first, target / f"{number}.png")
    # of this process alone: the machine may have other work
    started = time.process_time()
    if len(Folder(root, size=24)) != MANY:
        raise Offence("a large folder is not read whole")
    if time.process_time() - started > LIMIT_S:
        raise Offence(f"a large folder takes longer than {LIMIT_S:g} s")
    return Verdict()


@kind("unreadable folder", 0.03, group="jobs", unit="machine", limit=60)
def unreadable(trial: Trial) -> Verdict:
    """Read by nobody, who may not."""
    from tests.campaign.disks import _as_nobody
    from tests.campaign.kills import in_process

    root = trial.folder / "set"
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "a.png").write_bytes(png())
    trial.folder.chmod(0o777)
    locked = trial.rng.choice((root, root / "cat", root / "cat" / "a.png"))
    locked.chmod(0)

    def read() -> None:
        verdict = tried(lambda: all_of(Folder(root, size=24)))
        if not verdict.line:
            raise Offence("what nobody may read is read")
        print(verdict.line)

    home = trial.folder / "home"
    ended = in_process(lambda: _as_nobody(read), home)
    locked.chmod(0o700)
    if ended.code:
        raise Offence(f"an unreadable {locked.name}: {ended.err.strip().splitlines()[-1][:80]}\n{ended.err}")
    return Verdict(ended.out.strip())


# ---- boxes and masks -------------------------------------------------------------------------------------------


def annotations() -> dict[str, Any]:
    """A file in COCO's form."""
    boxes = [
        {"id": n, "image_id": n % 2, "category_id": 3 + n % 2, "bbox": [1, 2, 5.5, 4], "iscrowd": n // 2}
        for n in range(3)
    ]
    images = [{"id": n, "file_name": f"{n}.png", "width": 12, "height": 10} for n in range(2)]
    return {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]}


@kind("COCO", 14)
def coco(trial: Trial) -> Verdict:
    content = annotations()
    if trial.rng.random() < 0.2:
        for entry in content["images"]:
            del entry["width"]
    path = trial.write("set/boxes.json", damaged_json(trial.rng, content))
    for number in range(2):
        data = png() if trial.rng.random() < 0.9 else damaged_bytes(trial.rng, png())
        trial.write(f"set/{number}.png", data)
    return tried(lambda: all_of(Coco(path, size=24)))


@kind("masks", 7)
def masks(trial: Trial) -> Verdict:
    rng, root = trial.rng, trial.folder / "set"
    official = rng.random() < 0.3
    pictures, classes = ("images/validation", "annotations/validation") if official else ("images", "masks")
    for number in range(rng.choice((1, 2))):
        for where in (pictures, classes):
            mode = "RGB" if where == pictures else rng.choice(("L", "L", "P", "I", "1", "RGB", "LA", "I;16"))
            size = (12, 10) if rng.random() < 0.8 else rng.choice(((1, 1), (10, 12), (500, 1)))
            data = png(size, mode, rng.choice((0, 1, 200, 255)) if mode != "1" else 1)
            if mode == "L" and rng.random() < 0.5:
                file = io.BytesIO()
                Image.fromarray(
                    np.frombuffer(rng.randbytes(size[0] * size[1]), np.uint8).reshape(size[1], size[0])
                ).save(file, "PNG")
                data = file.getvalue()
            if rng.random() < 0.3:
                data = damaged_bytes(rng, data)
            if rng.random() < 0.95:
                trial.write(f"set/{where}/{number}.png", data)
    if rng.random() < 0.4:
        names = rng.choice(
            (
                b"cat\ndog\n",
                b"",
                b"\n\n",
                b"\xff\xfe\x00",
                b"cat\ncat\n",
                "\u2028".join("abc").encode(),
                b"1\tx\n2\ty\n",
            )
        )
        trial.write("set/objectInfo150.txt" if official else "set/classes.txt", names)
    if rng.random() < 0.05:
        root.mkdir(exist_ok=True)
        trial.rng.choice(_ENTRIES)(trial, root)
    return tried(lambda: all_of((ADE20K if official else Masks)(root, size=24)))


# ---- how sets are spelled --------------------------------------------------------------------------------------


@kind("spelling of a set", 9)
def spelling(trial: Trial) -> Verdict:
    words = ("real", "noise", "synthetic", "folder", "coco", "masks", "ade20k", "cifar10", "scenes", "digits",
             "scenes_seg", "scenes_det",
             "4", "0", "-1", "", "x", ":", "1e3", "9" * 40, "\u0664", "\u00b2", "/", "/dev/zero",
             str(trial.folder), "~", "\x00", "a.safetensors")  # fmt: skip
    text = ":".join(trial.rng.choice(words) for _ in range(trial.rng.choice((1, 2, 3, 4))))
    if trial.rng.random() < 0.1:
        value = drawn_value(trial.rng)
        text = value if isinstance(value, str) else text

    def looked_at() -> None:
        parse(text)
        dataset = open_data(text, trial.rng.choice(("test", "calib", "train")), tiny(trial).info)
        dataset.images(0, 1)

    return tried(looked_at)
