"""Work over processes, here or of a Dask cluster: a process that is killed takes nothing with it but what it was doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from ouro.jobs import pool
from ouro.jobs.pool import in_processes
from tests.browsing import ROOT, is_there
from tests.waiting import until


def squared(number: int, *, folder: str, killers: tuple[int, ...] = (), deaths: int = 1) -> int:
    """Counts how often each number was begun; some kill the process they are in, the first `deaths` times."""
    begun = Path(folder) / f"{number}.txt"
    times = len(begun.read_text()) if begun.exists() else 0
    begun.write_text("x" * (times + 1))
    if number in killers and times < deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


def begun(folder: Path) -> dict[int, int]:
    return {int(path.stem): len(path.read_text()) for path in folder.glob("*.txt")}


@pytest.mark.full
def test_every_unit_is_done_once(tmp_path) -> None:
    results = dict(in_processes(partial(squared, folder=str(tmp_path)), list(range(5)), 2))
    assert results == {number: number**2 for number in range(5)}
    assert begun(tmp_path) == dict.fromkeys(range(5), 1)


@pytest.mark.slow
def test_a_killed_process_loses_its_own_unit_alone(tmp_path) -> None:
    work = partial(squared, folder=str(tmp_path), killers=(2,))
    assert dict(in_processes(work, list(range(6)), 2)) == {number: number**2 for number in range(6)}
    counts = begun(tmp_path)
    # the killer twice; beside it at most the one unit that was going on in the other process
    assert counts[2] == 2 and sum(counts.values()) <= 8


@pytest.mark.full
@pytest.mark.slow
def test_what_kills_every_process_is_given_up(tmp_path) -> None:
    work = partial(squared, folder=str(tmp_path), killers=(1,), deaths=99)
    with pytest.raises(
        RuntimeError, match="a process died 3 times over the same piece of work, 1; is there memory enough"
    ):
        list(in_processes(work, [0, 1], 1))
    assert begun(tmp_path) == {0: 1, 1: 3}


def endless(number: int, *, folder: str) -> None:
    (Path(folder) / f"{number}.pid").write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)


@pytest.mark.full
@pytest.mark.slow
def test_no_process_outlives_a_parent_that_is_killed(tmp_path) -> None:
    code = (
        "from functools import partial; from tests.ouro.jobs.test_pool import endless, in_processes; "
        f"list(in_processes(partial(endless, folder={str(tmp_path)!r}), [1, 2], 2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until(lambda: len([path for path in tmp_path.glob("*.pid") if path.read_text()]) == 2)
    parent.kill()
    parent.wait()
    until(lambda: not any(is_there(int(path.read_text())) for path in tmp_path.glob("*.pid")))


def test_what_work_raises_comes_through(tmp_path) -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        list(in_processes(partial(squared, folder=str(tmp_path)), [-1], 1))
    with pytest.raises(ValueError, match="workers is 0, expected 1 to 1024"):
        list(in_processes(abs, [1], 0))


@pytest.fixture(scope="module")
def cluster():
    """Address of a scheduler with two worker processes."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as local:
        yield local.scheduler_address


@pytest.mark.full
@pytest.mark.slow
def test_a_cluster_does_the_same_and_outlives_a_killed_worker(cluster, tmp_path) -> None:
    work = partial(squared, folder=str(tmp_path), killers=(3,))
    results = dict(in_processes(work, list(range(8)), 1, cluster))
    assert results == {number: number**2 for number in range(8)}
    counts = begun(tmp_path)
    assert counts[3] == 2 and sum(counts.values()) <= 10


@pytest.mark.full
@pytest.mark.slow
def test_errors_of_a_cluster_come_through(cluster, tmp_path) -> None:
    with pytest.raises(ValueError, match="-2 is negative"):
        list(in_processes(partial(squared, folder=str(tmp_path)), [-2], 1, cluster))


def test_an_engine_that_is_not_there_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(pool, "CONNECT_S", 1)
    with pytest.raises(ValueError, match=r"no Dask scheduler answers at 'nowhere:1' .*start one with `dask scheduler`"):
        list(in_processes(abs, [1], 1, "nowhere:1"))
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ValueError, match=r"needs Dask: pip install 'ouro-workbench\[cluster\]', or leave out --engine"):
        list(in_processes(abs, [1], 1, "tcp://127.0.0.1:1"))
