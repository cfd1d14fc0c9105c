"""Images that are no squares: everything that is done with a model works on any grid."""

from __future__ import annotations

import pytest
import torch

from ouro.attention import alpha, attention_map, by_mixer
from ouro.evaluate.quality import features
from ouro.models import create_model
from ouro.quant.apply import attach_calibration
from ouro.quant.calibrate import quantize
from ouro.taps import ScanModule, detach, record
from tests import zoo
from tests.testing import assert_close

WIDE = {
    "vim_nano": {"width": 32, "depth": 2},
    "localvim_tiny": {"width": 32, "patch": 4, "directions": (("v_flip", "w3"),) * 2},
    "vmamba_nano": {"width": 16, "depths": (1, 1)},
    "localvmamba_nano": {"width": 16, "depths": (1, 1), "directions": (("v_flip", "w3"),) * 2},
    "mambavision_nano": {"width": 16, "stem": 8, "depths": (2, 2), "heads": (2, 2), "windows": (14, 7)},
    "zigma_zigzag8": {"width": 32, "depth": 3},
}
SIZES = {"zigma_zigzag8": (4, 6), "localvmamba_nano": (12, 20)}


@pytest.fixture(params=WIDE)
def model(request):
    torch.manual_seed(0)
    size = SIZES.get(request.param, (16, 24))
    classes = {} if request.param == "zigma_zigzag8" else {"num_classes": 5}
    model = create_model(request.param, image=size, **WIDE[request.param], **classes)
    assert model.info.input_size[1:] == size
    with torch.no_grad():
        for parameter in model.parameters():
            # a modulation that starts at zero would hide the mixers
            parameter.add_(0.1 * torch.randn_like(parameter) if not parameter.any() else 0)
    return model


def test_scans_read_the_grid_and_attention_lies_on_it(model) -> None:
    images = zoo.inputs(model, 2)
    with torch.no_grad(), record(model, "*.scans.*") as trace:
        model(images)
    grids = {stage.grid for stage in model.info.stages}
    assert all(height != width for height, width in grids)
    for scan in trace.scans:
        rebuilt = torch.einsum("beij,bej->bei", alpha(scan, None), scan.inputs.u)
        assert_close(rebuilt + scan.inputs.D[:, None] * scan.inputs.u, scan.y, rtol=1e-4, atol=1e-5, name=scan.path)
    for scans in by_mixer(trace.scans).values():
        grid = scans[0].order.grid
        # windows of MambaVision are squares of their own, where several lie on the map
        assert grid in grids or model.info.family == "mambavision"
        for source in ("h", "h_p"):
            weights = attention_map(scans, source, "received", window=3).weights
            assert weights.shape[1:] == grid and weights.isfinite().all()


def test_the_loop_over_tokens_agrees(model) -> None:
    images = zoo.inputs(model, 2)
    with torch.no_grad():
        compiled = model(images)
        for module in model.modules():
            if isinstance(module, ScanModule):
                module.backend = "reference"
        assert_close(model(images), compiled, rtol=1e-4, atol=2e-5, name="output")


def test_it_is_quantized_as_any_other(model) -> None:
    images = zoo.inputs(model, 2)
    with torch.no_grad():
        exact = model(images)
        calibration = quantize(model, images, method="dynamic", bits="w8a8", scope="full")
        rounded = attach_calibration(model, calibration)(images)
        assert rounded.isfinite().all() and not torch.equal(rounded, exact)
        detach(model)
        assert torch.equal(model(images), exact)


def test_it_comes_back_from_its_own_file(model, tmp_path) -> None:
    torch.save({"model": zoo.official(model)}, tmp_path / "x.pth")
    extra = {
        key: WIDE[model.info.name][key] for key in ("directions", "heads", "windows") if key in WIDE[model.info.name]
    }
    again = create_model(model.info.name, pretrained=tmp_path / "x.pth", image=model.config.image, **extra)
    images = zoo.inputs(model, 2)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
        assert torch.equal(features(again, images), model.features(images))
