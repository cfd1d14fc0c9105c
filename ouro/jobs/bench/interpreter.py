"""Gates of kernels in processes of their own: in Triton's interpreter, because this one may have imported kernels to be
compiled, or several side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from queue import Empty, SimpleQueue
from typing import Any

import torch

from ouro.kernels.launch import KernelError, can_run

_POLL = 0.5
"""Seconds without a row after which whoever waits may look up."""


def interpreted_rows(module: str, *arguments: str) -> Iterator[dict[str, Any] | None]:
    """What `python -m module arguments` writes, a JSON object a line; None whenever it has written nothing for a while.

    The process ends with the iterator, even one that is closed halfway.

    Raises:
        KernelError: Triton is not installed.
        RuntimeError: the process failed.
    """
    refusal = can_run(torch.device("cpu"))
    if refusal is not None and "not installed" in refusal:
        raise KernelError(f"kernels cannot be checked here: {refusal}; on Linux, pip install triton")
    return rows_of(module, *arguments, environment={"TRITON_INTERPRET": "1"})


def interleaved(writers: Sequence[Iterator[dict[str, Any] | None]]) -> Iterator[dict[str, Any] | None]:
    """What several of them write, as it comes. They end with the iterator.

    Raises:
        RuntimeError: one of the processes failed.
    """
    with ExitStack() as stack:
        left = [stack.enter_context(closing(writer)) for writer in writers]  # type: ignore[type-var]
        # the first look starts each process
        while left:
            for writer in list(left):
                try:
                    yield next(writer)
                except StopIteration:
                    left.remove(writer)


def rows_of(module: str, *arguments: str, environment: Mapping[str, str]) -> Iterator[dict[str, Any] | None]:
    """As `interpreted_rows`, in any environment.

    Raises:
        RuntimeError: the process failed.
    """
    command, environment = [sys.executable, "-m", module, *arguments], os.environ | dict(environment)
    lines: SimpleQueue[str | None] = SimpleQueue()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        written = run.stdout

        def read() -> None:
            for line in written:
                lines.put(line)
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while (line := _next(lines)) is not None:
                yield json.loads(line) if line else None
            complaint = run.stderr.read()
            run.wait()
        finally:
            # nothing happens to a process that is over
            run.kill()
            reader.join()
    if run.returncode:
        raise RuntimeError(f"the gate stopped with code {run.returncode}: {complaint.strip().splitlines()[-1:]}")


def _next(lines: SimpleQueue[str | None]) -> str | None:
    """The next line, "" if there is none yet, None after the last."""
    try:
        return lines.get(timeout=_POLL)
    except Empty:
        return ""
