"""How long quantizing and measuring will take: in forwards of the model, and by its pace on this machine in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench import engine, stored

CALIBRATION = {
    "minmax": 4, "percentile": 5, "clipped": 6, "dynamic": 5, "smoothquant": 6, "quamba": 6, "qmamba": 5, "brecq": 1500,
    "ptq4vm": 400, "kscale": 8, "ouro": 42, "ouro_plus": 84,
}  # fmt: skip
"""Forwards of an image that a method spends on each calibration image, as measured with vim_nano at w4a4o8; of brecq as
its steps say, each a forward and a backward of one chunk."""
_AT_ONCE = {"brecq": 32}
"""Images of such a step, of a method that takes as many steps for any set."""
_OTHER = 30
_ROUNDED = 1.5
"""Forwards of the float model that one with simulated rounding takes; the float model itself goes beside it."""
_SET = 64
"""Images of a set that nobody knows the size of."""
_OPENING = 2.0
"""Seconds for opening models and writing a file, per configuration."""
_WIDE = (0.6, 1.8)
"""What an estimate is multiplied by at both ends: methods, scopes and models differ that much from the above."""
_NARROW = (0.8, 1.3)
"""The same after the method was seen at work on the model."""

_SEEN: dict[tuple[str, str], tuple[float, float]] = {}
"""(model, method) -> forwards per calibration image and per measured image, as the last run took them."""


def costs(spec: Mapping[str, Any], images: int) -> tuple[float, float]:
    """Forwards that one configuration takes to be calibrated, and to be measured on so many images."""
    calibrating, measuring = _SEEN.get(
        (spec["model"], spec["method"]), (CALIBRATION.get(spec["method"], _OTHER), 1.0 + _ROUNDED)
    )
    return calibrating * _count(spec), measuring * images


def learn(spec: Mapping[str, Any], images: int, calibrating: float, measuring: float) -> None:
    """Takes the seconds that a configuration took, if the pace of its model is known."""
    known = engine.known_pace(spec["model"])
    if known and images and "budget" not in spec:
        forwards = max(0.0, calibrating - _OPENING) / known["forward"] / _count(spec)
        _SEEN[spec["model"], spec["method"]] = (forwards, measuring / known["judged"] / images)


def estimate(specs: Sequence[Mapping[str, Any]], images: int) -> tuple[float, float]:
    """The least and the most seconds that these configurations of a model may take; measures its pace the first time."""
    low = high = 0.0
    for spec in specs:
        known = engine.pace(spec["model"])
        calibrating, measuring = costs(spec, images)
        seconds = _OPENING + calibrating * known["forward"] + measuring * known["judged"]
        ends = _NARROW if (spec["model"], spec["method"]) in _SEEN else _WIDE
        low, high = low + ends[0] * seconds, high + ends[1] * seconds
    return low, high


def _count(spec: Mapping[str, Any]) -> int:
    """How many images a configuration is calibrated on."""
    number = str(spec["calib"]).rpartition(":")[2]
    known = int(number) if number.isdigit() else None
    if known is None:
        known = next((entry["num"] for entry in stored.sets() if entry["path"] == spec["calib"]), _SET)
    return min(known, _AT_ONCE.get(spec["method"], known))


def about(ends: Iterable[float]) -> str:
    """A range in words: "about 20 to 40 s", "about 50 s to 2 min", "a few seconds"."""
    low, high = (_round(end) for end in ends)
    if high <= 5:
        return "a few seconds"
    (one, unit), (other, last) = _in_words(low), _in_words(high)
    if (one, unit) == (other, last):
        return f"about {one} {unit}"
    return f"about {one} to {other} {last}" if unit == last else f"about {one} {unit} to {other} {last}"


def _round(seconds: float) -> int:
    """As exactly as an estimate is: steps of 5 s below a minute, then of minutes, of ten minutes from an hour on."""
    step = 5 if seconds < 57.5 else 60 if seconds < 3600 else 600
    return max(step, step * round(seconds / step)) if seconds >= 2.5 else 5


def _in_words(seconds: int) -> tuple[str, str]:
    if seconds < 60:
        return str(seconds), "s"
    return (f"{seconds / 60:.0f}", "min") if seconds < 5400 else (f"{seconds / 3600:.1f}", "h")
