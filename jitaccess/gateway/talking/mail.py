"""What one gateway process tells another about calls of the same client: answers that came to the wrong one.

Sealed, so that the database can neither read nor change it; taken at most once, at the latest a second after it was
sent; and swept when nobody took it in time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from django.db import connection, transaction

from jitaccess.gateway.models import GatewayInstance, Mail
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.store.clock import JitNow, now
from jitaccess.store.sealing import ring
from jitaccess.store.wakeups import CHANNEL

log = logging.getLogger(__name__)

KEPT = timedelta(minutes=5)
# Taken at once; the rest a moment later.
AT_ONCE = 50


def send(to: UUID, content: JsonObject) -> bool:
    """False when that process is gone."""
    if not is_alive(to):
        return False
    _post([to], content)
    return True


def send_all(sender: UUID, content: JsonObject) -> None:
    """To every process that runs, but for the sender."""
    alive = GatewayInstance.objects.filter(lease_until__gt=JitNow()).exclude(pk=sender)
    if others := list(alive.values_list("pk", flat=True)):
        _post(others, content)


def _post(to: list[UUID], content: JsonObject) -> None:
    said, until = strictjson.encode(content), now() + KEPT
    with transaction.atomic():
        Mail.objects.bulk_create(
            Mail(to=one, sealed=ring().seal(said, context=_context(one)), until=until) for one in to
        )
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])


def is_alive(instance: UUID) -> bool:
    """Whether that gateway process has a lease."""
    return GatewayInstance.objects.filter(pk=instance, lease_until__gt=JitNow()).exists()


def tell_others(instance: UUID, content: JsonObject) -> None:
    """Send it to every other process."""
    others = GatewayInstance.objects.filter(lease_until__gt=JitNow()).exclude(pk=instance)
    for other in others.values_list("pk", flat=True):
        send(other, content)


def sweep() -> None:
    """What nobody took in time."""
    old = Mail.objects.filter(until__lt=now())
    if old.exists():
        old.delete()


class Postbox:
    """The mail of one process. `on` says who gets which kind; each is called on the event loop."""

    def __init__(self) -> None:
        self._handlers: dict[str, Callable[[JsonObject], None]] = {}

    def on(self, kind: str, handler: Callable[[JsonObject], None]) -> None:
        self._handlers[kind] = handler

    def take(self, instance: UUID) -> list[JsonObject]:
        """What has come for this process. Reads the database."""
        rows = list(Mail.objects.filter(to=instance).order_by("pk")[:AT_ONCE])
        if rows:
            Mail.objects.filter(pk__in=[row.pk for row in rows]).delete()
        found = []
        for row in rows:
            try:
                found.append(strictjson.decode(ring().open(row.sealed, context=_context(instance))))
            except Invalid:
                log.warning("a message of another gateway process cannot be opened")
        return found

    def deliver(self, found: list[JsonObject]) -> None:
        for content in found:
            handler = self._handlers.get(str(content.get("kind")))
            if handler is not None:
                handler(content)


def _context(to: UUID) -> str:
    return f"gateway-mail-v1/{to}"
