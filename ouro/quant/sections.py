"""The parts of a model that are calibrated at once, and what their taps see of the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ouro.quant.learning import Run, State
from ouro.quant.plan import is_rounded
from ouro.taps import Tap, record, taps
from ouro.types import QuantPlan, QuantSpec, ScanInputs
from ouro.vision import VisionModel, judging

_OPERANDS = ("u", "delta", "A", "B", "C")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the model that is calibrated at once: a block, or what comes before or after all blocks."""

    name: str
    run: Run
    sites: Mapping[str, tuple[Tap, QuantSpec]]


def chunked(size: int, *inputs: Tensor, device: torch.device) -> list[State]:
    """Images, and what a model is given beside them, as the states that the stem takes, `size` images in each.

    Raises:
        ValueError: there is not one of each for every image.
    """
    counts = [len(tensor) for tensor in inputs]
    if len(set(counts)) > 1:
        raise ValueError(
            f"{counts[0]} images with {', '.join(map(str, counts[1:]))} conditions; give one for each image"
        )
    return [tuple(part.to(device) for part in parts) for parts in zip(*(x.split(size) for x in inputs), strict=True)]


def sections(model: VisionModel, plan: QuantPlan, *image: Tensor) -> list[Section]:
    """Stem, blocks and head, each with the taps that the plan rounds.

    image: one, and what the model is given beside it; it shows which tap belongs to the stem.
    """
    rounded = {
        path: (tap, plan.sites[path])
        for path, tap in taps(model)
        if path in plan.sites and is_rounded(plan.sites[path])
    }
    image = tuple(given.to(model.device) for given in image)
    blocks = model.blocks()
    owned = {name: {path: site for path, site in rounded.items() if path.startswith(name + ".")} for name in blocks}
    outer = {path: site for path, site in rounded.items() if not any(path in sites for sites in owned.values())}
    with judging(model):
        first = _firing({path: tap for path, (tap, _) in outer.items()}, lambda: model.stem(*image))
    return [
        Section("stem", model.stem, {path: site for path, site in outer.items() if path in first}),
        *(Section(name, block, owned[name]) for name, block in blocks.items()),
        Section(
            "head",
            lambda *state: (model.forward_head(model.tail(*state)),),
            {path: site for path, site in outer.items() if path not in first},
        ),
    ]


def _firing(chosen: Mapping[str, Tap], run: Callable[[], Any]) -> set[str]:
    """Which of the taps a tensor passes."""
    fired: set[str] = set()

    def listen(path: str) -> Any:
        return chosen[path].register_forward_hook(lambda *_: fired.add(path))

    handles = [listen(path) for path in chosen]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return fired


class Looker:
    """Records what a section's taps see of the calibration images, on demand, through the quantized chain."""

    def __init__(self, model: nn.Module, part: Section, states: Sequence[State]) -> None:
        self.model, self.part, self.states = model, part, states
        self.known = dict(taps(model))
        self.floats: dict[str, Tensor] = {}

    def at(self, paths: Sequence[str]) -> dict[str, list[Tensor]]:
        """Tap path -> tensors, chunk by chunk of images; one for what is the same for every image."""
        if not paths:
            return {}
        fed = any("b" in self.known[path].axes for path in paths)
        seen: dict[str, list[Tensor]] = {path: [] for path in paths}
        for state in self.states if fed else self.states[:1]:
            with torch.no_grad(), record(self.model, *map(literal, paths)) as trace:
                self.part.run(*state)
            for path in paths:
                if "b" in self.known[path].axes or not seen[path]:
                    seen[path].append(trace.tensors[path])
        return seen

    def constant(self, path: str) -> Tensor:
        """A weight or constant, in floating point; one look, the first, brings all that the section rounds."""
        if path not in self.floats:
            wanted = [site for site in (path, *self.part.sites) if "b" not in self.known[site].axes]
            attached = {site: self.known[site].quantizer for site in wanted}
            try:
                for site in wanted:
                    self.known[site].quantizer = None
                self.floats |= {site: chunks[0] for site, chunks in self.at(wanted).items()}
            finally:
                for site, quantizer in attached.items():
                    self.known[site].quantizer = quantizer
        return self.floats[path]

    def scan_paths(self) -> list[str]:
        """Scans of which the section rounds anything."""
        paths = {path.rpartition(".")[0] for path, (tap, _) in self.part.sites.items() if tap.site.startswith("scan.")}
        return sorted(paths)

    def scans(self, path: str) -> list[ScanInputs]:
        """Operands of one scan, chunk by chunk, as they reach the recurrence; D plays no part there."""
        seen = self.at([f"{path}.tap_{name}" for name in _OPERANDS])
        constant = {name: seen[f"{path}.tap_{name}"] for name in _OPERANDS}
        return [
            ScanInputs(*(chunks[index if len(chunks) > 1 else 0] for chunks in constant.values()))
            for index in range(max(map(len, constant.values())))
        ]


def literal(path: str) -> str:
    """A path as a pattern that matches only itself."""
    return path.replace("[", "[[]")
