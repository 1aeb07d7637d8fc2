"""What another approval policy would have made of requests that were filed: read, compared, and nothing written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from jitaccess.identity.models import User
from jitaccess.kernel import strictjson
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Invalid
from jitaccess.policy.approval.choose import Tried, context_of, ensure_well_said, explain
from jitaccess.policy.approval.document import PolicyDocument, PolicyRule
from jitaccess.policy.approval.plan import Group, Plan, plan_of, read_plan
from jitaccess.policy.people import members_of, resolver
from requests_app.approval import People, lacking
from requests_app.selectors import AccessRequest, all_requests
from requests_app.standing import self_of


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that would be another: `what` is outcome, rule, people, escalations, fallback, denials, channels …"""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what}: {self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class Replay:
    """One request under the rule it was filed by and under the one that would decide now. `tried`: what rules said."""

    request: AccessRequest
    tried: tuple[Tried, ...]
    before: Mapping[str, str]
    after: Mapping[str, str]

    @property
    def differences(self) -> list[Difference]:
        return [
            Difference(what, self.before.get(what, ""), self.after.get(what, ""))
            for what in dict.fromkeys((*self.before, *self.after))
            if self.before.get(what, "") != self.after.get(what, "")
        ]


@dataclass(frozen=True, slots=True)
class Simulation:
    """`unknown`: how many requests do not hold what a policy would look at, and were left out."""

    replays: list[Replay]
    unknown: int

    @property
    def changed(self) -> list[Replay]:
        return [replay for replay in self.replays if replay.differences]


@dataclass(frozen=True, slots=True)
class _Try:
    request: AccessRequest
    old: Plan
    new: Plan | None
    rule: PolicyRule | None
    tried: tuple[Tried, ...]
    refusal: str


def simulate(document: PolicyDocument, requests: Iterable[AccessRequest]) -> Simulation:
    """Ask `document` about `requests` as they were when filed. People are those who are there now, for both sides."""
    tries: list[_Try] = []
    unknown = 0
    for request in requests:
        pinned: Any = strictjson.decode(request.plan.encode())
        facts = pinned.get("facts")
        if not facts:
            unknown += 1
            continue
        tries.append(_try(document, request, read_plan(pinned), facts))
    plans = [plan for one in tries for plan in (one.old, one.new) if plan]
    members = members_of({ref for plan in plans for ref in plan.refs()})
    everybody = {person for people in members.values() for person in people}
    names = dict(User.objects.filter(pk__in=everybody).values_list("pk", "username"))
    return Simulation([_replay(one, members, names) for one in tries], unknown)


def of_latest(document: PolicyDocument, *, last: int = 100) -> Simulation:
    """The latest requests that were filed under the policy of this name."""
    rows = all_requests().filter(policy_name=document.name).order_by("-created_at", "-pk")
    return simulate(document, rows[:last])


def _try(document: PolicyDocument, request: AccessRequest, old: Plan, facts: Mapping[str, Any]) -> _Try:
    tried = tuple(explain(document, context_of(facts)))
    if not tried or not tried[-1].matched:
        return _Try(request, old, None, None, tried, "no rule takes it")
    rule = document.rules[len(tried) - 1]
    asked = facts["request"]
    try:
        ensure_well_said(rule, reason=asked["reason"], ticket=asked["ticket"])
    except Invalid as error:
        return _Try(request, old, None, rule, tried, error.detail)
    items = request.parsed_items
    resolve = resolver(
        rule,
        servers={UUID(item["server_id"]) for item in items if "server_id" in item},
        roles={UUID(item["role_id"]) for item in items if "role_id" in item},
        owner=request.owner_id,
    )
    return _Try(request, old, read_plan(plan_of(document, rule, resolve)), rule, tried, "")


def _replay(one: _Try, members: Mapping[str, frozenset[UUID]], names: Mapping[UUID, str]) -> Replay:
    people = People(members, frozenset(self_of(one.request)))
    seconds = one.request.seconds
    before = {"outcome": _outcome(one.old, people), "rule": one.old.rule, **_shape(one.old, people, names)}
    if one.new is None or one.rule is None:
        after = {"outcome": f"refused: {one.refusal}", "rule": one.rule.name if one.rule else "none"}
    else:
        after = {"outcome": _outcome(one.new, people), "rule": one.new.rule, **_shape(one.new, people, names)}
        if one.rule.max_seconds is not None and one.rule.max_seconds < seconds:
            before["duration"] = format_duration(seconds)
            after["duration"] = f"at most {format_duration(one.rule.max_seconds)}"
    return Replay(one.request, one.tried, before, after)


def _outcome(plan: Plan, people: People) -> str:
    if plan.auto_approve:
        return "approved without asking anybody"
    short = lacking(plan, people)
    return f"refused: nobody could approve, {short.name} has too few people" if short else "people decide"


def _shape(plan: Plan, people: People, names: Mapping[UUID, str]) -> dict[str, str]:
    """Everything about a plan that people would notice; what is usual is left out."""
    if plan.auto_approve:
        return {}
    later = [f"{_groups(one.groups, people, names)} after {format_duration(one.after)}" for one in plan.escalations]
    shape = {
        "people": ", then ".join(_groups(stage, people, names) for stage in plan.stages),
        "escalations": "; ".join(later),
        "fallback": _groups([plan.fallback], people, names) if plan.fallback else "",
        "denials": str(plan.deny_threshold),
        "channels": ", ".join(sorted(plan.channels)),
        "step-up": "yes" if plan.step_up else "no",
        "reminders": ", ".join(map(format_duration, plan.reminders)),
        "cool-down": format_duration(plan.cool_down) if plan.cool_down else "",
    }
    return {what: said or "none" for what, said in shape.items()}


def _groups(groups: Sequence[Group], people: People, names: Mapping[UUID, str]) -> str:
    return " and ".join(f"{group.quorum} of {group.name} ({_who(group, people, names)})" for group in groups)


def _who(group: Group, people: People, names: Mapping[UUID, str]) -> str:
    known = sorted(names[person] for person in people.of(group))
    return ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "") or "nobody"
