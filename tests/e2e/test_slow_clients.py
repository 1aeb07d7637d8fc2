"""Clients that do not get on: a few of them must not stop everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.installation import Installation
from tests.mcp_client import LEGACY, MODERN, connect


@pytest.mark.pure
def test_slow_bodies_and_readers_take_no_thread_from_the_pages(installation: Installation) -> None:
    process = installation.up("--no-worker")
    url, parts = process.url, urlsplit(process.url)
    address = (str(parts.hostname), int(parts.port or 0))
    limits = Path(f"/proc/{process.popen.pid}/limits").read_text()
    soft, hard = re.search(r"Max open files\s+(\S+)\s+(\S+)", limits).groups()  # type: ignore[union-attr]
    assert soft == hard, "each client is a file, so it opens as many as it may"
    form = (
        f"POST /accounts/login/ HTTP/1.1\r\nHost: {parts.netloc}\r\nOrigin: {url}\r\nCookie: csrftoken={'a' * 32}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100000\r\n\r\na"
    )
    script = f"GET /static/admin/js/vendor/jquery/jquery.js HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for text in [form] * 20 + [script] * 20:
            slow = stack.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(address)
            slow.sendall(text.encode())
        started = time.monotonic()
        assert httpx2.get(f"{url}/accounts/login/", timeout=10).status_code == 200
        assert time.monotonic() - started < 5
        endless = stack.enter_context(socket.create_connection(address, timeout=10))
        with pytest.raises(ConnectionError):
            endless.sendall(b"GET / HTTP/1.1\r\n")
            for _ in range(10_000):
                endless.sendall(b"X-More: %s\r\n" % (b"y" * 8000))


@pytest.mark.pure
def test_a_form_that_is_too_large_is_refused_unread(installation: Installation) -> None:
    url = installation.up("--no-worker").url
    answer = httpx2.post(f"{url}/accounts/login/", content=b"a" * 3_000_000, timeout=20)
    assert answer.status_code == 413


# The client leaves the sockets of requests that it gives up to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_an_agent_that_waits_a_thousand_times_holds_up_nobody_else(installation: Installation) -> None:
    url = installation.up("--no-worker").url
    token = installation.token("--for", "olga")
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}

    async def flood() -> None:
        async with (
            connect(url, installation.ready_token, era=MODERN) as patient,
            connect(url, token, era=LEGACY) as other,
        ):
            asked = await patient.call("request_access", tools=["git_add"], reason="to stage")
            request_id = asked.structured_content["request_id"]
            headers = {
                "Authorization": f"Bearer {installation.ready_token}",
                "Accept": "application/json, text/event-stream",
            }
            limits = httpx2.Limits(max_connections=400)
            async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=60) as http:
                body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
                opened = await http.post(f"{url}/mcp/git", json=body)
                session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}

                async def wait(number: int) -> int:
                    params = {"name": "check_request", "arguments": {"request_id": request_id, "wait_seconds": 25}}
                    call = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
                    return int((await http.post(f"{url}/mcp/git", json=call, headers=session)).status_code)

                waits = [asyncio.create_task(wait(number)) for number in range(300)]
                while not any(task.done() for task in waits):
                    await asyncio.sleep(0.02)
                started = time.monotonic()
                assert not (await other.call("git_status", repo_path=".")).is_error
                assert time.monotonic() - started < 15  # the waits last 25 s
                for task in waits:
                    task.cancel()
                results = await asyncio.gather(*waits, return_exceptions=True)
                assert 429 in results

    asyncio.run(flood())
