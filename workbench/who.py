"""Whose page it is: a browser is known by a cookie, so that it finds its own jobs after a reload, and nobody else's.

It is no login: whoever reaches the page may use it, and what lies in the store is everybody's. It keeps apart what is on the
screens of several people.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "wb_browser"
_WHO: ContextVar[str] = ContextVar("who", default="")


def current() -> str:
    """The browser that is being answered, "" for programs and at the start."""
    return _WHO.get()


@contextmanager
def being(name: str) -> Iterator[None]:
    """Answers this browser meanwhile."""
    before = _WHO.set(name)
    try:
        yield
    finally:
        _WHO.reset(before)


def asks(request: Any) -> str:
    """The browser that a request comes from."""
    return _named(getattr(request, "headers", {}).get("cookie", ""))


class Introduced:
    """Gives a browser its cookie with the first page that it gets."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or _named(Headers(scope=scope).get("cookie", "")):
            await self.app(scope, receive, send)
            return

        async def introduce(message: Message) -> None:
            if message["type"] == "http.response.start":
                value = f"{COOKIE}={secrets.token_hex(8)}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
                MutableHeaders(scope=message).append("set-cookie", value)
            await send(message)

        await self.app(scope, receive, introduce)


def _named(cookies: str) -> str:
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
