"""Two people at the same instant, with real connections: one outcome, one grant, one entry; the loser is told who and when."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from jitaccess.audit.models import Entry
from jitaccess.identity.models import Agent
from jitaccess.kernel.errors import Conflict
from jitaccess.policy.models import RoleBinding
from jitaccess.store.clock import now
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.services import cancel_request, release_grant, revoke_grant
from requests_app.tasks import end_due_grants, lapse_requests
from tests.cast import Cast
from tests.clocks import Clock
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)

TRIALS = 100 if os.environ.get("JITACCESS_HYPOTHESIS") == "nightly" else 6
CLOSING = {
    "approved": "request.approved",
    "denied": "request.denied",
    "cancelled": "request.cancelled",
    "expired": "request.expired",
}


def check_request(request: AccessRequest) -> str:
    """One end, one entry that says so, one grant if and only if approved; returns the status."""
    request.refresh_from_db()
    told = list(Entry.objects.filter(request=request.pk, event__in=CLOSING.values()).values_list("event", flat=True))
    assert told == [CLOSING[request.status]]
    grants = Grant.objects.filter(request=request).count()
    assert grants == (1 if request.status == "approved" else 0)
    assert Entry.objects.filter(request=request.pk, event="grant.activated").count() == grants
    assert (
        RoleBinding.objects.filter(origin_id__in=Grant.objects.filter(request=request).values("pk")).count() == grants
    )
    decided = Decision.objects.filter(request=request, live=True).count()
    assert Entry.objects.filter(request=request.pk, event="decision.recorded").count() == decided
    return request.status


def loser(results: list[Any]) -> Conflict:
    """The one who came second, with a conflict; nobody failed in another way."""
    (lost,) = [result for result in results if isinstance(result, Exception)]
    assert isinstance(lost, Conflict)
    return lost


def tidy(request: AccessRequest, cast: Cast) -> None:
    """Make room for the next trial: the same tool can be asked for again."""
    grant = Grant.objects.filter(request=request, ended_at=None).first()
    if grant and grant.expires_at > now():
        release_grant(grant_id=grant.pk, principal=cast.principal())


def contest(cast: Cast, first: Callable[[AccessRequest], Any], second: Callable[[AccessRequest], Any]) -> set[str]:
    """Race two decisions on one request, again and again; returns the ends that occurred."""
    ends = set()
    for trial in range(TRIALS):
        request = cast.submit()
        steps = [lambda: first(request), lambda: second(request)]
        results = race(*(steps if trial % 2 else reversed(steps)))
        end = check_request(request)
        lost = loser(results)
        assert lost.code == "request.already_decided"
        said = re.fullmatch(rf"Already {end} by (.+) at \d\d:\d\d UTC\.", lost.detail)
        assert said, lost.detail
        assert said[1] == request.closed_by_name
        ends.add(end)
        tidy(request, cast)
    return ends


def cancel(cast: Cast) -> Callable[[AccessRequest], Any]:
    return lambda request: cancel_request(request_id=request.pk, principal=cast.principal())


def test_two_people_approve_at_once(cast: Cast) -> None:
    ends = contest(cast, cast.approve, lambda request: cast.approve(request, by=cast.bert))
    assert ends == {"approved"}
    assert Grant.objects.count() == TRIALS


def test_one_approves_while_another_denies(cast: Cast) -> None:
    ends = contest(cast, cast.approve, lambda request: cast.deny(request, by=cast.bert))
    assert ends <= {"approved", "denied"}


def test_one_approves_while_the_agent_cancels(cast: Cast) -> None:
    assert contest(cast, cast.approve, cancel(cast)) <= {"approved", "cancelled"}


def test_one_person_approves_twice_in_two_windows(cast: Cast) -> None:
    assert contest(cast, cast.approve, cast.approve) == {"approved"}


def test_the_two_needed_approve_at_once(cast: Cast) -> None:
    cast.change_policy(quorum=2)
    for _ in range(TRIALS):
        request = cast.submit()
        race(lambda: cast.approve(request), lambda: cast.approve(request, by=cast.bert))
        assert check_request(request) == "approved", "neither overlooks the other"
        assert Decision.objects.filter(request=request).count() == 2
        tidy(request, cast)


def test_an_approval_at_the_deadline_meets_the_sweep(cast: Cast, clock: Clock) -> None:
    for trial in range(TRIALS):
        request = cast.submit()
        clock.at(request.pending_until - timedelta(milliseconds=80 * trial // TRIALS))
        results = race(lambda: cast.approve(request), lapse_requests)
        request.refresh_from_db()
        if request.pending:  # the sweep looked before the deadline, the approver came after it
            assert results[0].code == "request.expired"
            clock.shift(1)
            assert lapse_requests() == 1
        if check_request(request) == "approved":
            assert Decision.objects.get(request=request).at < request.pending_until
            tidy(request, cast)
        else:
            assert results[0].code in {"request.expired", "request.already_decided"}


def test_revoked_released_and_expired_at_once_a_grant_ends_once(cast: Cast, clock: Clock) -> None:
    for trial in range(TRIALS):
        grant = cast.grant(seconds=60)
        clock.at(grant.expires_at - timedelta(milliseconds=80 * trial // TRIALS))
        results = race(
            lambda: revoke_grant(grant_id=grant.pk, user=cast.anna),
            lambda: release_grant(grant_id=grant.pk, principal=cast.principal()),
            end_due_grants,
        )
        clock.shift(1)
        end_due_grants()  # when the sweep came just before the end, and the others just after
        grant.refresh_from_db()
        ends = Entry.objects.filter(grant=grant.pk, event__in=("grant.revoked", "grant.released", "grant.expired"))
        assert list(ends.values_list("event", flat=True)) == [f"grant.{grant.end_reason}"]
        losers = [result for result in results[:2] if isinstance(result, Exception)]
        assert len(losers) == (2 if grant.end_reason == "expired" else 1)
        for lost in losers:
            assert lost.code == "grant.ended"
            assert re.search(
                r"(was (revoked|released|expired)|expired)( by (anna|demo-agent))? at \d\d:\d\d UTC", lost.detail
            )
        assert not cast.verdict("git_commit").allowed


def test_two_revoke_at_once(cast: Cast) -> None:
    for _ in range(TRIALS):
        grant = cast.grant()
        results = race(
            *(lambda user=user: revoke_grant(grant_id=grant.pk, user=user) for user in (cast.anna, cast.bert))
        )
        lost = loser(results)
        grant.refresh_from_db()
        assert re.fullmatch(rf"This grant was revoked by {grant.ended_by_name} at \d\d:\d\d UTC\.", lost.detail)
        assert Entry.objects.filter(grant=grant.pk, event="grant.revoked").count() == 1


def test_two_sweeps_at_once_write_one_end_each(cast: Cast, clock: Clock) -> None:
    for _ in range(5):
        grants = [cast.grant(tool, seconds=60) for tool in ("git_commit", "git_add", "git_reset")]
        clock.shift(61)
        assert sum(race(end_due_grants, end_due_grants)) == 3
        for grant in grants:
            assert Entry.objects.filter(grant=grant.pk, event="grant.expired").count() == 1


def test_the_same_ask_at_once_is_one_request(cast: Cast) -> None:
    for trial in range(1, TRIALS + 1):
        results = race(*[cast.submission] * 3)
        assert len({result.request.pk for result in results}) == 1
        assert sorted(result.coalesced for result in results) == [False, True, True]
        assert AccessRequest.objects.count() == trial
        assert Entry.objects.filter(event="request.submitted").count() == trial
        cast.deny(results[0].request)


def test_the_cap_holds_when_many_ask_at_once(cast: Cast) -> None:
    for number in range(8):
        cast.submit(seconds=60 + number)
    results = race(*(lambda seconds=seconds: cast.submit(seconds=seconds) for seconds in range(100, 105)))
    assert sum(isinstance(result, AccessRequest) for result in results) == 2
    assert {result.code for result in results if isinstance(result, Exception)} == {"request.too_many_pending"}


def test_an_ask_and_an_approval_at_once_do_not_wait_for_each_other_for_ever(cast: Cast) -> None:
    for number in range(10):
        request = cast.submit()
        results = race(lambda: cast.approve(request), lambda number=number: cast.submit("git_add", seconds=60 + number))
        assert not [result for result in results if isinstance(result, Exception)]
        assert check_request(request) == "approved"
        tidy(request, cast)
        cancel_request(request_id=results[1].pk, principal=cast.principal())


def test_what_changes_while_an_approval_waits_for_its_turn_is_seen_by_it(cast: Cast, postgresql: bool) -> None:
    request = cast.submit()
    answer: list[object] = []

    def approve() -> None:
        try:
            answer.append(cast.approve(request, by=cast.anna))
        except Conflict as error:
            answer.append(error)
        finally:
            connection.close()

    waiting = threading.Thread(target=approve)
    with transaction.atomic():
        AccessRequest.objects.select_for_update().get(pk=request.pk)
        waiting.start()
        deadline = time.monotonic() + 10
        while postgresql and not _somebody_waits():
            assert time.monotonic() < deadline
        Agent.objects.filter(pk=cast.agent.pk).update(enabled=False)
    waiting.join(30)
    assert isinstance(answer[0], Conflict), answer
    assert answer[0].code == "request.invalidated"
    assert not Grant.objects.exists()


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])
