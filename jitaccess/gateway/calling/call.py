"""A call as it is known before anything is decided: who wants what done, and how the client may be spoken to."""

from __future__ import annotations

import asyncio

import msgspec

from jitaccess.audit.redact import redact
from jitaccess.gateway.calling.forwarding import Forwarding
from jitaccess.gateway.core import Clock, Gateway
from jitaccess.gateway.endpoint import Target
from jitaccess.gateway.recording.facts import Guess, Intent
from jitaccess.gateway.talking.caller import Caller
from jitaccess.gateway.talking.parked import ParkedCall
from jitaccess.gateway.talking.rounds import Subject, Turn, Wanted
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import digest, plain_numbers
from jitaccess.kernel.strictjson import Json, JsonObject

# Arguments up to this many bytes are digested where they are: a thread costs more.
SMALL = 4096
DOMAIN = "jitaccess-args-v1"


class Call(msgspec.Struct, frozen=True):
    """What a client wants done: exactly which tool, resource or prompt, with which arguments.

    `arguments` are what is decided on and recorded; `params` what is sent, None: name and arguments. `clock` is the
    database's, as read when the request came. `caller` None: a client that can be told nothing before the result.
    `carried`: another process brought it here. `plain` are the arguments with plain numbers, if they are large.
    """

    principal: Principal
    target: Target
    arguments: JsonObject
    clock: Clock
    caller: Caller | None = None
    method: str = "tools/call"
    params: JsonObject | None = None
    carried: bool = False
    plain: JsonObject | None = None

    @property
    def modern(self) -> bool:
        """Whether the client speaks 2026-07-28."""
        return self.caller is None or self.caller.message.modern

    @property
    def sent(self) -> JsonObject:
        return self.params if self.params is not None else {"name": self.target.tool, "arguments": self.arguments}

    @property
    def sent_by_grant(self) -> JsonObject:
        """What is sent when people approved it: 5 and 5.0 are one call to them (RFC 8785), perhaps not to a server."""
        sent = self.sent
        if "arguments" not in sent:
            return sent
        return {**sent, "arguments": self.plain if self.plain is not None else plain_numbers(self.arguments)}

    @property
    def capabilities(self) -> JsonObject:
        return self.caller.capabilities if self.caller is not None else {}

    def subject(self, args_digest: str) -> Subject:
        target = self.target
        return Subject(self.principal.key, target.server, self.method, target.tool, args_digest)

    def intent(
        self, args_digest: str, shown: Json, turn: Turn | None = None, *, barred: str = "", guess: Guess | None = None
    ) -> Intent:
        """`shown` is what the ledger shows of the arguments."""
        target = self.target
        return Intent(
            self.principal,
            target.server,
            target.server_name,
            target.tool,
            args_digest,
            shown,
            given=self.arguments,
            kind=target.kind,
            continues=turn.continues if turn else None,
            answers=turn is not None and turn.responses is not None,
            barred=barred,
            method=self.method,
            guess=guess,
        )


class Asking(msgspec.Struct, frozen=True):
    """A call that cannot go on before its client has answered. `parked`: it waits at the server meanwhile."""

    want: Wanted
    forwarding: Forwarding
    parked: ParkedCall | None = None


class Known(msgspec.Struct, frozen=True):
    """What is worked out once for all rounds of a call."""

    gateway: Gateway
    call: Call
    digest: str
    shown: Json

    @property
    def subject(self) -> Subject:
        return self.call.subject(self.digest)


async def kept(gateway: Gateway, arguments: JsonObject) -> tuple[str, Json, JsonObject | None]:
    """What the ledger keeps of arguments: the digest of the whole, and a redacted view; and of large ones what a grant
    sends, which is quickly made of others.

    Large ones in a thread, one at a time: they must hold up neither the event loop nor, several at once, everybody.
    """
    if len(strictjson.encode_read(arguments)) <= SMALL:
        return digest(arguments, domain=DOMAIN), redact(arguments), None
    async with gateway.large:
        whole, plain = await asyncio.to_thread(lambda: (digest(arguments, domain=DOMAIN), plain_numbers(arguments)))
    assert isinstance(plain, dict)
    return whole, redact(arguments), plain
