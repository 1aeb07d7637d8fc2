"""Open event streams of this process: told when what their principal may see changes, ended with their token.

There may be ten thousand. None has a task of its own: it is written to by a short one when there is something to say,
and what its principal sees is looked at once for all its streams, and only when something of it may have changed.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from operator import is_
from uuid import UUID

from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.http import EventStream, patience
from jitaccess.gateway.limits import too_many
from jitaccess.identity.principal import Principal
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import END_OF_TIME, Kind, Who, bindings_of, next_edge
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.policy.engine.standing import parts_of

log = logging.getLogger(__name__)

MAX_PER_PRINCIPAL = 16
KEEP_ALIVE_SECONDS = 15.0
# A stream is written to no more often than this, whatever happens meanwhile: what is said twice is said once.
PAUSE_SECONDS = 0.05
# A process that could not check policy for this long does not know who may listen any more.
BLIND_SECONDS = 3.0
# Groups that are looked at before others get their turn.
AT_ONCE = 100
TOKENS_AT_ONCE = 1000

TOOLS, PROMPTS, RESOURCES = (f"notifications/{what}/list_changed" for what in ("tools", "prompts", "resources"))
UPDATED = "notifications/resources/updated"
_KINDS = {PROMPTS: Kind.PROMPT, RESOURCES: Kind.RESOURCE}


@dataclass(frozen=True, slots=True)
class Frames:
    """What a stream says: for each notification (method, URI), and when we end it; None: nothing."""

    told: Callable[[str, str | None], JsonObject]
    last: JsonObject | None


@dataclass(eq=False, slots=True)
class Stream:
    """One listener. `lists` are the list_changed notifications it wants; `session` is that of an older client."""

    principal: Principal
    endpoint: Endpoint
    lists: frozenset[str] = frozenset({TOOLS})
    session: str = ""
    ended: bool = False
    lost: bool = False
    owner: asyncio.Task[object] | None = None
    out: EventStream | None = None
    frames: Frames | None = None
    group: _Group | None = None
    due: dict[tuple[str, str | None], None] = field(default_factory=dict)
    spoke: float = 0.0
    writing: asyncio.Task[None] | None = None
    later: asyncio.TimerHandle | None = None

    @property
    def who(self) -> Who:
        assert self.principal.agent
        return Who(self.principal.agent, self.principal.user)

    def tell(self, method: str, uri: str | None = None) -> None:
        """Say it soon; what waits to be said already is not said twice."""
        self.due[(method, uri)] = None
        self._soon()

    def end(self) -> None:
        self.ended = True
        self._soon()

    async def begin(self, out: EventStream, frames: Frames, first: JsonObject | None = None) -> None:
        """What comes first; then what there was to tell meanwhile."""
        async with patience():
            await out.open()
            if first:
                await out.message(first)
        self.owner, self.out, self.frames, self.spoke = asyncio.current_task(), out, frames, time.monotonic()
        if self.ended or self.due:
            self._soon()

    def keep_alive(self) -> None:
        if self.out is not None and self.writing is None and self.later is None:
            self._write()

    def _soon(self) -> None:
        if self.out is None or self.writing is not None:
            return
        pause = 0.0 if self.ended else self.spoke + PAUSE_SECONDS - time.monotonic()
        if self.ended and self.later is not None:
            self.later.cancel()
            self.later = None
        if pause <= 0:
            self._write()
        elif self.later is None:
            self.later = asyncio.get_running_loop().call_later(pause, self._write)

    def _write(self) -> None:
        self.later = None
        if self.writing is None and self.out is not None:
            self.writing = asyncio.create_task(self._written())

    async def _written(self) -> None:
        try:
            await self._say()
        except Exception:  # noqa: BLE001 - whatever it is, nobody is there to read it
            self.lost = True
            if self.owner is not None:
                self.owner.cancel()
        finally:
            self.writing = None
        if (self.due or self.ended) and not self.lost:
            self._soon()

    async def _say(self) -> None:
        assert self.out is not None
        assert self.frames is not None
        due, self.due = self.due, {}
        async with patience():
            if not due and not self.ended:
                await self.out.keep_alive()
            for method, uri in due if not self.ended else ():
                await self.out.message(self.frames.told(method, uri))
            if self.ended:
                if self.frames.last:
                    await self.out.message(self.frames.last)
                await self.out.close()
                self.out = None
        self.spoke = time.monotonic()

    def shut(self) -> None:
        """Nothing is said any more."""
        self.due.clear()
        self.out = None
        for pending in (self.writing, self.later):
            if pending is not None:
                pending.cancel()


@dataclass(eq=False, slots=True)
class _Group:
    """All streams of one principal on one endpoint: they see the same."""

    who: Who
    endpoint: Endpoint
    streams: set[Stream] = field(default_factory=set)
    version: int = -1
    parts: tuple[object, ...] = ()
    seen: dict[str, int] = field(default_factory=dict)
    edge: datetime = END_OF_TIME
    limited: bool = False

    @property
    def key(self) -> str:
        """Principal.key of its streams."""
        return next((stream.principal.key for stream in self.streams), "")

    def wanted(self) -> set[str]:
        return {TOOLS}.union(*(stream.lists for stream in self.streams))

    def look(self, snapshot: Snapshot, at: datetime) -> None:
        """See what there is now, and tell the streams of what is not as it was."""
        self.version = snapshot.version
        server, wanted = self.endpoint.server, self.wanted()
        # What is not the same object is not the same: then it is worth a look.
        parts = (*parts_of(snapshot, self.who, server), *(() if server else (snapshot.servers,)))
        unchanged = len(parts) == len(self.parts) and all(map(is_, self.parts, parts))
        if unchanged and at < self.edge and wanted <= self.seen.keys():
            return
        self.parts, self.edge = parts, next_edge(snapshot, who=self.who, at=at)
        self.limited = any(one.max_uses is not None for one in bindings_of(snapshot, self.who))
        for method in wanted:
            now = self.endpoint.signature(snapshot, self.who, at, _KINDS.get(method, Kind.TOOL))
            before = self.seen.get(method)
            self.seen[method] = now
            if before is not None and before != now:
                self.tell(method)

    def begin_anew(self) -> None:
        """Somebody came with what was known before: whatever is found next is told, be it a change or not."""
        self.parts, self.seen = (), dict.fromkeys(self.wanted(), 0)

    def tell(self, method: str, uri: str | None = None) -> None:
        spoken: set[str] = set()
        for stream in self.streams:
            if method in stream.lists and (not stream.session or stream.session not in spoken):
                # 2025-11-25, "Multiple Connections": a message goes out on one stream of a session only.
                spoken.add(stream.session)
                stream.tell(method, uri)


class Streams:
    """All streams of a process. `refresh` is called by the gateway's watcher; everything runs on its event loop."""

    def __init__(self) -> None:
        self._open: set[Stream] = set()
        self._groups: dict[tuple[Who, UUID | None], _Group] = {}
        self._at: defaultdict[UUID | None, set[_Group]] = defaultdict(set)
        self._of_token: OrderedDict[str, set[Stream]] = OrderedDict()
        self._ends: list[tuple[datetime, str]] = []
        self._mine: Counter[str] = Counter()
        self._edges: list[tuple[datetime, int, _Group]] = []
        self._turns = itertools.count()
        self._wheel: list[set[Stream]] = [set() for _ in range(round(KEEP_ALIVE_SECONDS))]
        self._stamp, self._spent = "", frozenset[UUID]()
        self._over = False
        self._checked = time.monotonic()
        self.wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def at(self, server: UUID | None) -> list[_Group]:
        """Who listens at the endpoint of a server; None: at that of all servers."""
        return list(self._at.get(server, ()))

    def of_session(self, who: Who, server: UUID | None, session: str) -> Stream | None:
        """The stream on which this session of an older client is told."""
        group = self._groups.get((who, server))
        return next((one for one in group.streams if one.session == session), None) if group else None

    def limited(self) -> set[Principal]:
        """One stream's principal of each that holds something whose uses are counted."""
        return {next(iter(group.streams)).principal for group in self._groups.values() if group.limited}

    def tokens(self) -> list[str]:
        """Whose turn it is to be looked at among the tokens of the open streams, by their hashes: all, unless there are
        very many.
        """
        turn = list(itertools.islice(self._of_token, TOKENS_AT_ONCE))
        for token in turn:
            self._of_token.move_to_end(token)
        return turn

    @property
    def many(self) -> bool:
        """Whether not all tokens have their turn each time."""
        return len(self._of_token) > TOKENS_AT_ONCE

    async def refresh(self, snapshot: Snapshot, at: datetime, ended: Iterable[str]) -> datetime | None:
        """Compare what each listener sees with what it was, tell those for whom it changed, end those whose token is in
        `ended`.

        Returns when the next binding of any listener starts or ends.
        """
        self._checked = time.monotonic()
        for token in ended:
            for stream in self._of_token.get(token, ()):
                stream.end()
        while self._ends and self._ends[0][0] <= at:
            for stream in self._of_token.get(heapq.heappop(self._ends)[1], ()):
                stream.end()
        self._prune()
        if snapshot.stamp != self._stamp or snapshot.spent != self._spent:
            self._stamp, self._spent = snapshot.stamp, snapshot.spent
            due = list(self._groups.values())
        else:
            due = self._passed(at)
        for number, group in enumerate(due, 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if group.streams:
                self._look(group, snapshot, at)
        return self._next_edge()

    def in_session(self, session: str) -> list[Stream]:
        return [stream for stream in self._open if stream.session == session]

    def end_session(self, session: str) -> None:
        """Of an older client, which has ended it."""
        for stream in self.in_session(session):
            stream.end()

    def check_failed(self) -> None:
        """Close every stream once policy could not be checked for three seconds."""
        if time.monotonic() - self._checked > BLIND_SECONDS:
            if any(not stream.ended for stream in self._open):
                log.warning("policy could not be checked for %d seconds: open streams end", BLIND_SECONDS)
            self.end_all()

    def end_all(self) -> None:
        for stream in list(self._open):
            stream.end()

    def shut(self) -> None:
        """End every stream, and every later one at its start."""
        self._over = True
        self.end_all()

    def enter(self, stream: Stream, snapshot: Snapshot, at: datetime) -> Stream:
        """Watch for this stream from now on. Raises RpcError(429) when the principal has too many."""
        principal = stream.principal
        if self._mine[principal.key] >= MAX_PER_PRINCIPAL:
            raise too_many("streams", f"At most {MAX_PER_PRINCIPAL} streams may be open at once.", 1.0)
        group = stream.group = self._group(stream)
        group.streams.add(stream)
        if snapshot.version >= group.version:
            self._look(group, snapshot, at)
            stream.due.clear()  # it has seen nothing yet that could have changed
        else:
            group.begin_anew()
        stream.ended = self._over
        self._open.add(stream)
        if principal.token_hash not in self._of_token and principal.token_expires_at is not None:
            heapq.heappush(self._ends, (principal.token_expires_at, principal.token_hash))
        self._of_token.setdefault(principal.token_hash, set()).add(stream)
        self._mine[principal.key] += 1
        self._wheel[len(self._open) % len(self._wheel)].add(stream)
        if group.edge == self._next_edge() or group.limited:
            self.wake.set()  # sooner than anybody has thought of
        return stream

    def leave(self, stream: Stream) -> None:
        stream.shut()
        if stream not in self._open:
            return
        self._open.discard(stream)
        key, token = stream.principal.key, stream.principal.token_hash
        self._mine[key] -= 1
        if not self._mine[key]:
            del self._mine[key]
        self._of_token[token].discard(stream)
        if not self._of_token[token]:
            del self._of_token[token]
        for slot in self._wheel:
            slot.discard(stream)
        group = stream.group
        assert group is not None
        group.streams.discard(stream)
        if not group.streams:
            del self._groups[(group.who, group.endpoint.server)]
            self._at[group.endpoint.server].discard(group)
            group.limited = False

    async def beat(self) -> None:
        """Until cancelled: a sign of life for each stream that said nothing for a while. One timer for all."""
        for slot in itertools.cycle(range(len(self._wheel))):
            await asyncio.sleep(KEEP_ALIVE_SECONDS / len(self._wheel))
            silent = time.monotonic() - KEEP_ALIVE_SECONDS / 2
            for number, stream in enumerate(list(self._wheel[slot]), 1):
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
                if stream.spoke < silent:
                    stream.keep_alive()

    def _group(self, stream: Stream) -> _Group:
        key = (stream.who, stream.endpoint.server)
        if key not in self._groups:
            self._groups[key] = _Group(stream.who, stream.endpoint)
            self._at[stream.endpoint.server].add(self._groups[key])
        return self._groups[key]

    def _look(self, group: _Group, snapshot: Snapshot, at: datetime) -> None:
        before = group.edge
        group.look(snapshot, at)
        if group.edge not in (END_OF_TIME, before):
            heapq.heappush(self._edges, (group.edge, next(self._turns), group))

    def _passed(self, at: datetime) -> list[_Group]:
        """The groups whose edge is behind."""
        found = {}
        while self._edges and self._edges[0][0] <= at:
            _, _, group = heapq.heappop(self._edges)
            if group.edge <= at and group.streams:
                found[id(group)] = group
        return list(found.values())

    def _prune(self) -> None:
        """Forget the ends and edges of those who left long before them, once they are most."""
        if len(self._ends) > 2 * len(self._of_token) + 1000:
            self._ends = sorted({one for one in self._ends if one[1] in self._of_token})
        if len(self._edges) > 2 * len(self._groups) + 1000:
            self._edges = sorted(one for one in self._edges if one[2].streams and one[2].edge == one[0])

    def _next_edge(self) -> datetime | None:
        while self._edges and (not self._edges[0][2].streams or self._edges[0][2].edge != self._edges[0][0]):
            heapq.heappop(self._edges)  # of listeners who left, or not an edge any more
        return self._edges[0][0] if self._edges else None
