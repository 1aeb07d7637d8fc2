"""What a careful reader tried on the workflow: each of these once worked."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from jitaccess.audit.models import Entry
from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.catalog.services import classify_tool
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import JitAccessError
from jitaccess.policy.approval.plan import Group, Plan
from jitaccess.policy.compiler import compile_snapshot
from jitaccess.policy.delegations import delegate
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.models import BindingUse, Requestable, RoleBinding
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_role, save_role, uses_left
from jitaccess.store.clock import now
from requests_app import tasks
from requests_app.approval import People, Vote, tally
from requests_app.asking import stored
from requests_app.lifecycle import DecisionVerdict
from requests_app.models import AccessRequest, Grant
from requests_app.planning import history_of
from requests_app.services import Ask, ExactCall, Narrow, Privileges, extend_grant, submit_bundle, submit_request
from tests.cast import OPERATOR, Cast, policy_document
from tests.clocks import Clock
from tests.requests_app.ledger import refused


def submit(cast: Cast, **ask: Any) -> AccessRequest:
    asked = Ask(**{"reason": "Finish the release notes", **ask})
    return submit_request(principal=cast.principal(), ask=asked, snapshot=cast.snapshot()).request


def extend(cast: Cast, grant: Grant, seconds: int = 600, **more: Any) -> AccessRequest:
    return extend_grant(
        grant_id=grant.pk,
        principal=cast.principal(),
        seconds=seconds,
        reason="It takes longer",
        snapshot=cast.snapshot(),
        **more,
    ).request


EASY = """
- name: easy
  when: request.extension && items.all(i, i.access == "write")
  auto_approve: true
- name: rest
  stages: [{groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}]}]
"""


def test_a_narrowed_extension_extends_only_what_was_kept(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    grant = cast.grant("git_commit", "git_add", seconds=600)
    before, request = grant.expires_at, extend(cast, grant)
    with suppress(JitAccessError):
        cast.approve(request, narrow=Narrow(labels=["git/git_add"], max_uses=1))
    grant.refresh_from_db()
    assert grant.expires_at == before


def test_a_rule_extends_nothing_that_may_no_longer_be_asked_for(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    cast.change_policy(rules=EASY)
    grant = cast.grant("git_commit")
    Requestable.objects.all().delete()
    with pytest.raises(JitAccessError):
        extend(cast, grant)
    grant.refresh_from_db()
    assert grant.extension is None


def test_a_rule_does_not_extend_what_was_classified_otherwise_meanwhile(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    cast.change_policy(rules=EASY)
    grant = cast.grant("git_commit")
    classify_tool(tool=cast.tools["git_commit"], access=AccessClass.DESTRUCTIVE, operator=OPERATOR)
    with suppress(JitAccessError):
        extend(cast, grant)
    grant.refresh_from_db()
    assert grant.extension is None


def test_an_extension_is_decided_by_the_policy_that_is_in_force_for_the_tool(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    cast.change_policy(rules=EASY)
    grant = cast.grant("git_commit")
    strict = save_policy(document=policy_document("user:carl", name="strict"), operator=OPERATOR)
    Requestable.objects.update(policy=strict)
    with suppress(JitAccessError):
        extend(cast, grant)
    grant.refresh_from_db()
    assert grant.extension is None


def test_padding_does_not_get_a_request_past_a_strict_rule(cast: Cast) -> None:
    cast.change_policy(
        rules="""
- name: pii
  when: items.exists(i, i.labels.data == "pii")
  stages: [{groups: [{name: both, people: ["team:reviewers"], quorum: 2}]}]
- name: rest
  stages: [{groups: [{name: one, people: ["team:reviewers"], quorum: 1}]}]
"""
    )
    Tool.objects.filter(name="git_reset").update(labels='{"data":"pii"}')
    assert '"rule":"pii"' in cast.submit("git_reset").plan
    with refused("policy.unclear", "pii"):
        cast.submit("git_add", "git_reset")


def test_a_large_request_does_not_get_past_a_strict_rule(cast: Cast) -> None:
    cast.change_policy(
        rules="""
- name: strict
  when: items.exists(i, i.privileges.exists(p, p == "delete"))
  stages: [{groups: [{name: both, people: ["team:reviewers"], quorum: 2}]}]
- name: rest
  stages: [{groups: [{name: one, people: ["team:reviewers"], quorum: 1}]}]
"""
    )
    Requestable.objects.create(
        database="shop", database_objects="public.*", privileges="select, delete", policy=cast.policy
    )
    assert '"rule":"strict"' in submit(cast, privileges=[Privileges("shop", ["public.a"], ["delete"])]).plan
    with refused("request.privileges"):
        submit(cast, privileges=[Privileges("shop", ["public.a", "public." + "x" * 17000], ["delete"])])


COOL = """
- name: short
  when: request.minutes <= 10
  auto_approve: true
- name: rest
  cool_down: 15m
  stages: [{groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}]}]
"""


def test_a_denial_is_not_followed_by_an_approval_by_rule(cast: Cast) -> None:
    cast.change_policy(rules=COOL)
    cast.deny(cast.submit("git_commit", seconds=3600))
    with refused("request.cool_down"):
        cast.submit("git_commit", seconds=600)


def test_the_cool_down_holds_however_long_the_request_was_pending(cast: Cast, clock: Clock) -> None:
    cast.change_policy(cool_down="1m", pending="3h")
    request = cast.submit("git_commit")
    clock.shift(61 * 60)
    cast.deny(request)
    with refused("request.cool_down"):
        cast.submit("git_commit", seconds=1200)


def test_a_denied_exact_call_is_not_asked_for_as_the_whole_tool(cast: Cast) -> None:
    cast.change_policy(cool_down="15m")
    cast.deny(submit(cast, calls=[ExactCall("git", "git_commit", {"message": "x"})]))
    with refused("request.cool_down"):
        cast.submit("git_commit")


def colliding() -> tuple[dict[str, Any], dict[str, Any]]:
    seen: dict[str, int] = {}
    for number in range(2_000_000):
        short = arguments_digest({"n": number}).removeprefix("sha256:")[:8]
        if short in seen:
            return {"n": seen[short]}, {"n": number}
        seen[short] = number
    raise AssertionError


def test_two_exact_calls_have_two_names(cast: Cast) -> None:
    good, bad = colliding()
    with suppress(JitAccessError):  # refused is as good
        request = submit(cast, calls=[ExactCall("git", "git_commit", good), ExactCall("git", "git_commit", bad)])
        assert len(set(request.tool_labels)) == 2, (good, bad, request.tool_labels)


def test_the_delete_can_be_left_out_of_what_is_granted_on_a_database(cast: Cast) -> None:
    Requestable.objects.create(
        database="shop", database_objects="public.*", privileges="select, delete", policy=cast.policy
    )
    both = [Privileges("shop", ["public.a"], ["select"]), Privileges("shop", ["public.a"], ["delete"])]
    with suppress(JitAccessError):
        request = submit(cast, privileges=both)
        assert len(set(request.tool_labels)) == 2, request.tool_labels


def test_the_ticket_of_an_extension_is_held_to_the_same_as_any(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    grant = cast.grant("git_commit")
    with refused("request.ticket"):
        extend(cast, grant, ticket="OPS-1\u202e\napproved by admin" + "x" * 200)


def test_one_person_is_not_both_stages(cast: Cast) -> None:
    cast.change_policy(
        rules="""
- name: all
  stages:
    - groups: [{name: reviewers, people: ["user:anna"], quorum: 1}]
    - groups: [{name: security, people: ["user:carl"], quorum: 1}]
"""
    )
    delegate(
        person=cast.carl,
        to=cast.anna,
        ends_at=now() + timedelta(hours=8),
        operator=Principal.of_user(cast.carl).actor(),
    )
    request = cast.submit()
    cast.approve(request, by=cast.anna)
    with suppress(JitAccessError):
        cast.approve(request, by=cast.anna)
    request.refresh_from_db()
    assert request.status == "pending"


def test_a_used_up_exact_call_does_not_end_the_rest_of_a_grant(cast: Cast, clock: Clock) -> None:
    request = submit(cast, tools=[("git", "git_add")], calls=[ExactCall("git", "git_commit", {"m": 1})])
    cast.approve(request)
    BindingUse.objects.update(left=0, used_at=now())
    clock.shift(600)
    tasks.end_used_up_grants()
    assert cast.verdict("git_add").allowed


def test_narrowing_gives_no_exact_call_more_uses(cast: Cast) -> None:
    request = submit(cast, tools=[("git", "git_add")], calls=[ExactCall("git", "git_commit", {"m": 1})])
    assert request.max_uses is None
    cast.approve(request, narrow=Narrow(max_uses=50))
    call = RoleBinding.objects.exclude(arguments="").get(origin="grant")
    assert call.max_uses == 1


def test_an_approved_schema_can_be_read_again(cast: Cast) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1e16]}}, "additionalProperties": False}
    with refused("request.arguments"):
        submit(cast, tools=[("git", "git_commit")], schema=schema)


def test_approved_privileges_can_be_read_again(cast: Cast) -> None:
    Requestable.objects.create(database="shop", database_objects="*.products", privileges="select", policy=cast.policy)
    with refused("request.privileges"):
        submit(cast, privileges=[Privileges("shop", ["^(.products"], ["select"])])
    cast.approve(submit(cast, privileges=[Privileges("shop", ["public.products"], ["select"])]))
    compile_snapshot()


def test_a_denial_of_an_earlier_stage_counts() -> None:
    anna, bert, carl, dora = (uuid4() for _ in range(4))

    def group(name: str, *people: Any) -> Group:
        return Group(name, name, 1, tuple(f"user:{one}" for one in people))

    plan = Plan(
        policy="p",
        version=1,
        rule="r",
        auto_approve=False,
        stages=((group("0/a", anna, bert), group("0/b", carl)), (group("1/c", dora),)),
        escalations=(),
        fallback=None,
        deny_threshold=1,
        channels=frozenset({"web"}),
        step_up=False,
        reminders=(),
        cool_down=0,
    )
    people = People({f"user:{one}": frozenset({one}) for one in (anna, bert, carl, dora)}, frozenset())
    yes, no = DecisionVerdict.APPROVE, DecisionVerdict.DENY
    votes = [Vote(anna, None, 0, no), Vote(bert, None, 0, yes), Vote(carl, None, 0, yes)]
    assert tally(plan, votes, people, waited=0).denied


def test_who_takes_back_an_approval_of_the_first_stage_denies(cast: Cast) -> None:
    cast.change_policy(
        rules="""
- name: all
  stages:
    - groups: [{name: reviewers, people: ["user:anna", "user:bert"], quorum: 1}, {name: boss, people: ["user:admin"], quorum: 1}]
    - groups: [{name: security, people: ["user:carl"], quorum: 1}]
"""
    )
    request = cast.submit(principal=cast.principal(issued_by=cast.olga.pk))
    for who in (cast.anna, cast.bert, cast.admin):
        cast.approve(request, by=who)
    assert cast.deny(request, by=cast.anna).status == "denied"


def test_the_history_of_an_extension_is_of_all_its_tools(cast: Cast) -> None:
    for _ in range(3):
        cast.deny(cast.submit("git_commit"))
    grant = cast.grant("git_add", "git_commit")
    wanted = stored(grant.request.parsed_items, policy="review", snapshot=cast.snapshot())
    assert history_of(cast.principal(), wanted, now()).denied == 3


def test_a_denial_that_was_not_enough_survives_a_replacement(cast: Cast) -> None:
    cast.change_policy(deny_threshold=2, cool_down="15m")
    request = cast.submit("git_commit")
    cast.deny(request, by=cast.anna)
    with suppress(JitAccessError):
        new = submit(cast, tools=[("git", "git_commit")], supersedes=request.pk, seconds=600)
        cast.deny(new, by=cast.bert)
        assert new.status == "denied"


def test_the_second_extension_that_gives_nothing_says_so(cast: Cast) -> None:
    Requestable.objects.update(max_minutes=30, max_total_minutes=40)
    grant = cast.grant("git_commit", seconds=1800)
    one, two = extend(cast, grant, 600), extend(cast, grant, 540)
    cast.approve(one)
    with suppress(JitAccessError):
        cast.approve(two)
    assert Entry.objects.filter(event="grant.extended").count() == 1


def test_the_calls_left_of_a_grant_are_those_of_all_its_bindings(cast: Cast) -> None:
    request = submit(cast, calls=[ExactCall("git", "git_commit", {"n": 1}), ExactCall("git", "git_commit", {"n": 2})])
    cast.approve(request)
    assert uses_left(Grant.objects.get().pk) == 2


def test_a_short_request_is_not_prolonged_by_rule_into_a_long_one(cast: Cast) -> None:
    cast.change_policy(
        rules="""
- name: short
  when: request.minutes <= 30
  auto_approve: true
- name: rest
  stages: [{groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}]}]
"""
    )
    grant = Grant.objects.get(request=cast.submit("git_commit", seconds=1800))
    for _ in range(4):
        with suppress(JitAccessError):
            extend(cast, grant, 1800)
    grant.refresh_from_db()
    assert grant.expires_at - grant.starts_at <= timedelta(minutes=30)


def test_a_schema_that_allows_everything_is_none(cast: Cast) -> None:
    Requestable.objects.update(arguments="schema")
    with pytest.raises(JitAccessError):
        submit(cast, tools=[("git", "git_commit")], schema={"type": "object"})


def test_a_deny_rule_about_databases_denies(cast: Cast) -> None:
    Requestable.objects.create(database="shop", database_objects="public.*", privileges="select", policy=cast.policy)
    role = save_role(
        document="""\
kind: role
version: v1
metadata: {name: no-shop}
spec:
  deny:
    - databases: [shop]
      objects: ["*"]
      privileges: [select]
""",
        operator=OPERATOR,
    )
    bind_role(role=role, agent=cast.agent, operator=OPERATOR)
    bind_role(role=cast.read_only, agent=cast.agent, origin=RoleBinding.Origin.CEILING, operator=OPERATOR)
    with suppress(JitAccessError):
        cast.approve(submit(cast, privileges=[Privileges("shop", ["public.a"], ["select"])]))
    assert not Grant.objects.exists()


def test_who_filed_a_request_does_not_decide_on_its_extension(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    cast.agent.users.add(cast.anna)
    first = submit_request(
        principal=cast.principal(),
        ask=Ask(reason="for me", tools=[("git", "git_commit")]),
        snapshot=cast.snapshot(),
        filed_by=cast.anna,
    ).request
    cast.approve(first, by=cast.bert)
    more = extend(cast, Grant.objects.get())
    with refused("decision.self"):
        cast.approve(more, by=cast.anna)


def test_an_extension_filed_by_a_stranger_is_refused(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    grant = cast.grant("git_commit")
    with pytest.raises(JitAccessError):
        extend(cast, grant, filed_by=cast.carl)


# any number of calls is not few
def test_any_number_of_calls_is_not_few(cast: Cast) -> None:
    cast.change_policy(
        rules="""
- name: few
  when: request.max_uses <= 5
  auto_approve: true
- name: rest
  stages: [{groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}]}]
"""
    )
    request = cast.submit("git_commit")
    assert request.max_uses is None
    request.refresh_from_db()
    assert request.status == "pending"


# hostile tool name same as the label of an exact call
# database name not checked / objects as patterns
def test_an_object_with_a_star(cast: Cast) -> None:
    Requestable.objects.create(
        database="shop", database_objects="^[^.]+[.]products$", privileges="select", policy=cast.policy
    )
    with pytest.raises(JitAccessError):
        submit(cast, privileges=[Privileges("shop", ["*.products"], ["select"])])


def test_an_object_with_control_characters(cast: Cast) -> None:
    Requestable.objects.create(database="shop", database_objects="public.*", privileges="select", policy=cast.policy)
    with pytest.raises(JitAccessError):
        submit(cast, privileges=[Privileges("shop", ["public.a\u202e\n"], ["select"])])


# ledger / bundle: dry run of a bundle beyond caps etc
def test_obstacle_narrowed(cast: Cast) -> None:
    """An extension is void because of a tool that was narrowed away."""
    Requestable.objects.update(max_total_minutes=480)
    request = cast.submit("git_commit", "git_reset")
    cast.approve(request, narrow=Narrow(labels=["git/git_commit"]))
    Tool.objects.filter(name="git_reset").update(present=False)
    more = extend(cast, Grant.objects.get())
    assert cast.approve(more).status == "approved"


# scheduled: rule about the time of day sees the filing only
def test_extension_of_scheduled(cast: Cast, clock: Any) -> None:
    Requestable.objects.update(max_total_minutes=480)
    r = submit(cast, tools=[("git", "git_commit")], seconds=600, starts_at=now() + timedelta(hours=1))
    cast.approve(r)
    g = Grant.objects.get()
    cast.approve(extend(cast, g, 600))
    g.refresh_from_db()
    assert g.expires_at - g.starts_at == timedelta(minutes=20)
    clock.at(g.starts_at)
    assert cast.verdict("git_commit").allowed


def test_an_exact_call_is_one_call_also_where_a_bundle_parts_it_from_other_things(cast: Cast) -> None:
    other = save_policy(document=policy_document(name="owners"), operator=OPERATOR)
    Requestable.objects.update(access="write")
    Requestable.objects.create(server=cast.server, access="destructive", policy=other, max_uses=3)
    ask = Ask(reason="x", tools=[("git", "git_add")], calls=[ExactCall("git", "git_reset", {"n": 1})])
    filed = submit_bundle(principal=cast.principal(), ask=ask, snapshot=cast.snapshot())
    assert {one.request.policy_name: one.request.max_uses for one in filed} == {"review": None, "owners": 1}


def test_a_condition_about_the_whole_time_sees_the_whole_time_of_an_extension(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    grant = cast.grant("git_commit", seconds=3600)
    cast.change_policy(max_duration="90m")
    assert extend(cast, grant, 1800).status == "pending"
