"""A call on its way onto the record: what somebody wants, what was decided about it, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Row, about, what_columns
from jitaccess.gateway.recording.continuations import Continued
from jitaccess.identity.principal import Principal
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Code, Kind, Verdict
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store.host_clock import steady

# A call starts at most this long after the clock was read, on a clock that also counts while the machine sleeps: the
# guarantee's "a second later".
FORWARD_WITHIN = 1.0
TOOLS_CALL = "tools/call"
ALLOWED = str(Code.ALLOWED)


class Guess(msgspec.Struct, frozen=True):
    """What a process's policy said of a call, and when, before its batch."""

    snapshot: Snapshot
    verdict: Verdict
    at: datetime


class Intent(msgspec.Struct, frozen=True):
    """A call somebody wants to make. `arguments` are redacted already; `given` are the whole ones, and `digest` is over
    them. `tool` is a name, or by `kind` the URI of a resource. `method` is what the client asked for.

    `continues` is the continuation that an earlier call's end left for this one; `answers`: whether it carries answers
    to questions of the server. `barred` is a code with which it is refused whatever policy says. `guess` is what this
    process's policy said of it, without answers.
    """

    principal: Principal
    server: UUID | None
    server_name: str
    tool: str
    digest: str
    arguments: Json
    call: UUID = msgspec.field(default_factory=uuid7)
    given: JsonObject = msgspec.field(default_factory=dict)
    kind: Kind = Kind.TOOL
    continues: UUID | None = None
    answers: bool = False
    barred: str = ""
    method: str = TOOLS_CALL
    guess: Guess | None = None

    def __repr__(self) -> str:
        """Without what was given: it may hold secrets, and this may end in a log."""
        return f"<Intent {self.call} of {self.principal.key}: {self.server_name}/{self.tool}>"

    @property
    def what_for(self) -> dict[str, Json]:
        """What its entries say of its method: nothing for calls of tools, which are most."""
        return {} if self.method == TOOLS_CALL else {"method": self.method}

    def about(self, grant: UUID | None) -> Row:
        """What its entries have in common, when it is let through by this grant."""
        what = what_columns(self.server, self.server_name, self.tool)
        return about(self.principal.columns, what, grant=grant, call=self.call)

    @property
    def plain(self) -> bool:
        """Whether nothing but policy decides about it."""
        return self.continues is None and not self.barred


class Admitted(msgspec.Struct, frozen=True):
    """The recorded answer to an Intent. `read_at` is the steady clock's just before the database's clock was read.

    `recorded` is the call whose entry tells of this one: its own, or the first of the same refusals in this minute.
    `continued` is what its continuation was; then the verdict's `counted` is None when no further use was taken.
    `about_line` is `about` as a part of lines, where it is at hand.
    """

    intent: Intent
    verdict: Verdict
    code: str
    clock: datetime
    read_at: float
    recorded: UUID
    continued: Continued | None = None
    about_line: str = ""

    @property
    def about(self) -> Row:
        """What all entries about it have in common."""
        return self.intent.about(self.verdict.grant)

    @property
    def allowed(self) -> bool:
        return self.verdict.code is Code.ALLOWED and self.code == ALLOWED

    def may_start(self) -> bool:
        """Whether the call may be forwarded at this very moment."""
        elapsed = steady() - self.read_at
        return (
            self.allowed and elapsed < FORWARD_WITHIN and self.clock + timedelta(seconds=elapsed) < self.verdict.until
        )


class Hears(Protocol):
    """Who is told, on an event loop, what became of an Intent: a future, or what does as much of one."""

    def get_loop(self) -> asyncio.AbstractEventLoop: ...
    def done(self) -> bool: ...
    def set_result(self, result: Admitted, /) -> None: ...
    def set_exception(self, exception: Exception, /) -> None: ...


class Waiting(msgspec.Struct, eq=False):
    """A call that waits to be let through, and how often that was tried in vain."""

    intent: Intent
    future: Hears
    tries: int = 0


class UnheardCommit(Exception):
    """The batch may or may not be on record. `answers` are what it says if it is."""

    def __init__(self, answers: list[Admitted]) -> None:
        super().__init__("the database was gone before it said that the batch is on record")
        self.answers = answers


class Ending(msgspec.Struct, frozen=True):
    """How an authorized call ended. With `continuation` it may go on, once, under that id. `told` is called once this
    is on record.
    """

    admitted: Admitted
    event: Event
    outcome: Outcome
    data: dict[str, Json]
    continuation: UUID | None = None
    told: Callable[[], None] | None = None

    @property
    def unsent(self) -> bool:
        """Whether nothing of the call reached the server."""
        return self.event is Event.CALL_NOT_SENT or self.data.get("sent") is False

    @property
    def plain(self) -> bool:
        """Whether it changes nothing but the record."""
        if self.told is not None or self.continuation is not None or self.admitted.continued is not None:
            return False
        return self.admitted.verdict.counted is None

    @property
    def goes_on(self) -> Continued | None:
        """The continuation that is made with this end: a new one, or the one with which nothing was sent."""
        intent, before = self.admitted.intent, self.admitted.continued
        if self.unsent:
            return before
        if self.continuation is None:
            return None
        counted = self.admitted.verdict.counted or (before.binding if before else None)
        return Continued(self.continuation, before.call if before else intent.call, intent.principal.key, counted)


def tell(endings: Sequence[Ending]) -> None:
    """Say to whoever waits that these are on record."""
    for ending in endings:
        if ending.told is not None:
            ending.told()
