"""From the ledger to deliveries owed: who has to hear of what."""

from __future__ import annotations

import json
from collections.abc import Iterable

from django.conf import settings
from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.models import Cursor, Entry, Leaf
from jitaccess.audit.sequencer import advance, read_after
from jitaccess.identity.models import User
from jitaccess.notify.models import Delivery
from jitaccess.notify.notice import TOLD_EVENTS
from jitaccess.store.clock import now
from requests_app import reviews, selectors, standing
from requests_app.selectors import AccessRequest
from requests_app.services.remind import escalated_to


def fan_out(*, limit: int = 500) -> int:
    """Turn the next ledger entries into deliveries; returns how many entries were read.

    Deliveries and the cursor commit together: an entry is told once, whenever a process dies.
    """
    seen = Cursor.objects.filter(name="notify").values_list("seq", flat=True).first() or 0
    if not Leaf.objects.filter(seq__gt=seen).exists():
        return 0  # an idle look takes no write lock, which on SQLite everybody else would wait for
    with transaction.atomic():
        cursor, leaves = read_after("notify", limit=limit)
        if not leaves:
            return 0
        told = [leaf.entry for leaf in leaves if leaf.entry.event in TOLD_EVENTS]
        requests = selectors.requests_by_id({entry.request for entry in told if entry.request})
        moment = now()
        rows = [
            Delivery(
                entry=entry.uid, event=entry.event, request=request.pk, user=person, channel=channel, due_at=moment
            )
            for entry in told
            if entry.request and (request := requests.get(entry.request))
            for person in _audience(entry, request)
            for channel in settings.NOTIFY_CHANNELS
            if channel != "email" or person.email
        ]
        rows += [
            Delivery(entry=entry.uid, event=entry.event, request=None, user=person, channel=channel, due_at=moment)
            for entry in _quarantines(leaf.entry for leaf in leaves)
            for person in _reviewers()
            for channel in settings.NOTIFY_CHANNELS
            if channel != "email" or person.email
        ]
        Delivery.objects.bulk_create(rows, ignore_conflicts=True)
        advance(cursor, leaves[-1].seq)
    return len(leaves)


def _audience(entry: Entry, request: AccessRequest) -> list[User]:
    """A new request: who can decide. A reminder: who of them has not. Break-glass: everybody who was skipped.

    The outcome: the agent's owner and the person it acts for, but not who did it.
    """
    match entry.event:
        case Event.REQUEST_SUBMITTED:
            return standing.approvers_of(request) if request.pending else []
        case Event.REQUEST_REMINDED | Event.REQUEST_ESCALATED:
            return _undecided(entry, request) if request.pending else []
        case Event.BREAK_GLASS_USED:
            told = reviews.told_of(request)
        case _:
            told = [person for person in (request.agent.owner, request.user) if person and person.is_active]
    concerned = {person.pk: person for person in told}
    # An agent that acts for somebody carries that person's id: then it was not the person who did it.
    if entry.user and not entry.agent:
        concerned.pop(entry.user, None)
    return list(concerned.values())


def _undecided(entry: Entry, request: AccessRequest) -> list[User]:
    """Of those a reminder (all) or an escalation (its groups) goes to: who has not decided, and may."""
    done = {decision.user_id for decision in selectors.decisions_on(request) if decision.live}
    asked = [person for person in standing.approvers_of(request) if person.pk not in done]
    if entry.event == Event.REQUEST_REMINDED:
        return asked
    later = escalated_to(json.loads(entry.data)["groups"])
    return [person for person in asked if person.pk in later]


def _quarantines(entries: Iterable[Entry]) -> list[Entry]:
    """Tools that changed after their review: one entry for each server, however many of its tools changed at once."""
    found: dict[object, Entry] = {}
    for entry in entries:
        if entry.event == Event.TOOL_CHANGED:
            data = json.loads(entry.data)
            if data.get("pin") and data["pin"] != data.get("digest"):
                found.setdefault(entry.server, entry)
    return list(found.values())


def _reviewers() -> list[User]:
    """Who may review tools."""
    who = User.objects.with_perm("jit_catalog.change_tool", backend="django.contrib.auth.backends.ModelBackend")
    return list(who.filter(is_staff=True))
