"""Locks: an emergency stop on an agent, a user, a server, a role, a grant, or everything.

Who may: superusers, and staff with the permission (`jit_policy.add_lock`, `jit_policy.change_lock` to lift), any of
them; the owner of an agent his own agent and its grants, and of those locks he may lift what he made himself. An agent
never: what stops it is not for it to hold. The engine reads locks with everything else that it decides by, so one binds
at the next call; when its time is up it has ended, whether or not anybody writes that down.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Manager, Q, QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog.models import Server
from jitaccess.identity.models import Agent, User
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import fits, is_blank, visible
from jitaccess.policy.models import GRANTED, Lock, Role, RoleBinding
from jitaccess.store.clock import JitNow, now

MAX_REASON = 500
# What has a name: where it is, and in which field.
_NAMED: dict[str, tuple[Manager[Any], str]] = {
    Lock.Kind.AGENT: (Agent.objects, "name"),
    Lock.Kind.USER: (User.objects, "username"),
    Lock.Kind.SERVER: (Server.objects, "slug"),
    Lock.Kind.ROLE: (Role.objects, "name"),
}


def live_locks() -> QuerySet[Lock]:
    """Those in force now, by the database's clock."""
    return Lock.objects.filter(Q(expires_at=None) | Q(expires_at__gt=JitNow()), lifted_at=None)


def lock_on(*targets: UUID | None) -> Lock | None:
    """The first live lock on everything, or on any of `targets`."""
    ids = [target for target in targets if target]
    return live_locks().filter(Q(kind=Lock.Kind.EVERYTHING) | Q(target__in=ids)).order_by("created_at").first()


def lock(
    *, kind: str, reason: str, operator: Actor, target: UUID | None = None, expires_at: datetime | None = None
) -> Lock:
    """Stop `target` (None: everything) now, until `expires_at` or until somebody lifts it.

    Raises Invalid, NotFound, Forbidden, and Conflict("lock.exists") naming the first of two equal ones. One that
    its owner could lift again is no equal of anybody else's.
    """
    name, owner = _subject(kind, target)
    _ensure(operator, "add", owner)
    if target is not None and not name:
        raise NotFound("lock.target", f"There is no such {kind}.")
    if is_blank(reason):
        raise Invalid("lock.reason", "Say why: whoever is stopped, and whoever lifts it, will read the reason.")
    if not fits(reason.strip(), limit=MAX_REASON):
        raise Invalid("lock.reason", f"The reason is too long; at most {MAX_REASON} characters are kept.")
    with transaction.atomic():
        _take_turn(f"lock:{kind}:{target}")
        moment = now()
        if expires_at is not None and expires_at <= moment:
            raise Invalid("lock.expiry", "This moment is past; leave the end out to lock until somebody lifts it.")
        equal = live_locks().filter(kind=kind, target=target).order_by("created_at")
        # One that its owner could lift again holds up nobody else's.
        first = next((one for one in equal if _owner_who_made(one) in {None, operator.user}), None)
        if first is not None:
            raise Conflict(
                "lock.exists",
                f"{_called(first)} was locked by {first.created_by_name} at {first.created_at:%H:%M} UTC already.",
                lock_id=str(first.pk),
            )
        made = Lock.objects.create(
            kind=kind,
            target=target,
            target_name=name,
            reason=visible(reason.strip(), limit=MAX_REASON, multiline=True),
            created_at=moment,
            created_by_name=visible(operator.user_name, limit=150),
            expires_at=expires_at,
        )
        data = _told(made) | {"reason": made.reason, "expires_at": expires_at.isoformat() if expires_at else None}
        record(Facts(event=Event.LOCK_CREATED, actor=operator, at=moment, grant=_grant(made), data=data))
    return made


def unlock(*, lock: Lock, operator: Actor) -> Lock:
    """Lift a lock. Raises Forbidden, and Conflict when it was lifted before or its time is up."""
    _ensure(operator, "change", _owner_who_made(lock))
    with transaction.atomic():
        lifted = live_locks().filter(pk=lock.pk)
        if lifted.update(lifted_at=JitNow(), lifted_by_name=visible(operator.user_name, limit=150)) != 1:
            raise Conflict("lock.over", f"This lock {_how_it_ended(Lock.objects.get(pk=lock.pk))}.")
        record(Facts(event=Event.LOCK_LIFTED, actor=operator, grant=_grant(lock), data=_told(lock)))
    return Lock.objects.get(pk=lock.pk)


def locks_seen_by(user: User) -> QuerySet[Lock]:
    """All for staff whom the admin would show them; an owner sees those on his agents and their grants."""
    rows = Lock.objects.all()
    if user.is_active and user.is_staff and (_may(user, "view") or _may(user, "change") or _may(user, "add")):
        return rows
    agents = Agent.objects.filter(owner=user).values("pk")
    grants = RoleBinding.objects.filter(origin__in=GRANTED, agent__owner=user).values("origin_id")
    return rows.filter(Q(kind=Lock.Kind.AGENT, target__in=agents) | Q(kind=Lock.Kind.GRANT, target__in=grants))


def find_target(kind: str, text: str) -> UUID | None:
    """The target that `text` means: the name of an agent, user, server or role, or an id; "" for everything.

    Raises Invalid for a kind that is none, NotFound.
    """
    text = text.strip()
    if kind not in Lock.Kind.values:
        raise Invalid("lock.kind", f"Lock one of: {', '.join(Lock.Kind.values)}.")
    if kind == Lock.Kind.EVERYTHING:
        if text:
            raise Invalid("lock.target", "A lock on everything has no target.")
        return None
    try:
        return UUID(text)
    except ValueError:
        pass
    rows, field = _NAMED.get(kind, (None, ""))
    found = rows.filter(**{field: text}).values_list("pk", flat=True).first() if rows else None
    if found is None:
        raise NotFound("lock.target", f"There is no {kind} {visible(text, limit=80)!r}.")
    return UUID(str(found))


def _subject(kind: str, target: UUID | None) -> tuple[str, UUID | None]:
    """What a target is called ("" when there is none), and the owner of the agent that it is or belongs to, if any."""
    if kind not in Lock.Kind.values:
        raise Invalid("lock.kind", f"Lock one of: {', '.join(Lock.Kind.values)}.")
    if (target is None) is not (kind == Lock.Kind.EVERYTHING):
        raise Invalid("lock.target", "A lock has one target, and a lock on everything none.")
    owner = None
    if kind == Lock.Kind.GRANT:
        rights = RoleBinding.objects.filter(origin__in=GRANTED, origin_id=target).select_related("agent", "user")
        binding = rights.first()
        name = binding.subject if binding else ""
        owner = binding.agent.owner_id if binding and binding.agent else None
    elif target is None:
        name = ""
    else:
        rows, field = _NAMED[kind]
        name = str(rows.filter(pk=target).values_list(field, flat=True).first() or "")
    if kind == Lock.Kind.AGENT and target:
        owner = Agent.objects.filter(pk=target).values_list("owner_id", flat=True).first()
    return visible(name, limit=80), owner


def _ensure(operator: Actor, permission: str, owner: UUID | None) -> None:
    """Without an agent and a person it is the operator at the machine, or a part of jitaccess itself."""
    if operator.agent is not None:
        raise Forbidden("agents_never_decide", "Agents neither lock nor unlock.")
    if operator.user is None:
        return
    user = User.objects.filter(pk=operator.user, is_active=True).first()
    if user is None or not (user.pk == owner or (user.is_staff and _may(user, permission))):
        raise Forbidden("lock.not_yours", f"This needs the permission jit_policy.{permission}_lock.")


def _may(user: User, permission: str) -> bool:
    return user.has_perm(f"jit_policy.{permission}_lock")


def _owner_who_made(lock: Lock) -> UUID | None:
    """The owner of the agent, if he made this lock himself. By the ledger, which keeps ids: names can change hands."""
    if lock.kind not in {Lock.Kind.AGENT, Lock.Kind.GRANT}:
        return None
    owner = _subject(lock.kind, lock.target)[1]
    made = Entry.objects.filter(event=Event.LOCK_CREATED, user=owner, at=lock.created_at, data__contains=str(lock.pk))
    return owner if owner and made.exists() else None


def _take_turn(key: str) -> None:
    """Two equal locks at once wait for each other, and for nobody else: an emergency stop must not queue behind a
    process that is frozen with the target's row in its hands.
    """
    if connection.vendor == "postgresql":  # SQLite has one writer at a time anyway
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])


def _grant(lock: Lock) -> UUID | None:
    return lock.target if lock.kind == Lock.Kind.GRANT else None


def _told(lock: Lock) -> JsonObject:
    target = str(lock.target) if lock.target else None
    return {"lock": str(lock.pk), "kind": str(lock.kind), "target": target, "name": lock.target_name}


def _called(lock: Lock) -> str:
    return f"{lock.kind} {lock.target_name}".strip().capitalize()


def _how_it_ended(lock: Lock) -> str:
    if lock.lifted_at:
        return f"was lifted by {lock.lifted_by_name} at {lock.lifted_at:%H:%M} UTC"
    return f"ended at {lock.expires_at:%H:%M} UTC" if lock.expires_at else "is live"
