"""How much memory a piece of work takes at its worst, seen from outside: the process's resident set; and what is free."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from contextlib import suppress
from types import TracebackType


class PeakMemory:
    """Context manager; afterwards `mb` is the most that the process held above what it held at the start.

    Sampled 50 times a second, so a short peak can be missed; 0 where the system does not report it (only Linux does).
    Memory that was freed before is given back to the system first: what the allocator keeps would hide what is new.
    """

    mb = 0.0

    def __enter__(self) -> PeakMemory:
        _give_back()
        self._start = self._most = _resident()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._watch.join()
        self._most = max(self._most, _resident())
        self.mb = (self._most - self._start) / 1e6

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self._most = max(self._most, _resident())


def _give_back() -> None:
    gc.collect()
    # glibc only; without it the measure is too small, not wrong
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> int:
    try:
        with open("/proc/self/statm") as status:
            return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def available_bytes() -> int | None:
    """What new work may take before the system has to swap or kill; None where the system does not report it."""
    try:
        with open("/proc/meminfo") as status:
            entry = next(line for line in status if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return int(entry.split()[1]) * 1024
