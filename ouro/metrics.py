"""What scores are called, and how they are written: one line for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """title: for people. share: a part of 1, written in percent. larger_is_better: else smaller is."""

    title: str
    share: bool = True
    larger_is_better: bool = True

    def shown(self, value: float | None) -> str:
        """A value for people: "97.6 %", "3.14", "-" where there is none."""
        if value is None:
            return "-"
        return f"{100 * value:.1f} %" if self.share else f"{value:.3g}"

    @property
    def factor(self) -> float:
        """What a value is multiplied by on an axis: shares are drawn in percent."""
        return 100.0 if self.share else 1.0

    @property
    def axis(self) -> str:
        """What stands at an axis: "mIoU, %"; where less is better, that it is."""
        words = f"{self.title}, %" if self.share else self.title
        return words if self.larger_is_better else f"{words} (less is better)"

    def better(self, value: float) -> float:
        """The value with a sign under which larger is better."""
        return value if self.larger_is_better else -value

    def gap(self, value: float) -> str:
        """A difference for people: "+1.2" in points of percent, or in units of the score."""
        return f"{100 * value:+.1f}" if self.share else f"{value:+.3g}"


METRICS = {
    "top1": Metric("top-1"),
    "miou": Metric("mIoU"),
    "ap": Metric("AP"),
    "frechet": Metric("Fréchet distance", share=False, larger_is_better=False),
}
"""Name of a task's main score -> what it is."""


def shown_score(name: str, value: float | None) -> str:
    """A score with its name: "mIoU 84.1 %", "-" where there is none."""
    return "-" if value is None else f"{METRICS[name].title} {METRICS[name].shown(value)}"


def damaged(values: Mapping[str, Any]) -> str:
    """The name of the score that a report of `ouro.jobs.sensitivity` says the drops of."""
    return next(name for name in METRICS if f"fp_{name}" in values)


def metric_of(values: object) -> str:
    """The name of a report's main score; reports from before there were several have top-1."""
    return values.get("metric", "top1") if isinstance(values, dict) else "top1"
