"""Implicit attention of a scan: alpha, its patched form alpha_p, maps over the image, scores against a mask."""

from ouro.attention.implicit import alpha, scan_transition
from ouro.attention.maps import REDUCTIONS, attention_map, by_mixer, delta_map, in_raster, merge, reduce_matrix, rollout
from ouro.attention.patched import WEIGHTS, alpha_p, delta_weights, h_p, patch_window

__all__ = [
    "REDUCTIONS",
    "WEIGHTS",
    "alpha",
    "alpha_p",
    "attention_map",
    "by_mixer",
    "delta_map",
    "delta_weights",
    "h_p",
    "in_raster",
    "merge",
    "patch_window",
    "reduce_matrix",
    "rollout",
    "scan_transition",
]
