"""Without labels: how often a quantized model answers as the float model does, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ouro.data import batches, load
from ouro.data.source import open_data
from ouro.jobs.agreement import AgreementSpec, agreement
from ouro.jobs.inputs import open_quantized
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.jobs.sensitivity import SensitivitySpec, measure_sensitivity
from ouro.models import create_model
from ouro.progress import finish


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes as files, without labels."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, scene in enumerate(load("scenes", split="test", size=64).images(0, 12)[0]):
        Image.fromarray(scene.permute(1, 2, 0).numpy()).save(folder / f"p{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("root")
    return finish(quantize(QuantizeSpec("vim_nano", "minmax", "w3a4", calib="noise:8"), root=root)).values["path"]


def test_the_share_is_that_of_equal_answers(pictures: Path, quantized: str) -> None:
    report = finish(agreement(AgreementSpec(quantized, f"folder:{pictures}", batch=5)))
    values = report.values
    assert (values["model"], values["method"], values["n"]) == ("vim_nano", "minmax", 12)
    rounded, _, _ = open_quantized(quantized, device="cpu")
    exact = create_model("vim_nano", pretrained=True)
    images = next(
        batches(open_data(f"folder:{pictures}", "test", exact.info), 12, mean=exact.info.mean, std=exact.info.std)
    )[0]
    with torch.no_grad():
        same = exact(images).argmax(1) == rounded(images).argmax(1)
    assert values["agreement"] == pytest.approx(same.double().mean().item())
    assert torch.equal(report.arrays["same"] == 1, same)
    low, high = values["ci95"]
    assert 0 <= low <= values["agreement"] <= high <= 1 and values["kl"] > 0
    some = finish(agreement(AgreementSpec(quantized, f"folder:{pictures}", limit=3, batch=2))).values
    assert some["n"] == 3


def test_labels_are_not_asked_for_and_not_used(quantized: str) -> None:
    # digits have ten classes, the model has twelve
    assert finish(agreement(AgreementSpec(quantized, "digits", limit=4))).values["n"] == 4


def test_a_float_model_is_refused() -> None:
    with pytest.raises(ValueError, match="vim_nano is no quantized file; the float model agrees with itself"):
        finish(agreement(AgreementSpec("vim_nano")))
    with pytest.raises(ValueError, match="limit is 0, expected 1 or more"):
        AgreementSpec("vim_nano", limit=0)


@pytest.mark.parametrize(("data", "labels"), [("folder", True), ("digits", False)])
def test_sensitivity_needs_no_labels(pictures: Path, tmp_path: Path, data: str, labels: bool) -> None:
    source = f"folder:{pictures}" if data == "folder" else data
    spec = SensitivitySpec(
        "vim_nano", "minmax", "w4a4", calib="noise:8", by="group", data=source, limit=4, labels=labels
    )
    values = finish(measure_sensitivity(spec, root=tmp_path)).values
    assert values["fp_top1"] is None and values["whole"]["top1_drop"] is None and values["whole"]["kl"] > 0
    assert all(row["top1_drop"] is None and row["kl"] >= 0 for row in values["rows"])
