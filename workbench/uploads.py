"""Files that a person uploaded, deleted when the session ends that they were uploaded in.

Gradio keeps an upload until its cache is cleared, which takes a day, under the digest of what it holds, so that two sessions
may share it. Here it goes with the last session that holds it; if the same person has jobs at work then, which may read it,
when these are over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from workbench import runner

_HELD: dict[str, set[str]] = {}
"""Session -> files that were uploaded in it."""
_GATE = threading.Lock()


def hold(session: str | None, *paths: str | None) -> None:
    """Has these uploads deleted when the session ends; one without a name, as programs have, holds nothing."""
    if session:
        with _GATE:
            _HELD.setdefault(session, set()).update(path for path in paths if path)


def forget(session: str | None, *paths: str | None) -> None:
    """Deletes uploads of a session now, which were copied elsewhere, but for those that another one holds."""
    with _GATE:
        _HELD.get(session or "", set()).difference_update(paths)
    _delete(path for path in paths if path)


def end(session: str) -> None:
    """Deletes what a session held, for whoever asks, when no job of theirs is at work any more that was when it ended."""
    with _GATE:
        paths = _HELD.get(session, set())
    working = [job for job in runner.jobs() if job.own and job.working]

    def delete() -> None:
        for job in working:
            job.wait()
        with _GATE:
            _HELD.pop(session, None)
        _delete(paths)

    if paths:
        threading.Thread(target=delete, name="uploads", daemon=True).start()


def _delete(paths: Iterable[str]) -> None:
    from gradio.utils import get_upload_folder

    cache = Path(get_upload_folder()).resolve()
    with _GATE:
        held = set().union(*_HELD.values())
        for path in map(Path, set(paths) - held):
            # nothing but uploads, whatever a page says
            if cache in path.resolve().parents:
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()
