"""Every event of the ledger can be had by webhook; and a test is a message like every other."""

from __future__ import annotations

import json

import pytest
from django.db import transaction
from django.urls import reverse

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.kernel.errors import Conflict
from jitaccess.notify.webhooks import services
from jitaccess.notify.webhooks.models import HookDelivery
from jitaccess.notify.webhooks.patterns import CALLS, NOUNS, events_of, parse_patterns
from jitaccess.notify.webhooks.sending import body_of
from tests.cast import OPERATOR, Cast
from tests.notify.webhooks.listener import Listener
from tests.notify.webhooks.play import catch_up, deliver, endpoint
from tests.notify.webhooks.test_pages import browser as browser  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.pure
EVERY = {event.value for event in Event}


def test_every_event_has_a_name_a_group_and_is_in_all_but_calls() -> None:
    for event in Event:
        assert parse_patterns(event.value) == event.value
        assert events_of(event.value) == {event.value}
        noun = event.value.partition(".")[0]
        assert noun in NOUNS
        assert event.value in events_of(f"{noun}.*")
        assert (event.value in events_of("*")) == (noun != CALLS)
    assert events_of(" ".join(f"{noun}.*" for noun in NOUNS)) == events_of(f"* {CALLS}.*") == EVERY


def test_every_event_is_owed_as_a_message_of_its_own(cast: Cast) -> None:
    row, _ = endpoint(cast, "http://127.0.0.1:9/", f"* {CALLS}.*")
    HookDelivery.objects.filter(endpoint=row).delete()  # of how it was made
    with transaction.atomic():
        uids = record_many(Facts(event=event, actor=Actor(agent=cast.agent.pk), data={"a": 1}) for event in Event)
    catch_up()
    owed = dict(HookDelivery.objects.filter(endpoint=row).values_list("entry", "event"))
    assert owed == dict(zip(uids, Event, strict=True))
    for entry in Entry.objects.filter(pk__in=uids):
        message = json.loads(body_of(entry))
        assert message["type"] == entry.event
        assert message["data"]["data"] == {"a": 1}


def test_a_test_is_sent_signed_and_listed_whatever_the_endpoint_is_told_of(cast: Cast, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url, "grant.revoked")
    made = services.send_test(endpoint_id=row.pk, operator=OPERATOR)
    with pytest.raises(Conflict):
        services.send_test(endpoint_id=row.pk, operator=OPERATOR)
    assert deliver() == 1
    made.refresh_from_db()
    assert (made.event, made.error, bool(made.delivered_at)) == ("webhook.tested", "", True)
    assert json.loads(listener.heard[0][1])["type"] == "webhook.tested"
    assert Entry.objects.filter(event="webhook.tested").count() == 1


def test_a_test_of_one_that_is_told_of_tests_comes_once(cast: Cast, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url, "webhook.*")
    HookDelivery.objects.all().delete()
    services.send_test(endpoint_id=row.pk, operator=OPERATOR)
    assert deliver() == 1
    assert HookDelivery.objects.count() == 1


def test_what_is_switched_off_is_not_tested(cast: Cast, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    services.switch_endpoint(endpoint_id=row.pk, enabled=False, operator=OPERATOR)
    with pytest.raises(Conflict, match="switched off"):
        services.send_test(endpoint_id=row.pk, operator=OPERATOR)
    assert not Entry.objects.filter(event="webhook.tested").exists()


def test_the_page_sends_a_test_for_whoever_manages_them(cast: Cast, browser, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url, team=cast.team)
    url = reverse("notify:webhook_test", args=[row.pk])
    assert browser(cast.olga).post(url).status_code == 403
    assert browser(cast.admin, csrf=True).post(url).status_code == 403
    assert browser(cast.admin).get(url).status_code == 405
    assert not HookDelivery.objects.filter(event="webhook.tested").exists()
    page = browser(cast.admin).post(url, follow=True)
    assert page.status_code == 200
    assert "A test is on its way" in page.content.decode()
    assert "Send a test" in browser(cast.admin).get(reverse("notify:webhook", args=[row.pk])).content.decode()
