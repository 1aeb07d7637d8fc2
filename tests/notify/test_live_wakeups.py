"""What open pages are told by, on either database: the sequencer's wake-up, and the statements that find whom to tell."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import User
from jitaccess.runtime import news
from jitaccess.store import wakeups
from tests.cast import Cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def heard() -> Iterator[dict[str, threading.Event]]:
    """Somebody who listens on each channel, and has begun to."""
    events = {channel: threading.Event() for channel in (wakeups.LEDGER, wakeups.CHANNEL)}
    listeners = [wakeups.Wakeups(event.set, channel=channel) for channel, event in events.items()]
    for listener in listeners:
        listener.start()
    if connection.vendor == "postgresql":
        assert all(event.wait(10) for event in events.values())
    for event in events.values():
        event.clear()
    yield events
    for listener in listeners:
        listener.stop()


def test_who_waits_for_the_ledger_is_woken_once_entries_have_their_place_and_nobody_else(
    cast: Cast, heard: dict[str, threading.Event]
) -> None:
    while sequence():
        pass
    assert heard[wakeups.LEDGER].wait(10)
    for event in heard.values():
        event.clear()
    cast.submit()
    assert not heard[wakeups.LEDGER].wait(0.1)
    assert sequence()
    assert heard[wakeups.LEDGER].wait(10)
    assert not heard[wakeups.CHANNEL].is_set()
    heard[wakeups.LEDGER].clear()
    assert not sequence()
    assert not heard[wakeups.LEDGER].wait(0.1)


def _listener(person: User, topics: str) -> news.Listener:
    client = Client()
    client.force_login(User.objects.get(pk=person.pk), backend="django.contrib.auth.backends.ModelBackend")
    return news.listener_of(client.cookies[settings.SESSION_COOKIE_NAME].value, news.topics_of(topics))


def test_a_look_takes_few_statements_however_many_listen(cast: Cast, django_assert_max_num_queries: object) -> None:
    request = cast.submit()
    while sequence():
        pass
    seen = news._newest()
    pages = [_listener(person, f"inbox,activity,request:{request.pk}") for person in (cast.anna, cast.bert, cast.olga)]
    stranger = _listener(cast.carl, "inbox,activity,grants")
    cast.approve(request)
    sequence()
    # The place, what happened, whose agents; requests, their people, stand-ins, decisions; sessions and people; and for
    # each of three whether they audit.
    with django_assert_max_num_queries(18):  # type: ignore[operator]
        found = news.look(seen, [*pages, stranger], [], [])
    told = {"inbox", "activity", f"request:{request.pk}"}
    assert found.told == dict.fromkeys(pages, told)
    assert (found.upto, found.gone) == (news._newest(), frozenset())
    with django_assert_max_num_queries(1):  # type: ignore[operator]
        assert news.look(found.upto, [*pages, stranger], [], []).told == {}
    fresh = news.look(found.upto, [], [*pages, stranger], [])
    assert fresh.told == dict.fromkeys(pages, told)


def test_what_is_older_than_a_page_is_no_news_and_too_much_is_everything(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast.submit()
    while sequence():
        pass
    anna, carl = (_listener(person, "inbox,grants") for person in (cast.anna, cast.carl))
    with monkeypatch.context() as patch:
        patch.setattr(news, "FRESH", timedelta(0))
        assert news.look(0, [], [anna, carl], []).told == {}
    monkeypatch.setattr(news, "FRESH_ENTRIES", 1)
    assert news.look(0, [], [carl], []).told == {carl: {"inbox", "grants"}}
    monkeypatch.setattr(news, "MANY_REQUESTS", 0)
    assert news.look(0, [carl], [], []).told == {carl: {"inbox", "grants"}}
