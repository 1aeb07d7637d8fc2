from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from jitaccess.audit.events import Event
from jitaccess.audit.models import Cursor, Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.egress.errors import EgressRefused
from jitaccess.identity.models import Team
from jitaccess.identity.services import create_agent
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.kernel.secretbox import KeyRing, generate_key
from jitaccess.notify.fanout import fan_out
from jitaccess.notify.tasks import deliver as tell
from jitaccess.notify.webhooks import delivering, keys, sending, services
from jitaccess.notify.webhooks.delivering import PAUSES, pause, work
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.notify.webhooks.patterns import events_of
from jitaccess.store.clock import now
from jitaccess.store.sealing import ring
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock
from tests.notify.webhooks.listener import Listener, listening
from tests.notify.webhooks.play import catch_up, deliver, endpoint

HOUR, DAY = 3600, 86_400


def test_what_is_sent_is_the_entry_and_another_library_believes_its_signature(cast: Cast, listener: Listener) -> None:
    row, secret = endpoint(cast, listener.url)
    asked = cast.submit(reason="Because \u202e of you")
    assert deliver() == 1
    [(headers, body)] = listener.heard
    assert Webhook(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"0" * 32).decode()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"submitted", b"cancelled"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - HOUR)})
    message = json.loads(body)
    entry = Entry.objects.get(event="request.submitted")
    assert (message["type"], headers["webhook-id"]) == ("request.submitted", f"evt_{entry.uid.hex}")
    assert message["data"]["request"] == str(asked.pk)
    assert message["timestamp"] == message["data"]["at"]
    assert isinstance(message["data"]["data"], dict)
    done = HookDelivery.objects.get(endpoint=row)
    assert (done.status, done.attempts, done.answer) == (200, 1, "thank you")
    assert deliver() == 0
    assert len(listener.heard) == 1


def test_an_entry_is_owed_once_however_often_it_is_read(cast: Cast, listener: Listener) -> None:
    endpoint(cast, listener.url)
    cast.submit()
    catch_up()
    Cursor.objects.filter(name="webhooks").update(seq=0)  # as after a crash
    catch_up()
    assert HookDelivery.objects.count() == 1


def test_what_happened_before_it_was_made_is_not_sent(cast: Cast, listener: Listener) -> None:
    cast.submit()
    endpoint(cast, listener.url)
    assert deliver() == 0
    assert not listener.heard


@pytest.mark.parametrize(
    ("patterns", "has", "lacks"),
    [
        ("*", "grant.revoked", "call.denied"),
        ("call.*", "call.denied", "grant.revoked"),
        ("call.denied grant.*", "grant.revoked", "call.completed"),
    ],
)
def test_calls_are_told_only_where_they_are_asked_for_by_name(patterns: str, has: str, lacks: str) -> None:
    assert has in events_of(patterns)
    assert lacks not in events_of(patterns)


def test_calls_that_nobody_asked_for_are_passed_over_by_the_database(
    cast: Cast, listener: Listener, django_assert_max_num_queries
) -> None:
    endpoint(cast, listener.url)
    for _ in range(30):
        record(Facts(event=Event.CALL_DENIED, actor=Actor(agent=cast.agent.pk)))
    from jitaccess.audit.sequencer import sequence
    from jitaccess.notify.webhooks.owed import owe

    sequence()
    with django_assert_max_num_queries(12):
        assert owe(limit=5) == 30
    assert not HookDelivery.objects.exists()


def test_a_full_batch_leaves_nothing_out(cast: Cast, listener: Listener) -> None:
    from jitaccess.audit.sequencer import sequence
    from jitaccess.notify.webhooks.owed import owe

    endpoint(cast, listener.url, "*")
    for event in [Event.REQUEST_COMMENTED, Event.CALL_DENIED, Event.GRANT_USED] * 4:
        record(Facts(event=event, actor=Actor(agent=cast.agent.pk)))
    sequence()
    steps = 0
    while owe(limit=3):
        steps += 1
    assert steps > 1
    assert HookDelivery.objects.exclude(event="webhook.created").count() == 8


def test_an_endpoint_of_a_team_hears_of_its_agents_only(cast: Cast, listener: Listener) -> None:
    others = Team.objects.create(name="others")
    endpoint(cast, listener.url, "request.* agent.created", team=others)
    cast.submit()
    foreign = create_agent(name="foreign", owner=cast.olga, team=others, operator=OPERATOR)
    record(Facts(event=Event.REQUEST_COMMENTED, actor=Actor(agent=foreign.pk, agent_name="foreign")))
    catch_up()
    assert list(HookDelivery.objects.values_list("event", flat=True)) == ["request.commented"]


def test_the_pauses_grow_over_less_than_a_day_and_vary() -> None:
    for attempts, base in enumerate(PAUSES, start=1):
        assert base * 0.8 <= pause(attempts) <= base * 1.2
    assert len({pause(3) for _ in range(20)}) > 1
    assert sum(PAUSES, timedelta()) * 1.2 < timedelta(days=1)


def test_what_is_not_taken_is_sent_again_under_its_id_and_given_up_after_a_day(
    cast: Cast, listener: Listener, clock: Clock
) -> None:
    row, _ = endpoint(cast, listener.url)
    listener.always = 500
    cast.submit()
    for attempt, base in enumerate(PAUSES, start=1):
        assert deliver() == 0
        assert len(listener.heard) == attempt
        assert deliver() == 0, "it is left alone"
        assert len(listener.heard) == attempt
        clock.shift(base.total_seconds() * 1.21 + 31)
    assert deliver() == 0
    assert len(set(listener.ids)) == 1
    assert len({body for _, body in listener.heard}) == 1
    done = HookDelivery.objects.get(endpoint=row)
    assert done.gave_up_at
    assert (done.status, done.error) == (500, "It answered 500.")
    clock.shift(2 * DAY)
    deliver()
    assert len(listener.heard) == len(PAUSES) + 1
    assert Endpoint.objects.get().enabled


@pytest.mark.parametrize("status", [301, 302, 400, 404, 503])
def test_only_2xx_is_success_and_a_redirect_leads_nowhere(cast: Cast, listener: Listener, status: int) -> None:
    endpoint(cast, listener.url)
    listener.say, listener.headers = [status], {"Location": listener.url}
    cast.submit()
    assert deliver() == 0
    assert len(listener.heard) == 1
    assert HookDelivery.objects.get().open
    assert f"answered {status}" in HookDelivery.objects.get().error


def test_a_receiver_says_when_to_come_again(cast: Cast, listener: Listener, clock: Clock) -> None:
    endpoint(cast, listener.url)
    listener.say, listener.headers = [429], {"Retry-After": "900"}
    cast.submit()
    deliver()
    assert timedelta(seconds=880) < HookDelivery.objects.get().due_at - now() <= timedelta(seconds=900)
    clock.shift(600)
    deliver()
    assert len(listener.heard) == 1
    clock.shift(301)
    assert deliver() == 1


def test_410_switches_it_off_at_once_and_its_maker_is_told(cast: Cast, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    listener.always = 410
    cast.submit()
    deliver()
    row.refresh_from_db()
    assert not row.enabled
    assert "410" in row.disabled_why
    entry = Entry.objects.get(event="webhook.disabled")
    assert "hidden" not in entry.data
    catch_up()
    mail.outbox.clear()
    while fan_out():
        pass
    tell()
    [message] = [one for one in mail.outbox if "webhook" in one.subject]
    assert message.to == ["olga@example.test"]
    assert f"https://desk.example/webhooks/{row.pk}/" in message.body
    cast.submit("git_reset")
    catch_up()
    assert HookDelivery.objects.count() == 1, "nothing is owed to one that is off"


def test_what_took_nothing_for_five_days_is_switched_off_and_not_before(
    cast: Cast, listener: Listener, clock: Clock
) -> None:
    row, _ = endpoint(cast, listener.url, "request.commented")
    listener.always = 500

    def happen() -> None:
        record(Facts(event=Event.REQUEST_COMMENTED, actor=Actor(agent=cast.agent.pk)))
        deliver()
        row.refresh_from_db()

    happen()
    assert row.failing_since
    clock.shift(4 * DAY)
    happen()
    assert row.enabled
    clock.shift(DAY)
    happen()
    assert not row.enabled
    assert "nothing for 5 days" in row.disabled_why


def test_one_success_begins_the_five_days_anew(cast: Cast, listener: Listener, clock: Clock) -> None:
    row, _ = endpoint(cast, listener.url)
    listener.say = [500]
    cast.submit()
    deliver()
    clock.shift(DAY / 2)
    assert deliver() == 1
    row.refresh_from_db()
    assert row.failing_since is None
    assert row.enabled


def test_both_secrets_sign_for_a_day_after_a_rotation_and_then_the_new_one(
    cast: Cast, listener: Listener, clock: Clock
) -> None:
    row, old = endpoint(cast, listener.url)
    new = services.rotate_secret(endpoint_id=row.pk, operator=OPERATOR)
    cast.submit()
    deliver()
    headers, body = listener.heard[-1]
    assert Webhook(old).verify(body, headers)
    assert Webhook(new).verify(body, headers)
    clock.shift(DAY + 1)
    cast.submit("git_reset")
    deliver()
    headers, body = listener.heard[-1]
    assert Webhook(new).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(body, headers)
    entry = Entry.objects.get(event="webhook.secret_rotated")
    assert new not in entry.data
    assert new not in row.sealed


def test_another_host_gets_another_secret_and_the_same_host_keeps_it(cast: Cast, listener: Listener) -> None:
    row, old = endpoint(cast, listener.url)
    same = {"endpoint_id": row.pk, "name": "hook", "events": "request.*", "operator": OPERATOR}
    _, secret = services.change_endpoint(url=listener.url + "&more=1", **same)
    assert secret == ""
    with listening() as other:
        changed, secret = services.change_endpoint(url=other.url, **same)
        assert secret
        assert secret != old
        assert keys.secrets_of(changed, now()) == (secret,)
        cast.submit()
        deliver()
        headers, body = other.heard[0]
        with pytest.raises(WebhookVerificationError):
            Webhook(old).verify(body, headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/", "https://10.0.0.1/x", "http://example.com/", "https://localhost/",
        "https://LOCALHOST./x", "https://hook.localhost:8443/", "https://[::1]/", "https://2130706433/",
    ],
)  # fmt: skip
def test_an_address_that_may_not_be_reached_is_refused_when_it_is_saved(cast: Cast, settings: Any, url: str) -> None:
    settings.EGRESS_ALLOW = []
    with pytest.raises(EgressRefused) as caught:
        endpoint(cast, url)
    assert "JITACCESS_EGRESS_ALLOW" in caught.value.detail
    assert not Endpoint.objects.exists()
    assert not Entry.objects.filter(event="webhook.created").exists()


def test_an_address_that_may_not_be_reached_any_more_is_not_reached(cast: Cast, listener: Listener, settings) -> None:
    endpoint(cast, listener.url)
    settings.EGRESS_ALLOW = []
    cast.submit()
    assert deliver() == 0
    assert not listener.heard
    assert "Not allowed" in HookDelivery.objects.get().error


def test_one_message_is_sent_again_under_its_old_id(cast: Cast, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    cast.submit()
    deliver()
    first = HookDelivery.objects.get()
    services.replay(endpoint_id=row.pk, delivery_id=first.pk, operator=OPERATOR)
    with pytest.raises(Conflict):
        services.replay(endpoint_id=row.pk, delivery_id=first.pk, operator=OPERATOR)
    assert deliver() == 1
    assert len(set(listener.ids)) == 1
    assert listener.heard[0][1] == listener.heard[1][1]
    assert HookDelivery.objects.filter(replay=True).get().replay_of == first
    assert Entry.objects.filter(event="webhook.replayed").count() == 1


def test_what_was_missed_is_sent_again_what_was_taken_is_not(cast: Cast, listener: Listener, clock: Clock) -> None:
    row, _ = endpoint(cast, listener.url, "request.submitted request.commented")
    since = now()
    cast.submit()
    deliver()
    services.switch_endpoint(endpoint_id=row.pk, enabled=False, operator=OPERATOR)
    record(Facts(event=Event.REQUEST_COMMENTED, actor=Actor(agent=cast.agent.pk)))
    catch_up()
    services.switch_endpoint(endpoint_id=row.pk, enabled=True, operator=OPERATOR)
    assert deliver() == 0
    assert services.replay_since(endpoint_id=row.pk, since=since, operator=OPERATOR) == 1
    assert services.replay_since(endpoint_id=row.pk, since=since, operator=OPERATOR) == 0, "it waits already"
    assert deliver() == 1
    assert services.replay_since(endpoint_id=row.pk, since=since, operator=OPERATOR) == 0, "it was taken"
    assert len(set(listener.ids)) == 2
    with pytest.raises(Invalid):
        services.replay_since(endpoint_id=row.pk, since=since - timedelta(days=31), operator=OPERATOR)


def test_secrets_are_sealed_anew_with_the_newest_key_and_named_by_it(cast: Cast, listener: Listener) -> None:
    row, secret = endpoint(cast, listener.url)
    services.rotate_secret(endpoint_id=row.pk, operator=OPERATOR)
    [old, *_] = ring().ids
    assert keys.sealed_with(old) == ["secret of the webhook hook"]
    more = KeyRing.from_text(f"{generate_key('k9')},{_ring_text()}")
    done = keys.reseal_endpoints(more, operator=OPERATOR)
    assert (done.key, done.resealed, done.unreadable) == ("k9", 1, ())
    assert keys.sealed_with(old) == []
    assert keys.keys_in_use() == {"k9": 2}
    assert keys.reseal_endpoints(more, operator=OPERATOR).current == 1
    assert secret not in Endpoint.objects.get().sealed


def _ring_text() -> str:
    from jitaccess.store.sealing import ring_text

    return ring_text()


def test_a_second_worker_leaves_an_endpoint_alone_that_is_being_worked_on(cast: Cast, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    cast.submit()
    catch_up()
    Endpoint.objects.update(held_until=now() + timedelta(seconds=60))
    assert work(row.pk) == 0
    assert not listener.heard
    Endpoint.objects.update(held_until=now() - timedelta(seconds=1))  # it died: its lease ran out
    assert work(row.pk) == 1


def test_names_are_unique_and_words_that_mean_no_event_are_refused(cast: Cast, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    with pytest.raises(Conflict):
        endpoint(cast, listener.url)
    for wrong in ("", "nothing.*", "request.exploded", "request"):
        with pytest.raises(Invalid):
            endpoint(cast, listener.url, wrong, name="other")
    assert list(Endpoint.objects.values_list("pk", flat=True)) == [row.pk]


def test_a_message_that_cannot_be_made_stops_none_of_the_others(
    cast: Cast, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint(cast, listener.url)
    cast.submit()
    bad = cast.submit("git_reset")
    catch_up()
    real = sending.body_of

    def picky(entry: Entry) -> bytes:
        if entry.request == bad.pk:
            raise ValueError("no such number")
        return real(entry)

    monkeypatch.setattr(sending, "body_of", picky)
    assert deliver() == 1
    [left] = HookDelivery.objects.filter(delivered_at=None)
    assert "no such number" in left.error


def test_what_an_old_address_answers_is_nothing_against_the_new_one(
    cast: Cast, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, _ = endpoint(cast, listener.url)
    listener.always = 410
    cast.submit()
    real = delivering.post_all

    def moved_meanwhile(*given: Any) -> list[sending.Answer]:
        answers = real(*given)
        Endpoint.objects.update(url=listener.url + "&moved=1")
        return answers

    monkeypatch.setattr(delivering, "post_all", moved_meanwhile)
    deliver()
    row.refresh_from_db()
    assert row.enabled


@pytest.mark.django_db(transaction=True)
def test_a_slow_endpoint_holds_up_no_other_one(listener: Listener) -> None:
    from jitaccess.notify.webhooks.tasks import begin
    from tests.cast import build_cast

    cast = build_cast()
    listener.let_go.clear()
    with listening() as quick:
        slow, _ = endpoint(cast, listener.url, name="slow")
        fast, _ = endpoint(cast, quick.url, name="fast")
        cast.submit()
        catch_up()
        first, second = begin(slow.pk), begin(fast.pk)
        assert first
        assert second
        second.join(20)
        assert len(quick.heard) == 1
        assert first.is_alive()
        assert begin(slow.pk) is None, "it is being worked on"
        listener.let_go.set()
        first.join(20)
    assert not HookDelivery.objects.filter(delivered_at=None).exists()
    connection.close()
