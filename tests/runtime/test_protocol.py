"""Clients that do not get on are put out: while they speak, while they should listen, and between."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from jitaccess.runtime import protocol
from jitaccess.runtime.protocol import Protocol, most_connections, sweep

pytestmark = pytest.mark.pure
GET = b"GET /%s HTTP/1.1\r\nhost: a\r\n\r\n"


@dataclass
class World:
    address: tuple[str, int]
    state: ServerState
    ended: list[str] = field(default_factory=list)

    def later(self, seconds: float) -> None:
        """As if so much time had passed since the last look."""
        sweep(self.state.connections, asyncio.get_running_loop().time() + seconds)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client whose buffers hold little."""
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, self.address)
        return await asyncio.open_connection(sock=plain, limit=1024)


@asynccontextmanager
async def serving() -> AsyncIterator[World]:
    """/long answers with megabytes, anything else with a word, at once and unread."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        size = b"4194308" if scope["path"] == "/long" else b"4"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
        if scope["path"] == "/long":
            for _ in range(64):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b"done"})
        world.ended.append(scope["path"])

    config = uvicorn.Config(app, http=Protocol, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    world = World(server.sockets[0].getsockname(), state)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    try:
        yield world
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()  # type: ignore[union-attr]  # never a websocket here


def run(work: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), serving() as world:
            await work(world)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def is_put_out(reader: asyncio.StreamReader) -> bool:
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass
    return True


async def settled(world: World, count: int) -> None:
    while len(world.state.connections) != count:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nhost:", GET % b"" + b"GET"])
def test_a_head_that_does_not_arrive_is_not_waited_for(said: bytes) -> None:
    async def work(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(said)
        if said.startswith(GET % b""):
            assert b"200 OK" in await reader.readline()
        await settled(world, 1)
        await asyncio.sleep(0.01)
        world.later(protocol.HEAD_SECONDS - 1)
        assert len(world.state.connections) == 1
        world.later(protocol.HEAD_SECONDS + 1)
        assert await is_put_out(reader)
        await settled(world, 0)
        writer.close()

    run(work)


def test_a_head_without_end_is_cut() -> None:
    async def work(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                writer.write(b"x-more: %s\r\n" % (b"y" * 8000))
                await writer.drain()
        assert await is_put_out(reader)
        assert world.ended == []
        writer.close()

    run(work)


def test_a_large_body_in_one_piece_with_its_head_is_no_large_head() -> None:
    async def work(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000)
        assert b"200 OK" in await reader.readline()
        await writer.drain()
        writer.close()

    run(work)


def test_a_client_that_never_reads_is_put_out_and_the_work_for_it_ends() -> None:
    async def work(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(GET % b"long")
        await reader.readexactly(100)
        await asyncio.sleep(0.05)
        world.later(0)
        world.later(protocol.STALL_SECONDS - 1)
        assert world.ended == []
        connection = next(iter(world.state.connections))
        assert connection.transport.get_write_buffer_size() < 200_000, "what waits is bounded"  # type: ignore[union-attr]
        world.later(protocol.STALL_SECONDS + 1)
        await settled(world, 0)
        while world.ended != ["/long"]:
            await asyncio.sleep(0.001)
        writer.close()

    run(work)


def test_a_client_that_reads_slowly_is_served() -> None:
    async def work(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(GET % b"long")
        size = moment = 0
        await reader.readuntil(b"\r\n\r\n")
        while size < 64 * 65536:
            size += len(await reader.readexactly(262_144))
            moment += int(protocol.STALL_SECONDS) - 1
            world.later(moment)
        assert await reader.readexactly(4) == b"done"
        assert world.ended == ["/long"]
        writer.close()

    run(work)


def test_a_body_that_nobody_waits_for_does_not_hold_the_connection() -> None:
    async def work(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nx")
        assert b"200 OK" in await reader.readline()
        while not world.ended:
            await asyncio.sleep(0.001)
        world.later(protocol.REST_SECONDS - 1)
        writer.write(b"x")
        await asyncio.sleep(0.01)
        assert len(world.state.connections) == 1
        world.later(protocol.REST_SECONDS + 1)
        assert await is_put_out(reader)
        writer.close()

    run(work)


def test_a_connection_that_rests_between_requests_is_left_to_its_own_timeout() -> None:
    async def work(world: World) -> None:
        reader, writer = await world.connect()
        for _ in range(2):
            writer.write(GET % b"")
            assert b"200 OK" in await reader.readline()
            while not world.ended:
                await asyncio.sleep(0.001)
            world.ended.clear()
            world.later(1000)
            await reader.readuntil(b"done")
        writer.close()

    run(work)


def test_a_process_opens_as_many_files_as_it_may_and_keeps_some_for_itself() -> None:
    code = "from jitaccess.runtime.protocol import raise_open_files as r; import resource; print(r(), *resource.getrlimit(7))"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = subprocess.run(
        [sys.executable, "-c", f"import resource; resource.setrlimit(7, (64, {hard})); {code}"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert text.split() == [str(hard)] * 3
    assert most_connections(20_000) == 15_000
