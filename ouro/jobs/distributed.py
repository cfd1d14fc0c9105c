"""Several processes as one job, as torchrun starts them: ranks share the work, exchange results and fail together.

Started any other way there is one rank, and nothing here reaches for another process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

_T = TypeVar("_T")
_FAILURES: dict[str, type[Exception]] = {"value": ValueError, "system": OSError, "run": RuntimeError}
"""Kind of failure that a rank sends the others -> what they raise; anything else is a defect, and ends the process."""

_LEFT, _PATIENCE = "ouro: the first rank has left", timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the job."""

    rank: int = 0
    size: int = 1

    def gathered(self, work: Callable[[], _T]) -> list[_T]:
        """What `work` returns on each rank, in their order, on all of them; it has to be called on all of them.

        Raises:
            ValueError, OSError, RuntimeError: the first failure of a rank, on every rank.
        """
        if self.size == 1:
            return [work()]
        cause: Exception | None = None
        try:
            outcome: tuple[str, Any] = ("", work())
        except tuple(_FAILURES.values()) as error:
            cause = error
            outcome = (next(kind for kind, known in _FAILURES.items() if isinstance(error, known)), str(error))
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, outcome)
        for kind, message in everyone:
            if kind:
                raise _FAILURES[kind](message) from cause
        return [value for _, value in everyone]

    def agreed(self, work: Callable[[], _T]) -> _T:
        """What `work` returns here, once it has succeeded on every rank; results stay where they are.

        Raises:
            ValueError, OSError, RuntimeError: the first failure of a rank, on every rank.
        """
        own: list[_T] = []
        self.gathered(lambda: own.append(work()))
        return own[0]


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun started, connected while it lasts; one rank where it was not torchrun.

    The first rank leaves first: torchrun ends all as soon as one fails, and the first rank reports the failure.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield Ranks()
        return
    if dist.is_initialized():
        yield _ranks()
        return
    store, rank, size = next(dist.rendezvous("env://"))
    # what is exchanged are counts: gloo serves machines with and without GPUs
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        yield _ranks()
    finally:
        dist.destroy_process_group()
        if rank == 0:
            store.set(_LEFT, "")
        else:
            # a store that is gone, or a first rank that takes too long, is no reason to stay
            with suppress(RuntimeError):
                store.wait([_LEFT], _PATIENCE)


def _ranks() -> Ranks:
    return Ranks(dist.get_rank(), dist.get_world_size())
