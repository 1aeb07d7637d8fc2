"""Nothing in between: the client speaks to a process of the same upstream by its pipe, as a local agent does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator

from bench.client import PATIENCE, Answer, new_nonce, outcome
from bench.upstream import arguments


class Direct:
    """One pipe, many calls at a time, each told from the others by its id. Answers are checked as a Session's."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._in, self._out = process.stdin, process.stdout
        self._waiting: dict[str, asyncio.Future[tuple[float, bytes]]] = {}

    async def call(self, tool: str) -> Answer:
        nonce = new_nonce()
        params = {"name": tool, "arguments": {"nonce": nonce}}
        message = {"jsonrpc": "2.0", "id": nonce, "method": "tools/call", "params": params}
        answered = self._waiting[nonce] = asyncio.get_running_loop().create_future()
        sent = time.monotonic()
        self._in.write(json.dumps(message).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            got, line = await answered
        return Answer(nonce, 0, tool, sent, got, outcome(b"HTTP/1.1 200 OK\r\n\r\n", line, nonce))

    def close(self) -> None:
        """The pipe is for all rounds."""

    async def read(self) -> None:
        async for line in self._out:
            self._waiting.pop(json.loads(line)["id"]).set_result((time.monotonic(), line))


@contextlib.asynccontextmanager
async def direct(record: str) -> AsyncIterator[Direct]:
    """A process of its own, which ends with the block."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments(record), stdin=pipe, stdout=pipe)
    caller = Direct(process)
    reading = asyncio.create_task(caller.read())
    try:
        yield caller
    finally:
        process.terminate()
        await process.wait()
        await reading
