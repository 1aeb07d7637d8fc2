"""Who sent a request, and by which name it goes in the log."""

from __future__ import annotations

import asyncio
import json
import logging
from ipaddress import ip_network
from typing import Any

import pytest

from jitaccess.kernel.discreet import JsonFormatter, request_id
from jitaccess.runtime.front import Front, believe

pytestmark = pytest.mark.pure

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def _scope(client: str, **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "GET", "path": "/x", "scheme": "http", "client": (client, 1), "headers": raw}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the left one is made up by the client
        ("10.0.0.1", "203.0.113.9, 10.2.2.2", "203.0.113.9"),  # two proxies of ours
        ("10.0.0.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("fd00::1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "fe80::1%<script>", "fe80::1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, <script>", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("203.0.113.5", "198.51.100.1", "203.0.113.5"),  # a stranger who says so
        ("127.0.0.1", "198.51.100.1", "127.0.0.1"),
    ],
)
def test_the_client_is_what_the_last_trusted_proxy_saw(peer: str, forwarded: str, client: str) -> None:
    scope = _scope(peer, x_forwarded_for=forwarded, x_forwarded_proto="https")
    believe(scope, PROXIES)
    assert scope["client"][0] == client
    assert scope["scheme"] == ("http" if peer in {"203.0.113.5", "127.0.0.1"} else "https")


def test_nobody_is_believed_unless_somebody_is_trusted() -> None:
    scope = _scope("127.0.0.1", x_forwarded_for="198.51.100.1", x_forwarded_proto="https")
    believe(scope, [])
    assert (scope["client"][0], scope["scheme"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize(
    ("traceparent", "kept"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "0af7651916cd43dd8448eb211c80319c"),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", None),
        ("x\r\ny", None),
        ("", None),
    ],
)
def test_every_answer_has_the_id_under_which_the_log_tells_of_it(
    traceparent: str, kept: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(request_id.get())
        await send({"type": "http.response.start", "status": 204, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(event: Any) -> None:
        sent.append(event)

    async def use() -> None:
        front = Front(app, proxies=[], access_log=True)
        scope = _scope("127.0.0.1", traceparent=traceparent) | {"path": "/sign-in/x\n", "query_string": b"a=hush"}
        formatter = JsonFormatter()
        with caplog.at_level(logging.INFO, "jitaccess.access"):
            await front(scope, None, send)  # type: ignore[arg-type]
        (record,) = caplog.records
        said = json.loads(formatter.format(record))
        assert (said["status"], said["method"], said["client"]) == (204, "GET", "127.0.0.1")
        assert "hush" not in formatter.format(record)

    asyncio.run(use())
    headers = dict(sent[0]["headers"])
    assert headers[b"a"] == b"b"
    assert headers[b"x-request-id"].decode() == seen[0]
    assert len(seen[0]) == 32
    assert kept is None or seen[0] == kept
    assert request_id.get() == ""
