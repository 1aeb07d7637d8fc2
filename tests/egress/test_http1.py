"""One connection, byte by byte: what is sent, what is believed, and when a second request may follow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from jitaccess.egress import client as client_module
from jitaccess.egress import http1
from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client, Progress
from jitaccess.egress.errors import EgressFailed

pytestmark = pytest.mark.pure

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    return head + await reader.readexactly(length)


class Server:
    def __init__(self) -> None:
        self.url, self.connections = "", 0


@contextlib.asynccontextmanager
async def listening(talk: Talk, found: Server) -> AsyncIterator[int]:
    """A server that answers each connection with `talk`, which reads requests itself; its port."""
    talks: set[asyncio.Task[Any]] = set()

    async def talked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        found.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await talk(reader, writer)
        finally:
            writer.transport.close() if writer.transport.get_write_buffer_size() < 1 << 20 else writer.transport.abort()

    server = await asyncio.start_server(talked, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def speaking(talk: Talk) -> AsyncIterator[tuple[Server, Client]]:
    """Such a server, and a client for it."""
    found = Server()
    client = Client(Allowance.parse(["127.0.0.1"]))
    async with listening(talk, found) as port:
        found.url = f"http://127.0.0.1:{port}/x?y=1"
        try:
            yield found, client
        finally:
            await client.close()
            assert not client._busy
            assert not client._open


def says(*pieces: bytes, times: int = 100) -> Talk:
    """Answer each request of a connection with these pieces, each written by itself."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            await request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    return talk


async def fetch(client: Client, url: str, **options: Any) -> tuple[int, bytes]:
    response = await client.send("POST", url, headers=options.pop("headers", {}), body=b"{}", **options)
    try:
        return response.status, await response.read(1 << 20)
    finally:
        response.close()


async def failure(work: Awaitable[Any]) -> EgressFailed:
    with pytest.raises(EgressFailed) as caught:
        await work
    return caught.value


def test_what_goes_out_is_one_request_with_our_framing_and_nothing_else() -> None:
    async def work() -> None:
        seen: list[bytes] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(4):
                seen.append(await request(reader))
                writer.write(OK)

        async with speaking(talk) as (server, client):
            for method, body in (("POST", b"{}"), ("POST", None), ("GET", None), ("DELETE", None)):
                response = await client.send(method, server.url, headers={"Accept": "a, b"}, body=body)
                assert await response.read() == b"ok"
                response.close()
            assert server.connections == 1
            host = server.url.split("/")[2].encode()
            common = b"Host: %b\r\nAccept-Encoding: identity\r\nUser-Agent: jitaccess\r\nAccept: a, b\r\n" % host
            assert seen == [
                b"POST /x?y=1 HTTP/1.1\r\n" + common + b"Content-Length: 2\r\n\r\n{}",
                b"POST /x?y=1 HTTP/1.1\r\n" + common + b"Content-Length: 0\r\n\r\n",
                b"GET /x?y=1 HTTP/1.1\r\n" + common + b"\r\n",
                b"DELETE /x?y=1 HTTP/1.1\r\n" + common + b"\r\n",
            ]

    run(work())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Key", "a\r\nX-Other: b"), ("X-Key", "a\nb"), ("X-Key", "a\rb"), ("X-Key", "a\r\n\r\nGET / HTTP/1.1"),
        ("X-Key", "a\0"), ("X-Key", "\x7f"), ("X-Key", "a\r\n b"), ("X-Key", "\u00e9"), ("X-Key", "\u2028"),
        ("X Key", "a"), ("X-Key:", "a"), ("X\r\nY", "a"), ("", "a"), ("X-\u0130", "a"),
        ("Host", "a"), ("content-length", "1"), ("Transfer-Encoding", "chunked"), ("Connection", "close"),
        ("Expect", "100-continue"), ("Accept-Encoding", "gzip"), ("Upgrade", "h2c"),
    ],
)  # fmt: skip
def test_no_header_becomes_another_header_or_another_request(name: str, value: str) -> None:
    async def work() -> None:
        async with speaking(says(OK)) as (server, client):
            progress = Progress()
            with pytest.raises(ValueError, match="header"):
                await fetch(client, server.url, headers={name: value}, progress=progress)
            assert (server.connections, progress.sent) == (0, False)

    run(work())


def test_a_method_whose_answer_is_framed_in_another_way_is_not_spoken() -> None:
    async def work() -> None:
        async with speaking(says(OK)) as (server, client):
            for method in ("HEAD", "CONNECT", "get", "GET / HTTP/1.1\r\n"):
                with pytest.raises(ValueError, match="no method"):
                    await client.send(method, server.url, headers={})
            assert server.connections == 0

    run(work())


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "body", "kept"),
    [
        ([OK], b"ok", True),
        ([OK[index : index + 1] for index in range(len(OK))], b"ok", True),
        ([CHUNKED, b"2\r\nok\r\n", b"0\r\n\r\n"], b"ok", True),
        ([CHUNKED + b"1;a=b\r\no\r\n1\r\nk\r\n0\r\nX-Trailer: t\r\n\r\n"], b"ok", True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nContent-Length: 9\r\n\r\n", OK], b"ok", True),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b"", True),
        ([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"], b"ok", False),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"], b"ok", False),
        ([OK + OK], b"ok", False),
        ([OK + b"HTT"], b"ok", False),
    ],
    ids=["plain", "byte by byte", "chunked", "trailers", "interim", "empty", "close", "1.0", "two answers", "more"],
)  # fmt: skip
def test_an_answer_is_read_to_its_end_and_the_connection_kept_where_that_is_safe(
    pieces: list[bytes], body: bytes, kept: bool
) -> None:
    async def work() -> None:
        async with speaking(says(*pieces)) as (server, client):
            for _ in range(3):
                assert (await fetch(client, server.url))[1] == body
            assert server.connections == (1 if kept else 3)

    run(work())


def test_without_a_length_the_end_of_the_connection_is_the_end_of_the_body() -> None:
    async def work() -> None:
        async with speaking(says(b"HTTP/1.1 200 OK\r\n\r\n", b"all ", b"of it", times=1)) as (server, client):
            for _ in range(2):
                assert await fetch(client, server.url) == (200, b"all of it")
            assert server.connections == 2

    run(work())


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        CHUNKED + b"1\r\no\r\n" + b"0\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    ],
    ids=["twice", "two lengths", "sign", "both", "two codings", "identity", "folded", "NUL", "space", "line feeds", "101",
         "version", "only interim", "trailers"],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_or_never_ends_is_no_answer(said: bytes) -> None:
    async def work() -> None:
        async with speaking(says(said)) as (server, client):
            error = await failure(fetch(client, server.url))
            assert (error.code, error.sent) == ("egress.broken", True)

    run(work())


def test_trailers_and_chunk_extensions_without_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "MAX_BARREN", 4096)

    def flood(start: bytes) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(CHUNKED + start)
            while True:
                writer.write(b"a" * 1024)
                await writer.drain()

        return talk

    async def work() -> None:
        for start in (b"1\r\no\r\n0\r\nX-", b"2;"):
            async with speaking(flood(start)) as (server, client):
                assert (await failure(fetch(client, server.url))).code == "egress.broken"

    run(work())


def test_what_comes_unasked_ends_a_kept_connection_instead_of_answering_the_next_request() -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    went = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(poison)
        await writer.drain()
        went.set()
        await reader.read()

    async def work() -> None:
        async with speaking(talk) as (server, client):
            assert await fetch(client, server.url) == (200, b"ok")
            await went.wait()
            assert await fetch(client, server.url) == (200, b"ok")
            assert server.connections == 2

    run(work())


def test_a_request_that_broke_is_never_sent_again() -> None:
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))
        writer.write(OK)
        seen.append(await request(reader))  # the second on this connection gets no answer

    async def work() -> None:
        async with speaking(talk) as (server, client):
            assert await fetch(client, server.url) == (200, b"ok")
            progress = Progress()
            error = await failure(fetch(client, server.url, progress=progress))
            assert (error.code, error.sent, progress.sent) == ("egress.broken", True, True)
            assert (len(seen), server.connections) == (2, 1)

    run(work())


def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    async def work() -> None:
        async with speaking(says(OK, times=1)) as (server, client):
            for number in range(1, 4):
                assert await fetch(client, server.url) == (200, b"ok")
                assert server.connections == number
                await asyncio.sleep(0.01)

    run(work())


def test_kept_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "KEEP_ALIVE_SECONDS", 0.05)

    async def work() -> None:
        async with speaking(says(OK)) as (server, client):
            await asyncio.gather(*(fetch(client, server.url) for _ in range(5)))
            while client._open:
                await asyncio.sleep(0.01)
            assert not client._kept
            assert await fetch(client, server.url) == (200, b"ok")

    run(work())


def test_nothing_goes_out_without_leave_and_the_connection_is_kept() -> None:
    async def work() -> None:
        async with speaking(says(OK)) as (server, client):
            progress = Progress(permit=lambda: False)
            error = await failure(fetch(client, server.url, progress=progress))
            assert (error.code, error.sent, progress.sent) == ("egress.too_late", False, False)
            assert await fetch(client, server.url, progress=Progress(permit=lambda: True)) == (200, b"ok")
            assert server.connections == 1

    run(work())


def test_a_server_waits_while_nobody_reads_what_it_says() -> None:
    written = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async def work() -> None:
        async with speaking(talk) as (server, client):
            response = await client.send("GET", server.url, headers={})
            before = -1
            while written != before:
                before = written
                await asyncio.sleep(0.1)
            assert written < 32 << 20
            assert response._connection._buffered < 2 * http1.HIGH_WATER
            async for _ in response.chunks(None):
                if written > before:
                    break  # it went on
            response.close()

    run(work())


def test_an_answer_that_is_earlier_than_the_end_of_its_request_ends_the_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.sleep(0.2)

    async def work() -> None:
        async with speaking(talk) as (server, client):
            response = await client.send("POST", server.url, headers={}, body=b"x" * (16 << 20))
            assert (response.status, await response.read()) == (413, b"no")
            response.close()
            assert not client._kept

    run(work())


def test_of_two_addresses_a_dead_one_costs_a_moment_and_not_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async def work() -> None:
        client = Client(Allowance.parse(["mcp.test"]), lookup=both)
        real = client._reach

        async def reach(target: Any, address: str) -> Any:
            if address == "127.0.0.2":
                await asyncio.Event().wait()  # no answer to SYN
            return await real(target, address)

        async with listening(says(OK), Server()) as port:
            for way in (reach, real):  # the other one is refused at once
                monkeypatch.setattr(client, "_reach", way)
                assert await fetch(client, f"http://mcp.test:{port}/") == (200, b"ok")
                client._kept.clear()
            await client.close()

    run(work())


def test_what_is_in_progress_when_the_client_is_closed_breaks_off() -> None:
    async def work() -> None:
        asked = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            asked.set()
            await reader.read()

        async with speaking(silent) as (server, client):
            task = asyncio.create_task(failure(fetch(client, server.url)))
            await asked.wait()
            await client.close()
            assert (await task).code == "egress.broken"

    run(work())
