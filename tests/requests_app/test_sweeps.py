"""The sweeps: what they write down, once, however many workers are at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

from jitaccess.audit.models import Entry
from jitaccess.audit.sequencer import sequence
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.services import classify_tool, import_tools
from jitaccess.identity.models import Agent, Team, User
from jitaccess.identity.services import set_agent_enabled
from jitaccess.notify.ends import owe_notices_of_ends
from jitaccess.notify.fanout import fan_out
from jitaccess.notify.models import Delivery
from jitaccess.policy.models import RoleBinding
from jitaccess.store.clock import now
from requests_app import sweeps
from requests_app.models import AccessRequest, Grant
from requests_app.obstacles import obstacle_to
from requests_app.services import Ask, submit_request
from requests_app.services.activate import activate_grant
from requests_app.services.invalidate import invalidate_request
from requests_app.services.remind import tell_about, tellings_of
from tests.cast import OPERATOR, Cast, definition
from tests.clocks import Clock
from tests.races import race
from tests.requests_app.ledger import gains

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _from_the_beginning() -> None:
    for round_ in (sweeps._REQUESTS, sweeps._TELLINGS, sweeps._GRANTS):
        round_.after = None


def remove_tools(cast: Cast, *names: str) -> None:
    """The server offers all of its tools but these."""
    kept = [definition(name) for name in cast.tools if name not in names]
    import_tools(server=cast.server, definitions=kept, operator=OPERATOR)


VOID: dict[str, Callable[[Cast], object]] = {
    "the tool is gone": lambda cast: remove_tools(cast, "git_commit"),
    "the tool has changed": lambda cast: import_tools(
        server=cast.server,
        definitions=[definition(name, description="Something else") for name in cast.tools],
        operator=OPERATOR,
    ),
    "the tool does something else": lambda cast: classify_tool(
        tool=Tool.objects.get(name="git_commit"), access=AccessClass.DESTRUCTIVE, operator=OPERATOR
    ),
    "the server is disabled": lambda cast: Server.objects.update(enabled=False),
    "the agent is disabled": lambda cast: set_agent_enabled(agent=Agent.objects.get(), enabled=False, operator=OPERATOR),
    "the user is not active": lambda cast: User.objects.filter(pk=cast.carl.pk).update(is_active=False),
}  # fmt: skip


@pytest.mark.parametrize("change", VOID.values(), ids=VOID)
def test_a_request_that_cannot_be_approved_any_more_becomes_void_once(change: Callable[[Cast], object], cast: Cast):
    cast.agent.users.add(cast.carl)
    cast.team.members.add(cast.carl)
    asked = cast.submit(principal=cast.principal(user=cast.carl))
    with gains():
        assert sweeps.invalidate_requests() == 0
    change(cast)
    with gains("request.invalidated"):
        assert sweeps.invalidate_requests() == 1
        assert sweeps.invalidate_requests() == 0
    asked.refresh_from_db()
    assert (asked.status, asked.closed_by_name) == ("invalidated", "system:workflow")
    assert asked.closing_note
    assert json.loads(Entry.objects.get(event="request.invalidated").data) == {"why": asked.closing_note}


def test_what_is_decided_or_past_its_deadline_is_left_alone(cast: Cast, clock: Clock) -> None:
    cast.grant("git_commit")
    cast.deny(cast.submit("git_add"))
    late = cast.submit("git_reset")
    clock.shift((late.pending_until - late.created_at).total_seconds() + 1)
    Server.objects.update(enabled=False)
    with gains():
        assert sweeps.invalidate_requests() == 0
    late.refresh_from_db()
    assert late.status == "pending"


def test_a_bad_row_stops_nothing_and_every_row_has_its_turn(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps._REQUESTS, "size", 2)
    bad, *others = (cast.submit(tool) for tool in ("git_commit", "git_add", "git_reset"))

    def look(request: AccessRequest) -> str:
        return obstacle_to(request) if request != bad else str(1 / 0)

    monkeypatch.setattr(sweeps, "obstacle_to", look)
    Server.objects.update(enabled=False)
    assert [sweeps.invalidate_requests() for _ in range(4)] == [1, 1, 0, 0]
    assert {AccessRequest.objects.get(pk=one.pk).status for one in others} == {"invalidated"}
    bad.refresh_from_db()
    assert bad.status == "pending"


def test_a_grant_ends_when_every_tool_of_it_is_gone(cast: Cast) -> None:
    one, two = cast.grant("git_commit"), cast.grant("git_add", "git_reset")
    remove_tools(cast, "git_commit", "git_add")
    with gains("grant.target_removed"):
        assert sweeps.end_grants_of_removed() == 1
        assert sweeps.end_grants_of_removed() == 0
    one.refresh_from_db()
    two.refresh_from_db()
    assert (one.end_reason, one.ended_by_name, two.ended_at) == ("target_removed", "system:catalog", None)
    assert RoleBinding.objects.get(origin_id=one.pk).ended_at
    Server.objects.update(enabled=False)
    assert sweeps.end_grants_of_removed() == 0
    Server.objects.all().delete()
    assert sweeps.end_grants_of_removed() == 1
    two.refresh_from_db()
    assert two.end_reason == "target_removed"


def scheduled(cast: Cast, tool: str = "git_commit") -> Grant:
    """A grant that begins 300 seconds from now."""
    ask = Ask(tools=[("git", tool)], reason="Tonight", seconds=600, starts_at=now() + timedelta(seconds=300))
    asked = submit_request(principal=cast.principal(), ask=ask, snapshot=cast.snapshot()).request
    return Grant.objects.get(request=cast.approve(asked))


def test_the_start_of_a_scheduled_grant_is_written_down_once(cast: Cast, clock: Clock) -> None:
    grant = scheduled(cast)
    with gains():
        assert sweeps.activate_grants() == 0
    clock.shift(301)
    with gains("grant.activated"):
        assert sweeps.activate_grants() == 1
        assert sweeps.activate_grants() == 0
    entry = Entry.objects.filter(event="grant.activated").latest("uid")
    assert (entry.grant, entry.request, entry.user_name) == (grant.pk, grant.request_id, "system:schedule")
    assert json.loads(entry.bindings) == [str(RoleBinding.objects.get(origin_id=grant.pk).pk)]
    grant.refresh_from_db()
    assert grant.activated_at
    assert grant.activated_at >= grant.starts_at


def test_a_grant_that_began_with_its_approval_has_its_one_entry_already(cast: Cast) -> None:
    grant = cast.grant()
    Grant.objects.filter(pk=grant.pk).update(activated_at=None)
    with gains():
        assert sweeps.activate_grants() == 0


def test_one_that_was_revoked_before_it_began_never_begins(cast: Cast, clock: Clock) -> None:
    grant = scheduled(cast)
    Grant.objects.filter(pk=grant.pk).update(ended_at=now(), end_reason="revoked")
    clock.shift(301)
    with gains():
        assert sweeps.activate_grants() == 0
        assert not activate_grant(grant_id=grant.pk)


def planned(cast: Cast, *, reminders: tuple[int, ...] = (), escalations: tuple[int, ...] = ()) -> AccessRequest:
    """A pending request that reminds after so many minutes, and escalates to the team "bosses"."""
    bosses = Team.objects.create(name="bosses")
    bosses.members.set([cast.carl, cast.bert, cast.olga])

    def groups(after: int) -> list[dict[str, Any]]:
        return [{"name": f"bosses-{after}", "people": ["team:bosses"], "quorum": 1}]

    cast.change_policy(
        reminders=[f"{after}m" for after in reminders],
        escalate=[{"after": f"{after}m", "groups": groups(after)} for after in escalations],
    )
    return cast.submit()


def test_reminders_and_escalations_come_in_their_order_once_each(cast: Cast, clock: Clock) -> None:
    asked = planned(cast, reminders=(1, 10), escalations=(5,))
    assert [one.after for one in tellings_of(asked.plan)] == [60, 300, 600]
    for shift, event in ((30, None), (31, "reminded"), (240, "escalated"), (300, "reminded"), (600, None)):
        clock.shift(shift)
        with gains(*([f"request.{event}"] if event else [])):
            sweeps.tell_about_requests()
            sweeps.tell_about_requests()
    asked.refresh_from_db()
    assert asked.told == 3


def test_what_was_missed_comes_as_one(cast: Cast, clock: Clock) -> None:
    planned(cast, reminders=(1, 3, 5), escalations=(2, 4))
    clock.shift(301)
    with gains("request.reminded", "request.escalated"):
        assert sweeps.tell_about_requests() == 1
        assert sweeps.tell_about_requests() == 0
    data = json.loads(Entry.objects.get(event="request.escalated").data)
    assert (data["after"], [group["name"] for group in data["groups"]]) == (240, ["bosses-2", "bosses-4"])


@pytest.mark.parametrize("end", ["approve", "deny", "late"])
def test_nobody_is_reminded_of_what_is_decided(end: str, cast: Cast, clock: Clock) -> None:
    asked = planned(cast, reminders=(1,))
    if end != "late":
        getattr(cast, end)(asked)
    clock.shift(61 if end != "late" else 86400)
    with gains():
        assert sweeps.tell_about_requests() == 0
        assert not tell_about(request_id=asked.pk)


def notices() -> list[tuple[str, str]]:
    while sequence() + fan_out():
        pass
    return sorted(Delivery.objects.values_list("event", "user__username"))


def test_a_reminder_goes_to_who_can_decide_and_an_escalation_to_its_group(
    cast: Cast, clock: Clock, settings: Any
) -> None:
    settings.NOTIFY_CHANNELS = ["console"]
    planned(cast, reminders=(1,), escalations=(2,))
    notices()
    Delivery.objects.all().delete()
    clock.shift(61)
    sweeps.tell_about_requests()
    assert notices() == [("request.reminded", "anna"), ("request.reminded", "bert")]
    clock.shift(60)
    sweeps.tell_about_requests()
    # Not olga: her agent asks.
    assert notices()[:2] == [("request.escalated", "bert"), ("request.escalated", "carl")]
    assert len(notices()) == 4


def test_the_end_of_a_long_grant_is_told_beforehand_once_for_each_end(cast: Cast, clock: Clock, settings: Any) -> None:
    settings.NOTIFY_CHANNELS = ["console"]
    cast.agent.users.add(cast.carl)
    cast.team.members.add(cast.carl)
    for user in (cast.carl, None):
        cast.grant(principal=cast.principal(user=user), seconds=3600)
    cast.grant("git_add", seconds=900)
    revoked = cast.grant("git_reset", seconds=3600)
    Grant.objects.filter(pk=revoked.pk).update(ended_at=now(), end_reason="revoked")
    assert owe_notices_of_ends() == 0
    clock.shift(3600 - 299)
    assert [owe_notices_of_ends() for _ in range(2)] == [2, 0]
    told = Delivery.objects.filter(event="grant.expiring").values_list("user__username", flat=True)
    assert sorted(told) == ["carl", "olga"]
    assert not Entry.objects.filter(event="grant.expiring").exists()


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_write_everything_down_once(cast: Cast, clock: Clock) -> None:
    asked = planned(cast, reminders=(1,), escalations=(2,))
    grant = scheduled(cast, "git_add")
    clock.shift(301)
    jobs: list[Callable[[], Any]] = [
        lambda: tell_about(request_id=asked.pk),
        lambda: activate_grant(grant_id=grant.pk),
    ]
    with gains("request.reminded", "request.escalated", "grant.activated"):
        assert sorted(race(*jobs * 3)) == [False] * 4 + [True] * 2
    Server.objects.update(enabled=False)
    with gains("request.invalidated"):
        assert sorted(race(*[lambda: invalidate_request(request_id=asked.pk)] * 3)) == [False, False, True]
    Server.objects.all().delete()
    with gains("grant.target_removed"):
        assert max(race(*[sweeps.end_grants_of_removed] * 3)) == 1


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
def test_a_worker_that_is_frozen_with_a_row_holds_up_nobody(cast: Cast, clock: Clock) -> None:
    asked = planned(cast, reminders=(1,))
    other = cast.submit("git_add")
    clock.shift(61)
    Server.objects.update(enabled=False)

    def sweep() -> int:
        return sweeps.tell_about_requests() + sweeps.invalidate_requests()

    with transaction.atomic():
        AccessRequest.objects.select_for_update().get(pk=asked.pk)
        assert race(sweep) == [2]  # the other one, told of and closed
    other.refresh_from_db()
    asked.refresh_from_db()
    assert (other.status, asked.status, asked.told) == ("invalidated", "pending", 0)
