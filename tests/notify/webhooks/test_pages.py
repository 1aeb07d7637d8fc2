from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from jitaccess.identity.models import User
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from tests.cast import Cast
from tests.notify.webhooks.listener import Listener
from tests.notify.webhooks.play import deliver, endpoint

pytestmark = pytest.mark.pure


@pytest.fixture
def browser() -> Callable[..., Client]:
    def opened(user: User, *, csrf: bool = False) -> Client:
        client = Client(enforce_csrf_checks=csrf)
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return opened


def test_an_admin_makes_one_and_sees_its_secret_once(cast: Cast, browser, listener: Listener) -> None:
    admin = browser(cast.admin)
    assert "No webhooks" in admin.get(reverse("notify:webhooks")).content.decode()
    given = {"name": "siem", "url": listener.url, "events": "grant.*  request.*", "team": ""}
    made = admin.post(reverse("notify:webhook_new"), given)
    row = Endpoint.objects.get()
    assert row.events == "grant.* request.*"
    assert "whsec_" in made.content.decode()
    assert "no-store" in made.headers["Cache-Control"]
    for name in ("webhook", "webhook_change", "webhook_deliveries"):
        answer = admin.get(reverse(f"notify:{name}", args=[row.pk]))
        assert answer.status_code == 200
        assert "whsec_" not in answer.content.decode()
    assert "key=hidden" not in admin.get(reverse("notify:webhook", args=[row.pk])).content.decode()


def test_a_refusal_keeps_what_was_typed(cast: Cast, browser) -> None:
    given = {"name": "siem", "url": "http://169.254.169.254/", "events": "*"}
    answer = browser(cast.admin).post(reverse("notify:webhook_new"), given)
    assert answer.status_code == 403
    assert 'value="http://169.254.169.254/"' in answer.content.decode()
    assert not Endpoint.objects.exists()


def test_members_look_at_those_of_their_team_and_change_nothing(cast: Cast, browser, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url, team=cast.team)
    other, _ = endpoint(cast, listener.url, name="all")
    olga = browser(cast.olga)
    page = olga.get(reverse("notify:webhooks")).content.decode()
    assert "hook" in page
    assert str(other.pk) not in page
    assert "New webhook" not in page
    assert olga.get(reverse("notify:webhook", args=[row.pk])).status_code == 200
    assert olga.get(reverse("notify:webhook_deliveries", args=[row.pk])).status_code == 200
    assert olga.get(reverse("notify:webhook", args=[other.pk])).status_code == 404
    assert olga.get(reverse("notify:webhook_new")).status_code == 403
    before = Endpoint.objects.values().get(pk=row.pk)
    for name in ("rotate", "switch", "remove", "change", "replay"):
        given = {"since": "2026-11-22T00:00", "name": "x", "url": listener.url, "events": "*"}
        assert olga.post(reverse(f"notify:webhook_{name}", args=[row.pk]), given).status_code == 403
        assert olga.post(reverse(f"notify:webhook_{name}", args=[other.pk]), given).status_code == 404
    assert Endpoint.objects.values().get(pk=row.pk) == before


def test_who_may_change_webhooks_but_not_read_the_ledger_manages_none(cast: Cast, browser, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    cast.carl.user_permissions.add(Permission.objects.get(codename="change_endpoint"))
    assert browser(cast.carl).get(reverse("notify:webhook", args=[row.pk])).status_code == 404
    cast.carl.user_permissions.add(Permission.objects.get(codename="view_entry"))
    assert browser(cast.carl).get(reverse("notify:webhook", args=[row.pk])).status_code == 200


def test_a_get_changes_nothing_and_a_post_without_its_token_is_refused(cast: Cast, browser, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    for name in ("rotate", "switch", "remove", "replay"):
        url = reverse(f"notify:webhook_{name}", args=[row.pk])
        assert browser(cast.admin).get(url).status_code == 405
        assert browser(cast.admin, csrf=True).post(url).status_code == 403
        assert Client().post(url).status_code == 302
    assert Endpoint.objects.get() == row


def test_deliveries_are_filtered_shown_and_sent_again(cast: Cast, browser, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    listener.text = "<script>alert(1)</script>\u202e\x00"
    listener.say = [422]
    cast.submit(reason="<img src=x onerror=alert(1)>")
    deliver()
    admin, here = browser(cast.admin), reverse("notify:webhook_deliveries", args=[row.pk])
    assert "request.submitted" in admin.get(here, {"state": "waiting", "event": "request.submitted"}).content.decode()
    assert "Nothing like that" in admin.get(here, {"state": "delivered"}).content.decode()
    assert admin.get(here, {"before": "x", "event": "\0", "state": "odd"}).status_code == 200
    done = HookDelivery.objects.get()
    url = reverse("notify:webhook_delivery", args=[row.pk, done.pk])
    page = admin.get(url).content.decode()
    assert "422" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "\u202e" not in page
    replay = reverse("notify:webhook_replay", args=[row.pk])
    assert admin.post(replay, {"delivery": str(done.pk)}).status_code == 409, "it waits to be tried again"
    HookDelivery.objects.update(gave_up_at=done.created_at)
    assert admin.post(replay, {"delivery": str(done.pk)}).status_code == 302
    assert HookDelivery.objects.filter(replay=True).count() == 1
    assert admin.post(replay, {"since": "yesterday"}).status_code == 400
    assert admin.post(replay, {"delivery": "x"}).status_code == 400


def test_a_delivery_of_another_webhook_is_not_there(cast: Cast, browser, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url, team=cast.team)
    other, _ = endpoint(cast, listener.url, name="all")
    cast.submit()
    deliver()
    foreign = HookDelivery.objects.get(endpoint=other)
    assert browser(cast.olga).get(reverse("notify:webhook_delivery", args=[row.pk, foreign.pk])).status_code == 404


def test_it_is_switched_off_and_on_and_removed(cast: Cast, browser, listener: Listener) -> None:
    row, _ = endpoint(cast, listener.url)
    admin, url = browser(cast.admin), reverse("notify:webhook_switch", args=[row.pk])
    assert admin.post(url, {"to": "off"}).status_code == 302
    assert "switched off by hand" in admin.get(reverse("notify:webhook", args=[row.pk])).content.decode()
    assert admin.post(url, {"to": "off"}).status_code == 409
    assert admin.post(url, {"to": "on"}).status_code == 302
    assert admin.post(reverse("notify:webhook_remove", args=[row.pk])).url == reverse("notify:webhooks")
    assert not Endpoint.objects.exists()


def test_the_navigation_has_webhooks_for_who_manages_them(cast: Cast, browser) -> None:
    assert f'href="{reverse("notify:webhooks")}"' in browser(cast.admin).get("/").content.decode()
    assert f'href="{reverse("notify:webhooks")}"' not in browser(cast.olga).get("/").content.decode()


def test_a_long_list_costs_no_more_statements(
    cast: Cast, browser, listener: Listener, django_assert_max_num_queries
) -> None:
    row, _ = endpoint(cast, listener.url)
    from jitaccess.kernel.ids import uuid7
    from jitaccess.notify.webhooks.owed import delivery_of
    from jitaccess.store.clock import now

    HookDelivery.objects.bulk_create(delivery_of(row, uuid7(), "grant.used", now()) for _ in range(120))
    admin, here = browser(cast.admin), reverse("notify:webhook_deliveries", args=[row.pk])
    with django_assert_max_num_queries(15):
        page = admin.get(here).content.decode()
    assert page.count("grant.used") >= 50
    assert "Older" in page
