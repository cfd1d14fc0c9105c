"""Dense models: a backbone hands the maps of its stages, or of some layers of a plain stack, to a head.

A state is the backbone's, followed by the maps that were handed over until then. So a dense model is calibrated block by
block like any other, and what its head sees are maps of blocks that are rounded already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.config import ClassifierConfig
from ouro.models.family import Family, OfficialKey
from ouro.models.features import Backbone
from ouro.models.heads.convs import resized
from ouro.models.heads.rcnn import RoiHead, as_candidates, as_image_list, proposing
from ouro.models.heads.retina import anchors, moved, pyramid, retina_head
from ouro.models.heads.upernet import FCNHead, UPerHead
from ouro.models.layers import Linear, as_map, as_tokens
from ouro.models.shapes import Shapes


@dataclass(frozen=True, slots=True)
class DenseConfig(ClassifierConfig):
    """What every dense model has.

    body: config of the backbone; image, mean and std are those of this config. channels: of the head.
    features: which stages, or layers of a plain stack, are handed over; () for all.
    scales: how many times larger each map is made, for a plain stack whose maps are all of one size: 4, 2, 1 or 0.5.
    """

    body: Any
    channels: int = 512
    features: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()


class DenseModel(Family):
    """A backbone with norms behind its features; a subclass has the head and says what is put out.

    body: the family of the backbone; every pair of backbone and head is a family of its own.
    """

    body: ClassVar[type[Backbone]]
    whole = True
    config: Any
    backbone: Backbone

    def __init__(self, config: Any, name: str, task: str) -> None:
        super().__init__()
        body = type(self).body(replace(config.body, image=config.image, mean=config.mean, std=config.std), name)
        chosen = body.prune_intermediate_layers(config.features or None, prune_norm=True)
        self.config, self.backbone = config, body
        self.num_classes = config.num_classes
        info = config.info(name, body.info.family, body.info.stages, body.info.cls_index)
        self.info = replace(info, task=task)
        places = [body.feature_info[index] for index in chosen]
        self._widths: list[int] = [place["num_chs"] for place in places]
        self.outs = nn.ModuleList(nn.LayerNorm(width) for width in self._widths)
        if config.scales and len(config.scales) != len(places):
            raise ValueError(
                f"scales are for {len(config.scales)} features, there are {len(places)}; give one for each"
            )
        self.rescale = nn.ModuleList(
            Rescale(width, scale) for width, scale in zip(self._widths, config.scales, strict=False)
        )
        self._places = {place["module"]: (number, chosen[number]) for number, place in enumerate(places)}

    @property
    def widths(self) -> list[int]:
        """Channels of the maps."""
        return self._widths

    def stem(self, images: Tensor) -> tuple[Any, ...]:
        self.check_images(images)
        return self.backbone.stem(images)

    def blocks(self) -> dict[str, nn.Module]:
        return dict(self._walk())

    def tail(self, *state: Any) -> Sequence[Tensor]:  # type: ignore[override]
        """The last state -> the maps [b c h w] that the head takes."""
        return state[self.backbone.state_parts :]

    def pooled(self, maps: Sequence[Tensor]) -> Tensor:
        """Features [b c] of the coarsest map."""
        return maps[-1].mean((2, 3))

    def _walk(self) -> Iterator[tuple[str, nn.Module]]:
        for path, block in self.backbone.blocks().items():
            yield f"backbone.{path}", _Step(self, block, self._places.get(path))

    def handed(self, number: int, index: int, *state: Any) -> Tensor:
        """The map of feature `index`, the `number`-th that the head takes."""
        tokens = self.outs[number](self.backbone.spatial(*state))
        out = as_map(tokens, self.backbone.feature_grid(index))
        return self.rescale[number](out) if len(self.rescale) else out

    @classmethod
    def official_name(cls, key: str) -> str:
        if key.startswith("backbone."):
            return "backbone." + cls.body.official_name(key.removeprefix("backbone."))
        return cls.head_name(_OUT.sub(r"backbone.outnorm\1.", key))

    @classmethod
    def head_name(cls, key: str) -> str:
        """Official name of a tensor of the head."""
        return key

    def official(self, key: str) -> OfficialKey:
        if not key.startswith("backbone."):
            return OfficialKey(self.official_name(key))
        inner = self.backbone.official(key.removeprefix("backbone."))
        return replace(inner, key=f"backbone.{inner.key}")

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """As the backbone's family does it for what is the backbone's; the head's names are translated one by one."""
        outs = {self.official_name(key): key for key in self.state_dict() if not key.startswith("backbone.")}
        inner = {key: x for key, x in state.items() if key.startswith("backbone.") and key not in outs}
        body = self.backbone.from_official({key.removeprefix("backbone."): x for key, x in inner.items()})
        rest = {outs.get(key, key): x for key, x in state.items() if key not in inner}
        return {f"backbone.{key}": x for key, x in body.items()} | rest

    @classmethod
    def config_from(cls, shapes: Shapes, config: Any) -> Any:
        body = cls.body.config_from(shapes.inside("backbone.", cls.body.official_name), config.body)
        # a backbone says nothing of classes, and of the image only where it has a position embedding
        image = body.image if body.image != config.body.image else config.image
        return cls.head_from(
            shapes, replace(config, body=replace(body, num_classes=config.body.num_classes), image=image)
        )

    @classmethod
    def head_from(cls, shapes: Shapes, config: Any) -> Any:
        """`config` with all that the tensors of the head say."""
        return config

    def begin_from(self, classifier: Backbone) -> None:
        """Takes over the weights of a classifier with the same backbone.

        Raises:
            ValueError: it is another one.
        """
        own, given = self.backbone.state_dict(), classifier.state_dict()
        if missing := [key for key in own if key not in given or given[key].shape != own[key].shape]:
            raise ValueError(f"{classifier.info.name} is not the backbone of {self.info.name}: {missing[0]!r} differs")
        self.backbone.load_state_dict({key: given[key] for key in own})


_OUT = re.compile(r"^outs\.(\d+)\.")


class _Step(nn.Module):
    """A block of the backbone as it acts on the state of the whole; made anew for every walk, it owns nothing."""

    def __init__(self, model: DenseModel, block: nn.Module, place: tuple[int, int] | None) -> None:
        super().__init__()
        self.block = block
        # a list hides the model from torch, which would take it for a part of its own part
        self._model, self.place = [model], place

    def forward(self, *state: Any) -> tuple[Any, ...]:
        (model,) = self._model
        parts = model.backbone.state_parts
        inner = self.block(*state[:parts])
        handed = () if self.place is None else (model.handed(*self.place, *inner),)
        return (*inner, *state[parts:], *handed)


class Rescale(nn.Module):
    """A map 4, 2, 1 or 0.5 times as large, as plain vision transformers are given a pyramid.

    Source: BEiT's backbone for UPerNet: transposed convolutions of stride 2 (here as what they are, a linear layer per
    place whose outputs are laid out as 2 x 2), batch norm and GELU between two; max pooling for a smaller map.
    """

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        if scale not in (4, 2, 1, 0.5):
            raise ValueError(f"scale is {scale}, expected 4, 2, 1 or 0.5")
        self.scale = scale
        self.grow = nn.ModuleList(
            Linear(width, 4 * width, bias=True, site="decoder") for _ in range({4: 2, 2: 1}.get(int(scale), 0))
        )
        self.norm = nn.BatchNorm2d(width) if scale == 4 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == 0.5:
            return F.max_pool2d(x, 2, ceil_mode=True)
        for number, linear in enumerate(self.grow):
            grid = (x.shape[2], x.shape[3])
            x = F.pixel_shuffle(as_map(linear(as_tokens(x)), grid), 2)
            if number == 0 and self.norm is not None:
                x = F.gelu(self.norm(x))
        return x


@dataclass(frozen=True, slots=True)
class SegmenterConfig(DenseConfig):
    """A backbone with UPerNet.

    pools: sides that the coarsest map is pooled to. aux: channels of the head that trains along, 0 for none; it looks at
    the map before the coarsest one.
    """

    pools: tuple[int, ...] = (1, 2, 3, 6)
    aux: int = 256


class Segmenter(DenseModel):
    """Images [b 3 h w] -> logits of classes [b k h w] for every pixel."""

    mark = "decode_head.conv_seg.weight"
    answers = classifier = ("decode_head.conv_seg.", "auxiliary_head.conv_seg.")

    def __init__(self, config: SegmenterConfig, name: str = "segmenter") -> None:
        super().__init__(config, name, "segmentation")
        self.decode_head = UPerHead(self.widths, config.channels, config.num_classes, config.pools)
        seen = max(0, len(self.widths) - 2)
        self.auxiliary_head = FCNHead(self.widths[seen], config.aux, config.num_classes) if config.aux else None
        self._aux_sees = seen

    def forward_head(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:  # type: ignore[override]
        """Pooled features [b c], or logits [b k h w] at the size of the image."""
        if pre_logits:
            return self.pooled(maps)
        return resized(self.decode_head(maps), self.info.input_size[1:])

    def learning(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of both heads, each [b k h w]; None for a head that is not there."""
        maps: Any = self.forward_features(images)
        logits = self.forward_head(maps)
        if self.auxiliary_head is None:
            return logits, None
        return logits, resized(self.auxiliary_head(maps[self._aux_sees]), self.info.input_size[1:])

    @classmethod
    def head_from(cls, shapes: Shapes, config: SegmenterConfig) -> SegmenterConfig:
        """Everything but the sides of the pools, which leave no trace in a checkpoint.

        Raises:
            ValueError: there are more or fewer pools than are known.
        """
        pools = shapes.count("decode_head.psp_modules.")
        if pools not in (0, len(config.pools)):
            raise ValueError(
                f"it has {pools} pools, their sides are known for {len(config.pools)}; give pools, one side each"
            )
        return replace(
            config,
            channels=shapes.size("decode_head.bottleneck.conv.weight", 0, config.channels),
            aux=shapes.size("auxiliary_head.conv_seg.weight", 1, 0),
            num_classes=shapes.size("decode_head.conv_seg.weight", 0, config.num_classes),
        )


@dataclass(frozen=True, slots=True)
class DetectorConfig(DenseConfig):
    """A backbone with RetinaNet.

    more: coarser maps than the backbone's, 0, 1 or 2. scale: side of the smallest square anchor in strides of its map.
    """

    more: int = 2
    scale: float = 4.0


class Detector(DenseModel):
    """Images [b 3 h w] -> candidates [b a 8+k]: the anchor, the box it was moved to (each x0, y0, x1, y1 in pixels; inside
    the image unless in training), and a logit for each class. What of it is a detection is for the task to say.
    """

    mark = "head.classification_head.cls_logits.weight"
    answers = classifier = ("head.classification_head.cls_logits.",)

    def __init__(self, config: DetectorConfig, name: str = "detector") -> None:
        super().__init__(config, name, "detection")
        self.fpn = pyramid(self.widths, config.channels, config.more)
        self.head = retina_head(config.channels, config.num_classes)

    def forward_head(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:  # type: ignore[override]
        """Pooled features [b c], or candidates [b a 8+k]."""
        if pre_logits:
            return self.pooled(maps)
        levels = list(self.fpn({str(number): x for number, x in enumerate(maps)}).values())
        found = self.head(levels)
        grids = [(x.shape[2], x.shape[3]) for x in levels]
        size = self.info.input_size[1:]
        strides = [round(max(size) / max(grid)) for grid in grids]
        boxes = anchors(strides, grids, size, self.config.scale).to(maps[0])
        moved_boxes = moved(found["bbox_regression"], boxes)
        if not self.training:
            # in training a box outside of the image still has to find its way back
            limit = moved_boxes.new_tensor([size[1], size[0], size[1], size[0]])
            moved_boxes = moved_boxes.clamp(min=0).minimum(limit)
        return torch.cat([boxes.expand_as(moved_boxes), moved_boxes, found["cls_logits"]], dim=2)

    @classmethod
    def head_from(cls, shapes: Shapes, config: DetectorConfig) -> DetectorConfig:
        channels = shapes.size("fpn.layer_blocks.0.0.weight", 0, config.channels)
        outputs = shapes.size("head.classification_head.cls_logits.weight", 0, 9 * config.num_classes)
        more = 2 if "fpn.extra_blocks.p7.weight" in shapes else min(config.more, 1)
        return replace(config, channels=channels, num_classes=outputs // 9, more=more)


@dataclass(frozen=True, slots=True)
class MaskRCNNConfig(DenseConfig):
    """A backbone with Mask R-CNN. hidden: of the two layers behind a region. proposals: regions looked at, at most."""

    channels: int = 256
    hidden: int = 1024
    proposals: int = 1000


class MaskRCNN(DenseModel):
    """Images [b 3 h w] -> the best hundred detections as candidates [b 100 8+k], see `Detector`; for inference.

    mmdetection's checkpoints load as they are. What differs from it: images have one size, into which pictures are fitted.
    """

    mark = "rpn_head.rpn_conv.weight"
    answers = classifier = (
        "roi_head.bbox_head.fc_cls.", "roi_head.bbox_head.fc_reg.", "roi_head.mask_head.conv_logits.",
    )  # fmt: skip

    def __init__(self, config: MaskRCNNConfig, name: str = "mask_rcnn") -> None:
        super().__init__(config, name, "detection")
        self.fpn = pyramid(self.widths, config.channels, 1)
        proposing_ = proposing(config.channels, len(self.widths) + 1, 1000, config.proposals)
        self.rpn_head = proposing_.head
        # its head is ours already, under the name that mmdetection gives it
        self._rpn = [proposing_]
        self.roi_head = RoiHead(config.channels, config.hidden, config.num_classes)

    def forward_head(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:  # type: ignore[override]
        """Pooled features [b c], or candidates [b 100 8+k]."""
        if pre_logits:
            return self.pooled(maps)
        return as_candidates(self._detected(self._levels(maps)), self.config.num_classes)

    def instances(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Detections [d 6] of every image, and their masks inside of their boxes, probabilities [d 28 28]."""
        levels = self._levels(self.forward_features(images))  # type: ignore[arg-type]
        size = self.info.input_size[1:]
        found = self._detected(levels)
        return [(one, self.roi_head.masks(levels[:-1], number, one, size)) for number, one in enumerate(found)]

    def _levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return list(self.fpn({str(number): x for number, x in enumerate(maps)}).values())

    def _detected(self, levels: list[Tensor]) -> list[Tensor]:
        (rpn,), size = self._rpn, self.info.input_size[1:]
        canvas = levels[0].new_empty(len(levels[0]), 1, *size)
        proposals, _ = rpn.eval()(as_image_list(canvas), {str(number): x for number, x in enumerate(levels)})
        return self.roi_head(levels[:-1], proposals, size)

    @classmethod
    def head_name(cls, key: str) -> str:
        return _FPN.sub(lambda match: f"neck.{_FPN_PARTS[match[1]]}.{match[2]}.conv.", key)

    @classmethod
    def head_from(cls, shapes: Shapes, config: MaskRCNNConfig) -> MaskRCNNConfig:
        return replace(
            config,
            channels=shapes.size("rpn_head.rpn_conv.weight", 0, config.channels),
            hidden=shapes.size("roi_head.bbox_head.fc_cls.weight", 1, config.hidden),
            num_classes=shapes.size("roi_head.bbox_head.fc_cls.weight", 0, config.num_classes + 1) - 1,
        )


_FPN = re.compile(r"^fpn\.(inner_blocks|layer_blocks)\.(\d+)\.0\.")
_FPN_PARTS = {"inner_blocks": "lateral_convs", "layer_blocks": "fpn_convs"}
"""torchvision's names of a feature pyramid's convolutions -> mmdetection's."""
