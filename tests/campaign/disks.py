"""The machine under a job: full disks, folders that may not be written, two writers, jumping clocks, other folders and threads."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from ouro.store import WriteError, read_json, read_tensors, write_bytes, write_json, write_tensors
from tests.campaign import kills
from tests.campaign.kills import Ended, check_kept, check_same, check_streams, check_whole, command, completed, finished
from tests.campaign.registry import Offence, Trial, Verdict, kind

_NOBODY = 65534


def refused(ended: Ended, *words: str) -> str:
    """The line of a job that could not write.

    Raises:
        Offence: it says something else, or ends in another way.
    """
    check_streams(ended)
    if ended.code != 2 or not any(word in ended.err for word in words):
        raise Offence(f"a job that cannot write ends with {ended.code}, expected 2 and {words[0]!r}\n{ended.err}")
    return ended.err.strip()


# ---- full disks ------------------------------------------------------------------------------------------------


@cache
def may_mount() -> bool:
    """Whether a small disk of one's own may be made."""
    if os.geteuid() != 0 or shutil.which("mount") is None or shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0
    )


@kind("full disk", 0.04, group="jobs", unit="machine", limit=120)
def full_disk(trial: Trial) -> Verdict:
    job, variant = (
        trial.rng.choice(("generate", "quantize", "sensitivity", "bench quantization")),
        trial.rng.randrange(3),
    )
    wanted, _ = kills.undisturbed(trial, job, variant)
    room, home = trial.rng.randrange(1, 400), trial.folder / "home"
    home.mkdir()
    body: Callable[[], Any] = partial(kills.run, command(trial, job, variant))
    if may_mount():
        kb = max(4, room)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kb}k", "tmpfs", home], check=True)
    try:
        ended = kills.in_process(body if may_mount() else partial(_limited, 1024 * room, body), home)
        words = "No space left on device", "File too large"
        line = "" if ended.code == 0 else refused(ended, *words)
        check_whole(home)
        before = finished(home)
        if may_mount():
            # somebody makes room, and the same command goes on
            subprocess.run(["mount", "-o", "remount,size=64m", home], check=True)
        completed(trial, job, variant)
        check_kept(before, home)
        check_same(wanted, trial.folder)
    finally:
        if may_mount():
            subprocess.run(["umount", "-l", home], check=True)
    return Verdict(line)


def _limited(size: int, body: Callable[[], Any]) -> None:
    """What a full disk is where none may be made: no file may be larger than this."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    body()


# ---- what may not be written -----------------------------------------------------------------------------------


@kind("read-only", 0.03, group="jobs", unit="machine", limit=120)
def read_only(trial: Trial) -> Verdict:
    """Folders and files without the right to write, as a user who is nobody."""
    place = trial.rng.choice(("home", "runs", "run", "file", "out"))
    home = trial.folder / "home"
    arguments = command(trial, "quantize", 0)
    if place == "out":
        target = trial.folder / "target"
        target.mkdir()
        arguments += ["--out", str(target / "q.safetensors")]
        home.mkdir()
        locked = target
    elif place == "home":
        home.mkdir()
        locked = home
    else:
        completed(trial, "quantize", 0)
        runs = home / "runs"
        run = next(runs.iterdir())
        locked = {"runs": runs, "run": run, "file": run / "tensors.safetensors"}[place]
        if place == "runs":
            shutil.rmtree(run)
    for path in (trial.folder, *trial.folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    locked.chmod(0o555 if locked.is_dir() else 0o444)
    ended = kills.in_process(partial(_as_nobody, partial(kills.run, arguments)), home)
    line = refused(ended, "Permission denied", "read-only")
    check_whole(home)
    return Verdict(line)


def _as_nobody(body: Callable[[], Any]) -> None:
    # the superuser may write everywhere
    if os.geteuid() == 0:
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    body()


# ---- two at once -----------------------------------------------------------------------------------------------


@kind("two jobs at once", 0.03, group="jobs", unit="machine", limit=120)
def two_jobs(trial: Trial) -> Verdict:
    """The same command twice in the same folder: both end well, and what is there is that of one."""
    job, variant = (
        trial.rng.choice(("generate", "quantize", "sensitivity", "bench quantization")),
        trial.rng.randrange(3),
    )
    wanted, seconds = kills.undisturbed(trial, job, variant)
    lag = trial.rng.random() * seconds
    home, ends = trial.folder / "home", []
    other = trial.folder / "other"
    other.mkdir()
    body = partial(kills.run, command(trial, job, variant))
    child = os.fork()
    if child == 0:
        kills._become(body, home, [other / "stream-1", other / "stream-2"], None)
    time.sleep(lag)
    ends.append(kills.in_process(body, home))
    _, status = os.waitpid(child, 0)
    err = (other / "stream-2").read_text()
    ends.append(Ended(os.waitstatus_to_exitcode(status), "", err, 0.0))
    shutil.rmtree(other)
    for ended in ends:
        check_streams(ended)
        if ended.code != 0:
            raise Offence(f"one of two equal jobs ends with {ended.code}\n{ended.err}")
    check_whole(trial.folder)
    check_same(wanted, trial.folder)
    return Verdict()


@kind("two writers of a file", 0.5)
def two_writers(trial: Trial) -> Verdict:
    """Threads that write and read one file: whoever reads sees one of the values as a whole."""
    path, wrong = trial.folder / trial.rng.choice(("x.json", "x" * 200 + ".json", "x.safetensors")), []
    as_json, sizes = path.suffix == ".json", [trial.rng.randrange(1, 5000) for _ in range(2)]

    def write(number: int) -> None:
        for _ in range(5):
            write_json(path, [number] * sizes[number]) if as_json else _tensors(path, number, sizes[number])

    def read() -> None:
        for _ in range(20):
            if path.exists():
                values = read_json(path) if as_json else read_tensors(path)[0]["x"].tolist()
                if values not in [[number] * sizes[number] for number in range(2)]:
                    wrong.append(values)

    threads = [
        threading.Thread(target=_noted, args=(wrong, body)) for body in (partial(write, 0), partial(write, 1), read)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise Offence(f"a file that two write is not one of theirs\n{str(wrong[0])[:500]}")
    if len(list(trial.folder.iterdir())) != 1:
        raise Offence(f"two writers leave files behind\n{list(trial.folder.iterdir())}")
    return Verdict()


def _tensors(path: Path, number: int, size: int) -> None:
    import torch

    write_tensors(path, {"x": torch.full((size,), number)})


def _noted(wrong: list[Any], body: Callable[[], Any]) -> None:
    try:
        body()
    except Exception as error:
        wrong.append(repr(error))


@kind("failing writes", 4)
def failing_writes(trial: Trial) -> Verdict:
    """Any of the calls behind a write fails in any way: one line, the old file, nothing beside it."""
    path = trial.write("x.bin", b"old")
    call = trial.rng.choice(("open", "fsync", "replace", "chmod", "close"))
    number = trial.rng.choice(
        (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.ESTALE, errno.EMFILE)
    )
    original = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    line = ""
    setattr(os, call, fail)
    try:
        write_bytes(path, b"newer")
    except WriteError as error:
        line = str(error)
    finally:
        setattr(os, call, original)
    wanted = b"old" if line else b"newer"
    if path.read_bytes() != wanted:
        raise Offence(f"after a failing {call} the file is {path.read_bytes()!r}, expected {wanted!r}")
    if len(list(trial.folder.iterdir())) != 1:
        raise Offence(f"after a failing {call} a file is left behind")
    return Verdict(line)


# ---- clocks, folders, threads ----------------------------------------------------------------------------------


@kind("other surroundings", 0.04, group="jobs", unit="machine", limit=120)
def surroundings(trial: Trial) -> Verdict:
    """A clock that jumps, a working folder that is another, read-only or gone, other threads, streams that are closed."""
    job, variant = trial.rng.choice(kills.JOBS), trial.rng.randrange(3)
    wanted, _ = kills.undisturbed(trial, job, variant)
    change = trial.rng.choice(
        (_jumping_clock, _other_folder, _gone_folder, _closed_streams, _more_threads, _other_locale)
    )
    home = trial.folder / "home"
    body = partial(change, trial.rng.randrange(2**31), trial.folder, partial(kills.run, command(trial, job, variant)))
    ended = kills.in_process(body, home)
    if change is not _closed_streams:
        check_streams(ended)
    if ended.code != 0 and not (change is _closed_streams and ended.code in (1, 2)):
        raise Offence(f"{job} with {change.__name__[1:]} ends with {ended.code}\n{ended.err}")
    check_whole(trial.folder)
    shutil.rmtree(trial.folder / "elsewhere", ignore_errors=True)
    # how a sum is split over threads shows in its last bits
    if ended.code == 0 and change is not _more_threads:
        check_same(wanted, trial.folder)
    return Verdict()


def _jumping_clock(seed: int, folder: Path, body: Callable[[], Any]) -> None:
    import random

    rng = random.Random(seed)
    for name in ("time", "monotonic", "perf_counter"):
        # a machine that sleeps, or whose clock is set, back and forth
        original = getattr(time, name)
        setattr(time, name, lambda original=original: original() + rng.choice((0, 0, 0, -86400, 86400, 3e8)))
    body()


def _other_folder(seed: int, folder: Path, body: Callable[[], Any]) -> None:
    os.chdir("/proc/self" if seed % 2 else "/")
    body()


def _gone_folder(seed: int, folder: Path, body: Callable[[], Any]) -> None:
    place = folder / "elsewhere"
    place.mkdir()
    os.chdir(place)
    place.rmdir()
    body()


def _closed_streams(seed: int, folder: Path, body: Callable[[], Any]) -> None:
    # whoever reads has gone away, as `| head` does
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    body()


def _more_threads(seed: int, folder: Path, body: Callable[[], Any]) -> None:
    import torch

    torch.set_num_threads(2)
    body()


def _other_locale(seed: int, folder: Path, body: Callable[[], Any]) -> None:
    import locale

    with suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, ("C", "POSIX", "C.UTF-8")[seed % 3])
    os.environ |= {
        "TZ": ("Pacific/Kiritimati", "UTC", "nonsense")[seed % 3],
        "COLUMNS": "20",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    os.environ.pop("HOME", None)
    time.tzset()
    body()
