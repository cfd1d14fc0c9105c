"""Jobs that are killed or interrupted, again and again: what was finished stays, and the same command ends as if undisturbed."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ouro.store import read_tensors
from tests.campaign.material import Material
from tests.campaign.registry import Offence, Trial, Verdict, kind

PATIENCE_S = 30.0
"""Seconds that a small job may take in a process of its own, on a machine that does other things too."""
VOLATILE = (
    "seconds", "calibration_seconds", "train_seconds", "load_seconds", "peak_mb", "path", "commit", "device", "versions",
    "processor",
)  # fmt: skip
"""What differs from one run of a job to the next."""
STRIKES = ("open", "fsync", "replace", "unlink")
"""Calls around which a file is half there, if ever."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: exit code, or minus the signal; what it wrote; how long it took."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Blow:
    """A signal after some seconds, or just before the so-many-th of a system call."""

    signal: int
    seconds: float = 0.0
    call: str = ""
    count: int = 0


def command(trial: Trial, job: str, variant: int) -> list[str]:
    """The command line of a small job; variants differ in what is computed."""
    weights = ["vim_nano", "--weights", str(trial.material.weights)]
    few = ["--limit", "4", "--data", "scenes:4"]
    lines = {
        "generate": ["generate", *weights, "--num", "6", "--batch", "2", "--steps", "4", "--seed", str(variant)],
        "quantize": ["quantize", *weights, *_rounding(("minmax", "percentile", "smoothquant")[variant], "w4a4"), *_NOISE],
        "sensitivity": [
            "sensitivity", *weights, *_rounding("minmax", ("w4a4", "w8a8", "w6a6")[variant]), *_NOISE, "--by", "group", *few,
        ],
        "bench quantization": [
            "bench", "quantization", *weights, *_rounding("minmax", "w4a4"), *_rounding("percentile", "w8a8"),
            "--calib", f"noise=noise:{2 + variant}", "--seeds", "1", *few,
        ],
        "train": ["train", "vim_nano", "--out", str(trial.folder / "out")],
    }  # fmt: skip
    return [*lines[job], "--json"]


_NOISE = ("--calib", "noise:4")
JOBS = ("generate", "quantize", "sensitivity", "bench quantization", "train")


def _rounding(method: str, bits: str) -> list[str]:
    return ["--method", method, "--bits", bits]


def shorten() -> None:
    """Makes a training one of seconds (two rounds of a step each, a card of few images), and keeps every step of a set."""
    from dataclasses import replace

    from ouro.jobs import synthesize, train
    from ouro.jobs.recipes import RECIPES, Round

    rounds = (Round(2e-3, ((24, 1),)), Round(1e-3, ((24, 1),)))
    RECIPES["vim_nano"] = replace(RECIPES["vim_nano"], rounds=rounds, batch=2)
    train.HELD_OUT = 4
    synthesize.KEEP_EVERY = 0.0


def in_process(body: Callable[[], Any], home: Path, blow: Blow | None = None, patience: float = PATIENCE_S) -> Ended:
    """Runs a function in a forked process, with its streams in files and its runs in `home`; strikes it if told to.

    Raises:
        Offence: it does not end.
    """
    streams = [home.parent / f"stream-{number}" for number in (1, 2)]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(body, home, streams, blow)
    if blow is not None and not blow.call:
        time.sleep(blow.seconds)
        with suppress(ProcessLookupError):
            os.kill(child, blow.signal)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - started > patience:
            os.kill(child, signal.SIGUSR1)
            time.sleep(0.3)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Offence(f"a job does not end within {patience:g} s\n{streams[1].read_text(errors='replace')}")
        time.sleep(0.002)
    out, err = (stream.read_text(errors="replace") if stream.exists() else "" for stream in streams)
    return Ended(os.waitstatus_to_exitcode(status), out, err, time.monotonic() - started)


def _become(body: Callable[[], Any], home: Path, streams: list[Path], blow: Blow | None) -> None:
    """The forked process: never returns."""
    code = 70
    try:
        os.environ["OURO_HOME"] = str(home)
        for number, path in enumerate(streams, 1):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(handle, number)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(1, "wb")),
            io.TextIOWrapper(os.fdopen(2, "wb"), write_through=True),
        )
        faulthandler.register(signal.SIGUSR1, file=2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if blow is not None and blow.call:
            _armed(blow)
        body()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _armed(blow: Blow) -> None:
    """Has the process struck before the so-many-th call."""
    from ouro import store

    left = [blow.count]
    original = getattr(os, blow.call) if blow.call != "open" else open

    def struck(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            left[0] = 10**9
            os.kill(os.getpid(), blow.signal)
        return original(*args, **kwargs)

    if blow.call == "open":
        vars(store)["open"] = struck
    elif blow.call == "unlink":
        # what pathlib calls
        os.unlink = struck
    else:
        setattr(os, blow.call, struck)


def run(arguments: list[str]) -> None:
    """A command line in this process."""
    from ouro.cli import main

    shorten()
    sys.argv = ["ouro", *arguments]
    main()


def warm_up(material: Material, folder: Path) -> None:
    """Runs every job once, so that those that are forked later find its kernels loaded.

    Raises:
        RuntimeError: one fails.
    """
    from typer.testing import CliRunner

    from ouro.cli import app

    shorten()
    trial = Trial("warm-up", 0, 0, folder, material)
    for job in JOBS:
        result = CliRunner().invoke(app, command(trial, job, 0))
        if result.exit_code != 0:
            raise RuntimeError(f"{job} fails undisturbed: {result.stderr or result.exception!r}")


# ---- what has to hold ------------------------------------------------------------------------------------------


def check_whole(folder: Path) -> None:
    """Every file under its own name can be read.

    Raises:
        Offence: one cannot.
    """
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                read_tensors(path)
        except ValueError as error:
            raise Offence(f"half file {path.suffix}\n{path}: {error}") from error


def finished(folder: Path) -> dict[Path, tuple[int, int]]:
    """Parts of jobs that are finished: chunks, cells, rounds, with what changes if they are written again."""
    parts = {}
    for path in folder.rglob("*"):
        name = path.name
        # a round of a training is over once its history is there
        is_part = (
            name.startswith("chunk-")
            or name == "report.json"
            or (name.startswith("vim_nano-") and path.suffix == ".json")
        )
        if is_part and path.is_file():
            parts[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return parts


def check_kept(before: dict[Path, tuple[int, int]], folder: Path) -> None:
    """Nothing that was finished is gone; chunks and rounds were not made again.

    Raises:
        Offence: one is, or was.
    """
    now = finished(folder)
    for path, stamp in before.items():
        if path not in now:
            raise Offence(f"a finished part is lost\n{path}")
        if path.name != "report.json" and now[path] != stamp:
            raise Offence(f"a finished part was made again\n{path}")


def content(folder: Path) -> dict[str, Any]:
    """What jobs left behind, as far as it is the same whenever they are run: file -> its tensors or values."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix == ".json":
            found[name] = settled(json.loads(path.read_bytes()))
        elif path.suffix == ".safetensors":
            tensors = read_tensors(path)[0]
            found[name] = {key: x.numpy().tobytes() for key, x in tensors.items() if key not in VOLATILE}
    return found


def settled(value: Any) -> Any:
    """A report without what differs from run to run."""
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items() if key not in VOLATILE}
    return [settled(item) for item in value] if isinstance(value, list) else value


def check_same(wanted: dict[str, Any], folder: Path) -> None:
    """The files hold what those of an undisturbed run hold.

    Raises:
        Offence: another file, or another content.
    """
    got = content(folder)
    if wanted.keys() != got.keys():
        raise Offence(f"other files than undisturbed\n{sorted(wanted.keys() ^ got.keys())}")
    for name, values in wanted.items():
        if values != got[name]:
            raise Offence(f"another content than undisturbed in {Path(name).name}\n{name}")


_CLEARING = re.compile(r"Exception ignored in: .*__del__.*\n(?:.*\n)*?KeyboardInterrupt: *\n")


def check_streams(ended: Ended) -> None:
    """At most a line on stderr, never a traceback.

    Raises:
        Offence: more.
    """
    # where the interpreter was interrupted while it cleared something away it says so itself, and goes on
    said = _CLEARING.sub("", ended.err)
    lines = [line for line in said.splitlines() if line.strip()]
    if "Traceback" in said:
        raise Offence(f"traceback: {lines[-1][:80]}\n{ended.err}")
    if len(lines) > 1:
        raise Offence(f"{len(lines)} lines on stderr\n{ended.err}")


# ---- trials ----------------------------------------------------------------------------------------------------

_UNDISTURBED: dict[tuple[str, int], tuple[dict[str, Any], float]] = {}


def undisturbed(trial: Trial, job: str, variant: int) -> tuple[dict[str, Any], float]:
    """(what a job leaves behind, the seconds that it takes), found out once in a process."""
    if (job, variant) not in _UNDISTURBED:
        ended = completed(trial, job, variant)
        _UNDISTURBED[job, variant] = content(trial.folder), ended.seconds
        for folder in ("home", "out"):
            shutil.rmtree(trial.folder / folder, ignore_errors=True)
    return _UNDISTURBED[job, variant]


def completed(trial: Trial, job: str, variant: int) -> Ended:
    """Runs a job to its end.

    Raises:
        Offence: it fails, or says more than a line.
    """
    ended = in_process(partial(run, command(trial, job, variant)), trial.folder / "home")
    check_streams(ended)
    if ended.code != 0:
        raise Offence(f"{job} ends with {ended.code}\n{ended.err}")
    return ended


def drawn_blow(trial: Trial, number: int, seconds: float) -> Blow:
    """At a random moment, or at one where a file is being written."""
    if trial.rng.random() < 0.5:
        return Blow(number, seconds=trial.rng.random() * seconds)
    return Blow(number, call=trial.rng.choice(STRIKES), count=trial.rng.randrange(8))


@kind("kill -9", 0.14, group="jobs", unit="kill", limit=300)
def killed(trial: Trial) -> Verdict:
    job, variant = trial.rng.choice(JOBS), trial.rng.randrange(3)
    wanted, seconds = undisturbed(trial, job, variant)
    kills = 0
    for _ in range(trial.rng.choice((1, 2, 3))):
        blow = drawn_blow(trial, signal.SIGKILL, seconds)
        before = finished(trial.folder)
        ended = in_process(partial(run, command(trial, job, variant)), trial.folder / "home", blow)
        kills += ended.code == -signal.SIGKILL
        check_whole(trial.folder)
        check_kept(before, trial.folder)
    before = finished(trial.folder)
    completed(trial, job, variant)
    check_kept(before, trial.folder)
    check_same(wanted, trial.folder)
    return Verdict(kills=kills)


@kind("SIGINT", 0.07, group="jobs", unit="kill", limit=300)
def interrupted(trial: Trial) -> Verdict:
    job, variant = trial.rng.choice(JOBS), trial.rng.randrange(3)
    wanted, seconds = undisturbed(trial, job, variant)
    kills = 0
    for _ in range(trial.rng.choice((1, 2))):
        blow = drawn_blow(trial, signal.SIGINT, seconds)
        before = finished(trial.folder)
        ended = in_process(partial(run, command(trial, job, variant)), trial.folder / "home", blow)
        kills += ended.code != 0
        check_streams(ended)
        check_whole(trial.folder)
        check_kept(before, trial.folder)
        leftover = [path for path in trial.folder.rglob(".*.part")]
        if leftover:
            raise Offence(f"an interrupted job leaves a file behind\n{leftover}")
    completed(trial, job, variant)
    check_same(wanted, trial.folder)
    return Verdict(kills=kills)
