"""A call that ended with a question goes on: as the same use, once, by the same principal, decided upon anew."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from msgspec import structs

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway.models import Continuation, OpenCall
from jitaccess.gateway.recording import continuations
from jitaccess.gateway.recording.batch import admit_batch
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.continuations import ANSWER_WITHIN, forget_old_continuations
from jitaccess.gateway.recording.endings import touches_uses, write_endings
from jitaccess.gateway.recording.facts import Admitted, Ending, Intent
from jitaccess.gateway.recording.instances import register_instance
from jitaccess.identity.services import authenticate, issue_token
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.models import BindingUse, RoleBinding
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.host_clock import steady
from requests_app.models import AccessRequest
from requests_app.services import revoke_grant
from requests_app.tasks import end_used_up_grants
from tests.cast import Cast
from tests.clocks import Clock
from tests.gateway.harness import Served, data, eventually, ledger, told
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)


class Desk:
    """Batches of one process, written by the test itself."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.value, _ = issue_token(agent=cast.agent, ttl=3600, operator=cast.operator)
        self.principal = authenticate(self.value)
        self.store, self.instance = SnapshotStore(), register_instance()

    def intent(self, tool: str = "git_commit", **members: Any) -> Intent:
        given = members.pop("given", {})
        return Intent(
            self.principal, self.cast.server.pk, "git", tool, arguments_digest(given), given, given=given, **members
        )

    def admit(self, *intents: Intent, endings: tuple[Ending, ...] = ()) -> list[Admitted]:
        return admit_batch(
            intents, store=self.store, instance=self.instance, guard=ClockGuard(),
            lease_until=lambda: steady() + 60, endings=endings,
        )  # fmt: skip

    def ask(self, admitted: Admitted) -> UUID:
        """The server asked the client something: the call ends, and may go on."""
        assert admitted.allowed
        key = uuid7()
        self.end(admitted, continuation=key)
        return key

    def end(self, admitted: Admitted, event: Event = Event.CALL_COMPLETED, **members: Any) -> None:
        write_endings([Ending(admitted, event, Outcome.ALLOWED, {}, **members)], instance=self.instance)


@pytest.fixture
def desk(cast: Cast) -> Desk:
    return Desk(cast)


def codes(answers: list[Admitted]) -> list[str]:
    return [answer.code for answer in answers]


def test_a_call_that_goes_on_takes_no_further_use_and_names_the_first(cast: Cast, desk: Desk) -> None:
    binding = cast.limited(1)
    (first,) = desk.admit(desk.intent())
    key = desk.ask(first)
    assert BindingUse.objects.get().left == 0
    (second,) = desk.admit(desk.intent(continues=key))
    assert (second.allowed, second.verdict.counted, second.verdict.bindings) == (True, None, (binding.pk,))
    assert BindingUse.objects.get().left == 0
    assert not Continuation.objects.exists()
    again = desk.ask(second)
    (third,) = desk.admit(desk.intent(continues=again))
    assert third.allowed, "a second question of the same call"
    begun = ledger("call.authorized")
    assert [data(entry).get("continues") for entry in begun] == [None, *[str(first.intent.call)] * 2]
    assert codes(desk.admit(desk.intent())) == ["used_up"]


def test_each_continuation_is_good_for_one_call(desk: Desk) -> None:
    (first,) = desk.admit(desk.intent("git_log"))
    key = desk.ask(first)
    assert codes(desk.admit(*[desk.intent("git_log", continues=key) for _ in range(3)])) == [
        "allowed", "continuation_unknown", "continuation_unknown",
    ]  # fmt: skip
    (late,) = desk.admit(desk.intent("git_log", continues=key))
    assert (late.code, late.allowed, late.may_start()) == ("continuation_unknown", False, False)
    assert [data(entry)["reason_code"] for entry in ledger("call.denied")] == ["continuation_unknown"], "and counted"
    assert told().count("call.authorized") == OpenCall.objects.count() + 1 == 2


def test_one_that_was_never_made_or_is_somebody_elses_is_refused_on_record(cast: Cast, desk: Desk) -> None:
    (first,) = desk.admit(desk.intent("git_log"))
    key = desk.ask(first)
    value, _ = issue_token(agent=cast.agent, user=cast.olga, ttl=600, operator=cast.operator)
    other = authenticate(value)
    foreign = structs.replace(desk.intent("git_log", continues=key), principal=other)
    assert codes(desk.admit(foreign, desk.intent("git_log", continues=uuid4()))) == ["continuation_unknown"] * 2
    assert len(ledger("call.denied")) == 2
    assert codes(desk.admit(desk.intent("git_log", continues=key))) == ["allowed"], "it is still whose it was"


def test_it_is_decided_upon_anew_and_a_refusal_does_not_use_it_up(cast: Cast, desk: Desk) -> None:
    grant = cast.grant()
    (first,) = desk.admit(desk.intent())
    key = desk.ask(first)
    revoke_grant(grant_id=grant.pk, user=cast.anna)
    assert codes(desk.admit(desk.intent(continues=key))) == ["revoked"]
    cast.grant()
    assert codes(desk.admit(desk.intent(continues=key))) == ["allowed"]


def test_what_was_not_sent_may_go_on_again_and_takes_no_use_back(cast: Cast, desk: Desk) -> None:
    cast.limited(1)
    (first,) = desk.admit(desk.intent())
    key = desk.ask(first)
    (second,) = desk.admit(desk.intent(continues=key))
    desk.end(second, Event.CALL_NOT_SENT)
    assert BindingUse.objects.get().left == 0
    (third,) = desk.admit(desk.intent(continues=key))
    assert third.allowed
    assert data(ledger("call.authorized")[-1])["continues"] == str(first.intent.call)


def test_another_counted_binding_that_allows_it_is_used(cast: Cast, desk: Desk) -> None:
    first_binding = cast.limited(1)
    (first,) = desk.admit(desk.intent())
    key = desk.ask(first)
    second_binding = cast.limited(2)
    RoleBinding.objects.filter(pk=first_binding.pk).update(ended_at=desk.store.look()[1])
    (second,) = desk.admit(desk.intent(continues=key))
    assert second.verdict.counted == second_binding.pk
    assert BindingUse.objects.get(binding=second_binding).left == 1


def test_a_grant_is_not_used_up_while_its_last_call_may_go_on(cast: Cast, desk: Desk, clock: Clock) -> None:
    cast.limited(1)
    (first,) = desk.admit(desk.intent())
    key = desk.ask(first)
    clock.shift(60)
    assert end_used_up_grants() == 0
    (second,) = desk.admit(desk.intent(continues=key))
    assert second.allowed
    desk.end(second)
    BindingUse.objects.update(used_at=clock.now() - ANSWER_WITHIN)
    assert end_used_up_grants() == 1


def test_one_that_is_too_old_is_unknown_and_swept(desk: Desk, clock: Clock) -> None:
    (first,) = desk.admit(desk.intent("git_log"))
    old = desk.ask(first)
    clock.shift(ANSWER_WITHIN.total_seconds() - 1)
    assert forget_old_continuations() == 0
    (second,) = desk.admit(desk.intent("git_log"))
    fresh = desk.ask(second)
    clock.shift(2)
    assert codes(desk.admit(desk.intent("git_log", continues=old))) == ["continuation_unknown"]
    assert forget_old_continuations() == 1
    assert list(Continuation.objects.values_list("pk", flat=True)) == [fresh]


def test_a_call_that_was_closed_as_unknown_does_not_go_on(desk: Desk) -> None:
    (first,) = desk.admit(desk.intent("git_log"))
    OpenCall.objects.all().delete()
    desk.end(first, continuation=uuid7())
    assert told()[-1] == "call.completed_late"
    assert not Continuation.objects.exists()


def test_two_processes_redeem_one_continuation_once(cast: Cast, desk: Desk) -> None:
    cast.limited(1)
    for _ in range(8):
        BindingUse.objects.update(left=1)
        (first,) = desk.admit(desk.intent())
        key = desk.ask(first)
        other = Desk(cast)
        other.principal = desk.principal
        found = race(*(lambda one=one: codes(one.admit(one.intent(continues=key))) for one in (desk, other)))
        assert sorted(found) == [["allowed"], ["continuation_unknown"]]
    assert BindingUse.objects.get().left == 0


def test_ends_that_keep_a_use_open_go_alone_as_those_that_give_one_back(cast: Cast, desk: Desk) -> None:
    cast.limited(2)
    counted, free = desk.admit(desk.intent(), desk.intent("git_log"))
    ending = Ending(counted, Event.CALL_COMPLETED, Outcome.ALLOWED, {}, uuid7())
    assert touches_uses(ending)
    assert not touches_uses(structs.replace(ending, admitted=free))
    assert not touches_uses(structs.replace(ending, continuation=None))


def test_an_exact_call_carries_no_answers_but_what_any_arguments_may_have_does(cast: Cast, desk: Desk) -> None:
    cast.requestable.max_uses = 9
    cast.requestable.save()
    cast.grant()
    exact = {"message": "release 2.4"}
    (wide,) = desk.admit(desk.intent(given=exact, answers=True))
    assert wide.allowed
    RoleBinding.objects.filter(tools__contains=str(cast.tools["git_commit"].pk)).update(
        arguments=json.dumps({"mode": "exact", "value": exact}), max_uses=None
    )
    assert codes(desk.admit(desk.intent(given=exact, answers=True), desk.intent(given=exact))) == [
        "other_arguments", "allowed",
    ]  # fmt: skip
    RoleBinding.objects.filter(tools__contains=str(cast.tools["git_commit"].pk)).update(
        arguments=json.dumps({"mode": "exact", "value": exact, "answers": True})
    )
    assert codes(desk.admit(desk.intent(given=exact, answers=True))) == ["allowed"]
    assert codes(desk.admit(desk.intent(given={"message": "x"}, answers=True))) == ["other_arguments"]
    assert not AccessRequest.objects.filter(status="pending").exists()


def test_whoever_pauses_a_call_hears_when_it_is_on_record(
    cast: Cast, gateway: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, admission = Desk(cast), gateway.gateway.admission
    seen: list[int] = []

    async def paused() -> UUID:
        admitted, key = await admission.admit(desk.intent("git_log")), uuid7()
        await admission.pause(admitted, {"asked": True}, continuation=key)
        return key

    key = gateway.run(paused())
    seen.append(Continuation.objects.filter(pk=key).count())
    assert seen == [1]
    assert told() == ["call.authorized", "call.completed"]

    def broken(_: Any) -> Any:
        raise ValueError("no")

    monkeypatch.setattr(continuations, "keep", broken)
    monkeypatch.setattr("jitaccess.gateway.recording.admission.PAUSE_SECONDS", 0.2)
    with pytest.raises(Unavailable):
        gateway.run(paused())
    assert eventually(lambda: OpenCall.objects.count() == 1)
    connection.close()
