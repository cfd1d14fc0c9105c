"""What is said of a layer's outliers is the mean of what is said of each image."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest
from typer.testing import CliRunner

from ouro.cli import app
from ouro.jobs.bench.outliers import OutlierBenchSpec, moving_outliers
from ouro.jobs.outliers import OutlierSpec, outliers
from tests.ouro.jobs.running import finish

runner = CliRunner()


def test_rows_are_means_over_images(tiny_zoo) -> None:
    updates, report = finish(moving_outliers(OutlierBenchSpec("vim_nano", tensors=("in_proj", "delta"), n=3, calib=4)))
    values = report.values
    # the tiny model has two layers
    assert (
        values["layer"] == 1
        and updates[-1].total == 6
        and [row["tensor"] for row in values["rows"]] == ["in_proj", "delta"]
    )
    alone = [
        finish(outliers(OutlierSpec("vim_nano", 1, "in_proj", sample=sample, n=4)))[1].values for sample in range(3)
    ]
    for key in ("jaccard", "missed_by_static", "share_raw", "share_dynamic"):
        known = [one[key] for one in alone if one[key] is not None]
        row = values["rows"][0][key]
        assert row["n"] == len(known) and row["mean"] == pytest.approx(fmean(known)), key
        assert row["ci95"][1] - row["mean"] == pytest.approx(1.96 * stdev(known) / len(known) ** 0.5), key


def test_the_command_draws_a_row_per_tensor(tiny_zoo) -> None:
    result = runner.invoke(app, ["bench", "outliers", "vim_nano", "--tensor", "y", "--n", "2"])
    assert result.exit_code == 0, result.output
    assert "vim_nano, layer 1, 2 images" in result.stdout and " y " in result.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [({"tensors": ("x",)}, "unknown tensor 'x'; known: in_proj, x_proj"), ({"n": 1}, "n is 1, expected 2 or more")],
)
def test_wrong_use_is_one_line(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        OutlierBenchSpec("vim_nano", **change)
