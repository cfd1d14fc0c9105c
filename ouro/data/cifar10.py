"""CIFAR-10: real images of ten classes at 32 x 32, a part of them in this package, all 60,000 where they are at hand.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images". The 2000 test and 1024 training images
that come along are JPEG copies, a header that all files share (`heads`) followed by each one's own bytes. A folder is
what torchvision's CIFAR10(root, download=True) leaves: root/cifar-10-batches-py, the lossless originals.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ouro.data import Dataset, check_range, check_split
from ouro.data.augment import generator, jittered
from ouro.data.order import stratified
from ouro.settings import first_line
from ouro.store import default_root

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
FOLDER = "cifar-10-batches-py"
"""What torchvision calls the folder, inside its root."""

_EMBEDDED = Path(__file__).parent / "files" / "cifar10_subset.npz"
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_CALIB = 256
_THREADS = 4
_log = logging.getLogger(__name__)


class Cifar10(Dataset):
    """One split of CIFAR-10: `calib` is 256 of the training images, even in classes, and `train` has the others.

    The embedded part has 2000 images to test, 768 to train; the whole set 10,000 and 49,744. It is the whole set that is
    opened where there is one: at `root`, else in the folder data of `ouro.store.default_root()`. The images that a split
    of the embedded part has in common with one of the whole set are not known.

    Args:
        root: torchvision's root, the folder that holds cifar-10-batches-py, or that folder itself.
        split: "train", "calib" or "test".
        size: side of the images in pixels, or (height, width). Images are resized (bicubic, smoothed where they
            shrink) until they cover it, and their middle is kept: none is ever distorted.

    Raises:
        ValueError: unknown split, a size below 1, or a root without a whole CIFAR-10.
    """

    argument = "PATH"
    needs_argument = False
    provides = frozenset({"augmented"})
    classes = CLASSES
    mean = MEAN
    std = STD

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str = "test",
        size: int | tuple[int, int] = SIDE,
    ) -> None:
        check_split(split, self.splits)
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if min(self.height, self.width) < 1:
            raise ValueError(f"size is {size}, expected a side or (height, width) of 1 pixel or more")
        self.split, self.folder = split, _folder(root)
        half = "test" if split == "test" else "train"
        self._source = _Embedded.of(half) if self.folder is None else _Originals.of(self.folder, half)
        self.order = np.arange(len(self._source.labels))
        if split != "test":
            # the embedded part is in such an order already
            order = self.order if self.folder is None else stratified(self._source.labels)
            self.order = order[:_CALIB] if split == "calib" else order[_CALIB:]
        self._labels = torch.from_numpy(self._source.labels[self.order].astype(np.int64))

    def __len__(self) -> int:
        return len(self.order)

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor]:
        """Images start..start+n of this split: uint8 [n 3 h w], and labels int64 [n]."""
        check_range(start, n, len(self))
        return self._sized(self.order[start : start + n]), self._labels[start : start + n].clone()

    def augmented(self, step_seed: int, n: int) -> tuple[Tensor, Tensor]:
        """A random training batch, the same for the same `step_seed`: moved, mirrored, relit; see `augment.jittered`.

        Raises:
            ValueError: this is not the training split.
        """
        if self.split != "train":
            raise ValueError(f"augmented batches come from split 'train', not {self.split!r}; use images()")
        random = generator(0, step_seed)
        chosen = random.integers(0, len(self), n)
        return jittered(self._sized(self.order[chosen]), random), self._labels[torch.from_numpy(chosen)]

    def _sized(self, indices: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(self._source.pixels(indices)).permute(0, 3, 1, 2)
        side = max(self.height, self.width)
        if side != SIDE:
            resized = F.interpolate(pixels.float(), size=(side, side), mode="bicubic", antialias=True)
            pixels = resized.round().clamp(0, 255).to(torch.uint8)
        top, left = (side - self.height) // 2, (side - self.width) // 2
        return pixels[:, :, top : top + self.height, left : left + self.width].contiguous()


class _Embedded:
    """The JPEG copies of one half ("train", "test"); what was decoded once is kept, 6 MB at most."""

    def __init__(self, half: str) -> None:
        with np.load(_EMBEDDED) as packed:
            self._head, self._scans = packed["heads"].tobytes(), packed[f"{half}_scan"].tobytes()
            self._ends = np.cumsum(packed[f"{half}_len"], dtype=np.int64)
            self.labels = packed[f"{half}_label"]
        self._decoded = np.zeros((len(self.labels), SIDE, SIDE, 3), np.uint8)
        self._done = np.zeros(len(self.labels), bool)

    @staticmethod
    @lru_cache(maxsize=2)
    def of(half: str) -> _Embedded:
        """Opened once in a process: jobs ask for the set batch by batch."""
        return _Embedded(half)

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """Images uint8 [k h w 3] in this order."""
        missing = np.unique(indices[~self._done[indices]]).tolist()
        with ThreadPoolExecutor(_THREADS) as pool:
            for index, image in zip(missing, pool.map(self._decode, missing), strict=True):
                self._decoded[index], self._done[index] = image, True
        return self._decoded[indices]

    def _decode(self, index: int) -> np.ndarray:
        begin, end = self._ends[index - 1] if index else 0, self._ends[index]
        with Image.open(io.BytesIO(self._head + self._scans[begin:end])) as image:
            return np.asarray(image.convert("RGB"))


class _Originals:
    """The lossless images of one half, as torchvision's folder has them, in its order."""

    def __init__(self, folder: Path, half: str) -> None:
        batches = [_read_batch(folder / name) for name in _BATCHES[half]]
        self.labels = np.concatenate([labels for labels, _ in batches])
        self._planes = np.concatenate([planes for _, planes in batches])

    @staticmethod
    @lru_cache(maxsize=2)
    def of(folder: Path, half: str) -> _Originals:
        """Read once in a process: jobs ask for the set batch by batch."""
        return _Originals(folder, half)

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """Images uint8 [k h w 3] in this order."""
        return self._planes[indices].transpose(0, 2, 3, 1)


def _folder(root: str | os.PathLike[str] | None) -> Path | None:
    """The folder with the batches of the whole set; None where no root is given and none lies in the usual place."""
    usual = default_root() / "data"
    base = usual if root is None else Path(os.path.expanduser(root))
    wanted = [name for names in _BATCHES.values() for name in names]
    for folder in (base / FOLDER, base):
        if all((folder / name).is_file() for name in wanted):
            if root is None:
                _log.info("cifar10: the whole set in %s", folder)
            return folder.resolve()
    if root is None:
        return None
    raise ValueError(
        f"{base} holds no whole CIFAR-10: expected {FOLDER} with {wanted[0]} to {wanted[-2]} and {wanted[-1]}, as "
        "torchvision's CIFAR10(root, download=True) leaves them; write 'cifar10' alone for the part that comes along"
    )


class _PlainUnpickler(pickle.Unpickler):
    """Reads arrays, lists and strings, and refuses whatever else a pickle could make or call."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 has another name for the module that the files were written with
        module = module.replace("numpy.core.", "numpy._core.")
        if f"{module}.{name}" not in ("numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(labels [n], planes uint8 [n 3 h w]) of one of the original files; no code in them is run."""
    try:
        with open(path, "rb") as file:
            content = _PlainUnpickler(file, encoding="bytes").load()
        labels, rows = np.asarray(content[b"labels"]), np.asarray(content[b"data"])
    except Exception as error:
        # whatever a damaged pickle makes of itself
        reason = first_line(error)
        raise ValueError(f"{path} is no batch of CIFAR-10 ({reason}); download it again") from error
    shape, known = (labels.size, 3 * SIDE * SIDE), range(len(CLASSES))
    if rows.shape != shape or rows.dtype != np.uint8 or not set(labels.ravel().tolist()) <= set(known):
        raise ValueError(
            f"{path} holds {rows.dtype} {rows.shape} for {labels.size} labels, expected uint8 {shape} and labels 0 to "
            f"{known[-1]}; download it again"
        )
    return labels, rows.reshape(-1, 3, SIDE, SIDE)
