"""Real handwritten digits: the 1797 images of 8 x 8 pixels that scikit-learn ships, enlarged to a model's input size.

Source: sklearn.datasets.load_digits (test part of the UCI set "Optical Recognition of Handwritten Digits").
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from ouro.data import Dataset, check_range, check_split
from ouro.data.order import stratified

MEAN = (0.312, 0.312, 0.312)
STD = (0.356, 0.356, 0.356)

_SPLITS = {"train": slice(600, None), "calib": slice(400, 600), "test": slice(0, 400)}


class Digits(Dataset):
    """One split of the digits: 1197 to train, 200 to calibrate, 400 to test, disjoint and with even classes.

    Args:
        split: "train", "calib" or "test".
        size: side of the images in pixels; the 8 x 8 originals are enlarged smoothly.

    Raises:
        ValueError: unknown split, or a size below the originals' 8.
    """

    provides = frozenset({"masks", "augmented"})
    square = True
    classes = tuple("0123456789")
    mean = MEAN
    std = STD

    def __init__(self, split: str = "test", size: int = 56) -> None:
        check_split(split, self.splits)
        if size < 8:
            raise ValueError(f"size {size} is less than the originals' 8 pixels; give 8 or more")
        # imported late: it takes longer than all of ouro, and most never look at digits
        from sklearn.datasets import load_digits

        self.split, self.size = split, size
        source = load_digits()
        self.order = stratified(source.target)[_SPLITS[split]]
        originals = torch.from_numpy(source.images[self.order]).float()[:, None] / 16
        self._ink = interpolate(originals, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)
        self._labels = torch.from_numpy(source.target[self.order]).long()

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor]:
        """Digits start..start+n of this split: images uint8 [n 3 h w] and labels int64 [n]."""
        check_range(start, n, len(self))
        return _gray(self._ink[start : start + n]), self._labels[start : start + n].clone()

    def masks(self, start: int, n: int) -> Tensor:
        """Where the ink is, in digits start..start+n: bool [n h w]."""
        check_range(start, n, len(self))
        return self._ink[start : start + n, 0] >= 0.5

    def augmented(self, step_seed: int, n: int) -> tuple[Tensor, Tensor]:
        """A random training batch, the same for the same `step_seed`: moved, turned, sheared, scaled, dimmed, noisy.

        Raises:
            ValueError: this is not the training split.
        """
        if self.split != "train":
            raise ValueError(f"augmented batches come from split 'train', not {self.split!r}; use images()")
        generator = torch.Generator().manual_seed(step_seed)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(n, generator=generator)

        chosen = torch.randint(len(self), (n,), generator=generator)
        angle, zoom, shear = uniform(-0.25, 0.25), uniform(0.9, 1.2), uniform(-0.15, 0.15)
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        rows = [cos, shear - sin, uniform(-0.15, 0.15), sin, cos, uniform(-0.15, 0.15)]
        grid = affine_grid(torch.stack(rows, dim=1).view(n, 2, 3), [n, 1, self.size, self.size], align_corners=False)
        ink = grid_sample(self._ink[chosen], grid, align_corners=False)
        contrast, brightness, noise = (uniform(*r)[:, None, None, None] for r in ((0.6, 1.1), (0, 0.15), (0, 0.1)))
        ink = ink * contrast + brightness + noise * torch.randn(ink.shape, generator=generator)
        return _gray(ink.clamp(0, 1)), self._labels[chosen]


def _gray(ink: Tensor) -> Tensor:
    return (ink * 255).round().to(torch.uint8).repeat(1, 3, 1, 1)
