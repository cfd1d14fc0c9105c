"""OuroMamba-Gen: contrast patches by the implicit attention of the patched hidden state, under a class prior.

Source: OuroMamba (arXiv 2503.10959) section 3, methods G3-G12. The feature of a patch is either its row of the
patched attention alpha_p, as in the paper, or y_p = C h_p, which needs no [p p] matrix per channel and is the default
on CPUs; `features` says which one made a set.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ouro.attention.patched import WEIGHTS, alpha_p, patch_window
from ouro.gen.losses import patch_contrast, target_class, total_variation
from ouro.scan import selective_scan
from ouro.types import ScanInputs, ScanRecord, Trace
from ouro.vision import VisionModel

FEATURES = ("y_p", "alpha_p")
# PSAQ-ViT's weight 0.05 on its own scale, where white noise has 12371
_NOISE_VARIATION = 12371


class OuroMambaGen:
    """Loss terms L_C (patch contrast), L_O (class) and L_TV (smoothness).

    Args:
        features: "y_p" or "alpha_p".
        window: side of the neighborhood of h_p and of the candidates for positives.
        positives: positives per patch.
        weights: "delta" or "uniform" weights inside the window.
        blocks: how many mixers feed the contrast, evenly spaced; 0 takes all.
        channels: how many channels per scan feed "y_p", drawn by the seed; 0 takes all.

    Raises:
        ValueError: an option outside its range.
    """

    def __init__(
        self, model: VisionModel, *, seed: int = 0, features: str = "y_p", window: int = 5, positives: int = 12,
        weights: str = "delta", temperature: float = 0.1, blocks: int = 4, channels: int = 64,
        class_weight: float = 1.0, smooth_weight: float = 0.05, class_loss: str = "cross_entropy",
    ) -> None:  # fmt: skip
        if features not in FEATURES:
            raise ValueError(f"unknown features {features!r}; known: {', '.join(FEATURES)}")
        mixers = model.mixers()
        side = min(min(orders[0].grid) for orders in mixers.values())
        if window % 2 == 0 or not 3 <= window <= side:
            raise ValueError(f"window is {window}, expected an odd number from 3 to {side} (the model's smallest grid)")
        if weights not in WEIGHTS:
            raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHTS)}")
        if not 1 <= positives < window**2:
            raise ValueError(f"positives is {positives}, expected 1 to {window**2 - 1} (the window without its center)")
        self.features, self.window, self.positives, self.weights = features, window, positives, weights
        self.temperature, self.channels, self.seed = temperature, channels, seed
        self.class_weight, self.smooth_weight, self.class_loss = class_weight, smooth_weight, class_loss
        paths = list(mixers)
        count = min(blocks, len(paths)) or len(paths)
        chosen = [paths[-(-(i + 1) * len(paths) // count) - 1] for i in range(count)]
        self.patterns = tuple(f"{path}.scans.*" for path in chosen)

    def losses(
        self, trace: Trace, logits: Tensor, labels: Tensor, images: Tensor, smooth: Tensor
    ) -> Mapping[str, Tensor]:
        """Weighted terms per sample; see `Objective`."""
        off = (total_variation(images) - smooth).abs()
        return {
            "contrast": self._contrast(trace),
            "class": self.class_weight * target_class(logits, labels, self.class_loss),
            "smooth": self.smooth_weight * _NOISE_VARIATION * off,
        }

    def _contrast(self, trace: Trace) -> Tensor:
        """Mean over blocks; the scans of one block are merged in raster order first (G6)."""
        by_block: dict[str, list[ScanRecord]] = {}
        for scan in trace.scans:
            by_block.setdefault(scan.path.rpartition(".scans.")[0], []).append(scan)
        per_block = []
        for number, scans in enumerate(by_block.values()):
            merged = torch.stack([self._feature(scan, number) for scan in scans]).mean(0)
            per_block.append(
                patch_contrast(
                    merged, scans[0].order.grid,
                    window=self.window, positives=self.positives, temperature=self.temperature,
                )
            )  # fmt: skip
        return torch.stack(per_block).mean(0)

    def _feature(self, scan: ScanRecord, number: int) -> Tensor:
        """One vector per patch in raster order, [b p f]."""
        if self.features == "alpha_p":
            return alpha_p(scan, self.window, self.weights)
        inputs, window = scan.inputs, patch_window(scan, self.window, self.weights)
        if self.channels and self.channels < inputs.u.shape[1]:
            stream = torch.Generator().manual_seed(self.seed * 1000 + number)
            drawn = torch.randperm(inputs.u.shape[1], generator=stream)[: self.channels]
            inputs = ScanInputs(inputs.u[:, drawn], inputs.delta[:, drawn], inputs.A[drawn], inputs.B, inputs.C, None)
        y_p = selective_scan(inputs, window=window).y_p
        assert y_p is not None
        return y_p.transpose(1, 2)
