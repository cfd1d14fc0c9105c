"""The table of a comparison: its cells, their means over seeds, its form on disk, and that it goes on where it stopped."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from typer.testing import CliRunner

import ouro.jobs.bench.compare as module
from ouro.cli import app
from ouro.data import load
from ouro.jobs.bench.compare import CompareSpec, as_csv, compare, take_over, with_cells_of
from ouro.jobs.evaluate import EvaluateSpec, evaluate
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.tasks.classification import wilson
from ouro.types import ModelSource
from tests.ouro.jobs.running import finish

SPEC = CompareSpec(
    "vim_nano", methods=("minmax", "dynamic"), bits=("w4a4o8",), calibs=(("noise", "noise:3"),), seeds=(0, 1), limit=30,
    batch=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def computed(in_tiny_zoo):
    return in_tiny_zoo(lambda root, _: finish(compare(SPEC, root=root)))


@pytest.fixture
def table(computed, tiny_zoo, tmp_path):
    """(progress, report) of a comparison, which is kept in the test's own folder."""
    result, root = computed
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return result


def test_every_cell_is_a_calibration_that_was_evaluated(table, tmp_path) -> None:
    updates, report = table
    values = report.values
    assert [update.step for update in updates] == [0, 2, 3, 4, 5] and updates[-1].total == 5
    assert [(cell["seed"], cell["calib"], cell["bits"], cell["method"]) for cell in values["cells"]] == [
        (seed, "noise", "w4a4o8", method) for seed in (0, 1) for method in ("minmax", "dynamic")
    ]
    exact = finish(evaluate(EvaluateSpec("vim_nano", limit=30)))[1].values
    assert (values["n"], values["fp_top1"], values["fp_ci95"]) == (30, exact["top1"], exact["ci95"])
    # one of them the long way: a file, evaluated
    spec = QuantizeSpec("vim_nano", "dynamic", "w4a4o8", calib="noise:3", seed=1, out=str(tmp_path / "q.safetensors"))
    finish(quantize(spec, root=tmp_path))
    alone = finish(evaluate(EvaluateSpec(spec.out, limit=30, batch=8)))[1].values
    for key in ("n", "top1", "ci95", "effective_bits"):
        assert values["cells"][3][key] == alone[key], key


def test_rows_are_means_over_seeds(table) -> None:
    values = table[1].values
    assert [(row["method"], row["seeds"]) for row in values["rows"]] == [("minmax", 2), ("dynamic", 2)]
    for row in values["rows"]:
        first, second = [cell["top1"] for cell in values["cells"] if cell["method"] == row["method"]]
        assert row["top1"] == pytest.approx((first + second) / 2)
        assert row["spread"] == pytest.approx(abs(first - second) / 2**0.5)
        assert row["effective_bits"] == {"weights": 4, "activations": 4, "outlier_share": 0, "states": 32}


def test_a_finished_cell_is_not_computed_again(table, tmp_path, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("calibrated again")

    monkeypatch.setattr(module, "calibrating", never)
    again = finish(compare(SPEC, root=tmp_path))[1].values
    assert again["cells"] == table[1].values["cells"]
    with pytest.raises(AssertionError, match="calibrated again"):
        finish(compare(CompareSpec("vim_nano", ("minmax",), ("w4a4o8",), (("noise", "noise:3"),), (2,)), root=tmp_path))


def test_cells_are_of_the_pictures_as_they_are(tiny_zoo, tmp_path, monkeypatch) -> None:
    dataset = load("scenes", split="test", size=28)
    images, labels = dataset.images(0, 80)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = tmp_path / "set" / dataset.classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    named = ModelSource("vim_nano", class_names=tuple(sorted(dataset.classes)))
    spec = CompareSpec(
        named, ("minmax",), ("w8a8",), (("noise", "noise:2"),), (0,), limit=24, data=f"folder:{tmp_path / 'set'}"
    )
    calibrated = []
    calibrate = module.calibrating
    monkeypatch.setattr(module, "calibrating", lambda *a, **k: calibrated.append(1) or calibrate(*a, **k))
    for _ in range(2):
        finish(compare(spec, root=tmp_path))
    assert calibrated == [1]
    Image.new("RGB", (28, 28)).save(path)
    finish(compare(spec, root=tmp_path))
    assert calibrated == [1, 1]


def test_a_stored_table_is_extended_without_measuring_its_cells_again(table, tmp_path, monkeypatch) -> None:
    values = json.loads(json.dumps(table[1].values))
    wider = replace(SPEC, methods=("minmax", "dynamic", "clipped"))
    assert finish(take_over(wider, values, root=tmp_path / "new"))[1] == 4
    calibrated = []
    calibrate = module.calibrating
    monkeypatch.setattr(module, "calibrating", lambda *a, **k: calibrated.append(k["method"]) or calibrate(*a, **k))
    cells = finish(compare(wider, root=tmp_path / "new"))[1].values["cells"]
    assert calibrated == ["clipped", "clipped"]
    assert [cell for cell in cells if cell["method"] != "clipped"] == table[1].values["cells"]


def test_a_table_of_before_is_extended_as_well(table, tmp_path) -> None:
    stored = json.loads(json.dumps(table[1].values))
    stored["spec"]["model"] = "vim_nano"
    del stored["spec"]["options"], stored["spec"]["device"]
    assert finish(take_over(SPEC, stored, root=tmp_path / "new"))[1] == 4


def test_a_table_is_no_rectangle_where_it_extends_one(table, tmp_path) -> None:
    stored = json.loads(json.dumps(table[1].values))
    more = replace(SPEC, methods=("minmax",), calibs=(("real", "real:3"),), seeds=(0,))
    values = json.loads(json.dumps(finish(compare(more, root=tmp_path))[1].values))
    whole = with_cells_of(values, stored)
    assert whole["cells"] == [*stored["cells"], *values["cells"]] and whole["seeds"] == [0, 1]
    places = [(row["method"], row["calib"], row["seeds"]) for row in whole["rows"]]
    assert places == [("minmax", "noise", 2), ("dynamic", "noise", 2), ("minmax", "real", 1)]
    # two seeds and one are no pairs
    assert whole["rows"][:2] == stored["rows"] and whole["pairs"] == stored["pairs"]
    # and it is extended as the two would be
    assert finish(take_over(SPEC, whole, root=tmp_path / "new"))[1] == 4
    assert finish(take_over(more, whole, root=tmp_path / "new"))[1] == 1
    assert with_cells_of(whole, stored) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("spec"), "the table says no spec and cells, so it cannot be extended"),
        (lambda values: values.update(spec=5), "the table says no spec and cells"),
        (lambda values: values.pop("cells"), "the table says no spec and cells"),
        (lambda values: values["cells"].append([1]), "cell 4 of the table cannot be extended: it has no method"),
        (lambda values: values["cells"][1].pop("ci95"), "cell 1 of the table cannot be extended: top1 is "),
        (
            lambda values: values["spec"].update(calibs=3),
            "the table's calibs are 3, expected pairs of a label and a set",
        ),
        (
            lambda values: values["spec"].update(calibs=[["noise", "noise:8"]]),
            "noise is noise:8 in the table, asked for is noise:3; give one of them another label",
        ),
        (lambda values: values["spec"].update(limit=31), "the table's limit is 31, asked for is 30; only a table"),
        (lambda values: values.update(fp_top1=0.123), "in the table 0.123 on 30: its weights or images are others"),
    ],
    ids=[
        "no spec",
        "a number for a spec",
        "no cells",
        "no cell",
        "half a cell",
        "no calibs",
        "other set",
        "other images",
        "other weights",
    ],
)
def test_a_table_of_something_else_is_not_extended(table, tmp_path, change, message) -> None:
    values = json.loads(json.dumps(table[1].values))
    change(values)
    with pytest.raises(ValueError, match=re.escape(message)):
        finish(take_over(SPEC, values, root=tmp_path))


def test_the_csv_has_timms_columns_and_percent(table) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(table[1].values))))
    cells = table[1].values["cells"]
    assert len(rows) == 4 and [row["method"] for row in rows] == ["minmax", "dynamic"] * 2
    for row, cell in zip(rows, cells, strict=True):
        assert float(row["top1"]) == round(100 * cell["top1"], 2)
        assert float(row["top1"]) + float(row["top1_err"]) == pytest.approx(100)
        assert (row["wbits"], row["abits"], row["obits"]) == ("4", "4", "8")
        assert (row["model"], row["img_size"], row["crop_pct"], row["n"]) == ("vim_nano", "28", "1.0", "30")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ()}, "methods is empty; a table needs at least one"),
        ({"seeds": ()}, "seeds is empty; a table needs at least one"),
        ({"limit": 0}, "limit is 0, expected 1 or more"),
    ],
    ids=["methods", "seeds", "limit"],
)
def test_an_empty_table_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CompareSpec("vim_nano", **change)


def test_the_command_prints_json_and_writes_both_forms(tiny_zoo, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    out = tmp_path / "table.json"
    arguments = [
        "--calib",
        "noise=noise:{seed}2",
        "--method",
        "minmax",
        "--bits",
        "w8a8",
        "--seeds",
        "1",
        "--limit",
        "20",
    ]
    result = CliRunner().invoke(app, ["bench", "quantization", "vim_nano", *arguments, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values == json.loads(out.read_text()) and values["n"] == 20
    (cell,) = values["cells"]
    assert cell["ci95"] == list(wilson(round(20 * cell["top1"]), 20))
    assert out.with_suffix(".csv").read_text().splitlines()[1].startswith("vim_nano,")
    shown = CliRunner().invoke(app, ["bench", "quantization", "vim_nano", *arguments])
    assert shown.exit_code == 0 and "minmax" in shown.stdout and "w8a8" in shown.stdout
    wrong = CliRunner().invoke(app, ["bench", "quantization", "vim_nano", "--calib", "noise"])
    assert wrong.exit_code == 2 and "has an entry without a set; write LABEL=SET, as in real=real:128" in wrong.stderr
