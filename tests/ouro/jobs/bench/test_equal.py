"""Methods at the same mean bits: nobody has more than the target, what differs is paired by image, kept work is kept."""

from __future__ import annotations

import shutil

import pytest
import torch

from ouro.evaluate.paired import unpacked
from ouro.jobs.bench import equal as module
from ouro.jobs.bench.equal import EqualSpec, equal_bits
from tests.ouro.jobs.running import finish

SPEC = EqualSpec(
    "vim_nano", methods=("ouro_plus", "ouro", "dynamic"), targets=(3.25,), scopes=("lin", "ssm"), calib="real:4",
    seeds=(0,), limit=24,
)  # fmt: skip


@pytest.fixture(scope="module")
def computed(in_tiny_zoo):
    def work(root, patch):
        patch.setattr(module, "HALVINGS", 5)
        return finish(equal_bits(SPEC, root=root))

    return in_tiny_zoo(work)


@pytest.fixture
def report(computed, tiny_zoo, tmp_path):
    result, root = computed
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return result


@pytest.mark.full
def test_everybody_meets_the_target_from_below(report) -> None:
    updates, result = report
    rows = result.values["rows"]
    # scope lin rounds no A, so it has no second part
    assert [(row["scope"], row["wide_A"], row["method"]) for row in rows] == [
        (*part, method) for part in (("lin", False), ("ssm", False), ("ssm", True)) for method in SPEC.methods
    ]
    assert updates[-1].total == 9
    for row in rows:
        assert 3 <= row["bits"] <= 3.35 and len(row["settings"]) == len(row["right"]) == 1
    for row in rows:
        if row["method"] == "dynamic":
            assert row["outlier_share"] == 0 and all(setting["widened"] for setting in row["settings"])
        else:
            low, high = module.KAPPAS
            assert all(low < setting["options"]["kappa"] <= high for setting in row["settings"])


@pytest.mark.full
def test_pairs_are_of_the_same_images(report) -> None:
    values = report[1].values
    assert [(pair["better"], pair["worse"]) for pair in values["pairs"]] == 3 * [
        ("ouro_plus", "ouro"), ("ouro_plus", "dynamic"),
    ]  # fmt: skip
    rows = {(row["scope"], row["wide_A"], row["method"]): row for row in values["rows"]}
    for pair in values["pairs"]:
        sides = [
            torch.stack([unpacked(text, 24) for text in rows[pair["scope"], pair["wide_A"], pair[side]]["right"]])
            for side in ("better", "worse")
        ]
        assert pair["won"] == int((sides[0] & ~sides[1]).sum()) and pair["lost"] == int((sides[1] & ~sides[0]).sum())
        assert pair["difference"] == pytest.approx((pair["won"] - pair["lost"]) / 24)


@pytest.mark.full
def test_what_is_kept_is_not_measured_again(report, tmp_path, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("searched again")

    for name in ("_by_threshold", "_by_widths"):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr("ouro.jobs.bench.compare._cell", never)
    assert finish(equal_bits(SPEC, root=tmp_path))[1].values["rows"] == report[1].values["rows"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"methods": ()}, "methods is empty; a comparison needs at least one"),
        ({"methods": ("our",)}, "unknown quantization method 'our'"),
        ({"targets": (1.5,)}, "a target is 1.5 bits, expected 2 to below 8"),
    ],
)
def test_a_wrong_spec_is_refused(bad, words) -> None:
    with pytest.raises(ValueError, match=words):
        EqualSpec("vim_nano", **bad)
