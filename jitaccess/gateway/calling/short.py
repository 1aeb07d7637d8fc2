"""The short way of a call: one tool of one server over HTTP, in 2026-07-28, from a client that was here a moment ago.

Most calls are like that, and have nobody to wait for but the ledger and the server. Such a call needs no task: it is
read where its bytes come in, and goes on where its batch or its server has answered. What it is decided by, what is
recorded, what goes out and what comes back are those of the long way (calls.py), and so are the functions that say so.
Whatever else turns up, in each step, turns it to the long way, which goes on from there: a refusal, a connection that
has to be made first, an answer that is a stream, a client that leaves, a wait of more than a moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime, timedelta
from typing import Protocol

from jitaccess.audit.redact import redact
from jitaccess.gateway import tracing, wire
from jitaccess.gateway.builtin.definitions import NAMES
from jitaccess.gateway.calling import mirrored
from jitaccess.gateway.calling.call import DOMAIN, Call
from jitaccess.gateway.calling.forwarding import Forwarding
from jitaccess.gateway.calling.repeating import too_often
from jitaccess.gateway.calling.running import still
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.endpoint import Endpoint, Target
from jitaccess.gateway.heads import Head, KnownHeads
from jitaccess.gateway.limits import MAX_IN_FLIGHT, one_more
from jitaccess.gateway.recording.facts import Admitted, Guess
from jitaccess.gateway.talking.rounds import FIRST, MEMBERS, Wanted
from jitaccess.gateway.upstream import atonce
from jitaccess.gateway.upstream.atonce import Underway
from jitaccess.gateway.upstream.http import HttpConnection
from jitaccess.gateway.wire import Message, RpcError, read_message
from jitaccess.kernel.canonical import digest
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Who, decide
from jitaccess.policy.engine.rules import Snapshot

log = logging.getLogger(__name__)

# What is not over after this long goes on the long way, where it has its limits, and whoever leaves is noticed.
MOMENT_SECONDS = 0.2
# A right that ends sooner has a timer of its own, on the long way.
LASTS = timedelta(seconds=5)
# Of `_meta`: what a call is told with, in a stream or in a trace.
_UNUSUAL = frozenset({"progressToken", "traceparent", "tracestate", wire.META_LEVEL})


class Client(Protocol):
    """Who called, on its connection."""

    def answer(self, status: int, body: bytes, call: ShortCall) -> None:
        """Send the answer."""

    def go_on(self, call: ShortCall) -> None:
        """Let the application go on with it, as BEGUN."""


class ShortWay:
    """That of one gateway. Belongs to its event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.heads = KnownHeads(gateway.known)
        self._under_way: dict[ShortCall, None] = {}  # oldest first
        self._turned: set[ShortCall] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stamp = ""
        self._closed = False

    def __len__(self) -> int:
        return len(self._under_way) + len(self._turned)

    def take(self, client: Client, head: Head, body: bytes, source: str) -> ShortCall | None:
        """A call that has begun. None: this is for the long way, and nothing has been done."""
        if self._closed or tracing.on():
            return None
        try:
            return self._begun(client, head, body, source)
        except (RpcError, Invalid):
            return None  # the long way says it
        except Exception:
            log.exception("a call cannot go the short way")
            return None

    def _begun(self, client: Client, head: Head, body: bytes, source: str) -> ShortCall | None:
        gateway = self.gateway
        principal, clock = gateway.known.of(head.hashed, source=source), gateway.known_clock
        if principal is None or clock is None:
            return None
        assert principal.agent
        message = read_message(body, head.headers)
        name, arguments = message.params.get("name"), message.params.get("arguments", {})
        if type(name) is not str or type(arguments) is not dict or not _is_plain(message, name):
            return None
        snapshot, who = gateway.store.current, Who(principal.agent, principal.user)
        target = _target(snapshot, head.slug, name)
        if target is None:
            return None
        args_digest, at = digest(arguments, domain=DOMAIN), clock.now()
        verdict = decide(
            snapshot, who=who, server=target.server, tool=target.tool, at=at, arguments=arguments, digest=args_digest
        )
        server, connection = verdict.server, gateway.pool.ready(target.server_name)
        if not verdict.allowed or verdict.counted is not None or not verdict.until > at + LASTS:
            return None
        if server is None or server.options.repeat_limit or server.options.identity_header:
            return None
        if type(connection) is not HttpConnection:
            return None
        mirrored.check(snapshot, who, clock, target, arguments, message.mirrored)
        busy = gateway.limits.busy.get(principal.key, 0)
        if busy >= MAX_IN_FLIGHT:
            return None
        call = Call(principal.through(message.client), target, arguments, clock)
        one = ShortCall(self, client, call, head, message, connection)
        one.digest, one.shown, one.snapshot = args_digest, redact(arguments), snapshot
        intent = call.intent(args_digest, one.shown, guess=Guess(snapshot, verdict, at))
        if gateway.limits.rate.take(principal.key):
            return None
        gateway.limits.busy[principal.key] = busy + 1
        too_often(gateway, call.principal, target, server, args_digest)
        self._under_way[one] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MOMENT_SECONDS, self._look)
        gateway.admission.enter(intent, one)
        return one

    def over(self, call: ShortCall) -> bool:
        """Whether it was not over before."""
        return call in self._under_way and self._under_way.pop(call) is None

    def turned(self, call: ShortCall) -> None:
        """It is on its way to the application, which says when it has it."""
        del self._under_way[call]
        self._turned.add(call)

    def taken_over(self, call: ShortCall) -> None:
        self._turned.discard(call)

    def turn_all(self) -> None:
        """Let all go on the long way."""
        for call in list(self._under_way):
            call.turn()

    def check(self, snapshot: Snapshot, at: datetime) -> None:
        """Let those go on the long way, and be cut there, whose right has ended by this policy."""
        if snapshot.stamp == self._stamp:
            return
        self._stamp = snapshot.stamp
        ended = [one for one in self._under_way if one.admitted and not still(snapshot, one.admitted, at).allowed]
        for call in ended:
            call.turn()

    def close(self) -> None:
        """Take no more."""
        self._closed = True

    async def stop(self) -> None:
        """To be done when nobody is served any more: every call that was let through has its end."""
        self.close()
        self.turn_all()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for call in list(self._turned):
            call.give_up("the gateway was stopped")
        self._turned.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Turn those that take more than a moment."""
        self._timer = None
        before = time.monotonic() - MOMENT_SECONDS / 2
        old: list[ShortCall] = []
        for call in self._under_way:
            if call.since > before:
                break
            old.append(call)
        for call in old:
            call.turn()
        if self._under_way:
            self._timer = asyncio.get_running_loop().call_later(MOMENT_SECONDS, self._look)


class ShortCall:
    """One call. Its batch tells it as it tells a future (`facts.Hears`)."""

    __slots__ = (
        "_all", "_client", "_forwarding", "_loop", "admitted", "call", "connection", "digest", "future", "head",
        "message", "shown", "since", "snapshot", "underway",
    )  # fmt: skip

    digest: str
    shown: Json
    snapshot: Snapshot

    def __init__(
        self,
        short: ShortWay,
        client: Client,
        call: Call,
        head: Head,
        message: Message,
        connection: HttpConnection,
    ) -> None:
        self._all, self._client, self.call = short, client, call
        self.head, self.message, self.connection = head, message, connection
        self._loop = asyncio.get_running_loop()
        self.since = time.monotonic()
        self.admitted: Admitted | None = None
        self._forwarding: Forwarding | None = None
        self.underway: Underway | None = None
        # Of the long way, once it has turned: what its batch says.
        self.future: asyncio.Future[Admitted] | None = None

    @property
    def started(self) -> float:
        """When it began to be forwarded, on the monotonic clock."""
        return self._forwarding.started if self._forwarding is not None else time.monotonic()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.call.target.server, self.head.slug) if self.head.slug else Endpoint()

    def turn(self) -> None:
        """Go on the long way."""
        if self.future is not None:
            return
        self.future = self._loop.create_future()
        if self.admitted is not None:
            self.future.set_result(self.admitted)
        if self.underway is not None:
            self.underway.leave()  # what comes from here on is for the long way alone
        self._all.turned(self)
        self._client.go_on(self)

    def taken_over(self) -> None:
        """By the long way."""
        self._all.taken_over(self)

    def give_up(self, why: str) -> None:
        """It has turned, and nobody will go on with it."""
        assert self.future is not None
        if self._forwarding is not None and self._forwarding.begun:
            self._forwarding.unknown(why)
        elif not self.future.cancel() and self.future.exception() is None and self.future.result().allowed:
            self._all.gateway.admission.not_sent(self.future.result(), why)
        self.busy.__exit__()

    @property
    def busy(self) -> one_more:
        """It is counted as one in progress, for whoever goes on with it."""
        limits = self._all.gateway.limits
        return one_more(limits.busy, self.call.principal.key, limit=MAX_IN_FLIGHT, counted=True)

    # What its batch says.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop  # asked by the batch writer's thread

    def done(self) -> bool:
        return self.admitted is not None if self.future is None else self.future.done()

    def set_exception(self, error: Exception) -> None:
        self.turn()
        assert self.future is not None
        self.future.set_exception(error)

    def set_result(self, admitted: Admitted) -> None:
        if self.future is not None:
            self.future.set_result(admitted)
            return
        self.admitted = admitted
        try:
            self._forward(admitted)
        except Exception:
            log.exception("call %s cannot be forwarded", admitted.intent.call)
            self._fail()

    # What comes of it.

    def _forward(self, admitted: Admitted) -> None:
        verdict = admitted.verdict
        if not admitted.allowed or verdict.counted is not None or not verdict.until > admitted.clock + LASTS:
            self.turn()
            return
        gateway = self._all.gateway
        forwarding = Forwarding(gateway, self.call, admitted, self.connection, FIRST, time.monotonic())
        self._forwarding = forwarding
        step("forward.starting")
        self.underway = atonce.ask(
            self.connection, "tools/call", forwarding.params(), permit=forwarding.may_start, hears=self._heard
        )
        if self.underway is None:
            self.turn()

    def _heard(self) -> None:
        """Something of the answer has come, or the server is gone."""
        if self.future is not None:
            return  # it has turned, and the long way reads it
        assert self.underway is not None
        sent = self.underway.sent
        if not sent.ended and not sent.other:
            return
        try:
            answer = atonce.answer(self.underway)
            if answer is None:
                self.turn()
                return
            self._answer(answer)
        except Exception:
            log.exception("what the server answered to a call cannot be passed on")
            self._fail()

    def _answer(self, answer: JsonObject) -> None:
        assert self._forwarding is not None
        assert self.underway is not None
        self._all.gateway.pool.answered(self.connection, None, self.call.principal.key)
        step("forward.answered")
        self.underway.close()
        result = self._forwarding.came_back(answer)
        assert not isinstance(result, Wanted)  # `atonce.answer` gives none of those
        body = wire.encoded(wire.result(self.message.id, wire.stamped(result)))
        self._over()
        self._client.answer(200, body, self)

    def _over(self) -> None:
        if self._all.over(self):
            self.busy.__exit__()

    def _fail(self) -> None:
        """By a mistake of ours, nobody knows where: what is not on record yet is put there, and no more is done."""
        if self.future is not None:
            return  # the long way has it
        if self._forwarding is None or not self._forwarding.begun:
            self.turn()
            return
        self._forwarding.unknown("the gateway failed")
        if self.underway is not None:
            self.underway.close()
        self._over()
        said = "The gateway failed; nothing more was sent."
        error = wire.error(wire.INTERNAL_ERROR, said, message_id=self.message.id)
        self._client.answer(500, wire.encoded(error), self)


def _is_plain(message: Message, name: str) -> bool:
    """Whether it is a call of a tool of a server, in 2026-07-28, that is told nothing but its result."""
    return (
        message.method == "tools/call"
        and message.modern
        and message.id is not None
        and name not in NAMES
        and not message.meta.get(wire.META_CAPABILITIES)
        and _UNUSUAL.isdisjoint(message.meta)
        and MEMBERS.isdisjoint(message.params)
    )


def _target(snapshot: Snapshot, slug: str, name: str) -> Target | None:
    """What a client means by `name` at the endpoint of the server `slug`, "" that of all. None: nobody's."""
    if not slug:
        target = Endpoint().target(snapshot, name)
        return target if target.server is not None else None
    server = snapshot.server_by_slug(slug)
    return None if server is None else Target(server.id, server.slug, name, name)
