"""What a person brought: models and pictures of their own, kept until they are removed, over restarts and reloads.

<root>/workspace/workspace.json  models/<digest>/<file>  pictures/<file>

Uploads are copied there, because the page's temporary files go away; what was named by its path stays where it is. An
entry whose file is gone or was changed stays in the list, with what is wrong with it.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Of files that may hold weights; MambaVision's end in .pth.tar."""
UPLOADED = "Uploaded pictures"
"""The set that uploaded pictures are collected in."""

_LOCK = threading.RLock()


@dataclass(frozen=True, slots=True)
class Model:
    """A model of one's own, under the name that every tab knows it by.

    alias: file and registered name, such as "bees.pth (vim_tiny_patch16_224)". name: the registered one. path: the file.
    read: what was read from it, to be shown. row: as of `ouro.jobs.catalog`. digest: of the weights once they are
    loaded. size, changed: of the file when it was read. kept: it is a copy of an upload.
    """

    alias: str
    name: str
    path: str
    class_names: tuple[str, ...] = ()
    read: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    size: int = 0
    changed: int = 0
    kept: bool = False

    @property
    def fault(self) -> str:
        """Why it cannot be opened as things are, "" where it can."""
        try:
            now = os.stat(self.path)
        except OSError:
            return f"{Path(self.path).name} is no longer where it was; add it again or remove it"
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            return f"{Path(self.path).name} was changed since it was read; add it again"
        return ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """A set of pictures: a folder, one sub-folder per class where there are `classes`. kept: copies of uploads."""

    name: str
    path: str
    count: int
    classes: tuple[str, ...] = ()
    kept: bool = False

    @property
    def data(self) -> str:
        """The set as jobs take it."""
        return f"folder:{self.path}"

    @property
    def fault(self) -> str:
        """Why it cannot be opened as things are, "" where it can."""
        # unlike pathlib's, it has an answer to names that are too long as well
        return "" if os.path.isdir(self.path) else "the folder is no longer there; remove it, or put it back"


_Entry = TypeVar("_Entry", Model, Pictures)


def root() -> Path:
    """The folder of it all."""
    from ouro.store import default_root

    return default_root() / "workspace"


def models() -> list[Model]:
    """All models that were added, in that order."""
    return _entries(Model, "models")


def pictures() -> list[Pictures]:
    """All sets of pictures that were added, in that order."""
    return _entries(Pictures, "pictures")


def model(alias: str) -> Model | None:
    """The model of this name, None where it is not one of a person's own."""
    # a registered name has no blank, and needs no look at the disk
    if " " not in alias:
        return None
    return next((entry for entry in models() if entry.alias == alias), None)


def version(alias: str) -> str:
    """What tells a model of one's own from what its file held when it was read before; "" for all others."""
    entry = model(alias)
    if entry is None:
        return ""
    return sha256(f"{entry.path} {entry.size} {entry.changed} {entry.class_names}".encode()).hexdigest()


def aliases(name: str, digest: str, class_names: Sequence[str] = ()) -> list[str]:
    """The aliases of these weights under a registered name, those with the same names of classes first."""
    entries = [entry for entry in models() if (entry.name, entry.digest) == (name, digest)]
    return [entry.alias for entry in sorted(entries, key=lambda entry: entry.class_names != tuple(class_names))]


def add_model(entry: Model) -> Model:
    """Keeps a model; one of the same file takes the place and the alias of the one that was there."""

    def added(entries: list[Model]) -> tuple[list[Model], Model]:
        before = next((old for old in entries if old.path == entry.path), None)
        rest = [old for old in entries if old is not before]
        alias = _unused(f"{Path(entry.path).name} ({entry.name})", {old.alias for old in rest})
        new = replace(entry, alias=alias, row={**entry.row, "name": alias})
        return [*rest, new], new

    return _changed(Model, "models", added)


def add_pictures(entry: Pictures) -> Pictures:
    """Keeps a set; one of the same folder takes the place of the one that was there."""

    def added(entries: list[Pictures]) -> tuple[list[Pictures], Pictures]:
        rest = [old for old in entries if old.path != entry.path]
        new = replace(entry, name=_unused(entry.name, {old.name for old in rest}))
        return [*rest, new], new

    return _changed(Pictures, "pictures", added)


def remove_model(alias: str) -> None:
    """Forgets a model; the copy of an upload is deleted, a file that was named by its path is not.

    Raises:
        ValueError: there is no such model.
    """
    entry = _taken_out(Model, "models", lambda old: old.alias == alias, alias)
    if entry.kept:
        Path(entry.path).unlink(missing_ok=True)
        with suppress(OSError):
            Path(entry.path).parent.rmdir()


def remove_pictures(name: str) -> None:
    """Forgets a set; copies of uploads are deleted, a folder that was named by its path is not.

    Raises:
        ValueError: there is no such set.
    """
    entry = _taken_out(Pictures, "pictures", lambda old: old.name == name, name)
    if entry.kept:
        shutil.rmtree(entry.path, ignore_errors=True)


def keep_model(path: str, digest: str) -> Path:
    """Copies an uploaded file; returns where it is now."""
    return _copied(Path(path), root() / "models" / (digest or uuid.uuid4().hex[:12]) / Path(path).name)


def keep_pictures(paths: Sequence[str]) -> Path:
    """Copies uploaded pictures, each under a name of its own; returns their folder."""
    folder = root() / "pictures"
    for path in map(Path, paths):
        taken = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        _copied(path, folder / _unused(path.name, taken))
    return folder


def check_model_file(path: str) -> Path:
    """The file, if it may hold weights.

    Raises:
        ValueError: there is none, it is a folder or empty, or its name ends as no checkpoint's does.
    """
    file = Path(os.path.expanduser(path))
    if not file.exists():
        raise ValueError(f"there is no file {path} on this machine")
    if file.is_dir():
        raise ValueError(f"{path} is a folder; give the file with the weights")
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{file.name} does not end as weights do; known: {', '.join(SUFFIXES)}")
    if file.stat().st_size == 0:
        raise ValueError(f"{file.name} is empty (0 bytes); save it again")
    return file.resolve()


def class_names(path: str | None) -> tuple[str, ...]:
    """Names of classes in the order of the head, see `ouro.data.names`; () without a file.

    Raises:
        ValueError: it holds something else.
    """
    if not path:
        return ()
    from ouro.data.names import read_names

    return read_names(path, Path(path).name)


def names_file(names: Sequence[str]) -> Path:
    """A file with these names of classes, as `class_names` and the command line read it."""
    from ouro.store import write_json

    path = root() / "names" / f"{sha256(json.dumps(list(names)).encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, list(names))
    return path


def is_local(host: str | None, headers: Mapping[str, str]) -> bool:
    """Whether whoever asks sits at this machine, and may name files on it. A proxy in between speaks for others."""
    if not host or {"forwarded", "x-forwarded-for", "x-real-ip"} & {name.lower() for name in headers}:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ---- the file --------------------------------------------------------------------------------------------------


def _entries(kind: type[_Entry], key: str) -> list[_Entry]:
    """What can be read of a list; an entry of another version is passed over."""
    entries = []
    stored = _content().get(key)
    types = {field.name: _TYPES[str(field.type)] for field in fields(kind)}
    for one in stored if isinstance(stored, list) else []:
        try:
            if wrong := [name for name, value in one.items() if not _is(value, types[name])]:
                raise TypeError(f"{wrong[0]} is {repr(one[wrong[0]])[:60]}")
            lists = {name: tuple(value) for name, value in one.items() if types[name] is list}
            entries.append(kind(**{**one, **lists}))
        except (TypeError, AttributeError, KeyError) as error:
            log.warning("an entry of the workspace cannot be read (%r)", error)
    return entries


_TYPES = {"str": str, "int": int, "bool": bool, "Mapping[str, Any]": dict, "tuple[str, ...]": list}
"""Type of a field -> what JSON has for it; a list is one of texts."""


def _is(value: Any, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(_is(item, str) for item in value)
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool) and _can_be_shown(value)


def _can_be_shown(value: Any) -> bool:
    """Whether its texts have nothing that no file name has, and half characters that no page can be sent."""
    try:
        return "\0" not in str(value) and bool(json.dumps(value, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return False


def _content() -> dict[str, Any]:
    from ouro.store import read_json

    path = root() / "workspace.json"
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except ValueError as error:
        aside = path.with_suffix(".damaged")
        log.warning("%s; it is now %s", error, aside.name)
        path.replace(aside)
        return {}
    return content if isinstance(content, dict) else {}


def _changed(kind: type[_Entry], key: str, change: Callable[[list[_Entry]], tuple[list[_Entry], _Entry]]) -> _Entry:
    """Replaces a list by what `change` makes of it, and returns the entry that it is about."""
    from ouro.store import write_json

    with _LOCK:
        entries, entry = change(_entries(kind, key))
        write_json(root() / "workspace.json", {**_content(), key: [_plain(one) for one in entries]})
    return entry


def _taken_out(kind: type[_Entry], key: str, chosen: Callable[[_Entry], bool], name: str) -> _Entry:
    def without(entries: list[_Entry]) -> tuple[list[_Entry], _Entry]:
        entry = next(filter(chosen, entries), None)
        if entry is None:
            raise ValueError(f"{name!r} is not among what you brought; was it removed meanwhile?")
        return [old for old in entries if old is not entry], entry

    return _changed(kind, key, without)


def _plain(entry: Model | Pictures) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(entry).items()}


def _copied(source: Path, target: Path) -> Path:
    """The copy, whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        shutil.copyfile(source, aside)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def _unused(name: str, taken: set[str]) -> str:
    """The name, with a number in it where it is taken."""
    stem, suffix = os.path.splitext(name)
    # a bracket ends an alias, no file
    head, tail = (stem, suffix) if re.fullmatch(r"\.\w+", suffix) else (name, "")
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{head} {number}{tail}"
    return free
