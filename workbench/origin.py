"""Who may talk to the workbench: pages of other origins may not, whatever a browser would let them send.

A browser sends a form's request, or a simple one of a script, to any address, 127.0.0.1 included, and only keeps the answer
from the page that asked. Started jobs and stored files need no answer, so such requests are refused before they are heard.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost", "::1")
VARIABLE = "OURO_HOSTS"
"""Further names that the page may be reached by, such as that of a proxy, with commas between them."""
_HARMLESS = ("GET", "HEAD", "OPTIONS")


class SameOrigin:
    """Answers 403 to requests under a host name that is not ours, and to changes that another origin asks for."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        self.app, self.hosts = app, {*LOCAL, *hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self.fault(scope) if scope["type"] == "http" else ""
        if fault:
            await PlainTextResponse(f"{fault}\n", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def fault(self, scope: Scope) -> str:
        """Why a request is refused, "" where it is not."""
        # behind the page's routes such a path ends in an error of the server's own
        if not scope["path"].isprintable():
            return "this address holds characters that no address has"
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        # a name that someone else's server has given to this machine's address
        if urlsplit(f"//{host}").hostname not in self.hosts:
            return f"this page is not reached as {host}; if it is a proxy's name, put it into {VARIABLE}"
        if origin is not None and scope["method"] not in _HARMLESS and urlsplit(origin).netloc != host:
            return f"a page of {origin} may not ask for this"
        return ""


def guard() -> list[Middleware]:
    """The guard, with the names that the environment allows."""
    hosts = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    return [Middleware(SameOrigin, hosts=hosts)]
