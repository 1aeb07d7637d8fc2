"""Carrying out what is wanted on targets, one provision at a time, by whichever worker takes it first.

The order is the design: take it and write the intent down -> commit -> touch the target -> look whether it is so ->
write down what came of it. No lock is held while a target is spoken to. A worker that dies leaves an intent and a lease
that ends; whoever comes next does the same step again, which is why steps are idempotent. What is wanted is asked anew
each time, of the grants and of the clock, so nothing that got lost on the way can keep access alive.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F, Q

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible
from jitaccess.store.clock import JitNow, now
from jitaccess.store.metrics import PROVISION_ALARMS, PROVISION_ATTEMPTS

from .protocol import CALL_SECONDS, Effect, Entitlement, Permanent, Presence, Provisioner, Retryable
from .rows import Claim, Provision, State, Target
from .targets import provisioner_of
from .wants import FREE, JUST_NOW, look_again_at_all, look_again_at_recent, wanted_until

log = logging.getLogger(__name__)

ACTOR = Actor.system("provisioning")
# A try is a grant or revoke, and a look. The rest is for a slow database.
WORK_SECONDS = 2 * CALL_SECONDS
LEASE = timedelta(seconds=3 * CALL_SECONDS)
# A worker that is told to stop ends its sweep first: one try more than this, at most.
SWEEP_SECONDS = 10.0
GRANT_TRIES = 8
ALARM_TRIES = 5
LONGEST_PAUSE = 600.0
LONGEST_AWAY = 60.0
_DONE = {State.GRANTING: State.GRANTED, State.REVOKING: State.REVOKED}
_one_sweep = threading.Lock()
_looked_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A provision that this worker has: until `owner` is not in its row any more."""

    pk: UUID
    owner: UUID
    going: State
    target: Target
    effect: Effect


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a try failed. `contradicted`: the target said that it was done, and it was not. `away`: ask others first."""

    said: str
    permanent: bool = False
    contradicted: bool = False
    away: bool = False


def work_due(*, seconds: float = SWEEP_SECONDS, per_target: int = 500) -> int:
    """Try what is due, target by target in turns, for about `seconds`; returns how many came to where they should be.

    One sweep a process: however slow targets are, they occupy one of its threads.
    """
    if not _one_sweep.acquire(blocking=False):
        return 0
    try:
        until = time.monotonic() + seconds
        _look_again()
        lines = [_due_at(target, per_target) for target in _targets_due()]
        done = 0
        for pk in filter(None, chain.from_iterable(zip_longest(*lines))):
            if time.monotonic() >= until:
                break
            try:
                done += attempt(pk)
            except Exception:
                log.exception("provision %s failed and will be tried again", pk)
        return done
    finally:
        _one_sweep.release()


def attempt(pk: UUID) -> bool:
    """Try one provision, if it is due and nobody has it; returns whether a step was done and found to be so."""
    job = _take(pk)
    if job is None:
        return False
    step("provision.intended")
    trouble = _carry_out(job)
    step("provision.touched")
    PROVISION_ATTEMPTS.labels(job.going, "failed" if trouble else "done").inc()
    settled = _failed(job, trouble) if trouble else _succeeded(job)
    if not settled:
        log.warning("provision %s took longer than its lease; what came of it is left to whoever has it now", pk)
    return settled and trouble is None


def direction(provision: Provision, *, wanted: bool) -> State | None:
    """What has to be done so that it is as wanted; None when it is."""
    if wanted and not provision.gave_up:
        return None if provision.state == State.GRANTED and not provision.drifted else State.GRANTING
    if provision.state in {State.NONE, State.REVOKED} and not provision.drifted:
        return None
    return State.REVOKING


def backoff(attempts: int) -> timedelta:
    """The pause after `attempts` failed tries: 2 s, doubling, at most 10 minutes, of which up to half is cut by chance
    so that those which failed together do not come back together.
    """
    pause = min(2.0 * 2 ** min(attempts - 1, 20), LONGEST_PAUSE)
    return timedelta(seconds=pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


def _look_again() -> None:
    """What changed within the last moments may have missed a row that somebody held just then; after a pause, or at the
    start of a process, anything may have.
    """
    global _looked_at  # noqa: PLW0603 - of this process, under its lock
    present = time.monotonic()
    if _looked_at is None or present - _looked_at > JUST_NOW.total_seconds() / 2:
        look_again_at_all()
    else:
        look_again_at_recent()
    _looked_at = present


def _due() -> Q:
    free = Q(owner=None) | Q(lease_until__lte=JitNow())
    here = Q(target__away_until=None) | Q(target__away_until__lte=JitNow())
    return Q(next_try_at__lte=JitNow()) & free & here


def _targets_due() -> list[UUID]:
    return list(Provision.objects.filter(_due()).order_by("target").values_list("target", flat=True).distinct())


def _due_at(target: UUID, limit: int) -> list[UUID]:
    rows = Provision.objects.filter(_due(), target=target).order_by("next_try_at")
    return list(rows.values_list("pk", flat=True)[:limit])


def _take(pk: UUID) -> Job | None:
    """Write the intent down and the lease, unless there is nothing to do or somebody has it."""
    with transaction.atomic():
        due = Provision.objects.filter(_due(), pk=pk)
        row = due.select_related("target", "agent", "user").select_for_update(of=("self",), **FREE).first()
        if row is None:
            return None
        moment = now()
        wanted, look_at = wanted_until(row, moment)
        going = direction(row, wanted=wanted)
        if going is State.GRANTING and not row.target.enabled:
            going, look_at = None, moment + timedelta(seconds=LONGEST_AWAY)
        mine = Provision.objects.filter(pk=pk, state=row.state, turn=row.turn, owner=row.owner)
        if going is None:
            mine.update(next_try_at=look_at, owner=None, lease_until=None)
            return None
        owner, turned = uuid4(), row.state != going
        changes: dict[str, object] = {"owner": owner, "lease_until": moment + LEASE, "state": going}
        changes |= {"attempts": 1 if turned else F("attempts") + 1}
        if turned:
            changes |= {"turn": F("turn") + 1, "changed_at": moment, "alarmed": False}
        if mine.update(**changes) != 1:
            return None
        turn = row.turn + turned
        effect = Effect(
            id=pk,
            entitlement=_entitlement(row),
            attempt=f"{pk.hex}-{turn}",
            not_after=time.monotonic() + WORK_SECONDS,
        )
        return Job(pk=pk, owner=owner, going=going, target=row.target, effect=effect)


def _carry_out(job: Job) -> Trouble | None:
    granting = job.going is State.GRANTING
    try:
        provisioner = provisioner_of(job.target)
        found = _touch(provisioner, job.effect, granting=granting)
    except Permanent as error:
        return Trouble(said=str(error), permanent=True)
    except (Retryable, JitAccessError) as error:
        return Trouble(said=str(error), away=True)
    except Exception as error:
        log.exception("the provisioner of %s failed in a way it should not", job.target.slug)
        return Trouble(said=f"{type(error).__name__}: {error}", away=True)
    if found is (Presence.PRESENT if granting else Presence.ABSENT):
        return None
    if found is Presence.UNKNOWN:
        return Trouble(said="It could not be seen whether it is so.")
    what = "given, and it is not there" if granting else "taken away, and it is still there"
    return Trouble(said=f"The target said that it was {what}.", contradicted=True)


def _touch(provisioner: Provisioner, effect: Effect, *, granting: bool) -> Presence:
    if granting:
        provisioner.validate(effect.entitlement)
        provisioner.grant(effect)
    else:
        provisioner.revoke(effect)
    return provisioner.verify(effect)


def _succeeded(job: Job) -> bool:
    """False when somebody else has it by now: then nothing is believed of what this worker saw."""
    with transaction.atomic():
        row = _mine(job)
        if row is None:
            return False
        moment = now()
        wanted, look_at = wanted_until(row, moment)
        repaired, attempts = row.drifted, row.attempts
        row.state, row.drifted = _DONE[job.going], False
        again = direction(row, wanted=wanted) is not None
        Provision.objects.filter(pk=row.pk, owner=job.owner, state=job.going).update(
            state=row.state, changed_at=moment, attempts=0, next_try_at=moment if again else look_at,
            alarmed=False, drifted=False, owner=None, lease_until=None,
            last_error=row.last_error if row.gave_up else "",
        )  # fmt: skip
        granted = job.going is State.GRANTING
        event = Event.PROVISION_GRANTED if granted else Event.PROVISION_REVOKED
        _record(row, Event.PROVISION_REPAIRED if repaired else event, did=str(_DONE[job.going]), attempts=attempts)
    # Alone, as below: a process that is frozen in a transaction must not hold the row of a target.
    Target.objects.filter(pk=job.target.pk).exclude(failures=0).update(failures=0, away_until=None, last_error="")
    return True


def _failed(job: Job, trouble: Trouble) -> bool:
    said = visible(trouble.said, limit=500)
    with transaction.atomic():
        row = _mine(job)
        if row is None:
            return False
        moment = now()
        _, look_at = wanted_until(row, moment)
        granting = job.going is State.GRANTING
        giving_up = granting and (trouble.permanent or row.attempts >= GRANT_TRIES)
        alarm = not granting and not row.alarmed and (trouble.permanent or row.attempts >= ALARM_TRIES)
        next_try = moment if giving_up else moment + backoff(row.attempts)
        Provision.objects.filter(pk=row.pk, owner=job.owner, state=job.going).update(
            # What a grant ends is looked at when it ends, however long the pause.
            next_try_at=min(next_try, look_at) if granting and look_at else next_try,
            last_error=said, gave_up=row.gave_up or giving_up, alarmed=row.alarmed or alarm,
            # Whoever sorts out repetitions must not take the next try for one.
            turn=row.turn + trouble.contradicted, owner=None, lease_until=None,
        )  # fmt: skip
        if row.attempts == 1 or giving_up or alarm:
            more: dict[str, Json] = {"error": said, "gave_up": giving_up, "alarm": alarm}
            _record(row, Event.PROVISION_FAILED, did=str(job.going), attempts=row.attempts, **more)
        if alarm:
            transaction.on_commit(lambda: _raise_alarm(row, said), robust=True)
    if trouble.away:
        _note_away(job.target, said, moment)
    log.warning("%s %s on %s failed, try %d: %s", job.going, row.pk, job.target.slug, row.attempts, said)
    return True


def _mine(job: Job) -> Provision | None:
    rows = Provision.objects.filter(pk=job.pk, owner=job.owner, state=job.going)
    return rows.select_related("target", "agent", "user").select_for_update(of=("self",), **FREE).first()


def _note_away(target: Target, said: str, moment: datetime) -> None:
    """While a target does not answer, it is asked by one provision now and then, not by each."""
    failures = Target.objects.get(pk=target.pk).failures + 1
    pause = min(2 ** min(failures - 1, 10), LONGEST_AWAY)
    Target.objects.filter(pk=target.pk).update(
        failures=failures, away_until=moment + timedelta(seconds=pause), last_error=said
    )


def _raise_alarm(row: Provision, said: str) -> None:
    PROVISION_ALARMS.inc()
    log.error(
        "ALARM: %s of %s could not be taken away and may still be in force on the target %s. It is tried for ever: %s",
        visible(row.entitlement, limit=200), visible(row.agent.name, limit=80), row.target.slug, said,
    )  # fmt: skip


def _record(row: Provision, event: Event, **data: Json) -> None:
    """One entry, about the grant that matters most: the first that is live, else the one that came last."""
    claims = list(Claim.objects.filter(provision=row).select_related("grant").order_by("-pk")[:20])
    moment = now()
    live = [one.grant for one in claims if one.grant.ended_at is None and one.grant.expires_at > moment]
    grant = live[-1] if live else claims[0].grant if claims else None
    failed = event is Event.PROVISION_FAILED
    facts: dict[str, Json] = {
        "target": row.target.slug,
        "provision": str(row.pk),
        "entitlement": visible(row.entitlement, limit=600),
        "agent": visible(row.agent.name, limit=150),
        "user": visible(row.user.username, limit=150) if row.user else "",
        "live_grants": [str(one.pk) for one in live],
        "told": told_of(row, str(data.get("error", ""))),
        **data,
    }
    record(
        Facts(
            event=event,
            actor=ACTOR,
            outcome=Outcome.ERROR if failed else Outcome.NONE,
            request=grant.request_id if grant else None,
            grant=grant.pk if grant else None,
            data=facts,
        )
    )


def told_of(row: Provision, error: str = "") -> str:
    """What an entry is about, in words: "tool:git/git_commit on crm"."""
    return visible(f"{row.entitlement} on {row.target.slug}" + (f": {error}" if error else ""), limit=800)


def _entitlement(row: Provision) -> Entitlement:
    return Entitlement(
        name=row.entitlement,
        agent=row.agent_id,
        agent_name=row.agent.name,
        user=row.user_id,
        user_name=row.user.username if row.user else "",
    )
