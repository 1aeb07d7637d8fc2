"""Sending what is owed, outside any transaction: a round at a time for each endpoint, and none waits for another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.egress.addresses import read_url
from jitaccess.kernel.errors import Unavailable
from jitaccess.notify.webhooks.keys import secrets_of
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.notify.webhooks.sending import Answer, post_all
from jitaccess.store.clock import JitNow, now

# Between tries of a message, each a fifth more or less, so that what failed together does not come back together.
PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18_000, 36_000))
DEAD = timedelta(days=5)  # without anything taken
KEPT = timedelta(days=30)  # what is done

OPEN = Q(delivered_at=None, gave_up_at=None)
_ROUND = 8  # messages at once
_LEASE = timedelta(seconds=60)  # longer than a round may take, or a second worker would begin one too
_HELD, _HELD_SHORTLY = timedelta(seconds=30), timedelta(seconds=5)
_GONE = 410


def due_endpoints() -> list[UUID]:
    """Those that something is due to and that are not left alone just now."""
    due = HookDelivery.objects.filter(OPEN, due_at__lte=JitNow())
    free = Q(held_until=None) | Q(held_until__lte=JitNow())
    ids = Endpoint.objects.filter(free, enabled=True, pk__in=due.values("endpoint")).values_list("pk", flat=True)
    return sorted(ids, key=lambda _: random.random())  # noqa: S311 - so that no endpoint is always first


def work(endpoint_id: UUID, *, rounds: int = 50) -> int:
    """Send what is due to this endpoint, in order, until something fails; returns how many messages were taken.

    At least once: a process that dies between sending and writing so sends again when its lease is over.
    """
    taken = 0
    for _ in range(rounds):
        endpoint = _claim(endpoint_id)
        if endpoint is None:
            break
        rows = _next(endpoint)
        answers = _ask(endpoint, rows) if rows else []
        taken += sum(answer.fine for answer in answers)
        _settle(endpoint, rows, answers)
        if not rows or not all(answer.fine for answer in answers):
            break
    return taken


def _claim(endpoint_id: UUID) -> Endpoint | None:
    free = Q(held_until=None) | Q(held_until__lte=JitNow())
    mine = Endpoint.objects.filter(free, pk=endpoint_id, enabled=True).update(held_until=now() + _LEASE)
    return Endpoint.objects.filter(pk=endpoint_id).first() if mine else None


def _next(endpoint: Endpoint) -> list[HookDelivery]:
    """The next round; one message alone finds out whether an endpoint that failed is back."""
    due = HookDelivery.objects.filter(OPEN, endpoint=endpoint, due_at__lte=JitNow()).order_by("due_at", "pk")
    rows = list(due[: 1 if endpoint.failing_since else _ROUND])
    HookDelivery.objects.filter(pk__in=[row.pk for row in rows]).update(
        attempts=F("attempts") + 1, due_at=now() + _LEASE
    )
    return rows


def _ask(endpoint: Endpoint, rows: Sequence[HookDelivery]) -> list[Answer]:
    entries = Entry.objects.in_bulk([row.entry for row in rows])
    try:
        secrets = secrets_of(endpoint, now())
    except Unavailable as error:
        return [Answer(None, error.detail) for _ in rows]
    return post_all(endpoint.url, [entries[row.entry] for row in rows], secrets)


def _settle(claimed: Endpoint, rows: Sequence[HookDelivery], answers: Sequence[Answer]) -> None:
    moment = now()
    with transaction.atomic():
        endpoint = Endpoint.objects.select_for_update().filter(pk=claimed.pk).first()
        if endpoint is None:
            return  # removed meanwhile, with all that it was owed
        for row, answer in zip(rows, answers, strict=True):
            _write(row, answer, moment)
        if endpoint.url != claimed.url:
            return  # what the old address said is nothing against the new one
        failed = [answer for answer in answers if not answer.fine]
        if len(failed) < len(answers):
            endpoint.failing_since = None
        elif failed:
            endpoint.failing_since = endpoint.failing_since or moment
        endpoint.held_until = moment + max(map(_hold, failed)) if failed else None
        endpoint.save(update_fields=["failing_since", "held_until"])
        if endpoint.enabled and any(answer.status == _GONE for answer in failed):
            _disable(endpoint, "It answered 410: it is gone, and wants nothing more.")
        elif endpoint.enabled and endpoint.failing_since and moment - endpoint.failing_since >= DEAD:
            _disable(endpoint, f"It took nothing for {DEAD.days} days. At last: {failed[-1].error}")
        done = HookDelivery.objects.filter(endpoint=endpoint, pk__lt=uuid_floor(moment - KEPT)).exclude(OPEN)
        if not rows:
            done.delete()


def _hold(answer: Answer) -> timedelta:
    """How long an endpoint is left alone: one that refused a message may take the next."""
    refused = answer.status is not None and answer.status < 500 and not answer.wait
    return _HELD_SHORTLY if refused else max(_HELD, timedelta(seconds=answer.wait))


def _write(row: HookDelivery, answer: Answer, moment: datetime) -> None:
    said = {"status": answer.status, "error": answer.error, "answer": answer.head}
    mine = HookDelivery.objects.filter(OPEN, pk=row.pk)
    if answer.fine:
        mine.update(delivered_at=moment, **said)
        return
    again = moment + max(pause(row.attempts + 1), timedelta(seconds=answer.wait))
    if answer.status == _GONE or again > row.created_at + timedelta(days=settings.WEBHOOK_DAYS):
        mine.update(gave_up_at=moment, **said)
    else:
        mine.update(due_at=again, **said)


def pause(attempts: int) -> timedelta:
    """After so many failed tries."""
    return PAUSES[min(attempts, len(PAUSES)) - 1] * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


def _disable(endpoint: Endpoint, why: str) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(enabled=False, disabled_why=why[:300], held_until=None)
    data = {
        "webhook": endpoint.name,
        "id": str(endpoint.pk),
        "host": read_url(endpoint.url).origin,
        "why": why[:300],
        "owner": str(endpoint.created_by_id) if endpoint.created_by_id else None,
    }
    record(Facts(event=Event.WEBHOOK_DISABLED, actor=Actor.system("webhooks"), data=data))


def uuid_floor(moment: datetime) -> UUID:
    """A key no row of this time is below, even if the clock of whoever made it was a day off."""
    return UUID(int=int((moment - timedelta(days=1)).timestamp() * 1000) << 80)
