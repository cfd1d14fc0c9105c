"""Pictures of any size as the input of a dense model: scaled whole, padded at the right and at the bottom.

Source: mmdetection's and mmsegmentation's Resize (keep_ratio) and Pad; what is padded is the mean color, which is zero once
it is normalized, as it is there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ouro.data import Dataset, check_range, check_split
from ouro.data.folder import MEAN, STD

_THREADS = 4


class Fitted:
    """Scales pictures so that they fit into `size`, (height, width) or one side of a square.

    Args:
        mean: of the model, parts of 1: the color of the padding.
        interpolation: PIL's name of the filter for pictures; maps of classes are never interpolated.
    """

    def __init__(self, size: int | tuple[int, int], mean: Sequence[float], interpolation: str = "bilinear") -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.color = torch.tensor([round(255 * part) for part in mean], dtype=torch.uint8)
        self.filter = Image.Resampling[interpolation.upper()]

    def inner(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture of this size once it is scaled; at least one pixel."""
        scale = min(self.width / width, self.height / height)
        return max(1, round(scale * width)), max(1, round(scale * height))

    def picture(self, image: Image.Image) -> Tensor:
        """uint8 [3 h w]."""
        width, height = self.inner(*image.size)
        scaled = torch.from_numpy(np.array(image.resize((width, height), self.filter))).permute(2, 0, 1)
        out = self.color[:, None, None].expand(3, self.height, self.width).clone()
        out[:, :height, :width] = scaled
        return out

    def classes(self, values: np.ndarray, padding: int) -> Tensor:
        """Classes of the pixels of a picture [h w], fitted as it is: int64 [h w]."""
        width, height = self.inner(values.shape[1], values.shape[0])
        # the pixel in the middle of each new one; PIL has no nearest filter for 32-bit numbers that rounds so
        rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
        out = torch.full((self.height, self.width), padding, dtype=torch.int64)
        out[:height, :width] = torch.from_numpy(values[rows[:, None], columns].astype(np.int64))
        return out

    def scale(self, width: int, height: int) -> tuple[float, float]:
        """Factors that bring columns and rows of a picture to where they are once it is fitted."""
        inner = self.inner(width, height)
        return inner[0] / width, inner[1] / height


class FittedFiles(Dataset):
    """Picture files that are seen whole, each with its target; the same ones in every split.

    Args:
        split: "train", "calib" or "test".
        size: of the input, one side or (height, width).
        interpolation, mean, std: of the model. crop_pct: has no meaning here.

    Raises:
        ValueError: unknown split.
    """

    files = True

    def __init__(
        self, split: str, size: int | tuple[int, int], *, crop_pct: float = 1.0, interpolation: str = "bilinear",
        mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD,
    ) -> None:  # fmt: skip
        check_split(split, self.splits)
        self.mean, self.std = mean, std
        self.fitted = Fitted(size, mean, interpolation)

    @abstractmethod
    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Picture uint8 [3 h w] and its target, both fitted.

        Raises:
            ValueError: it cannot be decoded; the message names it.
        """

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor]:
        """Pictures start..start+n: uint8 [n 3 h w] and their targets [n ...].

        Raises:
            ValueError: a picture that cannot be decoded; the message names it.
        """
        check_range(start, n, len(self))
        with ThreadPoolExecutor(min(_THREADS, n)) as pool:
            pictures, targets = zip(*pool.map(self.read, range(start, start + n)), strict=True)
        return torch.stack(pictures), torch.stack(targets)
