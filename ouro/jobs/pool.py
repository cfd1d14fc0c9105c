"""Independent pieces of work over several processes, each with its share of the cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import TypeVar

import torch

_Unit = TypeVar("_Unit")
_Result = TypeVar("_Result")


def in_processes(
    work: Callable[[_Unit], _Result], units: Sequence[_Unit], workers: int
) -> Iterator[tuple[_Unit, _Result]]:
    """(unit, what `work` made of it) as they are finished; whoever stops listening cancels what has not begun.

    `work` and units have to be picklable.

    Raises:
        ValueError: fewer than one worker.
        BrokenProcessPool: a process died; and whatever `work` raises.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}, expected 1 or more")
    threads = max(1, torch.get_num_threads() // workers)
    # spawned, not forked: a forked child inherits locked thread pools
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up, initargs=(threads,)) as pool:
        waiting = {pool.submit(work, unit): unit for unit in units}
        try:
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _set_up(threads: int) -> None:
    torch.set_num_threads(threads)
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
