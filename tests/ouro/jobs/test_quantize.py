"""The job writes a file that loads into the same model, audits it, and refuses what it cannot use."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from ouro.data.source import open_data, space_of
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import load_quantized
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.models import create_model
from ouro.quant.apply import weights_digest
from ouro.store import Store, read_json
from ouro.types import Progress, Report
from tests.ouro.jobs.running import finish

KEYS = (
    "model", "method", "bits", "scope", "calib", "n", "effective_bits", "path", "bytes", "seconds", "seed", "audit",
)  # fmt: skip


def test_journey(tiny_zoo, tmp_path):
    spec = QuantizeSpec("vim_nano", "minmax", "w4a8", calib="real:6", seed=3, out=str(tmp_path / "q.safetensors"))
    updates, report = finish(quantize(spec, root=tmp_path))
    assert all(isinstance(update, Progress) for update in updates) and isinstance(report, Report)
    assert [(update.step, update.total) for update in updates] == [(0, 2), (1, 2), (2, 2)]
    values = report.values
    assert tuple(values) == KEYS
    assert values["audit"] == {"sites": 24, "sealed": True}
    assert values["effective_bits"] == {"weights": 4, "activations": 8, "outlier_share": 0, "states": 32}
    assert (values["n"], values["seed"], values["path"]) == (6, 3, spec.out)
    assert values["bytes"] == (tmp_path / "q.safetensors").stat().st_size
    assert report.arrays["block_error"].shape == (2,) and "losses" not in report.arrays
    (run,) = Store(tmp_path).runs()
    assert read_json(run.path / "report.json") == values


def test_the_file_brings_back_the_same_model(tiny_zoo, tmp_path):
    spec = QuantizeSpec("vim_nano", "ouro", "w4a4o8", calib="noise:4", options=(("steps_per_block", 1),))
    _, report = finish(quantize(spec, root=tmp_path))
    assert report.arrays["losses"].shape == (2, 2)
    model, calibration = load_quantized(report.values["path"])
    assert calibration.provenance["calib"] == "noise:4" and calibration.plan.options["steps_per_block"] == 1
    again, _ = load_quantized(report.values["path"])
    images = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), again(images))
        assert not torch.equal(model(images), create_model("vim_nano", pretrained=True)(images))


def test_real_images_are_drawn_by_the_seed_from_the_calibration_split(tiny_zoo):
    model = create_model("vim_nano")
    first, same, other = (calibration_set("real:5", "vim_nano", model, seed).images for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert first.shape == (5, 3, 28, 28) and first.dtype == torch.float32
    named = calibration_set("real:5:scenes", "vim_nano", model, 0).images
    assert torch.equal(named, first)


def test_noise_is_standard_normal(tiny_zoo):
    model = create_model("vim_nano")
    noise = calibration_set("noise", "vim_nano", model, 0).images
    assert noise.shape == (128, 3, 28, 28)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_a_stored_set_is_used_as_it_is(tiny_zoo, tmp_path):
    images, labels = torch.randn(3, 3, 28, 28), torch.arange(3)
    path = tmp_path / "set.safetensors"
    save_file({"images": images, "labels": labels}, path, {"kind": "calibration set"})
    calibration = calibration_set(str(path), "vim_nano", create_model("vim_nano"), 0)
    assert torch.equal(calibration.images, images) and torch.equal(calibration.labels, labels)
    assert calibration.provenance["kind"] == "calibration set"


def test_a_set_of_other_weights_is_taken_and_named(tiny_zoo, tmp_path, caplog):
    path, model = tmp_path / "set.safetensors", create_model("vim_nano", pretrained=True)
    for weights, lines in ((weights_digest(model), []), ("0123456789abcdef", ["made with other weights of vim_nano"])):
        save_file(
            {"images": torch.zeros(2, 3, 28, 28)}, path, {"spec": f'{{"model": "vim_nano", "weights": "{weights}"}}'}
        )
        caplog.clear()
        assert calibration_set(str(path), "vim_nano", model, 0).images.shape == (2, 3, 28, 28)
        assert len(caplog.messages) == len(lines) and all(line in caplog.messages[0] for line in lines)


def test_a_set_that_another_model_made_is_refused(tiny_zoo, tmp_path):
    path = tmp_path / "set.safetensors"
    save_file({"images": torch.zeros(2, 3, 56, 56)}, path, {"spec": '{"model": "vmamba_nano"}'})
    words = "was made by vmamba_nano for itself, not for vim_nano (images (3, 56, 56), vim_nano takes (3, 28, 28))"
    with pytest.raises(ValueError, match=re.escape(f"{path} {words}")):
        calibration_set(str(path), "vim_nano", create_model("vim_nano"), 0)


def test_a_set_of_another_mean_is_refused(tiny_zoo, tmp_path):
    path, model = str(tmp_path / "set.safetensors"), create_model("vim_nano")
    info = replace(model.info, mean=(0.1, 0.2, 0.3))
    save_file({"images": torch.zeros(2, 3, 28, 28)}, path, {"space": space_of(info)})
    words = f"has images of mean [0.1, 0.2, 0.3] and std {list(info.std)}, vim_nano takes {list(model.info.mean)} and "
    with pytest.raises(ValueError, match=re.escape(f"{path} {words}")):
        calibration_set(path, "vim_nano", model, 0)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"images": torch.zeros(2, 3, 56, 56)}, "calibration images are (2, 3, 56, 56), expected (s, 3, 28, 28) "),
        ({"images": torch.full((2, 3, 28, 28), torch.nan)}, "calibration images hold NaN or infinity; "),
        ({"images": torch.zeros(2, 3, 28, 28, dtype=torch.uint8)}, "calibration images are torch.uint8, expected "),
        ({"weights": torch.zeros(2)}, " holds no images but weights; is it a calibration set?"),
    ],
    ids=["shape", "nan", "integers", "other file"],
)
def test_a_set_that_does_not_fit_is_refused(tiny_zoo, tmp_path, tensors, message):
    path = tmp_path / "set.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + re.escape(message)) as caught:
        calibration_set(str(path), "vim_nano", create_model("vim_nano"), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "vim_nana"}, "unknown model 'vim_nana' (did you mean 'vim_nano'?); known: "),
        ({"method": "rtn"}, "unknown quantization method 'rtn'"),
        ({"bits": "four"}, "bits 'four' cannot be read; "),
        ({"scope": "all"}, "unknown scope 'all'; known: lin, ssm, rec, full"),
        ({"options": (("alpha", 1),)}, "method 'minmax' has no option 'alpha'; known: none"),
        (
            {"calib": "real:many"},
            "'real:many' has no count from 1 up; write real:N, noise:N, synthetic:N, ",
        ),
        ({"calib": "noise:0"}, "'noise:0' has no count from 1 up; "),
        ({"calib": "real:99999"}, "99999 calibration images were asked for, scenes has 10000"),
        ({"calib": "real:4:folder"}, "data set 'folder' lacks its PATH; write 'folder:PATH'"),
        (
            {"widths": (3, 99)},
            "widths is 3,99, which does nothing without budget; give budget too, or leave widths out",
        ),
        ({"by": "xyz"}, "by is 'xyz', which does nothing without budget; give budget too, or leave by out"),
        (
            {"floats": "fp16"},
            "floats is 'fp16', which does nothing without packed; give packed too, or leave floats out",
        ),
    ],
    ids=["model", "method", "bits", "scope", "option", "count", "zero", "too many", "folder", "widths", "by", "floats"],
)
def test_wrong_use_is_refused_in_one_line(tiny_zoo, tmp_path, change, message):
    spec = QuantizeSpec(**({"model": "vim_nano", "method": "minmax", "calib": "noise:2"} | change))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        finish(quantize(spec, root=tmp_path))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors.part")) and not list(tmp_path.rglob("report.json"))


def test_a_missing_set_says_what_to_write(tiny_zoo, tmp_path):
    spec = QuantizeSpec("vim_nano", "minmax", calib="reel:128")
    with pytest.raises(ValueError, match=r"^unknown data set 'reel:128'; known: real, noise, synthetic, scenes, "):
        finish(quantize(spec, root=tmp_path))
    spec = QuantizeSpec("vim_nano", "minmax", calib="nowhere/set.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"^there is no calibration set 'nowhere/set.safetensors'; write real:N, "
    ):
        finish(quantize(spec, root=tmp_path))


def test_other_weights_are_refused_on_loading(tiny_zoo, tmp_path):
    spec = QuantizeSpec("vim_nano", "minmax", calib="noise:2", out=str(tmp_path / "q.safetensors"))
    finish(quantize(spec, root=tmp_path))
    model = create_model("vim_nano", pretrained=True)
    save_file({**model.state_dict(), "head.bias": torch.ones(12)}, tiny_zoo)
    with pytest.raises(
        ValueError, match=r"^cannot load .*q\.safetensors: this calibration is of vim_nano with weights"
    ):
        load_quantized(spec.out)


def test_a_truncated_file_is_refused(tiny_zoo, tmp_path):
    path = tmp_path / "q.safetensors"
    finish(quantize(QuantizeSpec("vim_nano", "minmax", calib="noise:2", out=str(path)), root=tmp_path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^cannot load .*q\.safetensors: .* is no readable safetensors file"):
        load_quantized(path)


def test_a_folder_is_seen_as_the_model_wants_it(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 48), (255, 0, 0)).save(tmp_path / "red.png")
    info = create_model("vim_nano").info
    data = open_data(f"folder:{tmp_path}", "test", info)
    assert data.images(0, 1)[0].shape == (1, 3, 56, 56) and data.mean == info.mean


def test_kept_sites_have_their_own_bits_and_runs_of_before_are_found(tiny_zoo, tmp_path):
    spec = QuantizeSpec("vim_nano", "minmax", "w4a4", calib="noise:4")
    finish(quantize(spec, root=tmp_path))
    (before,) = Store(tmp_path).runs()
    assert "keep" not in before.spec() and "keep" not in read_json(before.path / "report.json")
    kept = replace(spec, keep=((r"layers\.0\.", 32), (r"layers\.0\..*in_proj", 8)))
    _, report = finish(quantize(kept, root=tmp_path))
    assert len(Store(tmp_path).runs()) == 2
    assert [(rule["bits"], rule["count"]) for rule in report.values["keep"]] == [(32, 12), (8, 2)]
    sites = load_quantized(report.values["path"])[1].plan.sites
    assert {spec.bits for path, spec in sites.items() if "layers.0." in path and "in_proj" in path} == {8}
    assert {spec.bits for path, spec in sites.items() if "layers.0." in path and "in_proj" not in path} == {32}
    assert {spec.bits for path, spec in sites.items() if "layers.1." in path} == {4}
    assert report.values["audit"]["sealed"] and 4 < report.values["effective_bits"]["weights"] < 8


def test_kept_channels_are_another_run_and_come_back_from_its_file(tiny_zoo, tmp_path):
    spec = QuantizeSpec("vim_nano", "minmax", "w4a4", calib="noise:4", keep=((r"layers\.0\..*in_proj\.tap_in:3,1", 8),))
    reports = [finish(quantize(one, root=tmp_path))[1].values for one in (spec, replace(spec, keep=()))]
    assert len(Store(tmp_path).runs()) == 2
    rule = {"sites": r"layers\.0\..*in_proj\.tap_in", "bits": 8, "count": 1, "channels": [3, 1]}
    assert reports[0]["keep"] == [rule] and reports[0]["audit"] == {"sites": 24, "sealed": True}
    assert reports[0]["effective_bits"]["activations"] > reports[1]["effective_bits"]["activations"] == 4
    sites = load_quantized(reports[0]["path"])[1].plan.sites
    assert {path: spec.channels for path, spec in sites.items() if spec.channels} == {
        "layers.0.mixer.in_proj.tap_in": ((1, 8), (3, 8))
    }
    packed = finish(quantize(replace(spec, packed=True), root=tmp_path))[1].values["packed"]
    assert packed["agreement"] == 1 and packed["max_error"] < 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep": (("layers[", 32),)}, "'layers[' is no regular expression"),
        ({"keep": (("nowhere", 32),)}, "'nowhere' is found in none of 24 sites, such as 'layers.0."),
        ({"keep": (("layers", 16),)}, "'layers' is to be kept at 16 bits, expected 2 to 8, or 32 for float"),
        ({"keep": (("layers", 32),), "budget": 4.0}, "budget and keep both choose"),
        (
            {"keep": ((r"layers\.0\..*in_proj\.tap_in:3,200", 8),), "calib": "noise:999999"},
            "'layers.0.mixer.in_proj.tap_in' has channels 0 to 31, channel 200 is to be kept",
        ),
        (
            {"keep": ((r"in_proj:3", 8),)},
            "'layers.0.mixer.in_proj.tap_w' is a linear.weight; give channels of activations",
        ),
        ({"keep": ((r"in_proj.tap_in:", 8),)}, "names '' as channels, expected whole numbers with commas"),
    ],
)
def test_what_cannot_be_kept_is_refused(tiny_zoo, tmp_path, change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        finish(quantize(QuantizeSpec("vim_nano", "minmax", "w4a4", **{"calib": "noise:4", **change}), root=tmp_path))
