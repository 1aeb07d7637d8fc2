"""Comparing a target with what should be there: what is missing is given again, what is ours and extra is taken away.

What carries no mark of ours is somebody else's: it is reported, once, and never touched.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Facts, record
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible
from jitaccess.store.clock import JitNow, now

from .protocol import Found, ProvisionerError
from .rows import Provision, State, Target
from .targets import provisioner_of
from .wants import FREE
from .work import ACTOR, told_of

log = logging.getLogger(__name__)

MAX_LISTED = 200_000
_SHOWN = 20
_THERE, _GONE = (State.GRANTED,), (State.NONE, State.REVOKED)


@dataclass(frozen=True, slots=True)
class Drift:
    """What was found: provisions to be repaired by the next sweep, and the names of what is not ours."""

    missing: tuple[UUID, ...]
    extra: tuple[UUID, ...]
    foreign: tuple[str, ...]


def reconcile(target: Target) -> Drift | None:
    """List the target and mark what differs, to be repaired; None when it could not be listed, which is noted."""
    started = now()
    found = _listed(target)
    if found is None:
        return None
    states = dict(Provision.objects.filter(target=target).values_list("pk", "state").iterator())
    there = {one.id for one in found if one.id}
    missing = [pk for pk, state in states.items() if state in _THERE and pk not in there]
    extra = [pk for pk in there if states.get(pk) in _GONE]
    marked = Drift(
        missing=tuple(pk for pk in missing if _mark(pk, "missing", _THERE, started)),
        extra=tuple(pk for pk in extra if _mark(pk, "extra", _GONE, started)),
        foreign=_foreign(found, states),
    )
    _note_listed(target, marked.foreign, started)
    return marked


def _mark(pk: UUID, what: str, states: tuple[State, ...], started: datetime) -> bool:
    """Have it repaired, unless it changed since before the target was listed: then the list may be older than that."""
    with transaction.atomic():
        rows = Provision.objects.filter(pk=pk, state__in=states, changed_at__lt=started, owner=None, drifted=False)
        row = rows.select_related("target").select_for_update(of=("self",), **FREE).first()
        if row is None:
            return False
        rows.update(drifted=True, next_try_at=JitNow())
        data: dict[str, Json] = {
            "target": row.target.slug,
            "provision": str(pk),
            "entitlement": visible(row.entitlement, limit=600),
            "what": what,
            "told": told_of(row, what),
        }
        claim = row.claims.select_related("grant").order_by("-pk").first()
        grant = claim.grant if claim else None
        record(
            Facts(
                event=Event.PROVISION_DRIFT_FOUND,
                actor=ACTOR,
                request=grant.request_id if grant else None,
                grant=grant.pk if grant else None,
                data=data,
            )
        )
    log.warning("%s on %s is %s", pk, row.target.slug, "not there any more" if what == "missing" else "there again")
    return True


def _foreign(found: list[Found], states: dict[UUID, str]) -> tuple[str, ...]:
    """An id that is not in our table is another installation's, or a forgery: not ours to judge."""
    names = {one.name or str(one.id) for one in found if one.id not in states}
    return tuple(sorted(visible(name, limit=200) for name in names))


def _note_listed(target: Target, foreign: tuple[str, ...], started: datetime) -> None:
    said = ""
    if foreign:
        more = f"\nand {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        said = "\n".join(foreign[:_SHOWN]) + more
    with transaction.atomic():
        row = Target.objects.select_for_update().get(pk=target.pk)
        Target.objects.filter(pk=row.pk).update(listed_at=started, unknown=said)
        if said and said != row.unknown:
            data: dict[str, Json] = {
                "target": row.slug,
                "what": "foreign",
                "count": len(foreign),
                "names": list(foreign[:_SHOWN]),
            }
            record(Facts(event=Event.PROVISION_DRIFT_FOUND, actor=ACTOR, data=data))


def _listed(target: Target) -> list[Found] | None:
    try:
        found = list(islice(provisioner_of(target).list(), MAX_LISTED + 1))
    except (ProvisionerError, JitAccessError) as error:
        said = str(error)
    except Exception as error:
        log.exception("the provisioner of %s failed in a way it should not", target.slug)
        said = f"{type(error).__name__}: {error}"
    else:
        if len(found) <= MAX_LISTED:
            return found
        said = f"It lists more than {MAX_LISTED} entitlements."
    said = visible(said, limit=500)
    log.warning("%s could not be listed: %s", target.slug, said)
    Target.objects.filter(pk=target.pk).update(last_error=said)
    return None
