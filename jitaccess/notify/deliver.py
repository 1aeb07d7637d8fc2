"""Sending what is owed, outside any transaction: a slow mail server holds no lock."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.db.models import F

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.catalog.models import Tool
from jitaccess.kernel.text import visible
from jitaccess.notify import console, email
from jitaccess.notify.models import Delivery
from jitaccess.notify.notice import ASKING, GRANT_EXPIRING, Channel, notice_of, quarantine_notice, webhook_notice
from jitaccess.store.clock import JitNow, now
from requests_app import selectors

log = logging.getLogger("jitaccess.notify")

CHANNELS: dict[str, Channel] = {"console": console.send, "email": email.send}
_LEASE = timedelta(seconds=60)  # longer than a send may take, or a second worker would send it too


def backoff(attempts: int) -> timedelta:
    """The pause after `attempts` failed attempts: 5 s, doubling, at most 10 minutes."""
    return timedelta(seconds=min(5 * 2 ** min(attempts - 1, 10), 600))


def send_due(*, limit: int = 100) -> int:
    """Send what is due; returns how many went out. One that fails is due again later and stops none of the rest."""
    due = Delivery.objects.filter(sent_at=None, due_at__lte=JitNow()).select_related("user").order_by("due_at")
    return sum(_attempt(delivery) for delivery in list(due[:limit]))


def _attempt(delivery: Delivery) -> bool:
    """At least once: a process that dies between sending and writing so sends again when its lease is over."""
    attempts = delivery.attempts + 1
    claimed = Delivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts, sent_at=None).update(
        attempts=F("attempts") + 1, due_at=now() + _LEASE
    )
    if claimed != 1:
        return False  # another worker has it
    mine = Delivery.objects.filter(pk=delivery.pk, attempts=attempts)
    try:
        obsolete = _send(delivery)
    except Exception as error:  # noqa: BLE001 - whatever a channel does, the rest goes out
        said = visible(f"{type(error).__name__}: {error}", limit=500)
        log.warning("notice %s by %s failed, attempt %d: %s", delivery.pk, delivery.channel, attempts, said)
        mine.update(error=said, due_at=now() + backoff(attempts))
        return False
    mine.update(sent_at=JitNow(), error=obsolete)
    return not obsolete


def _send(delivery: Delivery) -> str:
    """Send it, or say why nobody needs it any more."""
    if delivery.event == Event.WEBHOOK_DISABLED:
        return _send_webhook(delivery)
    if delivery.request is None:
        return _send_quarantine(delivery)
    request = selectors.requests_by_id([delivery.request])[delivery.request]
    if not delivery.user.is_active:
        return "not sent: the person is no longer active"
    if delivery.event in ASKING and not request.pending:
        return "not sent: decided before it went out"
    if delivery.event == GRANT_EXPIRING and request.grant.ended_at is not None:
        return "not sent: ended before it went out"
    CHANNELS[delivery.channel](notice_of(delivery, request))
    return ""


def _send_webhook(delivery: Delivery) -> str:
    if not delivery.user.is_active:
        return "not sent: the person is no longer active"
    CHANNELS[delivery.channel](webhook_notice(delivery, Entry.objects.get(uid=delivery.entry)))
    return ""


def _send_quarantine(delivery: Delivery) -> str:
    entry = Entry.objects.get(uid=delivery.entry)
    changed = Tool.objects.filter(server=entry.server, present=True).exclude(pin="").exclude(pin=F("digest"))
    tools = list(changed.order_by("name").values_list("name", flat=True))
    if not tools:
        return "not sent: reviewed, or as it was, before it went out"
    if not delivery.user.is_active:
        return "not sent: the person is no longer active"
    CHANNELS[delivery.channel](quarantine_notice(delivery, server=entry.server_name, tools=tools))
    return ""
