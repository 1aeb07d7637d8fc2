"""Open event streams of this process: told when their principal's list changes, ended with their token."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime

from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.http import EventStream
from jitaccess.gateway.wire import INVALID_REQUEST, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import live_tokens
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import END_OF_TIME, Who, next_edge
from jitaccess.policy.engine.rules import Snapshot

MAX_PER_PRINCIPAL = 16
KEEP_ALIVE_SECONDS = 15.0
# A process that could not check policy for this long does not know who may listen any more.
BLIND_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Frames:
    """What a stream says: first, for each change, and when we end it; None: nothing."""

    first: JsonObject | None
    changed: JsonObject | None
    last: JsonObject | None


@dataclass(eq=False, slots=True)
class Stream:
    """One listener on one endpoint's list."""

    principal: Principal
    endpoint: Endpoint
    seen: int = 0
    changed: bool = False
    ended: bool = False
    event: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def who(self) -> Who:
        assert self.principal.agent
        return Who(self.principal.agent, self.principal.user)

    def tell(self, *, ended: bool = False) -> None:
        self.changed = True
        self.ended = self.ended or ended
        self.event.set()


class Streams:
    """All streams of a process. `refresh` is called by the gateway's watcher; everything runs on its event loop."""

    def __init__(self) -> None:
        self._open: set[Stream] = set()
        self._over = False
        self._checked = time.monotonic()
        self.wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def listeners(self) -> set[Principal]:
        """Who listens."""
        return {stream.principal for stream in set(self._open)}

    def ended_tokens(self) -> set[str]:
        """Which tokens of open streams are good no more. Reads the database."""
        hashes = {stream.principal.token_hash for stream in set(self._open)}
        return hashes - set(live_tokens().filter(hash__in=hashes).values_list("hash", flat=True)) if hashes else set()

    def refresh(self, snapshot: Snapshot, at: datetime, ended: set[str]) -> datetime | None:
        """Compare every stream's list with what it was, tell those that changed, end those whose token is in `ended`.

        Returns when the next binding of any listener starts or ends.
        """
        self._checked = time.monotonic()
        edges = []
        for stream in set(self._open):
            if stream.principal.token_hash in ended:
                stream.tell(ended=True)
                continue
            seen = self._signature(stream, snapshot, at)
            if seen != stream.seen:
                stream.seen = seen
                stream.tell()
            edges.append(next_edge(snapshot, who=stream.who, at=at))
        edge = min(edges, default=END_OF_TIME)
        return None if edge == END_OF_TIME else edge

    def check_failed(self) -> None:
        """Close every stream once policy could not be checked for three seconds."""
        if time.monotonic() - self._checked > BLIND_SECONDS:
            self.end_all()

    def end_all(self) -> None:
        for stream in self._open:
            stream.tell(ended=True)

    def shut(self) -> None:
        """End every stream, and every later one at its start."""
        self._over = True
        self.end_all()

    def enter(self, stream: Stream, snapshot: Snapshot, at: datetime) -> Stream:
        """Watch this stream's list from now on. Raises RpcError(429) when the principal has too many."""
        mine = sum(other.principal.key == stream.principal.key for other in self._open)
        if mine >= MAX_PER_PRINCIPAL:
            raise RpcError(INVALID_REQUEST, f"At most {MAX_PER_PRINCIPAL} streams may be open at once.", status=429)
        stream.seen, stream.ended = self._signature(stream, snapshot, at), self._over
        self._open.add(stream)
        self.wake.set()  # the next edge may be one of this principal's bindings
        return stream

    def leave(self, stream: Stream) -> None:
        self._open.discard(stream)

    async def run(self, stream: Stream, out: EventStream, frames: Frames) -> None:
        """Serve one stream until it is ended."""
        await out.open()
        if frames.first:
            await out.message(frames.first)
        while not stream.ended:
            try:
                await asyncio.wait_for(stream.event.wait(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                await out.keep_alive()
                continue
            stream.event.clear()
            if stream.changed and frames.changed and not stream.ended:
                stream.changed = False
                await out.message(frames.changed)
        if frames.last:
            await out.message(frames.last)
        await out.close()

    def _signature(self, stream: Stream, snapshot: Snapshot, at: datetime) -> int:
        return stream.endpoint.signature(snapshot, stream.who, at)
