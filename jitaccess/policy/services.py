"""Changes to policy: roles and bindings. The triggers of this app raise the policy version by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from django.db import OperationalError, connection, transaction
from django.db.models import Case, Exists, F, OuterRef, When

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import Agent, Team, User
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.kernel.strictjson import JsonView
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.models import GRANTED, BindingUse, Role, RoleBinding, RoleVersion
from jitaccess.store.clock import JitNow, now

# PostgreSQL's form. Longer than a batch takes, shorter than a caller minds.
USES_WAIT = "300ms"
_LOCK_NOT_AVAILABLE = "55P03"


def save_role(*, document: str, operator: Actor, role: Role | None = None) -> Role:
    """Make a role, or a new version of `role`, from its YAML document. Saving the same text again changes nothing.

    Raises Invalid("role.invalid") with line and path, Conflict when the name belongs to another role.
    """
    parsed = parse_role(document)
    with transaction.atomic():
        if role is None:
            role, made = Role.objects.get_or_create(name=parsed.name, defaults={"document": ""})
            if not made:
                raise Conflict("role.exists", f"There is a role {parsed.name!r} already; open that one to change it.")
        else:
            role = Role.objects.select_for_update().get(pk=role.pk)
        if role.name != parsed.name:
            raise Conflict(
                "role.renamed", f"metadata.name is {parsed.name!r}, but this role is {role.name!r}; names are for life."
            )
        if role.head and role.document == document:
            return role
        role.head, role.document = role.head + 1, document
        RoleVersion.objects.create(
            role=role, version=role.head, document=document, saved_by=operator.user_name, saved_at=now()
        )
        role.save()
        record(Facts(event=Event.ROLE_SAVED, actor=operator, data={"role": role.name, "version": role.head}))
    return role


def bind_role(
    *,
    role: Role,
    operator: Actor,
    origin: RoleBinding.Origin = RoleBinding.Origin.STANDING,
    agent: Agent | None = None,
    user: User | None = None,
    team: Team | None = None,
    everyone: str = "",
    expires_at: datetime | None = None,
) -> RoleBinding:
    """A default or standing binding: exactly one of agent, user, team, everyone ("agents" or "users")."""
    if sum(map(bool, (agent, user, team, everyone))) != 1:
        raise Invalid(
            "binding.subject", "A binding belongs to one agent, one user, one team, or to every agent or user."
        )
    if origin in GRANTED:
        raise Invalid("binding.origin", "Granted bindings come from approved requests only.")
    with transaction.atomic():
        binding = RoleBinding.objects.create(
            role=role,
            agent=agent,
            user=user,
            team=team,
            everyone=everyone,
            origin=origin,
            starts_at=now(),
            expires_at=expires_at,
        )
        _record_created(binding, operator)
    return binding


def bind_grant(
    *,
    grant: UUID,
    agent: UUID,
    user: UUID | None,
    starts_at: datetime,
    expires_at: datetime,
    tools: Mapping[UUID, str] | None = None,
    arguments: Mapping[str, JsonView] | None = None,
    role: UUID | None = None,
    role_version: int | None = None,
    privileges: Mapping[str, JsonView] | None = None,
    max_uses: int | None = None,
) -> RoleBinding:
    """The binding of one item of an approved request: tools with their pins (and which arguments they take), a role at
    a version, or privileges on a database.

    At most `max_uses` calls; None: any number. Called by the workflow inside its transaction; its `grant.activated`
    entry is the record.
    """
    binding = RoleBinding.objects.create(
        agent_id=agent,
        user_id=user,
        role_id=role,
        role_version=role_version,
        tools=canonical({str(tool): pin for tool, pin in (tools or {}).items()}).decode(),
        arguments=canonical(dict(arguments)).decode() if arguments else "",
        privileges=canonical(dict(privileges)).decode() if privileges else "",
        origin=RoleBinding.Origin.GRANT,
        origin_id=grant,
        starts_at=starts_at,
        expires_at=expires_at,
        max_uses=max_uses,
    )
    if max_uses is not None:
        BindingUse.objects.create(binding=binding, left=max_uses)
    return binding


def extend_grant_bindings(*, grant: UUID, expires_at: datetime) -> list[UUID]:
    """Move the end of a grant's bindings, inside the transaction that extends it; returns their ids."""
    rows = RoleBinding.objects.filter(origin_id=grant, ended_at=None)
    rows.update(expires_at=expires_at)
    return list(rows.order_by("pk").values_list("pk", flat=True))


def lock_uses(bindings: Iterable[UUID]) -> dict[UUID, int] | None:
    """How many uses of each binding are left, held for this transaction. None when another transaction does not let go
    of one: a process that was frozen in its batch must not hold up the calls of all others.

    All at once and in one order, so that two batches never wait for each other in a circle.
    """
    rows = BindingUse.objects.select_for_update().filter(pk__in=bindings).order_by("pk").values_list("pk", "left")
    if connection.vendor != "postgresql":
        return dict(rows)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{USES_WAIT}'")
            held = dict(rows)
            cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", "") != _LOCK_NOT_AVAILABLE:
            raise
        return None
    return held


def take_uses(used: Mapping[UUID, int]) -> None:
    """Count down what `lock_uses` said was there."""
    for binding, count in used.items():
        BindingUse.objects.filter(pk=binding).update(left=F("left") - count, used_at=_used_until(JitNow()))


def return_uses(unused: Mapping[UUID, int], *, open_until: Mapping[UUID, datetime] | None = None) -> None:
    """Give back uses of calls of which nothing reached the server. Inside the transaction that records it.

    Of `open_until` a use is not over before then: a call goes on once its client has answered. Until then no grant is
    ended because all its uses are taken.
    """
    later = open_until or {}
    rows = BindingUse.objects.select_for_update().filter(pk__in={*unused, *later}).order_by("pk")
    for binding in list(rows.values_list("pk", flat=True)):
        left = F("left") + unused.get(binding, 0)
        moment = {"used_at": _used_until(later[binding])} if binding in later else {}
        BindingUse.objects.filter(pk=binding).update(left=left, **moment)


def _used_until(moment: datetime | JitNow) -> Case:
    return Case(When(used_at__gt=moment, then=F("used_at")), default=moment)


def is_used_up(*, grant: UUID) -> bool:
    """Whether no use is left or goes on, held for this transaction."""
    rows = BindingUse.objects.select_for_update(of=("self",)).filter(binding__origin_id=grant).order_by("pk")
    held = list(rows.values_list("left", "used_at"))
    moment = now()
    # What is good for any number of calls is never used up, whatever else the grant holds.
    free = RoleBinding.objects.filter(origin_id=grant, ended_at=None, max_uses=None)
    goes_on = any(left or (used_at is not None and used_at > moment) for left, used_at in held)
    return bool(held) and not goes_on and not free.exists()


def uses_left(grant: UUID) -> int | None:
    """How many calls a grant is still good for; None: any number."""
    return uses_left_of([grant]).get(grant)


def uses_left_of(grants: Iterable[UUID]) -> dict[UUID, int]:
    """How many calls these grants are still good for; those good for any number are left out."""
    rows = BindingUse.objects.filter(binding__origin_id__in=list(grants))
    found: Counter[UUID] = Counter()
    for grant, left in rows.values_list("binding__origin_id", "left"):
        if grant:
            found[grant] += left
    return dict(found)


def used_up_grants(*, settled: timedelta, limit: int) -> list[UUID]:
    """Grants with a binding of which no use is left, and none was taken for a while: none will be given back."""
    rows = BindingUse.objects.filter(
        # The moment as a value: an index on it is of use then, and whoever ends a grant looks again.
        left=0,
        used_at__lt=JitNow() - settled,
        binding__ended_at=None,
        binding__expires_at__gt=now(),
    )
    # Of several bindings each has its own uses: what is used up in part would be found again and again, before others.
    more = BindingUse.objects.filter(binding__origin_id=OuterRef("binding__origin_id"), left__gt=0)
    found = rows.filter(~Exists(more)).order_by("used_at").values_list("binding__origin_id", flat=True)[:limit]
    return [grant for grant in found if grant]


def end_grant_bindings(*grants: UUID) -> int:
    """End the bindings of these grants now, early; natural expiry needs no write. Returns how many were live."""
    return RoleBinding.objects.filter(
        origin__in=GRANTED, origin_id__in=grants, ended_at=None, expires_at__gt=JitNow()
    ).update(ended_at=JitNow())


def end_binding(*, binding: RoleBinding, operator: Actor) -> None:
    """End a default or standing binding now."""
    if binding.origin in GRANTED:
        raise Invalid("binding.origin", "Revoke the grant instead; its binding ends with it.")
    with transaction.atomic():
        if RoleBinding.objects.filter(pk=binding.pk, ended_at=None).update(ended_at=JitNow()) != 1:
            raise Conflict("binding.ended", "This binding has ended already.")
        record(
            Facts(event=Event.BINDING_ENDED, actor=operator, bindings=[binding.pk], data={"subject": binding.subject})
        )


def _record_created(binding: RoleBinding, operator: Actor) -> None:
    role = binding.role
    data = {"subject": binding.subject, "origin": binding.origin, "role": str(role) if role else None}
    record(Facts(event=Event.BINDING_CREATED, actor=operator, bindings=[binding.pk], data=data))
