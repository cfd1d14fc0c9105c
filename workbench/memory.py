"""What a page that is open for days must not gather: memory that nobody uses, and what Gradio keeps of pages that were closed."""

from __future__ import annotations

import asyncio
import ctypes
from contextlib import suppress
from datetime import datetime, timedelta

import gradio as gr

_HEAPS = 2
_QUIET, _GONE = timedelta(minutes=5), timedelta(hours=1)
"""How long after its last event nothing is on its way to a page that was closed, and how long it finds its state, should it
come back: as long as Gradio keeps the values of its states."""


def share_heaps() -> None:
    """Has all threads share heaps: glibc makes one for every thread, and a page that is used for an hour would grow and grow."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-8, _HEAPS)  # M_ARENA_MAX


def give_back() -> None:
    """Returns what is free to the system, which glibc does at the end of a heap only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def let_go(page: gr.Blocks) -> None:
    """Forgets what pages showed that were closed, then all of them.

    Gradio (6.31) keeps both, some megabytes of every page that was ever loaded: its values, for links to a state of it, and
    answers that nobody fetched.
    """
    holder, queue, now = page.state_holder, page._queue, datetime.now()
    for session, state in list(holder.session_data.items()):
        quiet = now - holder.time_last_used.get(session, now)
        if not state.is_closed or quiet < _QUIET:
            continue
        state.config_values.clear()
        unread = queue.pending_messages_per_session.get(session)
        with suppress(asyncio.QueueEmpty):
            while unread:
                unread.get_nowait()
        if quiet > _GONE:
            for kept in (holder.session_data, holder.time_last_used,
                         queue.pending_messages_per_session, queue.pending_event_ids_session):  # fmt: skip
                kept.pop(session, None)
