"""From the ledger to messages owed to endpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from jitaccess.audit.models import Entry
from jitaccess.identity.models import Agent
from jitaccess.notify.reading import reading
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.notify.webhooks.patterns import events_of
from jitaccess.store.clock import now
from requests_app import selectors

READER = "webhooks"


def owe(*, limit: int = 500) -> int:
    """Note what the next entries of the ledger mean to endpoints; returns how many entries were passed."""
    endpoints = [(one, events_of(one.events)) for one in Endpoint.objects.filter(enabled=True)]
    wanted = frozenset[str]().union(*(events for _, events in endpoints))
    with reading(READER, wanted.__contains__, limit=limit) as batch:
        entries, moment = [told.entry for told in batch.told], now()
        rows = [
            delivery_of(endpoint, entry.uid, entry.event, moment)
            for endpoint, events in endpoints
            for entry in about_team([one for one in entries if one.event in events], endpoint.team_id)
            if entry.at >= endpoint.created_at
        ]
        HookDelivery.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)
    return batch.read


def delivery_of(
    endpoint: Endpoint, entry: UUID, event: str, moment: datetime, replay_of: HookDelivery | None = None, **more: bool
) -> HookDelivery:
    return HookDelivery(
        endpoint=endpoint, entry=entry, event=event, created_at=moment, due_at=moment, replay_of=replay_of, **more
    )


def about_team(entries: Sequence[Entry], team: UUID | None) -> Sequence[Entry]:
    """Those that are about an agent of this team, by themselves or by their request; None: all."""
    if team is None or not entries:
        return entries
    requests = selectors.requests_by_id({entry.request for entry in entries if entry.request})
    agents = _teams_of({entry.agent for entry in entries if entry.agent})
    return [entry for entry in entries if team in _concerned(entry, requests, agents)]


def _concerned(
    entry: Entry, requests: dict[UUID, selectors.AccessRequest], agents: dict[UUID, UUID]
) -> Collection[UUID]:
    if entry.request in requests:
        return {requests[entry.request].agent.team_id}
    return {agents[entry.agent]} if entry.agent in agents else ()


def _teams_of(agents: Iterable[UUID]) -> dict[UUID, UUID]:
    return dict(Agent.objects.filter(pk__in=agents).values_list("pk", "team_id"))
