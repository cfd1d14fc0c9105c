"""A sweep over processes is what it is in one, and its pieces are all that the whole needs."""

from __future__ import annotations

import pytest

from ouro.jobs.bench import compare as comparing
from ouro.jobs.bench import equal as equalling
from ouro.jobs.bench import ranges as ranging
from ouro.jobs.bench.compare import CompareSpec, compare
from ouro.jobs.bench.equal import EqualSpec, equal_bits
from ouro.jobs.bench.ranges import RangeSpec, static_ranges
from ouro.jobs.bench.spread import spread
from tests.ouro.jobs.bench.test_table import stay
from tests.ouro.jobs.running import finish

SETS = (("noise", "noise:3"), ("real", "real:3"))
SWEEPS = {
    "compare": (comparing, compare, CompareSpec(
        "vim_nano", ("minmax", "dynamic"), ("w4a4",), SETS, (0, 1), limit=20,
    )),
    "equal": (equalling, equal_bits, EqualSpec(
        "vim_nano", ("ouro", "dynamic"), (3.25,), ("lin",), calib="real:3", seeds=(0, 1), limit=20,
    )),
    "ranges": (ranging, static_ranges, RangeSpec(
        "vim_nano", bits=("w4a4",), calibs=SETS, factors=(0.5,), seeds=(0, 1), looked_at=9, limit=20,
    )),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["equal", *(pytest.param(name, marks=pytest.mark.full) for name in ("compare", "ranges"))]
)
def test_pieces_make_the_whole(name, tiny_zoo, tmp_path, monkeypatch) -> None:
    stay(monkeypatch)
    module, job, spec = SWEEPS[name]
    if name == "equal":
        monkeypatch.setattr(equalling, "HALVINGS", 2)
    updates, apart = finish(spread(job, spec, 2, root=tmp_path / "apart"))
    assert updates[-1].step == updates[-1].total == len(spec.pieces()) == {"ranges": 2}.get(name, 4)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("calibrated once more")

    monkeypatch.setattr(module, "calibrating", never)
    again = finish(spread(job, spec, 1, root=tmp_path / "apart"))[1]
    assert again.values == apart.values


@pytest.mark.parametrize("name", SWEEPS)
def test_one_worker_is_the_job_itself(name, tiny_zoo, tmp_path) -> None:
    _, job, spec = SWEEPS[name]
    alone = next(job(spec, root=tmp_path))
    assert next(spread(job, spec, 1, root=tmp_path)) == alone
