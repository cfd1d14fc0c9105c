"""What jobs leave on disk: one folder per spec, written atomically, resumable, never pickled.

    <root>/runs/<digest of spec>/spec.json  tensors.safetensors  report.json  chunk-0000.safetensors ...

A file is written beside its place, forced to disk and renamed into it, so a reader sees the old file or the new one.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import stat
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_T = TypeVar("_T")

_CHUNK = re.compile(r"chunk-(\d{4,})\.safetensors")
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


_TRIES = 100
"""Times that a file is read anew because another one took its place meanwhile."""
_DEEPEST = 60
"""Values inside of values: more is damage, or made to exhaust whoever reads it."""


class WriteError(OSError):
    """A file could not be written; what was there before is untouched."""


def default_root() -> Path:
    """The folder of everything this project keeps for a user: $OURO_HOME, or ~/.cache/ouro."""
    home = os.environ.get("OURO_HOME")
    return Path(os.path.expanduser(home)) if home else Path.home() / ".cache" / "ouro"


def digest(spec: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the spec as canonical JSON; the order of keys does not matter.

    Raises:
        ValueError: the spec holds something that is no JSON value.
    """
    return sha256(_canonical(dict(spec), "spec").encode()).hexdigest()[:16]


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes a file whole or not at all, making its folder if need be, and returns its path.

    Raises:
        WriteError: no right, no space, or the target is a folder or a device.
    """
    # a link keeps pointing where it pointed: its target is what gets replaced
    target = Path(os.path.realpath(path))
    aside = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    try:
        if target.exists() and not target.is_file():
            raise IsADirectoryError("it is a folder or a device, not a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # renaming over it would need no right on the file itself
            os.close(os.open(target, os.O_WRONLY))
        try:
            with open(aside, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                os.chmod(aside, stat.S_IMODE(target.stat().st_mode))
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        failure = WriteError(f"cannot write {path}: {error.strerror or error}; nothing was changed there")
        failure.errno = error.errno
        raise failure from error
    _sync_folder(target.parent)
    return Path(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Finds out before minutes of work are lost whether a file could be written: writes and removes a neighbor.

    Raises:
        WriteError: see `write_bytes`.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not os.access(target, os.W_OK):
        raise WriteError(f"cannot write {path}: it is read-only; nothing was changed there")
    if target.is_dir():
        raise WriteError(f"cannot write {path}: it is a folder, not a file; nothing was changed there")
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        write_bytes(target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.probe"), b"").unlink()
    finally:
        # what the work itself may still refuse leaves no empty folder
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Writes indented JSON, atomically.

    Raises:
        ValueError: the value is no JSON, or holds NaN or infinity.
        WriteError: see `write_bytes`.
    """
    _check_json(value, Path(path).stem)
    return write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file; one with NaN or infinity, which JSON cannot hold, is none.

    Raises:
        ValueError: the file is truncated or no JSON.
    """
    try:
        value = json.loads(Path(path).read_bytes())
        _check_json(value, "it")
    except RecursionError as error:
        raise ValueError(f"{path} is no readable JSON file (it is nested without end)") from error
    except ValueError as error:
        raise ValueError(f"{path} is no readable JSON file ({error}); was it cut off?") from error
    return value


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        ValueError: the file is truncated, no JSON, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {repr(value)[:60]}, expected a JSON object; was it written by another program?")
    return value


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes a safetensors file, atomically; tensors are copied to the CPU, views and shared storage are resolved.

    Raises:
        WriteError: see `write_bytes`.
    """
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return write_bytes(path, save(plain, dict(metadata or {})))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU, in memory of their own) and metadata of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or of another format.
    """
    return _in_words(path, tensors_and_metadata)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Metadata of a safetensors file, whose tensors are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or of another format.
    """
    return _in_words(path, lambda file: file.metadata() or {})


def tensors_and_metadata(file: safe_open) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All that a safetensors file holds."""
    # cloned, because what is read is a view of the file, and the file may be replaced
    return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _in_words(path: str | os.PathLike[str], look: Callable[[safe_open], _T]) -> _T:
    try:
        return read_whole(path, look)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is no readable safetensors file ({one_line(error)}); was it cut off?") from error
    except MemoryError as error:
        raise ValueError(too_large(path)) from error


def read_whole(path: str | os.PathLike[str], look: Callable[[safe_open], _T]) -> _T:
    """What `look` reads of a safetensors file, all of it of one file: safetensors opens it twice, for its header and for its
    tensors, and in between another one may take its place. What `look` reads must not outlive the file: clone it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is replaced faster than it can be read.
        SafetensorError, RuntimeError, MemoryError: as `look` meets them.
    """
    for _ in range(_TRIES):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}")
        before = _identity(path)
        try:
            with safe_open(path, framework="pt") as file:
                content = look(file)
        except (SafetensorError, RuntimeError, MemoryError):
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return content
    raise ValueError(f"{path} is replaced faster than it can be read; wait for whoever writes it")


def _identity(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """What tells a file from one that takes its place; None where there is none."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size


def one_line(error: object, most: int = 300) -> str:
    """What an exception of another library says, or a file: in one line, and not too long."""
    words = " ".join(str(error).split())
    return words if len(words) <= most else f"{words[:most]} ..."


def too_large(path: str | os.PathLike[str]) -> str:
    """What there is to say of a file whose tensors find no place in memory."""
    return f"{path} holds {os.path.getsize(path) / 1e9:.1f} GB, more than the memory that is free; is it what it says?"


class Store:
    """The runs under one root folder; `root` defaults to `default_root()`."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.folder = (default_root() if root is None else Path(root)) / "runs"
        self._is_default = root is None

    def open(self, spec: Mapping[str, Any], *, needed: bool = True) -> Run:
        """The run of this spec, new or as it was left.

        Args:
            needed: False where the result goes elsewhere anyway: if the folder cannot be written, the run is kept in a
                temporary one until the program ends, with a warning.

        Raises:
            ValueError: the spec is no JSON, or the folder of its digest holds another spec.
            WriteError: the folder cannot be written; the message says which variable names it.
        """
        path = self.folder / digest(spec)
        stored = path / "spec.json"
        try:
            if needs_writing := not stored.exists():
                write_json(stored, dict(spec))
        except OSError as error:
            where = "OURO_HOME" if os.environ.get("OURO_HOME") else "the cache (OURO_HOME is not set)"
            place = self.folder.parent if not self._is_default else f"{where}, {self.folder.parent},"
            words = f"cannot keep runs in {place} ({os.strerror(error.errno) if error.errno else error})"
            if needed:
                failure = WriteError(f"{words}; set OURO_HOME to a folder that can be written")
                failure.errno = error.errno
                raise failure from error
            _log.warning("%s: stopped, this run cannot go on later", words)
            path = Path(mkdtemp(prefix="ouro-"))
            atexit.register(rmtree, path, ignore_errors=True)
            write_json(path / "spec.json", dict(spec))
            return Run(path)
        if needs_writing:
            return Run(path)
        if _canonical(read_json(stored), "spec") != _canonical(dict(spec), "spec"):
            raise ValueError(f"{stored} holds another spec than its folder's name says; remove {path}")
        return Run(path)

    def find(self, spec: Mapping[str, Any]) -> Run | None:
        """The run of this spec if it was opened before; nothing is written."""
        path = self.folder / digest(spec)
        return Run(path) if (path / "spec.json").exists() else None

    def runs(self) -> list[Run]:
        """Every run, in the order in which they were first opened."""
        specs = sorted(self.folder.glob("*/spec.json"), key=lambda path: (path.stat().st_mtime_ns, path))
        return [Run(path.parent) for path in specs]


class Run:
    """One run's folder; what was saved is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def spec(self) -> dict[str, Any]:
        """What the run was asked to do.

        Raises:
            ValueError: the file is damaged.
        """
        return read_object(self.path / "spec.json")

    def save_tensors(
        self, tensors: Mapping[str, Tensor], name: str = "tensors", metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Saves tensors under a name; "chunk-0003" and the like are listed by `chunks`."""
        return write_tensors(self._tensor_file(name), tensors, metadata)

    def load_tensors(self, name: str = "tensors") -> dict[str, Tensor] | None:
        """The tensors saved under this name, or None.

        Raises:
            ValueError: the file is truncated or of another format.
        """
        try:
            return read_tensors(self._tensor_file(name))[0]
        except FileNotFoundError:
            return None

    def drop_tensors(self, name: str) -> None:
        """Removes what was saved under this name, if anything was."""
        self._tensor_file(name).unlink(missing_ok=True)

    def save_report(self, report: Mapping[str, Any]) -> Path:
        """Saves the run's report; by convention the last thing a job does."""
        return write_json(self.path / "report.json", dict(report))

    def report(self) -> dict[str, Any] | None:
        """The run's report, or None while it is unfinished.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path / "report.json"
        return read_object(path) if path.exists() else None

    def chunks(self) -> list[str]:
        """Names of the finished chunks by number, for `load_tensors`."""
        pairs = [(int(match[1]), path.stem) for path in self.path.iterdir() if (match := _CHUNK.fullmatch(path.name))]
        return [name for _, name in sorted(pairs)]

    def _tensor_file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a file of a run; use letters, digits, '.', '_' and '-'")
        return self.path / f"{name}.safetensors"


def _canonical(value: Any, where: str) -> str:
    _check_json(value, where)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_json(value: Any, where: str, depth: int = 0) -> None:
    """Raises a ValueError that names the place of the first thing that is no JSON value, or nested too deep for one."""
    if depth > _DEEPEST:
        raise ValueError(f"{where[:60]}... is nested more than {_DEEPEST} deep; nothing of ours is")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}, expected a string")
            # a key may be anything, lines included
            _check_json(item, f"{where}.{key if key.isprintable() else repr(key)}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise ValueError(f"{where} is {value}, which JSON cannot hold; use None for a number that does not exist")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"{where} is a {type(value).__name__}, expected a JSON value (dict, list, str, number, None)")


def _sync_folder(folder: Path) -> None:
    # the rename itself is only on disk once the folder is; Windows and some network disks cannot do this
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
