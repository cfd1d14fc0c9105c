"""Independent pieces of work over processes: of this machine, or of a cluster that Dask keeps.

Whoever works keeps what is finished in the store, so a piece that is lost with its process is begun again where it was.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

_Unit = TypeVar("_Unit")
_Result = TypeVar("_Result")

ATTEMPTS = 3
"""How often a piece of work may lose its process before the whole is given up: the piece itself may be what kills it."""

MOST_WORKERS = 1024
"""More processes than any machine has use for."""

CONNECT_S = 10
"""How long a scheduler may take to answer, in seconds."""


def in_processes(
    work: Callable[[_Unit], _Result], units: Sequence[_Unit], workers: int, engine: str = ""
) -> Iterator[tuple[_Unit, _Result]]:
    """(unit, what `work` made of it) as they are finished; whoever stops listening cancels what has not begun.

    A process that dies takes nothing with it but what it was doing, which is done again.

    Args:
        work: picklable, as are units.
        workers: processes of this machine, which share its cores.
        engine: address of a Dask scheduler, such as "tcp://host:8786", whose workers are taken instead; they have to have
            this package, and the store's folder at the same place.

    Raises:
        ValueError: fewer than one worker or more than `MOST_WORKERS`, or an engine that cannot be reached or used.
        RuntimeError: a piece of work lost its process `ATTEMPTS` times; and whatever `work` raises.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise ValueError(f"workers is {workers}, expected 1 to {MOST_WORKERS}")
    if engine:
        yield from _on_cluster(work, units, engine)
        return
    attempts = [0] * len(units)
    left = dict(enumerate(units))
    while left:
        try:
            for number, result in _in_one_pool(work, left, workers):
                yield left.pop(number), result
        except _Died as death:
            for number in death.numbers:
                attempts[number] += 1
            if max(attempts) >= ATTEMPTS:
                raise RuntimeError(
                    f"a process died {ATTEMPTS} times over the same piece of work, {units[attempts.index(max(attempts))]}; "
                    "is there memory enough? fewer workers take less. What was finished is kept"
                ) from death


class _Died(Exception):
    """A process died while these pieces of work were going on."""

    def __init__(self, numbers: set[int]) -> None:
        super().__init__(f"a process died over {len(numbers)} pieces of work")
        self.numbers = numbers


def _in_one_pool(
    work: Callable[[_Unit], _Result], units: dict[int, _Unit], workers: int
) -> Iterator[tuple[int, _Result]]:
    """(number, result) until all are done or a process dies."""
    threads = max(1, torch.get_num_threads() // workers)
    # spawned, not forked: a forked child inherits locked thread pools
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up, initargs=(threads,)) as pool:
        waiting: dict[Future[_Result], int] = {}
        queue = list(units.items())
        try:
            while queue or waiting:
                # no more than there are processes: what waits when one dies is then what was going on
                while queue and len(waiting) < workers:
                    number, unit = queue.pop(0)
                    waiting[pool.submit(work, unit)] = number
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    result = future.result()
                    yield waiting.pop(future), result
        except BrokenProcessPool as death:
            raise _Died(set(waiting.values())) from death
        finally:
            pool.shutdown(cancel_futures=True)


def _on_cluster(
    work: Callable[[_Unit], _Result], units: Sequence[_Unit], address: str
) -> Iterator[tuple[_Unit, _Result]]:
    """The same over the workers of a Dask scheduler, as many pieces at a time as these have threads."""
    try:
        from distributed import Client, as_completed
        from distributed.scheduler import KilledWorker
    except ImportError as missing:
        raise ValueError(
            f"the engine at {address} needs Dask: pip install 'ouro-workbench[cluster]', or leave out --engine"
        ) from missing
    try:
        client: Any = Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as failure:
        raise ValueError(
            f"no Dask scheduler answers at {address!r} ({failure}); start one with `dask scheduler`, and workers with "
            "`dask worker ADDRESS --nthreads 1`"
        ) from failure
    with client:
        futures = {client.submit(work, unit, pure=False): unit for unit in units}
        try:
            for future in as_completed(list(futures)):
                yield futures.pop(future), future.result()
        except KilledWorker as death:
            raise RuntimeError(
                f"workers died over the same piece of work again and again ({death}); is there memory enough? What was "
                "finished is kept"
            ) from death
        finally:
            client.cancel(list(futures))


def _set_up(threads: int) -> None:
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    torch.set_num_threads(threads)
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def _end_with_parent() -> None:
    # who is killed tells nobody: without this its processes would go on computing, and then wait for work for ever
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
