"""What a page that is open for days must not gather: memory that nobody uses, and what Gradio keeps of pages that were closed."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from contextlib import suppress
from datetime import datetime, timedelta

import gradio as gr

_GATE = threading.Lock()
_HEAPS = 2
_QUIET = timedelta(minutes=5)
"""How long after its last event nothing is on its way any more to a page that was closed."""
_CLOSED = 100
"""Pages that were closed and find their state, should they come back: one that was asleep looks the same. A megabyte each."""


def share_heaps() -> None:
    """Has all threads share heaps: glibc makes one for every thread, and a page that is used for an hour would grow and grow."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-8, _HEAPS)  # M_ARENA_MAX


def give_back() -> None:
    """Returns what is free to the system, which glibc does at the end of a heap only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def let_go(page: gr.Blocks) -> None:
    """Forgets what pages showed that were closed, and all of those that were closed first.

    Gradio (6.31) keeps both, some megabytes of every page that was ever loaded: its values, for links to a state of it, and
    answers that nobody fetched.
    """
    with _GATE:
        holder, queue, now = page.state_holder, page._queue, datetime.now()
        last = {
            session: holder.time_last_used.get(session, now)
            for session, state in list(holder.session_data.items())
            if state.is_closed
        }
        quiet = sorted((session for session, used in last.items() if now - used > _QUIET), key=last.__getitem__)
        for session in quiet:
            holder.session_data[session].config_values.clear()
            unread = queue.pending_messages_per_session.get(session)
            with suppress(asyncio.QueueEmpty):
                while unread:
                    unread.get_nowait()
        for session in quiet[: max(0, len(last) - _CLOSED)]:
            for kept in (holder.session_data, holder.time_last_used,
                         queue.pending_messages_per_session, queue.pending_event_ids_session):  # fmt: skip
                kept.pop(session, None)
