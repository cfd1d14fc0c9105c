"""The one image that a job looks at: of a data set's test split, or a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ouro.data.folder import read_image
from ouro.evaluate.images import open_data
from ouro.models import variant
from ouro.types import ModelInfo


def one_image(name: str, info: ModelInfo, sample: int | None, image: str | None) -> tuple[Tensor, str]:
    """(uint8 [1 3 h w], where it is from): the file `image`, or `sample` of the test split the model belongs to.

    Raises:
        ValueError: neither of the two, no such sample, or a file that cannot be read.
    """
    if image is not None:
        return image_file(image, info), image
    if sample is None:
        raise ValueError("there is nothing to look at: give a sample or an image file")
    data = variant(name).data
    dataset = open_data(data, "test", name, info)
    if not 0 <= sample < len(dataset):
        raise ValueError(f"sample is {sample}, the test split of {data} has 0 to {len(dataset) - 1}")
    return dataset.images(sample, 1)[0], f"{data} {sample}"


def image_file(path: str, info: ModelInfo) -> Tensor:
    """An image file at the model's input size, its middle kept, uint8 [1 3 h w].

    Raises:
        ValueError: it cannot be read.
    """
    height, width = info.input_size[1:]
    fitted = ImageOps.fit(read_image(Path(path)), (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).unsqueeze(0)
