"""A process that runs trials one after the other and may die or hang over any of them."""

from __future__ import annotations

import faulthandler
import os
import resource
import shutil
import signal
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tests.campaign.material import Material
from tests.campaign.registry import KINDS, MARKER, Kind, Offence, Trial, Verdict

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 3 * 2**30
"""Bytes that the trials of a process may take beyond what its libraries do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one trial ended. signature: what offences are grouped by, "" where there is none; detail: a traceback."""

    verdict: Verdict
    seconds: float
    signature: str = ""
    detail: str = ""


class Worker:
    """The process of a group of kinds, made when it is needed and made anew when it is lost."""

    def __init__(self, group: str, folder: Path, material: Material, seed: int) -> None:
        self.group, self.folder, self.material, self.seed = group, folder, material, seed
        self._process, self._pipe = None, None
        self._stacks = folder / f"stacks-{group}"

    def run(self, kind: Kind, number: int) -> Outcome:
        """Runs one trial; one that is too slow has a second chance, for the machine may be busy."""
        outcome = self._once(kind, number)
        return self._once(kind, number) if outcome.signature.startswith("hang") else outcome

    def trial_folder(self, kind: Kind, number: int) -> Path:
        """Where a trial leaves what it tried."""
        return self.folder / f"{kind.name.replace(' ', '-').replace(':', '')}-{number}"

    def close(self) -> None:
        """Ends the process and all that it started."""
        if self._process is not None:
            assert self._pipe is not None
            self._pipe.close()
            self._kill()

    def _once(self, kind: Kind, number: int) -> Outcome:
        if self._process is None:
            self._start()
        assert self._process is not None and self._pipe is not None
        started = time.monotonic()
        shutil.rmtree(self.trial_folder(kind, number), ignore_errors=True)
        self._pipe.send((kind.name, number))
        try:
            if self._pipe.poll(kind.limit):
                return self._pipe.recv()
            stacks = self._stack()
            self._kill()
            return Outcome(
                Verdict(), time.monotonic() - started, f"hang over {kind.limit:g} s {_place(stacks)}", stacks
            )
        except EOFError:
            self._process.join(10)
            code = self._process.exitcode
            self._kill()
            stacks, seconds = self._read(), time.monotonic() - started
            return Outcome(Verdict(), seconds, f"process died, exit code {code} {_place(stacks)}".strip(), stacks)

    def _start(self) -> None:
        self._pipe, other = get_context("fork").Pipe()
        arguments = (other, self.group, self.folder, self._stacks, self.material, self.seed)
        self._process = get_context("fork").Process(target=_serve, args=arguments)
        self._process.start()
        other.close()

    def _stack(self) -> str:
        """Where the process is now."""
        assert self._process is not None and self._process.pid is not None
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(0.3)
        return self._read()

    def _read(self) -> str:
        return self._stacks.read_text(errors="replace")[:6000] if self._stacks.exists() else ""

    def _kill(self) -> None:
        assert self._process is not None and self._process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join(10)
        self._process, self._pipe = None, None


def _serve(pipe: Connection, group: str, folder: Path, stacks: Path, material: Material, seed: int) -> None:
    """What the process does."""
    os.setsid()
    file = stacks.open("w")
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)
    # words that are not part of a trial's own streams are nobody's business
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if group == "load":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    while True:
        try:
            name, number = pipe.recv()
        except EOFError:
            os._exit(0)
        trial_folder = folder / f"{name.replace(' ', '-').replace(':', '')}-{number}"
        trial_folder.mkdir(parents=True)
        pipe.send(attempt(KINDS[name], Trial(name, seed, number, trial_folder, material)))


def attempt(kind: Kind, trial: Trial) -> Outcome:
    """Runs a trial in this process."""
    started, verdict, signature, detail = time.monotonic(), Verdict(), "", ""
    os.environ["OURO_HOME"] = str(trial.folder / "home")
    try:
        verdict = kind.run(trial)
    except Offence as offence:
        words = str(offence)
        signature, detail = f"{words.splitlines()[0]} {_raised(offence)}".strip(), words + "\n" + traceback.format_exc()
    # whatever else comes out of a trial is what it looks for
    except BaseException as error:
        signature, detail = f"{type(error).__name__} {_raised(error)}", traceback.format_exc()
    if (trial.folder / MARKER).exists():
        signature, detail = "code in a file was run", detail
    if not signature:
        shutil.rmtree(trial.folder, ignore_errors=True)
    return Outcome(verdict, time.monotonic() - started, signature, detail)


def _raised(error: BaseException) -> str:
    """The innermost place of this project that an exception went through."""
    cause = error.__cause__ if isinstance(error, Offence) and error.__cause__ is not None else error
    frames = traceback.extract_tb(cause.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(str(ROOT)) and "/tests/" not in frame.filename]
    if not own:
        return ""
    return f"at {Path(own[-1].filename).relative_to(ROOT)}:{own[-1].name}"


def _place(stacks: str) -> str:
    """The innermost place of this project in what faulthandler wrote, which begins with the last call."""
    own = [line for line in stacks.splitlines() if f'"{ROOT}' in line and "/tests/" not in line]
    return own[0].strip().replace(f"{ROOT}/", "") if own else ""
