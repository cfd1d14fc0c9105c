"""The mixer: rules of rounding on its taps reach the recurrence, and what is recorded there is what entered it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ouro.scan import selective_scan
from ouro.scan.companding import compand
from ouro.scan.discretize import discretize
from ouro.taps import attach, detach, match_taps, record
from ouro.types import Companding, ScanRounding, StateQuantizer
from tests import zoo

RULES = {
    "tap_h": StateQuantizer(torch.tensor([0.02]), 4),
    "tap_A_bar": Companding(3, torch.tensor([0.5]), torch.tensor([1.0]), 2),
    "tap_B_bar": Companding(3, torch.zeros(1), torch.tensor([0.1]), 2, signed=True),
}


class Stating(nn.Module):
    """A quantizer that is a rule and nothing else."""

    def __init__(self, rule: StateQuantizer | Companding) -> None:
        super().__init__()
        self.stated = rule

    def rule(self) -> StateQuantizer | Companding:
        return self.stated


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return zoo.small("vim_nano")


@pytest.fixture
def rounded(model: nn.Module) -> Iterator[nn.Module]:
    """The model with every rule on every scan."""
    quantizers = {path: Stating(rule) for name, rule in RULES.items() for path in match_taps(model, f"*.{name}")}
    yield attach(model, quantizers)
    detach(model)


def output(model: nn.Module, *patterns: str) -> tuple[Tensor, object]:
    with torch.no_grad(), record(model, *patterns) as trace:
        logits = model(zoo.inputs(model))
    return logits, trace


def test_rules_on_the_taps_reach_the_recurrence(rounded: nn.Module) -> None:
    _, trace = output(rounded, "*.scans.*")
    rounding = ScanRounding(*(RULES[name] for name in ("tap_h", "tap_A_bar", "tap_B_bar")))
    for scan in trace.scans:
        assert torch.equal(selective_scan(scan.inputs, rounding=rounding).y, scan.y), scan.path
        assert not torch.equal(selective_scan(scan.inputs).y, scan.y), scan.path


@pytest.mark.parametrize("name", list(RULES))
def test_each_rule_changes_the_output_and_detaching_restores_it(model: nn.Module, name: str) -> None:
    exact, _ = output(model, "head.tap_in")
    attach(model, {path: Stating(RULES[name]) for path in match_taps(model, f"*.{name}")})
    try:
        changed, _ = output(model, "head.tap_in")
    finally:
        detach(model)
    assert changed.isfinite().all() and not torch.equal(changed, exact)
    assert torch.equal(output(model, "head.tap_in")[0], exact)


def test_what_is_recorded_is_what_entered_the_recurrence(rounded: nn.Module) -> None:
    for grid_of in (lambda name: RULES[name], lambda name: None):
        _, trace = output(rounded, "*.scans.*", "*.tap_A_bar", "*.tap_B_bar")
        for scan in trace.scans:
            for name, exact in zip(("tap_A_bar", "tap_B_bar"), discretize(scan.inputs), strict=True):
                grid = grid_of(name)
                expected = exact if grid is None else compand(exact, grid)
                assert torch.equal(trace.tensors[f"{scan.path}.{name}"], expected)
        detach(rounded)


def test_discretized_operands_are_formed_only_when_recorded(model: nn.Module, monkeypatch) -> None:
    formed = []
    monkeypatch.setattr("ouro.models.mixer.discretize", lambda inputs: formed.append(1) or discretize(inputs))
    output(model, "*")
    assert not formed
    output(model, "layers.0.mixer.scans.0.tap_B_bar")
    assert len(formed) == 1
