"""What grants want on targets. Called in the transaction in which a grant begins or ends; no target is asked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction

from jitaccess.kernel.canonical import digest
from jitaccess.kernel.ids import uuid7
from jitaccess.store.clock import JitNow, now
from requests_app.models import Grant

from .entitlements import Match, Named, entitlements_of
from .rows import Claim, Provision, State, Target
from .wants import FREE

Items = Sequence[Mapping[str, Any]]


def plan_for(grant: Grant, items: Items | None = None) -> list[tuple[Target, Named]]:
    """What a grant gives where: targets that are switched on and match, with what it is there, each once.

    `items` are those that were granted (the request's unless given). Writes nothing.
    """
    targets = [(target, Match(target.match)) for target in Target.objects.filter(enabled=True)]
    if not targets:
        return []
    names = list(entitlements_of(grant.request.parsed_items if items is None else items))
    found = {
        (target.pk, named.name): (target, named) for target, match in targets for named in names if match.takes(named)
    }
    return [found[key] for key in sorted(found)]


def begin(grant: Grant, items: Items | None = None) -> list[UUID]:
    """A grant claims what it gives on targets; returns the provisions. Workers carry it out when the grant starts.

    Refuses to run outside of a transaction: there is never a grant whose claims got lost.
    """
    _inside_a_transaction()
    plan = plan_for(grant, items)
    if not plan:
        return []
    subject = _subject_key(grant)
    wanted = {(target.pk, _digest(named.name)): (target, named) for target, named in plan}
    moment = now()
    rows = [
        Provision(
            id=uuid7(), target=target, agent_id=grant.agent_id, user_id=grant.user_id, subject_key=subject,
            entitlement=named.name, about=named.about, digest=key, changed_at=moment,
        )
        for (_, key), (target, named) in sorted(wanted.items(), key=lambda pair: pair[0])
    ]  # fmt: skip
    Provision.objects.bulk_create(rows, ignore_conflicts=True)
    there = Provision.objects.filter(
        subject_key=subject, target__in={pk for pk, _ in wanted}, digest__in={key for _, key in wanted}
    )
    ids = [pk for pk, target, key in there.values_list("pk", "target_id", "digest") if (target, key) in wanted]
    # A new grant is a new chance where an earlier one was given up.
    Provision.objects.filter(pk__in=_free(ids)).update(next_try_at=JitNow(), gave_up=False)
    Claim.objects.bulk_create([Claim(grant=grant, provision_id=pk) for pk in ids], ignore_conflicts=True)
    return ids


def wind_up(*grants: Grant) -> int:
    """Grants have ended: have their provisions looked at, at once; returns how many. Call it when the end is written
    and the bindings are over: core access ends first. A natural expiry needs no call: workers know when to look.
    """
    _inside_a_transaction()
    ids = list(Claim.objects.filter(grant__in=grants).values_list("provision", flat=True))
    return Provision.objects.filter(pk__in=_free(ids)).update(next_try_at=JitNow()) if ids else 0


def provisions_of(grant_id: UUID) -> list[Provision]:
    """What a grant claims on targets, for people to look at, in two queries at most."""
    rows = Provision.objects.filter(claims__grant=grant_id).select_related("target")
    return list(rows.order_by("target__slug", "entitlement"))


def try_again(provision: Provision) -> bool:
    """A person wants it tried now, also when it was given up. Returns whether there is anything to try."""
    rows = Provision.objects.filter(pk=provision.pk, owner=None).exclude(state=State.REVOKED, gave_up=False)
    return bool(rows.update(gave_up=False, next_try_at=JitNow()))


def how_many() -> dict[str, int]:
    """For /metrics: what waits to be given or taken, and the revokes for which people were called."""
    waiting = Provision.objects.filter(next_try_at__lte=JitNow())
    stuck = Provision.objects.filter(state=State.REVOKING, alarmed=True)
    return {"provisions_due": waiting.count(), "provision_revokes_stuck": stuck.count()}


def _free(ids: list[UUID]) -> list[UUID]:
    """Those that nobody holds, locked for us. Nobody who decides waits for a worker: it may be frozen. What it missed
    meanwhile is found by the next sweep (`look_again_at_recent`).
    """
    rows = Provision.objects.filter(pk__in=ids).select_for_update(of=("self",), **FREE)
    return list(rows.order_by("pk").values_list("pk", flat=True))


def _subject_key(grant: Grant) -> str:
    return f"{grant.agent_id.hex}/{grant.user_id.hex if grant.user_id else ''}"


def _digest(name: str) -> str:
    return digest(name, domain="jitaccess-entitlement-v1")


def _inside_a_transaction() -> None:
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("Claims are written inside the transaction of the grant they are about.")
