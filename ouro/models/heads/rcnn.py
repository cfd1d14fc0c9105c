"""Mask R-CNN's two stages: proposals from every level, then a class, a box and a mask for each of them.

Source: He et al. 2017 as in mmdetection's StandardRoIHead (Shared2FCBBoxHead, FCNMaskHead, RoIAlign with `aligned`), whose
names and constants these are; the proposals' bookkeeping is torchvision's RegionProposalNetwork. Made for inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro._torchvision_ops import declare_missing_ops
from ouro.models.heads.convs import MapConv
from ouro.models.layers import Linear

declare_missing_ops()

from torchvision.models.detection._utils import BoxCoder  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.rpn import RegionProposalNetwork  # noqa: E402
from torchvision.ops import batched_nms  # noqa: E402

SIDE, MASK_SIDE = 7, 14
"""Places that a region is pooled to, a side, for its class and box and for its mask."""
FINEST = 56
"""Regions whose geometric mean side is below twice this are read from the finest level."""
LEAST_SCORE, OVERLAP, KEPT = 0.05, 0.5, 100
_SPREADS = (10.0, 10.0, 5.0, 5.0)
"""Inverse of the deviations that offsets of the second stage are given in."""
_NOTHING = -20.0
"""Logit of a class that a detection is not of."""


class RpnHead(nn.Module):
    """Objectness and offsets of three anchors at every place of every level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rpn_conv = MapConv(channels, channels)
        self.rpn_cls = MapConv(channels, 3, 1, site="head")
        self.rpn_reg = MapConv(channels, 12, 1, site="head")

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [F.relu(self.rpn_conv(x)) for x in maps]
        return [self.rpn_cls(x) for x in hidden], [self.rpn_reg(x) for x in hidden]


class ExactAnchors(AnchorGenerator):
    """torchvision rounds the corners of anchors to pixels, mmdetection does not."""

    def generate_anchors(
        self, scales: Any, aspect_ratios: Any, dtype: torch.dtype = torch.float32, device: Any = "cpu"
    ) -> Tensor:
        size, ratios = (
            torch.tensor(scales, dtype=dtype, device=device),
            torch.tensor(aspect_ratios, dtype=dtype, device=device),
        )
        heights = (ratios.sqrt()[:, None] * size).flatten()
        widths = (size / ratios.sqrt()[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2


class BoxHead(nn.Module):
    """Pooled regions [r c 7 7] -> logits [r k+1], the last one of nothing, and offsets for every class [r k 4]."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        sizes = (channels * SIDE**2, hidden)
        self.shared_fcs = nn.ModuleList(Linear(size, hidden, bias=True, site="decoder", axes="b c") for size in sizes)
        self.fc_cls = Linear(hidden, classes + 1, bias=True, site="head", axes="b c")
        self.fc_reg = Linear(hidden, 4 * classes, bias=True, site="head", axes="b c")

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = pooled.flatten(1)
        for linear in self.shared_fcs:
            x = F.relu(linear(x))
        return self.fc_cls(x), self.fc_reg(x).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """Pooled regions [r c 14 14] -> a mask for every class [r k 28 28], logits. Untapped: only boxes are scored here."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(channels, channels, 3, padding=1)}) for _ in range(4)
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, classes, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        for block in self.convs:
            pooled = F.relu(block.get_submodule("conv")(pooled))
        return self.conv_logits(F.relu(self.upsample(pooled)))


class RoiHead(nn.Module):
    """The second stage."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.bbox_head = BoxHead(channels, hidden, classes)
        self.mask_head = MaskHead(channels, classes)

    def forward(self, maps: Sequence[Tensor], proposals: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Detections of every image [d 6]: x0, y0, x1, y1, class, score; the surest first."""
        counts = [len(boxes) for boxes in proposals]
        pooled = torch.cat([regions(maps, boxes, image, size, SIDE) for image, boxes in enumerate(proposals)])
        logits, offsets = self.bbox_head(pooled)
        boxes = BoxCoder(_SPREADS).decode_single(
            offsets.flatten(1), torch.cat(list(proposals))
        ).unflatten(1, (-1, 4))  # fmt: skip
        limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        boxes = boxes.clamp(min=0).minimum(limit)
        scores = logits.softmax(1)[:, :-1]
        return [_best(*pair) for pair in zip(boxes.split(counts), scores.split(counts), strict=True)]

    def masks(self, maps: Sequence[Tensor], image: int, found: Tensor, size: tuple[int, int]) -> Tensor:
        """Of detections [d 6] of one image the masks inside their boxes, probabilities [d 28 28]."""
        logits = self.mask_head(regions(maps, found[:, :4], image, size, MASK_SIDE))
        return logits[torch.arange(len(found)), found[:, 4].long()].sigmoid()


def proposing(channels: int, levels: int, before: int = 1000, after: int = 1000) -> RegionProposalNetwork:
    """The first stage: the best `before` anchors of each level, suppressed per level at 0.7, the best `after` of them."""
    sizes = tuple((32.0 * 2**level,) for level in range(levels))
    # numbers for training are not used
    return RegionProposalNetwork(
        ExactAnchors(sizes, ((0.5, 1.0, 2.0),) * levels), RpnHead(channels), 0.7, 0.3, 256, 0.5,
        {"training": before, "testing": before}, {"training": after, "testing": after}, 0.7,
    )  # fmt: skip


def as_image_list(images: Tensor) -> ImageList:
    """A batch of images of one size as torchvision wants it."""
    return ImageList(images, [(images.shape[2], images.shape[3])] * len(images))


def regions(maps: Sequence[Tensor], boxes: Tensor, image: int, size: tuple[int, int], side: int) -> Tensor:
    """What the maps of one image show inside of boxes [r 4], [r c side side]; a larger box is read from a coarser map.

    RoIAlign with `aligned` and as many samples per place as it is pixels wide. torchvision has it in its extension, and
    without that in a form that takes memory for all pixels of the map per box; this is the same by `grid_sample`.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    level = (areas.sqrt() / FINEST + 1e-6).log2().floor().clamp(0, len(maps) - 1).long()
    out = boxes.new_zeros(len(boxes), maps[0].shape[1], side, side)
    for number, x in enumerate(maps):
        chosen = (level == number).nonzero()[:, 0]
        if len(chosen):
            scale = x.shape[3] / size[1]
            out = out.index_copy(0, chosen, _aligned(x[image], boxes[chosen] * scale - 0.5, side))
    return out


def _aligned(x: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Boxes [r 4] in pixels of the map x [c h w] -> [r c side side]."""
    bins = (boxes[:, 2:] - boxes[:, :2]) / side
    samples = bins.ceil().clamp(min=1).long()
    out = x.new_zeros(len(boxes), len(x), side, side)
    for wide, high in samples.unique(dim=0).tolist():
        group = ((samples[:, 0] == wide) & (samples[:, 1] == high)).nonzero()[:, 0]
        columns = _places(boxes[group, 0], bins[group, 0], side, wide)
        rows = _places(boxes[group, 1], bins[group, 1], side, high)
        values = _bilinear(x, rows, columns)  # [g c rows columns]
        pooled = values.unflatten(3, (side, wide)).mean(4).unflatten(2, (side, high)).mean(3)
        out = out.index_copy(0, group, pooled)
    return out


def _places(start: Tensor, step: Tensor, side: int, samples: int) -> Tensor:
    """Where the samples of all places are along an axis, [g side * samples]."""
    inside = (torch.arange(side * samples, device=start.device) + 0.5) / samples
    return start[:, None] + step[:, None] * inside


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x [c h w] at all pairs of rows [g a] and columns [g b], [g c a b]; zero more than a pixel outside of it."""
    height, width = x.shape[1:]
    outside = ((rows < -1) | (rows > height))[:, :, None] | ((columns < -1) | (columns > width))[:, None, :]
    down = 2 * rows.clamp(0, height - 1) / max(height - 1, 1) - 1
    across = 2 * columns.clamp(0, width - 1) / max(width - 1, 1) - 1
    grid = torch.stack(
        [across[:, None, :].expand(-1, rows.shape[1], -1), down[:, :, None].expand(-1, -1, columns.shape[1])], dim=3
    )
    values = F.grid_sample(x.expand(len(rows), -1, -1, -1), grid, align_corners=True)
    return values.masked_fill(outside[:, None], 0.0)


def _best(boxes: Tensor, scores: Tensor) -> Tensor:
    """Boxes [r k 4] with scores [r k] of one image -> detections [d 6]."""
    region, label = (scores > LEAST_SCORE).nonzero(as_tuple=True)
    chosen, score = boxes[region, label], scores[region, label]
    kept = batched_nms(chosen, score, label, OVERLAP)[:KEPT]
    return torch.cat([chosen[kept], label[kept, None].to(boxes), score[kept, None]], dim=1)


def as_candidates(found: Sequence[Tensor], classes: int) -> Tensor:
    """Detections of every image as candidates [b 100 8+k]: the class that was found has its score's logit, others none."""
    rows = found[0].new_full((len(found), KEPT, 8 + classes), _NOTHING)
    rows[:, :, :8] = 0.0
    out = []
    for empty, one in zip(rows, found, strict=True):
        score = one[:, 5:].clamp(1e-6, 1 - 1e-6)
        own = F.one_hot(one[:, 4].long(), classes).to(one)
        logits = own * score.logit() + (1 - own) * _NOTHING
        out.append(torch.cat([torch.cat([one[:, :4], one[:, :4], logits], dim=1), empty[len(one) :]]))
    return torch.stack(out)
