"""What a client is told before its result. Until then its answer is plain JSON.

The first thing that must be told makes the answer an event stream, if the client takes those (2026-07-28 and
2025-11-25, "Streamable HTTP"); so does a wait that is long enough to need a sign of life.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from jitaccess.gateway.http import EventStream, Send, event, patience, send_json
from jitaccess.kernel.deadline import alarm
from jitaccess.kernel.strictjson import JsonObject

KEEP_ALIVE_SECONDS = 15.0
# Bytes that wait for a slow reader. What is told beyond is dropped; the result never is.
MAX_HELD = 256 * 1024


class Reply:
    """The answer to one request, on its event loop."""

    def __init__(self, send: Send, *, events: bool, preferred: bool = False) -> None:
        """`events`: whether the client takes an event stream; `preferred`: whether rather than JSON, in any case."""
        self._send, self._events, self._preferred = send, events, preferred
        self._frames: deque[bytes] = deque()
        self._held = 0
        self._more: asyncio.Event | None = None
        self._over = False
        self._stream: asyncio.Task[None] | None = None
        # Set, and called, when the client is found to read no more.
        self.lost = False
        self.on_lost: Callable[[], None] | None = None
        self._late = alarm(KEEP_ALIVE_SECONDS, self._open) if events else None

    @property
    def streaming(self) -> bool:
        return self._stream is not None

    def tell(self, message: JsonObject) -> bool:
        """Say it before the result. False when it cannot be said: no event stream, or too much waits already."""
        frame = event(message)
        if not self._events or self._over or self.lost or self._held + len(frame) > MAX_HELD:
            return False
        self._add(frame)
        self._open()
        return True

    async def end(self, status: int, answer: JsonObject) -> None:
        """The last word; with its status where nothing was said before. Raises ConnectionError."""
        self.close()
        if self._preferred and status == 200:
            self._open()
        if self._stream is None:
            await send_json(self._send, status, answer)
            return
        self._add(event(answer))
        await self._stream

    def close(self) -> None:
        """Nothing more is said. A stream may be left: see `drop`."""
        self._over = True
        if self._late is not None:
            self._late.spare()
            self._late = None

    async def drop(self) -> None:
        """Whatever was said so far, nothing is left running."""
        self.close()
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.wait({self._stream})

    def _add(self, frame: bytes) -> None:
        self._held += len(frame)
        self._frames.append(frame)
        if self._more is not None:
            self._more.set()

    def _open(self) -> None:
        if self._stream is None:
            self._stream = asyncio.create_task(self._run())
            self._stream.add_done_callback(self._ended)

    def _ended(self, stream: asyncio.Task[None]) -> None:
        if not stream.cancelled() and stream.exception() and not self.lost:
            self.lost = True
            if self.on_lost is not None:
                self.on_lost()

    async def _run(self) -> None:
        more = self._more = asyncio.Event()
        out = EventStream(self._send)
        async with patience():
            await out.open()
        while True:
            while self._frames:
                frame = self._frames.popleft()
                async with patience():
                    await out.write(frame)
                self._held -= len(frame)
            if self._over:
                break
            more.clear()
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    await more.wait()
            except TimeoutError:
                async with patience():
                    await out.keep_alive()
        async with patience():
            await out.close()
