"""Changing webhooks: each change and its entry in the ledger are one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from jitaccess.audit.events import Event
from jitaccess.audit.models import Cursor, Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.egress.addresses import Allowance, check_url, read_url
from jitaccess.egress.webhooks import new_secret
from jitaccess.identity.models import Team, User, slug_validator
from jitaccess.kernel.discreet import hide
from jitaccess.kernel.errors import Conflict, Invalid, NotFound
from jitaccess.kernel.secretbox import key_id
from jitaccess.kernel.strictjson import Json
from jitaccess.notify.webhooks.delivering import OPEN, uuid_floor
from jitaccess.notify.webhooks.keys import seal
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.notify.webhooks.owed import READER, about_team, delivery_of
from jitaccess.notify.webhooks.patterns import events_of, parse_patterns
from jitaccess.store.clock import now

MOST = 50  # endpoints of an installation: each entry is compared with all of them
MOST_AT_ONCE = 1000  # messages that one press sends again
FARTHEST = timedelta(days=30)  # back, for sending again


def create_endpoint(
    *, name: str, url: str, events: str, team: Team | None, owner: User | None, operator: Actor
) -> tuple[Endpoint, str]:
    """A new endpoint, and its secret, which is told this once. Raises Invalid, Conflict, EgressRefused."""
    row = Endpoint(name=_name(name), url=_url(url), events=parse_patterns(events), team=team, created_by=owner)
    row.created_at, secret = now(), _secret()
    row.sealed = seal(row, secret)
    with transaction.atomic():
        if Endpoint.objects.count() >= MOST:
            raise Conflict("webhook.too_many", f"There are {MOST} webhooks already: remove one first.")
        _insist_free(row.name, None)
        _save(row, new=True)
        _record(Event.WEBHOOK_CREATED, row, operator, {"events": row.events, "team": team.name if team else None})
    return row, secret


def change_endpoint(
    *, endpoint_id: UUID, operator: Actor, name: str | None = None, url: str | None = None, events: str | None = None
) -> tuple[Endpoint, str]:
    """Change what is not None. Another host gets another secret, which is returned ("" when it stays): the old one was
    given for the old host. Raises as `create_endpoint`.
    """
    secret = ""
    with transaction.atomic():
        row = _locked(endpoint_id)
        new = {
            "name": row.name if name is None else _name(name),
            "url": row.url if url is None else _url(url),
            "events": row.events if events is None else parse_patterns(events),
        }
        changes: dict[str, Json] = {
            field: {"from": _shown(field, getattr(row, field)), "to": _shown(field, value)}
            for field, value in new.items()
            if getattr(row, field) != value
        }
        if not changes:
            return row, ""
        _insist_free(new["name"], row.pk)
        moved = read_url(row.url).origin != read_url(new["url"]).origin
        row.name, row.url, row.events = new["name"], new["url"], new["events"]
        if moved:
            secret = _secret()
            row.sealed, row.sealed_before, row.rotated_at = seal(row, secret), "", None
        if "url" in changes:
            row.failing_since = row.held_until = None
        _save(row)
        _record(Event.WEBHOOK_CHANGED, row, operator, {"changes": changes, "new_secret": moved})
    return row, secret


def switch_endpoint(*, endpoint_id: UUID, enabled: bool, operator: Actor) -> None:
    """On or off. What waits stays; what happens while it is off is not owed. Raises Conflict when it is so already."""
    with transaction.atomic():
        row = _locked(endpoint_id)
        if row.enabled == enabled:
            raise Conflict("webhook.as_it_is", f"It is {'on' if enabled else 'off'} already.")
        row.enabled, row.disabled_why = enabled, "" if enabled else "switched off by hand"
        row.failing_since = row.held_until = None
        row.save(update_fields=["enabled", "disabled_why", "failing_since", "held_until"])
        _record(Event.WEBHOOK_CHANGED, row, operator, {"changes": {"enabled": {"from": not enabled, "to": enabled}}})


def remove_endpoint(*, endpoint_id: UUID, operator: Actor) -> None:
    """Gone, with what waits for it and its deliveries; the ledger keeps that it was there."""
    with transaction.atomic():
        row = _locked(endpoint_id)
        _record(Event.WEBHOOK_REMOVED, row, operator, {})
        row.delete()


def rotate_secret(*, endpoint_id: UUID, operator: Actor) -> str:
    """A new secret, told this once. The one before signs too for a day, one before that no more."""
    secret = _secret()
    with transaction.atomic():
        row = _locked(endpoint_id)
        row.sealed, row.sealed_before, row.rotated_at = seal(row, secret), row.sealed, now()
        row.save(update_fields=["sealed", "sealed_before", "rotated_at"])
        _record(Event.WEBHOOK_SECRET_ROTATED, row, operator, {"key": key_id(row.sealed)})
    return secret


def send_test(*, endpoint_id: UUID, operator: Actor) -> HookDelivery:
    """Owe it one message of the event "webhook.tested", whatever it is told of, to be sent, signed and shown as every
    other. Raises Conflict while it is off, and while another test waits.
    """
    with transaction.atomic():
        row = _locked(endpoint_id)
        if not row.enabled:
            raise Conflict("webhook.off", "It is switched off: switch it on, then test it.")
        if HookDelivery.objects.filter(OPEN, endpoint=row, event=Event.WEBHOOK_TESTED).exists():
            raise Conflict("webhook.waits", "A test waits to be sent already.")
        entry = _record(Event.WEBHOOK_TESTED, row, operator, {})
        # No replay: where the endpoint is told of this event anyway, the reader finds that it is owed already.
        return HookDelivery.objects.bulk_create([delivery_of(row, entry, Event.WEBHOOK_TESTED, now())])[0]


def replay(*, endpoint_id: UUID, delivery_id: UUID, operator: Actor) -> HookDelivery:
    """Send one message again, under its old id. Raises NotFound, Conflict while it still waits."""
    with transaction.atomic():
        row = _locked(endpoint_id)
        delivery = HookDelivery.objects.filter(endpoint=row, pk=delivery_id).first()
        if delivery is None:
            raise NotFound("webhook.unknown_delivery", "There is no such delivery.")
        if HookDelivery.objects.filter(OPEN, endpoint=row, entry=delivery.entry).exists():
            raise Conflict("webhook.waits", "This message waits to be sent already.")
        [made] = _owe(row, [(delivery.entry, delivery.event, delivery)])
        _record(Event.WEBHOOK_REPLAYED, row, operator, {"message": delivery.message_id})
    return made


def replay_since(*, endpoint_id: UUID, since: datetime, operator: Actor) -> int:
    """Send again what the endpoint did not take since then, what it missed while it was off included; returns how many
    messages, at most MOST_AT_ONCE, oldest first. From the ledger, so that nothing is forgotten. Raises Invalid.
    """
    if not now() - FARTHEST <= since <= now():
        raise Invalid("webhook.since", f"Choose a time of the last {FARTHEST.days} days.")
    with transaction.atomic():
        row = _locked(endpoint_id)
        done = HookDelivery.objects.filter(endpoint=row, gave_up_at=None)
        missed = (
            Entry.objects.filter(at__gte=since, uid__gte=uuid_floor(since), event__in=events_of(row.events))
            .filter(leaf__seq__lte=_read_so_far())
            .exclude(uid__in=done.values("entry"))
            .order_by("uid")
        )
        rows, found = missed.iterator(chunk_size=500), list[Entry]()
        while len(found) < MOST_AT_ONCE and (part := list(islice(rows, 500))):
            found += about_team(part, row.team_id)
        found = found[:MOST_AT_ONCE]
        _owe(row, [(entry.uid, entry.event, None) for entry in found])
        if found:
            data: dict[str, Json] = {"messages": len(found), "since": since.isoformat()}
            _record(Event.WEBHOOK_REPLAYED, row, operator, data)
    return len(found)


def _owe(row: Endpoint, messages: Iterable[tuple[UUID, str, HookDelivery | None]]) -> list[HookDelivery]:
    moment = now()
    made = [delivery_of(row, entry, event, moment, before, replay=True) for entry, event, before in messages]
    return HookDelivery.objects.bulk_create(made, batch_size=500)


def _read_so_far() -> int:
    """What lies behind this is owed by itself, soon."""
    return Cursor.objects.filter(name=READER).values_list("seq", flat=True).first() or 0


def _locked(endpoint_id: UUID) -> Endpoint:
    row = Endpoint.objects.select_for_update().filter(pk=endpoint_id).first()
    if row is None:
        raise NotFound("webhook.unknown", "There is no such webhook.")
    return row


def _name(text: str) -> str:
    try:
        slug_validator(text.strip())
    except ValidationError as error:
        raise Invalid("webhook.name", str(error.messages[0])) from None
    return text.strip()


def _insist_free(name: str, mine: UUID | None) -> None:
    taken = Endpoint.objects.filter(name=name).values_list("pk", flat=True).first()
    if taken not in {None, mine}:
        raise _taken(name)


def _save(row: Endpoint, *, new: bool = False) -> None:
    """Two who take one name at once have both found it free. Raises Conflict."""
    try:
        with transaction.atomic():
            row.save(force_insert=new)
    except IntegrityError as error:
        raise _taken(row.name) from error


def _taken(name: str) -> Conflict:
    return Conflict("webhook.taken", f'There is a webhook "{name}" already.')


def _url(text: str) -> str:
    url = check_url(text.strip(), Allowance.parse(settings.EGRESS_ALLOW)).url
    if len(url) > 500:
        raise Invalid("webhook.url", "The URL has more than 500 characters.")
    return url


def _secret() -> str:
    secret = new_secret()
    hide(secret)
    return secret


def _shown(field: str, value: str) -> str:
    """As the record has it: a path or query may hold a key."""
    return f"{read_url(value).origin}/…" if field == "url" else value


def _record(event: Event, row: Endpoint, operator: Actor, data: Mapping[str, Json]) -> UUID:
    about: dict[str, Json] = {"webhook": row.name, "id": str(row.pk), "host": read_url(row.url).origin}
    return record(Facts(event=event, actor=operator, data={**about, **data}))
