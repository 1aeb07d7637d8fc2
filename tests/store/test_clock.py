from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction

from jitaccess.identity.models import Agent
from jitaccess.store.clock import JitNow, now
from jitaccess.store.leader import Leadership
from tests.cast import Cast
from tests.races import race

SECOND = timedelta(seconds=1)


@pytest.mark.django_db
def test_the_clock_is_the_present_in_utc() -> None:
    moment = now()
    assert moment.tzinfo is UTC
    assert abs(moment - datetime.now(UTC)) < SECOND


@pytest.mark.django_db(transaction=True)
def test_time_passes_inside_a_transaction() -> None:
    with transaction.atomic():
        first = now()
        assert now() > first


@pytest.mark.django_db
def test_stored_times_compare_as_times(cast: Cast) -> None:
    """On SQLite times are texts: both sides must be written alike, also without a fraction of a second."""
    whole = now().replace(microsecond=0)
    for moment, past in ((whole - SECOND, True), (whole + 5 * SECOND, False)):
        Agent.objects.update(created_at=moment)
        assert Agent.objects.filter(created_at__lte=JitNow()).exists() is past
    Agent.objects.update(created_at=JitNow())
    assert abs(Agent.objects.get().created_at - now()) < SECOND


@pytest.mark.django_db(transaction=True)
def test_one_process_leads_and_one_whose_session_is_gone_no_longer_does(postgresql: bool) -> None:
    mine = Leadership("a test")
    try:
        assert mine.held()
        assert mine.held()
        others = race(lambda: leads("a test"), lambda: leads("another task"))
        assert others == [not postgresql, True], "on SQLite there is one process"
        if postgresql:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            assert not mine.held()  # it asks, and does not only remember
            assert race(lambda: leads("a test")) == [True]
            assert mine.held()
    finally:
        mine.give_up()


def leads(task: str) -> bool:
    leadership = Leadership(task)
    try:
        return leadership.held()
    finally:
        leadership.give_up()
