"""What is pinned when a request is filed: who is asked, in which order, by ids; later policies do not change it.

{"policy": name, "version": n, "rule": name, "auto_approve": bool,
 "stages": [{"groups": [group]}], "escalations": [{"after": seconds, "groups": [group]}], "fallback": group | null,
 "deny_threshold": n, "channels": [name], "step_up": bool, "reminders": [seconds], "cool_down": seconds,
 "ticket": {"required": bool, "pattern": text | null}, "facts": what the conditions saw}
group = {"id": "0/reviewers" | "e0/managers" | "fallback", "name", "quorum", "people": ["user:<uuid>", …]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.approval.choose import RequestFacts
from jitaccess.policy.approval.document import GroupSpec, PolicyDocument, PolicyRule, Selector

# A selector to the refs it means in one request; several when the request is about several servers or roles, none
# when what it names is gone.
Resolve = Callable[[Selector], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Group:
    """`people` are refs "kind:<uuid>": user, team, server (owners), role (owners), manager (of that user), schedule."""

    id: str
    name: str
    quorum: int
    people: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LaterGroups:
    """Asked as well once the request was pending for `after` seconds."""

    after: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    policy: str
    version: int
    rule: str
    auto_approve: bool
    stages: tuple[tuple[Group, ...], ...]
    escalations: tuple[LaterGroups, ...]
    fallback: Group | None
    deny_threshold: int
    channels: frozenset[str]
    step_up: bool
    reminders: tuple[int, ...]
    cool_down: int

    def groups(self) -> Iterator[Group]:
        """Every group that could be asked."""
        for stage in self.stages:
            yield from stage
        for later in self.escalations:
            yield from later.groups
        if self.fallback:
            yield self.fallback

    def refs(self) -> frozenset[str]:
        """Everybody named anywhere in it."""
        return frozenset(ref for group in self.groups() for ref in group.people)

    def escalated(self, waited: float) -> tuple[Group, ...]:
        """The groups of the escalations that are due after `waited` seconds."""
        return tuple(group for later in self.escalations if later.after <= waited for group in later.groups)


def plan_of(
    document: PolicyDocument, rule: PolicyRule, resolve: Resolve, facts: RequestFacts | None = None
) -> JsonObject:
    """What `rule` means for the request with these facts, which are kept for trying other policies on it."""
    pattern = rule.ticket.pattern
    return {
        "policy": document.name,
        "version": document.version,
        "rule": rule.name,
        "auto_approve": rule.auto_approve,
        "stages": [
            {"groups": _groups(f"{number}/", stage.groups, resolve)} for number, stage in enumerate(rule.stages)
        ],
        "escalations": [
            {"after": one.after, "groups": _groups(f"e{number}/", one.groups, resolve)}
            for number, one in enumerate(rule.escalations)
        ],
        "fallback": _fallback(rule.fallback, resolve) if rule.fallback else None,
        "deny_threshold": rule.deny_threshold,
        "channels": list(rule.channels),
        "step_up": rule.step_up,
        "reminders": list(rule.reminders),
        "cool_down": rule.cool_down_seconds,
        "ticket": {"required": rule.ticket.required, "pattern": pattern.source if pattern else None},
        "facts": facts.pinned() if facts else None,
    }


def read_plan(pinned: Mapping[str, Any]) -> Plan:
    """A pinned plan. Raises Invalid("plan.invalid") for anything by which a request could be approved by nobody."""
    try:
        fallback = pinned["fallback"]
        plan = Plan(
            policy=str(pinned["policy"]),
            version=int(pinned["version"]),
            rule=str(pinned["rule"]),
            auto_approve=pinned["auto_approve"] is True,
            stages=tuple(_read_groups(stage["groups"]) for stage in pinned["stages"]),
            escalations=tuple(
                LaterGroups(int(one["after"]), _read_groups(one["groups"])) for one in pinned["escalations"]
            ),
            fallback=_read_group(fallback) if fallback is not None else None,
            deny_threshold=int(pinned["deny_threshold"]),
            channels=frozenset(pinned["channels"]),
            step_up=pinned["step_up"] is not False,
            reminders=tuple(pinned["reminders"]),
            cool_down=int(pinned["cool_down"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid("plan.invalid", f"The pinned approval plan cannot be read ({error!r}).") from error
    asks = all(plan.stages) and all(group.quorum >= 1 for group in plan.groups()) and plan.deny_threshold >= 1
    if not asks or bool(plan.stages) == plan.auto_approve:
        raise Invalid("plan.invalid", "The pinned approval plan would be met by nobody.")
    return plan


def _groups(prefix: str, groups: Iterable[GroupSpec], resolve: Resolve) -> list[Json]:
    return [group for spec in groups for group in _resolved(f"{prefix}{spec.name}", spec, resolve)]


def _resolved(group_id: str, spec: GroupSpec, resolve: Resolve) -> list[JsonObject]:
    """One group; of a request about several servers (or roles) one for the owners of each, all of which must be met.

    The owners of one server have no say about another one.
    """
    # What is gone leaves the group without those people, never with a smaller quorum.
    choices = list(product(*filter(None, (resolve(selector) for selector in spec.people))))
    if len(choices) == 1:
        return [_pinned(group_id, spec.name, spec.quorum, choices[0])]
    return [
        _pinned(f"{group_id}#{number}", f"{spec.name} ({number} of {len(choices)})", spec.quorum, people)
        for number, people in enumerate(choices, start=1)
    ]


def _fallback(spec: GroupSpec, resolve: Resolve) -> JsonObject:
    """There is one fallback: the people of all servers or roles together."""
    return _pinned("fallback", spec.name, spec.quorum, [ref for selector in spec.people for ref in resolve(selector)])


def _pinned(group_id: str, name: str, quorum: int, people: Iterable[str]) -> JsonObject:
    return {"id": group_id, "name": name, "quorum": quorum, "people": list(dict.fromkeys(people))}


def _read_groups(pinned: Sequence[Mapping[str, Any]]) -> tuple[Group, ...]:
    return tuple(_read_group(group) for group in pinned)


def _read_group(pinned: Mapping[str, Any]) -> Group:
    return Group(
        str(pinned["id"]), str(pinned["name"]), int(pinned["quorum"]), tuple(str(ref) for ref in pinned["people"])
    )
