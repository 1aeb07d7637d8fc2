"""What is pinned into a request: by ids, readable later, and never such that nobody has to approve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.policy.approval.document import Kind, Selector
from jitaccess.policy.approval.plan import plan_of, read_plan
from tests.policy.approval.documents import facts, parse, rule

pytestmark = pytest.mark.pure

STAGES = """\
stages:
  - groups:
      - {name: reviewers, people: [team:demo, user:anna], quorum: 2}
      - {name: owners, people: [server-owners, user:anna]}
  - groups: [{name: on-call, people: [schedule:ops]}]"""
MORE = """\
escalate:
  - {after: 40m, groups: [{name: bosses, people: [manager], quorum: 1}]}
  - {after: 20m, groups: [{name: leads, people: [team:leads]}]}
fallback: {name: admins, people: [team:security, server-owners]}
reminders: [15m]
channels: [web]
step_up: true
cool_down: 15m
ticket: {required: true, pattern: "^A$"}"""


def refs(servers: Sequence[str] = ("s1",), gone: Sequence[str] = ()) -> Any:
    def resolve(selector: Selector) -> tuple[str, ...]:
        if str(selector) in gone:
            return ()
        if selector.kind is Kind.SERVER_OWNERS:
            return tuple(f"server:{one}" for one in servers)
        return (f"{selector.kind}:{selector.name or 'o1'}",)

    return resolve


def pinned(resolve: Any = None, more: str = MORE) -> dict[str, Any]:
    document = parse(rule(more, stages=STAGES), version=4)
    value: dict[str, Any] = json.loads(canonical(plan_of(document, document.rules[0], resolve or refs(), facts())))
    return value


def test_a_plan_survives_being_written_down():
    plan = read_plan(pinned())
    assert (plan.policy, plan.version, plan.rule, plan.auto_approve) == ("two-person", 4, "all", False)
    assert [[group.id for group in stage] for stage in plan.stages] == [["0/reviewers", "0/owners"], ["1/on-call"]]
    assert plan.stages[0][0].people == ("team:demo", "user:anna")
    assert plan.stages[0][0].quorum == 2
    assert [(one.after, one.groups[0].id, one.groups[0].people) for one in plan.escalations] == [
        (1200, "e0/leads", ("team:leads",)),
        (2400, "e1/bosses", ("manager:o1",)),
    ]
    assert plan.fallback
    assert (plan.fallback.id, plan.fallback.people) == ("fallback", ("team:security", "server:s1"))
    assert (plan.deny_threshold, plan.channels, plan.step_up) == (1, {"web"}, True)
    assert (plan.reminders, plan.cool_down) == ((900,), 900)
    assert pinned()["ticket"] == {"required": True, "pattern": "^A$"}


def test_escalations_come_one_after_the_other_and_stay():
    plan = read_plan(pinned())
    asked = [[group.name for group in plan.escalated(waited)] for waited in (1199, 1200, 2399, 2400)]
    assert asked == [[], ["leads"], ["leads"], ["leads", "bosses"]]


def test_the_owners_of_each_server_must_agree():
    first, *others = read_plan(pinned(refs(servers=("s1", "s2")))).stages[0]
    assert first.id == "0/reviewers"
    assert [(group.id, group.people) for group in others] == [
        ("0/owners#1", ("server:s1", "user:anna")),
        ("0/owners#2", ("server:s2", "user:anna")),
    ]
    assert [group.quorum for group in others] == [1, 1]


def test_there_is_one_fallback_however_many_servers():
    fallback = read_plan(pinned(refs(servers=("s1", "s2")))).fallback
    assert fallback
    assert fallback.people == ("team:security", "server:s1", "server:s2")


def test_a_deleted_team_leaves_its_group_with_the_same_quorum():
    group = read_plan(pinned(refs(gone=("team:demo",)))).stages[0][0]
    assert (group.people, group.quorum) == (("user:anna",), 2)


def test_a_group_of_which_nobody_is_left_is_still_asked():
    plan = read_plan(pinned(refs(gone=("schedule:ops",))))
    assert [(group.people, group.quorum) for group in plan.stages[1]] == [((), 1)]


def test_an_automatic_approval_is_a_plan_without_stages():
    document = parse("name: a\nwhen: request.minutes < 5\nauto_approve: true")
    plan = read_plan(plan_of(document, document.rules[0], refs(), facts()))
    assert plan.auto_approve
    assert plan.stages == ()
    assert list(plan.groups()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": []},
        {"stages": [{"groups": []}]},
        {"stages": [{"groups": [{"id": "0/a", "name": "a", "quorum": 0, "people": ["user:a"]}]}]},
        {"fallback": {"id": "fallback", "name": "a", "quorum": -1, "people": []}},
        {"deny_threshold": 0},
        {"auto_approve": True},
        {"auto_approve": 1, "stages": []},
        {"stages": None},
        {"escalations": [{"after": "soon", "groups": []}]},
    ],
)
def test_a_plan_that_nobody_would_have_to_approve_is_not_read(changes: dict[str, Any]):
    with pytest.raises(Invalid) as caught:
        read_plan({**pinned(), **changes})
    assert caught.value.code == "plan.invalid"


@pytest.mark.parametrize("member", ["stages", "fallback", "auto_approve", "step_up", "channels"])
def test_a_plan_that_lacks_something_is_not_read(member: str):
    plan = pinned()
    del plan[member]
    with pytest.raises(Invalid):
        read_plan(plan)
