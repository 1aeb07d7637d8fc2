"""Grants at the same instant: extended while they end, used twice, against locks; and workers that come by or do not."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.gateway.recording.batch import admit_batch
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.facts import Intent
from jitaccess.identity.models import Agent, Team
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import issue_token, set_agent_enabled
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.locks import lock, unlock
from jitaccess.policy.models import BindingUse, BreakGlass, RoleBinding
from jitaccess.policy.services import save_role, used_up_grants
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.clock import now
from requests_app.models import AccessRequest, Grant
from requests_app.services import (
    Ask,
    ExactCall,
    extend_grant,
    release_grant,
    revoke_grant,
    submit_request,
)
from requests_app.services.break_glass import break_glass
from requests_app.sweeps import invalidate_requests
from requests_app.tasks import end_due_grants, end_grants_of_disabled, end_used_up_grants, lapse_requests
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock
from tests.races import race
from tests.requests_app.test_races import check_request, tidy
from tests.requests_app.test_whole_races import errors, one_end

pytestmark = pytest.mark.django_db(transaction=True)

TRIALS = 100 if os.environ.get("JITACCESS_HYPOTHESIS") == "nightly" else 3
CALL: dict[str, Any] = {"repo_path": ".", "message": "release 2.4"}
ENDS = ("grant.revoked", "grant.released", "grant.expired", "grant.subject_disabled")
FIXER = """\
kind: role
version: v1
metadata: {name: fixer}
spec: {allow: [{servers: [git], tools: ["git_*"]}]}
"""


def one_grant_end(grant: Grant) -> str:
    """A grant has ended at most once, and the ledger says the same."""
    grant.refresh_from_db()
    events = list(Entry.objects.filter(grant=grant.pk, event__in=ENDS).values_list("event", flat=True))
    assert events == ([f"grant.{grant.end_reason}"] if grant.ended_at else [])
    return str(grant.end_reason)


# -- extensions -------------------------------------------------------------------------------------------------------


def extension(cast: Cast, seconds: int = 600) -> tuple[Grant, AccessRequest]:
    """A live grant and a pending request for more of it."""
    cast.requestable.max_total_minutes = 480
    cast.requestable.save()
    grant = cast.grant(seconds=seconds)
    principal, snapshot = cast.principal(), cast.snapshot()
    asked = extend_grant(grant_id=grant.pk, principal=principal, seconds=300, reason="Longer", snapshot=snapshot)
    return grant, asked.request


def check_extension(grant: Grant, request: AccessRequest, results: list[Any]) -> str:
    """The end moved once if and only if the extension was approved; then the grant may have ended afterwards."""
    before = grant.expires_at
    request.refresh_from_db()
    if request.pending:
        invalidate_requests()
    end = one_end(request)
    assert end in {"approved", "invalidated"}
    one_grant_end(grant)
    moved = before + timedelta(seconds=300) if end == "approved" else before
    assert grant.expires_at == moved
    assert set(RoleBinding.objects.filter(origin_id=grant.pk).values_list("expires_at", flat=True)) == {moved}
    assert Entry.objects.filter(grant=grant.pk, event="grant.extended").count() == (end == "approved")
    assert {error.code for error in errors(results)} <= {"request.invalidated", "grant.ended"}
    return end


@pytest.mark.parametrize("how", ["revoked", "released"])
def test_an_extension_is_approved_while_its_grant_ends(how: str, cast: Cast) -> None:
    for trial in range(TRIALS * 2):
        grant, request = extension(cast)
        principal = cast.principal()
        ends = {
            "revoked": lambda: revoke_grant(grant_id=grant.pk, user=cast.bert),
            "released": lambda: release_grant(grant_id=grant.pk, principal=principal),
        }
        steps = [lambda: cast.approve(request), ends[how]]
        results = race(*(steps if trial % 2 else reversed(steps)))
        check_extension(grant, request, results)
        assert grant.end_reason == how, "less access never loses"
        assert not cast.verdict("git_commit").allowed


def test_an_extension_is_approved_while_its_grant_expires(cast: Cast, clock: Clock) -> None:
    for trial in range(TRIALS * 2):
        grant, request = extension(cast)
        ends = grant.expires_at
        clock.at(ends - timedelta(milliseconds=6 * trial))
        results = race(lambda: cast.approve(request), end_due_grants, end_due_grants)
        clock.at(ends + timedelta(seconds=1))
        end = check_extension(grant, request, results)
        assert cast.verdict("git_commit").allowed is (end == "approved")
        assert bool(grant.ended_at) is False or end == "invalidated"
        tidy(grant.request, cast)


def test_one_extension_is_approved_by_two_at_once_and_moves_the_end_once(cast: Cast) -> None:
    for _ in range(TRIALS):
        grant, request = extension(cast)
        results = race(lambda: cast.approve(request), lambda: cast.approve(request, by=cast.bert))
        assert [error.code for error in errors(results)] == ["request.already_decided"]
        assert check_extension(grant, request, []) == "approved"
        tidy(grant.request, cast)


def test_two_extensions_of_one_grant_at_once_never_go_beyond_its_life(cast: Cast) -> None:
    for _ in range(TRIALS):
        grant, first = extension(cast)
        snapshot, before = cast.snapshot(), grant.expires_at
        assert grant.latest
        left = int((grant.latest - before).total_seconds())
        second = extend_grant(
            grant_id=grant.pk, principal=cast.principal(), seconds=left, reason="All", snapshot=snapshot
        ).request
        results = race(lambda: cast.approve(first), lambda: cast.approve(second, by=cast.bert))
        # Where the one that asks for all comes first, nothing is left that the other could give.
        void = [one.code for one in errors(results)]
        assert void in ([], ["request.invalidated"])
        assert [one_end(first), one_end(second)] == ["invalidated" if void else "approved", "approved"]
        grant.refresh_from_db()
        assert grant.expires_at == grant.latest
        assert Entry.objects.filter(grant=grant.pk, event="grant.extended").count() == 2 - len(void)
        tidy(grant.request, cast)


# -- calls ------------------------------------------------------------------------------------------------------------


class Gateway:
    """What a gateway process has of its own: its snapshot and its name."""

    def __init__(self) -> None:
        self.store, self.guard, self.instance = SnapshotStore(), ClockGuard(), uuid7()
        _ = self.store.current

    def call(self, principal: Principal, cast: Cast, arguments: dict[str, Any]) -> bool:
        intent = Intent(
            principal,
            cast.server.pk,
            "git",
            "git_commit",
            arguments_digest(arguments),
            dict(arguments),
            given=arguments,
        )
        (answer,) = admit_batch(
            [intent], store=self.store, instance=self.instance, guard=self.guard, lease_until=lambda: float("inf")
        )
        return answer.allowed


def bearer(cast: Cast) -> Principal:
    _, token = issue_token(agent=cast.agent, ttl=3600, operator=Principal.of_user(cast.admin).actor())
    return cast.principal(token_hash=token.hash)


def test_one_exact_call_is_made_once_through_two_gateways_at_once(cast: Cast) -> None:
    principal, gateways = bearer(cast), [Gateway(), Gateway()]
    ask = Ask(calls=[ExactCall("git", "git_commit", CALL)], reason="The release")
    for _ in range(TRIALS * 2):
        request = submit_request(principal=principal, ask=ask, snapshot=cast.snapshot()).request
        cast.approve(request)
        before = Entry.objects.filter(event="call.authorized").count()
        given = [CALL, dict(reversed(CALL.items()))]
        results = race(
            *(lambda one=one, n=n: one.call(principal, cast, given[n % 2]) for n in range(2) for one in gateways)
        )
        assert sorted(results) == [False, False, False, True]
        assert Entry.objects.filter(event="call.authorized").count() == before + 1
        assert BindingUse.objects.get(binding__origin_id=request.grant.pk).left == 0
        tidy(request, cast)


def test_a_call_against_a_lock_is_on_record_before_it_or_refused(cast: Cast) -> None:
    principal, gateway = bearer(cast), Gateway()
    cast.grant()
    for trial in range(TRIALS * 2):
        steps: list[Callable[[], Any]] = [
            lambda: gateway.call(principal, cast, CALL),
            lambda: lock(kind="everything", reason="Stop", operator=OPERATOR),
        ]
        results = race(*(steps if trial % 2 else reversed(steps)))
        allowed = next(result for result in results if isinstance(result, bool))
        made = next(result for result in results if not isinstance(result, bool))
        assert not gateway.call(principal, cast, CALL), "after the lock nothing is allowed"
        if allowed:
            last = Entry.objects.filter(event="call.authorized").latest("uid")
            assert last.policy_version is not None
            locked = Entry.objects.filter(event="lock.created").latest("uid")
            # At the same moment is before: the call was decided on what was in force until the lock was committed.
            assert last.at <= locked.at + timedelta(seconds=1)
        unlock(lock=made, operator=OPERATOR)
        assert gateway.call(principal, cast, CALL)


def test_break_glass_against_an_agent_that_is_disabled(cast: Cast) -> None:
    watch = Team.objects.create(name="watch")
    watch.members.add(cast.bert)
    role = save_role(document=FIXER, operator=OPERATOR)
    right = BreakGlass.objects.create(name="fix-git", role=role, max_minutes=30, reviewers=watch)
    right.users.add(cast.olga)
    principal = cast.principal(user=cast.olga)
    for trial in range(TRIALS * 2):
        steps: list[Callable[[], Any]] = [
            lambda: break_glass(user=cast.olga, agent=cast.agent, right=right.pk, reason="It is down"),
            lambda: set_agent_enabled(agent=Agent.objects.get(), enabled=False, operator=OPERATOR),
        ]
        results = race(*(steps if trial % 2 else reversed(steps)))
        assert not cast.verdict("git_commit", principal).allowed, "a disabled agent may do nothing, whoever was first"
        used = [result for result in results if isinstance(result, Grant)]
        assert {error.code for error in errors(results)} <= {"agent.disabled"}
        assert len(used) + len(errors(results)) == 1
        assert end_grants_of_disabled() == len(used)
        set_agent_enabled(agent=Agent.objects.get(), enabled=True, operator=OPERATOR)
        assert not cast.verdict("git_commit", principal).allowed, "nor afterwards by what it was given then"
        for grant in used:
            assert one_grant_end(grant) == "subject_disabled"


# -- workers that are frozen, and a broker that loses and repeats -----------------------------------------------------


@pytest.mark.parametrize("sweeps", [0, 1, 2, 4])
def test_workers_change_no_verdict_however_often_or_seldom_they_come_by(sweeps: int, cast: Cast, clock: Clock) -> None:
    """Lost (0), delivered once, repeated (2), and by several workers at once (4); and the clock jumps."""
    for trial in range(TRIALS):
        grant = cast.grant(seconds=600)
        waiting = cast.submit("git_add")
        for seconds, allowed in ((0, True), (570, True), (600, False), (3600 * 24 * trial + 601, False)):
            clock.at(grant.starts_at + timedelta(seconds=seconds))
            race(*[end_due_grants, lapse_requests][: sweeps or 0] * max(sweeps // 2, 1)) if sweeps else None
            assert cast.verdict("git_commit").allowed is allowed, (sweeps, seconds)
        clock.at(waiting.pending_until)
        with pytest.raises(JitAccessError) as caught:
            cast.approve(waiting)
        assert caught.value.code in {"request.expired", "request.already_decided"}
        assert not Grant.objects.filter(request=waiting).exists()
        end_due_grants()  # the worker is back: what was missed is written down once
        lapse_requests()
        assert one_grant_end(grant) == "expired"
        assert grant.ended_at == grant.expires_at, "when it was over, not when that was noticed"
        assert check_request(waiting) == "expired"


def test_a_clock_that_is_set_back_gives_nobody_anything_that_was_taken(cast: Cast, clock: Clock) -> None:
    grant = cast.grant(seconds=600)
    clock.shift(120)
    revoke_grant(grant_id=grant.pk, user=cast.anna)
    locked = lock(kind="everything", reason="Stop", operator=OPERATOR, expires_at=now() + timedelta(hours=1))
    clock.shift(-60)
    assert not cast.verdict("git_commit").allowed
    assert cast.verdict("git_log").code == "locked_down", "a lock holds before it was made, too"
    unlock(lock=locked, operator=OPERATOR)
    assert not cast.verdict("git_commit").allowed


def test_a_grant_that_is_used_up_in_part_is_not_in_the_way_of_others(cast: Cast, clock: Clock) -> None:
    calls = [ExactCall("git", "git_commit", CALL), ExactCall("git", "git_add", CALL)]
    ask = Ask(calls=calls, reason="The release")
    request = submit_request(principal=cast.principal(), ask=ask, snapshot=cast.snapshot()).request
    cast.approve(request)
    first, second = BindingUse.objects.filter(binding__origin_id=request.grant.pk).order_by("pk")
    BindingUse.objects.filter(pk=first.pk).update(left=0, used_at=now())
    clock.shift(60)
    assert end_used_up_grants() == 0
    assert used_up_grants(settled=timedelta(seconds=30), limit=1) == []
    BindingUse.objects.filter(pk=second.pk).update(left=0, used_at=now())
    clock.shift(60)
    assert end_used_up_grants() == 1
