"""What a page that is open for days gathers."""

from __future__ import annotations

import asyncio
import ctypes
import re
from datetime import datetime, timedelta
from pathlib import Path

import gradio as gr
import pytest
from gradio.state_holder import StateHolder

from workbench import memory, runner, who


def test_pages_that_were_closed_are_forgotten_one_by_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_CLOSED", 2)
    with gr.Blocks() as page:
        chosen = gr.State("default")
        shown = gr.HTML("first")
    page.queue()
    holder = StateHolder()
    holder.set_blocks(page)
    waiting = page._queue.pending_messages_per_session
    for session, minutes, is_closed in (
        ("open", 600, False),
        ("just", 1, True),
        ("quiet", 10, True),
        ("gone", 61, True),
    ):
        state = holder[session]
        state[chosen._id] = session
        state._update_value_in_config(shown._id, "a" * 1000)
        state.is_closed = is_closed
        waiting[session] = asyncio.Queue()
        waiting[session].put_nowait("answer")
        holder.time_last_used[session] = datetime.now() - timedelta(minutes=minutes)
    memory.let_go(page)
    assert list(holder.session_data) == ["open", "just", "quiet"]
    assert "gone" not in holder.time_last_used and "gone" not in waiting
    shows = {name: shown._id in state.config_values for name, state in holder.session_data.items()}
    assert shows == {"open": True, "just": True, "quiet": False}
    assert {name: waiting[name].qsize() for name in shows} == {"open": 1, "just": 1, "quiet": 0}
    # whoever comes back finds what was chosen, and is shown more
    assert holder["quiet"][chosen._id] == "quiet"
    holder["quiet"]._update_value_in_config(shown._id, "again")
    assert holder["quiet"].config_values[shown._id]["props"]["value"] == "again"


def test_jobs_of_browsers_that_never_came_back_are_forgotten(monkeypatch):
    monkeypatch.setattr(runner, "_JOBS", {})
    monkeypatch.setattr(runner, "_LAST", 3)

    def begun(name: str, kind: str = "memory") -> runner.Job:
        with who.being(name):
            job = runner.start(kind, runner._nothing, computes=False)
        job.wait()
        return job

    first = begun("a")
    for name in "bcd":
        begun(name)
    with who.being("a"):
        assert runner.latest("memory") is first
        again = begun("a")
        assert runner.latest("memory") is again
    begun("e")
    begun("f")
    assert [whose for whose, _ in runner._JOBS] == ["d", "a", "e", "f"]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another library's memory than glibc's")
def test_what_is_free_is_given_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )

    def resident_mb() -> float:
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    memory.share_heaps()
    # small enough for the heap, the end of which stays in use
    taken = [libc.malloc(100_000) for _ in range(1000)]
    for place in taken:
        ctypes.memset(place, 1, 100_000)
    for place in taken[:-1]:
        libc.free(place)
    before = resident_mb()
    memory.give_back()
    libc.free(taken[-1])
    assert resident_mb() < before - 80
