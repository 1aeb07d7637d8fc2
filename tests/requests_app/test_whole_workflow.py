"""Stages, stand-ins, narrowing, changes, exact calls, roles, schedules, extensions: one request from end to end each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.delegations import delegate, end_delegation
from jitaccess.policy.engine.decide import Verdict, Who, decide
from jitaccess.policy.models import Requestable, RoleBinding
from jitaccess.policy.services import save_role
from jitaccess.store.clock import now
from requests_app import selectors, standing
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.services import (
    Ask,
    ExactCall,
    Narrow,
    Privileges,
    ask_for_changes,
    extend_grant,
    submit_request,
)
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock
from tests.requests_app.ledger import gains, refused

APPROVED = ("decision.recorded", "request.approved", "grant.activated")
COMMIT: dict[str, Any] = {"repo_path": ".", "message": "release 2.4"}
WRITER = """\
kind: role
version: v1
metadata: {name: writer, owner: "team:reviewers"}
spec:
  allow:
    - servers: [git]
      tools: [git_commit]
  request: {max_duration: 2h, approval: review}
"""


def submit(cast: Cast, *, filed_by: User | None = None, dry_run: bool = False, **ask: Any) -> AccessRequest:
    asked = Ask(**{"reason": "Finish the release notes", **ask})
    return submit_request(
        principal=cast.principal(), ask=asked, snapshot=cast.snapshot(), filed_by=filed_by, dry_run=dry_run
    ).request


def exact(cast: Cast, arguments: dict[str, Any] | None = None, **ask: Any) -> AccessRequest:
    return submit(cast, calls=[ExactCall("git", "git_commit", arguments or COMMIT)], **ask)


def verdict(cast: Cast, arguments: dict[str, Any], tool: str = "git_commit") -> Verdict:
    """What a call with these very arguments gets now."""
    who = Who(cast.agent.pk)
    return decide(cast.snapshot(), who=who, server=cast.server.pk, tool=tool, at=now(), arguments=arguments)


@contextmanager
def void(why: str) -> Iterator[None]:
    """Approving is refused, and that the request is void is on record."""
    with gains("request.invalidated"), pytest.raises(Conflict, match=why) as caught:
        yield
    assert caught.value.code == "request.invalidated"


def actor(person: User) -> Any:
    return Principal.of_user(person).actor()


def stand_in(person: User, to: User | None) -> Any:
    return delegate(person=person, to=to, ends_at=now() + timedelta(hours=8), operator=actor(person))


TWO_STAGES = """
- name: all
  stages:
    - groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}]
    - groups: [{name: security, people: ["user:carl"], quorum: 1}]
"""


def test_a_second_stage_is_asked_when_the_first_is_met(cast: Cast) -> None:
    cast.change_policy(rules=TWO_STAGES)
    request = cast.submit()
    assert selectors.inbox_of(cast.carl) == []
    with refused("decision.not_eligible"):
        cast.approve(request, by=cast.carl)
    with gains("decision.recorded"):
        cast.approve(request, by=cast.anna)
    assert selectors.inbox_of(cast.carl) == [request]
    assert selectors.inbox_of(cast.bert) == []
    with gains(*APPROVED):
        assert cast.approve(request, by=cast.carl).status == "approved"
    assert list(Decision.objects.order_by("at").values_list("stage", flat=True)) == [0, 1]


def test_who_approved_the_first_stage_may_take_it_back_in_the_second(cast: Cast) -> None:
    cast.change_policy(rules=TWO_STAGES)
    request = cast.submit()
    cast.approve(request, by=cast.anna)
    assert cast.deny(request, by=cast.anna).status == "denied"


def test_a_rule_can_approve_by_itself_and_that_is_on_record(cast: Cast) -> None:
    cast.change_policy(
        rules="""
- name: short
  when: request.minutes <= 10
  auto_approve: true
- name: rest
  stages: [{groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}]}]
"""
    )
    with gains("request.submitted", "request.approved", "grant.activated"):
        request = cast.submit(seconds=600)
    request.refresh_from_db()
    assert (request.status, request.closed_by_name) == ("approved", "policy review, rule short")
    assert cast.verdict("git_commit").allowed
    assert not Decision.objects.exists()
    assert cast.submit("git_add", seconds=660).status == "pending"


def test_a_rule_says_what_reason_and_ticket_it_wants(cast: Cast) -> None:
    cast.change_policy(reason={"min_length": 20}, ticket={"required": True, "pattern": "^[A-Z]+-[0-9]+$"})
    for ask, code in (
        ({"reason": "short"}, "request.reason"),
        ({"reason": "long enough to be read by people"}, "request.ticket"),
        ({"reason": "long enough to be read by people", "ticket": "soon"}, "request.ticket"),
    ):
        with refused(code), gains():
            submit(cast, tools=[("git", "git_commit")], **ask)
    reason = "long enough to be read by people"
    assert submit(cast, tools=[("git", "git_commit")], reason=reason, ticket="OPS-7").ticket == "OPS-7"


def test_a_channel_that_is_not_allowed_and_a_missing_step_up_are_refused_but_a_denial_is_not(cast: Cast) -> None:
    cast.change_policy(channels=["web"], step_up=True)
    request = cast.submit()
    with refused("decision.channel"):
        cast.approve(request, channel="cli", recently=True)
    with refused("decision.step_up"):
        cast.approve(request)
    assert not Decision.objects.exists()
    other = cast.submit("git_add")
    assert cast.approve(request, recently=True).status == "approved"
    assert cast.deny(other, channel="cli").status == "denied"


def test_a_stand_in_decides_in_the_place_of_another_and_both_are_on_record(cast: Cast) -> None:
    lent = stand_in(cast.anna, cast.carl)
    request = cast.submit()
    assert selectors.inbox_of(cast.carl) == [request]
    end_delegation(delegation=lent, operator=actor(cast.anna))
    with refused("request.unknown"):
        cast.approve(request, by=cast.carl)
    stand_in(cast.anna, cast.carl)
    assert cast.approve(request, by=cast.carl).status == "approved"
    made = Decision.objects.get()
    assert (made.user, made.on_behalf_of) == (cast.carl, cast.anna)
    assert '"on_behalf_of":"anna"' in Entry.objects.get(event="decision.recorded").data


def test_nobody_stands_in_for_self_and_no_two_people_sit_on_one_seat(cast: Cast) -> None:
    stand_in(cast.olga, cast.carl)
    cast.change_policy("user:anna", "user:olga", "user:bert", quorum=2)
    request = cast.submit()
    with refused("decision.not_eligible"):
        cast.approve(request, by=cast.carl)
    dora = User.objects.create_user("dora")
    stand_in(cast.anna, dora)
    cast.approve(request, by=dora)
    assert cast.approve(request, by=cast.anna).status == "pending", "dora sat on anna's seat"
    assert cast.approve(request, by=cast.bert).status == "approved"


def test_who_is_away_is_not_asked_and_the_fallback_is(cast: Cast) -> None:
    fallback = {"name": "admins", "people": ["user:carl"], "quorum": 1}
    cast.change_policy("user:anna", fallback=fallback)
    stand_in(cast.anna, None)
    request = cast.submit()
    assert [person.username for person in standing.approvers_of(request)] == ["carl"]
    assert cast.approve(request, by=cast.carl).status == "approved"


def test_an_escalation_is_asked_when_its_time_has_come(cast: Cast, clock: Clock) -> None:
    managers = {"name": "managers", "people": ["user:carl"], "quorum": 1}
    cast.change_policy(quorum=2, escalate=[{"after": "30m", "groups": [managers]}])
    request = cast.submit()
    with refused("decision.not_eligible"):
        cast.approve(request, by=cast.carl)
    clock.shift(30 * 60)
    assert selectors.inbox_of(cast.carl) == [request]
    assert cast.approve(request, by=cast.carl).status == "approved"


def test_approvals_can_be_narrowed_never_widened_and_the_grant_is_what_they_have_in_common(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    request = cast.submit("git_commit", "git_add", "git_reset", seconds=3600)
    for wider in (Narrow(seconds=3601), Narrow(labels=["git/git_log"]), Narrow(labels=[]), Narrow(max_uses=0)):
        with refused("decision.terms"):
            cast.approve(request, narrow=wider)
    cast.approve(request, narrow=Narrow(seconds=1800, labels=["git/git_commit", "git/git_add"]))
    with refused("decision.nothing_in_common"):
        cast.approve(request, by=cast.bert, narrow=Narrow(labels=["git/git_reset"]))
    narrow = Narrow(seconds=2400, max_uses=3, labels=["git/git_add", "git/git_reset"])
    assert cast.approve(request, by=cast.bert, narrow=narrow).status == "approved"
    grant = Grant.objects.get()
    assert grant.expires_at - grant.starts_at == timedelta(seconds=1800)
    assert RoleBinding.objects.get(origin="grant").max_uses == 3
    assert cast.verdict("git_add").allowed
    assert not cast.verdict("git_commit").allowed
    assert not cast.verdict("git_reset").allowed


def test_changes_that_are_asked_for_come_as_a_request_that_takes_the_place_of_the_old_one(cast: Cast) -> None:
    request = cast.submit("git_commit", "git_reset")
    with gains("request.changes_asked"):
        ask_for_changes(request_id=request.pk, approver=cast.anna, channel="web", note="Without the reset, please.")
    request.refresh_from_db()
    assert (request.status, request.changes_by_name) == ("pending", "anna")
    with gains("request.superseded", "request.submitted"):
        new = submit(cast, tools=[("git", "git_commit")], supersedes=request.pk)
    request.refresh_from_db()
    assert (request.status, new.supersedes_id) == ("superseded", request.pk)
    with refused("request.already_decided"):
        cast.approve(request)
    assert cast.approve(new).status == "approved"
    with refused("request.already_decided"):
        submit(cast, tools=[("git", "git_add")], supersedes=request.pk)
    with refused("request.supersedes"):
        submit(cast, tools=[("git", "git_add")], supersedes=uuid7())


def test_what_was_denied_is_not_asked_for_again_at_once(cast: Cast, clock: Clock) -> None:
    cast.change_policy(cool_down="15m")
    cast.deny(cast.submit("git_commit"))
    for tools in (("git_commit",), ("git_add", "git_commit")):
        with refused("request.cool_down", "git/git_commit"):
            cast.submit(*tools, seconds=1200)
    assert cast.submit("git_add").status == "pending"
    assert cast.submit("git_commit", principal=cast.principal(user=cast.olga)).status == "pending", (
        "of another principal"
    )
    clock.shift(15 * 60)
    assert cast.submit("git_commit").status == "pending"


def test_an_exact_call_is_good_for_these_arguments_only(cast: Cast) -> None:
    request = exact(cast)
    assert request.max_uses == 1
    assert request.parsed_items[0]["arguments"]["value"] == COMMIT
    assert not verdict(cast, COMMIT).allowed
    cast.approve(request)
    grant = Grant.objects.get()
    allowed = verdict(cast, dict(reversed(COMMIT.items())))
    assert (allowed.allowed, allowed.grant, bool(allowed.counted)) == (True, grant.pk, True)
    for other in ({**COMMIT, "message": "release 2.5"}, {**COMMIT, "amend": True}, {}, {"repo_path": "."}):
        refusal = verdict(cast, other)
        assert (refusal.allowed, refusal.code) == (False, "other_arguments"), other
        assert refusal.requestable
    assert not verdict(cast, COMMIT, "git_add").allowed
    with refused("request.already_allowed"):
        exact(cast)
    assert exact(cast, {**COMMIT, "message": "another"}).status == "pending"


def test_the_same_exact_call_in_another_key_order_is_the_same_request(cast: Cast) -> None:
    assert exact(cast).pk == exact(cast, dict(reversed(COMMIT.items()))).pk
    assert exact(cast, {**COMMIT, "message": "x"}).pk != exact(cast).pk


def test_a_tool_may_be_requestable_as_an_exact_call_only(cast: Cast) -> None:
    Requestable.objects.update(arguments="exact")
    with refused("request.exact_only"):
        cast.submit("git_commit")
    request = exact(cast)
    Requestable.objects.update(arguments="any")
    tools = cast.submit("git_add")
    Requestable.objects.update(arguments="schema")
    with void("no longer be asked for"):
        cast.approve(tools)
    assert cast.approve(request).status == "approved"


def test_a_schema_holds_the_arguments(cast: Cast) -> None:
    schema = {
        "type": "object",
        "properties": {"repo_path": {"type": "string", "const": "."}, "message": {"type": "string", "maxLength": 20}},
        "additionalProperties": False,
    }
    with refused("arguments.invalid"):
        submit(cast, tools=[("git", "git_commit")], schema={"type": "object", "$ref": "#/x"})
    cast.approve(submit(cast, tools=[("git", "git_commit")], schema=schema))
    assert verdict(cast, COMMIT).allowed
    assert not verdict(cast, {**COMMIT, "message": "x" * 21}).allowed
    assert not verdict(cast, {**COMMIT, "force": True}).allowed


def test_a_grant_of_a_role_gives_what_is_in_its_version_and_still_in_its_head(cast: Cast) -> None:
    role = save_role(document=WRITER, operator=OPERATOR)
    with refused("request.unknown_role"):
        submit(cast, roles=["nothing"])
    request = submit(cast, roles=["writer"])
    assert request.tool_labels == ["role:writer"]
    cast.approve(request)
    assert cast.verdict("git_commit").allowed
    save_role(document=WRITER.replace("git_commit", "git_*"), operator=OPERATOR, role=role)
    assert cast.verdict("git_commit").allowed
    assert not cast.verdict("git_reset").allowed, "the version that was approved did not have it"
    save_role(document=WRITER.replace("git_commit", "git_add"), operator=OPERATOR, role=role)
    assert not cast.verdict("git_commit").allowed
    assert not cast.verdict("git_add").allowed


def test_a_role_that_changed_while_it_was_asked_for_makes_the_request_void(cast: Cast) -> None:
    role = save_role(document=WRITER, operator=OPERATOR)
    request = submit(cast, roles=["writer"])
    save_role(document=WRITER.replace("git_commit", "git_*"), operator=OPERATOR, role=role)
    with void("has changed"):
        cast.approve(request)


def test_privileges_on_a_database_are_stored_and_decided(cast: Cast) -> None:
    Requestable.objects.create(
        database="shop", database_objects="public.*", privileges="select, update", policy=cast.policy
    )
    for wrong in (
        Privileges("shop", ["public.a"], ["delete"]),
        Privileges("shop", ["private.a"], ["select"]),
        Privileges("other", ["public.a"], ["select"]),
        Privileges("shop", [], ["select"]),
    ):
        with pytest.raises(Exception, match=r"privileges|something you can ask for"):
            submit(cast, privileges=[wrong])
    request = submit(cast, privileges=[Privileges("shop", ["public.b", "public.a"], ["SELECT"])])
    assert request.tool_labels == ["shop/public.a", "shop/public.b"]
    cast.approve(request, narrow=Narrow(labels=["shop/public.a"]))
    assert '"objects":["public.a"]' in RoleBinding.objects.get(origin="grant").privileges


def test_a_scheduled_grant_begins_by_the_clock_alone(cast: Cast, clock: Clock) -> None:
    start = now() + timedelta(hours=2)
    request = submit(cast, tools=[("git", "git_commit")], starts_at=start, seconds=600)
    with gains("decision.recorded", "request.approved", "grant.scheduled"):
        cast.approve(request)
    grant = Grant.objects.get()
    assert (grant.starts_at, grant.activated_at) == (start, None)
    assert not cast.verdict("git_commit").allowed
    clock.at(start)
    assert cast.verdict("git_commit").allowed
    clock.at(start + timedelta(seconds=600))
    assert cast.verdict("git_commit").code == "expired"


def test_a_start_too_far_ahead_or_past_and_an_end_before_it_are_refused(cast: Cast, clock: Clock) -> None:
    tools = [("git", "git_commit")]
    for moment in (now() - timedelta(seconds=1), now() + timedelta(days=8)):
        with refused("request.starts_at"):
            submit(cast, tools=tools, starts_at=moment)
    with refused("request.not_after"):
        submit(cast, tools=tools, not_after=now() + timedelta(seconds=30))
    request = submit(cast, tools=tools, not_after=now() + timedelta(minutes=10), seconds=3600)
    clock.shift(5 * 60)
    cast.approve(request)
    assert Grant.objects.get().expires_at == request.not_after
    late = submit(cast, tools=[("git", "git_add")], not_after=now() + timedelta(minutes=10))
    clock.shift(9 * 60 + 30)
    with void("is over"):
        cast.approve(late)


def extend(cast: Cast, grant: Grant, seconds: int = 600, **more: Any) -> AccessRequest:
    return extend_grant(
        grant_id=grant.pk,
        principal=cast.principal(),
        seconds=seconds,
        reason="It takes longer",
        snapshot=cast.snapshot(),
        **more,
    ).request


def test_an_extension_moves_the_end_once_it_is_approved_and_not_beyond_its_life(cast: Cast, clock: Clock) -> None:
    Requestable.objects.update(max_total_minutes=240 + 30)
    grant = cast.grant(seconds=240 * 60)
    before = grant.expires_at
    for seconds in (59, 31 * 60):
        with refused("request.duration"):
            extend(cast, grant, seconds)
    request = extend(cast, grant, 20 * 60)
    assert extend(cast, grant, 20 * 60).pk == request.pk
    grant.refresh_from_db()
    assert grant.expires_at == before
    with gains("decision.recorded", "request.approved", "grant.extended"):
        cast.approve(request)
    grant.refresh_from_db()
    assert grant.expires_at == before + timedelta(minutes=20)
    clock.at(before)
    assert cast.verdict("git_commit").allowed
    with refused("request.duration"):
        extend(cast, grant, 11 * 60)
    clock.at(grant.expires_at)
    assert not cast.verdict("git_commit").allowed
    with refused("grant.ended"):
        extend(cast, grant, 60)


def test_an_extension_of_a_grant_that_ended_meanwhile_is_void(cast: Cast, clock: Clock) -> None:
    Requestable.objects.update(max_total_minutes=480)
    grant = cast.grant(seconds=600)
    request = extend(cast, grant)
    clock.at(grant.expires_at)
    with void("has ended"):
        cast.approve(request)
    grant.refresh_from_db()
    assert grant.ended_at is None
    assert not cast.verdict("git_commit").allowed


def test_an_extension_shows_what_the_grant_holds_not_what_was_once_asked_for(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    request = cast.submit("git_commit", "git_reset")
    cast.approve(request, narrow=Narrow(labels=["git/git_commit"]))
    assert extend(cast, Grant.objects.get()).tool_labels == ["git/git_commit"]


def test_only_an_approved_extension_moves_the_end_of_a_grant(cast: Cast) -> None:
    Requestable.objects.update(max_total_minutes=480)
    grant = cast.grant(seconds=600)
    pending, later = extend(cast, grant), grant.expires_at + timedelta(minutes=10)
    changes: tuple[dict[str, Any], ...] = (
        {"expires_at": later},
        {"expires_at": later, "extension": pending},
        {"expires_at": later, "extension": grant.request},
        {"latest": later + timedelta(days=1)},
        {"starts_at": grant.starts_at - timedelta(minutes=1)},
    )
    for change in changes:
        with pytest.raises(DatabaseError), transaction.atomic():
            Grant.objects.filter(pk=grant.pk).update(**change)


def test_a_person_may_ask_for_an_agent_of_theirs_and_is_self_then(cast: Cast) -> None:
    cast.agent.users.add(cast.bert)
    tools = [("git", "git_commit")]
    with refused("request.not_your_agent"):
        submit(cast, tools=tools, filed_by=cast.carl)
    request = submit(cast, tools=tools, filed_by=cast.bert)
    with refused("decision.self", "filed it"):
        cast.approve(request, by=cast.bert)
    assert Entry.objects.get(event="request.submitted").user_name == "bert"
    assert cast.approve(request, by=cast.anna).status == "approved"


def test_a_dry_run_says_what_would_be_and_writes_nothing(cast: Cast) -> None:
    with gains():
        request = exact(cast, dry_run=True)
    assert request.tool_labels[0].startswith("git/git_commit#")
    assert not AccessRequest.objects.exists()
    assert not Grant.objects.exists()
