"""Apps by the fork: `python -m tests.serving` imports all that the app imports once, and starts it as often as it is asked.

Each line of its input, {"port", "home", "log"} in JSON, is answered by the number of a process in which
`workbench/app.py` runs as if Python had been started with it: with memory, a port and a folder of its own. That spares
every app but the first some fifteen seconds of a core. When the input ends, so does every app.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules

import workbench
from tests.browsing import ROOT
from workbench import engine, library


def main() -> None:
    for module in iter_modules(workbench.__path__):
        # the page itself is built by every app anew
        if module.name != "app":
            import_module(f"workbench.{module.name}")
    library.ready()
    # what every app lists first, and keeps while it runs
    engine.catalog()
    # an app that has ended leaves no trace
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    apps = []
    for line in sys.stdin:
        order = json.loads(line)
        number = os.fork()
        if not number:
            become_app(**order)
            return
        apps.append(number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
    for number in apps:
        with suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)


def become_app(port: int, home: str, log: str) -> None:
    """This process is the app from here on."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(log, "a") as out, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    os.environ |= {"GRADIO_SERVER_PORT": str(port), "OURO_HOME": home}
    script = str(ROOT / "workbench" / "app.py")
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
