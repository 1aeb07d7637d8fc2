"""Who listens to which resources: authorized like a read and on record, over when the right to read it is.

A client of the newer era subscribes with a stream, one of the older era in a session, whose updates come on its GET
stream; the process that holds the stream subscribes. Updates reach only those who may read the resource when they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway.calling.results import shown_error
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.recording.facts import Admitted, Intent
from jitaccess.gateway.seeing.offers import LIST_SECONDS, relayed
from jitaccess.gateway.seeing.streams import UPDATED, Stream
from jitaccess.gateway.seeing.watches import Place
from jitaccess.gateway.talking import mail
from jitaccess.gateway.upstream.errors import TOO_LATE, RemoteError, UpstreamError
from jitaccess.gateway.wire import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel.canonical import digest
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Code, Kind, Who
from jitaccess.policy.engine.offers import readable
from jitaccess.policy.engine.rules import Snapshot

if TYPE_CHECKING:
    from jitaccess.gateway.core import Gateway

METHOD = "resources/subscribe"
MAX_RESOURCES = 64  # of one stream or session
MAX_SESSIONS = 32  # with subscriptions, of one principal in one process
MAX_DUE = 64  # updates that wait to be said on one stream
# A session keeps its subscriptions so long without a stream: clients come back after a broken connection.
KEPT_SECONDS = 60.0


@dataclass(eq=False, slots=True)
class Subscriber:
    """A stream of the newer era, or a session of the older. `capabilities` are those it declared, as far as they are
    carried: its calls go to the same connection. `held` ends each of its subscriptions.
    """

    principal: Principal
    endpoint: Endpoint
    capabilities: JsonObject = field(default_factory=dict)
    stream: Stream | None = None
    session: str = ""
    held: dict[str, Callable[[], None]] = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)

    @property
    def server(self) -> UUID:
        assert self.endpoint.server is not None
        return self.endpoint.server

    @property
    def who(self) -> Who:
        assert self.principal.agent
        return Who(self.principal.agent, self.principal.user)

    @property
    def place(self) -> Place:
        return Place(self.endpoint.slug, self.principal.key, self.capabilities, older=bool(self.session))

    def may_read(self, snapshot: Snapshot, at: datetime, uris: list[str]) -> set[str]:
        return readable(snapshot, who=self.who, server=self.server, at=at, kind=Kind.RESOURCE, names=uris)

    def give_up(self, uri: str) -> None:
        if (release := self.held.pop(uri, None)) is not None:
            release()

    def close(self) -> None:
        for uri in list(self.held):
            self.give_up(uri)


class Subscriptions:
    """Those of one process, on its event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._all: set[Subscriber] = set()
        self._sessions: dict[tuple[str, str], Subscriber] = {}
        self._brought: set[asyncio.Task[None]] = set()
        gateway.mail.on("subscribe", self._bring)
        gateway.mail.on("unsubscribe", self._bring)

    async def offered(self, endpoint: Endpoint) -> bool | None:
        """Whether the server behind this endpoint tells when a resource changes; None when it does not say in time."""
        if endpoint.server is None:
            return False
        announced = await self._gateway.offers.announced(self._gateway, endpoint.slug, seconds=LIST_SECONDS)
        if announced is None:
            return None
        resources = relayed(announced).get("resources")
        return isinstance(resources, dict) and resources.get("subscribe") is True

    async def listen(self, stream: Stream, uris: list[str], capabilities: JsonObject) -> list[str]:
        """Subscribe for a stream; returns what is honoured, in order. Call `leave` when it is over."""
        subscriber = Subscriber(stream.principal, stream.endpoint, capabilities, stream)
        self._all.add(subscriber)
        wanted = list(dict.fromkeys(uris))[:MAX_RESOURCES]
        outcomes = await asyncio.gather(*(self._add(subscriber, uri) for uri in wanted), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RpcError):
                raise outcome
        return [uri for uri in wanted if uri in subscriber.held]

    def leave(self, stream: Stream) -> None:
        for subscriber in [one for one in self._all if one.stream is stream]:
            subscriber.close()
            self._all.discard(subscriber)

    async def subscribe(self, subscriber: Subscriber, uri: str) -> None:
        """In a session of the older era. Raises RpcError."""
        principal = subscriber.principal.key
        others = sum(key == principal and session != subscriber.session for key, session in self._sessions)
        if others >= MAX_SESSIONS:
            raise RpcError(INVALID_PARAMS, f"At most {MAX_SESSIONS} sessions may subscribe at once.")
        subscriber = self._sessions.setdefault((principal, subscriber.session), subscriber)
        self._all.add(subscriber)
        if len(subscriber.held) >= MAX_RESOURCES:
            raise RpcError(INVALID_PARAMS, f"At most {MAX_RESOURCES} resources may be subscribed to at once.")
        subscriber.heard = time.monotonic()
        await self._add(subscriber, uri)
        await self._pass_on("subscribe", subscriber, uri)

    async def unsubscribe(self, subscriber: Subscriber, uri: str) -> None:
        """Of what this very session subscribed to, if it did."""
        if (known := self._sessions.get((subscriber.principal.key, subscriber.session))) is not None:
            known.give_up(uri)
        await self._pass_on("unsubscribe", subscriber, uri)

    async def _pass_on(self, kind: str, subscriber: Subscriber, uri: str) -> None:
        """The session's stream may be open in another process: then that one has to do it."""
        if self._stream(subscriber) is None:
            self._gateway.limits.send(subscriber.principal.key)
            said: JsonObject = {"kind": kind, "session": subscriber.session, "uri": uri}
            said |= {"principal": subscriber.principal.key, "capabilities": subscriber.capabilities}
            await self._gateway.db(mail.send_all, self._gateway.instance, said)

    def _bring(self, said: JsonObject) -> None:
        """What a session whose stream is here said to another process: done here as if it had come here."""
        session, uri, capabilities = str(said["session"]), str(said["uri"]), said["capabilities"]
        for stream in self._gateway.streams.in_session(session):
            if stream.principal.key == said["principal"] and isinstance(capabilities, dict):
                subscriber = Subscriber(stream.principal, stream.endpoint, capabilities, session=session)
                done = self.subscribe if said["kind"] == "subscribe" else self.unsubscribe
                task = asyncio.create_task(_quietly(done(subscriber, uri)))
                self._brought.add(task)
                task.add_done_callback(self._brought.discard)
                return

    def end_session(self, session: str) -> None:
        for subscriber in [one for one in self._all if one.session == session]:
            self._forget(subscriber)

    def sweep(self, snapshot: Snapshot, at: datetime) -> None:
        """Called now and then: end what may be read no more, and the sessions that nobody listens in."""
        for subscriber in list(self._all):
            for uri in subscriber.held.keys() - subscriber.may_read(snapshot, at, list(subscriber.held)):
                subscriber.give_up(uri)
            if subscriber.session:
                self._look_after(subscriber)

    def _look_after(self, subscriber: Subscriber) -> None:
        if self._stream(subscriber) is not None:
            subscriber.heard = time.monotonic()
        elif time.monotonic() - subscriber.heard > KEPT_SECONDS:
            self._forget(subscriber)

    def _forget(self, subscriber: Subscriber) -> None:
        subscriber.close()
        self._all.discard(subscriber)
        self._sessions.pop((subscriber.principal.key, subscriber.session), None)

    def _stream(self, subscriber: Subscriber) -> Stream | None:
        if subscriber.stream is not None:
            return subscriber.stream
        return self._gateway.streams.of_session(subscriber.who, subscriber.server, subscriber.session)

    def _told(self, subscriber: Subscriber, uri: str) -> None:
        stream = self._stream(subscriber)
        if stream is None or len(stream.due) >= MAX_DUE:
            return
        if subscriber.may_read(self._gateway.store.current, self._gateway.clock.now(), [uri]):
            stream.tell(UPDATED, uri)

    async def _add(self, subscriber: Subscriber, uri: str) -> None:
        """Raises RpcError when it is refused, or the server does not do it."""
        if uri in subscriber.held:
            return
        gateway = self._gateway
        if subscriber.may_read(gateway.store.current, gateway.clock.now(), [uri]):
            # Before admission: a start may take longer than an admission stays good.
            with contextlib.suppress(UpstreamError):
                await gateway.watches.ready(subscriber.place)
        admitted = await self._admit(subscriber, uri)

        def told(updated: str) -> None:
            self._told(subscriber, updated)

        try:
            release = await gateway.watches.subscribe(subscriber.place, uri, told, admitted.may_start)
        except BaseException as error:
            config = gateway.servers(subscriber.endpoint.slug)
            if isinstance(error, RemoteError) and config is not None:
                error = shown_error(error, config)
            self._not_done(admitted, error)
            if not isinstance(error, RemoteError | UpstreamError):
                raise
            raise _failed(error) from error
        gateway.admission.finish(admitted, Event.CALL_COMPLETED, Outcome.ALLOWED, {})
        if subscriber in self._all and uri not in subscriber.held:
            subscriber.held[uri] = release
        else:
            release()  # it left meanwhile

    def _not_done(self, admitted: Admitted, error: BaseException) -> None:
        sent = not isinstance(error, UpstreamError) or error.sent
        unknown = sent and not isinstance(error, RemoteError)
        event = Event.CALL_OUTCOME_UNKNOWN if unknown else Event.CALL_FAILED
        said = visible(str(error) or type(error).__name__, limit=500)
        self._gateway.admission.finish(admitted, event, Outcome.ERROR, {"sent": sent, "detail": said})

    async def _admit(self, subscriber: Subscriber, uri: str) -> Admitted:
        endpoint = subscriber.endpoint
        intent = Intent(
            subscriber.principal, endpoint.server, endpoint.slug, uri, digest({}, domain="jitaccess-args-v1"), {},
            kind=Kind.RESOURCE, method=METHOD,
        )  # fmt: skip
        try:
            admitted = await self._gateway.admission.admit(intent)
        except Unavailable as error:
            raise RpcError(INTERNAL_ERROR, error.detail) from error
        if not admitted.allowed:
            # What this principal may not know of is answered like what does not exist.
            hidden = admitted.code in {Code.UNKNOWN, Code.NOT_REQUESTABLE}
            said = "Unknown resource" if hidden else f"Access denied ({admitted.code})"
            raise RpcError(INVALID_PARAMS, f"{said}: {visible(uri, limit=200)}")
        return admitted


async def _quietly(work: Awaitable[None]) -> None:
    """The client had its answer from the process that it asked; what fails here is on record."""
    with contextlib.suppress(RpcError):
        await work


def _failed(error: RemoteError | UpstreamError) -> RpcError:
    if isinstance(error, RemoteError):
        return RpcError(error.rpc_code, visible(error.message, limit=2000))
    again = " Try again." if error.code == TOO_LATE else ""
    return RpcError(INTERNAL_ERROR, f"{error.detail}{again}")
