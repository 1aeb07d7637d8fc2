"""The answer to the one question, and how it shows in a list."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from jitaccess.policy.engine.rights import END_OF_TIME, START_OF_TIME
from jitaccess.policy.engine.rules import RequestableFacts, ServerFacts, ToolFacts


class Code(StrEnum):
    """Why. All but ALLOWED are refusals; UNKNOWN is answered as if the tool did not exist."""

    ALLOWED = "allowed"
    UNKNOWN = "unknown"
    NO_BINDING = "no_binding"
    OTHER_ARGUMENTS = "other_arguments"
    EXPIRED = "expired"
    REVOKED = "revoked"
    USED_UP = "used_up"
    QUARANTINED = "quarantined"
    LOCKED_DOWN = "locked_down"
    NOT_REQUESTABLE = "not_requestable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. It holds while `since` <= time < `until`, at the snapshot's version.

    `bindings` are those that allow the call (two for an intersection); `rule` names what decided, for people.
    `counted` is the binding of which the call is one use, when its uses are counted.
    `requestable` is what could be asked for instead, when the tool may be asked for; `roles` are the names of the
    roles that would do and may be asked for.
    """

    code: Code
    rule: str
    bindings: tuple[UUID, ...] = ()
    grant: UUID | None = None
    counted: UUID | None = None
    since: datetime = START_OF_TIME
    until: datetime = END_OF_TIME
    requestable: RequestableFacts | None = None
    tool: ToolFacts | None = None
    server: ServerFacts | None = None
    roles: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return self.code is Code.ALLOWED


class Visibility(StrEnum):
    VISIBLE = "visible"
    LOCKED = "locked"
    HIDDEN = "hidden"


def visibility(verdict: Verdict) -> Visibility:
    """How a tool with this verdict is listed: the same decision that a call would get."""
    if verdict.allowed:
        return Visibility.VISIBLE
    return Visibility.LOCKED if verdict.requestable or verdict.roles else Visibility.HIDDEN
