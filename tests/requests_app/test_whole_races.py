"""Everybody at the same instant, each with a connection of their own: one outcome, and the ledger tells the same story."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import set_agent_enabled
from jitaccess.kernel.errors import JitAccessError
from jitaccess.policy.delegations import delegate, end_delegation
from jitaccess.policy.models import RoleBinding
from jitaccess.store.clock import now
from requests_app import standing
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.services import (
    Ask,
    submit_request,
)
from requests_app.sweeps import invalidate_requests
from requests_app.tasks import end_grants_of_disabled, lapse_requests
from tests.cast import OPERATOR, Cast, person
from tests.clocks import Clock
from tests.races import race
from tests.requests_app.test_races import CLOSING, cancel, tidy

pytestmark = pytest.mark.django_db(transaction=True)

TRIALS = 100 if os.environ.get("JITACCESS_HYPOTHESIS") == "nightly" else 3


@pytest.fixture
def crowd(cast: Cast) -> list[User]:
    """Sixteen reviewers, none of whom asks."""
    people = [cast.anna, cast.bert, *(person(f"reviewer{number}") for number in range(14))]
    cast.reviewers.members.set(people)
    return people


def errors(results: list[Any]) -> list[JitAccessError]:
    return [result for result in results if isinstance(result, JitAccessError)]


def told(request: AccessRequest) -> list[str]:
    """How the ledger says that the request ended."""
    entries = Entry.objects.filter(
        request=request.pk, event__in=[*CLOSING.values(), "request.invalidated", "request.superseded"]
    )
    return [event.removeprefix("request.") for event in entries.values_list("event", flat=True)]


def one_end(request: AccessRequest) -> str:
    """The request has ended once, the ledger says so once, and there is a grant if and only if it was approved."""
    request.refresh_from_db()
    grants = Grant.objects.filter(request=request)
    assert told(request) == [request.status], (told(request), request.status)
    given = request.status == "approved" and request.kind == "access"
    assert grants.count() == given
    assert RoleBinding.objects.filter(origin_id__in=grants.values("pk")).count() == given
    live = Decision.objects.filter(request=request, live=True)
    assert Entry.objects.filter(request=request.pk, event="decision.recorded").count() == live.count()
    return request.status


# -- who decides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quorum", "approvers"), [(1, 2), (1, 16), (2, 2), (2, 3), (2, 16), (3, 3), (3, 8), (3, 16)])
def test_however_many_approve_at_once_the_quorum_decides(
    quorum: int, approvers: int, cast: Cast, crowd: list[User]
) -> None:
    cast.change_policy(quorum=quorum)
    for _ in range(TRIALS if approvers < 16 else max(TRIALS // 3, 1)):
        request = cast.submit()
        results = race(*(lambda one=one: cast.approve(request, by=one) for one in crowd[:approvers]))
        assert one_end(request) == "approved"
        assert Decision.objects.filter(request=request).count() == quorum, "nobody decides on what is decided"
        assert {error.code for error in errors(results)} <= {"request.already_decided"}
        assert len(errors(results)) == approvers - quorum
        tidy(request, cast)


def test_as_many_deny_as_approve_at_once(cast: Cast, crowd: list[User]) -> None:
    cast.change_policy(quorum=2, deny_threshold=2)
    for number in range(TRIALS):
        request = cast.submit(seconds=600 + number)
        results = race(
            *(lambda one=one: cast.approve(request, by=one) for one in crowd[:4]),
            *(lambda one=one: cast.deny(request, by=one) for one in crowd[4:8]),
        )
        end = one_end(request)
        for_it, against = (
            Decision.objects.filter(request=request, verdict=verdict).count() for verdict in ("approve", "deny")
        )
        assert (for_it if end == "approved" else against) == 2
        assert for_it + against + len(errors(results)) == 8
        assert end in {"approved", "denied"}
        assert max(for_it, against) == 2
        tidy(request, cast)


def test_the_last_two_of_two_stages_at_once(cast: Cast) -> None:
    stages = """
- name: all
  stages:
    - groups: [{name: reviewers, people: ["user:anna", "user:bert"], quorum: 1}]
    - groups: [{name: security, people: ["user:bert", "user:carl"], quorum: 1}]
"""
    cast.change_policy(rules=stages)
    for _ in range(TRIALS):
        request = cast.submit()
        results = race(*(lambda one=one: cast.approve(request, by=one) for one in (cast.anna, cast.bert, cast.carl)))
        if cast_pending(request):
            assert not Grant.objects.filter(request=request).exists()
            cast.approve(request, by=cast.bert)
        assert one_end(request) == "approved"
        decided = list(Decision.objects.filter(request=request).order_by("stage").values_list("stage", flat=True))
        assert decided == [0, 1], "each stage by one person"
        assert {error.code for error in errors(results)} <= {"decision.not_eligible", "request.already_decided"}
        tidy(request, cast)


def cast_pending(request: AccessRequest) -> bool:
    request.refresh_from_db()
    return request.pending


# -- approve against everything else ----------------------------------------------------------------------------------


def against(
    cast: Cast, other: Callable[[AccessRequest], Any], undo: Callable[[], Any] = lambda: None, **asked: Any
) -> list[tuple[str, list[Any]]]:
    """Approve while `other` happens, again and again; the ends, and what both were told."""
    ends = []
    for trial in range(TRIALS * 2):
        request = cast.submit(**asked)
        steps = [lambda: cast.approve(request), lambda: other(request)]
        results = race(*steps) if trial % 2 else race(*reversed(steps))[::-1]
        ends.append((request, results))
        undo()
        invalidate_requests()
        tidy(request, cast)
    return [(one_end(request), results) for request, results in ends]


def test_approve_against_deny_and_cancel(cast: Cast) -> None:
    for other in (lambda request: cast.deny(request, by=cast.bert), cancel(cast)):
        for end, results in against(cast, other):
            assert end in {"approved", "denied", "cancelled"}
            (lost,) = errors(results)
            assert lost.code == "request.already_decided"


def test_approve_against_the_deadline(cast: Cast, clock: Clock) -> None:
    for trial in range(TRIALS * 2):
        request = cast.submit()
        clock.at(request.pending_until - timedelta(milliseconds=5 * trial))
        results = race(lambda: cast.approve(request), lapse_requests, lapse_requests)
        clock.shift(1)
        lapse_requests()
        end = one_end(request)
        assert bool(errors(results)) is (end == "expired")
        tidy(request, cast)


def test_approve_against_a_changed_policy_keeps_what_was_pinned(cast: Cast) -> None:
    for number in range(TRIALS):
        quorum = 1 + number % 2
        cast.change_policy(quorum=quorum)
        request = cast.submit()
        race(
            lambda: cast.approve(request),
            lambda: cast.change_policy("user:carl"),
            lambda: cast.approve(request, by=cast.bert),
        )
        assert one_end(request) == "approved"
        assert Decision.objects.filter(request=request).count() == quorum
        tidy(request, cast)


def test_approve_against_an_agent_that_is_disabled(cast: Cast) -> None:
    def enabled(on: bool) -> Callable[..., None]:
        return lambda *_: set_agent_enabled(agent=Agent.objects.get(), enabled=on, operator=OPERATOR)

    def undo() -> None:
        assert not cast.verdict("git_commit").allowed, "whoever was first"
        end_grants_of_disabled()
        invalidate_requests()
        enabled(True)()

    for end, results in against(cast, enabled(False), undo):
        assert end in {"approved", "invalidated"}
        assert [error.code for error in errors(results)] == (["request.invalidated"] if end == "invalidated" else [])
    assert not Grant.objects.filter(ended_at=None).exists(), "what was granted to a disabled agent does not come back"


def test_approve_against_the_end_of_the_delegation(cast: Cast) -> None:
    mine = Principal.of_user(cast.anna).actor()
    for _ in range(TRIALS):
        lent = delegate(person=cast.anna, to=cast.carl, ends_at=now() + timedelta(hours=1), operator=mine)
        request = cast.submit()
        results = race(
            lambda: cast.approve(request, by=cast.carl), lambda: end_delegation(delegation=lent, operator=mine)
        )
        if errors(results):
            assert {error.code for error in errors(results)} <= {"request.unknown", "decision.not_eligible"}
            assert cast_pending(request)
            cast.approve(request)
        assert one_end(request) == "approved"
        assert Decision.objects.filter(request=request).count() == 1
        tidy(request, cast)


def test_two_stand_in_for_one_at_once_and_are_one_seat(cast: Cast) -> None:
    """The person and who stands in for them: two people, one seat, so a quorum of two is not met."""
    cast.change_policy("user:anna", "user:bert", quorum=2)
    mine = Principal.of_user(cast.anna).actor()
    delegate(person=cast.anna, to=cast.carl, ends_at=now() + timedelta(hours=1), operator=mine)
    for _ in range(TRIALS):
        request = cast.submit()
        race(lambda: cast.approve(request), lambda: cast.approve(request, by=cast.carl))
        assert cast_pending(request)
        assert not Grant.objects.filter(request=request).exists()
        cast.approve(request, by=cast.bert)
        assert one_end(request) == "approved"
        tidy(request, cast)


def test_a_stand_in_who_is_away_too_leaves_it_to_the_fallback(cast: Cast) -> None:
    cast.change_policy("user:anna", fallback={"name": "admins", "people": ["user:carl"], "quorum": 1})
    for person_, to in ((cast.anna, cast.bert), (cast.bert, None)):
        mine = Principal.of_user(person_).actor()
        delegate(person=person_, to=to, ends_at=now() + timedelta(hours=1), operator=mine)
    request = cast.submit()
    assert "carl" in [one.username for one in standing.approvers_of(request)]
    assert cast.approve(request, by=cast.carl).status == "approved"


def test_approve_against_the_request_that_replaces_it(cast: Cast) -> None:
    for _ in range(TRIALS * 2):
        request = cast.submit(seconds=600)
        snapshot, principal = cast.snapshot(), cast.principal()
        ask = Ask(tools=[("git", "git_commit")], reason="Shorter", seconds=300, supersedes=request.pk)
        results = race(
            lambda: cast.approve(request),
            lambda: submit_request(principal=principal, ask=ask, snapshot=snapshot).request,
        )
        end = one_end(request)
        assert end in {"approved", "superseded"}
        (lost,) = errors(results)
        assert lost.code == "request.already_decided"
        replaced = list(AccessRequest.objects.filter(supersedes=request))
        assert len(replaced) == (end == "superseded")
        tidy(request, cast)
        for one in replaced:
            cancel(cast)(one)
