"""Approval policies as rows: saving a document as a version, reading the one in force, warning about it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog.models import Server
from jitaccess.identity.models import Agent, Team, User
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.approval.document import Kind, PolicyDocument, parse_policy
from jitaccess.policy.approval.review import World, warnings
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.lockouts import cannot_decide, short_groups
from jitaccess.policy.models import ApprovalPolicy, ApprovalPolicyVersion, OnCallSchedule, Requestable, Role
from jitaccess.policy.people import owner_team_of
from jitaccess.store.clock import now


def save_policy(*, document: str, operator: Actor, policy: ApprovalPolicy | None = None) -> ApprovalPolicy:
    """Make an approval policy, or a new version of `policy`, from YAML. Saving the same text again changes nothing.

    Requests that are pending keep the rule they were filed under. Raises Invalid("policy.invalid" with line and path,
    "policy.unknown" for people that do not exist), Conflict when the name belongs to another policy.
    """
    parsed = parse_policy(document)
    warnings(parsed, world_of(parsed))
    with transaction.atomic():
        if policy is None:
            policy, made = ApprovalPolicy.objects.get_or_create(name=parsed.name)
            if not made:
                detail = f"There is an approval policy {parsed.name!r} already; open that one to change it."
                raise Conflict("policy.exists", detail)
        else:
            policy = ApprovalPolicy.objects.select_for_update().get(pk=policy.pk)
        if policy.name != parsed.name:
            detail = f"metadata.name is {parsed.name!r}, but this policy is {policy.name!r}; names are for life."
            raise Conflict("policy.renamed", detail)
        if policy.head and policy.document == document:
            return policy
        policy.head, policy.document = policy.head + 1, document
        ApprovalPolicyVersion.objects.create(
            policy=policy, version=policy.head, document=document, saved_by=operator.user_name, saved_at=now()
        )
        policy.save(update_fields=["head", "document"])
        data: JsonObject = {"policy": policy.name, "version": policy.head}
        record(Facts(event=Event.POLICY_SAVED, actor=operator, data=data))
    return policy


def document_of(policy: ApprovalPolicy) -> PolicyDocument:
    """The version in force. Raises Invalid("policy.invalid") for a row that was never saved as a document."""
    return parse_policy(policy.document, version=policy.head)


def policy_warnings(document: PolicyDocument) -> list[str]:
    """What could get stuck with the people there are now. Raises Invalid("policy.unknown")."""
    return warnings(document, world_of(document))


def dead_ends(document: PolicyDocument, policy: ApprovalPolicy) -> tuple[str, ...]:
    """Why what is asked for under this policy could never be decided with this document. What was so before is no
    reason to refuse it.
    """
    if not _is_used(policy):
        return ()
    try:
        before = document_of(policy)
        known = {(rule, group.name) for rule, group, _ in short_groups(before, world_of(before))}
    except Invalid:
        known = set()
    found = short_groups(document, world_of(document))
    return tuple(
        cannot_decide(policy.name, rule, group, count)
        for rule, group, count in found
        if (rule, group.name) not in known
    )


def _is_used(policy: ApprovalPolicy) -> bool:
    if Requestable.objects.filter(policy=policy).exists():
        return True
    for text in Role.objects.filter(document__contains=policy.name).values_list("document", flat=True):
        try:
            asked = parse_role(text).facts.request
        except Invalid:
            continue
        if asked and asked.approval == policy.name:
            return True
    return False


def world_of(document: PolicyDocument) -> World:
    """Those whom `document` names, as they are now; owners and managers only where it asks for them."""
    selectors = {one for rule in document.rules for group in rule.groups() for one in group.people}
    names = {kind: {one.name for one in selectors if one.kind is kind} for kind in Kind}
    users = dict(User.objects.filter(username__in=names[Kind.USER]).values_list("username", "is_active"))
    teams: dict[str, set[str]] = {
        name: set() for name in Team.objects.filter(name__in=names[Kind.TEAM]).values_list("name", flat=True)
    }
    members = Team.objects.filter(name__in=teams, members__is_active=True)
    for team, person in members.values_list("name", "members__username"):
        teams[team].add(person)
    return World(
        users={name for name, active in users.items() if active},
        inactive={name for name, active in users.items() if not active},
        teams=teams,
        schedules=_schedules(names[Kind.SCHEDULE]),
        servers_without_owners=_ownerless_servers() if names[Kind.SERVER_OWNERS] else (),
        roles_without_owners=_ownerless_roles() if names[Kind.ROLE_OWNERS] else (),
        owners_without_manager=_unmanaged_owners() if names[Kind.MANAGER] else (),
    )


def _schedules(names: Iterable[str]) -> dict[str, set[str]]:
    """Whom each may call: of a rota its active people; whom a URL will name is not known, but it is somebody."""
    rows = list(OnCallSchedule.objects.filter(name__in=names))
    turns = {row.name: set(json.loads(row.rota)) for row in rows}
    everybody = set().union(*turns.values())
    active = set(User.objects.filter(username__in=everybody, is_active=True).values_list("username", flat=True))
    return {row.name: {row.url} if row.url else turns[row.name] & active for row in rows}


def _ownerless_servers() -> list[str]:
    rows = Server.objects.filter(enabled=True).exclude(owner_team__members__is_active=True)
    return list(rows.order_by("slug").values_list("slug", flat=True))


def _ownerless_roles() -> list[str]:
    owners = {name: owner_team_of(document) for name, document in Role.objects.values_list("name", "document")}
    teams = Team.objects.filter(name__in=set(owners.values()), members__is_active=True).values_list("name", flat=True)
    known = set(teams)
    return sorted(name for name, team in owners.items() if team not in known)


def _unmanaged_owners() -> list[str]:
    rows = Agent.objects.filter(enabled=True).exclude(owner__manager__is_active=True)
    return list(rows.order_by("owner__username").values_list("owner__username", flat=True).distinct())
