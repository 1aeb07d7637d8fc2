"""What a provisioner is: the code that gives and takes access in one kind of other system. No Django here.

A provisioner keeps no state and decides nothing. Who is to have what, when to try, when to try again and what goes on
record is jitaccess's business; a provisioner carries out one step and says truthfully what it found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

# A step that takes longer than this holds up others; the lease of whoever works is a multiple of it.
CALL_SECONDS = 20.0


class Presence(StrEnum):
    """What `verify` found. `unknown` is an honest answer: it is asked again, and nothing is believed meanwhile."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class ProvisionerError(Exception):
    """It could not be done. The text is for people (at most 500 characters are kept); it must hold no secret."""


class Retryable(ProvisionerError):
    """Later it may work: the target is away, busy, slow, or it is not known whether it was done."""


class Permanent(ProvisionerError):
    """It will not work like this: the target understood and refused. A grant is given up and cleaned away after it;
    a revoke is tried again all the same, and people are called at once.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """What who may do: `name` such as "tool:git/git_commit", "role:report-writer", "database:shop/select/public.items"
    or "call:git/git_commit/<digest of its arguments>". The subject is an agent, alone or on behalf of a user.

    Names and ids are facts of jitaccess, not claims of an agent; names are still other people's text.
    """

    name: str
    agent: UUID
    agent_name: str
    user: UUID | None = None
    user_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One entitlement on one target. `id` is the provision's id: the same for as long as jitaccess knows this
    entitlement of this subject there, however many grants it rests on. Mark with it what you make.

    `attempt` is the same for every try of one intent, so that a target may recognise a repetition. After `not_after`
    (seconds of time.monotonic()) somebody else may be at work on the same effect: begin nothing then.
    """

    id: UUID
    entitlement: Entitlement
    attempt: str
    not_after: float = math.inf

    @property
    def in_time(self) -> bool:
        """Whether a step may still begin. To be asked last of all: a worker that was frozen has lost its turn."""
        return time.monotonic() < self.not_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One thing that `list` found on the target: `id` as marked by us, or None when it carries no mark of ours."""

    id: UUID | None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """What a provisioner is made from: the row that an admin configured. `secrets`: newest first."""

    id: UUID
    slug: str
    url: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)


class Provisioner(Protocol):
    """Six steps. Each is called outside of any transaction, by one worker at a time for each effect, in a thread;
    each must come back within CALL_SECONDS, by a timeout of its own.

    `grant` and `revoke` may be called any number of times for the same effect, also after a worker died half-way
    through one: they bring about a state, they do not count. Both are followed by `verify`, which alone is believed.
    Any step raises Retryable or Permanent; any other exception is taken for Retryable, and logged with its traceback.
    """

    def describe(self) -> str:
        """One line for people: where this leads. No secret, and no question to the target."""

    def validate(self, entitlement: Entitlement) -> None:
        """Raise Permanent when this can never be given here. Asks nobody; called before each grant."""

    def grant(self, effect: Effect) -> None:
        """Let the entitlement be there, marked with effect.id. Done already is done, not an error."""

    def revoke(self, effect: Effect) -> None:
        """Let what is marked with effect.id be gone. What was never there is gone, not an error. What somebody else
        gave (no mark, another mark) stays.
        """

    def verify(self, effect: Effect) -> Presence:
        """Look, without changing anything. ABSENT only when it is certain that nothing marked with effect.id is
        left.
        """

    def list(self) -> Iterable[Found]:
        """Everything there that is marked as ours, and, where it can be told, what is not. Changes nothing."""
