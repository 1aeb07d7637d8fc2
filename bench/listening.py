"""An open event stream of an agent, and when it was told that its list of tools has changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from bench.client import PATIENCE, Session, Wrong, new_nonce

_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


class Listener:
    """One stream (2026-07-28, "Subscriptions"). `changes` are moments on CLOCK_MONOTONIC."""

    def __init__(self, reader: asyncio.StreamReader, session: Session, subscription: str) -> None:
        self.changes: list[float] = []
        self._reader, self._session, self._subscription = reader, session, subscription
        self._task = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, url: str, token: str) -> Listener:
        """Returns when the gateway has acknowledged: every change from then on is told. Raises Wrong."""
        session, subscription = Session(url, token), new_nonce()
        async with asyncio.timeout(PATIENCE):
            reader, writer = await session.open()
            asked = {"notifications": {"toolsListChanged": True}}
            writer.write(session.message("subscriptions/listen", subscription, asked))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise Wrong(f"no stream: {head.decode(errors='replace')}")
            first = await _message(reader)
        if first["method"] != "notifications/subscriptions/acknowledged":
            raise Wrong(f"a stream began with {first}")
        return cls(reader, session, subscription)

    async def close(self) -> None:
        """Raises Wrong if the stream said anything else than that the list has changed."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._session.close()

    async def _listen(self) -> None:
        while True:
            message, at = await _message(self._reader), time.monotonic()
            about = message.get("params", {}).get("_meta", {}).get(_SUBSCRIPTION)
            if message.get("method") != "notifications/tools/list_changed" or about != self._subscription:
                raise Wrong(f"a stream said {message}")
            self.changes.append(at)


async def _message(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next event's; sizes of chunks, comments and names of events are passed over."""
    while line := await reader.readline():
        if line.startswith(b"data: "):
            return dict(json.loads(line.removeprefix(b"data: ")))
    raise Wrong("a stream ended")
