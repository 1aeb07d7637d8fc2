"""A word before access ends, to the person the agent acts for, or else its owner. Only a notice, without an entry."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import islice
from uuid import NAMESPACE_OID, UUID, uuid5

from django.conf import settings

from jitaccess.notify.allowed import Wishes
from jitaccess.notify.models import Delivery
from jitaccess.notify.notice import GRANT_EXPIRING
from jitaccess.store.clock import now
from requests_app.selectors import Grant
from requests_app.services.remind import grants_ending

LEAD = timedelta(minutes=5)
# Whoever asked for less knows when it ends.
WORTH_A_WORD = timedelta(minutes=15)
# How far back it looks. A word that comes later than that is of no use, so a long outage costs these notices.
_BACK = timedelta(minutes=2)


def owe_notices_of_ends() -> int:
    """Owe a notice of each grant that ends in about `LEAD`, one for each end: an extended grant gets another."""
    soon = now() + LEAD
    rows = grants_ending(after=soon - _BACK, until=soon).iterator(chunk_size=500)
    owed = 0
    while part := list(islice(rows, 500)):
        owed += _owe(part)
    return owed


def _owe(grants: Sequence[Grant]) -> int:
    long = [grant for grant in grants if grant.expires_at - grant.starts_at > WORTH_A_WORD]
    ids = {_of(grant): grant for grant in long}
    told = set(Delivery.objects.filter(entry__in=ids).values_list("entry", flat=True))
    moment, rows = now(), []
    wishes = Wishes(grant.user or grant.agent.owner for grant in ids.values())
    for uid, grant in ids.items():
        person = grant.user or grant.agent.owner
        if uid in told or not person.is_active:
            continue
        rows += [
            Delivery(
                entry=uid, event=GRANT_EXPIRING, request=grant.request_id, user=person, channel=channel, due_at=moment
            )
            for channel in settings.NOTIFY_CHANNELS
            if (channel != "email" or person.email) and wishes.want(person, GRANT_EXPIRING, channel)
        ]
    # Of two workers at once the second finds them there.
    Delivery.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def _of(grant: Grant) -> UUID:
    """Stands where the id of an entry stands: the same for every worker that looks at the same end."""
    return uuid5(NAMESPACE_OID, f"{GRANT_EXPIRING}/{grant.pk}/{grant.expires_at.isoformat()}")
