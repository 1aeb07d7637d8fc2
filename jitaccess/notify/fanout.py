"""From the ledger to deliveries owed: who has to hear of what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Max

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.notify.allowed import Wishes
from jitaccess.notify.models import Delivery
from jitaccess.notify.notice import TOLD_EVENTS
from jitaccess.notify.reading import audience_of, reading, reviewers
from jitaccess.store.clock import now

_TOLD = TOLD_EVENTS | {Event.TOOL_CHANGED, Event.WEBHOOK_DISABLED}

# Between two notices about the tools of one server: however restless it is, it fills nobody's mailbox.
QUIET = timedelta(minutes=10)


def fan_out(*, limit: int = 500) -> int:
    """Turn the next ledger entries into deliveries; returns how many entries were read."""
    with reading("notify", _TOLD.__contains__, limit=limit) as batch:
        if not batch.told:
            return batch.read
        moment = now()
        owed: list[tuple[Entry, UUID | None, datetime, list[User]]] = [
            (told.entry, told.request.pk, moment, audience_of(told))
            for told in batch.told
            if told.request and told.event in TOLD_EVENTS
        ]
        entries = [told.entry for told in batch.told]
        owed += [(entry, None, due, reviewers()) for entry, due in _quarantines(entries, moment)]
        owed += [(entry, None, moment, _owners(entry)) for entry in entries if entry.event == Event.WEBHOOK_DISABLED]
        wishes = Wishes(person for *_, people in owed for person in people)
        rows = [
            Delivery(entry=entry.uid, event=entry.event, request=about, user=person, channel=channel, due_at=due)
            for entry, about, due, people in owed
            for person in people
            for channel in _channels(wishes, person, entry.event)
        ]
        Delivery.objects.bulk_create(rows, ignore_conflicts=True)
    return batch.read


def _channels(wishes: Wishes, person: User, event: str) -> list[str]:
    """By which this person is told."""
    reach = (channel for channel in settings.NOTIFY_CHANNELS if channel != "email" or person.email)
    return [channel for channel in reach if wishes.want(person, event, channel)]


def _owners(entry: Entry) -> list[User]:
    """Who made a webhook, or, when they are gone, whoever may mend it."""
    active = User.objects.filter(is_active=True)
    owner = json.loads(entry.data).get("owner")
    return list(active.filter(pk=owner) if owner else ()) or list(active.filter(is_superuser=True))


def _quarantines(entries: Iterable[Entry], moment: datetime) -> list[tuple[Entry, datetime]]:
    """Tools that changed after their review, and when that is to be told: one entry for each server, however many of
    its tools changed at once, and no sooner than QUIET after it was told of the last time.
    """
    found: dict[UUID | None, Entry] = {}
    for entry in entries:
        if entry.event == Event.TOOL_CHANGED:
            data = json.loads(entry.data)
            if data.get("pin") and data["pin"] != data.get("digest"):
                found.setdefault(entry.server, entry)
    due = {server: _due(server, moment) for server in found}
    return [(entry, at) for server, entry in found.items() if (at := due[server]) is not None]


def _due(server: UUID | None, moment: datetime) -> datetime | None:
    """When to tell of a server's tools; None when a notice waits already, which says what is so when it goes out."""
    recent = Delivery.objects.filter(request=None, event=Event.TOOL_CHANGED, due_at__gt=moment - QUIET)
    told = Entry.objects.filter(uid__in=list(recent.values_list("entry", flat=True)), server=server)
    theirs = recent.filter(entry__in=list(told.values_list("uid", flat=True)))
    # One that was tried already may have been put into words before this change.
    if theirs.filter(due_at__gt=moment, sent_at=None, attempts=0).exists():
        return None
    last = theirs.aggregate(last=Max("due_at"))["last"]
    return max(moment, last + QUIET) if last else moment
