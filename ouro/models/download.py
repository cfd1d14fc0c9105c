"""Where a checkpoint file lies: a path, a URL or a file on the Hugging Face hub; a download is there whole or not at all.

Downloads from URLs are kept as torch.hub keeps them, one folder per URL, in $OURO_HOME/checkpoints or torch's own cache.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, getproxies, urlopen

import torch

from ouro.progress import finish
from ouro.settings import first_line
from ouro.types import Progress

_TIMEOUT = 30
_BLOCK = 1 << 18
_POLL = 0.25
DIGITS = 12
"""Of a SHA-256, what names a content."""
# torch.hub's convention: resnet50-0676ba61.pth
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
_log = logging.getLogger(__name__)


def is_url(source: str) -> bool:
    """Whether it is an http(s) address."""
    return source.startswith(("http://", "https://"))


def locate(source: str) -> tuple[Path, str]:
    """(file on this machine, commit) of a path, a URL, or a hub file "org/name:file" or "org/name:file@revision".

    The commit is the one that a hub file was taken from, "" for any other.

    Raises:
        ValueError: there is no such file, or it cannot be downloaded.
    """
    return finish(locating(source))


def locating(source: str) -> Generator[Progress, None, tuple[Path, str]]:
    """`locate` with a Progress in bytes while something is downloaded; closed before its end, it leaves nothing behind.

    Raises:
        ValueError: see `locate`.
    """
    path = Path(source)
    if is_url(source):
        path = yield from _from_url(source)
    elif not path.exists():
        return (yield from _from_hub(source))
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a .safetensors or .pth file")
    return path, ""


def content_digest(path: Path) -> str:
    """The first digits of a file's SHA-256."""
    return _sha256(path)[:DIGITS]


def at_hand(source: str) -> bool:
    """Whether `locate` has the file on this machine; nothing is downloaded.

    Raises:
        ValueError: it is neither a path, a URL nor a hub file.
    """
    if is_url(source):
        return cached(source).is_file()
    if Path(source).exists():
        return True
    # only needed for hub files
    from huggingface_hub import try_to_load_from_cache

    repository, file, revision = _hub_file(source)
    return isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str)


def cached(url: str) -> Path:
    """Where the download of a URL is kept, whether it is there or not."""
    home = os.environ.get("OURO_HOME")
    root = Path(os.path.expanduser(home)) if home else Path(torch.hub.get_dir())
    # a folder per address: releases use the same file name for different weights
    return root / "checkpoints" / sha256(url.encode()).hexdigest()[:8] / Path(unquote(urlsplit(url).path)).name


def _from_url(url: str) -> Generator[Progress, None, Path]:
    target = cached(url)
    if target.is_file():
        return target
    partial = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    _log.info("downloading %s to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urlopen(Request(url, headers={"User-Agent": "ouro"}), timeout=_TIMEOUT) as answer:
            wanted, size, total = answer.headers.get("Content-Length"), 0, sha256()
            with open(partial, "xb") as file:
                # what has come so far, so that a slow connection is seen to move
                while block := answer.read1(_BLOCK):
                    size += file.write(block)
                    total.update(block)
                    yield _progress(size, int(wanted or 0))
        digest = total.hexdigest()
        if wanted is not None and size != int(wanted):
            raise OSError(f"the connection ended after {size} of {wanted} bytes")
        named = _HASH_IN_NAME.search(target.name)
        if named and not digest.startswith(named[1]):
            raise OSError(f"its SHA-256 is {digest[:DIGITS]}, its name says {named[1]}")
        os.replace(partial, target)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            # it is the answer, too, with its connection
            error.close()
        reason = error.reason if type(error) is URLError else error
        raise ValueError(
            f"cannot download {url}: {first_line(reason).rstrip('.')}; download it by hand and give its path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _hub_file(source: str) -> tuple[str, str, str]:
    """(repository, file, revision or "") of "org/name:file@revision"."""
    repository, colon, file = source.partition(":")
    if not colon or repository.count("/") != 1 or not file:
        raise ValueError(
            f"no checkpoint at {source!r}; give a .safetensors or .pth file, a URL, or a Hugging Face file as "
            "'org/name:file' or 'org/name:file@revision'"
        )
    file, _, revision = file.partition("@")
    return repository, file, revision


def _from_hub(source: str) -> Generator[Progress, None, tuple[Path, str]]:
    repository, file, revision = _hub_file(source)
    # only needed for hub files
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import logging as hub_logging

    def fetch(bar: type) -> str:
        # a name without an address gets none by the fifth try, half a minute later
        if not constants.HF_HUB_OFFLINE and not _has_address(constants.ENDPOINT):
            kept = try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(kept, str):
                return kept
            raise OSError(
                f"no address is known for {urlsplit(constants.ENDPOINT).hostname}: this machine may be offline"
            )
        # it logs two lines for each time that it tries again, and what it ends in says it all
        before = hub_logging.get_verbosity()
        hub_logging.set_verbosity_error()
        try:
            return hf_hub_download(repository, file, revision=revision or None, tqdm_class=bar)
        finally:
            hub_logging.set_verbosity(before)

    try:
        path = Path((yield from _watched(fetch)))
    # its own errors, and those of whatever carries the connection in this version
    except Exception as error:
        at = f" at {revision!r}" if revision else ""
        raise ValueError(
            f"cannot download {file!r} of {repository!r}{at}: {first_line(error).rstrip('.')}; download it by hand and give "
            "its path"
        ) from error
    # …/snapshots/<commit>/<file>
    return path, path.parents[len(Path(file).parts) - 1].name


def _has_address(url: str) -> bool:
    """Whether the host of a URL has an address here, or a proxy that may know one."""
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return False
    return True


class _Stopped(Exception):
    """Ends a download that nobody waits for any longer."""


def _watched(fetch: Callable[[type], str]) -> Generator[Progress, None, str]:
    """Runs `fetch(class of a progress bar)` in a thread and yields what its bars show, now and then even if nothing.

    Closed before the end, it stops the thread at its next block; huggingface_hub then removes what it began.
    """
    from tqdm import tqdm

    shown: SimpleQueue[tuple[int, int]] = SimpleQueue()
    end: Future[str] = Future()
    stop = threading.Event()

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            if stop.is_set():
                raise _Stopped
            self.n += n or 0
            shown.put((int(self.n), int(self.total or 0)))

    def work() -> None:
        try:
            end.set_result(fetch(Bar))
        # whatever it is belongs to the one who waits
        except BaseException as error:
            end.set_exception(error)

    # a daemon: the program may end while it runs
    threading.Thread(target=work, name="hub-download", daemon=True).start()
    size = total = 0
    try:
        while not (end.done() and shown.empty()):
            with suppress(Empty):
                # some transfers have a bar for the network and one for the file
                size, total = map(max, (size, total), shown.get(timeout=_POLL))
            yield _progress(size, total)
    finally:
        stop.set()
    return end.result()


def _progress(size: int, total: int) -> Progress:
    """So many bytes; a total of 0 is not known."""
    amount = f"{size / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{size / 1e6:.1f} MB"
    # without a total there is no share to show
    return Progress(size if total else 0, total, amount, {"bytes": size})


def _sha256(path: Path) -> str:
    total = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
