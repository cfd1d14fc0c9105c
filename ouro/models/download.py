"""Where a checkpoint file lies: a path, a URL or a file on the Hugging Face hub; a download is there whole or not at all.

Downloads from URLs are kept as torch.hub keeps them, one folder per URL, in $OURO_HOME/checkpoints or torch's own cache.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch

_TIMEOUT = 30
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
    path = Path(source)
    if is_url(source):
        path = _from_url(source)
    elif not path.exists():
        return _from_hub(source)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a .safetensors or .pth file")
    return path, ""


def content_digest(path: Path) -> str:
    """The first digits of a file's SHA-256."""
    return _sha256(path)[:DIGITS]


def cached(url: str) -> Path:
    """Where the download of a URL is kept, whether it is there or not."""
    home = os.environ.get("OURO_HOME")
    root = Path(home).expanduser() if home else Path(torch.hub.get_dir())
    # a folder per address: releases use the same file name for different weights
    return root / "checkpoints" / sha256(url.encode()).hexdigest()[:8] / Path(unquote(urlsplit(url).path)).name


def _from_url(url: str) -> Path:
    target = cached(url)
    if target.is_file():
        return target
    partial = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    _log.info("downloading %s to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urlopen(Request(url, headers={"User-Agent": "ouro"}), timeout=_TIMEOUT) as answer:
            with open(partial, "xb") as file:
                shutil.copyfileobj(answer, file)
            wanted = answer.headers.get("Content-Length")
        size, digest = partial.stat().st_size, _sha256(partial)
        if wanted is not None and size != int(wanted):
            raise OSError(f"the connection ended after {size} of {wanted} bytes")
        told = _HASH_IN_NAME.search(target.name)
        if told and not digest.startswith(told[1]):
            raise OSError(f"its SHA-256 is {digest[:DIGITS]}, its name says {told[1]}")
        os.replace(partial, target)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            # it is the answer, too, with its connection
            error.close()
        reason = error.reason if type(error) is URLError else error
        raise ValueError(
            f"cannot download {url}: {_first_line(reason)}; download it by hand and give its path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _from_hub(source: str) -> tuple[Path, str]:
    repository, colon, file = source.partition(":")
    if not colon or repository.count("/") != 1 or not file:
        raise ValueError(
            f"no checkpoint at {source!r}; give a .safetensors or .pth file, a URL, or a Hugging Face file as "
            "'org/name:file' or 'org/name:file@revision'"
        )
    # only needed for hub files
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    file, _, revision = file.partition("@")
    try:
        path = Path(hf_hub_download(repository, file, revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        at = f" at {revision!r}" if revision else ""
        raise ValueError(
            f"cannot download {file!r} of {repository!r}{at}: {_first_line(error)}; download it by hand and give "
            "its path"
        ) from error
    # …/snapshots/<commit>/<file>
    return path, path.parents[len(Path(file).parts) - 1].name


def _sha256(path: Path) -> str:
    total = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
