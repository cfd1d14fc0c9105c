"""Requests of other origins and under other host names are refused before anything hears them."""

from __future__ import annotations

import http.client
import json
import urllib.parse

import pytest

from workbench.origin import SameOrigin

JOB = json.dumps({"data": ["vim_nano", 0, 0, 5], "fn_index": 0, "session_hash": "x"})


def asked(url: str, method: str, path: str, **headers: str) -> tuple[int, str]:
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, JOB if method == "POST" else None, names)
    answer = connection.getresponse()
    words = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, words


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/call/attention", "/gradio_api/upload"])
def test_another_page_starts_nothing(server: str, path: str):
    for kind in ("text/plain", "application/json"):
        status, words = asked(server, "POST", path, Origin="http://evil.example", Content_Type=kind)
        assert (status, words) == (403, "a page of http://evil.example may not ask for this\n")
    # a page on this machine is another origin too, and a file has none
    other = server.rstrip("/").rpartition(":")[0] + ":1"
    for origin in (other, "null"):
        assert asked(server, "POST", path, Origin=origin, Content_Type="application/json")[0] == 403


def test_the_page_itself_and_programs_are_heard(server: str):
    own = server.rstrip("/")
    assert asked(server, "POST", "/gradio_api/call/models", Origin=own, Content_Type="application/json")[0] != 403
    assert asked(server, "POST", "/gradio_api/call/models", Content_Type="application/json")[0] != 403
    assert asked(server, "GET", "/config")[0] == 200


def test_a_foreign_name_for_this_machine_is_refused(server: str):
    status, words = asked(server, "GET", "/config", Host="rebound.example:7860")
    assert status == 403 and words.startswith(
        "this page is not reached as rebound.example:7860; if it is a proxy's name, put it into"
    )


@pytest.mark.parametrize(
    ("host", "origin", "refused"),
    [
        ("localhost:7860", "http://localhost:7860", False),
        ("[::1]:7860", "http://[::1]:7860", False),
        ("127.0.0.1:7860", "http://localhost:7860", True),
        ("proxy.example", "https://proxy.example", False),
        ("proxy.example.evil", "https://proxy.example.evil", True),
        ("", "http://localhost", True),
    ],
)
def test_names_are_compared_whole(host: str, origin: str, refused: bool):
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(b"host", host.encode()), (b"origin", origin.encode())],
    }
    assert bool(SameOrigin(None, ["proxy.example"]).fault(scope)) is refused  # type: ignore[arg-type]


def cookie_of(url: str) -> str:
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    connection.request("GET", "/")
    given = connection.getresponse().getheader("set-cookie") or ""
    connection.close()
    return given


def test_every_browser_gets_a_name_of_its_own(server: str):
    first, second = (cookie_of(server) for _ in range(2))
    for cookie in (first, second):
        assert cookie.startswith("wb_browser=") and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert first.split(";")[0] != second.split(";")[0]
    assert "set-cookie" not in asked(server, "GET", "/config")[1].lower()
