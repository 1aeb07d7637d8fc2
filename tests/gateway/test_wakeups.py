"""Changes of policy arrive by a wake-up: here nobody polls, or only after an hour."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from jitaccess.gateway import core
from jitaccess.identity.models import User
from jitaccess.store import wakeups
from requests_app.services import revoke_grant
from tests.cast import Cast
from tests.gateway.harness import META, Served, eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever polls waits for an hour."""
    monkeypatch.setattr(core, "POLL_SECONDS", 3600.0)


@pytest.fixture
def woken() -> Callable[[], None]:
    """Listens as a gateway does; call it to wait for a wake-up after the last one waited for."""
    event = threading.Event()
    listener = wakeups.Wakeups(event.set)
    listener.start()

    def wait() -> None:
        assert event.wait(10)
        event.clear()

    if connection.vendor == "postgresql":
        wait()  # it listens
    wait.event = event  # type: ignore[attr-defined]
    yield wait  # type: ignore[misc]
    listener.stop()


def _listeners() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'")
        return [row[0] for row in cursor.fetchall()]


def test_streams_of_every_gateway_hear_of_an_approval_and_a_revoke_though_nobody_polls(
    cast: Cast, seldom: None, start: Callable[..., Served], postgresql: bool
) -> None:
    gateways = [start(), start()]
    if postgresql:
        eventually(lambda: len(_listeners()) == 2, what="two that listen")
    with gateways[0].client(cast) as one, gateways[1].client(cast) as two:
        with one.listen() as first, two.listen() as second:
            eventually(lambda: all(len(served.gateway.streams._open) == 1 for served in gateways))
            grant = cast.grant()
            first.changed()
            second.changed()
            revoke_grant(grant_id=grant.pk, user=cast.anna)
            first.changed()
            second.changed()


def test_it_comes_with_the_commit_and_not_before_nor_without(cast: Cast, woken: Callable[[], None]) -> None:
    event: threading.Event = woken.event  # type: ignore[attr-defined]
    with transaction.atomic():
        User.objects.filter(pk=cast.carl.pk).update(is_active=False)
        assert not event.wait(0.1)
    woken()
    cast.submit()  # a request changes nobody's rights
    assert not event.wait(0.1)


def test_whoever_waits_for_a_decision_is_woken_by_it_and_sees_progress_meanwhile(
    cast: Cast, seldom: None, start: Callable[..., Served], postgresql: bool
) -> None:
    served = start()
    if postgresql:
        eventually(lambda: len(_listeners()) == 1, what="one that listens")
    request = cast.submit()
    with served.client(cast) as client:
        asked = client.message(
            "tools/call",
            {
                "name": "check_request",
                "arguments": {"request_id": str(request.pk), "wait_seconds": 25},
                "_meta": META | {"progressToken": "p"},
            },
        )
        answers: list[Any] = []
        waiting = threading.Thread(target=lambda: answers.append(client.post(asked)))
        waiting.start()
        eventually(lambda: served.gateway.waits.requests())
        began = time.monotonic()
        cast.deny(request)
        waiting.join(10)
        assert time.monotonic() - began < 5
    events = [json.loads(line[6:]) for line in answers[0].text.splitlines() if line.startswith("data: ")]
    assert events[0]["method"] == "notifications/progress"
    assert events[0]["params"]["progressToken"] == "p"
    assert events[0]["params"]["total"] == 25
    assert events[-1]["result"]["structuredContent"]["status"] == "denied"
    assert not served.gateway.waits.requests()


@pytest.mark.postgresql_only
def test_who_lost_its_connection_hears_of_what_happened_meanwhile(cast: Cast, woken: Callable[[], None]) -> None:
    for _ in range(2):
        (pid,) = eventually(_listeners, what="somebody who listens")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
        User.objects.filter(pk=cast.carl.pk).update(is_active=False)
        woken()
        eventually(lambda pid=pid: _listeners() not in ([], [pid]), what="somebody who listens again")


@pytest.mark.postgresql_only
def test_streams_hear_of_an_approval_though_nobody_polls_and_the_connection_was_lost(
    cast: Cast, seldom: None, start: Callable[..., Served]
) -> None:
    served = start()
    with served.client(cast) as client, client.listen() as stream:
        eventually(lambda: len(served.gateway.streams._open) == 1)
        (pid,) = eventually(_listeners)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
        cast.grant()
        stream.changed()
