"""A loopback proxy that adds a bearer token: the conformance suite cannot send a header of its own.

It passes on bytes as they come and changes nothing else, so that streams, the Host header, keep-alive and a client that
leaves in the middle are the gateway's to deal with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

CHUNK = 64 * 1024


@contextlib.asynccontextmanager
async def shim(host: str, port: int, token: str, *, at: int) -> AsyncIterator[None]:
    """Listen on the loopback's port `at` for as long as the context lasts."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())
        try:
            inner, outer = await asyncio.open_connection(host, port)
            tasks = [asyncio.create_task(_requests(reader, outer, token)), asyncio.create_task(_copy(inner, writer))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                outer.transport.abort()
        except OSError:
            pass
        finally:
            running.discard(asyncio.current_task())
            writer.close()

    running: set[asyncio.Task[None] | None] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", at)
    try:
        yield
    finally:
        server.close()
        for task in running:
            assert task
            task.cancel()


async def _requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
    """Request after request: the head with the token, then as many bytes as it says."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            first, _, rest = head.partition(b"\r\n")
            writer.write(first + b"\r\nAuthorization: Bearer " + token.encode() + b"\r\n" + rest)
            lines = (line.partition(b":") for line in rest.lower().split(b"\r\n"))
            lengths = [int(value) for name, _, value in lines if name == b"content-length"]
            writer.write(await reader.readexactly(lengths[0] if lengths else 0))
            await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
