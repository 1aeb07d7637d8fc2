from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.audit.sequencer import sequence
from jitaccess.gateway.recording.clock_guard import ClockGuard, accept_jumps, open_jumps
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.store.clock import now
from jitaccess.store.host_clock import HostClock
from jitaccess.store.models import ClockJump
from tests.clocks import Clock

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = 3600.0
OPERATOR = Actor(user_name="operator:ops@here")


class Host:
    """A machine whose clock can be set; its jit_now() is another matter, which nothing here moves."""

    def __init__(self) -> None:
        self.wall = self.steady = 1000.0

    def guard(self) -> ClockGuard:
        return ClockGuard(HostClock(lambda: self.wall, lambda: self.steady))

    def jumps(self, seconds: float) -> None:
        self.wall += seconds


@pytest.fixture
def host() -> Host:
    return Host()


def refuses(guard: ClockGuard) -> bool:
    with transaction.atomic():
        return guard.refuses()


def told() -> list[tuple[str, float, str]]:
    """What the ledger tells of clocks: event, seconds, who."""
    entries = Entry.objects.filter(event__startswith="clock.").order_by("uid")
    return [(entry.event, json.loads(entry.data)["seconds"], entry.user_name) for entry in entries]


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_jump_is_recorded_and_calls_are_refused_until_an_operator_accepts_it(
    host: Host, postgresql: bool, seconds: float
) -> None:
    guard = host.guard()
    assert not refuses(guard)
    host.jumps(seconds)
    if postgresql:
        assert not refuses(guard)
        assert told() == []
        with pytest.raises(Invalid, match="PostgreSQL"):
            accept_jumps(operator=OPERATOR)
        return
    assert refuses(guard)
    assert refuses(guard)
    assert told() == [("clock.jumped", seconds, "system:clock")]
    [jump] = open_jumps()
    assert jump.seconds == pytest.approx(seconds)
    assert accept_jumps(operator=OPERATOR) == [jump]
    assert not refuses(guard)
    assert told()[1:] == [("clock.accepted", seconds, "operator:ops@here")]
    jump.refresh_from_db()
    assert jump.accepted_by == "operator:ops@here"
    assert jump.accepted_at is not None
    with pytest.raises(Conflict, match="No jump"):
        accept_jumps(operator=OPERATOR)
    host.jumps(seconds)
    assert refuses(guard), "an acceptance is of that jump, not of the next"
    assert len(told()) == 3


def test_each_jump_is_recorded_and_all_are_accepted_at_once(host: Host, postgresql: bool) -> None:
    guard = host.guard()
    for seconds in (HOUR, -HOUR):
        host.jumps(seconds)
        assert refuses(guard) is not postgresql
    if postgresql:
        assert told() == []
        return
    assert [seconds for _, seconds, _ in told()] == [HOUR, -HOUR]
    assert len(accept_jumps(operator=OPERATOR)) == 2
    assert not refuses(guard)


def test_while_nothing_happens_the_database_is_not_asked(
    host: Host, postgresql: bool, django_assert_num_queries: Any
) -> None:
    guard = host.guard()
    refuses(guard)
    with transaction.atomic(), django_assert_num_queries(0):
        assert not guard.refuses()
    with django_assert_num_queries(0):
        guard.watch()
    if postgresql:
        with django_assert_num_queries(0):
            assert not host.guard().refuses()


def test_a_jump_is_not_forgotten_with_the_transaction_that_recorded_it(host: Host, postgresql: bool) -> None:
    guard = host.guard()
    refuses(guard)
    host.jumps(HOUR)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert guard.refuses() is not postgresql
        raise ZeroDivisionError
    assert told() == []
    for _ in range(2):
        assert refuses(guard) is not postgresql
    assert len(told()) == (0 if postgresql else 1)


def test_a_jump_is_recorded_although_nobody_calls(host: Host, postgresql: bool) -> None:
    guard = host.guard()
    guard.watch()
    assert told() == []
    host.jumps(-HOUR)
    guard.watch()
    guard.watch()
    assert told() == ([] if postgresql else [("clock.jumped", -HOUR, "system:clock")])
    assert refuses(guard) is not postgresql


def test_what_an_earlier_process_noticed_holds_for_the_next(host: Host, postgresql: bool) -> None:
    ClockJump.objects.create(noticed_at=now(), seconds=HOUR)
    guard = host.guard()
    assert refuses(guard) is not postgresql
    assert told() == [], "it is on record already"
    if not postgresql:
        accept_jumps(operator=OPERATOR)
        assert not refuses(guard)


@pytest.mark.parametrize("placed", [True, False])
def test_a_clock_that_was_set_back_while_we_were_down_is_noticed_at_the_start(
    host: Host, clock: Clock, postgresql: bool, placed: bool
) -> None:
    clock.shift(HOUR)
    entry()
    if placed:
        sequence()
    clock.shift(-HOUR + 10)
    assert refuses(host.guard()) is not postgresql
    if postgresql:
        assert told() == []
        return
    [(event, seconds, _)] = told()
    assert event == "clock.jumped"
    assert seconds == pytest.approx(10 - HOUR, abs=5)
    accept_jumps(operator=OPERATOR)
    sequence()
    assert not refuses(host.guard()), "the next process knows that it was accepted"
    clock.shift(-10)
    assert refuses(host.guard()), "set back once more, and that nobody has accepted"


def test_a_clock_that_goes_on_is_no_jump_back(host: Host, clock: Clock) -> None:
    entry()
    sequence()
    clock.shift(1)
    assert not refuses(host.guard())
    clock.shift(24 * HOUR)
    assert not refuses(host.guard())
    assert told() == []


def test_shifting_the_time_of_tests_is_no_jump_of_the_host(host: Host, clock: Clock) -> None:
    guard = ClockGuard()
    assert not refuses(guard)
    for seconds in (HOUR, -2 * HOUR):
        clock.shift(seconds)
        assert not refuses(guard)


def entry() -> None:
    with transaction.atomic():
        record(Facts(event=Event.CONFIGURATION_CHANGED, actor=Actor.system("test"), at=now()))
