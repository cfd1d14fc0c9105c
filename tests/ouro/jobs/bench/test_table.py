"""The table over models, scopes and seeds is what single comparisons say, and goes on from kept cells."""

from __future__ import annotations

import csv
import io
import shutil

import pytest

import ouro.jobs.bench.table as module
import ouro.jobs.pool as pool
from ouro.jobs.bench.compare import compare
from ouro.jobs.bench.table import EQUAL_STEPS, FULL, QUICK, ZOO, Part, TableSpec, table
from ouro.models.zoo import WITNESSES
from ouro.registry import QUANTIZERS
from tests.ouro.jobs.running import finish

SPEC = TableSpec(
    (Part(("vim_nano",), ("w4a4o8",), ("lin", "rec"), (0, 1)),),
    methods=("minmax", "dynamic"), calibs=(("noise", "noise:3"),), limit=20, workers=1,
)  # fmt: skip


@pytest.fixture
def in_process(monkeypatch):
    stay(monkeypatch)


def stay(monkeypatch):
    """Runs workers in this process, where the small zoo is; spawned ones would not know it."""

    class Pool:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, work, *args):
            from concurrent.futures import Future

            future: Future = Future()
            future.set_result(work(*args))
            return future

        def shutdown(self, **_: object) -> None: ...

    monkeypatch.setattr(pool, "ProcessPoolExecutor", Pool)


@pytest.fixture(scope="module")
def computed(in_tiny_zoo):
    def work(root, patch):
        stay(patch)
        return finish(table(SPEC, root=root))

    return in_tiny_zoo(work)


@pytest.fixture
def made(computed, tiny_zoo, in_process, tmp_path):
    """(progress, report) of a table, which is kept in the test's own folder."""
    result, root = computed
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return result


def test_the_table_is_made_of_comparisons(made, tmp_path) -> None:
    updates, report = made
    assert [update.step for update in updates] == [0, 2, 4, 6, 8] and updates[-1].total == 8
    tables = report.values["tables"]
    assert [(values["model"], values["scope"], len(values["cells"])) for values in tables] == [
        ("vim_nano", "lin", 4), ("vim_nano", "rec", 4),
    ]  # fmt: skip
    alone = finish(compare(module._comparison(SPEC, SPEC.parts[0], "vim_nano", "rec", (0, 1)), root=tmp_path))[1].values
    assert tables[1] == alone
    for values in tables:
        assert all(row["seeds"] == 2 and row["calibration_seconds"] > 0 for row in values["rows"])
        inside = 8 if values["scope"] == "rec" else 32
        assert all(cell["effective_bits"]["states"] == inside for cell in values["cells"])


def test_csv_has_one_line_per_cell_with_the_columns_of_timm_first(made) -> None:
    text = made[1].values["csv"]
    lines = list(csv.DictReader(io.StringIO(text)))
    assert text.startswith("model,top1,top1_err,param_count,img_size,crop_pct,interpolation,wbits,abits,")
    assert [(line["scope"], line["seed"], line["method"]) for line in lines] == [
        (scope, seed, method) for scope in ("lin", "rec") for seed in "01" for method in ("minmax", "dynamic")
    ]
    assert {line["hbits"] for line in lines if line["scope"] == "rec"} == {"8"}


def test_a_second_table_computes_nothing(made, tmp_path, monkeypatch) -> None:
    first = made[1].values
    monkeypatch.setattr("ouro.jobs.bench.compare.calibrating", lambda *_, **__: pytest.fail("calibrated again"))
    assert finish(table(SPEC, root=tmp_path))[1].values == first


def test_the_full_table_has_every_method_and_every_embedded_model_that_is_no_judge() -> None:
    assert {*TableSpec(FULL).methods, *(method for part in FULL for method in part.methods)} == set(QUANTIZERS)
    assert set(ZOO) == {name for part in FULL for name in part.models}
    assert not set(ZOO) & {name for names in WITNESSES.values() for name in names if name.endswith("witness")}
    assert {bits for part in FULL for bits in part.bits} == {"w8a8", "w6a6", "w4a8o16", "w4a4o8"}
    assert {scope for part in FULL for scope in part.scopes} == {"lin", "rec"}
    assert all(method in QUANTIZERS for method, _ in EQUAL_STEPS) and QUICK[0].models == ("vim_nano",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 0}, "workers is 0, expected 1 or more"),
        ({"methods": ("minmx",)}, "unknown quantization method 'minmx' "),
        ({"parts": (Part(("vim",), ("w8a8",), ("lin",), (0,)),)}, "unknown model 'vim'"),
    ],
)
def test_what_cannot_be_made_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        TableSpec(**({"parts": QUICK} | change))
