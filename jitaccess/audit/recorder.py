"""The only writer of the ledger. Call it inside the transaction of the change it records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.discreet import is_about
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.strictjson import JsonView
from jitaccess.kernel.text import visible
from jitaccess.store.clock import JitNow
from jitaccess.store.metrics import LEDGER_ENTRIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who did it, in plain values. `system` is a named part of jitaccess itself ("system:expiry")."""

    agent: UUID | None = None
    agent_name: str = ""
    user: UUID | None = None
    user_name: str = ""
    client: str = ""
    source: str = ""

    @classmethod
    def system(cls, name: str) -> Actor:
        return cls(user_name=f"system:{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One entry to be. `at` None means the database's clock at the insert."""

    event: Event
    actor: Actor
    outcome: Outcome = Outcome.NONE
    at: datetime | None = None
    request: UUID | None = None
    grant: UUID | None = None
    call: UUID | None = None
    server: UUID | None = None
    server_name: str = ""
    tool: str = ""
    tool_pin: str = ""
    bindings: Sequence[UUID] = ()
    policy_version: int | None = None
    instance: UUID | None = None
    data: Mapping[str, JsonView] = field(default_factory=dict)


def record(facts: Facts) -> UUID:
    """Append one entry; returns its uid. Refuses to run outside a transaction: a change and its entry are one."""
    is_about(call=facts.call, grant=facts.grant, request=facts.request)
    return record_many([facts])[0]


def record_many(many: Iterable[Facts]) -> list[UUID]:
    """Append entries in one statement; returns their uids in the same order."""
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("The ledger is written inside the transaction of what it records.")
    entries = [_row(facts) for facts in many]
    Entry.objects.bulk_create(entries)
    transaction.on_commit(lambda: _count(entries), robust=True)
    return [entry.uid for entry in entries]


def _count(entries: list[Entry]) -> None:
    for entry in entries:
        LEDGER_ENTRIES.labels(entry.event).inc()


def _row(facts: Facts) -> Entry:
    actor = facts.actor
    return Entry(
        uid=uuid7(),
        at=facts.at or JitNow(),
        event=facts.event,
        outcome=facts.outcome,
        agent=actor.agent,
        agent_name=visible(actor.agent_name, limit=150),
        user=actor.user,
        user_name=visible(actor.user_name, limit=150),
        client=visible(actor.client, limit=200),
        source=visible(actor.source, limit=64),
        request=facts.request,
        grant=facts.grant,
        call=facts.call,
        server=facts.server,
        server_name=visible(facts.server_name, limit=64),
        tool=visible(facts.tool, limit=200),
        tool_pin=facts.tool_pin,
        bindings=canonical([str(uid) for uid in facts.bindings]).decode(),
        policy_version=facts.policy_version,
        instance=facts.instance,
        data=canonical(dict(facts.data)).decode(),
    )
