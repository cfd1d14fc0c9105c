"""Whether an installed package does without its checkout: `python tests/installed.py FOLDER`, the `bin` of its environment.

Run by `make wheel`, from a folder of its own, with nothing on the path but what was installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PORT = 7877
_PATIENCE = 180
"""Seconds until the page has to answer."""


def said(command: list[str], where: Path) -> dict[str, Any]:
    """What a command says as JSON."""
    print(f"$ {Path(command[0]).name} {' '.join(command[1:])}", flush=True)
    ended = subprocess.run(
        [*command, "--json"], cwd=where, capture_output=True, text=True, check=False, env=_env(where)
    )
    if ended.returncode:
        sys.exit(f"it ended with {ended.returncode}: {ended.stderr.strip()}")
    return json.loads(ended.stdout)


def page(command: list[str], where: Path) -> str:
    """The page that the app answers with."""
    print(f"$ {Path(command[0]).name}", flush=True)
    app = subprocess.Popen(command, cwd=where, env=_env(where) | {"GRADIO_SERVER_PORT": str(PORT)})
    try:
        for _ in range(_PATIENCE):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=5) as answer:
                    return answer.read().decode()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if app.poll() is not None:
                    sys.exit(f"the app ended with {app.returncode}")
                time.sleep(1)
        sys.exit(f"no answer within {_PATIENCE} s")
    finally:
        app.terminate()
        app.wait()


def _env(where: Path) -> dict[str, str]:
    """This process's environment without a way back to the checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"OURO_HOME": str(where / "home")}


def main(folder: str) -> None:
    """Asks the installed commands for what the README promises, and the app for its page."""
    programs = Path(folder).resolve()
    ouro = str(programs / "ouro")
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        said([ouro, "doctor"], where)
        score = said([ouro, "evaluate", "vim_nano", "--limit", "200"], where)
        assert score["n"] == 200 and score["top1"] > 0.9, score
        ledger = said([ouro, "paper", "list"], where)["artefacts"]
        assert any(row["results"] and row["verdict"] == "seen" for row in ledger), (
            "the stored results did not come along"
        )
        text = page([str(programs / "ouro-workbench")], where)
        assert "Ouro Workbench" in text and "wb-paper-ledger" in text
    print(
        f"the installed package does: top-1 {100 * score['top1']:.1f} % of {score['n']}, {len(ledger)} entries, the page"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
