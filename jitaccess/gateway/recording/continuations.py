"""Calls that go on: one that ended with a question to its client may be made once more, as the same use.

Whoever relays the question seals the id of a continuation into what the client gives back. It is made in the commit of
the call's end and redeemed, once, in the batch that admits the call which goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from jitaccess.gateway.models import Continuation
from jitaccess.store.clock import JitNow, now

# How long a client may think about its answer.
ANSWER_WITHIN = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Continued:
    """What a call goes on with: the first call of its row, and the binding of which both are one use."""

    id: UUID
    call: UUID
    principal_key: str
    binding: UUID | None


def hold(wanted: Mapping[UUID, str]) -> dict[UUID, Continued]:
    """Those of `wanted` (the principal's key by id) that can be redeemed now, held for this transaction.

    One that another batch holds is being redeemed there: nobody waits for it.
    """
    rows = Continuation.objects.select_for_update(skip_locked=True).filter(pk__in=wanted, expires_at__gt=JitNow())
    return {
        row.pk: Continued(row.pk, row.call, row.principal_key, row.binding)
        for row in rows.order_by("pk")
        if row.principal_key == wanted[row.pk]
    }


def redeem(used: Iterable[UUID]) -> None:
    """Use up what `hold` found, in its transaction."""
    Continuation.objects.filter(pk__in=list(used)).delete()


def keep(continued: Iterable[Continued]) -> datetime:
    """Make them, or make them anew after calls of which nothing was sent, in the transaction of those ends; returns
    until when they can be redeemed.
    """
    until = now() + ANSWER_WITHIN
    Continuation.objects.bulk_create(
        Continuation(id=one.id, call=one.call, principal_key=one.principal_key, binding=one.binding, expires_at=until)
        for one in continued
    )
    return until


def forget_old_continuations() -> int:
    """Sweep what nobody may redeem any more; returns how many."""
    old = Continuation.objects.filter(expires_at__lte=now())
    return old.delete()[0] if old.exists() else 0  # looked first: an idle round takes no lock
