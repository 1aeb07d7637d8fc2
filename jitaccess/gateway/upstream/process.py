"""One server process that exchanges lines: started through keeper.py, read without ever blocking, surely ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from jitaccess.kernel.text import visible

from .config import StdioServer
from .errors import UpstreamError
from .keeper import TERM_SECONDS

logger = logging.getLogger("jitaccess.gateway.upstream")

MAX_LINE_BYTES = 8 << 20
MAX_BACKLOG_BYTES = 8 << 20  # written by us, not yet read by the server
MAX_STDERR_BYTES = 64 << 10  # logged per process; more is read and dropped, so that the server never blocks on it
EDGE_BYTES = 256
EXIT_SECONDS = 2.0  # a server may take this long to notice that its stdin closed
SETTLE_SECONDS = 1.0  # between the exit status of a process and the last of its output, either way round

_KEEPER = str(Path(__file__).with_name("keeper.py"))
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


class LineProcess(asyncio.SubprocessProtocol):
    """Calls `on_line` for each line of stdout and `on_end` once, when no further line can come.

    A line over MAX_LINE_BYTES arrives as its first and last EDGE_BYTES with a NUL between, which no JSON holds.
    """

    def __init__(self, server: StdioServer, on_line: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._server, self._slug = server, server.slug
        self._on_line, self._on_end = on_line, on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._stdout: asyncio.ReadTransport | None = None
        self._lifeline = -1
        self._line, self._tail, self._oversized = bytearray(), b"", False
        self._stderr_left = MAX_STDERR_BYTES
        self._exited = asyncio.Event()
        self._output_closed = self._ended = False

    async def start(self) -> None:
        """Start the server with argv, no shell, a minimal environment, its own session. Raises OSError."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        limits = ",".join(f"{name}={number}" for name, number in self._server.limits.items())
        ours, self._lifeline = os.pipe()
        spawn = self._loop.subprocess_exec(
            lambda: self,
            *(sys.executable, "-I", "-S", _KEEPER, str(ours), limits, self._server.command, *self._server.args),
            cwd=self._server.cwd,
            env=inherited | dict(self._server.env),
            start_new_session=True,
            pass_fds=(ours,),
        )
        spawning = asyncio.ensure_future(spawn)
        try:
            # Not cancelled with us: the loop would kill the keeper, which then could not clean up.
            await asyncio.shield(spawning)
        except asyncio.CancelledError:
            self._drop_lifeline()
            await asyncio.wait({spawning})
            if spawning.exception() is None:
                await self.end(patience=0)
            raise
        except BaseException:
            self._drop_lifeline()
            raise
        finally:
            os.close(ours)

    @property
    def pid(self) -> int | None:
        """The keeper's process id, which is also its session id."""
        return self._transport.get_pid() if self._transport else None

    @property
    def exit_status(self) -> int | None:
        return self._transport.get_returncode() if self._transport else None

    def write(self, line: bytes) -> None:
        """Queue one line; never waits. Raises UpstreamError (sent=False) when the server is gone or does not read."""
        if self._stdin is None or self._stdin.is_closing():
            raise UpstreamError("upstream.unavailable", f'The server "{self._slug}" takes no more input.')
        if self._stdin.get_write_buffer_size() > MAX_BACKLOG_BYTES:
            raise UpstreamError("upstream.busy", f'The server "{self._slug}" does not read what was sent to it.')
        self._stdin.write(line)

    def pause(self) -> None:
        """Read nothing more for now: what the server goes on writing waits with it."""
        if self._stdout is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._stdout.pause_reading()

    def resume(self) -> None:
        if self._stdout is not None:
            with contextlib.suppress(RuntimeError):
                self._stdout.resume_reading()

    async def end(self, *, patience: float = EXIT_SECONDS) -> None:
        """Close stdin, wait `patience` seconds, then let the keeper end the process group; returns when it is gone."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.abort()  # close() would wait for a server that does not read
        if not await self._exits_within(patience):
            self._drop_lifeline()
            if not await self._exits_within(2 * TERM_SECONDS + 1) and self._transport is not None:
                logger.error("server %s: the keeper did not end and is killed", self._slug)
                self._transport.kill()  # PR_SET_PDEATHSIG takes the server with it
                await self._exits_within(TERM_SECONDS)
        self._drop_lifeline()
        if self._transport is not None:
            self._transport.close()

    async def _exits_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._exited.wait()
        except TimeoutError:
            return False
        return True

    def _drop_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Casts, not checks: the transports of uvloop share no base class with those of asyncio.
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        self._stdout = cast(asyncio.ReadTransport, self._transport.get_pipe_transport(1))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            *lines, rest = data.split(b"\n")
            for piece in lines:
                self._take(piece)
                self._on_line(self._finish())
            self._take(rest)
        elif self._stderr_left > 0:
            text = data[: self._stderr_left].decode(errors="replace")
            self._stderr_left -= len(data)
            logger.debug("server %s: stderr: %s", self._slug, visible(text, limit=MAX_STDERR_BYTES, multiline=True))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        if fd == 1:
            self._output_closed = True
        if fd in (0, 1):
            self._settle()

    def process_exited(self) -> None:
        self._exited.set()
        self._settle()

    def _settle(self) -> None:
        if self._output_closed and self._exited.is_set():
            self._end()
        else:  # the other half of the news follows at once, unless the server is broken
            self._loop.call_later(SETTLE_SECONDS, self._end)

    def _take(self, piece: bytes) -> None:
        if not self._oversized:
            self._line += piece
            self._oversized = len(self._line) > MAX_LINE_BYTES
            if self._oversized:
                self._tail = bytes(self._line[-EDGE_BYTES:])
                del self._line[EDGE_BYTES:]
        else:
            self._tail = (self._tail + piece)[-EDGE_BYTES:]

    def _finish(self) -> bytes:
        line = bytes(self._line) + (b"\0" + self._tail if self._oversized else b"")
        self._line, self._tail, self._oversized = bytearray(), b"", False
        return line

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()
