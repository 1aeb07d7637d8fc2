"""Gateway processes and their leases; closing the calls of those that died."""

from __future__ import annotations

import os
import platform
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef

from jitaccess.audit.bundles import unbundle, unbundle_left
from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.gateway.models import GatewayInstance, OpenCall, RefusalCount
from jitaccess.kernel.steps import step
from jitaccess.store.clock import JitNow, now

LEASE = timedelta(seconds=15)
# Bundles that lie so long have no sequencer, or one of the release before, which does not know them. Less than LEASE:
# gateways of that release close calls of dead processes by the entries that they find.
LEFT_LYING = timedelta(seconds=8)


def register_instance() -> UUID:
    """Enter this process with a fresh lease."""
    moment = now()
    row = GatewayInstance.objects.create(
        host=platform.node()[:100], pid=os.getpid(), started_at=moment, lease_until=moment + LEASE
    )
    return row.pk


def renew_lease(instance: UUID) -> bool:
    """False when the lease is gone: others may have closed this process's calls."""
    return GatewayInstance.objects.filter(pk=instance, lease_until__gt=JitNow()).update(lease_until=now() + LEASE) == 1


def enter_again(instance: UUID) -> UUID:
    """Enter a process that lives after all with a fresh lease, and with its open calls that nobody closed meanwhile."""
    with transaction.atomic():
        again = register_instance()
        OpenCall.objects.filter(instance=instance).update(instance=again)
    return again


def end_lease(instance: UUID) -> None:
    GatewayInstance.objects.filter(pk=instance).update(lease_until=JitNow())


def end_other_leases(instance: UUID) -> None:
    """For an installation of one process, whose file lock proves that every other one is dead."""
    GatewayInstance.objects.exclude(pk=instance).update(lease_until=JitNow())


def close_abandoned_calls(*, own: UUID | None = None, limit: int = 500) -> int:
    """Record call.outcome_unknown for open calls whose process has no lease any more; returns how many. Not for those
    of `own`, the process that does it, which lives and may enter again: it knows their outcome.
    """
    unbundle_left(LEFT_LYING)
    alive = GatewayInstance.objects.filter(pk=OuterRef("instance"), lease_until__gt=JitNow())
    abandoned = OpenCall.objects.filter(~Exists(alive)).order_by("call")
    if own is not None:
        abandoned = abandoned.exclude(instance=own)
    if not abandoned.exists():
        return 0  # looked first: an idle round takes no lock
    with transaction.atomic():
        rows = list(abandoned.select_for_update(skip_locked=True)[:limit])
        unbundle([row.pk for row in rows])  # after them: each came with what authorized it
        begun = Entry.objects.filter(call__in=[row.pk for row in rows], event=Event.CALL_AUTHORIZED)
        entries = {entry.call: entry for entry in begun}
        record_many(_unknown(row, entries[row.pk]) for row in rows if row.pk in entries)
        OpenCall.objects.filter(pk__in=[row.pk for row in rows]).delete()
        step("reconcile.written")
    return len(rows)


def forget_old_instances() -> None:
    """Processes that ended more than a day ago, and of whose calls nothing is left to write down."""
    owing = [model.objects.filter(instance=OuterRef("pk")) for model in (OpenCall, RefusalCount)]
    gone = GatewayInstance.objects.filter(lease_until__lt=now() - timedelta(days=1))
    gone.exclude(Exists(owing[0])).exclude(Exists(owing[1])).delete()


def _unknown(row: OpenCall, begun: Entry) -> Facts:
    """As the entry that authorized it says."""
    actor = Actor(
        agent=begun.agent,
        agent_name=begun.agent_name,
        user=begun.user,
        user_name=begun.user_name,
        client=begun.client,
        source=begun.source,
    )
    return Facts(
        event=Event.CALL_OUTCOME_UNKNOWN,
        outcome=Outcome.ERROR,
        actor=actor,
        grant=begun.grant,
        call=row.call,
        server=begun.server,
        server_name=begun.server_name,
        tool=begun.tool,
        instance=row.instance,
        data={"why": "the gateway process ended before the outcome was recorded"},
    )
