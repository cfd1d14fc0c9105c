"""The app: files that it may not serve, endpoints with values that nobody would send, and stored runs that were damaged."""

from __future__ import annotations

import json
import os
import secrets
import socket
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.campaign import material as made
from tests.campaign.containers import damaged_home
from tests.campaign.material import MODEL
from tests.campaign.mutate import damaged_json, drawn_value
from tests.campaign.registry import Offence, Trial, Verdict, kind, readable

_SECRET = secrets.token_hex(16)


def warm_up() -> None:
    """Imports the page, which takes longer than a trial may."""
    import workbench.app  # noqa: F401


# ---- stored runs and what a person brought ---------------------------------------------------------------------


@kind("runs on the page", 1.5, group="app")
def runs_on_the_page(trial: Trial) -> Verdict:
    """What the page lists of damaged runs: it passes over what cannot be read, and never fails as a whole."""
    from workbench import runbook, stored

    home = damaged_home(trial, "generation", "quantize", "sensitivity", "paired compare")
    os.environ["OURO_HOME"] = str(home)
    everything = len(list((home / "runs").iterdir()))
    found = runbook.entries()
    if len(found) < everything - 1:
        raise Offence("a damaged run hides others")
    for entry in found:
        runbook.cells(entry)
        runbook.shown(entry.spec)
        runbook.losses(entry, found)
        runbook.command(entry)
    for sort in runbook.SORTS:
        runbook.chosen(found, "noise", sort=sort)
    runbook.differences(found)
    sets = stored.sets()
    stored.unfinished()
    stored.quantized(MODEL)
    stored.measured_sensitivities(MODEL)
    for entry in sets:
        try:
            stored.pictures(entry)
        except (ValueError, OSError) as error:
            return Verdict(readable(error))
    return Verdict()


@kind("workspace", 4, group="app")
def workspace_file(trial: Trial) -> Verdict:
    from workbench import workspace

    path = str(trial.material.weights)
    content = {
        "models": [{"alias": f"tiny.safetensors ({MODEL})", "name": MODEL, "path": path, "class_names": ["a", "b"], "read": {"x": 1},
                    "row": {"name": "x"}, "digest": "0" * 16, "size": 3, "changed": 4, "kept": True}],
        "pictures": [{"name": "mine", "path": str(trial.folder), "count": 3, "classes": ["a"], "kept": False}],
    }  # fmt: skip
    trial.write("home/workspace/workspace.json", damaged_json(trial.rng, content))
    for entry in (*workspace.models(), *workspace.pictures()):
        _ = entry.fault
    workspace.model(f"tiny.safetensors ({MODEL})")
    workspace.aliases(MODEL, "0" * 16, ("a", "b"))
    workspace.add_pictures(workspace.Pictures("new", str(trial.folder / "p"), 1))
    if not any(entry.name.startswith("new") for entry in workspace.pictures()):
        raise Offence("a damaged workspace takes nothing any more")
    return Verdict()


# ---- endpoints -------------------------------------------------------------------------------------------------


@kind("endpoints", 1, group="app", limit=20)
def endpoints(trial: Trial) -> Verdict:
    """What programs call, with anything as its arguments."""
    import gradio as gr

    from workbench import api

    rng = trial.rng
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (api.attention_maps, {"model": MODEL, "sample": 0, "layer": 0, "window": 3}),
        (api.outlier_channels, {"model": MODEL, "sample": 0, "layer": 0, "tensor": "in_proj", "kappa": 3.0, "refresh": 10}),
        (api.answer, {"model": MODEL, "sample": 0, "seed": 0, "steps": 1}),
        (api.generate, {"model": MODEL, "method": "noise", "num": 1, "steps": 1, "seed": 0}),
        (api.quantized, {"model": MODEL, "method": "minmax", "bits": "w4a4", "images": "noise:1", "scope": "lin", "limit": 1, "seed": 0}),
    ]  # fmt: skip
    function, arguments = rng.choice(calls)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(arguments))
        value = drawn_value(rng)
        # honest work for hours is none of a trial's business
        if name in ("num", "steps", "limit") and isinstance(value, int | float) and value > 2:
            value = -value
        arguments[name] = value
    trial.write("call.txt", f"{function.__name__} {arguments!r}".encode("utf-8", "replace"))
    try:
        api.endpoint(function)(**arguments)
    except gr.Error as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, (ValueError, OSError)):
            raise error.__cause__ from None
        line = str(error.message)
        if "\n" in line:
            raise Offence(f"a toast of several lines\n{line}") from None
        return Verdict(line)
    return Verdict()


# ---- files -----------------------------------------------------------------------------------------------------


@cache
def _port() -> int:
    """Where the app listens, once it does."""
    from tests.browsing import free_port
    from workbench.app import LAUNCH, demo

    port = free_port()
    demo.launch(server_port=port, prevent_thread_lock=True, quiet=True, **LAUNCH)
    return port


def _answered(method: str, path: str, body: bytes = b"", kind_of: str = "") -> tuple[int, str]:
    """Status and text of a request whose path is sent as it is, which no browser would do."""
    port = _port()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: {kind_of}\r\nContent-Length: {len(body)}\r\n" if body else ""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(head.encode("utf-8", "surrogateescape") + b"\r\n" + body)
        parts = []
        while (part := line.recv(65536)) and sum(map(len, parts)) < 2**20:
            parts.append(part)
    text = b"".join(parts).decode("utf-8", "replace")
    status = text.split(" ", 2)[1] if text.startswith("HTTP/") else "0"
    return int(status), text.partition("\r\n\r\n")[2]


@kind("files of the app", 4, group="app", limit=60)
def files_of_the_app(trial: Trial) -> Verdict:
    """Requests for files: nothing that lies outside of what the page made may come back."""
    rng = trial.rng
    secret = trial.write("home/runs/0123456789abcdef/secret.txt", _SECRET.encode())
    target = rng.choice((str(secret), "/etc/passwd", "/proc/self/environ", str(Path.home() / ".bashrc"), str(trial.material.weights),
                         str(Path(made.__file__)), "workbench/app.py", ".git/config", "README.md"))  # fmt: skip
    way = rng.choice((target, target.lstrip("/"), "../" * rng.randrange(12) + target.lstrip("/"), f"/tmp/gradio/../..{target}",
                      f"//{target}", target.replace("/", "\\"), f"{target}\x00.png",
                      f"file://{target}", f"./{target}", f"~{target}"))  # fmt: skip
    way = rng.choice(
        (
            way,
            quote(way),
            quote(way, safe=""),
            quote(quote(way, safe=""), safe=""),
            way.replace("..", "%2e%2e"),
            way.replace("..", "....//"),
        )
    )
    path = rng.choice(("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/static/", "/assets/", "/gradio_api/stream/",
                       "/custom_component/", "/", "/gradio_api/upload_progress?upload_id=", "/theme.css/"))  # fmt: skip
    if rng.random() < 0.25:
        name = rng.choice((way, "../../../x.png", "/etc/x", "a\x00b", "x" * 400, "."))
        part = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\nx\r\n--x--\r\n'
        path, way = "/gradio_api/upload", ""
        status, text = _answered("POST", path, part.encode("utf-8", "replace"), "multipart/form-data; boundary=x")
        if status == 200:
            _check_places(text)
    else:
        status, text = _answered("GET", path + way)
    if any(words in text for words in (_SECRET, "root:x:0", "PATH=", "repositoryformatversion", "[pytest")):
        raise Offence(f"the app serves a file that is not its own\n{path}{way}")
    if status >= 500:
        raise Offence(f"status {status} of {path}\n{path}{way}\n{text[:300]}")
    return Verdict("" if status == 200 else str(status))


def _check_places(text: str) -> None:
    """Uploads lie where the page keeps them.

    Raises:
        Offence: one does not.
    """
    folder = os.path.realpath(os.environ.get("GRADIO_TEMP_DIR") or os.path.join(tempfile.gettempdir(), "gradio"))
    for place in json.loads(text[text.index("[") : text.rindex("]") + 1]):
        if not os.path.realpath(place).startswith(folder + os.sep):
            raise Offence(f"an upload lands outside of the page's folder\n{place}")
        os.unlink(place)
