from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models import ProtectedError

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Server, Tool
from jitaccess.catalog.services import classify_tool
from jitaccess.identity.models import Agent, Team, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import authenticate, issue_token, set_agent_enabled
from jitaccess.kernel.errors import Conflict, Forbidden, NotFound
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.models import Requestable, RoleBinding, ServerAccess
from jitaccess.store.clock import now
from requests_app import selectors, standing
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.services import approve_request, cancel_request
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock
from tests.requests_app.ledger import events, gains, refused

pytestmark = pytest.mark.django_db

APPROVED = ("decision.recorded", "request.approved", "grant.activated")


def test_an_approval_makes_one_grant_with_the_approved_pins_only(cast: Cast) -> None:
    request = cast.submit("git_commit")
    with gains(*APPROVED):
        closed = cast.approve(request, reason=" fine ", source="127.0.0.1")
    assert (closed.status, closed.closed_by_name) == ("approved", "anna")
    grant = Grant.objects.get()
    binding = RoleBinding.objects.get(origin_id=grant.pk)
    assert (binding.agent, binding.user, binding.role) == (cast.agent, None, None)
    assert (binding.starts_at, binding.expires_at) == (grant.starts_at, grant.expires_at)
    verdict = cast.verdict("git_commit")
    assert verdict.allowed
    assert (verdict.bindings, verdict.grant) == ((binding.pk,), grant.pk)
    assert not cast.verdict("git_add").allowed, "of the same class, but not asked for"
    assert not cast.verdict("git_commit", cast.principal(user=cast.olga)).allowed, "another pair"
    entry = Entry.objects.get(event="decision.recorded")
    assert (entry.user_name, entry.client, entry.source, entry.request) == ("anna", "web", "127.0.0.1", request.pk)
    assert Decision.objects.get().reason == "fine"


def test_the_clock_of_a_grant_starts_at_the_approval(cast: Cast, clock: Clock) -> None:
    request = cast.submit(seconds=600)
    clock.shift(1800)
    before = now()
    cast.approve(request)
    grant = Grant.objects.get()
    assert before <= grant.starts_at <= now()
    assert grant.expires_at - grant.starts_at == timedelta(seconds=600)
    entry = Entry.objects.get(event="grant.activated")
    assert entry.at == grant.starts_at


def test_a_grant_ends_by_the_clock_alone(cast: Cast, clock: Clock) -> None:
    grant = cast.grant(seconds=600)
    clock.at(grant.expires_at - timedelta(seconds=5))
    assert cast.verdict("git_commit").allowed
    clock.at(grant.expires_at)
    with gains():
        assert cast.verdict("git_commit").code == "expired"
    grant.refresh_from_db()
    assert grant.ended_at is None, "no worker came by"


def test_a_denial_by_one_is_enough_and_gives_nothing(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    request = cast.submit()
    cast.approve(request)
    with gains("decision.recorded", "request.denied"):
        closed = cast.deny(request, by=cast.bert, reason="not now")
    assert (closed.status, closed.closed_by_name, closed.closing_note) == ("denied", "bert", "not now")
    assert not Grant.objects.exists()
    assert not cast.verdict("git_commit").allowed


def test_a_decision_is_bound_to_what_was_shown(cast: Cast) -> None:
    one, other = cast.submit("git_commit"), cast.submit("git_reset")
    for digest in (other.digest, "", one.digest.upper()):
        with refused("request.digest", "Open the request again"):
            cast.approve(one, digest=digest)
    assert cast.approve(one).status == "approved"


def test_a_request_that_was_tampered_with_cannot_be_approved(cast: Cast, postgresql: bool) -> None:
    """Whoever can drop the trigger can change the row, but not to what the digest says."""
    from django.db import connection

    request = cast.submit("git_commit")
    with connection.cursor() as cursor:
        on = " ON jit_requests_accessrequest" if postgresql else ""
        cursor.execute(f"DROP TRIGGER jit_requests_accessrequest_kept_update{on}")
        cursor.execute("UPDATE jit_requests_accessrequest SET seconds = 14400")
    with refused("request.digest"):
        cast.approve(request)


def test_who_is_not_among_the_approvers_cannot_decide(cast: Cast) -> None:
    request = cast.submit(principal=cast.principal(issued_by=None))
    for decide in (cast.approve, cast.deny):
        with refused("request.unknown"):
            decide(request, by=cast.carl)
        with refused("decision.not_eligible"):
            decide(request, by=cast.admin)
    User.objects.filter(pk=cast.anna.pk).update(is_active=False)
    with refused("request.unknown"):
        cast.approve(request)
    with refused("request.unknown"):
        approve_request(request_id=uuid7(), approver=cast.bert, channel="web", digest=request.digest)


def test_a_team_of_approvers_is_asked_as_it_is_now(cast: Cast) -> None:
    cast.change_policy("team:demo")
    request = cast.submit()
    cast.team.members.remove(cast.anna)
    cast.team.members.add(cast.carl)
    with refused("request.unknown"):
        cast.approve(request, by=cast.anna)
    assert cast.approve(request, by=cast.carl).status == "approved"


def test_self_is_one_person_however_many_hats(cast: Cast) -> None:
    cast.reviewers.members.add(cast.admin, cast.carl)
    cast.agent.users.add(cast.carl)
    cast.team.members.add(cast.carl)
    value, _ = issue_token(
        agent=cast.agent, ttl=60, user=cast.carl, operator=Actor(user=cast.bert.pk, user_name="bert")
    )
    request = cast.submit(principal=authenticate(value))
    for person, why in ((cast.olga, "own the agent"), (cast.bert, "issued the token"), (cast.carl, "on your behalf")):
        for decide in (cast.approve, cast.deny):
            with refused("decision.self", why):
                decide(request, by=person)
        assert not selectors.inbox_of(person)
    assert {user.username for user in standing.approvers_of(request)} == {"anna", "admin"}
    assert selectors.inbox_of(cast.anna) == [request]
    assert cast.approve(request, by=cast.admin).status == "approved"


def test_the_owner_of_now_is_self_too(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    request = cast.submit()
    cast.approve(request, by=cast.anna)
    Agent.objects.update(owner=cast.anna)
    cast.approve(request, by=cast.bert)
    request.refresh_from_db()
    assert request.status == "pending", "anna became self: her approval no longer counts"
    with refused("decision.self"):
        cast.approve(request, by=cast.olga)  # it was her agent when it asked
    request.refresh_from_db()
    assert request.status == "pending"


def test_a_request_that_may_no_longer_be_asked_for_cannot_be_approved(cast: Cast) -> None:
    changes = (
        lambda: Requestable.objects.all().delete(),
        lambda: Requestable.objects.update(max_minutes=1),
        lambda: Requestable.objects.update(team=Team.objects.create(name="others")),
        lambda: ServerAccess.objects.all().delete(),
    )
    for change in changes:
        with transaction.atomic():
            request = cast.submit()
            change()
            with gains("request.invalidated"), pytest.raises(Conflict, match="may no longer be asked for"):
                cast.approve(request, by=cast.anna)
            assert not Grant.objects.exists()
            transaction.set_rollback(True)


def test_a_request_nobody_can_approve_is_refused_when_it_is_filed(cast: Cast) -> None:
    cast.change_policy(quorum=3)  # anna, bert and olga are in it, but olga is self
    with refused("request.nobody_can_approve"):
        cast.submit()


def test_a_quorum_of_two_needs_two_people(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    request = cast.submit()
    with gains("decision.recorded"):
        assert cast.approve(request, by=cast.anna).status == "pending"
    assert not Grant.objects.exists()
    with refused("decision.already_yours", "others are still needed"):
        cast.approve(request, by=cast.anna)
    with gains(*APPROVED):
        assert cast.approve(request, by=cast.bert).status == "approved"
    assert '["anna","bert"]' in Entry.objects.get(event="request.approved").data


def test_the_quorum_is_the_one_at_filing(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    request = cast.submit()
    cast.change_policy(quorum=1)
    assert cast.approve(request, by=cast.anna).status == "pending"


def test_an_approver_who_left_the_group_no_longer_counts(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    cast.reviewers.members.add(cast.carl)
    request = cast.submit()
    cast.approve(request, by=cast.anna)
    cast.reviewers.members.remove(cast.anna)
    assert cast.approve(request, by=cast.bert).status == "pending"
    assert not Grant.objects.exists()
    assert cast.approve(request, by=cast.carl).status == "approved"


def test_an_approver_who_was_deactivated_no_longer_counts(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    request = cast.submit()
    cast.approve(request, by=cast.anna)
    User.objects.filter(pk=cast.anna.pk).update(is_active=False)
    assert cast.approve(request, by=cast.bert).status == "pending"


def test_every_group_is_asked(cast: Cast) -> None:
    cast.change_policy(groups=[("reviewers", ["team:reviewers"], 1), ("owners", ["user:carl"], 1)])
    request = cast.submit()
    assert cast.approve(request, by=cast.anna).status == "pending"
    assert cast.approve(request, by=cast.carl).status == "approved"


def test_a_group_that_is_gone_approves_nothing(cast: Cast) -> None:
    request = cast.submit()
    cast.reviewers.delete()
    with refused("decision.not_eligible"):
        cast.approve(request)


def test_whoever_approved_may_still_deny(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    request = cast.submit()
    cast.approve(request)
    assert cast.deny(request).status == "denied"
    assert list(Decision.objects.order_by("at").values_list("verdict", "live")) == [("approve", False), ("deny", True)]


OBSTACLES: dict[str, Callable[[Cast], object]] = {
    "has changed": lambda cast: Tool.objects.filter(name="git_commit").update(digest="sha256:new"),
    "changed since it was asked for": lambda cast: [
        Tool.objects.filter(name="git_commit").update(digest="sha256:new"),
        classify_tool(tool=Tool.objects.get(name="git_commit"), access="write", operator=OPERATOR),
    ],
    "since it was asked": lambda cast: classify_tool(
        tool=cast.tools["git_commit"], access="destructive", operator=OPERATOR
    ),
    "is gone": lambda cast: Tool.objects.filter(name="git_commit").update(present=False),
    "tool git_commit is gone": lambda cast: Server.objects.update(enabled=False),
    "git_commit is gone": lambda cast: cast.tools["git_commit"].delete(),
    "is disabled": lambda cast: set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR),
    "the owner of demo-agent is not active": lambda cast: User.objects.filter(username="olga").update(is_active=False),
    "may no longer use": lambda cast: Agent.objects.update(owner=cast.admin),
}


@pytest.mark.parametrize(("why", "change"), OBSTACLES.items(), ids=list(OBSTACLES))
def test_what_was_asked_for_and_is_no_longer_there_is_void_and_on_record(
    cast: Cast, why: str, change: Callable[[Cast], object]
) -> None:
    request = cast.submit(principal=cast.principal(user=cast.olga))
    change(cast)
    with gains("request.invalidated"), pytest.raises(Conflict, match=why) as caught:
        cast.approve(request)
    assert caught.value.code == "request.invalidated"
    request.refresh_from_db()
    assert request.status == "invalidated"
    assert why in request.closing_note
    assert not Grant.objects.exists()
    assert not Decision.objects.exists()
    with refused("request.already_decided", "Already invalidated by system:workflow at"):
        cast.approve(request, by=cast.bert)


def test_what_can_no_longer_be_granted_can_still_be_denied(cast: Cast) -> None:
    request = cast.submit()
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    assert cast.deny(request).status == "denied"


def test_past_its_deadline_nobody_decides(cast: Cast, clock: Clock) -> None:
    request = cast.submit()
    clock.at(request.pending_until)
    for decide in (cast.approve, cast.deny):
        with refused("request.expired", "expired at"):
            decide(request)


def _approved(cast: Cast, clock: Clock) -> AccessRequest:
    return cast.grant().request


def _denied(cast: Cast, clock: Clock) -> AccessRequest:
    return cast.deny(cast.submit())


def _cancelled(cast: Cast, clock: Clock) -> AccessRequest:
    return cancel_request(request_id=cast.submit().pk, principal=cast.principal())


def _expired(cast: Cast, clock: Clock) -> AccessRequest:
    from requests_app.tasks import lapse_requests

    request = cast.submit()
    clock.shift(3601)
    assert lapse_requests() == 1
    return request


@pytest.mark.parametrize("end", [_approved, _denied, _cancelled, _expired])
def test_what_is_decided_stays_decided(cast: Cast, clock: Clock, end: Callable[[Cast, Clock], AccessRequest]) -> None:
    request = end(cast, clock)
    request.refresh_from_db()
    said = f"Already {end.__name__[1:]}"
    for decide in (cast.approve, cast.deny):
        with refused("request.already_decided", said):
            decide(request, by=cast.bert)
    with refused("request.already_decided", said):
        cancel_request(request_id=request.pk, principal=cast.principal())


def test_cancelling_is_for_the_principal_that_filed_it(cast: Cast) -> None:
    cast.agent.users.add(cast.carl)
    cast.team.members.add(cast.carl)
    own = cast.principal(user=cast.carl)
    request = cast.submit(principal=own)
    other = Agent.objects.create(name="other", owner=cast.olga, team=cast.team)
    strangers = (cast.principal(), cast.principal(other), cast.principal(user=cast.olga), Principal.of_user(cast.anna))
    for stranger in strangers:
        with refused("request.unknown"):
            cancel_request(request_id=request.pk, principal=stranger)
    with gains("request.cancelled"):
        closed = cancel_request(request_id=request.pk, principal=own)
    assert (closed.status, closed.closed_by_name) == ("cancelled", own.label)


def test_a_very_long_name_can_cancel_too(cast: Cast) -> None:
    name = "u" * 150
    user = User.objects.create_user(username=name)
    cast.agent.users.add(user)
    cast.team.members.add(user)
    principal = cast.principal(user=user)
    request = cast.submit(principal=principal)
    assert cancel_request(request_id=request.pk, principal=principal).closed_by_name.startswith("demo-agent for uuu")


def test_the_reason_of_a_decision_is_bounded_and_inert(cast: Cast) -> None:
    request = cast.submit()
    with refused("decision.reason", "2001 characters"):
        cast.approve(request, reason="x" * 2001)
    cast.approve(request, reason="\0\u202e")
    assert Decision.objects.get().reason == "\\u{0}\\u{202e}"


def test_history_cannot_be_deleted_with_what_it_names(cast: Cast) -> None:
    cast.grant()
    for row in (cast.agent, cast.anna, cast.olga):
        with pytest.raises(ProtectedError):
            row.delete()


def test_people_see_what_concerns_them(cast: Cast) -> None:
    request = cast.submit()
    assert [selectors.visible_requests(user) for user in (cast.olga, cast.anna, cast.admin, cast.carl)] == [
        [request],
        [request],
        [request],
        [],
    ]
    for user, may in ((cast.olga, True), (cast.anna, True), (cast.admin, True), (cast.carl, False)):
        theirs = standing.standing_of(request, user)
        assert (theirs.may_see, theirs.may_revoke) == (may, may)
        assert theirs.may_decide is (user == cast.anna)


def test_the_timeline_tells_the_whole_life(cast: Cast) -> None:
    request = cast.grant().request
    assert [entry.event for entry in selectors.timeline_of(request)] == ["request.submitted", *APPROVED]
    assert events()[-3:] == list(APPROVED)


def test_refusals_are_of_the_right_kind(cast: Cast) -> None:
    request = cast.submit()
    with pytest.raises(Forbidden):
        cast.approve(request, by=cast.olga)
    with pytest.raises(NotFound):
        cast.approve(request, by=cast.carl)
