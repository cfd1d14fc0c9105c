"""A task is one file and one line: evaluation, sensitivity, quantization and generation know no other way to judge."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ouro
from ouro.evaluate.accuracy import outcomes
from ouro.evaluate.sensitivity import sensitivity
from ouro.gen.synthesize import recognized
from ouro.models import create_model
from ouro.progress import finish
from ouro.registry import TASKS
from ouro.tasks import Task, task_of
from tests.zoo import small

ROOT = Path(__file__).resolve().parents[3]


class MeanColor(Task):
    """Regression of three numbers; an image is right where all are within a half."""

    name = "mean color"
    metric = "within"

    def answer(self, output: Tensor, info: Any) -> dict[str, Any]:
        return {"color": output.tolist()}

    def shown(self, outputs: Tensor) -> Tensor:
        return outputs

    def told(self, target: Tensor, info: Any) -> dict[str, Any]:
        return {"color": target.tolist()}

    def require(self, dataset: Any, source: str, info: Any) -> None:
        pass

    def draw(self, info: Any, seed: int, first: int, count: int) -> Tensor:
        return torch.stack([torch.full((3,), 0.1 * ((seed + first + i) % 7)) for i in range(count)])

    def loss(self, outputs: Tensor, targets: Tensor, kind: str = "") -> Tensor:
        return (outputs - targets).square().sum(-1)

    def teach(self, model: Any, batch: Any, smoothing: float) -> tuple[Tensor, Tensor]:
        outputs = model(batch.inputs)
        return self.loss(outputs, batch.labels).mean(), outputs.detach()

    def divergence(self, exact: Tensor, rounded: Tensor) -> Tensor:
        return (exact - rounded).double().square().sum(-1)

    def agreement(self, exact: Tensor, rounded: Tensor) -> Tensor:
        return ((exact - rounded).abs().amax(-1) < 0.5).double()

    def outcomes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.cpu() - targets.cpu()).abs().amax(-1)

    def score(self, outcomes: Tensor) -> dict[str, Any]:
        share = (outcomes < 0.5).double().mean().item()
        return {"n": len(outcomes), "within": share, "ci95": [0.0, 1.0]}


@pytest.fixture
def colors(monkeypatch):
    """A tiny model whose task is registered by one line."""
    monkeypatch.setattr(TASKS, "_targets", dict(TASKS._targets))
    monkeypatch.setattr(sys.modules[__name__], "MeanColor", MeanColor)
    monkeypatch.setitem(sys.modules, "mean_color", sys.modules[__name__])
    TASKS.add("mean color", "mean_color:MeanColor")
    model = create_model("vim_nano", width=32, depth=2, image=20, num_classes=3, class_names=())
    model.info = replace(model.info, task="mean color")
    return model


def test_everything_asks_the_task(colors):
    made = ouro.synthesize(colors, num=3, steps=2, batch=3)
    assert made.labels.shape == (3, 3)
    assert 0 <= recognized(colors, made.images, made.labels) <= 1
    calibration = ouro.quantize(colors, made.images, method="minmax", bits="w4a4")
    seen = torch.cat(list(outcomes(colors, [(made.images, made.labels)])))
    assert task_of(colors).score(seen)["n"] == 3
    result = finish(sensitivity(colors, calibration, made.images, made.labels, by="group"))
    exact = colors(made.images)
    rounded = ouro.attach_calibration(colors, calibration)(made.images)
    assert result.whole.kl == pytest.approx((exact - rounded).double().square().sum(-1).mean().item(), rel=1e-5)
    assert result.score == task_of(colors).primary(seen)


def test_the_class_term_is_the_tasks_loss(colors):
    from ouro.gen.methods.class_prior import ClassPrior
    from ouro.taps import record

    images = torch.randn(2, 3, 20, 20)
    with record(colors, "head.*") as trace:
        outputs = colors(images)
    targets = torch.zeros(2, 3)
    terms = ClassPrior(colors).losses(trace, outputs, targets, images, torch.zeros(2))
    assert torch.equal(terms["class"], MeanColor().loss(outputs, targets))


def test_a_model_of_a_task_that_is_not_here_says_so():
    info = replace(small("vim_nano").info, task="captions")
    with pytest.raises(
        ValueError, match="^vim_nano is for captions, which cannot be scored here; known: classification"
    ):
        task_of(info)


def test_nothing_but_a_task_picks_the_largest_logit():
    """argmax elsewhere is over candidates of a search, or of geometry and drawing."""
    allowed = re.compile(r"ouro/(tasks|quant|attention|figures)/|ouro/data/scenes\.py")
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "ouro").rglob("*.py"))
        if not allowed.search(path.as_posix())
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if "argmax(" in line or "F.cross_entropy(" in line
    ]
    assert not places, f"argmax or cross-entropy outside of the tasks: {', '.join(places)}"


def test_what_is_no_model_of_ours_has_no_task() -> None:
    for model in (torch.nn.Linear(2, 2), torch.nn.DataParallel(small("vim_nano"))):
        with pytest.raises(
            ValueError, match=f"^a {type(model).__name__} is no model of ours; give what ouro.create_mod"
        ):
            task_of(model)
