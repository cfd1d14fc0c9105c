"""The sensitivity job and the budget of `quantize`, by themselves and from the command line."""

from __future__ import annotations

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from ouro.cli import app
from ouro.evaluate.sensitivity import divergence
from ouro.jobs.calibration import calibration_set
from ouro.jobs.evaluate import EvaluateSpec, evaluate
from ouro.jobs.inputs import load_quantized
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.jobs.sensitivity import SensitivitySpec, measure_sensitivity
from ouro.models import create_model
from ouro.quant.quantizer import WEIGHT_SITES
from ouro.store import Store, read_json
from ouro.taps import taps
from ouro.tasks.classification import Classification
from tests.ouro.jobs.running import finish

KEYS = (
    "model", "method", "bits", "scope", "calib", "data", "n", "mode", "by", "fp_top1", "whole", "rows", "seconds",
    "seed",
)  # fmt: skip
ROW = ("name", "block", "kind", "sites", "bits", "kl", "top1_drop", "sqnr_db", "isolated_kl")
SPEC = SensitivitySpec("vim_nano", "minmax", "w4a4", calib="noise:4", by="group", limit=20, batch=8)


def spec(**changes) -> SensitivitySpec:
    fields = {name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__}
    return SensitivitySpec(**fields | changes)


def called(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_journey(tiny_zoo, tmp_path) -> None:
    updates, report = finish(measure_sensitivity(SPEC, root=tmp_path))
    values = report.values
    assert tuple(values) == KEYS and all(tuple(row) == ROW for row in values["rows"])
    steps = [update.step for update in updates]
    assert steps == sorted(steps) and steps[-1] == updates[-1].total
    assert (values["n"], values["mode"], values["bits"], values["data"]) == (20, "isolated", "w4a4", "scenes")
    assert len(values["rows"]) == 4 and sum(row["sites"] for row in values["rows"]) == 24
    kls = [row["kl"] for row in values["rows"]]
    assert kls == sorted(kls, reverse=True) == report.arrays["kl"].tolist()
    assert [row["isolated_kl"] for row in values["rows"]] == kls and values["rows"][0]["bits"] == [4]
    (run,) = Store(tmp_path).runs()
    assert read_json(run.path / "report.json") == values and run.load_tensors()["kl"].tolist() == kls


def test_all_rounded_is_what_evaluate_finds(tiny_zoo, tmp_path) -> None:
    values = finish(measure_sensitivity(spec(mode="cumulative"), root=tmp_path))[1].values
    made = finish(quantize(QuantizeSpec("vim_nano", "minmax", "w4a4", calib="noise:4"), root=tmp_path))[1].values
    scored = finish(evaluate(EvaluateSpec(made["path"], limit=20, batch=8)))[1].values
    assert values["fp_top1"] == pytest.approx(scored["fp_top1"])
    assert values["fp_top1"] - values["whole"]["top1_drop"] == pytest.approx(scored["top1"])
    last = values["rows"][-1]
    assert {key: last[key] for key in values["whole"]} == values["whole"]


def test_the_batch_does_not_change_the_report(tiny_zoo, tmp_path) -> None:
    one, other = (finish(measure_sensitivity(spec(batch=b), root=tmp_path))[1].values["rows"] for b in (20, 3))
    assert [row["name"] for row in one] == [row["name"] for row in other]
    assert [row["kl"] for row in one] == pytest.approx([row["kl"] for row in other], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "alone"}, "mode is 'alone'; known: isolated, cumulative, leave_one_float"),
        ({"by": "block"}, "by is 'block'; known: site, group"),
        ({"limit": 0}, "limit is 0, expected 1 or more"),
        ({"batch": 0}, "batch is 0, expected 1 or more"),
        ({"method": "rtn"}, "unknown quantization method 'rtn'"),
        ({"data": "digits"}, "digits has 10 classes, vim_nano has 12"),
    ],
    ids=["mode", "grouping", "limit", "batch", "method", "data"],
)
def test_wrong_use_is_refused_in_one_line(tiny_zoo, tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        finish(measure_sensitivity(spec(**changes), root=tmp_path))
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("report.json"))


@pytest.mark.parametrize("by", ["site", "group"])
def test_a_budget_is_met_by_the_file(tiny_zoo, tmp_path, by) -> None:
    asked = QuantizeSpec("vim_nano", "minmax", "w4a4", calib="noise:6", budget=4.5, by=by)
    updates, report = finish(quantize(asked, root=tmp_path))
    values = report.values
    steps = [update.step for update in updates]
    assert steps == sorted(steps) and steps[-1] == updates[-1].total
    assert values["budget"] == 4.5 and values["audit"] == {"sites": 24, "sealed": True}
    model, calibration = load_quantized(values["path"])
    widths = {path: site.bits for path, site in calibration.plan.sites.items()}
    assert set(widths.values()) <= {3, 4, 6, 8} and calibration.provenance["budget"] == 4.5
    known = dict(taps(model))
    layers = {path: model.get_submodule(path.rpartition(".")[0]).weight for path in widths}
    weights = [path for path in widths if known[path].site in WEIGHT_SITES]
    total = sum(layers[path].numel() for path in weights)
    mean = sum(widths[path] * layers[path].numel() for path in weights) / total
    assert values["mean_bits"]["weights"] == pytest.approx(mean) and max(values["mean_bits"].values()) <= 4.5
    for kind, bits in values["mean_bits"].items():
        assert values["effective_bits"][kind] == pytest.approx(bits)
    images = calibration_set("noise:6", "vim_nano", model, 0).images
    with torch.no_grad():
        exact, rounded = create_model("vim_nano", pretrained=True)(images), model(images)
    assert (
        values["measured_kl"] == pytest.approx(divergence(Classification(), exact, rounded))
        and values["predicted_kl"] > 0
    )


def test_budgets_from_the_smallest_to_the_largest_width(tiny_zoo, tmp_path) -> None:
    reports = {}
    for budget in (3, 4, 5.5, 8):
        asked = QuantizeSpec("vim_nano", "minmax", "w4a4", calib="noise:4", budget=budget)
        reports[budget] = finish(quantize(asked, root=tmp_path))[1].values
    predicted = [values["predicted_kl"] for values in reports.values()]
    assert predicted == sorted(predicted, reverse=True)
    assert reports[3]["mean_bits"] == {"weights": 3, "activations": 3}
    assert reports[8]["mean_bits"] == {"weights": 8, "activations": 8}
    uniform = QuantizeSpec("vim_nano", "minmax", "w8a8", calib="noise:4")
    exact, _ = load_quantized(finish(quantize(uniform, root=tmp_path))[1].values["path"])
    same, _ = load_quantized(reports[8]["path"])
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(exact(images), same(images))


def test_weights_in_floating_point_stay_there(tiny_zoo, tmp_path) -> None:
    asked = QuantizeSpec("vim_nano", "minmax", "w32a4", calib="noise:4", budget=4, by="group")
    values = finish(quantize(asked, root=tmp_path))[1].values
    assert values["mean_bits"]["weights"] == values["effective_bits"]["weights"] == 32
    assert values["mean_bits"]["activations"] <= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 2.5}, "budget is 2.5 bits, the smallest width to choose from is 3 (of 3, 4, 6, 8); give a budget of "
         "at least 3, or smaller widths"),
        ({"budget": 4, "widths": (4, 9)}, "the widths to choose from are 4, 9; give different ones of 2 to 8 bits, as in "
         "3,4,6,8"),
        ({"budget": 4, "by": "block"}, "by is 'block'; known: site, group"),
        ({"budget": 4, "bits": "w32a32"}, "there is nothing to choose widths for: the plan rounds no site outside the "
         "recurrence"),
    ],
    ids=["too small", "widths", "grouping", "nothing"],
)  # fmt: skip
def test_a_budget_that_makes_no_sense_is_refused(tiny_zoo, tmp_path, changes, message) -> None:
    asked = QuantizeSpec(**{"model": "vim_nano", "method": "minmax", "bits": "w4a4", "calib": "noise:2"} | changes)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        finish(quantize(asked, root=tmp_path))


def test_the_command_ranks_sites(tiny_zoo, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    arguments = ["sensitivity", "vim_nano", "--method", "minmax", "--bits", "w4a4", "--calib", "noise:2", "--limit", 8]
    out = tmp_path / "rows.json"
    result = called(*arguments, "--by", "group", "--mode", "leave_one_float", "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values == json.loads(out.read_text()) and {*KEYS, "device"} <= set(values) and len(values["rows"]) == 4
    assert all(row["isolated_kl"] is None for row in values["rows"])
    shown = called(*arguments, "--by", "group")
    assert shown.exit_code == 0 and "layers.0" in shown.stdout and "linear.weight" in shown.stdout
    wrong = called(*arguments, "--mode", "alone")
    assert wrong.exit_code == 2
    assert wrong.stderr.strip() == "error: mode is 'alone'; known: isolated, cumulative, leave_one_float"
    help_ = called("sensitivity", "--help")
    assert help_.exit_code == 0 and "JSON" in help_.stdout and "isolated_kl" in help_.stdout


def test_the_command_takes_a_budget(tiny_zoo, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    arguments = ["quantize", "vim_nano", "--method", "minmax", "--bits", "w4a4", "--calib", "noise:2", "--by", "group"]
    result = called(*arguments, "--budget", 4.5, "--widths", "2,4,8", "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert {"budget", "mean_bits", "predicted_kl", "measured_kl"} <= set(values)
    shown = called(*arguments, "--budget", 4.5)
    assert shown.exit_code == 0 and "KL predicted" in shown.stdout
    wrong = called(*arguments, "--budget", 2.5)
    assert wrong.exit_code == 2 and wrong.stderr.strip().startswith(
        "error: budget is 2.5 bits, the smallest width to choose "
    )
    wrong = called(*arguments, "--budget", 4.5, "--widths", "3;4")
    assert wrong.exit_code == 2
    assert wrong.stderr.strip() == "error: widths '3;4' cannot be read; write whole numbers with commas, as in 3,4,6,8"
