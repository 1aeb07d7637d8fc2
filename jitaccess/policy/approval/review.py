"""A policy held against the people there are: unknown names are refused, what could get stuck is warned about."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from jitaccess.kernel.errors import Invalid
from jitaccess.policy.approval.document import GroupSpec, Kind, PolicyDocument, PolicyRule, Selector, is_constant


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who there is, by name. Members are active people; those of a schedule are all who may come on call."""

    users: Collection[str] = frozenset()
    inactive: Collection[str] = frozenset()
    teams: Mapping[str, Collection[str]] = field(default_factory=dict)
    schedules: Mapping[str, Collection[str]] = field(default_factory=dict)
    servers_without_owners: Collection[str] = ()
    roles_without_owners: Collection[str] = ()
    owners_without_manager: Collection[str] = ()


def warnings(document: PolicyDocument, world: World) -> list[str]:
    """What to think about before relying on `document`, each with what to change.

    Raises Invalid("policy.unknown", params line) for a user, team or schedule that does not exist.
    """
    found: list[str] = []
    for rule in document.rules:
        for group in rule.groups():
            for selector in group.people:
                _ensure_known(selector, world)
            found += _of_group(rule, group, world)
        found += _of_rule(rule)
    if not is_constant(document.rules[-1].when):
        found.append("Requests that match no rule are refused; a last rule without `when` would take them.")
    return found


def _ensure_known(selector: Selector, world: World) -> None:
    known: Mapping[Kind, Collection[str]] = {
        Kind.USER: {*world.users, *world.inactive},
        Kind.TEAM: world.teams,
        Kind.SCHEDULE: world.schedules,
    }
    if selector.name and selector.name not in known[selector.kind]:
        raise Invalid(
            "policy.unknown",
            f"line {selector.line}: there is no {selector.kind} named {selector.name}.",
            line=selector.line,
            kind=str(selector.kind),
            name=selector.name,
        )


def _of_rule(rule: PolicyRule) -> Iterator[str]:
    if rule.auto_approve and is_constant(rule.when):
        yield f"Rule {rule.name} approves every request that comes to it without asking anybody; give it a `when`."


def _of_group(rule: PolicyRule, group: GroupSpec, world: World) -> Iterator[str]:
    where = f"Rule {rule.name}, group {group.name}"
    for selector in group.people:
        if selector.name in world.inactive and selector.kind is Kind.USER:
            yield f"{where}: {selector.name} is not active and cannot approve; name somebody else."
        elif not selector.name:
            yield from _without(where, selector.kind, world)
    if any(not selector.name for selector in group.people):
        return  # who that is depends on the request
    people = frozenset[str]().union(*(_people(selector, world) for selector in group.people))
    count, quorum = len(people), group.quorum
    if count < quorum:
        yield (
            f"{where}: {quorum} {_must(quorum)}, but only {count} active {_are(count)} in this group; add people"
            + (f", or lower the quorum to {count}." if count else ", or nobody can ever approve.")
        )
    elif count == quorum and (rule.fallback is None or group is rule.fallback):
        yield (
            f"{where}: all {count} of its people must approve, so none of them could ask for themselves (or for an "
            "agent of theirs), and nobody could be away; add people" + ("." if rule.fallback else " or a `fallback`.")
        )


def _without(where: str, kind: Kind, world: World) -> Iterator[str]:
    lacking, cure = {
        Kind.SERVER_OWNERS: (world.servers_without_owners, "these servers have no owner team"),
        Kind.ROLE_OWNERS: (world.roles_without_owners, "these roles have no owner team"),
        Kind.MANAGER: (world.owners_without_manager, "these owners of agents have no manager"),
    }[kind]
    names = sorted(lacking)
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"{where}: {kind} means nobody for some requests, for {cure}: {', '.join(names[:5])}{more}."


def _people(selector: Selector, world: World) -> frozenset[str]:
    if selector.kind is Kind.TEAM:
        return frozenset(world.teams[selector.name])
    if selector.kind is Kind.SCHEDULE:
        # One of them at a time.
        return frozenset({str(selector)}) if world.schedules[selector.name] else frozenset()
    return frozenset({selector.name} & set(world.users))


def _must(count: int) -> str:
    return "person must approve" if count == 1 else "people must approve"


def _are(count: int) -> str:
    return "person is" if count == 1 else "people are"
