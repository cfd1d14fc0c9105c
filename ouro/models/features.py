"""Backbones: families whose blocks lie over grids of patches, with timm's conventions for dense use.

Features are the tokens behind some of the blocks, before a stage is shrunk, as detection and segmentation heads want them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ouro.models.family import Family
from ouro.models.layers import Linear, as_map
from ouro.vision import matrices


class Backbone(Family):
    """A family that can hand out maps [b c h w] of what it makes of an image on its way."""

    head: nn.Module
    state_parts = 1
    """Parts of the state that its blocks take and return."""
    unit = "stage"
    """What a feature is the output of, for messages."""

    @property
    @abstractmethod
    def feature_info(self) -> list[dict[str, Any]]:
        """timm's description of the features: channels, stride, and the module whose output they are."""

    @abstractmethod
    def feature_grid(self, index: int) -> tuple[int, int]:
        """Rows and columns of a feature."""

    @abstractmethod
    def spatial(self, *state: Any) -> Tensor:
        """Of a state the tokens of its grid [b l c], row-major."""

    @abstractmethod
    def normed(self, tokens: Tensor, index: int) -> Tensor:
        """Tokens of a feature behind the final norm, where that is made for them."""

    @abstractmethod
    def keep(self, count: int) -> None:
        """Drops what comes behind the first `count` features."""

    @abstractmethod
    def drop_ends(self, norm: bool, head: bool) -> None:
        """Puts nothing in the place of the final norm, of the classifier, or of both."""

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps, in their order; arguments and results as timm's.

        Args:
            x: images [b 3 h w].
            indices: features wanted, negative from the end; a number for that many of the last, None for all.
            norm: apply the final norm to the maps that it fits: the last of a model of stages, all of a plain stack.
            stop_early: leave out what is behind the last one wanted.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the maps alone, instead of (final tokens [b l c], maps). Tokens of a walk that
                stopped early have not seen the final norm.

        Raises:
            ValueError: another output format, or a feature that does not exist.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is {output_fmt!r}, expected NCHW or NHWC")
        wanted, maps = self._wanted(indices), []
        places = {info["module"]: index for index, info in enumerate(self.feature_info)}
        end = max(wanted) if stop_early else len(places) - 1
        state = self.stem(x)
        for path, block in self.blocks().items():
            state = block(*state)
            index = places.get(path)
            if index in wanted:
                tokens = self.spatial(*state)
                out = as_map(self.normed(tokens, index) if norm else tokens, self.feature_grid(index))
                maps.append(out if output_fmt == "NCHW" else out.permute(0, 2, 3, 1))
            if index == end:
                break
        if intermediates_only:
            return maps
        return self.tail(*state) if end == len(places) - 1 else self.spatial(*state), maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what `forward_intermediates` of these features does not need, and returns them; timm's convention.

        Without the last feature, norm and head go as well: they are made for what it is.

        Raises:
            ValueError: a feature that does not exist.
        """
        wanted = self._wanted(indices)
        cut = max(wanted) + 1 < len(self.feature_info)
        if cut:
            self.keep(max(wanted) + 1)
        self.drop_ends(prune_norm or cut, prune_head or cut)
        if prune_head or cut:
            self._with_classes(0)
        return wanted

    def drop_head(self) -> None:
        """Leaves out the classifier: what was logits are pooled features [b c] then; timm's convention for no classes."""
        self.drop_ends(norm=False, head=True)
        self._with_classes(0)

    @property
    def num_features(self) -> int:
        """Channels of what the classifier looks at."""
        return int(self.feature_info[-1]["num_chs"])

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or nothing in its place; timm's convention, as are the next two."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier of so many classes, drawn anew; 0 for none, see `drop_head`."""
        if not num_classes:
            self.drop_head()
            return
        head = Linear(self.num_features, num_classes, bias=True, site="head", axes="b c")
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.head = head.to(self.device, self.weights_dtype).train(self.training)
        self._with_classes(num_classes)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not to decay."""
        return {path for path, _ in self.named_parameters()} - matrices(self).keys()

    def _with_classes(self, count: int) -> None:
        """Says so, and that nobody knows what they are called; without any, nobody takes features for logits."""
        self.num_classes = count
        self.info = replace(self.info, num_classes=count, class_names=())

    def _wanted(self, indices: int | Sequence[int] | None) -> list[int]:
        """Numbers of the features, ascending."""
        count, name, unit = len(self.feature_info), self.info.name, self.unit
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            if not 0 < indices <= count:
                raise ValueError(f"{indices} last {unit}s wanted, {name} has {count}; a list picks single ones")
            return list(range(count - indices, count))
        if not indices:
            raise ValueError(f"no {unit} wanted; {name} has {unit}s 0 to {count - 1}")
        for index in indices:
            if not -count <= index < count:
                raise ValueError(f"{unit} {index} does not exist, {name} has {unit}s 0 to {count - 1}")
        return sorted({index % count for index in indices})
