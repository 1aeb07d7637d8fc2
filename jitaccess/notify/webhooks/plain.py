"""Webhooks as plain data, for the REST API and the command line: the same services and the same rights as the pages.

Of an address the host alone is told, for the rest of it may be a secret.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.egress.addresses import read_url
from jitaccess.identity.models import Team, User
from jitaccess.kernel.errors import Invalid, NotFound
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible
from jitaccess.notify.webhooks import seen, services
from jitaccess.notify.webhooks.delivering import OPEN
from jitaccess.notify.webhooks.keys import BOTH
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.notify.webhooks.sending import body_of

STATES = {"waiting": OPEN, "delivered": Q(delivered_at__isnull=False), "failed": Q(gave_up_at__isnull=False)}


def endpoints(user: User) -> QuerySet[Endpoint]:
    """Those that this person may see."""
    return seen.endpoints_for(user)


def endpoint(user: User, endpoint_id: UUID) -> Endpoint:
    """Raises NotFound."""
    return seen.endpoint_for(user, endpoint_id)


def managed(user: User, endpoint_id: UUID) -> Endpoint:
    """For changing it. Raises NotFound, Forbidden."""
    row = seen.endpoint_for(user, endpoint_id)
    seen.insist_on_managing(user)
    return row


def create(user: User, operator: Actor, *, name: str, url: str, events: str, team: str) -> tuple[Endpoint, str]:
    """A new one, and its secret; `team` by name, "" for everything. Raises as the service, and Forbidden."""
    seen.insist_on_managing(user)
    return services.create_endpoint(name=name, url=url, events=events, team=_team(team), owner=user, operator=operator)


def change(
    endpoint_id: UUID, operator: Actor, *, name: str | None, url: str | None, events: str | None
) -> tuple[Endpoint, str]:
    """What is not None; a secret comes back where another host made one necessary."""
    return services.change_endpoint(endpoint_id=endpoint_id, name=name, url=url, events=events, operator=operator)


def switch(endpoint_id: UUID, operator: Actor, *, on: bool) -> Endpoint:
    services.switch_endpoint(endpoint_id=endpoint_id, enabled=on, operator=operator)
    return _found(endpoint_id)


def rotate(endpoint_id: UUID, operator: Actor) -> tuple[Endpoint, str]:
    secret = services.rotate_secret(endpoint_id=endpoint_id, operator=operator)
    return _found(endpoint_id), secret


def remove(endpoint_id: UUID, operator: Actor) -> None:
    services.remove_endpoint(endpoint_id=endpoint_id, operator=operator)


def test(endpoint_id: UUID, operator: Actor) -> HookDelivery:
    return services.send_test(endpoint_id=endpoint_id, operator=operator)


def replay(endpoint_id: UUID, delivery_id: UUID, operator: Actor) -> HookDelivery:
    return services.replay(endpoint_id=endpoint_id, delivery_id=delivery_id, operator=operator)


def replay_since(endpoint_id: UUID, since: datetime, operator: Actor) -> int:
    return services.replay_since(endpoint_id=endpoint_id, since=since, operator=operator)


def deliveries(row: Endpoint, *, state: str = "", event: str = "") -> QuerySet[HookDelivery]:
    """What was and is owed to it. `state` is one of STATES, "" for any."""
    rows = HookDelivery.objects.filter(endpoint=row)
    if state:
        rows = rows.filter(STATES[state])
    return rows.filter(event=event) if event else rows


def delivery(row: Endpoint, delivery_id: UUID) -> HookDelivery:
    """Raises NotFound."""
    found = HookDelivery.objects.filter(endpoint=row, pk=delivery_id).first()
    if found is None:
        raise NotFound("webhook.unknown_delivery", "There is no such delivery.")
    return found


def endpoint_data(row: Endpoint) -> JsonObject:
    return {
        "webhook_id": str(row.pk),
        "name": row.name,
        "host": read_url(row.url).origin,
        "events": row.events,
        "team": row.team.name if row.team else None,
        "enabled": row.enabled,
        "disabled_why": row.disabled_why,
        "failing_since": _moment(row.failing_since),
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by.username if row.created_by else None,
        "both_secrets_until": _moment(row.rotated_at + BOTH) if row.rotated_at else None,
    }


def delivery_data(row: HookDelivery, *, whole: bool = False) -> JsonObject:
    """`whole`: with the body that is sent, and how the latest answer began."""
    state = "delivered" if row.delivered_at else "failed" if row.gave_up_at else "waiting"
    data: JsonObject = {
        "delivery_id": str(row.pk),
        "message_id": row.message_id,
        "event": row.event,
        "state": state,
        "replay": row.replay,
        "attempts": row.attempts,
        "created_at": row.created_at.isoformat(),
        "due_at": row.due_at.isoformat() if state == "waiting" else None,
        "delivered_at": _moment(row.delivered_at),
        "gave_up_at": _moment(row.gave_up_at),
        "status": row.status,
        "error": row.error,
    }
    if whole:
        entry: Any = Entry.objects.filter(pk=row.entry).first()
        data |= {"answer": row.answer, "body": json.loads(body_of(entry)) if entry else None}
    return data


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _found(endpoint_id: UUID) -> Endpoint:
    row = Endpoint.objects.select_related("team", "created_by").filter(pk=endpoint_id).first()
    if row is None:
        raise NotFound("webhook.unknown", "There is no such webhook.")
    return row


def _team(name: str) -> Team | None:
    if not name:
        return None
    team = Team.objects.filter(name=name).first()
    if team is None:
        raise Invalid("webhook.team", f"There is no team {visible(name, limit=60)}.")
    return team
